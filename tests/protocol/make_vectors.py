"""Write the golden vectors: `python -m tests.protocol.make_vectors > tests/protocol/vectors.json`.

Plain JSON for every language: integers are decimal strings, bytes 0x-hex, addresses EIP-55. The keys are public; never
use them for anything else. A change of any value here is a change of the protocol.
"""

from __future__ import annotations

import json
from typing import Any

from protocol import headers, ids, merkle, money
from protocol.address import to_address
from protocol.canonical import canonical_bytes
from protocol.documents import document_digest, model_fingerprint
from protocol.hashing import ZERO_BYTES32, keccak
from protocol.signing import Signature, Signer
from protocol.typed_data import (
    DOMAIN_NAME,
    DOMAIN_VERSION,
    MESSAGE_TYPES,
    Anchor,
    Document,
    Domain,
    Message,
    NodeKey,
    OpenLease,
    Receipt,
    Terms,
    Voucher,
    digest,
    hash_struct,
)

ESCROW = "0x5FbDB2315678afecb367f032d93F642f64180aa3"
OTHER_ESCROW = to_address(keccak(b"clawmarket vector escrow")[12:])
TOKEN = to_address(keccak(b"clawmarket vector token")[12:])
DOMAINS = (
    Domain(31337, ESCROW),
    Domain(8453, ESCROW),
    Domain(42161, OTHER_ESCROW),
    Domain((1 << 256) - 1, to_address(b"\xff" * 20)),
)
OWNER = Signer(keccak(b"clawmarket vector owner"))
SESSION = Signer(keccak(b"clawmarket vector session key"))
NODE = Signer(keccak(b"clawmarket vector node key"))
LEAVES = 65
PROVED_COUNTS = (1, 2, 3, 4, 5, 7, 8, 11, 32, 33, 64, 65)

TERMS_DOCUMENT: dict[str, Any] = {
    "schema": "clawmarket/terms/1",
    "kind": "inference",
    "title": "Small talk – 小模型 \U0001f980",
    "model": {
        "name": "smollm2-135m-instruct",
        "gguf_sha256": "a3" * 32,
        "tokenizer_sha256": "b4" * 32,
        "chat_template_sha256": "c5" * 32,
        "quantisation": "Q4_1",
        "engine": {"name": "llama.cpp", "build": "0.3.36"},
        "context_length": 2048,
    },
    "tier": "shared",
    "sandbox": "gvisor-systrap",
    "region": "DE-BE",
    "caps": {
        "max_units_in": 1536,
        "max_units_out": 512,
        "max_concurrent": 4,
        "requests_per_minute": 60,
        "max_body_bytes": 65536,
    },
    "retention": {"input_s": 0, "output_s": 0, "log_s": 604800},
    "content_policy": {"refuses": ["csam", "malware"], "text_sha256": "d6" * 32},
}
SEARCH_DOCUMENT: dict[str, Any] = {
    "schema": "clawmarket/terms/1",
    "kind": "search",
    "tier": "dedicated",
    "sandbox": "none",
    "region": "ZZ",
    "caps": {
        "max_units_in": 1,
        "max_units_out": 10,
        "max_concurrent": 1,
        "requests_per_minute": 600,
        "max_body_bytes": 4096,
    },
    "retention": {"input_s": 0, "output_s": 0, "log_s": 0},
    "content_policy": {"refuses": []},
}
PROVIDER_DOCUMENT: dict[str, Any] = {
    "schema": "clawmarket/provider/1",
    "chain_id": 31337,
    "escrow": ESCROW,
    "owner": OWNER.address,
    "node_key": NODE.address,
    "issued_at": 1_800_000_000,
    "expires_at": 1_802_592_000,
    "name": "Example provider",
    "endpoints": [{"url": "https://gpu.example:8443", "tls_spki_sha256": "e7" * 32}],
    "peer": {"id": "12D3KooWGzh6tLkd1eQvNP8Vqk1Yx3hCrTBvFUFb6xwZsRaLmN4p", "addresses": ["/dns4/gpu.example/tcp/4001"]},
    "models": [
        {
            "name": "smollm2-135m-instruct",
            "fingerprint": "0x" + document_digest(TERMS_DOCUMENT["model"]).hex(),
            "offer_id": 1,
            "sandbox": "gvisor-systrap",
        }
    ],
    "tier": "shared",
    "region": "DE-BE",
    "policies": {"retention": {"input_s": 0, "output_s": 0, "log_s": 604800}, "refuses": ["csam", "malware"]},
}

