"""Tokens per second of the inference engine, one request at a time and 8 at once, beside llama_cpp's own ways.

All on the default model, greedy, with the same prompts and as many tokens for each; an answer that ends early counts
with what it has. Ours is measured at the engine's socket, through the host's client. The peers are llama_cpp's `Llama`
class in this process, one request after another, and `llama_cpp.server` in a process of its own, which 8 clients
ask at once. Each figure is the best of its rounds, and rounds of all take turns, so that a passing load hits all.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx

from provider.backend import Done, GenerationRequest, Prompt
from provider.engine.bare import BareHost
from provider.engine.client import EngineClient, EngineSettings
from scripts.bench import Report
from scripts.default_model import default_model

THREADS = 2
PARALLEL = 8
CONTEXT = 512
TOKENS = 200
ROUNDS = 3
START_S = 60.0
SUBJECTS = ("a river", "a mountain", "bread", "the sea", "a robot", "rust", "music", "tea")
QUESTIONS = [f"Tell me a long story about {subject}." for subject in SUBJECTS]
GOAL = 1.5


def run() -> Report:
    """Measure in the same minutes, so that all see the same machine."""
    load_before = os.getloadavg()[0]
    rates, first_ms = asyncio.run(_measure(default_model()))
    best = {name: max(values) for name, values in rates.items()}
    ratio = best["parallel8"] / best["sequential"]
    figures: dict[str, float | bool] = {f"{name}_tokens_per_s": round(rate, 1) for name, rate in best.items()}
    figures |= {
        "ttft_ms_p50": round(statistics.median(first_ms), 1),
        "parallel8_over_sequential": round(ratio, 2),
        "parallel8_over_sequential_goal_met": ratio >= GOAL,
        "sequential_over_llama_class": round(best["sequential"] / best["llama_class"], 2),
        "parallel8_over_server_parallel8": round(best["parallel8"] / best["server_parallel8"], 2),
        "load_before": round(load_before, 2),
    }
    names = {
        "sequential": "engine, one after another",
        "parallel8": "engine, 8 at once",
        "llama_class": "Llama class, one after another",
        "server_parallel8": "llama_cpp.server, 8 clients",
    }
    return Report(
        columns=("", "tokens per second", "against one after another"),
        rows=[(title, best[name], f"{best[name] / best['sequential']:.2f} ×") for name, title in names.items()],
        figures=figures,
        notes=[
            f"{THREADS} threads, {TOKENS} tokens for each of {PARALLEL} prompts, best of {ROUNDS} rounds",
            f"first token after {figures['ttft_ms_p50']} ms at the median, one request at a time",
            f"goal: 8 at once ≥ {GOAL} × one after another; load of the machine before: {load_before:.2f}",
        ],
    )


async def _measure(model: Path) -> tuple[dict[str, list[float]], list[float]]:
    rates: dict[str, list[float]] = {
        name: [] for name in ("sequential", "parallel8", "llama_class", "server_parallel8")
    }
    first_ms: list[float] = []
    async with _engine(model) as engine, httpx.AsyncClient(timeout=600) as http:
        peer = _llama(model)
        with _server(model) as url:
            for number in range(ROUNDS + 1):
                sequential = await _sequential(engine, first_ms)
                parallel = await _parallel(lambda question: _ask_engine(engine, question))
                llama = await asyncio.to_thread(_ask_llama, peer)
                server = await _parallel(lambda question: _ask_server(http, url, question))
                if number == 0:  # warms caches up
                    first_ms.clear()
                    continue
                for name, rate in zip(rates, (sequential, parallel, llama, server), strict=True):
                    rates[name].append(rate)
    return rates, first_ms


async def _sequential(engine: EngineClient, first_ms: list[float]) -> float:
    started, count = time.perf_counter(), 0
    for question in QUESTIONS:
        asked = time.perf_counter()
        request = GenerationRequest(Prompt(_messages(question)), TOKENS, temperature=0.0)
        is_first = True
        async for event in await engine.generate(request):
            if is_first:
                first_ms.append((time.perf_counter() - asked) * 1000)
                is_first = False
            count += not isinstance(event, Done)
    return count / (time.perf_counter() - started)


async def _parallel(ask: Any) -> float:
    started = time.perf_counter()
    counts = await asyncio.gather(*[ask(question) for question in QUESTIONS])
    return float(sum(counts)) / (time.perf_counter() - started)


async def _ask_engine(engine: EngineClient, question: str) -> int:
    request = GenerationRequest(Prompt(_messages(question)), TOKENS, temperature=0.0)
    events = [event async for event in await engine.generate(request)]
    return len(events) - 1


def _ask_llama(llama: Any) -> float:
    started, count = time.perf_counter(), 0
    for question in QUESTIONS:
        stream = llama.create_chat_completion(_messages(question), max_tokens=TOKENS, temperature=0.0, stream=True)
        count += sum("content" in chunk["choices"][0]["delta"] for chunk in stream)
    return count / (time.perf_counter() - started)


async def _ask_server(http: httpx.AsyncClient, url: str, question: str) -> int:
    """The server cuts a stream when another client comes, so it answers in one piece, and says how many tokens."""
    body = {"messages": _messages(question), "max_tokens": TOKENS, "temperature": 0.0}
    answer = await http.post(f"{url}/v1/chat/completions", json=body)
    answer.raise_for_status()
    return int(answer.json()["usage"]["completion_tokens"])


def _messages(question: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": question}]


@asynccontextmanager
async def _engine(model: Path) -> AsyncIterator[EngineClient]:
    engine = EngineClient(EngineSettings(model, threads=THREADS, parallel=PARALLEL, context=CONTEXT), BareHost())
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()


def _llama(model: Path) -> Any:
    import llama_cpp

    return llama_cpp.Llama(
        str(model), n_ctx=CONTEXT, n_threads=THREADS, n_threads_batch=THREADS, n_batch=512, verbose=False
    )


@contextmanager
def _server(model: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {"model": model, "host": "127.0.0.1", "port": port, "n_ctx": CONTEXT, "n_threads": THREADS}
    options |= {"n_threads_batch": THREADS, "interrupt_requests": False, "verbose": False}
    command = [f"--{name}={value}" for name, value in options.items()]
    process = subprocess.Popen(
        [sys.executable, "-m", "llama_cpp.server", *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + START_S
        while not _answers(f"{url}/v1/models"):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("llama_cpp.server does not start")
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait(10)


def _answers(url: str) -> bool:
    try:
        return bool(json.loads(httpx.get(url, timeout=5).text))
    except (httpx.HTTPError, json.JSONDecodeError):
        return False
