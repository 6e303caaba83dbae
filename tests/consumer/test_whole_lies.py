"""Whole answers that do not bring what they bill: completions and embeddings are held to what arrived."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from consumer.exceptions import ReceiptRejected
from consumer.httpx_auth import MarketAuth
from consumer.lease_client import LeaseClient
from consumer.records import RequestState
from consumer.store import Store
from consumer.tokenizer import PromptCounter
from protocol.headers import ResponseHeaders, parse_request_headers
from protocol.merkle import response_root
from tests.consumer.buyer import record_of
from tests.consumer.hostile_provider import PRICE_IN, PRICE_OUT, HostileProvider, Seen
from tests.support.provider_stack import DOMAIN, SESSION, TestClock, make_lease, make_offer
from tests.support.serving import serve
from tests.support.tiny_gguf import NAME

pytestmark = pytest.mark.asyncio

VECTOR = [600_000, 800_000]


def lying(prompt: int, vectors: list[list[int]] | None, lie: dict[str, Any]) -> FastAPI:
    """A provider of whole answers: "abc", or these vectors; `lie` changes its receipt."""
    said = HostileProvider(prompt)

    async def answer(request: Request) -> Response:
        voucher, context = parse_request_headers(request.headers.items())
        seen = Seen(voucher, context, {}, await request.body())
        content: dict[str, Any]
        if vectors is None:
            receipt = said.receipt(seen, 3)
            tokens = [[token.token_id, token.logprob] for token, _ in said.answer]
            ours = {"tokens": tokens, "counts": [len(tokens)]}
            content = {"choices": [{"index": 0, "text": "abc"}], "clawmarket": ours}
        else:
            root = response_root(enumerate(part for vector in vectors for part in vector))
            receipt = said.receipt(seen, 0, response_hash=root)
            content = {"data": [{"embedding": [part / 1e6 for part in vector]} for vector in vectors]}
        signed = said.sign(replace(receipt, **lie))
        return JSONResponse(content, headers=ResponseHeaders(receipt=signed).encode())

    app = FastAPI()
    app.post("/v1/completions")(answer)
    app.post("/v1/embeddings")(answer)
    return app


async def ask(folder: Path, counter: PromptCounter, path: str, body: dict[str, Any], app: FastAPI) -> tuple[int, Any]:
    """What is owed after one question, and its state."""
    async with serve(app) as url:
        record = record_of(make_lease(make_offer().terms), url)
        store = Store(folder / "store.sqlite", DOMAIN)
        store.add_lease(record)
        client = LeaseClient(
            domain=DOMAIN, store=store, record=record, signer=SESSION, now=TestClock().now, counter=counter
        )
        auth = MarketAuth(client)
        try:
            async with httpx.AsyncClient(auth=auth, base_url=url) as http:
                await http.post(path, json={"model": NAME, **body})
        except ReceiptRejected:
            pass
        await auth.aclose()
        found = store.owed(record.lease_id), store.state(record.lease_id, 0)
        store.close()
        return found


LIES: list[Callable[[int], dict[str, Any]]] = [
    lambda prompt: {"units_in": prompt + 1, "cost": (prompt + 1) * PRICE_IN},
    lambda prompt: {"units_out": 4, "cost": prompt * PRICE_IN + 4 * PRICE_OUT},
    lambda prompt: {"cost": prompt * PRICE_IN + 3 * PRICE_OUT + 1},
    lambda prompt: {"response_hash": bytes(32)},
    lambda prompt: {"model_fingerprint": bytes(32)},
    lambda prompt: {"seq": 1},
    lambda prompt: {"request_hash": bytes(32)},
]


@pytest.mark.parametrize("lie", [None, *LIES])
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/embeddings"])
async def test_a_false_receipt_of_a_whole_answer_is_not_paid(
    tmp_path: Path, counter: PromptCounter, path: str, lie: Callable[[int], dict[str, Any]] | None
) -> None:
    embeds = path == "/v1/embeddings"
    body = {"input": "hello"} if embeds else {"prompt": "hello", "max_tokens": 20}
    prompt = counter.count_prompt("hello")
    app = lying(prompt, [VECTOR] if embeds else None, lie(prompt) if lie else {})
    owed, _ = await ask(tmp_path, counter, path, body, app)
    assert owed == (0 if lie else prompt * PRICE_IN + (0 if embeds else 3 * PRICE_OUT))


@pytest.mark.parametrize("vectors", [[], [VECTOR], [VECTOR, []], [VECTOR, [1_000_000]], [VECTOR] * 3])
async def test_vectors_that_did_not_come_are_not_paid(
    tmp_path: Path, counter: PromptCounter, vectors: list[list[int]]
) -> None:
    texts = ["one", "two"]
    prompt = sum(map(counter.count_prompt, texts))
    for name, given in (("honest", [VECTOR, VECTOR]), ("false", vectors)):
        (tmp_path / name).mkdir()
        app = lying(prompt, given, {})
        owed, state = await ask(tmp_path / name, counter, "/v1/embeddings", {"input": texts}, app)
        assert owed == (prompt * PRICE_IN if name == "honest" else 0)
        assert (state is RequestState.DISPUTED) == (name == "false")


@pytest.mark.parametrize(("streams", "encoding"), [(False, ""), (True, ""), (False, "aes128gcm")])
async def test_an_answer_in_another_form_than_was_asked_for_is_not_paid(
    tmp_path: Path, counter: PromptCounter, streams: bool, encoding: str
) -> None:
    """A client that streams shows nothing of a whole answer, and none shows what it cannot decode."""
    prompt = counter.count_prompt("hello")
    app = lying(prompt, None, {})
    if encoding:

        @app.middleware("http")
        async def encoded(request: Request, handle: Any) -> Any:
            answer = await handle(request)
            answer.headers["content-encoding"] = encoding
            return answer

    body = {"prompt": "hello", "max_tokens": 20, "stream": streams}
    owed, state = await ask(tmp_path, counter, "/v1/completions", body, app)
    is_honest = not streams and not encoding
    assert owed == (prompt * PRICE_IN + 3 * PRICE_OUT if is_honest else 0)
    assert (state is RequestState.SETTLED) == is_honest
