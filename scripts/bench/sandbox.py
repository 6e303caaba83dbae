"""What the sandbox costs an engine: the same work in a bare process, under runc and under gVisor.

All on the default model, greedy, with the same prompts and as many tokens for each, one request at a time, and 8 at
once. Every engine is measured at its socket, through the host's client. One runs at a time, after 8 answers that count
for nothing; rounds of all take turns, so that a passing load hits all. A start is from the asking until the engine is
ready, its model loaded. A warm job is a program handed to a container that was started ahead, from the asking until its
results are there.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from provider.backend import Done, GenerationRequest, Prompt
from provider.engine.bare import BareHost
from provider.engine.client import EngineClient, EngineSettings
from provider.engine.host import EngineHost
from provider.sandbox.engines import ContainerHost
from provider.sandbox.image.contents import ENGINE
from provider.sandbox.image.known import current
from provider.sandbox.paths import SandboxPaths
from provider.sandbox.placing import open_place
from provider.sandbox.probe import first_passing, try_tiers
from provider.sandbox.running import Program, RunLimits
from provider.sandbox.running import run as execute
from provider.sandbox.temporary import temporary_paths
from provider.sandbox.tiers import Tier
from provider.sandbox.warm import WarmPool
from scripts.bench import Report
from scripts.default_model import default_model

THREADS, PARALLEL, CONTEXT, TOKENS = 2, 8, 512, 96
ROUNDS, JOBS = 3, 7
SETTLE_S = 1.0
BARE = "bare"
QUESTIONS = [f"Tell me a long story about {subject}." for subject in ("a river", "bread", "the sea", "rust")]
JOB = b"""
from pathlib import Path
Path("/work/out").mkdir(exist_ok=True)
Path("/work/out/sum").write_text(str(sum(range(10**5))))
"""
FULL_S = 60.0
GOALS = {"tokens_per_s_ratio": 0.95, "ttft_extra_ms": 5.0, "engine_start_extra_s": 1.5, "job_warm_start_s": 1.5}


def run() -> Report:
    """Measure on tiers that pass their probe; the figures are those of the strongest."""
    load_before = os.getloadavg()[0]
    with temporary_paths(print) as paths:
        results = list(try_tiers(paths))
        if (best := first_passing(results)) is None:
            raise RuntimeError("no sandbox works here: " + "; ".join(result.reason for result in results))
        found = asyncio.run(_measure(paths, [result.tier for result in results if result.passed]))
        job_s = _warm_job(paths)
    bare = found[BARE]
    ratios = {
        name: (each.rate / bare.rate, each.parallel_rate / bare.parallel_rate, each.ttft_ms - bare.ttft_ms)
        for name, each in found.items()
    }
    ratio, parallel, ttft = ratios[best.tier]
    figures: dict[str, float | str | bool] = {
        "tier": best.tier.value,
        "tokens_per_s_ratio": round(ratio, 3),
        "parallel8_tokens_per_s_ratio": round(parallel, 3),
        "ttft_extra_ms": round(ttft, 2),
        "engine_start_extra_s": round(found[best.tier].start_s - bare.start_s, 2),
        "job_warm_start_s": round(job_s, 2),
    }
    figures["goals_met"] = (
        ratio >= GOALS["tokens_per_s_ratio"]
        and ttft <= GOALS["ttft_extra_ms"]
        and found[best.tier].start_s - bare.start_s <= GOALS["engine_start_extra_s"]
        and job_s <= GOALS["job_warm_start_s"]
    )
    figures["load_before"] = round(load_before, 2)
    return Report(
        columns=("", "tokens/s", "× bare", "tokens/s, 8 at once", "× bare", "first token, ms", "start, s"),
        rows=[
            (name, each.rate, ratios[name][0], each.parallel_rate, ratios[name][1], each.ttft_ms, each.start_s)
            for name, each in found.items()
        ],
        figures=figures,
        notes=[
            f"{THREADS} threads, {TOKENS} tokens a prompt; rates are the best of {ROUNDS} rounds, the rest medians",
            f"load of the machine before: {load_before:.2f}",
        ],
    )


def _warm_job(paths: SandboxPaths) -> float:
    """Seconds from the asking until the results of a small program are there, at the median."""
    limits, seconds = RunLimits(), []
    with open_place(paths) as place, WarmPool(place, limits, 1) as pool, tempfile.TemporaryDirectory() as folder:
        for number in range(JOBS):
            if not pool.wait_until_full(FULL_S):
                raise RuntimeError("no container waits")
            into = Path(folder) / str(number)
            began = time.perf_counter()
            outcome = execute(place, Program(["main.py"], {"main.py": JOB}), into, limits, pool=pool)
            seconds.append(time.perf_counter() - began)
            if not outcome.succeeded or (into / "sum").read_text() != str(sum(range(10**5))):
                raise RuntimeError(f"the job failed: {outcome.why}")
    return statistics.median(seconds)


class _Figures:
    """Of one way to run the engine."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.parallel_rates: list[float] = []
        self.first_ms: list[float] = []
        self.starts_s: list[float] = []

    @property
    def rate(self) -> float:
        """Tokens per second, one request at a time."""
        return max(self.rates)

    @property
    def parallel_rate(self) -> float:
        """Tokens per second, 8 at once."""
        return max(self.parallel_rates)

    @property
    def ttft_ms(self) -> float:
        """Until the first token, at the median."""
        return statistics.median(self.first_ms)

    @property
    def start_s(self) -> float:
        """Of an engine, at the median."""
        return statistics.median(self.starts_s)


async def _measure(paths: SandboxPaths, tiers: list[Tier]) -> dict[str, _Figures]:
    image = current(paths, ENGINE)
    hosts: dict[str, EngineHost] = {BARE: BareHost()}
    hosts |= {tier: ContainerHost(paths, tier, image) for tier in tiers}
    found = {name: _Figures() for name in hosts}
    model = default_model()
    for _ in range(ROUNDS):
        for name, host in hosts.items():
            async with _engine(model, host, found[name].starts_s) as engine:
                await _parallel(engine, _Figures())
                await _sequential(engine, found[name])
                await _parallel(engine, found[name])
            await asyncio.sleep(SETTLE_S)
    return found


@asynccontextmanager
async def _engine(model: Path, host: EngineHost, starts_s: list[float]) -> AsyncIterator[EngineClient]:
    engine = EngineClient(EngineSettings(model, threads=THREADS, parallel=PARALLEL, context=CONTEXT), host)
    began = time.perf_counter()
    await engine.start()
    starts_s.append(time.perf_counter() - began)
    try:
        yield engine
    finally:
        await engine.stop()


async def _sequential(engine: EngineClient, figures: _Figures) -> None:
    began, count = time.perf_counter(), 0
    for question in QUESTIONS:
        count += await _ask(engine, question, figures.first_ms)
    figures.rates.append(count / (time.perf_counter() - began))


async def _parallel(engine: EngineClient, figures: _Figures) -> None:
    began = time.perf_counter()
    counts = await asyncio.gather(*[_ask(engine, QUESTIONS[n % len(QUESTIONS)], []) for n in range(PARALLEL)])
    figures.parallel_rates.append(sum(counts) / (time.perf_counter() - began))


async def _ask(engine: EngineClient, question: str, first_ms: list[float]) -> int:
    """How many tokens came."""
    asked, count = time.perf_counter(), 0
    request = GenerationRequest(Prompt([{"role": "user", "content": question}]), TOKENS, temperature=0.0)
    async for event in await engine.generate(request):
        if not count:
            first_ms.append((time.perf_counter() - asked) * 1000)
        count += not isinstance(event, Done)
    return count
