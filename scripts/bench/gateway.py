"""What the gateway adds to a provider's answer, beside LiteLLM's proxy in front of the same provider.

A mock provider answers after 50 ms with signed receipts; anvil, the contracts, the lease and the gateway are real.
Every request is authorised by a voucher, its receipt is verified, and both are on disk: at the end the gateway's
records are held against what was asked, to the last unit. The mock, the gateway, LiteLLM and the clients share this
machine's cores; all are asked in turns, for whole answers of 16 tokens, which the mock sends at once. Streams are of
100 tokens, each sent by itself and without pause.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from consumer.records import RequestState
from consumer.store import Store
from protocol import money
from scripts.bench import Report
from scripts.bench._gateway_stage import MESSAGES, Server, gateway, litellm, stage
from tests.consumer.spending.stall import Stall
from tests.support.anvil import ROOT

TEXT, STREAMED = "hello from a sea", "the sea is " + "wide and deep, " * 5 + "and very blue."
STREAMS = 40
DELAY_S = 0.05
ROUNDS = 3
WARM = 40
GOALS = {"overhead_ms_p50_c1": 3.0, "overhead_ms_p50_c8": 10.0, "per_token_ms": 0.3}
LEAST_PER_S = 400.0


def load(server: Server, folder: Path, *, connections: int, requests: int, is_stream: bool = False) -> dict[str, float]:
    """One run of the clients' process."""
    body: dict[str, Any] = {"model": server.model, "messages": MESSAGES, "max_tokens": 256, "temperature": 0}
    job = {
        "url": server.url,
        "path": server.path,
        "key": server.key,
        "body": {**body, "stream": True} if is_stream else body,
        "connections": connections,
        "requests": requests,
        "expected": "[DONE]" if is_stream else TEXT,
    }
    path = folder / "job.json"
    path.write_text(json.dumps(job))
    command = [sys.executable, "-m", "scripts.bench._load", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(f"the clients failed against {server.url}: {done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout)
    return found


def check_records(folder: Path, stall: Stall, asked: int) -> None:
    """Every request ended with a final receipt, and the highest voucher pays all of them exactly."""
    store = Store(folder / "data" / "consumer.sqlite", stall.market.domain)
    try:
        (record,) = store.leases()
        states = {each.seq: store.state(record.lease_id, each.seq) for each in store.spending()}
        receipts = [store.final_receipt(record.lease_id, seq) for seq in states]
        highest = store.highest_voucher(record.lease_id)
        assert highest is not None
        costs = [money.receipt_cost(record.terms, receipt.message) for receipt in receipts if receipt is not None]
        others = [f"{seq} is {state}" for seq, state in states.items() if state is not RequestState.SETTLED]
        if len(costs) != asked or highest.message.cumulative != sum(costs) or others:
            raise AssertionError(
                f"of {asked} requests {len(costs)} are settled on disk at {sum(costs)}, signed for is "
                f"{highest.message.cumulative}; {', '.join(others) or 'no others'}"
            )
    finally:
        store.close()


def run() -> Report:
    """Measure; raises if an answer is wrong or a record is missing."""
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        figures, asked = _whole(Path(name) / "whole")
        figures["per_token_ms"], streamed = _per_token(Path(name) / "stream")
    met = all(figures[key] <= most for key, most in GOALS.items()) and figures["requests_per_s"] >= LEAST_PER_S
    rounded: dict[str, float | bool] = {key: round(value, 3) for key, value in figures.items()}
    rounded |= {
        "litellm_over_gateway_ms_c1": round(figures["litellm_ms_p50_c1"] / figures["overhead_ms_p50_c1"], 2),
        "litellm_over_gateway_ms_c8": round(figures["litellm_ms_p50_c8"] / figures["overhead_ms_p50_c8"], 2),
        "gateway_over_litellm_per_s": round(figures["requests_per_s"] / figures["litellm_requests_per_s"], 2),
        "goals_met": met,
        "load_before": round(load_before, 2),
    }
    return Report(
        columns=("", "added at 1, ms", "added at 8, ms", "requests per second"),
        rows=[
            ("gateway", figures["overhead_ms_p50_c1"], figures["overhead_ms_p50_c8"], figures["requests_per_s"]),
            ("LiteLLM", figures["litellm_ms_p50_c1"], figures["litellm_ms_p50_c8"], figures["litellm_requests_per_s"]),
        ],
        figures=rounded,
        notes=[
            f"medians of {ROUNDS} rounds; all {asked + streamed} requests are on disk, receipted and paid to the unit",
            f"a streamed token takes {figures['per_token_ms']:.3f} ms more through the gateway",
            f"goals: ≤ 3 ms, ≤ 10 ms, ≥ {LEAST_PER_S:.0f}/s, ≤ 0.3 ms a token; load before: {load_before:.2f}",
        ],
    )


def _whole(folder: Path) -> tuple[dict[str, float], int]:
    folder.mkdir()
    asked = 0
    with ExitStack() as stack:
        stall, mock = stage(folder, stack, TEXT, delay_s=DELAY_S)
        ours = stack.enter_context(ExitStack())
        servers = {
            "mock": mock,
            "gateway": ours.enter_context(gateway(folder / "gateway", stall, mock)),
            "litellm": stack.enter_context(litellm(folder, mock)),
        }
        plans = {"c1": (1, 60), "c8": (8, 240), "per_s": (64, 1500)}
        found: dict[tuple[str, str], list[float]] = {}
        for name, server in servers.items():
            load(server, folder, connections=4, requests=WARM)
            asked += WARM if name == "gateway" else 0
        for _ in range(ROUNDS):
            for plan, (connections, requests) in plans.items():
                for name, server in servers.items():
                    count = requests // 5 if name == "litellm" and plan != "c1" else requests
                    figure = load(server, folder, connections=connections, requests=count)
                    found.setdefault((name, plan), []).append(figure["per_s" if plan == "per_s" else "p50_ms"])
                    asked += count if name == "gateway" else 0
        ours.close()
        check_records(folder / "gateway", stall, asked)
    median = {key: statistics.median(values) for key, values in found.items()}
    return {
        "overhead_ms_p50_c1": median["gateway", "c1"] - median["mock", "c1"],
        "overhead_ms_p50_c8": median["gateway", "c8"] - median["mock", "c8"],
        "litellm_ms_p50_c1": median["litellm", "c1"] - median["mock", "c1"],
        "litellm_ms_p50_c8": median["litellm", "c8"] - median["mock", "c8"],
        "requests_per_s": median["gateway", "per_s"],
        "litellm_requests_per_s": median["litellm", "per_s"],
        "mock_requests_per_s": median["mock", "per_s"],
    }, asked


def _per_token(folder: Path) -> tuple[float, int]:
    folder.mkdir()
    asked = 0
    with ExitStack() as stack:
        stall, mock = stage(folder, stack, STREAMED, is_trickling=True)
        ours = stack.enter_context(ExitStack())
        server = ours.enter_context(gateway(folder / "gateway", stall, mock))
        added = []
        for _ in range(ROUNDS + 1):
            through = load(server, folder, connections=1, requests=STREAMS, is_stream=True)["p50_ms"]
            direct = load(mock, folder, connections=1, requests=STREAMS, is_stream=True)["p50_ms"]
            added.append((through - direct) / len(STREAMED))
            asked += STREAMS
        ours.close()
        check_records(folder / "gateway", stall, asked)
    return statistics.median(added[1:]), asked  # the first round warms up
