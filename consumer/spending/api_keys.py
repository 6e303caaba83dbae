"""Virtual API keys: what applications and teammates show to the gateway, each with its own budget and end.

A key is `claw-<id>-<secret>`. It is shown once, when it is made; the file has its SHA-256.
"""

import hashlib
import hmac
import json
import secrets
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass

from consumer.exceptions import StoreError
from consumer.gateway.events import FailureClass, RouteFailed
from consumer.spending.allowance import NO_LIMIT, Allowance
from consumer.spending.file import GatewayFile

PREFIX = "claw"
_ID_BYTES, _SECRET_BYTES = 4, 32
_NOBODY = bytes(32)


@dataclass(frozen=True)
class ApiKey:
    """What is known of a key. Times in Unix seconds; without `expires` it has no end, without `models` it asks any."""

    key_id: str
    name: str
    created: int
    per_day: Allowance = NO_LIMIT
    total: Allowance = NO_LIMIT
    models: tuple[str, ...] = ()
    expires: int | None = None
    is_revoked: bool = False

    def allows(self, model: str) -> bool:
        """Whether it may ask this model, by its registry name."""
        return not self.models or model in self.models


class ApiKeys:
    """All keys. What another process changes in the file counts from the next question on."""

    def __init__(self, file: GatewayFile, now: Callable[[], int]) -> None:
        """`now` is the market's clock. Raises StoreError."""
        self._file = file
        self._now = now
        self._read()

    def make(
        self,
        name: str,
        *,
        per_day: Allowance = NO_LIMIT,
        total: Allowance = NO_LIMIT,
        models: tuple[str, ...] = (),
        expires: int | None = None,
    ) -> tuple[ApiKey, str]:
        """A new key, and the text that its user is given. Raises StoreError if the name is in use."""
        key_id = secrets.token_hex(_ID_BYTES)
        text = f"{PREFIX}-{key_id}-{secrets.token_urlsafe(_SECRET_BYTES)}"
        key = ApiKey(key_id, name, self._now(), per_day, total, models, expires)
        details = {
            "created": key.created,
            "per_day": per_day.as_list(),
            "total": total.as_list(),
            "models": list(models),
            "expires": expires,
        }
        try:
            self._file.write(
                "INSERT INTO api_keys VALUES (?, ?, ?, ?, 0)", key_id, _digest(text), name, json.dumps(details)
            )
        except sqlite3.IntegrityError as error:
            raise StoreError(f"a key of the name {name} exists: choose another name, or revoke it first") from error
        self._read()
        return key, text

    def list(self) -> list[ApiKey]:
        """Every key ever made, oldest first."""
        self._refresh()
        return sorted((key for key, _ in self._known.values()), key=lambda key: (key.created, key.key_id))

    def find(self, key_id: str) -> ApiKey | None:
        """The key of an id, also one that is not valid any more."""
        self._refresh()
        found = self._known.get(key_id)
        return found[0] if found else None

    def revoke(self, name_or_id: str) -> ApiKey:
        """Ends a key for good. Raises StoreError if there is none of this name or id."""
        found = [key for key in self.list() if not key.is_revoked and name_or_id in (key.name, key.key_id)]
        if len(found) != 1:
            raise StoreError(f"{len(found)} keys in use have the name or id {name_or_id}: see `gateway keys list`")
        self._file.write("UPDATE api_keys SET revoked = 1 WHERE key_id = ?", found[0].key_id)
        self._read()
        return found[0]

    def identify(self, authorization: str | None) -> ApiKey:
        """The key in an `Authorization` header. Raises RouteFailed unless it is valid now."""
        self._refresh()
        scheme, _, text = (authorization or "").partition(" ")
        parts = text.strip().split("-", 2)
        key, digest = self._known.get(parts[1], (None, _NOBODY)) if len(parts) == 3 else (None, _NOBODY)
        is_right = hmac.compare_digest(_digest(text.strip()), digest)
        if key is None or not is_right or scheme.lower() != "bearer":
            raise _refused("this is no API key of this gateway: make one with `clawmarket gateway keys new`")
        if key.is_revoked:
            raise _refused(f"the API key {key.name} was revoked")
        if key.expires is not None and self._now() >= key.expires:
            raise _refused(f"the API key {key.name} has expired")
        return key

    def _refresh(self) -> None:
        if self._file.foreign_changes() != self._seen:
            self._read()

    def _read(self) -> None:
        self._seen = self._file.foreign_changes()
        self._known: dict[str, tuple[ApiKey, bytes]] = {}
        rows = self._file.rows("SELECT key_id, digest, name, details, revoked FROM api_keys")
        for key_id, digest, name, details, revoked in rows:
            content = json.loads(details)
            key = ApiKey(
                key_id,
                name,
                content["created"],
                Allowance.parse(content["per_day"]),
                Allowance.parse(content["total"]),
                tuple(content["models"]),
                content["expires"],
                bool(revoked),
            )
            self._known[key_id] = (key, digest)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="replace")).digest()


def _refused(message: str) -> RouteFailed:
    return RouteFailed(FailureClass.AUTH, message, status=401, code="invalid_api_key")
