"""One run of the consumer's command line: chain, records, keys and senders, opened together and closed together."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from consumer.config import ConsumerConfig
from consumer.exceptions import ConfigUnusable, StoreError
from consumer.funds import Funds
from consumer.lease import Leases
from consumer.lease_client import LeaseClient
from consumer.records import LeaseRecord
from consumer.store import Store
from consumer.tokenizer import PromptCounter
from protocol import keystore
from protocol.chain import deployments
from protocol.chain.client import ChainClient
from protocol.chain.clock import MarketClock
from protocol.chain.sender import SenderPolicy, TransactionSender
from protocol.keystore import SCRYPT_N, Password
from protocol.signing import Signer
from protocol.typed_data import Domain

TOKEN_CONTRACTS = {"USDC": "TestUSDC", "CLAW": "ClawToken"}


class Session:
    """Building it reads and checks; nothing is sent."""

    def __init__(self, config: ConsumerConfig, password: Password, scrypt_n: int = SCRYPT_N) -> None:
        """Raises ConfigUnusable, ChainError, StoreError."""
        deployment = deployments.load_file(config.deployment)
        try:
            config.data.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigUnusable(
                f"the data folder {config.data} cannot be made ({error.strerror}): choose another folder"
            ) from error
        self._config = config
        self._password = password
        self.client = ChainClient(config.rpc, deployment)
        self.domain = Domain(deployment.chain_id, deployment.address("LeaseEscrow"))
        self.store = Store(config.data / "consumer.sqlite", self.domain)
        self.leases = Leases(self.client, self.domain, self.store, config.data / "sessions", password, scrypt_n)
        self._owner: Signer | None = None

    def close(self) -> None:
        """Closes records and connections."""
        self.store.close()
        self.client.close()

    @property
    def owner(self) -> Signer:
        """The owner's key, read when first needed. Raises KeystoreError."""
        if self._owner is None:
            self._owner = keystore.load(self._config.owner_key, self._password)
        return self._owner

    @contextmanager
    def sender(self) -> Iterator[TransactionSender]:
        """The owner's transaction sender, after a check that the chain holds this deployment."""
        self.client.check_deployment()
        path = self._config.data / "sender.sqlite"
        with TransactionSender(self.client, self.owner, path, SenderPolicy(poll_s=0.2)) as found:
            yield found

    @contextmanager
    def funds(self) -> Iterator[Funds]:
        """The owner's account in the market."""
        with self.sender() as sender:
            yield Funds(self.client, sender, self.owner)

    def find_lease(self, start: str) -> LeaseRecord:
        """The lease whose id starts so; the newest for an empty start. Raises StoreError, ChainError."""
        self.leases.reconcile()
        wanted = start.lower().removeprefix("0x")
        found = [record for record in self.store.leases() if record.lease_id.hex().startswith(wanted)]
        if not found:
            raise StoreError("no such lease is known here: open one with `clawmarket consumer open`")
        if wanted and len(found) > 1:
            raise StoreError(f"{len(found)} leases start with {start}: give more digits")
        return max(found, key=lambda record: record.expiry)

    @contextmanager
    def lease_client(self, record: LeaseRecord) -> Iterator[LeaseClient]:
        """A client for questions under a lease; close it with `await close()`."""
        clock = MarketClock.of(self.client.deployment.profile)
        clock.update(self.client.head().timestamp)
        counter = PromptCounter(self._config.tokenizer) if self._config.tokenizer else None
        signer = self.leases.session_key(record)
        try:
            yield LeaseClient(
                domain=self.domain,
                store=self.store,
                record=record,
                signer=signer,
                now=clock.now,
                counter=counter,
                key_lookup=lambda key: self.client.get(self.client.reads.key_record(key)),
                accept_unverified=self._config.accept_unverified,
            )
        finally:
            if counter:
                counter.close()


def new_key() -> str:
    """A name for a transaction that a person asks for once."""
    return secrets.token_hex(8)
