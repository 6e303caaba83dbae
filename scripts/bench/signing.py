"""Vouchers verified per second on one core, against eth-account's recover of the same typed data in the same run.

Both sides start from the message as a service has it (decoded fields and 65 signature bytes) and end with the signer's
address compared. Rounds of both alternate; figures are CPU time of this process, each the median of its rounds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

from eth_account import Account
from eth_account.messages import encode_typed_data

from protocol.headers import encode_signed, parse_voucher
from protocol.signing import Signature, Signer, verify
from protocol.typed_data import Domain, Voucher, typed_data
from scripts.bench import Report

ROUNDS = 7
VOUCHERS = 2_000
PEER_VOUCHERS = 100
DOMAIN = Domain(31337, "0x5FbDB2315678afecb367f032d93F642f64180aa3")

Wire = tuple[bytes, int, bytes, bytes]


def _vouchers(signer: Signer, count: int) -> list[Wire]:
    """Distinct vouchers as fields and signature bytes."""
    wires = []
    for number in range(count):
        voucher = Voucher(number.to_bytes(32, "big"), 1_000_000 + number, bytes(32))
        signature = signer.sign(DOMAIN, voucher).to_bytes()
        wires.append((voucher.lease_id, voucher.cumulative, voucher.context, signature))
    return wires


def _verify(wires: Sequence[Wire], address: str) -> None:
    for lease_id, cumulative, context, signature in wires:
        verify(DOMAIN, Voucher(lease_id, cumulative, context), Signature.from_bytes(signature), address)


def _verify_text(texts: Sequence[str], address: str) -> None:
    for text in texts:
        parse_voucher(text).verify(DOMAIN, address)


def _sign(wires: Sequence[Wire], signer: Signer) -> None:
    for lease_id, cumulative, context, _ in wires:
        signer.sign(DOMAIN, Voucher(lease_id, cumulative, context))


def _peer(wires: Sequence[Wire], address: str) -> None:
    document = typed_data(DOMAIN, Voucher(bytes(32), 0, bytes(32)))
    for lease_id, cumulative, context, signature in wires:
        message = {"leaseId": lease_id, "cumulative": cumulative, "context": context}
        signable = encode_typed_data(full_message={**document, "message": message})
        if Account.recover_message(signable, signature=signature) != address:
            raise AssertionError("eth-account recovered another address")


def _rate(work: Callable[[], None], count: int) -> float:
    started = time.process_time()
    work()
    return count / (time.process_time() - started)


def run() -> Report:
    """Measure; raises if either side finds a signature wrong."""
    signer = Signer(b"\x01" * 32)
    wires = _vouchers(signer, VOUCHERS)
    texts = [
        encode_signed(Voucher(lease_id, cumulative, context), Signature.from_bytes(signature))
        for lease_id, cumulative, context, signature in wires
    ]
    works: dict[str, tuple[Callable[[], None], int]] = {
        "verify": (lambda: _verify(wires, signer.address), VOUCHERS),
        "header": (lambda: _verify_text(texts, signer.address), VOUCHERS),
        "sign": (lambda: _sign(wires, signer), VOUCHERS),
        "peer": (lambda: _peer(wires[:PEER_VOUCHERS], signer.address), PEER_VOUCHERS),
    }
    rates: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(ROUNDS):
        for name, (work, count) in works.items():
            rates[name].append(_rate(work, count))
    median = {name: statistics.median(found) for name, found in rates.items()}
    labels = {
        "verify": "verify (signing.verify)",
        "header": "parse header and verify",
        "sign": "sign (Signer.sign)",
        "peer": "eth-account recover",
    }
    return Report(
        columns=("", "per second", "µs each", "slowest round", "against eth-account"),
        rows=[
            (
                label,
                round(median[name]),
                1e6 / median[name],
                round(min(rates[name])),
                f"{median[name] / median['peer']:.1f} ×",
            )
            for name, label in labels.items()
        ],
        figures={
            "vouchers_per_s": round(median["verify"]),
            "vouchers_from_headers_per_s": round(median["header"]),
            "signed_per_s": round(median["sign"]),
            "eth_account_vouchers_per_s": round(median["peer"]),
            "ratio_to_eth_account": round(median["verify"] / median["peer"], 2),
        },
        notes=[f"{ROUNDS} rounds, {VOUCHERS} vouchers each ({PEER_VOUCHERS} for eth-account), CPU time of one thread"],
    )
