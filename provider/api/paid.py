"""The routes that cost something. Who asks is known before the body is read as JSON."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from fastapi import APIRouter, Request, Response

from protocol.exceptions import InvalidHeader
from protocol.headers import RefusalCode, parse_request_headers
from provider.active_request import ActiveRequest
from provider.api.answers import AnswerStream, whole_answer
from provider.api.chat import ChatRequest, parse_chat
from provider.api.completions import CompletionRequest, parse_completion
from provider.api.embeddings import EmbeddingRequest, parse_embedding
from provider.api.errors import refusal_of
from provider.api.market import check_seq
from provider.exceptions import Refusal
from provider.service import InferenceService

MAX_BODY_BYTES = 8 * 1024 * 1024
"""Whatever the terms say."""

AskedT = TypeVar("AskedT", ChatRequest, CompletionRequest, EmbeddingRequest)


def paid_routes(service: InferenceService) -> APIRouter:
    """The routes of inference and embedding."""
    routes = APIRouter()

    @routes.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        return await _answer(request, *await _admit(service, request, parse_chat))

    @routes.post("/v1/completions")
    async def completions(request: Request) -> Response:
        return await _answer(request, *await _admit(service, request, parse_completion))

    @routes.post("/v1/embeddings")
    async def embeddings(request: Request) -> Response:
        active, asked = await _admit(service, request, parse_embedding)
        return await whole_answer(request, active, asked)

    return routes


async def _answer(request: Request, active: ActiveRequest, asked: ChatRequest | CompletionRequest) -> Response:
    return AnswerStream(active, asked) if asked.stream else await whole_answer(request, active, asked)


async def _admit(
    service: InferenceService, request: Request, parse: Callable[[bytes], AskedT]
) -> tuple[ActiveRequest, AskedT]:
    with _counted(service):
        signed, context = parse_request_headers(request.headers.items())
        check_seq(context.seq)
        body = await _body(request, _most_bytes(service))
        caller = await service.identify(signed, context, f"{request.method} {request.url.path}", body)
        asked = parse(body)
        return await service.submit(caller, asked.work()), asked


@contextmanager
def _counted(service: InferenceService) -> Iterator[None]:
    try:
        yield
    except Refusal as refusal:
        service.metrics.request_refused(str(refusal.code))
        raise
    except InvalidHeader as error:
        service.metrics.request_refused(str(refusal_of(error).code))
        raise


def _most_bytes(service: InferenceService) -> int:
    """The largest body that any offer allows: no more is read before it is known who asks."""
    allowed = [int(offer.document["caps"]["max_body_bytes"]) for offer in service.offers.all()]
    return min(MAX_BODY_BYTES, max(allowed, default=0))


async def _body(request: Request, most: int) -> bytes:
    refusal = Refusal(RefusalCode.CAPS, f"the body has more than {most} bytes", max_body_bytes=most)
    announced = request.headers.get("content-length", "")
    if announced.isascii() and announced.isdigit() and int(announced[:20]) > most:
        raise refusal
    received = bytearray()
    async for chunk in request.stream():
        received += chunk
        if len(received) > most:
            raise refusal
    return bytes(received)
