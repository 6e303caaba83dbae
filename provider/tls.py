"""TLS of the HTTP surface: a key that stays, a self-signed certificate that is renewed, and the pin consumers check.

The pin is the SHA-256 of the certificate's SubjectPublicKeyInfo, the digest of RFC 7469. It depends on the key alone,
so a renewed certificate keeps it. Consumers learn it from the provider's signed metadata, not from an authority.
"""

import datetime as dt
import hashlib
import ipaddress
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from provider.config import Config
from provider.exceptions import ConfigError
from provider.files import write_whole

KEY_FILE = "tls-key.pem"
CERTIFICATE_FILE = "tls.pem"
VALID_DAYS = 365
RENEW_DAYS = 60
"""A self-signed certificate with fewer days left is renewed when the worker starts."""
_LOOPBACK_NAMES = frozenset({"localhost"})


@dataclass(frozen=True)
class TlsFiles:
    """What the HTTP server is given, and the pin: 64 lower-case hex digits."""

    certificate: Path
    key: Path
    pin: str


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches such an address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host in _LOOPBACK_NAMES


def is_enabled(config: Config) -> bool:
    """Whether the worker speaks TLS: as configured, else wherever others can reach it."""
    configured = config.tls.enabled
    return not is_loopback(config.serving.host) if configured is None else configured


def tls_files(config: Config) -> TlsFiles | None:
    """Key and certificate of the worker, made or renewed where they are its own; None without TLS.

    Raises ConfigError when files cannot be used or written.
    """
    if not is_enabled(config):
        return None
    if config.tls.certificate and config.tls.key:
        return TlsFiles(config.tls.certificate, config.tls.key, pin_of(_read(config.tls.certificate)))
    hosts = [host for url in config.metadata.urls if (host := urlsplit(url).hostname)]
    return ensure(config.provider.node_key.parent, [*hosts, config.serving.host])


def ensure(folder: Path, hosts: Sequence[str]) -> TlsFiles:
    """The folder's key, and a self-signed certificate of it that is valid for some time yet. Raises ConfigError."""
    key_path, certificate_path = folder / KEY_FILE, folder / CERTIFICATE_FILE
    key = _load_key(key_path) if key_path.exists() else _new_key(key_path)
    pem = certificate_path.read_bytes() if certificate_path.exists() else b""
    if not _is_usable(pem, key):
        pem = _self_signed(key, hosts)
        write_whole(certificate_path, pem)
    return TlsFiles(certificate_path, key_path, pin_of(pem))


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """What the server's connections are wrapped in. Raises ConfigError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    try:
        context.load_cert_chain(files.certificate, files.key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"the TLS certificate {files.certificate} and key {files.key} do not work: {error}"
        ) from error
    return context


def pin_of(pem: bytes) -> str:
    """The pin of the first certificate in a PEM text. Raises ConfigError."""
    try:
        public = x509.load_pem_x509_certificate(pem).public_key()
    except ValueError as error:
        raise ConfigError("the TLS certificate is not a PEM file of one: correct tls.certificate") from error
    return hashlib.sha256(_spki(public)).hexdigest()


def _spki(public: object) -> bytes:
    encoded: bytes = public.public_bytes(  # type: ignore[attr-defined]
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return encoded


def _new_key(path: Path) -> ec.EllipticCurvePrivateKey:
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write_whole(path, pem)
    return key


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    if path.stat().st_mode & 0o077:
        raise ConfigError(f"the TLS key {path} is open to other users: run `chmod 600 {path}`, and publish a new one")
    try:
        key = serialization.load_pem_private_key(_read(path), password=None)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"the TLS key {path} is damaged: restore it, or delete it and publish anew") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"the TLS key {path} is not one this program made: name it as tls.key, with its certificate")
    return key


def _is_usable(pem: bytes, key: ec.EllipticCurvePrivateKey) -> bool:
    try:
        certificate = x509.load_pem_x509_certificate(pem)
    except ValueError:
        return False
    left = certificate.not_valid_after_utc - dt.datetime.now(dt.UTC)
    return left > dt.timedelta(days=RENEW_DAYS) and _spki(certificate.public_key()) == _spki(key.public_key())


def _self_signed(key: ec.EllipticCurvePrivateKey, hosts: Sequence[str]) -> bytes:
    now = dt.datetime.now(dt.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "clawmarket provider")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=VALID_DAYS))
        .add_extension(x509.SubjectAlternativeName(_names(hosts)), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


def _names(hosts: Sequence[str]) -> list[x509.GeneralName]:
    found: list[x509.GeneralName] = []
    for host in dict.fromkeys(hosts):
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(host.strip("[]"))))
        except ValueError:
            found.append(x509.DNSName(host.encode("idna").decode()))
    return found


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"the TLS file {path} cannot be read: {error.strerror}") from error
