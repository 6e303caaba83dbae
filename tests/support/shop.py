"""An enrolled provider whose worker's records are written by the test: no engine, no HTTP, a real chain."""

import itertools
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from protocol import keystore
from protocol.headers import Signed
from protocol.ids import lease_id_of
from protocol.signing import Signer
from protocol.typed_data import Anchor, OpenLease, Receipt, Voucher
from provider.anchoring import anchor_word
from provider.config import Config, load_config
from provider.enrolment import Enrolment
from provider.ledger import AdmittedRequest, Ledger, StoredAnchor
from tests.support.chain_provider import SESSION
from tests.support.live_market import ETHER, PASSWORD, SCRYPT_N, LiveMarket, signer_of

_numbers = itertools.count(1)


@dataclass
class Shop:
    """One provider of its own owner."""

    market: LiveMarket
    enrolment: Enrolment
    folder: Path

    @property
    def config(self) -> Config:
        return load_config(self.enrolment.config)

    @property
    def provider(self) -> int:
        return self.enrolment.provider

    @property
    def owner_key(self) -> Path:
        """The owner's keystore, outside of what is lost."""
        return self.folder.with_name(f"{self.folder.name}-owner.json")

    def ledger(self, folder: Path | None = None) -> Ledger:
        return Ledger((folder or self.folder) / "data" / "ledger.sqlite", self.market.domain, self.provider)

    def node(self) -> Signer:
        return keystore.load(self.config.provider.node_key, PASSWORD)

    def open_lease(self, deposit: int = 1_000_000) -> bytes:
        """A lease of the consumer's; returns its id."""
        client, owner = self.market.client, signer_of(2).address
        head = client.head()
        request = OpenLease(
            owner=owner,
            provider=self.provider,
            offer_id=self.enrolment.offer_id,
            version=1,
            token=self.market.token,
            amount=deposit,
            signer=SESSION.address,
            expiry=head.timestamp + 86_400,
            close_delay=3_600,
            terms_digest=client.offer(self.provider, self.enrolment.offer_id).terms_digest,
            nonce=client.nonce(owner),
            deadline=head.timestamp + 3_600,
        )
        lease_id = lease_id_of(self.market.domain, request)
        self.market.call(2, f"open:{lease_id.hex()}", "LeaseEscrow", "open_lease", request, b"")
        return lease_id

    def admit(self, lease_id: bytes, seq: int, cumulative: int = 0) -> None:
        """A request that is being served, and a voucher."""
        voucher = Voucher(lease_id, cumulative)
        signed = Signed(voucher, SESSION.sign(self.market.domain, voucher))
        with closing(self.ledger()) as ledger:
            ledger.admit(AdmittedRequest(lease_id, seq, b"\x05" * 32, 100, 1), signed, signer_of(2).address, 1)

    def finish(self, lease_id: bytes, seq: int, cost: int = 1) -> Signed[Receipt]:
        """Its final receipt."""
        receipt = Receipt(lease_id, seq, 0, True, cost, 1, 0, 0, b"\x05" * 32, bytes(32), 0, 0, 1, bytes(32))
        signed = Signed(receipt, self.node().sign(self.market.domain, receipt))
        with closing(self.ledger()) as ledger:
            ledger.record_receipt(signed)
        return signed

    def anchor(self) -> None:
        """All final receipts so far, on chain."""
        with closing(self.ledger()) as ledger:
            last = ledger.last_anchor()
            known = last.signed.message if last else Anchor(self.provider, 0, bytes(32))
            anchor = Anchor(self.provider, ledger.count, ledger.root())
            signed = Signed(anchor, self.node().sign(self.market.domain, anchor))
            ledger.record_anchor(StoredAnchor(signed, known.count, known.root), 1)
        r, vs = signed.signature.compact()
        row = (self.provider, known.count, known.root, anchor.count, anchor.root, r, vs)
        self.market.call(0, f"anchor:{self.provider}:{anchor.count}", "UsageAnchor", "submit", [row])
        assert self.anchored() == anchor_word(anchor)

    def anchored(self) -> bytes:
        """What the chain has."""
        word: bytes = self.market.client.get(self.market.client.reads.latest_anchor(self.provider))
        return word


def open_shop(market: LiveMarket, folder: Path, **serving: object) -> Shop:
    """A new provider, its worker's folder `folder`; `serving` are settings of that section."""
    number = next(_numbers)
    owner = Signer(bytes([0x80 + number]) * 32)
    market.node.set_balance(owner.address, ETHER)
    market.call(0, f"shop-{number}", "ClawToken", "transfer", owner.address, 10_000 * ETHER)
    folder.mkdir()
    keystore.save(folder / "owner.json", owner, PASSWORD, scrypt_n=SCRYPT_N)
    enrolment = market.enrol(folder, **serving)
    market.node.set_balance(enrolment.operator, ETHER)
    shop = Shop(market, enrolment, folder)
    (folder / "owner.json").rename(shop.owner_key)
    return shop
