"""Work that arrives together is done piece by piece, and each piece is on its way before the next begins."""

import asyncio
import gc
import weakref

from consumer.turns import turn


async def test_each_is_sent_before_the_next_begins() -> None:
    done: list[str] = []

    async def work(name: str) -> None:
        await turn()
        done.append(f"begin {name}")
        for _ in range(2):
            await asyncio.sleep(0)  # what it waits for is there already
        done.append(f"send {name}")

    await asyncio.gather(*(work(name) for name in "abc"))
    assert done == ["begin a", "send a", "begin b", "send b", "begin c", "send c"]


async def test_who_leaves_gives_its_turn_on() -> None:
    done: list[str] = []

    async def work(name: str) -> None:
        await turn()
        done.append(name)

    tasks = [asyncio.create_task(work(name)) for name in "abcd"]
    await asyncio.sleep(0)
    tasks[1].cancel()
    tasks[2].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert done == ["a", "d"]


async def test_nobody_waits_where_nobody_works() -> None:
    for _ in range(3):
        waiting = turn()
        try:
            waiting.send(None)
        except StopIteration:
            pass
        else:
            raise AssertionError("waited")
        await asyncio.sleep(0.01)


def test_every_loop_has_its_own_and_takes_it_along() -> None:
    ended = []
    for _ in range(3):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(asyncio.wait_for(turn(), 5))
        loop.close()
        ended.append(weakref.ref(loop))
    del loop
    gc.collect()
    assert [each() for each in ended] == [None] * 3
