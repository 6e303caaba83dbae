"""What a node may answer to the methods that web3 calls; the client's typed reads use the same parsers.

Web3's own formatters let wrong types pass, or stumble over them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from protocol.chain import _checks
from protocol.chain.exceptions import MalformedAnswer
from protocol.chain.views import Head, RawLog, TxReceipt


def parse_logs(value: Any) -> list[RawLog]:
    """The answer of eth_getLogs."""
    if not isinstance(value, list):
        raise MalformedAnswer(f"eth_getLogs answered no list: {_checks.shown(value)}")
    return [RawLog.parse(log) for log in value]


def check_answer(method: str, result: Any) -> None:
    """Raise MalformedAnswer when the result is not of the method's type. Methods that are not listed below pass."""
    check = _CHECKS.get(method)
    if check is not None:
        check(result, f"the answer to {method}")


def _quantity(bits: int, value: Any, what: str) -> None:
    _checks.quantity(value, what, bits)


def _data(length: int | None, value: Any, what: str) -> None:
    _checks.data(value, what, length)


def _block(value: Any, _: str) -> None:
    if value is not None:
        Head.parse(value)


def _logs(value: Any, _: str) -> None:
    parse_logs(value)


def _receipt(value: Any, what: str) -> None:
    if value is not None:
        TxReceipt.parse(value, _checks.data(_checks.member(value, "transactionHash", what), what, 32))


_CHECKS: Mapping[str, Callable[[Any, str], None]] = {
    "eth_blockNumber": partial(_quantity, 64),
    "eth_call": partial(_data, None),
    "eth_chainId": partial(_quantity, 64),
    "eth_estimateGas": partial(_quantity, 64),
    "eth_gasPrice": partial(_quantity, 128),
    "eth_getBalance": partial(_quantity, 256),
    "eth_getBlockByHash": _block,
    "eth_getBlockByNumber": _block,
    "eth_getCode": partial(_data, None),
    "eth_getLogs": _logs,
    "eth_getStorageAt": partial(_data, 32),
    "eth_getTransactionCount": partial(_quantity, 64),
    "eth_getTransactionReceipt": _receipt,
    "eth_maxPriorityFeePerGas": partial(_quantity, 128),
    "eth_sendRawTransaction": partial(_data, 32),
}
