"""What a gateway keeps of its leases and requests. Amounts in token base units."""

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from protocol.headers import RequestContext, Signed
from protocol.offer_text import terms_from_json, terms_to_json
from protocol.typed_data import Receipt, Terms, Voucher

OWN_ENGINE = "llama.cpp"
"""The engine that states every token's log-probability; terms that name another one need not."""


@dataclass(frozen=True)
class LeaseRecord:
    """Everything needed to use a lease.

    `key_file` holds the session key; `fingerprint` is the model's; `tls_pin` is the endpoint's TLS key, see
    `consumer.tls`, empty where the system's authorities vouch for it; `engine` is the name of what serves the model.
    """

    lease_id: bytes
    owner: str
    provider: int
    offer_id: int
    version: int
    token: str
    deposit: int
    expiry: int
    signer: str
    key_file: str
    endpoint: str
    node_key: str
    model: str
    fingerprint: bytes
    terms: Terms
    tls_pin: str = ""
    engine: str = OWN_ENGINE

    def to_json(self) -> str:
        """The record as text."""
        content = {
            name: value.hex() if isinstance(value, bytes) else value
            for name, value in vars(self).items()
            if name != "terms"
        }
        return json.dumps({**content, "terms": terms_to_json(self.terms)})

    @classmethod
    def from_json(cls, text: str) -> "LeaseRecord":
        """The reverse of `to_json`."""
        content: dict[str, Any] = json.loads(text)
        content["terms"] = terms_from_json(content["terms"])
        for name in ("lease_id", "fingerprint"):
            content[name] = bytes.fromhex(content[name])
        return cls(**content)


class RequestState(StrEnum):
    """How far a request got.

    signed: its voucher is on disk and may be on its way
    ├─ admitted: the provider began to answer
    ├─ settled: its final receipt was checked, `owed` is what it cost
    ├─ disputed: the provider's word is wrong; nothing more is signed for it
    └─ refused: the provider did not take it; it costs nothing
    """

    SIGNED = "signed"
    ADMITTED = "admitted"
    SETTLED = "settled"
    DISPUTED = "disputed"
    REFUSED = "refused"


@dataclass(frozen=True)
class Limits:
    """What a request's receipts are held against. `prompt_tokens` is our own count, None without tokenizer."""

    prompt_tokens: int | None
    prompt_bound: int
    max_tokens: int


@dataclass(frozen=True)
class Draft:
    """A request before it has a number; `prepaid` is the part of its cost that is paid in advance.

    `key_id` is the virtual API key that asks.
    """

    body: bytes
    request_hash: bytes
    salt: bytes
    max_cost: int
    prepaid: int
    limits: Limits
    key_id: str = ""


@dataclass(frozen=True)
class OpenCost:
    """What a request whose end is not known may cost, and is known to cost so far."""

    most: int
    owed: int

    @property
    def promised(self) -> int:
        """What may still come on top."""
        return max(0, self.most - self.owed)


@dataclass(frozen=True)
class Spent:
    """What a request cost so far and what it may still cost, in base units of its lease's token.

    `created` and `ended` are in Unix seconds; `ended` is 0 while nothing was received for it.
    """

    created: int
    key_id: str
    lease_id: bytes
    seq: int
    owed: int
    promised: int
    ended: int = 0


@dataclass(frozen=True)
class OpenRequest:
    """A request whose end is not known here. `last` is the last receipt that was checked."""

    state: RequestState
    context: RequestContext
    limits: Limits
    voucher: Signed[Voucher]
    body: bytes
    last: Signed[Receipt] | None