TERMS = Terms(
    offer_kind=0,
    token=TOKEN,
    price_in=10_000,
    price_out=10_000,
    price_cached=2_500,
    unit_scale=1_000,
    sla_ttft_ms=2_000,
    sla_milli_tokens_per_s=20_000,
    sla_credit_bps=2_500,
    period=0,
    doc_hash=document_digest(TERMS_DOCUMENT),
)
REQUEST_BODY = b'{"model":"smollm2-135m-instruct","messages":[{"role":"user","content":"Why is the sky blue?"}]}'
SALT = keccak(b"clawmarket vector salt")
REQUEST_HASH = ids.request_hash(SALT, ids.canonical_body("POST /v1/chat/completions", REQUEST_BODY))
ANSWER = [(504, -213), (4461, -1042), (314, 0), (4_294_967_295, -2_147_483_648), (0, 2_147_483_647)]


def _open_lease(domain: Domain) -> OpenLease:
    return OpenLease(
        owner=OWNER.address,
        provider=1,
        offer_id=1,
        version=1,
        token=TOKEN,
        amount=5_000_000,
        signer=SESSION.address,
        expiry=1_800_086_400,
        close_delay=3_600,
        terms_digest=hash_struct(TERMS),
        nonce=domain.chain_id % 2,
        deadline=1_800_000_600,
    )


def _context() -> headers.RequestContext:
    return headers.RequestContext(seq=7, request_hash=REQUEST_HASH, max_cost=5_200, sent_at=1_800_000_100, salt=SALT)


def _typical(domain: Domain) -> list[tuple[Message, Signer]]:
    lease = ids.lease_id_of(domain, _open_lease(domain))
    receipt = Receipt(
        lease_id=lease,
        seq=7,
        part=3,
        final=True,
        cost=money.cost_after_sla(TERMS, 24, 8, len(ANSWER), 180, 420),
        units_in=24,
        units_out=len(ANSWER),
        units_cached=8,
        request_hash=REQUEST_HASH,
        response_hash=merkle.response_root(ANSWER),
        ttft_ms=180,
        duration_ms=420,
        ended_at=1_800_000_101,
        model_fingerprint=model_fingerprint(TERMS_DOCUMENT),
    )
    return [
        (_open_lease(domain), OWNER),
        (Voucher(lease, 1_234_567, ZERO_BYTES32), SESSION),
        (Voucher(lease, 1_234_900, _context().context), SESSION),
        (receipt, NODE),
        (Anchor(1, LEAVES, merkle_range().root()), NODE),
        (NodeKey(OWNER.address), NODE),
        (Document(document_digest(PROVIDER_DOCUMENT)), NODE),
        (TERMS, OWNER),
    ]


def _extreme(message_type: type[Message]) -> Message:
    """The largest value of every member."""
    values: dict[str, Any] = {}
    for member in message_type.MEMBERS:
        if member.solidity_type == "address":
            values[member.name] = to_address(b"\xff" * 20)
        elif member.solidity_type == "bytes32":
            values[member.name] = b"\xff" * 32
        elif member.solidity_type == "bool":
            values[member.name] = False
        else:
            values[member.name] = (1 << int(member.solidity_type.removeprefix("uint"))) - 1
    if message_type is Terms:
        values |= {"offerKind": 4, "slaCreditBps": 5_000}
    return message_type.from_dict(values)


def merkle_range() -> merkle.MountainRange:
    """The range of the vectors: leaf i is the digest keccak(uint256 i)."""
    tree = merkle.MountainRange()
    for index in range(LEAVES):
        tree.append(leaf_digest(index))
    return tree


def leaf_digest(index: int) -> bytes:
    """The digest at a leaf of the vectors' range."""
    return keccak(index.to_bytes(32, "big"))


