"""Waiting for the disk: who is told that a change is on it, and who is told that it is not."""

import asyncio
import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from consumer import disk
from consumer.exceptions import StoreError
from consumer.store import Store
from protocol.typed_data import Domain

DOMAIN = Domain(31337, "0x5FC8d32690cc91D4c39d9d3abcBD16989F875707")
CHANGES = 600
Change = Callable[[], None]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "consumer.sqlite", DOMAIN)
    yield opened
    opened.close()


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The thread of every write-out."""
    seen: list[int] = []
    write_out = os.fdatasync

    def note(descriptor: int) -> None:
        seen.append(threading.get_ident())
        write_out(descriptor)

    monkeypatch.setattr(os, "fdatasync", note)
    return seen


def note(store: Store, name: str, text: str = "") -> Change:
    """A change that can be seen."""

    def change() -> None:
        store._db.execute("INSERT INTO meta VALUES (?, ?)", (f"note {name}", text))

    return change


def noted(store: Store) -> set[str]:
    rows = store._db.execute("SELECT key FROM meta WHERE key LIKE 'note %'")
    return {key.removeprefix("note ") for (key,) in rows}


async def together(store: Store, *changes: Change) -> list[str]:
    """Makes them at once; what each was told, "" for success."""
    told = await asyncio.gather(*(store.write(change) for change in changes), return_exceptions=True)
    return ["" if each is None else str(each) for each in told]


async def test_a_change_that_fails_leaves_the_others(store: Store) -> None:
    def fail() -> None:
        note(store, "half")()
        raise StoreError("no")

    assert await together(store, note(store, "a"), fail, note(store, "b")) == ["", "no", ""]
    assert noted(store) == {"a", "b"}


async def test_a_full_disk_is_told_to_everybody_whose_change_is_not_on_it(store: Store) -> None:
    store._db.execute("PRAGMA max_page_count = 1")  # as many as there are now
    told = await together(store, *(note(store, name, "x" * 100_000) for name in "abcd"))
    assert all("disk is full" in each for each in told)
    assert noted(store) == set()
    store._db.execute("PRAGMA max_page_count = 100000")
    assert await together(store, note(store, "e")) == [""]


async def test_nobody_is_told_before_the_disk_has_it(store: Store, syncs: list[int]) -> None:
    for name in "abc":
        await store.write(note(store, name))
        assert len(syncs) >= len(noted(store))
    for name in "def":
        before = len(syncs)
        await store.write_later(note(store, name), lambda: None)
        assert len(syncs) > before
    before = len(syncs)
    store.drop_lease(bytes(32))
    assert len(syncs) == before + 1


async def test_many_wait_for_one_write_out(store: Store, syncs: list[int]) -> None:
    assert await together(store, *(note(store, str(number)) for number in range(50))) == [""] * 50
    assert len(syncs) == 1


async def test_what_nobody_is_held_up_by_goes_with_what_somebody_is(store: Store, syncs: list[int]) -> None:
    later = store.write_later(note(store, "a"), lambda: None)
    await store.write(note(store, "b"))
    assert later.done()
    assert len(syncs) == 1


@pytest.mark.parametrize("is_quick", [True, False])
async def test_only_a_slow_disk_is_waited_for_in_a_thread(
    store: Store, syncs: list[int], monkeypatch: pytest.MonkeyPatch, *, is_quick: bool
) -> None:
    monkeypatch.setattr(disk, "QUICK_S", 1e9 if is_quick else -1.0)
    assert await together(store, note(store, "a"), note(store, "b")) == ["", ""]
    assert await together(store, note(store, "c")) == [""]
    assert {thread == threading.get_ident() for thread in syncs} == {is_quick}


async def test_what_follows_follows_also_if_nobody_waits_any_more(store: Store) -> None:
    followed = asyncio.Event()
    waiting = store.write_later(note(store, "a"), followed.set)
    waiting.cancel()
    await followed.wait()
    assert noted(store) == {"a"}


@pytest.mark.parametrize("is_quick", [True, False])
async def test_after_a_write_out_that_failed_nothing_is_believed(
    store: Store, monkeypatch: pytest.MonkeyPatch, *, is_quick: bool
) -> None:
    """What the system could not write out it may forget: a later write-out that succeeds says nothing of it."""
    monkeypatch.setattr(disk, "QUICK_S", 1e9 if is_quick else -1.0)
    followed: list[str] = []

    def broken(_: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", broken)
        later = store.write_later(note(store, "a"), lambda: followed.append("a"))
        told = [
            *await together(store, note(store, "b")),
            *map(str, await asyncio.gather(later, return_exceptions=True)),
        ]
    assert all("did not take the records (Input/output error)" in each for each in told)
    assert followed == []
    assert "did not take the records" in (await together(store, note(store, "c")))[0]
    with pytest.raises(StoreError, match="did not take the records"):
        store.drop_lease(bytes(32))


async def test_a_failure_that_the_system_tells_once_is_told_to_all(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_out, failures = os.fdatasync, [OSError(5, "Input/output error")]

    def once(descriptor: int) -> None:
        if failures:
            raise failures.pop()
        write_out(descriptor)

    monkeypatch.setattr(os, "fdatasync", once)
    waiting = store.write_later(note(store, "a"), lambda: None)
    with pytest.raises(StoreError, match="did not take the records"):
        store.drop_lease(bytes(32))
    with pytest.raises(StoreError, match="did not take the records"):
        await waiting


@pytest.mark.parametrize("is_quick", [True, False])
async def test_who_waits_when_the_records_are_closed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_quick: bool
) -> None:
    monkeypatch.setattr(disk, "QUICK_S", 1e9 if is_quick else -1.0)
    store = Store(tmp_path / "closed.sqlite", DOMAIN)
    under_way = store.write(note(store, "a"))
    if not is_quick:
        await asyncio.sleep(0)  # a thread has it
    waiting = store.write_later(note(store, "b"), lambda: None)
    store.close()
    await asyncio.wait_for(asyncio.gather(under_way, waiting), 5)
    with contextlib.closing(sqlite3.connect(tmp_path / "closed.sqlite")) as file:
        assert file.execute("SELECT count(*) FROM meta WHERE key LIKE 'note %'").fetchone() == (2,)


async def test_a_fault_in_what_follows_one_change_is_not_another_s(store: Store) -> None:
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))

    def fail() -> None:
        raise RuntimeError("a bug")

    await asyncio.wait_for(
        asyncio.gather(store.write_later(note(store, "a"), fail), store.write_later(note(store, "b"), lambda: None)), 5
    )
    assert [str(each["exception"]) for each in told] == ["a bug"]


def test_what_is_written_in_one_run_of_the_loop_and_in_the_next(store: Store) -> None:
    async def write(name: str) -> None:
        await store.write(note(store, name))
        store.write_later(note(store, f"{name} unwaited"), lambda: None)

    for name in "ab":
        asyncio.run(write(name))
    assert noted(store) == {"a", "a unwaited", "b", "b unwaited"}


async def test_the_log_is_moved_into_the_file_while_it_is_written(store: Store, tmp_path: Path) -> None:
    for number in range(CHANGES):
        await store.write(note(store, str(number)))
    assert store._checkpoint is not None
    store._checkpoint.join()
    with sqlite3.connect(f"file:{tmp_path}/consumer.sqlite?immutable=1", uri=True) as file:  # without the log
        (moved,) = file.execute("SELECT count(*) FROM meta WHERE key LIKE 'note %'").fetchone()
    assert moved >= CHANGES - 2 * 256
