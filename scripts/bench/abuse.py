"""Forged vouchers refused per second while good ones are served, against the same flood without the guard.

A whole provider runs in this process, the flood comes from another one over 8 kept connections; both share the machine.
A good request is a voucher on an established lease, 20 a second, from the address that the flood comes from.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import httpx
import uvloop

from provider.guard import GuardLimits
from scripts.bench import Report
from tests.support.provider_stack import provider_stack
from tests.support.raw_gateway import RawGateway, sign

FLOOD_S = 6.0
GOOD = 80
GOOD_EVERY_S = 0.05


async def _good(gateway: RawGateway, lease_id: bytes) -> float:
    """The median latency in ms of vouchers that must all be taken."""
    times = []
    for _ in range(GOOD):
        started = time.perf_counter()
        response = await gateway.pay(sign(lease_id, 10))
        times.append(time.perf_counter() - started)
        if response.status_code != httpx.codes.NO_CONTENT:
            raise AssertionError(f"a good voucher got the status {response.status_code}")
        await asyncio.sleep(GOOD_EVERY_S)
    return statistics.median(times) * 1000


async def _measure(folder: Path, guard: GuardLimits | None) -> tuple[float, float, float]:
    """Refused a second, and the median of good requests alone and flooded."""
    async with provider_stack(folder, guard=guard) as stack:
        lease = stack.add_lease()
        async with RawGateway(stack.url) as gateway:
            alone = await _good(gateway, lease.lease_id)
            port = str(httpx.URL(stack.url).port)
            command = (sys.executable, "-m", "scripts.bench._flood", port, str(FLOOD_S))
            flood = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
            await asyncio.sleep(1.0)
            flooded = await _good(gateway, lease.lease_id)
            output, _ = await flood.communicate()
    if flood.returncode:
        raise AssertionError("the flood failed")
    result = json.loads(output)
    return result["refused"] / result["seconds"], alone, flooded


def run() -> Report:
    """Measure; raises if a good request is refused or a forged one is not."""
    with tempfile.TemporaryDirectory() as folder, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        guarded = runner.run(_measure(Path(folder, "guarded"), GuardLimits()))
        bare = runner.run(_measure(Path(folder, "bare"), None))
    return Report(
        columns=("", "refused per second", "good p50 ms alone", "good p50 ms flooded"),
        rows=[("with the guard", round(guarded[0]), *guarded[1:]), ("without", round(bare[0]), *bare[1:])],
        figures={
            "rejected_per_s": round(guarded[0]),
            "good_p50_ms_alone": round(guarded[1], 2),
            "good_p50_ms_flooded": round(guarded[2], 2),
            "unguarded_rejected_per_s": round(bare[0]),
            "unguarded_good_p50_ms_flooded": round(bare[2], 2),
            "ratio_to_unguarded": round(guarded[0] / bare[0], 2),
        },
        notes=[f"{FLOOD_S:.0f} s of flood, {GOOD} good requests in each state"],
    )
