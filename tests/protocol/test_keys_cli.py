"""`clawmarket keys`: new, import, address."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from protocol import keystore
from protocol.cli import PASSWORD_VARIABLE, app
from protocol.keystore import Password
from protocol.signing import Signer

KEY = "0x" + "11" * 32


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    create, save = keystore.create, keystore.save
    monkeypatch.setattr(keystore, "create", lambda path, password: create(path, password, scrypt_n=2**12))
    monkeypatch.setattr(keystore, "save", lambda path, *given, **_: save(path, *given, scrypt_n=2**12))
    return CliRunner(env={PASSWORD_VARIABLE: "correct horse"})


def test_new__its_address__is_that_of_the_stored_key(run: CliRunner, tmp_path: Path) -> None:
    made = run.invoke(app, ["new", str(tmp_path / "a.json")])
    assert made.exit_code == 0, made.output
    stored = keystore.load(tmp_path / "a.json", Password("correct horse"))
    assert made.stdout == f"{stored.address}\n"
    shown = run.invoke(app, ["address", str(tmp_path / "a.json")], env={PASSWORD_VARIABLE: None})
    assert (shown.exit_code, shown.stdout) == (0, made.stdout)


def test_new__password_file__is_used(run: CliRunner, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("from the file\n")
    made = run.invoke(app, ["new", str(tmp_path / "a.json"), f"--password-file={tmp_path}/password"])
    assert made.exit_code == 0, made.output
    keystore.load(tmp_path / "a.json", Password("from the file"))


def test_new__existing_file__is_never_overwritten(run: CliRunner, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("precious")
    made = run.invoke(app, ["new", str(tmp_path / "a.json")])
    assert made.exit_code == 1
    assert "a key is never overwritten" in made.stderr
    assert (tmp_path / "a.json").read_text() == "precious"


def test_new__no_password__is_a_clear_error(run: CliRunner, tmp_path: Path) -> None:
    made = run.invoke(app, ["new", str(tmp_path / "a.json")], env={PASSWORD_VARIABLE: None})
    assert made.exit_code == 1
    assert f"set {PASSWORD_VARIABLE}" in made.stderr
    assert not (tmp_path / "a.json").exists()


@pytest.mark.parametrize("text", [KEY, KEY[2:], f"  {KEY}\n"])
def test_import__key_in_hex__is_stored(run: CliRunner, tmp_path: Path, text: str) -> None:
    (tmp_path / "key").write_text(text)
    done = run.invoke(app, ["import", str(tmp_path / "a.json"), f"--key-file={tmp_path}/key"])
    assert done.exit_code == 0, done.output
    assert done.stdout == Signer(bytes.fromhex(KEY[2:])).address + "\n"
    assert keystore.load(tmp_path / "a.json", Password("correct horse")).private_key == b"\x11" * 32


@pytest.mark.parametrize("text", ["", "0x", "22" * 31, "22" * 33, "zz" * 32, "00" * 32, "ff" * 32, "22" * 4_000])
def test_import__no_key__is_refused_without_showing_it(run: CliRunner, tmp_path: Path, text: str) -> None:
    (tmp_path / "key").write_text(text)
    done = run.invoke(app, ["import", str(tmp_path / "a.json"), f"--key-file={tmp_path}/key"])
    assert done.exit_code == 1
    assert "private_key" in done.stderr
    assert len(text) < 8 or text[:8] not in done.output
    assert not (tmp_path / "a.json").exists()


def test_import__no_key_given__is_a_clear_error(run: CliRunner, tmp_path: Path) -> None:
    assert "give --key-file" in run.invoke(app, ["import", str(tmp_path / "a.json")]).stderr
    missing = run.invoke(app, ["import", str(tmp_path / "a.json"), f"--key-file={tmp_path}/none"])
    assert (missing.exit_code, "cannot be read" in missing.stderr) == (1, True)
