"""Asking one provider of the market: under a lease, within the budgets, every receipt checked and paid."""

import json
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import httpx

from consumer.answer_stream import Choices
from consumer.asked import read
from consumer.checks import most_cost
from consumer.exceptions import (
    ConsumerError,
    LeaseExhausted,
    PrepayRejected,
    ProviderFailed,
    ProviderRefused,
    ReceiptRejected,
    StoreError,
    TokenizerUnusable,
)
from consumer.gateway.continuing import as_chat, continuation
from consumer.gateway.events import Asked, Chunk, Delivered, FailureClass, Leg, Part, RouteFailed, Vectors
from consumer.gateway.upstream_entries import check_entry
from consumer.lease_client import Checked, End, LeaseClient
from consumer.repeating import CHAT, COMPLETIONS, EMBEDDINGS
from consumer.routing.catalogue import Candidate
from consumer.spending.keeper import LeaseKeeper
from consumer.tokenizers import Tokenizers
from protocol.chain.exceptions import ChainError
from protocol.exceptions import ProtocolError
from protocol.headers import RefusalCode
from protocol.typed_data import Receipt

_CLASSES = {
    RefusalCode.BUSY: FailureClass.OVERLOAD,
    RefusalCode.UNPAID: FailureClass.MONEY,
    RefusalCode.PREPAY: FailureClass.MONEY,
    RefusalCode.OVERDRAWN: FailureClass.MONEY,
    RefusalCode.LEASE_ENDED: FailureClass.MONEY,
    RefusalCode.UNKNOWN_LEASE: FailureClass.AUTH,
    RefusalCode.BAD_SIGNATURE: FailureClass.AUTH,
    RefusalCode.TERMS: FailureClass.AUTH,
    RefusalCode.CLOCK: FailureClass.OVERLOAD,
}
_LEASE_IS_OVER = frozenset({RefusalCode.LEASE_ENDED, RefusalCode.TERMS, RefusalCode.SEQ_TOO_OLD})


@dataclass
class _Progress:
    """How far an answer got, as its leg will tell."""

    route: str
    symbol: str
    started: float
    lease_id: bytes = b""
    first: float = 0.0
    receipt: Receipt | None = None
    cost: int = 0

    def leg(self, ended: str) -> Leg:
        """The leg as it stands."""
        receipt, now = self.receipt, time.monotonic()
        return Leg(
            route=self.route,
            ended=ended,
            prompt_tokens=receipt.units_in + receipt.units_cached if receipt else 0,
            cached_tokens=receipt.units_cached if receipt else 0,
            completion_tokens=receipt.units_out if receipt else 0,
            cost=self.cost,
            symbol=self.symbol,
            ttft_ms=round(((self.first or now) - self.started) * 1000),
            duration_ms=round((now - self.started) * 1000),
            lease_id=self.lease_id,
            seq=receipt.seq if receipt else -1,
        )


class MarketRoutes:
    """All offers of the market."""

    def __init__(self, keeper: LeaseKeeper, tokenizers: Tokenizers, symbols: Mapping[str, str]) -> None:
        """`symbols` are the tokens' by their addresses."""
        self._keeper = keeper
        self._tokenizers = tokenizers
        self._symbols = symbols

    async def answer(
        self, asked: Asked, delivered: Delivered, candidate: Candidate, route: str
    ) -> AsyncGenerator[Part, None]:
        """The answer, or what follows what was delivered already, and last its leg. Raises RouteFailed."""
        terms = candidate.offer.terms
        progress = _Progress(route, self._symbols[terms.token], time.monotonic())
        client: LeaseClient | None = None
        try:
            path, content = self._request(asked, delivered, candidate)
            body = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
            paid = read(path, body, terms, self._tokenizers.for_document(candidate.offer.document))
            if paid is None:
                raise _malformed()
            client = await self._keeper.client_for(
                candidate, most_cost(terms, paid.limits.prompt_bound, paid.limits.max_tokens)
            )
            progress.lease_id, progress.started = client.record.lease_id, time.monotonic()
            if path == EMBEDDINGS:
                data, receipt = await client.embed(paid, body, asked.key_id)
                progress.receipt, progress.cost = receipt.message, receipt.message.cost
                yield Vectors(data)
                yield progress.leg("finished")
                return
            async with aclosing(client.answer(paid, body, asked.key_id)) as events:
                async for event in events:
                    match event:
                        case Choices():
                            entries = _shown(event.entries, path, asked)
                            if event.tokens:
                                progress.first = progress.first or time.monotonic()
                            delivered.text += event.text
                            delivered.tokens += [token.token_id for token in event.tokens]
                            yield Chunk(entries, event.tokens)
                        case Checked():
                            progress.receipt, progress.cost = event.receipt.message, event.owed
                        case End():
                            yield progress.leg("finished")
        except (ConsumerError, ChainError, ProtocolError) as error:
            if isinstance(error, ProviderRefused) and error.code in _LEASE_IS_OVER and client is not None:
                self._keeper.forget(client)
            raise _failed(error, progress) from error

    def _request(self, asked: Asked, delivered: Delivered, candidate: Candidate) -> tuple[str, dict[str, Any]]:
        """Path and body of what is asked of the provider. Raises RouteFailed."""
        name = candidate.offer.model_name
        if not delivered.text:
            delivered.tokens, delivered.tokenizer_sha256 = [], _tokenizer_of(candidate)
            if asked.path == EMBEDDINGS:
                return asked.path, {**asked.content, "model": name}
            content = {**asked.content, "model": name, "stream": True}
            content.pop("stream_options", None)
            return asked.path, content
        counter = self._tokenizers.for_document(candidate.offer.document)
        if counter is None:
            raise RouteFailed(
                FailureClass.BAD_REQUEST, f"no tokenizer of {name} is here, so nobody could go on with it there"
            )
        try:
            content = continuation(asked, delivered, counter, _tokenizer_of(candidate))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _malformed() from error
        # the next break goes on from the text: its tokens are of two tokenizers, or of two answers
        delivered.tokens, delivered.tokenizer_sha256 = [], ""
        return COMPLETIONS, {**content, "model": name}


