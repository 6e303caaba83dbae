"""Sending a request a second time, to learn its end: the same bytes and the same headers, so it is the same request.

A provider answers a repeat only with the stored final receipt. A request it never took it refuses, for good once its
`sentAt` is too old.
"""

from enum import Enum

import httpx

from consumer.exceptions import ProviderFailed
from consumer.records import OpenRequest
from consumer.transport import ProviderHttp
from protocol.exceptions import InvalidHeader
from protocol.headers import (
    RefusalCode,
    RequestContext,
    Signed,
    parse_response_headers,
    request_headers,
)
from protocol.ids import canonical_body, request_hash
from protocol.typed_data import Receipt, Voucher

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
PATHS = (CHAT, COMPLETIONS, EMBEDDINGS)
"""The routes of paid requests."""


class Repeated(Enum):
    """What a provider says of a repeat when it gives no receipt."""

    DENIED = "it never took the request"
    UNKNOWN = "it cannot say now, or cannot be reached"
    ANSWERED_ANEW = "it starts the request again"


def paid_headers(voucher: Signed[Voucher], context: RequestContext) -> dict[str, str]:
    """The headers of a paid request. Raises InvalidHeader."""
    return {**request_headers(voucher, context), "Content-Type": "application/json"}


def path_of(request: OpenRequest) -> str:
    """Where a request was sent: its hash fits one route."""
    context = request.context
    return next(
        path
        for path in PATHS
        if request_hash(context.salt, canonical_body(f"POST {path}", request.body)) == context.request_hash
    )


async def repeat(http: ProviderHttp, request: OpenRequest, voucher: Signed[Voucher]) -> Signed[Receipt] | Repeated:
    """The stored receipt, unchecked, or what the provider says instead."""
    headers = paid_headers(voucher, request.context)
    try:
        async with http.post(path_of(request), headers, request.body) as response:
            if response.status_code == httpx.codes.OK:
                return Repeated.ANSWERED_ANEW
            answer = parse_response_headers(response.headers.items())
    except (httpx.HTTPError, InvalidHeader, ProviderFailed):
        return Repeated.UNKNOWN
    if answer.receipt is not None:
        return answer.receipt
    if answer.refusal is None or answer.refusal is RefusalCode.BUSY:
        return Repeated.UNKNOWN
    return Repeated.DENIED
