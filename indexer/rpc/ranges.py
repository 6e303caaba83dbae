"""Logs of long ranges of blocks, asked for in pieces that grow while they fit.

A piece is halved only when the node says that the range or the answer is too large; both halves are read before
anything is returned.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from indexer.rpc.bloom import may_hold
from indexer.rpc.endpoints import Endpoints
from indexer.rpc.head import agreed_headers
from indexer.rpc.headers import Header
from indexer.rpc.logs import Log, check_asked, check_blocks, parse_logs
from protocol.chain.exceptions import AnswerTooLarge, ChainError, RpcRejected
from protocol.chain.size_errors import is_about_size


class RangeRefused(ChainError):  # noqa: N818 - as protocol.chain.exceptions name theirs
    """A node will not answer so many blocks or logs at once."""


class Piece(NamedTuple):
    """All logs of the blocks `first` to `last.number`."""

    first: int
    last: Header
    logs: list[Log]


class LogReader:
    """Reads logs of these addresses. `wanted_logs` bounds what is asked for at once, and so the memory it takes."""

    def __init__(
        self, endpoints: Endpoints, addresses: frozenset[bytes], *, start: int = 500, wanted_logs: int = 10_000
    ) -> None:
        self._endpoints = endpoints
        self._addresses = addresses
        self._shown = ["0x" + address.hex() for address in sorted(addresses)]
        self._wanted = wanted_logs
        self.size = start
        """Blocks that are asked for next."""

    def read(self, first: int, last: int) -> Piece:
        """As many blocks from `first` on as fit, at most to `last`.

        Raises RpcUnavailable, WrongChain, EndpointsDisagree, and RangeRefused when a single block is too much.
        """
        end = min(last, first + self.size - 1)
        piece = self._read_whole(first, end)
        self._adapt(end - first + 1, len(piece.logs))
        return piece

    def read_block(self, header: Header) -> list[Log]:
        """The logs of exactly this block, with no question when its bloom filter rules them out."""
        if not any(may_hold(header.bloom, address) for address in self._addresses):
            return []
        return self._ask(header.number, header.number, header).logs

    def _read_whole(self, first: int, last: int) -> Piece:
        try:
            return self._ask(first, last)
        except (RangeRefused, AnswerTooLarge):
            if first == last:
                raise
        self.size = max((last - first + 1) // 2, 1)
        middle = (first + last) // 2
        left, right = self._read_whole(first, middle), self._read_whole(middle + 1, last)
        return Piece(first, right.last, left.logs + right.logs)

    def _ask(self, first: int, last: int, header: Header | None = None) -> Piece:
        def read(answers: list[Any]) -> Piece:
            (answer,) = answers
            if isinstance(answer, RpcRejected):
                raise RangeRefused(str(answer)) if is_about_size(answer.message) else answer
            logs = parse_logs(answer)
            check_asked(logs, first, last, self._addresses)
            headers = {last: header} if header else self._headers({last, *(log.block_number for log in logs)})
            return Piece(first, headers[last], check_blocks(logs, headers))

        where = {"fromBlock": hex(first), "toBlock": hex(last), "address": self._shown}
        return self._endpoints.ask([("eth_getLogs", [where])], read, (RangeRefused, AnswerTooLarge))

    def _headers(self, numbers: set[int]) -> dict[int, Header]:
        return agreed_headers(self._endpoints, sorted(numbers))

    def _adapt(self, blocks: int, count: int) -> None:
        if count > self._wanted:
            self.size = max(blocks * self._wanted // count, 1)
        elif blocks == self.size and count * 2 <= self._wanted:
            self.size *= 2
