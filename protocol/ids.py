"""Ids that both sides and the contracts derive: leases, voucher contexts, request hashes, kinds of offer."""

from __future__ import annotations

from enum import IntEnum

from protocol.address import address_bytes, check_address
from protocol.exceptions import InvalidField
from protocol.hashing import keccak, word
from protocol.typed_data import Domain, OpenLease, check_bytes32, check_uint

SALT_BYTES = 32


class OfferKind(IntEnum):
    """The kinds of offer; the numbers are those of the contracts."""

    INFERENCE = 0
    EMBEDDING = 1
    SEARCH = 2
    STORAGE = 3
    JOB = 4

    @property
    def label(self) -> str:
        """The lower-case name, as used in documents."""
        return self.name.lower()

    @classmethod
    def from_label(cls, label: str) -> OfferKind:
        """The reverse of `label`; raises InvalidField."""
        for kind in cls:
            if kind.label == label:
                return kind
        raise InvalidField("offer_kind", f"no kind of offer is called {label[:32]!r}")


def lease_id(
    *,
    chain_id: int,
    escrow: str,
    owner: str,
    nonce: int,
    provider: int,
    offer_id: int,
    version: int,
    signer: str,
    terms_digest: bytes,
) -> bytes:
    """keccak(abi.encode(chainid, escrow, owner, nonce, provider, offerId, version, signer, termsDigest))."""
    check_uint(chain_id, "chain_id", 256)
    check_address(escrow, "escrow")
    check_address(owner, "owner")
    check_uint(nonce, "nonce", 64)
    check_uint(provider, "provider", 32)
    check_uint(offer_id, "offer_id", 32)
    check_uint(version, "version", 32)
    check_address(signer, "signer")
    check_bytes32(terms_digest, "terms_digest")
    padding = bytes(12)
    return keccak(
        b"".join(
            (
                word(chain_id),
                padding + address_bytes(escrow),
                padding + address_bytes(owner),
                word(nonce),
                word(provider),
                word(offer_id),
                word(version),
                padding + address_bytes(signer),
                terms_digest,
            )
        )
    )


def lease_id_of(domain: Domain, request: OpenLease) -> bytes:
    """The id of the lease that `request` opens."""
    return lease_id(
        chain_id=domain.chain_id,
        escrow=domain.escrow,
        owner=request.owner,
        nonce=request.nonce,
        provider=request.provider,
        offer_id=request.offer_id,
        version=request.version,
        signer=request.signer,
        terms_digest=request.terms_digest,
    )


def voucher_context(seq: int, request_hash: bytes, max_cost: int, sent_at: int) -> bytes:
    """keccak(abi.encode(uint64 seq, bytes32 requestHash, uint128 maxCost, uint64 sentAt)).

    `max_cost` in base units of the lease's token, `sent_at` in Unix seconds.
    """
    check_uint(seq, "seq", 64)
    check_bytes32(request_hash, "request_hash")
    check_uint(max_cost, "max_cost", 128)
    check_uint(sent_at, "sent_at", 64)
    return keccak(word(seq) + request_hash + word(max_cost) + word(sent_at))


def canonical_body(route: str, body: bytes) -> bytes:
    """What a request hash commits to: `POST /v1/…`, a line feed, and the body's bytes exactly as sent.

    Nothing is parsed: two spellings of one JSON value are two bodies. Raises InvalidField on a route with control
    characters or non-ASCII characters.
    """
    if not route or not route.isascii() or not route.isprintable():
        raise InvalidField("route", "not a printable ASCII method and path")
    return route.encode() + b"\n" + body


def request_hash(salt: bytes, body: bytes) -> bytes:
    """keccak(salt ‖ body), `body` from `canonical_body`.

    The salt is 32 random bytes, new for every request and known to gateway and provider only: without it a receipt
    shown to others would allow guessing a short prompt.
    """
    check_bytes32(salt, "salt")
    return keccak(salt + body)
