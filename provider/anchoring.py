"""Anchoring: the root over all final receipts goes on chain when there are new ones.

An anchor is in the ledger before it leaves, and the next one is signed only when the last is in a final block, so one
count never gets two roots. A tick sends and returns; later ticks see what became of it.
"""

import asyncio
from collections.abc import Callable

from eth_abi.abi import encode

from protocol.chain.client import ChainClient
from protocol.chain.exceptions import ContractReverted
from protocol.chain.sender import TransactionSender
from protocol.hashing import ZERO_BYTES32, keccak
from protocol.headers import Signed
from protocol.signing import Signer
from protocol.typed_data import Anchor
from provider.exceptions import AnchorError
from provider.ledger import Ledger, StoredAnchor
from provider.service import InferenceService


def anchor_word(anchor: Anchor) -> bytes:
    """What the contract keeps of an anchor; zero bytes before the first."""
    if anchor.count == 0:
        return ZERO_BYTES32
    return keccak(encode(["uint64", "bytes32"], [anchor.count, anchor.root]))


def reconcile(ledger: Ledger, provider: int, latest: bytes, sign: Callable[[Anchor], Signed[Anchor]], now: int) -> None:
    """Raises AnchorError unless the chain's `latest` anchor is over receipts that this ledger has.

    One that the ledger's range leads to and that it has no record of, because it was restored from a copy made before
    the signature, is recorded with a new signature of the same content.
    """
    if latest == ZERO_BYTES32 or any(anchor_word(known) == latest for known in ledger.anchors()):
        return
    last = ledger.last_anchor()
    known = last.signed.message if last else Anchor(provider, 0, ZERO_BYTES32)
    for count in range(ledger.count, known.count, -1):
        anchor = Anchor(provider, count, ledger.root(count))
        if anchor_word(anchor) == latest:
            ledger.record_anchor(StoredAnchor(sign(anchor), known.count, known.root), now)
            return
    raise AnchorError(
        f"the chain's latest anchor of provider {provider} is over receipts that this ledger, with {ledger.count} of "
        f"them, does not have: it was restored from an old copy, or another worker uses another ledger. {_WAY_OUT}"
    )


_WAY_OUT = (
    "Nothing is served or anchored with it, because a contradicting anchor is slashed. Stop the worker and bring back "
    "the newest ledger file or a newer backup; if there is none, end all leases and register again as a new provider"
)


class Anchoring:
    """One provider's anchors.

    `save` is called before one leaves, to make a copy of the ledger that has it; it raises ProviderError if it cannot.
    """

    def __init__(
        self,
        service: InferenceService,
        client: ChainClient,
        sender: TransactionSender,
        node_signer: Signer,
        save: Callable[[], object] | None = None,
    ) -> None:
        self._service = service
        self._client = client
        self._sender = sender
        self._signer = node_signer
        self._save = save
        self._saved: Anchor | None = None

    async def check_not_contradicting(self) -> None:
        """To be called before anything is served. Raises AnchorError if the ledger lacks what the chain has anchored,
        ChainError."""
        latest, _ = await asyncio.to_thread(self._on_chain)
        service = self._service
        await service.write(reconcile, service.ledger, service.provider, latest, self._sign, service.clock.now())

    async def tick(self) -> Anchor | None:
        """Confirms or sends again the last signed anchor, or signs and sends a new one if receipts were added.

        Returns the anchor that this call saw in a final block for the first time. Raises ChainError, and AnchorError
        when signing would contradict the chain; the next tick goes on.
        """
        ledger = self._service.ledger
        signed = await self._service.write(ledger.last_anchor)
        confirmed = await self._service.write(lambda: ledger.last_anchor(confirmed=True))
        if signed is not None and (confirmed is None or signed.signed.message != confirmed.signed.message):
            return await self._follow(signed)
        last = confirmed.signed.message if confirmed else Anchor(self._service.provider, 0, ZERO_BYTES32)
        count = await self._service.write(lambda: ledger.count)
        if count == last.count:
            return None
        await self._check_may_sign(anchor_word(last))
        anchor = Anchor(self._service.provider, count, await self._service.write(ledger.root, count))
        stored = StoredAnchor(self._sign(anchor), last.count, last.root)
        await self._service.write(ledger.record_anchor, stored, self._service.clock.now())
        await self._send(stored)
        return None

    async def _follow(self, stored: StoredAnchor) -> Anchor | None:
        """An anchor that was signed and is not known to be final."""
        anchor = stored.signed.message
        word = anchor_word(anchor)
        latest, final = await asyncio.to_thread(self._on_chain)
        if final == word:
            await self._service.write(self._service.ledger.confirm_anchor, anchor.count)
            return anchor
        if latest == word:
            return None
        await self._check_may_sign(anchor_word(Anchor(anchor.provider, stored.prev_count, stored.prev_root)))
        if stored.signed.recover(self._service.domain) != self._signer.address:
            stored = StoredAnchor(self._sign(anchor), stored.prev_count, stored.prev_root)
            await self._service.write(self._service.ledger.replace_anchor, stored)
        await self._send(stored)
        return None

    async def _send(self, stored: StoredAnchor) -> None:
        if self._save is not None and self._saved != stored.signed.message:
            await asyncio.to_thread(self._save)
            self._saved = stored.signed.message
        await asyncio.to_thread(self._submit, stored)

    def _sign(self, anchor: Anchor) -> Signed[Anchor]:
        return Signed(anchor, self._signer.sign(self._service.domain, anchor))

    async def _check_may_sign(self, expected: bytes) -> None:
        """Raises AnchorError unless the chain is where this ledger says, and takes this worker's key."""
        latest, _ = await asyncio.to_thread(self._on_chain)
        if latest != expected:
            raise AnchorError(
                f"the chain's latest anchor of provider {self._service.provider} is not this ledger's: it was "
                f"restored from an old copy, or another worker uses another ledger. {_WAY_OUT}"
            )
        key = await asyncio.to_thread(self._client.node_key, self._service.provider)
        if key != self._signer.address:
            raise AnchorError(
                f"the registry's node key of provider {self._service.provider} is {key}, this worker's is "
                f"{self._signer.address}: start it with the keystore of the new key"
            )

    def _on_chain(self) -> tuple[bytes, bytes]:
        """What the contract has now, and what it has in the newest final block."""
        call = self._client.reads.latest_anchor(self._service.provider)
        head = self._client.head()
        number = self._client.final_block(head)
        latest: bytes = self._client.get(call, head.number)
        if number == head.number:
            return latest, latest
        try:
            return latest, self._client.get(call, number) if number >= self._client.deployment.block else ZERO_BYTES32
        except ContractReverted:
            return latest, ZERO_BYTES32

    def _submit(self, stored: StoredAnchor) -> None:
        """Sends it; anew when the last attempt is final and, as its caller found, without effect."""
        anchor = stored.signed.message
        r, vs = stored.signed.signature.compact()
        row = (anchor.provider, stored.prev_count, stored.prev_root, anchor.count, anchor.root, r, vs)
        data = self._client.encode("UsageAnchor", "submit", [row])
        name = f"anchor:{anchor.provider}:{anchor.count}:{keccak(data).hex()[:16]}"
        address = self._client.deployment.address("UsageAnchor")
        self._sender.retry(name, address, data, is_over=lambda outcome: outcome.has_ended)
