"""A server behind an offer that does what it should not: requests end, receipts stay right, nothing grows."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from protocol.keystore import Password
from protocol.merkle import quantise_logprob
from provider.backend import Done, GenerationRequest, JsonOutput, Prompt, Token
from provider.backends import openai, upstream
from provider.backends.openai import OpenAIBackend
from provider.backends.upstream import Delta, UpstreamToken, parse_chunk
from provider.backends.wording import NOT_STATED, Wording
from provider.config import BackendSection
from provider.engine.bare import BareHost
from provider.engine.client import EngineSettings
from provider.engine.errors import EngineStartError, GenerationError
from tests.support.engine_slots import hold_engine_slots
from tests.support.engines import tiny_model
from tests.support.provider_stack import provider_stack
from tests.support.raw_gateway import RawGateway, chat_body, prepare
from tests.support.raw_upstream import HEAD, MODEL, Behaviour, RawUpstream, chunk, forever, raw_upstream, saying
from tests.support.tiny_gguf import CONTEXT, FIRST_BYTE_TOKEN, VOCABULARY, prompt_tokens
from tests.support.waiting import until

MESSAGES = [{"role": "user", "content": "hello"}]
ASK = GenerationRequest(Prompt(messages=MESSAGES), max_tokens=20, temperature=0)
SPACE_TOKEN = VOCABULARY - 1
SETTINGS = EngineSettings(tiny_model(), context=CONTEXT)


@pytest.fixture(autouse=True)
def slot() -> Iterator[None]:
    with hold_engine_slots(1):
        yield


def section(server: RawUpstream, **changes: object) -> BackendSection:
    return BackendSection.model_validate({"url": server.url, "model": MODEL, **changes})


@asynccontextmanager
async def backend(
    behave: Behaviour | None = None, **changes: object
) -> AsyncIterator[tuple[OpenAIBackend, RawUpstream]]:
    async with raw_upstream() as server:
        server.behave = behave
        found = OpenAIBackend(section(server, **changes), None, SETTINGS, BareHost())
        await found.start()
        try:
            yield found, server
        finally:
            await found.stop()


async def answer(found: OpenAIBackend, request: GenerationRequest = ASK) -> tuple[str, list[Token], Done]:
    events = [event async for event in await found.generate(request)]
    done = events.pop()
    assert isinstance(done, Done)
    tokens = [event for event in events if isinstance(event, Token)]
    return "".join(token.text for token in tokens) + done.text, tokens, done


async def test_text_becomes_our_tokens_whatever_the_server_says_of_usage() -> None:
    lie = b'data: {"choices": [], "usage": {"prompt_tokens": 9999, "completion_tokens": 9999}}\n\n'
    behave = saying(chunk("Hi "), lie, chunk("wör"), chunk("ld", "stop"), lie)
    async with backend(behave) as (found, server):
        text, tokens, done = await answer(found)
        assert text == "Hi wörld"
        assert b"".join(token.piece for token in tokens).decode() == text
        assert [token.token for token in tokens] == [
            SPACE_TOKEN if byte == ord(" ") else byte + FIRST_BYTE_TOKEN for byte in "Hi wörld".encode()
        ]
        assert (done.finish_reason, done.generated_tokens, done.cached_tokens) == ("stop", 9, 0)
        assert done.prompt_tokens == prompt_tokens(MESSAGES) == await found.count(ASK.prompt)
        assert {quantise_logprob(token.logprob) for token in tokens} == {-(2**31)}
        assert server.requests[0]["prompt"] == "user: hello\nassistant: "
        assert (server.requests[0]["model"], server.requests[0]["max_tokens"]) == (MODEL, 20)


async def test_stated_tokens_keep_their_logprobs_and_impossible_ones_are_not_believed() -> None:
    stated = {"tokens": ["a", "b"], "token_logprobs": [-0.5, 7.0], "top_logprobs": [{"a": -0.5, "no": -1}, None]}
    wrong = {"tokens": ["x"], "token_logprobs": [-0.25]}
    behave = saying(chunk("ab", logprobs=stated), chunk("c", "stop", logprobs=wrong))
    async with backend(behave, logprobs=True) as (found, server):
        _, tokens, _ = await answer(found, replace(ASK, logprobs=2))
        assert [token.logprob for token in tokens] == [-0.5, 0.0, NOT_STATED]
        assert [top.piece for top in tokens[0].top] == [b"a"]
        assert server.requests[0]["logprobs"] == 2


async def test_chats_carry_messages_and_schemas() -> None:
    behave = saying(b'data: {"choices": [{"delta": {"content": "{}"}, "finish_reason": "stop"}]}\n\n')
    async with backend(behave, api="chat") as (found, server):
        request = replace(ASK, output=JsonOutput({"type": "object"}), stop=("END",), seed=5, presence_penalty=0.5)
        text, _, _ = await answer(found, request)
        assert text == "{}"
        sent = server.requests[0]
        assert (sent["messages"], sent["stop"], sent["seed"], sent["presence_penalty"]) == (MESSAGES, ["END"], 5, 0.5)
        assert sent["response_format"]["json_schema"]["schema"] == {"type": "object"}
        with pytest.raises(GenerationError, match="answers chats only"):
            await found.generate(replace(ASK, prompt=Prompt(text="x")))


async def test_stop_strings_and_limits_hold_without_the_servers_help() -> None:
    async with backend(forever(chunk("abc "))) as (found, server):
        text, tokens, done = await answer(found, replace(ASK, stop=("c a",)))
        assert (text, done.finish_reason) == ("ab", "stop")
        await until(lambda: not server.is_open)
        text, tokens, done = await answer(found)
        assert (len(tokens), done.finish_reason) == (20, "length")
        await until(lambda: not server.is_open)


@pytest.mark.parametrize(
    "behave",
    [
        saying(b"data: nonsense\n\n"),
        saying(b"data: [" + b"[" * 100_000 + b"\n\n"),
        saying(b'data: {"choices": [{"text": 5}]}\n\n'),
        saying(b'data: {"choices": 7}\n\n'),
        saying(b'data: {"error": {"message": "out of memory"}}\n\n'),
        saying(chunk("cut off")),
        saying(b"\xff\xfe\x00" * 1000),
        forever(b"x" * 65_536),
        forever(b": keep-alive\n\n" * 4_096),
        forever(chunk("") * 1_024),
        saying(chunk("x" * 300_000)),
    ],
    ids=["no json", "deep", "number", "shape", "error", "cut", "binary", "no line end", "comments", "empty", "long"],
)
async def test_nonsense_fails_the_request_and_no_other(behave: Behaviour) -> None:
    async with backend(behave) as (found, server):
        with pytest.raises(GenerationError) as failed:
            async with asyncio.timeout(30):
                await answer(found)
        assert failed.value.code == "engine_failed"
        await until(lambda: not server.is_open)
        server.behave = saying(chunk("good", "stop"))
        assert (await answer(found))[0] == "good"


async def test_a_slow_drip_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai, "FIRST_S", 0.3)
    async with backend(forever(b"d", pause_s=0.05)) as (found, server):
        with pytest.raises(GenerationError, match="stopped answering"):
            await answer(found)
        await until(lambda: not server.is_open)


@pytest.mark.parametrize(
    ("status", "code"), [(429, "overloaded"), (503, "overloaded"), (500, "engine_failed"), (401, "engine_failed")]
)
async def test_refusals_of_the_server(status: int, code: str) -> None:
    async def behave(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 %d No\r\nConnection: close\r\nContent-Length: 6\r\n\r\nsecret" % status)
        await writer.drain()

    async with backend(behave) as (found, _):
        with pytest.raises(GenerationError) as failed:
            await answer(found)
        assert failed.value.code == code
        assert "secret" not in str(failed.value)


async def test_redirects_are_not_followed() -> None:
    async with raw_upstream() as elsewhere:
        elsewhere.behave = saying(chunk("stolen", "stop"))

        async def behave(writer: asyncio.StreamWriter) -> None:
            target = elsewhere.url.encode() + b"/completions"
            writer.write(b"HTTP/1.1 307 Go\r\nConnection: close\r\nContent-Length: 0\r\nLocation: %b\r\n\r\n" % target)
            await writer.drain()

        async with backend(behave) as (found, _):
            with pytest.raises(GenerationError, match="answers with 307"):
                await answer(found)
        assert elsewhere.heads == []


async def test_a_pause_holds_the_server_back() -> None:
    sent = 0
    text = "y" * 1_000

    async def behave(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(HEAD)
        while True:
            writer.write(chunk("") + b": " + text.encode() + b"\n\n")
            if sent % 1_000 == 0:
                writer.write(chunk("z "))
            await writer.drain()
            sent += 1

    async def settled() -> int:
        """What was sent until all buffers are full and nothing more is."""
        async with asyncio.timeout(60):
            while True:
                before = sent
                await asyncio.sleep(0.5)
                if sent == before:
                    return before

    async with backend(behave) as (found, server):
        generation = await found.generate(replace(ASK, max_tokens=200))
        stream = aiter(generation)
        await anext(stream)
        await generation.pause()
        waiting = asyncio.ensure_future(anext(stream))
        before = await settled()
        await generation.resume()
        assert isinstance(await waiting, Token)
        await until(lambda: sent > before)
        await generation.cancel()
        rest = [event async for event in stream]
        assert isinstance(rest[-1], Done)
        assert rest[-1].finish_reason == "cancelled"
        await until(lambda: not server.is_open)


async def test_cancelling_a_silent_answer_ends_it_at_once() -> None:
    async with backend(forever(b": nothing\n\n", pause_s=0.05)) as (found, server):
        generation = await found.generate(ASK)
        ending = asyncio.ensure_future(anext(aiter(generation)))
        await until(lambda: server.is_open)
        await generation.cancel()
        done = await asyncio.wait_for(ending, 2)
        assert isinstance(done, Done)
        assert done.finish_reason == "cancelled"


async def test_a_server_that_fails_costs_what_came_and_ends_in_one_final_receipt(tmp_path: Path) -> None:
    async with raw_upstream() as server:
        found = OpenAIBackend(section(server), None, SETTINGS, BareHost())
        async with provider_stack(tmp_path, backend=found, credit=100_000) as stack, RawGateway(stack.url) as gateway:
            server.behave = saying(chunk("one two three "), chunk("four "))
            lease = stack.add_lease()
            prepared = prepare(lease.lease_id)
            received = await gateway.ask(prepared)
            assert received.error is not None
            assert received.text == "one two three four"
            assert received.final.units_out == len(received.tokens) == len("one two three four")
            assert received.final.cost == received.final.units_in * 10 + received.final.units_out * 30
            assert [receipt.message.final for receipt in received.receipts].count(True) == 1
            assert stack.ledger.account(lease.lease_id).served == received.final.cost
            server.behave = saying(chunk("unseen", "stop"))
            again = await gateway.post(prepared)
            assert stack.ledger.account(lease.lease_id).served == received.final.cost
            assert "unseen" not in again.text
            server.behave = saying(chunk("well", "stop"))
            good = await gateway.ask(
                prepare(lease.lease_id, seq=1, cumulative=received.final.cost, body=chat_body(max_tokens=8))
            )
            assert (good.text, good.final.units_out, good.finish_reason) == ("well", 4, "stop")
            stack.ledger.check()


async def test_a_key_goes_to_the_server_and_nowhere_else(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    key = "sk-very-secret"
    async with raw_upstream() as server:
        found = OpenAIBackend(section(server), Password(key), SETTINGS, BareHost())
        server.behave = saying(b"data: bad\n\n")
        await found.start()
        with pytest.raises(GenerationError) as failed:
            await answer(found)
        await found.stop()
    assert all(f"Authorization: Bearer {key}" in head for head in server.heads)
    assert key not in caplog.text + repr(found) + str(vars(found)) + str(failed.value)


async def test_a_server_without_the_model_or_without_manners_does_not_start() -> None:
    async with raw_upstream() as server:
        wrong = OpenAIBackend(section(server, model="other"), None, SETTINGS, BareHost())
        with pytest.raises(EngineStartError, match=f"has no model other; it has {MODEL}"):
            await wrong.start()
        await wrong.stop()
    gone = OpenAIBackend(section(server), None, SETTINGS, BareHost())
    with pytest.raises(EngineStartError, match="cannot be reached"):
        await gone.start()
    await gone.stop()


def test_plain_http_takes_no_key_abroad() -> None:
    with pytest.raises(ValueError, match="https only"):
        BackendSection.model_validate({"url": "http://203.0.113.7/v1", "model": "m", "key_env": "K"})
    BackendSection.model_validate({"url": "http://127.0.0.1:8080/v1", "model": "m", "key_env": "K"})
    BackendSection.model_validate({"url": "https://203.0.113.7/v1", "model": "m", "key_env": "K"})


def test_chunks_are_bounded_and_well_formed() -> None:
    assert parse_chunk(b'{"choices": [{"text": "\\ud800"}]}') == Delta("?")
    with pytest.raises(GenerationError):
        parse_chunk(b'{"choices": [{"text": "a", "logprobs": {"tokens": ["a", "b"], "token_logprobs": [1]}}]}')
    assert upstream.MAX_LINE_BYTES < 2**20


async def test_tokenizers_that_begin_with_a_space_still_spell_exactly() -> None:
    async def tokenize(text: str) -> list[tuple[int, bytes]]:
        return [(1, b" "), *((ord(letter), letter.encode()) for letter in text)]

    wording = Wording(tokenize, {})
    found = await wording.push(Delta("ab c", (UpstreamToken("ab c", -1.0),), "stop"))
    assert b"".join(word.piece for word in found) == b"ab c"
