"""Auditing a provider: is a receipt under the root it anchored on chain?"""

import json
from dataclasses import dataclass

import httpx
from eth_abi.abi import encode

from consumer.exceptions import NotProved, ProviderFailed, ReceiptRejected
from consumer.tls import verification
from protocol.chain.client import ChainClient
from protocol.chain.exceptions import ContractReverted
from protocol.exceptions import InvalidProof
from protocol.hashing import keccak, word
from protocol.headers import Signed
from protocol.merkle import verify_inclusion
from protocol.typed_data import Domain, Receipt, digest

TIMEOUT_S = 20.0
MAX_PROOF_BYTES = 64 * 1024
SEARCHED_BLOCKS, MAX_SEARCHES = 2_000, 10
"""How far back an anchor is looked for that is not the latest: hours on fast chains, more than finality takes."""


@dataclass(frozen=True)
class Inclusion:
    """A receipt's place under an anchor that is on chain."""

    position: int
    count: int
    root: bytes
    proof: list[bytes]


def prove_receipt(
    client: ChainClient, domain: Domain, endpoint: str, provider: int, signed: Signed[Receipt], tls_pin: str = ""
) -> Inclusion:
    """Fetches the proof from the provider and verifies it against an anchor on chain.

    That is the latest one, or an earlier one: a provider proves by the last that it knows to be final.

    `tls_pin` is the endpoint's, see `consumer.tls`.

    Raises ReceiptRejected if it does not hold or has an impossible place, NotProved if the provider has none,
    ProviderFailed if it gives none that can be used, ChainError.
    """
    receipt = signed.message
    found = _fetch(f"{endpoint}/v1/receipts/0x{receipt.lease_id.hex()}/{receipt.seq}/proof", tls_pin)
    latest = client.get(client.reads.latest_anchor(provider))
    if latest != keccak(encode(["uint64", "bytes32"], [found.count, found.root])):
        _check_was_anchored(client, provider, found)
    try:
        verify_inclusion(digest(domain, receipt), found.position, found.count, found.proof, found.root)
    except InvalidProof as error:
        raise ReceiptRejected("proof", str(error)) from error
    return found


def _check_was_anchored(client: ChainClient, provider: int, found: Inclusion) -> None:
    last, anchor = client.head().number, client.deployment.address("UsageAnchor")
    for _ in range(MAX_SEARCHES):
        first = max(0, last - SEARCHED_BLOCKS + 1)
        logs = client.logs(first, last, addresses=[anchor], topics=[None, [word(provider)]])
        for event in client.decoder.decode_all(logs):
            if event.name == "Anchored" and (event.args["count"], event.args["root"]) == (found.count, found.root):
                return
        if first == 0:
            break
        last = first - 1
    raise ReceiptRejected("root", "the provider's root was not anchored on chain, at least not lately")


def prove_on_chain(client: ChainClient, domain: Domain, provider: int, receipt: Receipt, inclusion: Inclusion) -> bool:
    """The same question to the Lens contract. Raises ChainError."""
    call = client.reads.view(
        "Lens",
        "is_anchored",
        provider,
        inclusion.count,
        inclusion.root,
        inclusion.position,
        digest(domain, receipt),
        inclusion.proof,
    )
    try:
        return bool(client.get(call))
    except ContractReverted:
        return False


def _fetch(url: str, tls_pin: str) -> Inclusion:
    try:
        with httpx.stream("GET", url, timeout=TIMEOUT_S, verify=verification(tls_pin)) as answer:
            received = b""
            for chunk in answer.iter_bytes():
                received += chunk
                if len(received) > MAX_PROOF_BYTES:
                    raise ProviderFailed(f"{url} sent more than {MAX_PROOF_BYTES} bytes")
        content = json.loads(received)
        if answer.status_code == httpx.codes.NOT_FOUND:
            raise NotProved(str(content["error"]["code"]), str(content["error"]["message"]))
        answer.raise_for_status()
        found = Inclusion(
            position=_whole(content["position"]),
            count=_whole(content["count"]),
            root=_word(content["root"]),
            proof=[_word(node) for node in content["proof"]],
        )
    except (httpx.HTTPError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ProviderFailed(f"no usable proof from {url}: {error}") from error
    if not 0 <= found.position < found.count < 1 << 64:
        raise ReceiptRejected("proof", f"place {found.position:#x} among {found.count:#x} receipts does not exist")
    return found


def _whole(value: object) -> int:
    if type(value) is not int:
        raise ValueError("position and count are integers")
    return value


def _word(text: str) -> bytes:
    raw = bytes.fromhex(text.removeprefix("0x"))
    if len(raw) != 32:
        raise ValueError("not 32 bytes")
    return raw
