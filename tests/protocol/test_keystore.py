"""Keys on disk: sealed, private, never overwritten, never shown."""

from __future__ import annotations

import json
import logging
import stat
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account

from protocol import keystore
from protocol.keystore import KeystoreDamaged, KeystoreError, KeystoreExists, Password, WrongPassword
from protocol.signing import Signer

CHEAP = 2**10
PASSWORD = Password("correct horse")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys" / "node.json"


def test_load__what_create_stored__is_the_same_key(path: Path) -> None:
    signer = keystore.create(path, PASSWORD, scrypt_n=CHEAP)
    loaded = keystore.load(path, PASSWORD)
    assert loaded.private_key == signer.private_key
    assert loaded.address == signer.address == keystore.address(path)


def test_save__file_is_private_and_alone(path: Path) -> None:
    keystore.create(path, PASSWORD, scrypt_n=CHEAP)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [entry.name for entry in path.parent.iterdir()] == ["node.json"]


def test_save__is_web3_secret_storage_that_others_open(path: Path) -> None:
    signer = Signer.generate()
    keystore.save(path, signer, PASSWORD, scrypt_n=CHEAP)
    document = json.loads(path.read_text(encoding="utf-8"))
    assert document["version"] == 3
    assert document["crypto"]["kdf"] == "scrypt"
    assert bytes(Account.decrypt(document, "correct horse")) == signer.private_key


def test_load__file_of_another_program__opens(path: Path) -> None:
    signer = Signer.generate()
    document = Account.encrypt(signer.private_key, "correct horse", kdf="pbkdf2", iterations=1000)
    path.parent.mkdir()
    path.write_text(json.dumps(document), encoding="utf-8")
    path.chmod(0o600)
    assert keystore.load(path, PASSWORD).address == signer.address


def test_create__default_cost__is_the_documented_one(path: Path) -> None:
    keystore.create(path, PASSWORD)
    document = json.loads(path.read_text(encoding="utf-8"))
    costs = document["crypto"]["kdfparams"]
    assert costs["n"] == 2**18
    assert costs["n"] * costs["r"] * 128 == 256 * 1024 * 1024
    assert keystore.load(path, PASSWORD).address == keystore.address(path)


def test_save__existing_file__is_never_overwritten(path: Path) -> None:
    first = keystore.create(path, PASSWORD, scrypt_n=CHEAP)
    before = path.read_bytes()
    with pytest.raises(KeystoreExists, match="never overwritten"):
        keystore.create(path, PASSWORD, scrypt_n=CHEAP)
    assert path.read_bytes() == before
    assert keystore.load(path, PASSWORD).address == first.address


def test_save__file_appears_meanwhile__is_not_overwritten(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.parent.mkdir()
    original = keystore._write

    def late(target: Path, content: bytes) -> None:
        path.write_text("another's", encoding="utf-8")
        original(target, content)

    monkeypatch.setattr(keystore, "_write", late)
    with pytest.raises(KeystoreExists):
        keystore.create(path, PASSWORD, scrypt_n=CHEAP)
    assert path.read_text(encoding="utf-8") == "another's"
    assert [entry.name for entry in path.parent.iterdir()] == ["node.json"]


def test_save__folder_is_a_file__is_an_error(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("", encoding="utf-8")
    with pytest.raises(KeystoreError, match="cannot be made"):
        keystore.create(tmp_path / "keys" / "node.json", PASSWORD, scrypt_n=CHEAP)


def test_load__wrong_password__says_so_and_shows_nothing(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    signer = keystore.create(path, PASSWORD, scrypt_n=CHEAP)
    with pytest.raises(WrongPassword, match="the password does not open") as caught:
        keystore.load(path, Password("battery staple"))
    shown = f"{caught.value!r} {caught.value} {PASSWORD!r} {PASSWORD} {signer!r} {caplog.text}"
    for secret in ("battery staple", "correct horse", signer.private_key.hex()):
        assert secret not in shown


def test_load__missing_file__says_so(path: Path) -> None:
    with pytest.raises(KeystoreDamaged, match="create a key first"):
        keystore.load(path, PASSWORD)


def test_load__open_to_others__is_refused(path: Path) -> None:
    keystore.create(path, PASSWORD, scrypt_n=CHEAP)
    path.chmod(0o640)
    with pytest.raises(KeystoreDamaged, match="chmod 600"):
        keystore.load(path, PASSWORD)


def crypto(**changes: Any) -> dict[str, Any]:
    return {"crypto": changes}


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 2},
        {"version": None},
        {"crypto": None},
        {"crypto": {}},
        {"address": None},
        {"address": "zz"},
        {"address": "11" * 20},
        crypto(kdf="rot13"),
        crypto(kdf="scrypt", kdfparams=None),
        crypto(kdfparams={"dklen": 32, "n": 2**40, "r": 8, "p": 1, "salt": "00"}),
        crypto(kdfparams={"dklen": 32, "n": 3, "r": 8, "p": 1, "salt": "00"}),
        crypto(kdfparams={"dklen": 32, "n": 1024, "r": 8, "p": 10**6, "salt": "00"}),
        crypto(kdfparams={"dklen": 32, "n": "x", "r": 8, "p": 1, "salt": "00"}),
        crypto(kdfparams={"dklen": 32, "n": 1024, "r": 8, "p": 1, "salt": "not hex"}),
        crypto(kdf="pbkdf2", kdfparams={"c": 10**12, "dklen": 32, "prf": "hmac-sha256", "salt": "00"}),
        crypto(cipher="rot13"),
        crypto(ciphertext=5),
    ],
)
def test_load__damaged__is_refused(path: Path, changes: dict[str, Any]) -> None:
    keystore.create(path, PASSWORD, scrypt_n=CHEAP)
    document = json.loads(path.read_text(encoding="utf-8"))
    for key, value in changes.items():
        document[key] = {**document[key], **value} if isinstance(value, dict) and value else value
    path.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(KeystoreDamaged, match="restore it from your backup"):
        keystore.load(path, PASSWORD)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b" " * 70_000], ids=range(6))
def test_load__no_keystore__is_refused(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(KeystoreDamaged):
        keystore.load(path, PASSWORD)


def test_find_password__file_then_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "password"
    file.write_text("from file\nsecond line\n", encoding="utf-8")
    monkeypatch.setenv("CLAW_TEST_PASSWORD", "from env")
    assert keystore.find_password(file=file, env="CLAW_TEST_PASSWORD").reveal() == "from file"
    assert keystore.find_password(env="CLAW_TEST_PASSWORD").reveal() == "from env"


def test_find_password__at_the_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("getpass.getpass", lambda prompt: f"typed after {prompt}")
    assert keystore.find_password(prompt="Password: ").reveal() == "typed after Password: "


def test_find_password__nowhere__says_where_to_put_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLAW_TEST_PASSWORD", raising=False)
    with pytest.raises(WrongPassword, match="set CLAW_TEST_PASSWORD"):
        keystore.find_password(env="CLAW_TEST_PASSWORD", prompt="Password: ")
    with pytest.raises(WrongPassword, match="cannot be read"):
        keystore.find_password(file=tmp_path / "none")
    (tmp_path / "empty").write_text("\n", encoding="utf-8")
    with pytest.raises(WrongPassword, match="is empty"):
        keystore.find_password(file=tmp_path / "empty")
