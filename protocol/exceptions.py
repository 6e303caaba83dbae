"""Every error that the protocol package raises.

::

    ProtocolError (ValueError)
    ├── InvalidField        a field is out of range, of the wrong type or malformed; `.field` names it
    ├── InvalidSignature    bytes that are no strict signature, or one by somebody else
    ├── InvalidProof        a merkle proof of the wrong shape, or one that does not lead to the root
    ├── InvalidDocument     text that is no restricted JSON, breaks its schema or size limit, or is wrongly signed
    ├── InvalidHeader       a wire header that is missing, too long or malformed; `.header` names it
    │   └── UnsupportedVersion  the other side speaks another version of the protocol
    ├── UnknownModel        a name that the model registry does not list
    └── ModelMismatch       measured digests that differ from the registry's; `.field` names the first one

Messages never contain keys, salts or whole bodies: they may be logged and returned to the other side.
"""
# ruff: noqa: N818 - errors are named for what is wrong, as their users read them

from __future__ import annotations


class ProtocolError(ValueError):
    """Base of every error raised by this package."""


class InvalidField(ProtocolError):
    """A value that the named field cannot hold."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class InvalidSignature(ProtocolError):
    """A signature that is malformed, malleable, or not by the expected key."""


class InvalidProof(ProtocolError):
    """A merkle proof that proves nothing about the given root."""


class InvalidDocument(ProtocolError):
    """A document that is malformed, too large, breaks its schema or is wrongly signed."""


class InvalidHeader(ProtocolError):
    """A wire header that is missing or malformed."""

    def __init__(self, header: str, reason: str) -> None:
        super().__init__(f"{header}: {reason}")
        self.header = header
        self.reason = reason


class UnsupportedVersion(InvalidHeader):
    """The other side speaks another version of the wire protocol."""


class UnknownModel(ProtocolError):
    """A model name that the registry does not list."""


class ModelMismatch(ProtocolError):
    """A model whose measured digests differ from the registry's."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason
