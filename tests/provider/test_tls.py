"""The worker's TLS key and certificate: made once, kept, renewed with the same pin."""

import datetime as dt
import hashlib
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from provider import tls
from provider.config import Config
from provider.exceptions import ConfigError


def config_of(folder: Path, *, host: str = "127.0.0.1", **sections: object) -> Config:
    """A configuration whose keys lie in `folder`."""
    return Config.model_validate(
        {
            "chain": {"rpc": ["http://127.0.0.1:1"], "deployment": "d.json"},
            "provider": {"id": 1, "node_key": folder / "node.json", "data": folder / "data"},
            "engine": {"model": "m.gguf"},
            "serving": {"host": host},
            **sections,
        }
    )


def by_openssl(certificate: Path) -> str:
    """The pin as everybody else computes it."""
    public = subprocess.run(
        ["openssl", "x509", "-in", certificate, "-pubkey", "-noout"], capture_output=True, check=True
    ).stdout
    der = subprocess.run(
        ["openssl", "pkey", "-pubin", "-outform", "DER"], input=public, capture_output=True, check=True
    ).stdout
    return hashlib.sha256(der).hexdigest()


def test_ensure__new_folder__makes_a_private_key_and_the_pin_of_openssl(tmp_path: Path) -> None:
    made = tls.ensure(tmp_path, ["example.org", "203.0.113.7"])
    assert made.key.stat().st_mode & 0o777 == 0o600
    assert made.pin == by_openssl(made.certificate)
    certificate = x509.load_pem_x509_certificate(made.certificate.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["example.org"]
    assert tls.ensure(tmp_path, ["example.org"]) == made
    assert x509.load_pem_x509_certificate(made.certificate.read_bytes()) == certificate


def test_ensure__certificate_about_to_expire__is_renewed_with_the_same_pin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "VALID_DAYS", tls.RENEW_DAYS - 1)
    old = tls.ensure(tmp_path, ["localhost"])
    expiring = old.certificate.read_bytes()
    monkeypatch.undo()
    new = tls.ensure(tmp_path, ["localhost"])
    renewed = x509.load_pem_x509_certificate(new.certificate.read_bytes())
    assert new.certificate.read_bytes() != expiring
    assert renewed.not_valid_after_utc > dt.datetime.now(dt.UTC) + dt.timedelta(days=300)
    assert new.pin == old.pin


def test_ensure__certificate_of_another_key__is_replaced(tmp_path: Path) -> None:
    other = tls.ensure(tmp_path / "other", ["localhost"])
    mine = tls.ensure(tmp_path / "mine", ["localhost"])
    mine.certificate.write_bytes(other.certificate.read_bytes())
    assert tls.ensure(tmp_path / "mine", ["localhost"]).pin == mine.pin
    assert by_openssl(mine.certificate) == mine.pin


def test_ensure__key_open_to_others_or_damaged__is_refused(tmp_path: Path) -> None:
    made = tls.ensure(tmp_path, ["localhost"])
    made.key.chmod(0o644)
    with pytest.raises(ConfigError, match="open to other users"):
        tls.ensure(tmp_path, ["localhost"])
    made.key.chmod(0o600)
    made.key.write_bytes(b"no key")
    with pytest.raises(ConfigError, match="damaged"):
        tls.ensure(tmp_path, ["localhost"])


@pytest.mark.parametrize(
    ("host", "configured", "expected"),
    [
        ("127.0.0.1", None, False),
        ("localhost", None, False),
        ("::1", None, False),
        ("0.0.0.0", None, True),
        ("203.0.113.7", None, True),
        ("127.0.0.1", True, True),
        ("0.0.0.0", False, False),
    ],
)
def test_is_enabled__wherever_others_can_reach_it(
    tmp_path: Path, host: str, configured: bool | None, expected: bool
) -> None:
    config = config_of(tmp_path, host=host, tls={"enabled": configured})
    assert tls.is_enabled(config) is expected
    assert (tls.tls_files(config) is not None) is expected


def test_tls_files__of_ones_own__are_used_with_their_pin(tmp_path: Path) -> None:
    own = tls.ensure(tmp_path / "own", ["example.org"])
    config = config_of(tmp_path, tls={"enabled": True, "certificate": own.certificate, "key": own.key})
    assert tls.tls_files(config) == own
    assert not (tmp_path / tls.KEY_FILE).exists()


def test_config__certificate_without_key__is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="belong together"):
        config_of(tmp_path, tls={"certificate": "a.pem"})


def test_key__is_written_once(tmp_path: Path) -> None:
    made = tls.ensure(tmp_path, ["localhost"])
    key = serialization.load_pem_private_key(made.key.read_bytes(), None)
    tls.ensure(tmp_path, ["localhost"])
    again = serialization.load_pem_private_key(made.key.read_bytes(), None)
    assert key.public_key() == again.public_key()
