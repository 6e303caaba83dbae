"""Anchoring: the root over all final receipts goes on chain when there are new ones.

An anchor is in the ledger before it leaves, and the next one is signed only when the last is in a final block, so one
count never gets two roots. A tick sends and returns; later ticks see what became of it, and send it again if the chain
loses it.
"""

import asyncio
import logging
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

_log = logging.getLogger(__name__)


def anchor_word(anchor: Anchor) -> bytes:
    """What the contract keeps of an anchor; zero bytes before the first."""
    if anchor.count == 0:
        return ZERO_BYTES32
    return keccak(encode(["uint64", "bytes32"], [anchor.count, anchor.root]))


def find(ledger: Ledger, provider: int, word: bytes) -> Anchor | None:
    """The anchor of this ledger that the contract keeps as `word`, the empty one before the first."""
    if word == ZERO_BYTES32:
        return Anchor(provider, 0, ZERO_BYTES32)
    return next((known for known in ledger.anchors() if anchor_word(known) == word), None)


def reconcile(ledger: Ledger, provider: int, latest: bytes, sign: Callable[[Anchor], Signed[Anchor]], now: int) -> None:
    """Raises AnchorError unless the chain's `latest` anchor is over receipts that this ledger has.

    One that the ledger's range leads to and that it has no record of, because it was restored from a copy made before
    the signature, is recorded with a new signature of the same content.
    """
    if find(ledger, provider, latest) is not None:
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
        service, ledger = self._service, self._service.ledger
        stored = await service.write(ledger.last_anchor)
        latest, final = await asyncio.to_thread(self._on_chain)
        if stored is None:
            last = await self._known(latest)
        elif stored != await service.write(lambda: ledger.last_anchor(confirmed=True)):
            return await self._follow(stored, latest, final)
        else:
            last = stored.signed.message
        if latest != anchor_word(last):
            await self._take_back(latest)
            return None
        count = await service.write(lambda: ledger.count)
        if count > last.count:
            await self._check_key()
            anchor = Anchor(service.provider, count, await service.write(ledger.root, count))
            following = StoredAnchor(self._sign(anchor), last.count, last.root)
            await service.write(ledger.record_anchor, following, service.clock.now())
            await self._send(following)
        return None

    async def _follow(self, stored: StoredAnchor, latest: bytes, final: bytes) -> Anchor | None:
        """An anchor that was signed and is not known to be final. It follows whichever of ours the chain has now."""
        anchor, word = stored.signed.message, anchor_word(stored.signed.message)
        if final == word:
            await self._service.write(self._service.ledger.confirm_anchor, anchor.count)
            return anchor
        if latest == word:
            return None
        previous = await self._known(latest)
        await self._check_key()
        if stored.signed.recover(self._service.domain) != self._signer.address:
            stored = StoredAnchor(self._sign(anchor), stored.prev_count, stored.prev_root)
            await self._service.write(self._service.ledger.replace_anchor, stored)
        await self._send(StoredAnchor(stored.signed, previous.count, previous.root))
        return None

    async def _take_back(self, latest: bytes) -> None:
        """The chain no longer has what was final. If the next look says so too, the anchor is sent again."""
        known = await self._known(latest)
        _log.warning("the chain's latest anchor is over %d receipts only: a later one was undone", known.count)
        await self._service.write(self._service.ledger.unconfirm_anchors, known.count)

    async def _send(self, stored: StoredAnchor) -> None:
        if self._save is not None and self._saved != stored.signed.message:
            await asyncio.to_thread(self._save)
            self._saved = stored.signed.message
        await asyncio.to_thread(self._submit, stored)

    def _sign(self, anchor: Anchor) -> Signed[Anchor]:
        return Signed(anchor, self._signer.sign(self._service.domain, anchor))

    async def _known(self, latest: bytes) -> Anchor:
        """The chain's latest anchor. Raises AnchorError unless it is one of this ledger's."""
        service = self._service
        known = await service.write(find, service.ledger, service.provider, latest)
        if known is None:
            raise AnchorError(
                f"the chain's latest anchor of provider {service.provider} is not this ledger's: it was "
                f"restored from an old copy, or another worker uses another ledger. {_WAY_OUT}"
            )
        return known

    async def _check_key(self) -> None:
        """Raises AnchorError unless the chain takes this worker's key."""
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
