"""Virtual keys: shown once, kept as a hash, refused once revoked or expired, and never written to a log."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from consumer.exceptions import StoreError
from consumer.gateway.events import FailureClass, RouteFailed
from consumer.spending.allowance import Allowance
from consumer.spending.api_keys import ApiKeys
from consumer.spending.file import GatewayFile


class Desk:
    """Keys in a folder, with a clock that is set by hand."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.time = 1_000
        self._files: list[GatewayFile] = []
        self.keys = self.opened()

    def opened(self) -> ApiKeys:
        """As another process opens them."""
        self._files.append(GatewayFile(self.folder / "gateway.sqlite"))
        return ApiKeys(self._files[-1], lambda: self.time)

    def close(self) -> None:
        for file in self._files:
            file.close()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    found = Desk(tmp_path)
    yield found
    found.close()


def refused(keys: ApiKeys, header: str | None, reason: str) -> None:
    with pytest.raises(RouteFailed, match=reason) as caught:
        keys.identify(header)
    assert (caught.value.failure, caught.value.status, caught.value.code) == (FailureClass.AUTH, 401, "invalid_api_key")


def test_a_key_is_found_again_with_all_that_was_said_of_it(desk: Desk) -> None:
    made, text = desk.keys.make(
        "alice", per_day=Allowance.parse(["1 USDC"]), total=Allowance.parse(["9 USDC"]), models=("m",), expires=2_000
    )
    assert text.startswith(f"claw-{made.key_id}-")
    for keys in (desk.keys, desk.opened()):
        assert keys.identify(f"Bearer {text}") == keys.identify(f"bearer  {text}") == made
        assert keys.list() == [made]
        assert keys.find(made.key_id) == made
    assert made.allows("m")
    assert not made.allows("n")


def test_nothing_on_disk_and_nothing_logged_has_the_key(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    key, text = desk.keys.make("alice")
    desk.keys.identify(f"Bearer {text}")
    with pytest.raises(RouteFailed) as wrong:
        desk.keys.identify(f"Bearer {text}x")
    desk.keys.revoke("alice")
    with pytest.raises(RouteFailed) as revoked:
        desk.keys.identify(f"Bearer {text}")
    desk.close()
    secret = text.split("-", 2)[2]
    files = [path for path in desk.folder.rglob("*") if path.is_file()]
    assert files
    for path in files:
        content = path.read_bytes()
        assert secret.encode() not in content
        assert path.stat().st_mode & 0o077 == 0 or path.suffix != ".sqlite"
    assert any(key.key_id.encode() in path.read_bytes() for path in files)
    for shown in (repr(key), caplog.text, str(wrong.value), repr(wrong.value), str(revoked.value)):
        assert secret not in shown


def test_what_is_no_key_is_refused(desk: Desk) -> None:
    key, text = desk.keys.make("alice")
    for header in (None, "", text, f"Basic {text}", "Bearer", f"Bearer {text[:-1]}", f"Bearer claw-{key.key_id}-",
                   f"Bearer claw-00000000-{text.split('-', 2)[2]}", "Bearer sk-\udcff\u0100"):  # fmt: skip
        refused(desk.keys, header, "no API key of this gateway")


def test_an_expired_key_is_refused_from_its_second_on(desk: Desk) -> None:
    _, text = desk.keys.make("alice", expires=1_001)
    desk.keys.identify(f"Bearer {text}")
    desk.time = 1_001
    refused(desk.keys, f"Bearer {text}", "alice has expired")


@pytest.mark.parametrize("by", ["name", "key_id"])
def test_a_key_revoked_by_another_process_is_refused_at_once(desk: Desk, by: str) -> None:
    key, text = desk.keys.make("alice")
    desk.keys.identify(f"Bearer {text}")
    desk.opened().revoke(getattr(key, by))
    refused(desk.keys, f"Bearer {text}", "alice was revoked")
    found = desk.keys.find(key.key_id)
    assert found is not None
    assert found.is_revoked


def test_a_key_made_by_another_process_counts_at_once(desk: Desk) -> None:
    key, text = desk.opened().make("alice")
    assert desk.keys.identify(f"Bearer {text}") == key


def test_a_name_is_in_use_until_its_key_is_revoked(desk: Desk) -> None:
    first, _ = desk.keys.make("alice")
    with pytest.raises(StoreError, match="alice exists"):
        desk.keys.make("alice")
    desk.keys.revoke("alice")
    second, _ = desk.keys.make("alice")
    assert {key.key_id for key in desk.keys.list()} == {first.key_id, second.key_id}
    with pytest.raises(StoreError, match="0 keys in use"):
        desk.keys.revoke("bob")


def test_the_file_is_its_owners_alone_and_of_one_version(tmp_path: Path) -> None:
    path = tmp_path / "gateway.sqlite"
    with GatewayFile(path) as file:
        file.write("PRAGMA user_version = 99")
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(StoreError, match="another version"):
        GatewayFile(path)
