"""What is the owner's alone: the ledger's files, and the operations listener behind a browser."""

import os
from pathlib import Path
from typing import cast

import httpx
import pytest

from protocol.typed_data import Domain
from provider.ledger import Ledger
from provider.observing.observer import Observer
from provider.observing.operations import create_operations_app


def test_ledger__open_umask__only_its_owner_reads_it(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        ledger = Ledger(tmp_path / "ledger.sqlite", Domain(31337, "0x" + "11" * 20), 1)
        modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
        ledger.close()
    finally:
        os.umask(before)
    assert set(modes.values()) == {0o600}
    assert "ledger.sqlite-wal" in modes


@pytest.mark.parametrize(
    ("host", "status"),
    [("127.0.0.1:9000", 200), ("localhost:9000", 200), ("[::1]:9000", 200), ("evil.example:9000", 421)],
)
async def test_operations__name_pointed_at_this_machine__is_refused(host: str, status: int) -> None:
    transport = httpx.ASGITransport(create_operations_app(cast("Observer", None)))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:9000") as browser:
        assert (await browser.get("/healthz", headers={"Host": host})).status_code == status
