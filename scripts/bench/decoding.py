"""Events decoded per second on one core: every event of the escrow, against web3's `process_log` of the same logs.

The logs are what the ABI makes of example values. Figures are CPU time of this process, each the median of its rounds;
the slowest event is the one to watch.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from hexbytes import HexBytes
from web3 import Web3
from web3.providers.base import BaseProvider

from protocol.address import to_address
from protocol.chain.abi import CODEC, abi_type, load_abi, topic
from protocol.chain.events import EventDecoder
from protocol.chain.views import RawLog
from scripts.bench import Report

ROUNDS = 5
LOGS = 500
ADDRESS = to_address("0x" + "44" * 20)


def _example(parameter: dict[str, Any]) -> bytes:
    """The words of a value of this type that has one word."""
    kind = abi_type(parameter)
    values: dict[str, Any] = {"address": ADDRESS, "bool": True, "bytes32": b"\x07" * 32}
    return CODEC.encode([kind], [values.get(kind, 1)])


def _log(entry: dict[str, Any]) -> RawLog:
    inputs = entry["inputs"]
    topics = (topic(entry), *(_example(each) for each in inputs if each["indexed"]))
    data = b"".join(_example(each) for each in inputs if not each["indexed"])
    return RawLog(ADDRESS, topics, data, 5, b"\x02" * 32, b"\x03" * 32, 1, 4)


def _rate(work: Callable[[Any], Any], log: Any) -> float:
    rates = []
    for _ in range(ROUNDS):
        started = time.process_time()
        for _ in range(LOGS):
            work(log)
        rates.append(LOGS / (time.process_time() - started))
    return statistics.median(rates)


def run() -> Report:
    """Measure; raises if web3 reads other values from a log than we do."""
    abi = load_abi("LeaseEscrow")
    decoder = EventDecoder({ADDRESS: abi})
    contract = Web3(BaseProvider()).eth.contract(abi=abi.entries)
    rates: dict[str, tuple[float, float]] = {}
    for entry in abi.events:
        log = _log(entry)
        process = contract.events[entry["name"]]().process_log
        as_web3 = {
            **log.as_json(),
            "topics": [HexBytes(each) for each in log.topics],
            "data": HexBytes(log.data),
            "logIndex": log.log_index,
        }
        event = decoder.decode(log)
        if event is None or dict(process(as_web3)["args"]) != dict(event.args):
            raise AssertionError(f"web3 reads other values from {entry['name']}")
        rates[entry["name"]] = (_rate(decoder.decode, log), _rate(process, as_web3))
    slowest = min(rates, key=lambda name: rates[name][0])
    mean = statistics.harmonic_mean([ours for ours, _ in rates.values()])
    peer = statistics.harmonic_mean([theirs for _, theirs in rates.values()])
    return Report(
        columns=("", "per second", "µs each", "process_log per second", "against process_log"),
        rows=[
            (name, round(ours), 1e6 / ours, round(theirs), f"{ours / theirs:.1f} ×")
            for name, (ours, theirs) in [*rates.items(), ("one of each", (mean, peer))]
        ],
        figures={
            "events_per_s": round(mean),
            "slowest_event_per_s": round(rates[slowest][0]),
            "slowest_event": slowest,
            "process_log_events_per_s": round(peer),
        },
        notes=[f"{ROUNDS} rounds, {LOGS} logs each, CPU time of one thread"],
    )
