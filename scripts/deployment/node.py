"""The few things a deployment asks of a node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from protocol.chain.abi import ContractCall
from protocol.chain.exceptions import RpcRejected
from protocol.chain.rpc import RpcPool

_ALREADY_SENT = ("already known", "already imported", "nonce too low", "replacement transaction underpriced")


class Node:
    """Reads at the head block, and sends. Numbers are integers, codes and hashes are bytes."""

    def __init__(self, rpc: RpcPool) -> None:
        self._rpc = rpc

    @property
    def chain_id(self) -> int:
        return self._rpc.chain_id

    def genesis_hash(self) -> bytes:
        return _data(self._rpc.request("eth_getBlockByNumber", "0x0", False)["hash"])

    def nonce(self, address: str, tag: str = "latest") -> int:
        return int(self._rpc.request("eth_getTransactionCount", address, tag), 16)

    def balance(self, address: str) -> int:
        return int(self._rpc.request("eth_getBalance", address, "latest"), 16)

    def codes(self, addresses: Sequence[str]) -> list[bytes]:
        return [_data(code) for code in self._all([("eth_getCode", [address, "latest"]) for address in addresses])]

    def read(self, calls: Sequence[ContractCall[Any]]) -> list[Any]:
        """The results of view functions."""
        sent = [("eth_call", [{"to": call.to, "data": "0x" + call.data.hex()}, "latest"]) for call in calls]
        return [call.decode(_data(answer)) for call, answer in zip(calls, self._all(sent), strict=True)]

    def block_of(self, transaction_hash: str) -> int | None:
        """The block that holds a transaction."""
        receipt = self._rpc.request("eth_getTransactionReceipt", transaction_hash)
        return None if receipt is None else int(receipt["blockNumber"], 16)

    def fees(self) -> tuple[int, int]:
        """(maxFeePerGas, maxPriorityFeePerGas) in wei that outlast six full blocks."""
        block, tip = self._all([("eth_getBlockByNumber", ["latest", False]), ("eth_maxPriorityFeePerGas", [])])
        return 2 * int(block["baseFeePerGas"], 16) + int(tip, 16), int(tip, 16)

    def estimate(self, sender: str, to: str | None, data: bytes) -> int:
        """Gas units this transaction would use now. Raises RpcRejected when it would revert."""
        call = {"from": sender, "data": "0x" + data.hex()} | ({"to": to} if to else {})
        return int(self._rpc.request("eth_estimateGas", call), 16)

    def send(self, raw: bytes) -> None:
        """Hand over a signed transaction; one that the node has already, or has mined, is no error."""
        try:
            self._rpc.request("eth_sendRawTransaction", "0x" + raw.hex())
        except RpcRejected as error:
            if not any(known in error.message.lower() for known in _ALREADY_SENT):
                raise

    def _all(self, calls: Sequence[tuple[str, list[Any]]]) -> list[Any]:
        answers = self._rpc.batch(calls)
        for answer in answers:
            if isinstance(answer, RpcRejected):
                raise answer
        return answers


def _data(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("0x"))
