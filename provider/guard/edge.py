"""The first look at a request, before anything is routed, read or looked up.

What anyone can send in any number must cost next to nothing: an address gets so many requests a second, and one that
forges vouchers is heard no more. Leases that pay are apart: a request on a lease for which a good voucher came from the
same address lately has a rate of its own, so no flood from others, or from behind the same address, uses it up.
"""

import json
import logging
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from protocol.exceptions import InvalidHeader, InvalidSignature
from protocol.headers import VOUCHER_HEADER, RefusalCode, ResponseHeaders, parse_voucher
from protocol.typed_data import Domain
from provider.guard.addresses import address_key
from provider.guard.limits import GuardLimits
from provider.leases import Lease
from provider.limits import TokenBucket
from provider.upkeep import place_of

_log = logging.getLogger(__name__)
MAX_VISITORS = 10_000
MAX_REGULARS = 10_000
REGULAR_S = 600.0
"""How long after its last good voucher a lease counts as one that pays."""

_VOUCHER = VOUCHER_HEADER.lower().encode()
_LEASE_ID = re.compile(rb"leaseId=0x([0-9a-f]{64});")
_UNHEARD = frozenset({401, 403})


@dataclass(slots=True)
class _Visitor:
    """What an address may still do."""

    requests: TokenBucket
    forgeries: TokenBucket


@dataclass(slots=True)
class _Regular:
    """A lease with a good voucher from one address."""

    requests: TokenBucket
    seen_at: float


class EdgeGate:
    """ASGI middleware around the whole application."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        domain: Domain,
        known_lease: Callable[[bytes], Lease | None],
        limits: GuardLimits,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`known_lease` answers from memory. `clock` in seconds."""
        self._app = app
        self._domain = domain
        self._known_lease = known_lease
        self._limits = limits
        self._clock = clock
        self._visitors: OrderedDict[str, _Visitor] = OrderedDict()
        self._regulars: OrderedDict[tuple[str, bytes], _Regular] = OrderedDict()
        self._too_many = _Answer(429, RefusalCode.BUSY, "too many requests from this address; try again later", 1)
        self._unheard = _Answer(
            429,
            RefusalCode.BUSY,
            "too many vouchers with wrong signatures came from this address; try again later",
            max(1, round(limits.forgiveness_s)),
        )
        self._busy_lease = _Answer(429, RefusalCode.BUSY, "too many requests on this lease; try again later", 1)
        self._forged = _Answer(
            401, RefusalCode.BAD_SIGNATURE, "the voucher is not signed by the lease's session key", None
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        address = address_key(scope["client"][0]) if scope.get("client") else ""
        text = next((value for name, value in scope["headers"] if name == _VOUCHER), None)
        try:
            if text is None:
                await self._visit(address, scope, receive, send)
            else:
                await self._paid(address, text, scope, receive, send)
        except ClientDisconnect:
            return  # nobody is there to be told
        except Exception as error:  # noqa: BLE001
            _log.error("a request failed unexpectedly: %s", place_of(error))  # its text may hold what the client sent

    async def _visit(self, address: str, scope: Scope, receive: Receive, send: Send) -> None:
        if self._visitor(address).requests.take():
            await self._app(scope, receive, send)
        else:
            await self._too_many.give(send)

    async def _paid(self, address: str, text: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        visitor = self._visitor(address)
        named = _LEASE_ID.match(text)
        lease_id = bytes.fromhex(named[1].decode()) if named else b""
        regular = self._regular(address, lease_id)
        if regular is None:
            if not visitor.forgeries.has():
                await self._unheard.give(send)
                return
            if not visitor.requests.take():
                await self._too_many.give(send)
                return
        try:
            signer = parse_voucher(text.decode("latin-1")).recover(self._domain)
        except InvalidSignature:
            visitor.forgeries.take()
            await self._forged.give(send)
            return
        except InvalidHeader:
            visitor.forgeries.take()
            await self._app(scope, receive, send)  # which says what is wrong with it
            return
        lease = self._known_lease(lease_id)
        if lease is None:
            await self._app(scope, receive, self._judging(send, visitor, address, lease_id, signer))
        elif lease.signer != signer:
            visitor.forgeries.take()
            await self._forged.give(send)
        elif self._welcome(address, lease_id).requests.take():
            await self._app(scope, receive, send)
        else:
            await self._busy_lease.give(send)

    def _judging(self, send: Send, visitor: _Visitor, address: str, lease_id: bytes, signer: str) -> Send:
        """Sends on, and learns from the answer's status what the chain says about a lease seen for the first time."""

        async def judge(message: Message) -> None:
            if message["type"] == "http.response.start":
                lease = self._known_lease(lease_id)
                if lease is not None and lease.signer == signer:
                    self._welcome(address, lease_id)
                elif message["status"] in _UNHEARD:
                    visitor.forgeries.take()
            await send(message)

        return judge

    def _visitor(self, address: str) -> _Visitor:
        visitor = self._visitors.get(address)
        if visitor is None:
            limits = self._limits
            visitor = self._visitors[address] = _Visitor(
                TokenBucket(limits.address_per_s, limits.address_burst, self._clock),
                TokenBucket(1 / limits.forgiveness_s, limits.forgeries, self._clock),
            )
            if len(self._visitors) > MAX_VISITORS:
                self._visitors.popitem(last=False)
        else:
            self._visitors.move_to_end(address)
        return visitor

    def _regular(self, address: str, lease_id: bytes) -> _Regular | None:
        regular = self._regulars.get((address, lease_id))
        if regular is None or self._clock() - regular.seen_at > REGULAR_S:
            return None
        return regular

    def _welcome(self, address: str, lease_id: bytes) -> _Regular:
        key = (address, lease_id)
        regular = self._regulars.get(key)
        if regular is None:
            bucket = TokenBucket(self._limits.lease_per_s, self._limits.lease_burst, self._clock)
            regular = self._regulars[key] = _Regular(bucket, self._clock())
            if len(self._regulars) > MAX_REGULARS:
                self._regulars.popitem(last=False)
        regular.seen_at = self._clock()
        self._regulars.move_to_end(key)
        return regular


class _Answer:
    """An answer made once and given often."""

    def __init__(self, status: int, code: RefusalCode, message: str, retry_after_s: int | None) -> None:
        kind = "invalid_request_error"
        error: dict[str, object] = {"message": message, "type": kind, "param": None, "code": code.value}
        headers = {"content-type": "application/json", **ResponseHeaders(refusal=code).encode()}
        if retry_after_s is not None:
            error["details"] = {"retry_after_s": retry_after_s}
            headers["retry-after"] = str(retry_after_s)
        body = json.dumps({"error": error}).encode()
        headers["content-length"] = str(len(body))
        encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        self._start = {"type": "http.response.start", "status": status, "headers": encoded}
        self._body = {"type": "http.response.body", "body": body}

    async def give(self, send: Send) -> None:
        """Sends it."""
        await send(self._start)
        await send(self._body)
