"""Anchoring: the root over all final receipts goes on chain when there are new ones.

An anchor is in the ledger before it leaves, and the next one is signed only when the last is known to be on chain, so
one count never gets two roots.
"""

import asyncio

from eth_abi.abi import encode

from protocol.chain.client import ChainClient
from protocol.chain.sender import TransactionSender
from protocol.hashing import ZERO_BYTES32, keccak
from protocol.headers import Signed
from protocol.signing import Signer
from protocol.typed_data import Anchor
from provider.ledger import StoredAnchor
from provider.service import InferenceService

TIMEOUT_S = 120.0


def anchor_word(anchor: Anchor) -> bytes:
    """What the contract keeps of an anchor."""
    return keccak(encode(["uint64", "bytes32"], [anchor.count, anchor.root]))


class Anchoring:
    """One provider's anchors."""

    def __init__(
        self, service: InferenceService, client: ChainClient, sender: TransactionSender, node_signer: Signer
    ) -> None:
        self._service = service
        self._client = client
        self._sender = sender
        self._signer = node_signer

    async def tick(self) -> Anchor | None:
        """Brings the last signed anchor on chain, or signs and sends a new one if receipts were added.

        Returns the anchor that is on chain now if this call put it there. Raises ChainError; the next tick goes on.
        """
        stored = await self._due()
        if stored is None:
            return None
        anchor = stored.signed.message
        if await self._on_chain() != anchor_word(anchor):
            await asyncio.to_thread(self._submit, stored)
        if await self._on_chain() != anchor_word(anchor):
            return None
        await self._service.write(self._service.ledger.confirm_anchor, anchor.count)
        return anchor

    async def _due(self) -> StoredAnchor | None:
        ledger = self._service.ledger
        signed = await self._service.write(ledger.last_anchor)
        confirmed = await self._service.write(lambda: ledger.last_anchor(confirmed=True))
        if signed is not None and signed != confirmed:
            return signed
        count = await self._service.write(lambda: ledger.count)
        last = confirmed.signed.message if confirmed else Anchor(self._service.provider, 0, ZERO_BYTES32)
        if count == last.count:
            return None
        anchor = Anchor(self._service.provider, count, await self._service.write(ledger.root, count))
        signature = self._signer.sign(self._service.domain, anchor)
        stored = StoredAnchor(Signed(anchor, signature), last.count, last.root)
        await self._service.write(ledger.record_anchor, stored, self._service.clock.now())
        return stored

    async def _on_chain(self) -> bytes:
        call = self._client.reads.latest_anchor(self._service.provider)
        return await asyncio.to_thread(self._client.get, call)

    def _submit(self, stored: StoredAnchor) -> None:
        anchor = stored.signed.message
        r, vs = stored.signed.signature.compact()
        row = (anchor.provider, stored.prev_count, stored.prev_root, anchor.count, anchor.root, r, vs)
        data = self._client.encode("UsageAnchor", "submit", [row])
        key = f"anchor:{anchor.provider}:{anchor.count}"
        self._sender.execute(key, self._client.deployment.address("UsageAnchor"), data, timeout=TIMEOUT_S)