def _shown(entries: list[dict[str, Any]], path: str, asked: Asked) -> list[dict[str, Any]]:
    """Entries as the asked path has them. Raises ProviderFailed on what nobody could put together."""
    try:
        checked = [check_entry(entry, is_chat=path == CHAT) for entry in entries]
        return checked if path == asked.path else [as_chat(entry) for entry in checked]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ProviderFailed("the provider sent a malformed chunk") from error


def _tokenizer_of(candidate: Candidate) -> str:
    return str(candidate.offer.document["model"]["tokenizer_sha256"])


def _malformed() -> RouteFailed:
    return RouteFailed(
        FailureClass.BAD_REQUEST,
        "the request is malformed: a field that decides what it costs is missing or of the wrong type",
        status=400,
        code="invalid_request",
    )


def _failed(error: Exception, progress: _Progress) -> RouteFailed:
    """What went wrong, in the router's words."""
    message = str(error)
    leg = progress.leg(message)
    match error:
        case ProviderRefused():
            failure = _CLASSES.get(error.code) or _class_of(error.status)  # type: ignore[call-overload]
            param = error.details.get("param")
            return RouteFailed(
                failure,
                message,
                status=503 if error.code == RefusalCode.CLOCK else _told(error.status),
                code=str(error.code),
                param=str(param) if param is not None else None,
                retry_after_s=error.retry_after_s,
                leg=leg,
            )
        case StoreError():
            return RouteFailed(FailureClass.OURS, message, status=503, code="records_unavailable", leg=leg)
        case TokenizerUnusable():
            return RouteFailed(FailureClass.OURS, message, status=500, code="tokenizer_unusable", leg=leg)
        case ReceiptRejected():
            failure = FailureClass.BAD_OUTPUT
        case LeaseExhausted() | PrepayRejected():
            return RouteFailed(FailureClass.MONEY, message, status=402, code="insufficient_quota", leg=leg)
        case _ if isinstance(error.__cause__, httpx.TimeoutException) and not isinstance(
            error.__cause__, httpx.ConnectTimeout
        ):
            return RouteFailed(FailureClass.TIMEOUT, "nothing came for too long", status=504, leg=leg)
        case _ if isinstance(error.__cause__, httpx.HTTPError | ChainError) or isinstance(error, ChainError):
            failure = FailureClass.UNREACHABLE
        case _:
            failure = FailureClass.BAD_OUTPUT
    return RouteFailed(failure, message, leg=leg)


def _class_of(status: int) -> FailureClass:
    if status == httpx.codes.TOO_MANY_REQUESTS:
        return FailureClass.RATE_LIMIT
    if status in (401, 402, 403):
        return FailureClass.AUTH
    if status in (httpx.codes.REQUEST_TIMEOUT, httpx.codes.GATEWAY_TIMEOUT):
        return FailureClass.TIMEOUT
    if not 400 <= status < 600:
        return FailureClass.UNREACHABLE  # whatever that is, it is no provider
    return FailureClass.BAD_REQUEST if status < 500 else FailureClass.OVERLOAD


def _told(status: int) -> int:
    """What an application is told of a provider's status: 401 is about the application's own key, others are none."""
    return status if 400 <= status < 600 and status != httpx.codes.UNAUTHORIZED else 502
