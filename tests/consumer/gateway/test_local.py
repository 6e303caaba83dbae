"""Local models: a real `llama_cpp.server` with the tiny model, started on demand, killed, continued, ended."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from consumer.gateway.events import Asked, Chunk, Delivered, FailureClass, Leg, Part, RouteFailed
from consumer.gateway.local import Locals
from consumer.gateway.settings import LocalSettings
from tests.support.engines import tiny_model
from tests.support.tiny_gguf import prompt_tokens
from tests.support.waiting import until

MESSAGES = [{"role": "user", "content": "Hi"}]
GREEDY: dict[str, Any] = {"model": "local/tiny", "messages": MESSAGES, "temperature": 0, "max_tokens": 12}
pytestmark = pytest.mark.usefixtures("engine_slot")


def asked(**more: Any) -> Asked:
    return Asked("/v1/chat/completions", {**GREEDY, **more}, "k")


def entries_of(parts: list[Part]) -> list[dict[str, Any]]:
    return [entry for part in parts if isinstance(part, Chunk) for entry in part.entries]


def text_of(parts: list[Part]) -> str:
    return "".join(entry["delta"].get("content") or "" for entry in entries_of(parts))


def children() -> list[psutil.Process]:
    """Processes of local models; other tests have other children."""
    return [child for child in psutil.Process().children() if _is_model(child)]


def _is_model(process: psutil.Process) -> bool:
    try:
        return any("local_child" in word for word in process.cmdline())
    except psutil.Error:
        return False


@pytest.fixture
async def models() -> AsyncIterator[Locals]:
    found = Locals({"tiny": LocalSettings(path=tiny_model(), context=256, threads=1)}, idle_s=60)
    yield found
    await found.close()
    assert not children()


async def test_answer__comes_with_counts_and_starts_one_process(models: Locals) -> None:
    assert not children()
    parts = [part async for part in models.answer(asked(), Delivered(), "tiny")]
    again = [part async for part in models.answer(asked(), Delivered(), "tiny")]
    assert text_of(parts)
    assert text_of(parts) == text_of(again)
    assert len(children()) == 1
    leg = parts[-1]
    assert isinstance(leg, Leg)
    assert (leg.route, leg.ended, leg.prompt_tokens) == ("local/tiny", "finished", prompt_tokens(MESSAGES))
    assert leg.completion_tokens > 0
    assert [entry["finish_reason"] for entry in entries_of(parts)][-1] == "length"


async def test_process__keeps_its_key_and_ours_to_itself(models: Locals, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLAWMARKET_PASSWORD", "of the keystore")
    async for _ in models.answer(asked(max_tokens=1), Delivered(), "tiny"):
        pass
    process = children()[0]
    environment = process.environ()
    assert "CLAWMARKET_PASSWORD" not in environment
    key = environment["CLAWMARKET_LOCAL_KEY"]
    assert key not in " ".join(process.cmdline())
    listening = [found for found in process.net_connections() if found.status == psutil.CONN_LISTEN]
    assert [found.laddr.ip for found in listening] == ["127.0.0.1"]
    import httpx

    async with httpx.AsyncClient() as http:
        url = f"http://127.0.0.1:{listening[0].laddr.port}/v1/models"
        assert (await http.get(url)).status_code == 401
        assert (await http.get(url, headers={"Authorization": f"Bearer {key}"})).status_code == 200


async def test_kill__breaks_off_with_a_leg_and_the_next_question_starts_anew(models: Locals) -> None:
    parts = models.answer(asked(max_tokens=200), Delivered(), "tiny")
    assert isinstance(await anext(parts), Chunk)
    children()[0].kill()
    with pytest.raises(RouteFailed) as caught:
        assert all([isinstance(part, Chunk) async for part in parts])
    assert caught.value.failure is FailureClass.UNREACHABLE
    assert caught.value.leg is not None
    assert caught.value.leg.ended == "unreachable"
    assert text_of([part async for part in models.answer(asked(), Delivered(), "tiny")])
    assert len(children()) == 1


async def test_continuation__goes_on_where_the_answer_broke_off(models: Locals) -> None:
    delivered = Delivered("abcd")
    rest = [part async for part in models.answer(asked(), delivered, "tiny")]
    by_hand = {"prompt": "user: Hi\nassistant: abcd", "temperature": 0, "max_tokens": 8}
    parts = [part async for part in models.answer(Asked("/v1/completions", by_hand, "k"), Delivered(), "tiny")]
    expected = "".join(entry["text"] for entry in entries_of(parts))
    assert expected
    assert text_of(rest) == expected
    assert delivered.text == "abcd" + expected
    leg, other = rest[-1], parts[-1]
    assert isinstance(leg, Leg)
    assert isinstance(other, Leg)
    assert leg.prompt_tokens == other.prompt_tokens == prompt_tokens(MESSAGES) + 4
    assert leg.completion_tokens == other.completion_tokens
    assert [entry["finish_reason"] for entry in entries_of(rest)][-1] == "length"


async def test_cancelled__the_model_is_free_for_the_next(models: Locals) -> None:
    parts = models.answer(asked(max_tokens=200), Delivered(), "tiny")
    await anext(parts)
    await parts.aclose()
    assert text_of([part async for part in models.answer(asked(), Delivered(), "tiny")])


@pytest.mark.parametrize(
    ("path", "more", "code"),
    [
        ("/v1/embeddings", {"input": "x"}, "unsupported_parameter"),
        ("/v1/chat/completions", {"logprobs": True}, "unsupported_parameter"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x" * 300}]}, "context_length_exceeded"),
    ],
)
async def test_what_it_cannot_do__is_said(models: Locals, path: str, more: dict[str, Any], code: str) -> None:
    with pytest.raises(RouteFailed) as caught:
        await anext(models.answer(Asked(path, {**GREEDY, **more}, "k"), Delivered(), "tiny"))
    assert (caught.value.failure, caught.value.code) == (FailureClass.BAD_REQUEST, code)


async def test_unusable_file__is_unreachable(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(tiny_model().read_bytes()[:-200_000])
    paths = {"none": tmp_path / "none.gguf", "damaged": damaged}
    models = Locals({name: LocalSettings(path=path) for name, path in paths.items()}, idle_s=60)
    for name in paths:
        with pytest.raises(RouteFailed) as caught:
            await anext(models.answer(asked(), Delivered(), name))
        assert caught.value.failure is FailureClass.UNREACHABLE
    assert not children()
    await models.close()


_GATEWAY = """
import asyncio, sys
from pathlib import Path
from consumer.gateway.events import Asked, Delivered
from consumer.gateway.local import Locals
from consumer.gateway.settings import LocalSettings

async def main():
    models = Locals({"tiny": LocalSettings(path=Path(sys.argv[1]), context=256, threads=1)}, idle_s=60)
    content = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    async for _ in models.answer(Asked("/v1/chat/completions", content, "k"), Delivered(), "tiny"):
        pass
    print("answered", flush=True)
    await asyncio.sleep(3600)

asyncio.run(main())
"""


async def test_gateway_killed__its_model_dies_with_it() -> None:
    gateway = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _GATEWAY, str(tiny_model()), stdout=subprocess.PIPE, cwd=Path(__file__).parents[3]
    )
    assert gateway.stdout is not None
    assert await gateway.stdout.readline() == b"answered\n"
    (model,) = psutil.Process(gateway.pid).children()
    os.kill(gateway.pid, signal.SIGKILL)
    await gateway.wait()
    await until(lambda: not model.is_running() or model.status() == psutil.STATUS_ZOMBIE)
