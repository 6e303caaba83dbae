"""Changes that are committed together: each is told what became of it, also when the disk is full."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from consumer.exceptions import StoreError
from consumer.store import Store
from protocol.typed_data import Domain

DOMAIN = Domain(31337, "0x5FC8d32690cc91D4c39d9d3abcBD16989F875707")
Change = Callable[[], None]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "consumer.sqlite", DOMAIN)
    yield opened
    opened.close()


def note(store: Store, name: str, text: str = "") -> Change:
    """A change that can be seen."""

    def change() -> None:
        store._db.execute("INSERT INTO meta VALUES (?, ?)", (f"note {name}", text))

    return change


def noted(store: Store) -> set[str]:
    rows = store._db.execute("SELECT key FROM meta WHERE key LIKE 'note %'")
    return {key.removeprefix("note ") for (key,) in rows}


async def together(store: Store, *changes: Change) -> list[str]:
    """Writes them in one batch; what each was told, "" for success."""
    begun, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        begun.set()
        go_on.wait()

    holding = asyncio.create_task(store.write(hold))
    await asyncio.to_thread(begun.wait)
    writing = asyncio.gather(*(store.write(change) for change in changes), return_exceptions=True)
    await asyncio.sleep(0)
    go_on.set()
    await holding
    return ["" if told is None else str(told) for told in await writing]


async def test_a_change_that_fails_leaves_the_others(store: Store) -> None:
    def fail() -> None:
        note(store, "half")()
        raise StoreError("no")

    assert await together(store, note(store, "a"), fail, note(store, "b")) == ["", "no", ""]
    assert noted(store) == {"a", "b"}


async def test_where_sqlite_undoes_the_whole_batch_all_fail_and_nothing_is_written(store: Store) -> None:
    """As it may on a full disk."""

    def fill_the_disk() -> None:
        store._db.execute("ROLLBACK")
        raise sqlite3.OperationalError("database or disk is full")

    told = await together(store, note(store, "a"), fill_the_disk, note(store, "b"))
    assert told == ["the records cannot be written: database or disk is full"] * 3
    assert noted(store) == set()
    assert await together(store, note(store, "c"), note(store, "d")) == ["", ""]
    assert noted(store) == {"c", "d"}


async def test_a_full_disk_is_told_to_everybody_whose_change_is_not_on_it(store: Store) -> None:
    store._db.execute("PRAGMA max_page_count = 1")  # as many as there are now
    told = await together(store, *(note(store, name, "x" * 100_000) for name in "abcd"))
    assert all("disk is full" in each for each in told)
    assert noted(store) == set()
