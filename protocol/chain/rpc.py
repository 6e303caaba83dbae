"""A web3 provider: JSON-RPC over HTTP to several endpoints of one chain, as if they were one that rarely fails.

Every HTTP request is a batch that also asks for the chain id, so a node that changes chains is caught in the very
answer it gives. On each new connection the genesis block is compared too: a restarted development chain has the same id
but another genesis. Passing failures (no connection, timeout, rate limit, 5xx) move on to the next endpoint
and, once all failed, are tried again with growing pauses; a wrong chain or a malformed answer is never tried again at
the same endpoint. Web3's own HTTP provider has none of this: no limit to an answer's size, no check of the answer's
form or chain, and errors that show whole addresses. Times are in seconds, sizes in bytes.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, cast
from urllib.parse import urlsplit
from weakref import WeakSet

import httpx
import orjson
from web3 import Web3
from web3.exceptions import ProviderConnectionError
from web3.providers.base import JSONBaseProvider
from web3.types import RPCEndpoint, RPCResponse

from protocol.chain import _checks
from protocol.chain.answers import check_answer
from protocol.chain.exceptions import (
    AnswerTooLarge,
    ChainError,
    MalformedAnswer,
    RpcRejected,
    RpcUnavailable,
    WrongChain,
)
from protocol.chain.size_errors import is_about_size

Call = tuple[str, Sequence[Any]]
_PASSING_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529})
_LIMIT_EXCEEDED = -32005  # of EIP-1474; some nodes send it for too many results, which no repetition mends
# what large providers send for "too many requests"
_PASSING_CODES = frozenset({_LIMIT_EXCEEDED, -32097, 429})
_KEEP_ALIVE_S = 60.0
_GENESIS: Call = ("eth_getBlockByNumber", ["0x0", False])


@dataclass(frozen=True)
class RpcLimits:
    """How long, how large and how often. `rounds` counts tries of all endpoints."""

    connect_s: float = 3.0
    read_s: float = 10.0
    total_s: float = 30.0
    max_bytes: int = 32 * 1024 * 1024
    batch: int = 100
    rounds: int = 4
    pause_s: float = 0.25
    longest_pause_s: float = 4.0


class _PassingError(Exception):
    """This endpoint failed in a way that may pass."""


@dataclass
class _Endpoint:
    url: str
    label: str
    verified: WeakSet[Any] = field(default_factory=WeakSet)
    """Open connections on which the genesis block was right."""


class RpcPool(JSONBaseProvider):
    """Endpoints of the chain `chain_id` whose block 0 has the hash `genesis_hash` (None: not compared).

    Raises RpcUnavailable, MalformedAnswer, WrongChain; a node's refusal of a single call is RpcRejected. That holds for
    `Web3(pool)` too. A contract's request to look something up elsewhere (EIP-3668) is never followed.
    """

    global_ccip_read_enabled = False

    def __init__(
        self, urls: Sequence[str], chain_id: int, genesis_hash: bytes | None = None, limits: RpcLimits = RpcLimits()
    ) -> None:
        if not urls:
            raise ChainError("no RPC address is configured: give at least one http(s) URL")
        super().__init__()
        self.chain_id = chain_id
        self.genesis_hash = genesis_hash
        self.limits = limits
        self._endpoints = [_Endpoint(url, _label(url)) for url in urls]
        self._preferred = 0
        self._http = httpx.Client(
            timeout=httpx.Timeout(limits.read_s, connect=limits.connect_s),
            limits=httpx.Limits(keepalive_expiry=_KEEP_ALIVE_S),
            verify=any(endpoint.label.startswith("https:") for endpoint in self._endpoints),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    @property
    def labels(self) -> list[str]:
        """The endpoints as they may be shown: scheme, host and port."""
        return [endpoint.label for endpoint in self._endpoints]

    def make_request(self, method: RPCEndpoint, params: Any) -> RPCResponse:
        """One call on behalf of web3, its answer's types checked."""
        return self.make_batch_request([(method, params)])[0]

    def make_batch_request(self, requests: list[tuple[RPCEndpoint, Any]]) -> list[RPCResponse]:
        """Several calls on behalf of web3 as one batch; the first that is refused raises RpcRejected."""
        responses: list[RPCResponse] = []
        for (method, _), answer in zip(requests, self.batch(requests), strict=True):
            if isinstance(answer, RpcRejected):
                raise answer
            check_answer(method, answer)
            responses.append({"jsonrpc": "2.0", "id": len(responses), "result": answer})
        return responses

    def is_connected(self, show_traceback: bool = False) -> bool:  # noqa: FBT001, FBT002 - web3's signature
        """Whether an endpoint of the right chain answers."""
        try:
            self.batch([("eth_chainId", [])])
        except ChainError as error:
            if show_traceback:
                raise ProviderConnectionError(str(error)) from None
            return False
        return True

    def request(self, method: str, *params: Any) -> Any:
        """The result of one call."""
        result = self.batch([(method, params)])[0]
        if isinstance(result, RpcRejected):
            raise result
        return result

    def batch(self, calls: Sequence[Call]) -> list[Any]:
        """The results in the calls' order; a refused call's place holds its RpcRejected.

        Up to `limits.batch` calls travel in one HTTP request and are answered by one endpoint.
        """
        results: list[Any] = []
        for start in range(0, len(calls), self.limits.batch):
            results += self._somewhere(calls[start : start + self.limits.batch])
        return results

    def everywhere(self, calls: Sequence[Call]) -> list[list[Any]]:
        """The results of each endpoint that answers, at least one: for when one node's word is too little."""
        answers: list[list[Any]] = []
        failures: list[str] = []
        for endpoint in self._endpoints:
            try:
                answers.append(self._post(endpoint, calls))
            except (_PassingError, ChainError) as error:
                failures.append(f"{endpoint.label}: {error}")
        if not answers:
            raise RpcUnavailable(_unavailable(failures))
        return answers

    def _somewhere(self, calls: Sequence[Call]) -> list[Any]:
        fatal: dict[int, ChainError] = {}
        failures: dict[int, str] = {}
        for round_number in range(self.limits.rounds):
            if round_number:
                time.sleep(self._pause(round_number))
            for offset in range(len(self._endpoints)):
                index = (self._preferred + offset) % len(self._endpoints)
                endpoint = self._endpoints[index]
                if index in fatal:
                    continue
                try:
                    results = self._post(endpoint, calls)
                except _PassingError as error:
                    failures[index] = f"{endpoint.label}: {error}"
                except (MalformedAnswer, WrongChain) as error:
                    fatal[index] = error
                else:
                    self._preferred = index
                    return results
            if len(fatal) == len(self._endpoints):
                break
        if fatal:
            raise next(iter(fatal.values()))
        raise RpcUnavailable(_unavailable(list(failures.values())))

    def _pause(self, round_number: int) -> float:
        longest: float = min(self.limits.pause_s * 2 ** (round_number - 1), self.limits.longest_pause_s)
        return longest * (0.5 + random.random() / 2)  # noqa: S311

    def _post(self, endpoint: _Endpoint, calls: Sequence[Call]) -> list[Any]:
        """The calls' answers, from a connection on which the chain is known to be the right one."""
        answers, connection = self._post_checked(endpoint, calls, with_genesis=not endpoint.verified)
        if self.genesis_hash is not None and connection not in endpoint.verified:
            self._post_checked(endpoint, [], with_genesis=True)
        return answers

    def _post_checked(
        self, endpoint: _Endpoint, calls: Sequence[Call], *, with_genesis: bool
    ) -> tuple[list[Any], object]:
        checks: list[Call] = [("eth_chainId", [])]
        if with_genesis and self.genesis_hash is not None:
            checks.append(_GENESIS)
        sent = {next(self.request_counter): call for call in [*checks, *calls]}
        entries = [{"jsonrpc": "2.0", "id": i, "method": m, "params": list(p)} for i, (m, p) in sent.items()]
        body = Web3.to_json(cast("dict[Any, Any]", entries))
        status, received, connection = self._exchange(endpoint, body.encode())
        answers = self._parse(endpoint, status, received, sent)
        self._check_chain(endpoint, answers[: len(checks)])
        if len(checks) > 1 and connection is not None:
            endpoint.verified.add(connection)
        return answers[len(checks) :], connection

    def _exchange(self, endpoint: _Endpoint, body: bytes) -> tuple[int, bytes, object]:
        """HTTP status, body, and the connection they came on."""
        deadline = time.monotonic() + self.limits.total_s
        headers = {"Content-Type": "application/json"}
        try:
            with self._http.stream("POST", endpoint.url, content=body, headers=headers) as response:
                received = bytearray()
                for chunk in response.iter_bytes():
                    received += chunk
                    if len(received) > self.limits.max_bytes:
                        raise AnswerTooLarge(f"{endpoint.label} sent more than {self.limits.max_bytes} bytes")
                    if time.monotonic() > deadline:
                        raise _PassingError(f"no complete answer within {self.limits.total_s:.0f} s")
                if response.status_code in _PASSING_STATUS:
                    raise _PassingError(f"HTTP status {response.status_code}")
                return response.status_code, bytes(received), response.extensions.get("network_stream")
        except httpx.TransportError as error:
            raise _PassingError(type(error).__name__) from None
        except httpx.HTTPError as error:
            raise MalformedAnswer(f"{endpoint.label} does not speak HTTP as expected: {type(error).__name__}") from None

    def _parse(self, endpoint: _Endpoint, status: int, body: bytes, sent: Mapping[int, Call]) -> list[Any]:
        try:
            answer = orjson.loads(body)
        except ValueError:
            raise MalformedAnswer(
                f"{endpoint.label} answered with HTTP status {status} and no JSON: "
                "check that this is the address of a JSON-RPC node"
            ) from None
        if isinstance(answer, dict) and "error" in answer:
            refusal = _refusal(endpoint, "the batch", answer["error"])
            raise MalformedAnswer(f"{endpoint.label} refused a batch request: {refusal.message} (code {refusal.code})")
        if not isinstance(answer, list) or len(answer) != len(sent):
            raise MalformedAnswer(f"{endpoint.label} did not answer a batch of {len(sent)} with as many answers")
        results: dict[int, Any] = {}
        for entry in answer:
            number = entry.get("id") if isinstance(entry, dict) else None
            if type(number) is not int or number not in sent or number in results:
                raise MalformedAnswer(f"{endpoint.label} answered what was not asked: {_checks.shown(entry)}")
            method, _ = sent[number]
            if entry.get("error") is not None:
                results[number] = _refusal(endpoint, method, entry["error"])
            elif "result" in entry:
                results[number] = entry["result"]
            else:
                raise MalformedAnswer(f"{endpoint.label} answered {method} with neither result nor error")
        return [results[number] for number in sent]

    def _check_chain(self, endpoint: _Endpoint, answers: Sequence[Any]) -> None:
        for answer in answers:
            if isinstance(answer, RpcRejected):
                raise MalformedAnswer(f"{endpoint.label} cannot say which chain it serves: {answer}")
        chain_id = _checks.quantity(answers[0], "the chain id", 64)
        if chain_id != self.chain_id:
            raise WrongChain(
                f"{endpoint.label} serves chain {chain_id}, expected chain {self.chain_id}: "
                "correct the RPC address, or use the deployment file of that chain"
            )
        if len(answers) > 1:
            genesis = _checks.data(_checks.member(answers[1], "hash", "the genesis block"), "the genesis hash", 32)
            if genesis != self.genesis_hash:
                raise WrongChain(
                    f"{endpoint.label} serves a chain {chain_id} with another genesis block (0x{genesis.hex()}) than "
                    "the deployment's: if a development chain was restarted, deploy again; else correct the RPC address"
                )


def _refusal(endpoint: _Endpoint, method: str, error: Any) -> RpcRejected:
    code = error.get("code") if isinstance(error, dict) else None
    message = error.get("message") if isinstance(error, dict) else None
    if type(code) is not int or not isinstance(message, str):
        raise MalformedAnswer(f"{endpoint.label} answered {method} with a malformed error: {_checks.shown(error)}")
    if code in _PASSING_CODES and not (code == _LIMIT_EXCEEDED and is_about_size(message)):
        raise _PassingError(f"{message[:200]} (code {code})")
    return RpcRejected(method, code, message[:1000], error.get("data"))


def _label(url: str) -> str:
    """Scheme, host and port: all of an address that may be shown."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        parts, port = urlsplit(""), ""
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ChainError("an RPC address is not an http(s) URL: use the form https://host[:port][/path]")
    return f"{parts.scheme}://{parts.hostname}{port}"


def _unavailable(failures: Sequence[str]) -> str:
    return f"no RPC endpoint answers ({'; '.join(failures)}): check the network and the RPC addresses, then try again"
