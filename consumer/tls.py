"""TLS to a provider: exactly the key its signed metadata names, whoever issued the certificate.

The pin is the SHA-256 of the certificate's SubjectPublicKeyInfo in hex. It replaces authorities, names and dates: the
metadata that carries it is signed by the node key, bound to the registry, and has an expiry of its own.
"""

import hashlib
import ssl
from collections.abc import Iterator

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat


class WrongTlsKey(ssl.SSLError):
    """The server's key is not the pinned one; nothing was sent to it."""

    def __str__(self) -> str:
        return (
            "the server's TLS key is not the one the provider published: somebody may stand between, or the provider "
            "changed its key; open a new lease once the provider has published it"
        )


def pinned_context(pin: str) -> ssl.SSLContext:
    """A context for clients that completes a handshake only with the key of this pin."""

    class Stream(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            _check(self.getpeercert(binary_form=True), pin)

    class Socket(ssl.SSLSocket):
        def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002 - as the standard library has it
            super().do_handshake(block)
            _check(self.getpeercert(binary_form=True), pin)

    context = unchecked_context()
    context.sslobject_class, context.sslsocket_class = Stream, Socket
    return context


def unchecked_context() -> ssl.SSLContext:
    """A context that trusts any server: only for reading what carries its own proof."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def spki_pin(certificate: bytes) -> str:
    """The pin of a DER certificate. Raises ValueError."""
    key = x509.load_der_x509_certificate(certificate).public_key()
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def wrong_key(error: BaseException) -> WrongTlsKey | None:
    """The pin's fault among an error's causes, if that is why a connection failed."""
    return next((cause for cause in _causes(error) if isinstance(cause, WrongTlsKey)), None)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _check(certificate: bytes | None, pin: str) -> None:
    try:
        found = spki_pin(certificate or b"")
    except ValueError:
        found = ""
    if found != pin:
        raise WrongTlsKey


def verification(pin: str) -> ssl.SSLContext | bool:
    """What httpx is given as `verify`: the pinned key, or without a pin the system's authorities."""
    return pinned_context(pin) if pin else True