def plain(value: int | bool | str | bytes) -> bool | str:
    """A value as the vectors write it."""
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if isinstance(value, bool | str):
        return value
    return str(value)


def _signature(signature: Signature) -> dict[str, Any]:
    r, vs = signature.compact()
    return {
        "r": plain(r),
        "s": "0x" + signature.s.to_bytes(32, "big").hex(),
        "v": signature.v,
        "vs": plain(vs),
        "wire": signature.to_hex(),
    }


def _message(name: str, domain: Domain, message: Message, signer: Signer) -> dict[str, Any]:
    signature = signer.sign(domain, message)
    return {
        "name": name,
        "chainId": str(domain.chain_id),
        "escrow": domain.escrow,
        "primaryType": type(message).__name__,
        "message": {key: plain(value) for key, value in message.as_dict().items()},
        "structHash": plain(hash_struct(message)),
        "digest": plain(digest(domain, message)),
        "privateKey": plain(signer.private_key),
        "signer": signer.address,
        "signature": _signature(signature),
        "text": headers.encode_signed(message, signature),
    }


def _messages() -> list[dict[str, Any]]:
    typical = [
        _message(f"{type(message).__name__}-{domain.chain_id}-{at}", domain, message, signer)
        for domain in DOMAINS[:3]
        for at, (message, signer) in enumerate(_typical(domain))
    ]
    largest = [_message(f"{kind.__name__}-largest", DOMAINS[3], _extreme(kind), NODE) for kind in MESSAGE_TYPES]
    return typical + largest


def _lease_ids() -> list[dict[str, Any]]:
    entries = []
    for domain in DOMAINS:
        for lease in (_open_lease(domain), _extreme(OpenLease)):
            assert isinstance(lease, OpenLease)
            entries.append(
                {
                    "chainId": str(domain.chain_id),
                    "escrow": domain.escrow,
                    "owner": lease.owner,
                    "nonce": str(lease.nonce),
                    "provider": str(lease.provider),
                    "offerId": str(lease.offer_id),
                    "version": str(lease.version),
                    "signer": lease.signer,
                    "termsDigest": plain(lease.terms_digest),
                    "leaseId": plain(ids.lease_id_of(domain, lease)),
                }
            )
    return entries


def _contexts() -> list[dict[str, Any]]:
    cases = (
        (0, ZERO_BYTES32, 0, 0),
        (7, REQUEST_HASH, 5_200, 1_800_000_100),
        ((1 << 64) - 1, b"\xff" * 32, (1 << 128) - 1, (1 << 64) - 1),
    )
    return [
        {
            "seq": str(seq),
            "requestHash": plain(request),
            "maxCost": str(max_cost),
            "sentAt": str(sent_at),
            "context": plain(ids.voucher_context(seq, request, max_cost, sent_at)),
        }
        for seq, request, max_cost, sent_at in cases
    ]


def _request_hashes() -> list[dict[str, Any]]:
    cases = (
        ("POST /v1/chat/completions", REQUEST_BODY),
        ("POST /v1/embeddings", b""),
        ("GET /v1/blobs/1", b"\x00\xff"),
    )
    return [
        {
            "salt": plain(SALT),
            "route": route,
            "body": plain(body),
            "requestHash": plain(ids.request_hash(SALT, ids.canonical_body(route, body))),
        }
        for route, body in cases
    ]


