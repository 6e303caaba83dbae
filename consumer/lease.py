"""Opening, closing and releasing leases. Amounts in token base units, times in seconds."""

import secrets
from dataclasses import dataclass
from pathlib import Path

from consumer.endpoints import Endpoint
from consumer.exceptions import AccountTooLow
from consumer.offers import Offer
from consumer.records import LeaseRecord
from consumer.store import Store
from protocol import keystore
from protocol.chain.client import ChainClient
from protocol.chain.exceptions import ChainError, ContractReverted, TransactionReverted, UnknownIntent
from protocol.chain.intents import State
from protocol.chain.sender import Outcome, TransactionSender
from protocol.ids import lease_id_of
from protocol.keystore import Password
from protocol.signing import Signer
from protocol.typed_data import Domain, OpenLease

TIMEOUT_S = 180.0
OPEN_WITHIN_S = 3_600


@dataclass(frozen=True)
class LeaseWish:
    """What to open: the deposit, how long, and how long the provider may settle after a close."""

    amount: int
    duration_s: int = 86_400
    close_delay_s: int = 3_600


class Leases:
    """Leases of one owner, whose session keys this gateway keeps in `folder`."""

    def __init__(
        self, client: ChainClient, domain: Domain, store: Store, folder: Path, password: Password, scrypt_n: int
    ) -> None:
        self._client = client
        self._domain = domain
        self._store = store
        self._folder = folder
        self._password = password
        self._scrypt_n = scrypt_n
        self._escrow = client.deployment.address("LeaseEscrow")

    def prepare(self, owner: str, offer: Offer, endpoint: Endpoint, wish: LeaseWish) -> tuple[OpenLease, LeaseRecord]:
        """A lease request with a new session key, which is on disk already.

        Raises AccountTooLow before anything is made, ChainError, KeystoreError, StoreError.
        """
        free = self._client.account(owner, offer.terms.token)
        if free < wish.amount:
            raise AccountTooLow(
                f"escrow: account too low: it holds {free} base units of {offer.terms.token}, the lease takes "
                f"{wish.amount}: deposit {wish.amount - free} more, or open a smaller lease"
            )
        self._folder.mkdir(parents=True, exist_ok=True)
        key_file = self._folder / f"session-{secrets.token_hex(8)}.json"
        session = keystore.create(key_file, self._password, scrypt_n=self._scrypt_n)
        head = self._client.head()
        request = OpenLease(
            owner=owner,
            provider=offer.provider,
            offer_id=offer.offer_id,
            version=offer.version,
            token=offer.terms.token,
            amount=wish.amount,
            signer=session.address,
            expiry=head.timestamp + wish.duration_s,
            close_delay=wish.close_delay_s,
            terms_digest=offer.digest,
            nonce=self._client.nonce(owner),
            deadline=head.timestamp + OPEN_WITHIN_S,
        )
        record = LeaseRecord(
            lease_id=lease_id_of(self._domain, request),
            owner=owner,
            provider=offer.provider,
            offer_id=offer.offer_id,
            version=offer.version,
            token=offer.terms.token,
            deposit=wish.amount,
            expiry=request.expiry,
            signer=session.address,
            key_file=str(key_file),
            endpoint=endpoint.url,
            node_key=offer.node_key,
            model=offer.model_name,
            fingerprint=offer.fingerprint,
            terms=offer.terms,
            tls_pin=endpoint.tls_pin,
            engine=offer.engine,
        )
        self._store.add_lease(record)
        return request, record

    def open(self, sender: TransactionSender, request: OpenLease, owner: Signer | None = None) -> Outcome:
        """Opens a prepared lease: by the owner's own transaction, or by anyone's with the `owner`'s signature.

        Raises ChainError. After TransactionTimeout the transaction is still followed: see `finish_openings`.
        """
        lease_id = lease_id_of(self._domain, request)
        signature = owner.sign(self._domain, request).to_bytes() if owner else b""
        data = self._client.encode("LeaseEscrow", "open_lease", request, signature)
        try:
            sender.send(_open_key(lease_id), self._escrow, data)
        except ChainError:
            # nothing was sent, and nothing will be
            self._store.drop_lease(lease_id)
            raise
        return self._opened(sender, lease_id)

    def finish_openings(self, sender: TransactionSender) -> list[LeaseRecord]:
        """Brings openings that were interrupted to their end, and returns the leases that came of them.

        After it no lease is on its way. Raises ChainError.
        """
        interrupted = {record.lease_id for record in self._store.leases(is_open=False)}
        self.reconcile()
        for record in self._store.leases(is_open=False):
            try:
                self._opened(sender, record.lease_id)
            except UnknownIntent:
                self._store.drop_lease(record.lease_id)
            except TransactionReverted:
                continue
        return [record for record in self._store.leases() if record.lease_id in interrupted]

    def top_up(self, sender: TransactionSender, lease_id: bytes, deposit: int, amount: int) -> int:
        """Raises a lease's deposit, which is `deposit` on chain, and returns the new one. Raises ChainError.

        One that was begun before and not finished is finished instead, whatever its amount.
        """
        data = self._client.encode("LeaseEscrow", "top_up", lease_id, amount)
        name = f"top-up:{lease_id.hex()}:{deposit}"
        outcome = sender.latest(name)
        if outcome is None or outcome.has_failed:
            outcome = sender.retry(name, self._escrow, data)
        outcome = sender.wait(outcome.key, timeout=TIMEOUT_S, until=State.MINED)
        if not outcome.succeeded:
            raise TransactionReverted("0x" + outcome.tx_hash.hex(), "the lease cannot be topped up")
        return self._client.lease(lease_id).deposit

    def _opened(self, sender: TransactionSender, lease_id: bytes) -> Outcome:
        """Waits for a sent opening. Raises UnknownIntent, TransactionReverted, ChainError."""
        outcome = sender.wait(_open_key(lease_id), timeout=TIMEOUT_S, until=State.MINED)
        if outcome.succeeded:
            self._store.mark_open(lease_id)
            return outcome
        # a node may have made the failure up: until it would have ended anyway, `reconcile` may still find the lease
        if outcome.has_failed and self._client.head().timestamp >= self._store.lease(lease_id).expiry:
            self._store.drop_lease(lease_id)
        raise TransactionReverted("0x" + outcome.tx_hash.hex(), "the lease was not opened")

    def reconcile(self) -> None:
        """Finds out what became of leases whose opening was interrupted. Raises ChainError."""
        for record in self._store.leases(is_open=False):
            try:
                self._client.lease(record.lease_id)
            except ContractReverted:
                continue
            self._store.mark_open(record.lease_id)

    def session_key(self, record: LeaseRecord) -> Signer:
        """The lease's session key. Raises KeystoreError."""
        return keystore.load(Path(record.key_file), self._password)

    def close(self, sender: TransactionSender, lease_id: bytes) -> Outcome:
        """Asks for the end of a lease; the provider may settle until its close delay has passed."""
        return self._call(sender, "close", lease_id)

    def release(self, sender: TransactionSender, lease_id: bytes) -> Outcome | None:
        """Returns what was not settled to the owner's account, once the lease has closed; None if anyone else did."""
        try:
            return self._call(sender, "release", lease_id)
        except (ContractReverted, TransactionReverted):
            if self._client.lease(lease_id).is_released:
                return None
            raise

    def _call(self, sender: TransactionSender, function: str, lease_id: bytes) -> Outcome:
        data = self._client.encode("LeaseEscrow", function, lease_id)
        return sender.execute(f"{function}:{lease_id.hex()}", self._escrow, data, timeout=TIMEOUT_S)


def _open_key(lease_id: bytes) -> str:
    return f"open:{lease_id.hex()}"
