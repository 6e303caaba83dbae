"""Where the chain stands: the newest block that a majority of the endpoints has, and the newest final one.

A node that lags only counts as one that has less; a node that invents blocks stands alone. With one endpoint its word
is taken, with two both must agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from indexer.exceptions import EndpointsDisagree
from indexer.rpc.endpoints import Endpoints
from indexer.rpc.headers import Header, header_call, parse_header, parse_header_at
from protocol.chain.deployments import Profile
from protocol.chain.exceptions import RpcRejected

_FORK_DEPTH = 8
"""How many blocks down from the tip a block is looked for that a majority agrees on."""


class Tip(NamedTuple):
    """The head, and the number of the newest final block, -1 before the first."""

    head: Header
    final: int


def agreed_tip(endpoints: Endpoints, profile: Profile) -> Tip:
    """Raises EndpointsDisagree, RpcUnavailable, WrongChain."""
    calls = [header_call("latest")]
    if profile.finality_tag is not None:
        calls.append(header_call(profile.finality_tag))

    def read(answers: list[Any]) -> tuple[Header, int]:
        final = -1 if len(answers) == 1 or _has_none(answers[1]) else parse_header(answers[1]).number
        return parse_header(answers[0]), final

    answers = endpoints.ask_all(calls, read)
    if len(answers) < endpoints.majority:
        raise EndpointsDisagree(
            f"only {len(answers)} RPC endpoints answer, {endpoints.majority} are needed to agree on the head"
        )
    head = _agreed_head(endpoints, [head for head, _ in answers])
    if profile.confirmations is not None:
        return Tip(head, max(head.number - profile.confirmations + 1, -1))
    return Tip(head, min(_reached(endpoints, [final for _, final in answers]), head.number))


def agreed_headers(endpoints: Endpoints, numbers: Sequence[int]) -> dict[int, Header]:
    """Headers of these blocks as a majority of the endpoints has them. Raises EndpointsDisagree, RpcUnavailable."""

    def read(answers: list[Any]) -> list[Header | None]:
        return [
            None if answer is None else parse_header_at(number, answer)
            for number, answer in zip(numbers, answers, strict=True)
        ]

    told = endpoints.ask_all([header_call(number) for number in numbers], read) if numbers else []
    found: dict[int, Header] = {}
    for place, number in enumerate(numbers):
        header = _majority(endpoints, [headers[place] for headers in told])
        if header is None:
            raise EndpointsDisagree(
                f"no majority of the RPC endpoints has the same block {number}: wait, or check them"
            )
        found[number] = header
    return found


def _agreed_head(endpoints: Endpoints, heads: list[Header]) -> Header:
    number = _reached(endpoints, [head.number for head in heads])
    found = _majority(endpoints, [head for head in heads if head.number == number])
    if found is not None:
        return found
    for candidate in range(number, max(number - _FORK_DEPTH, -1), -1):
        try:
            return agreed_headers(endpoints, [candidate])[candidate]
        except EndpointsDisagree:
            continue
    raise EndpointsDisagree(
        f"the RPC endpoints tell different chains around block {number} and no majority agrees: wait, or remove the "
        "one that is wrong"
    )


def _majority(endpoints: Endpoints, headers: Sequence[Header | None]) -> Header | None:
    for header in headers:
        if header is not None and sum(other == header for other in headers) >= endpoints.majority:
            return header
    return None


def _reached(endpoints: Endpoints, numbers: list[int]) -> int:
    """The highest number that a majority has reached."""
    return sorted(numbers, reverse=True)[endpoints.majority - 1]


def _has_none(answer: Any) -> bool:
    return answer is None or isinstance(answer, RpcRejected)