def _merkle() -> dict[str, Any]:
    tree = merkle_range()
    inclusion = [
        {
            "index": str(index),
            "count": str(count),
            "proof": [plain(item) for item in tree.inclusion_proof(index, count)],
            "root": plain(tree.root(count)),
        }
        for count in PROVED_COUNTS
        for index in sorted({0, 1, count // 2, count - 2, count - 1})
        if 0 <= index < count
    ]
    consistency = [
        {
            "oldCount": str(old),
            "oldRoot": plain(tree.root(old)),
            "newCount": str(new),
            "newRoot": plain(tree.root(new)),
            "proof": [plain(item) for item in tree.consistency_proof(old, new)],
        }
        for old in (0, *PROVED_COUNTS)
        for new in PROVED_COUNTS
        if old <= new
    ]
    return {
        "leafDigests": [plain(leaf_digest(index)) for index in range(LEAVES)],
        "roots": [plain(tree.root(count)) for count in range(LEAVES + 1)],
        "inclusion": inclusion,
        "consistency": consistency,
    }


def _responses() -> list[dict[str, Any]]:
    return [
        {
            "tokens": [[str(token), str(logprob)] for token, logprob in answer],
            "root": plain(merkle.response_root(answer)),
        }
        for answer in ([], ANSWER[:1], ANSWER)
    ]


def _documents() -> list[dict[str, Any]]:
    cases = (("terms", TERMS_DOCUMENT), ("terms", SEARCH_DOCUMENT), ("provider", PROVIDER_DOCUMENT))
    entries = []
    for kind, document in cases:
        entry: dict[str, Any] = {
            "type": kind,
            "document": document,
            "canonical": plain(canonical_bytes(document)),
            "digest": plain(document_digest(document)),
        }
        if kind == "terms":
            entry["modelFingerprint"] = plain(model_fingerprint(document))
        entries.append(entry)
    return entries


def _costs() -> list[dict[str, Any]]:
    cases = (
        (0, 0, 0, 0, 0),
        (1, 0, 0, 100, 100),
        (24, 8, 5, 180, 420),
        (24, 8, 5, 2_000, 2_250),
        (24, 8, 5, 2_000, 2_251),
        (24, 8, 5, 2_001, 2_100),
        (1_000_000, 3, 512, 1_999, 60_000),
    )
    return [
        {
            "unitsIn": str(units_in),
            "unitsCached": str(cached),
            "unitsOut": str(out),
            "ttftMs": str(ttft),
            "durationMs": str(duration),
            "gross": str(money.cost(TERMS, units_in, cached, out)),
            "breached": money.sla_breached(TERMS, ttft, duration, out),
            "cost": str(money.cost_after_sla(TERMS, units_in, cached, out, ttft, duration)),
        }
        for units_in, cached, out, ttft, duration in cases
    ]


def _fees() -> list[dict[str, str]]:
    cases = ((0, 500), (19, 500), (20, 500), (1_234_567, 500), ((1 << 128) - 1, 1_000))
    return [{"cumulative": str(x), "feeBps": str(bps), "fee": str(money.fee(x, bps))} for x, bps in cases]


def _headers() -> dict[str, Any]:
    domain = DOMAINS[0]
    lease = ids.lease_id_of(domain, _open_lease(domain))
    voucher = Voucher(lease, 1_234_900, _context().context)
    receipt = next(message for message, _ in _typical(domain) if isinstance(message, Receipt))
    exposure = headers.Exposure(lease, cumulative=1_234_900, served=1_235_000, credit_cap=1_000, paused=False)
    response = headers.ResponseHeaders(
        receipt=headers.Signed(receipt, NODE.sign(domain, receipt)),
        exposure=exposure,
        refusal=headers.RefusalCode.UNPAID,
    )
    signed = headers.Signed(voucher, SESSION.sign(domain, voucher))
    return {"request": headers.request_headers(signed, _context()), "response": response.encode()}


def make_vectors() -> dict[str, Any]:
    """All golden vectors."""
    return {
        "version": 1,
        "domain": {"name": DOMAIN_NAME, "version": DOMAIN_VERSION},
        "types": [
            {"name": kind.__name__, "type": kind.TYPE, "typeHash": plain(kind.TYPE_HASH)} for kind in MESSAGE_TYPES
        ],
        "domains": [
            {"chainId": str(domain.chain_id), "escrow": domain.escrow, "separator": plain(domain.separator)}
            for domain in DOMAINS
        ],
        "messages": _messages(),
        "leaseIds": _lease_ids(),
        "contexts": _contexts(),
        "requestHashes": _request_hashes(),
        "merkle": _merkle(),
        "responses": _responses(),
        "documents": _documents(),
        "costTerms": {name: plain(value) for name, value in TERMS.as_dict().items()},
        "costs": _costs(),
        "fees": _fees(),
        "headers": _headers(),
    }


def render() -> str:
    """The file's text."""
    return json.dumps(make_vectors(), indent=1, ensure_ascii=True) + "\n"


if __name__ == "__main__":
    print(render(), end="")
