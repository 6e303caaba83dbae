"""Several real engines in little memory: loaded once, put out when unused, never while in use, none left behind."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psutil
import pytest

from protocol.headers import RefusalCode
from provider.backend import Done, GenerationRequest, Prompt, Token
from provider.engine.bare import BareHost
from provider.engine.client import EngineClient, EngineSettings
from provider.engine.errors import EngineStartError
from provider.exceptions import ConfigError, Refusal
from provider.models import pool as pool_module
from provider.models.files import ChangedFile, FileDigests, ModelFile, sha256_of
from provider.models.pool import ModelKey, ModelPool, PooledModel, key_of
from provider.offers import Offer
from tests.support.engine_slots import hold_engine_slots
from tests.support.provider_stack import make_offer
from tests.support.tiny_gguf import write_tiny_gguf
from tests.support.waiting import until

ASK = GenerationRequest(Prompt(messages=[{"role": "user", "content": "abc"}]), max_tokens=4, temperature=0)


@dataclass
class Zoo:
    """Tiny models 0, 1, 2 … of 100 bytes each, as the pool is told."""

    pool: ModelPool
    offers: list[Offer]
    paths: list[Path]
    starts: list[int] = field(default_factory=list)

    def names(self) -> list[str]:
        return self.pool.loaded()


@pytest.fixture(autouse=True, scope="module")
def slot() -> Iterator[None]:
    with hold_engine_slots(2):
        yield


def engines() -> list[psutil.Process]:
    """Engine processes of this test, zombies included."""
    return [child for child in psutil.Process().children() if "provider.engine" in " ".join(_command(child))]


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@asynccontextmanager
async def zoo(folder: Path, count: int, budget: int, *, wait_s: float = 20.0, start: bool = True) -> AsyncIterator[Zoo]:
    digests = FileDigests(folder / "digests.json")
    found = Zoo(ModelPool({}, 0), [], [])
    models: dict[ModelKey, PooledModel] = {}

    def make(number: int) -> EngineClient:
        found.starts.append(number)
        return EngineClient(EngineSettings(found.paths[number], threads=1, parallel=2, context=64), BareHost())

    for number in range(count):
        path = write_tiny_gguf(folder / f"{number}.gguf", seed=number + 1)
        offer = make_offer()
        offer.document["model"].update(gguf_sha256=sha256_of(path), name=f"tiny-{number}")
        found.paths.append(path)
        found.offers.append(offer)
        file = ModelFile(path, sha256_of(path))
        models[key_of(offer)] = PooledModel(f"tiny-{number}", 100, partial(digests.check, file), partial(make, number))
    found.pool = ModelPool(models, budget, wait_s=wait_s)
    try:
        if start:
            await found.pool.start()
        yield found
    finally:
        await found.pool.stop()
        assert engines() == []


async def answer(zoo: Zoo, number: int) -> list[int]:
    """The tokens of a short greedy answer."""
    hold = await zoo.pool.acquire(zoo.offers[number])
    try:
        events = [event async for event in await hold.backend.generate(ASK)]
    finally:
        hold.release()
    assert isinstance(events[-1], Done)
    return [event.token for event in events if isinstance(event, Token)]


async def test_start_loads_what_fits_and_the_rest_on_demand(tmp_path: Path) -> None:
    async with zoo(tmp_path, 3, 200) as found:
        assert found.names() == ["tiny-0", "tiny-1"]
        assert len(engines()) == 2
        answers = [await answer(found, number) for number in range(3)]
        assert len({tuple(tokens) for tokens in answers}) == 3
        assert [await answer(found, number) for number in range(3)] == answers
        assert len(engines()) == 2
        assert found.pool.is_ready()


async def test_the_one_unused_longest_leaves(tmp_path: Path) -> None:
    async with zoo(tmp_path, 3, 200) as found:
        await answer(found, 1)
        await answer(found, 0)
        await answer(found, 2)
        assert found.names() == ["tiny-0", "tiny-2"]


async def test_a_model_in_use_stays_and_the_other_waits_a_bounded_time(tmp_path: Path) -> None:
    async with zoo(tmp_path, 2, 100, wait_s=0.3) as found:
        hold = await found.pool.acquire(found.offers[0])
        with pytest.raises(Refusal) as refused:
            await found.pool.acquire(found.offers[1])
        assert refused.value.code is RefusalCode.BUSY
        assert refused.value.details == {"retry_after_s": 1}
        assert found.names() == ["tiny-0"]
        assert [event async for event in await hold.backend.generate(ASK)]
        hold.release()
        hold.release()


async def test_a_waiting_request_gets_its_model_when_the_other_is_let_go(tmp_path: Path) -> None:
    async with zoo(tmp_path, 2, 100) as found:
        first = await found.pool.acquire(found.offers[0])
        second = await found.pool.acquire(found.offers[0])
        waiting = asyncio.create_task(found.pool.acquire(found.offers[1]))
        first.release()
        first.release()
        await asyncio.sleep(0.1)
        assert not waiting.done()
        second.release()
        (await waiting).release()
        assert found.names() == ["tiny-1"]


async def test_many_requests_for_one_model_load_it_once(tmp_path: Path) -> None:
    async with zoo(tmp_path, 1, 100, start=False) as found:
        holds = await asyncio.gather(*(found.pool.acquire(found.offers[0]) for _ in range(20)))
        assert found.starts == [0]
        assert len({id(hold.backend) for hold in holds}) == 1


async def test_a_request_that_gives_up_does_not_stop_the_loading(tmp_path: Path) -> None:
    async with zoo(tmp_path, 1, 100, start=False) as found:
        impatient = asyncio.create_task(found.pool.acquire(found.offers[0]))
        await asyncio.sleep(0.01)
        impatient.cancel()
        (await found.pool.acquire(found.offers[0])).release()
        assert found.starts == [0]


async def test_a_model_that_does_not_load_is_refused_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "RETRY_DELAYS_S", (60.0,))
    async with zoo(tmp_path, 2, 100) as found:
        good = found.paths[1].read_bytes()
        found.paths[1].unlink()
        for _ in range(3):
            with pytest.raises(Refusal) as refused:
                await found.pool.acquire(found.offers[1])
            assert (refused.value.code, refused.value.status) == ("model_unavailable", 503)
            assert str(tmp_path) not in str(refused.value)
        assert found.starts == [0, 1]
        assert not found.pool.is_ready()
        assert await answer(found, 0)
        found.paths[1].write_bytes(good)
        slot = found.pool._slots[key_of(found.offers[1])]
        assert 0 < slot.retry_at - asyncio.get_running_loop().time() <= 60
        slot.retry_at -= 60
        assert await answer(found, 1)
        assert found.pool.is_ready()


async def test_a_file_swapped_while_the_worker_runs_is_refused_at_the_next_load(tmp_path: Path) -> None:
    async with zoo(tmp_path, 2, 100) as found:
        promised = await answer(found, 0)
        await answer(found, 1)
        path = found.paths[0]
        write_tiny_gguf(path, seed=77)
        with pytest.raises(Refusal, match="cannot be loaded"):
            await found.pool.acquire(found.offers[0])
        assert engines() == []
        unchecked = EngineClient(EngineSettings(path, threads=1, parallel=2, context=64), BareHost())
        await unchecked.start()
        got = [event async for event in await unchecked.generate(ASK)]
        await unchecked.stop()
        assert [event.token for event in got if isinstance(event, Token)] != promised


async def test_a_file_swapped_between_check_and_load_is_refused(tmp_path: Path) -> None:
    async with zoo(tmp_path, 1, 100, start=False) as found:
        (slot,) = found.pool._slots.values()
        real = slot.model.make

        def swap_then_make() -> pool_module.Server:
            server = real()
            start = server.start

            async def swapping_start() -> None:
                write_tiny_gguf(found.paths[0], seed=78)
                await start()

            server.start = swapping_start  # type: ignore[method-assign]
            return server

        slot.model = PooledModel("tiny-0", 100, slot.model.check, swap_then_make)
        with pytest.raises(Refusal, match="cannot be loaded"):
            await found.pool.acquire(found.offers[0])
        assert isinstance(slot.failure, ChangedFile)


async def test_start_with_a_wrong_or_missing_file_fails_and_leaves_no_process(tmp_path: Path) -> None:
    async with zoo(tmp_path, 2, 200, start=False) as found:
        write_tiny_gguf(found.paths[1], seed=79)
        with pytest.raises(ChangedFile, match="is another file than promised"):
            await found.pool.start()
        assert engines() == []
    async with zoo(tmp_path, 2, 200, start=False) as found:
        found.paths[1].write_bytes(b"GGUF nonsense")
        digest = sha256_of(found.paths[1])
        key = list(found.pool._slots)[1]
        slot = found.pool._slots[key]
        slot.model = PooledModel("tiny-1", 100, lambda: None, slot.model.make)
        assert digest != key.gguf_sha256
        with pytest.raises(EngineStartError, match="safe to load"):
            await found.pool.start()


async def test_stopping_while_a_model_loads_leaves_no_process(tmp_path: Path) -> None:
    async with zoo(tmp_path, 1, 100, start=False) as found:
        waiting = asyncio.create_task(found.pool.acquire(found.offers[0]))
        await asyncio.sleep(0.15)
        await found.pool.stop()
        with pytest.raises(Refusal, match="shutting down"):
            await waiting


async def test_an_engine_killed_in_memory_comes_back(tmp_path: Path) -> None:
    async with zoo(tmp_path, 1, 100) as found:
        before = await answer(found, 0)
        engines()[0].kill()
        await until(lambda: not found.pool.is_ready() or not engines())
        await until(lambda: found.pool.is_ready() and bool(engines()))
        assert await answer(found, 0) == before


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
async def test_any_order_of_requests(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    async with zoo(tmp_path, 4, 200) as found:
        expected = [await answer(found, number) for number in range(4)]
        most = 0

        async def client() -> None:
            nonlocal most
            for _ in range(4):
                number = chance.randrange(4)
                await asyncio.sleep(chance.random() / 50)
                asking = asyncio.create_task(answer(found, number))
                if chance.random() < 0.25:
                    await asyncio.sleep(chance.random() / 5)
                    asking.cancel()
                    await asyncio.gather(asking, return_exceptions=True)
                else:
                    assert await asking == expected[number]
                most = max(most, len(engines()))

        await asyncio.gather(*(client() for _ in range(5)))
        assert 0 < most <= 2
        assert all(slot.holds == 0 for slot in found.pool._slots.values())


def test_a_model_larger_than_all_memory_is_a_clear_error() -> None:
    model = PooledModel("big", 2 << 30, lambda: None, lambda: EngineClient(EngineSettings(Path("big")), BareHost()))
    with pytest.raises(ConfigError, match="the model big needs about 2,048 MiB"):
        ModelPool({ModelKey("00", "llama.cpp"): model}, 1 << 30)


async def test_an_offer_of_an_unknown_model_or_engine_is_refused(tmp_path: Path) -> None:
    async with zoo(tmp_path, 1, 100, start=False) as found:
        found.offers[0].document["model"]["engine"]["name"] = "openai-compatible"
        with pytest.raises(Refusal, match="not served any more") as refused:
            await found.pool.acquire(found.offers[0])
        assert refused.value.code is RefusalCode.TERMS
