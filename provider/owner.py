"""What a provider's owner does on chain: stake, register, publish offers, collect and withdraw earnings.

Every step looks first and sends only what is missing, so that a run that was interrupted is gone on with by running it
again. Amounts in token base units. Errors are ChainErrors.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from protocol import keystore
from protocol.chain import deployments
from protocol.chain.client import ChainClient
from protocol.chain.sender import Outcome, SenderPolicy, TransactionSender
from protocol.hashing import ZERO_BYTES32
from protocol.keystore import Password
from protocol.signing import Signer
from protocol.typed_data import Domain, NodeKey, Terms, hash_struct
from provider.config import Config
from provider.exceptions import ConfigError

TIMEOUT_S = 180.0
SENDER_FILE = "owner.sqlite"


@dataclass(frozen=True)
class OfferLimits:
    """What an offer allows of its leases. Durations in seconds, amounts in token base units.

    The minimum deposit (0.10 USDC) is what one address must lock up to take credit as a stranger or to fill a place;
    `max_active` times the credit given to a stranger bounds what all strangers together can owe.
    """

    min_deposit: int = 100_000
    max_duration: int = 30 * 86_400
    close_delay_min: int = 3_600
    close_delay_max: int = 86_400
    max_active: int = 500


class Owner:
    """One owner account."""

    def __init__(self, client: ChainClient, sender: TransactionSender, domain: Domain) -> None:
        self._client = client
        self._sender = sender
        self._domain = domain
        self.address = sender.address

    def stake(self, target: int) -> Outcome | None:
        """Raises the active stake to `target` CLAW base units; None if it is there already."""
        active: int = self._client.get(self._client.reads.view("Staking", "active_stake", self.address))
        if active >= target:
            return None
        missing = target - active
        staking = self._client.deployment.address("Staking")
        self._send(f"approve-stake:{target}", "ClawToken", "approve", staking, missing)
        return self._send(f"stake:{target}", "Staking", "stake", missing)

    def add_stake(self, key: str, amount: int) -> Outcome:
        """Stakes `amount` CLAW base units more; `key` names this deed."""
        staking = self._client.deployment.address("Staking")
        self._send(f"approve-stake:{key}", "ClawToken", "approve", staking, amount)
        return self._send(f"stake:{key}", "Staking", "stake", amount)

    def start_cooldown(self, key: str, amount: int) -> Outcome:
        """Takes `amount` out of the active stake; below the minimum this deregisters and ends all leases."""
        return self._send(f"cooldown:{key}", "Staking", "start_cooldown", amount)

    def withdraw_stake(self, key: str, to: str) -> Outcome:
        """Pays out all that has cooled down. Reverts while the cooldown runs."""
        return self._send(f"unstake:{key}", "Staking", "withdraw", to)

    def register(self, node_signer: Signer, metadata_digest: bytes = ZERO_BYTES32) -> int:
        """The owner's provider id, registering it first if there is none."""
        known = self._client.get(self._client.reads.provider_of(self.address))
        if known:
            return known
        r, vs = node_signer.sign(self._domain, NodeKey(self.address)).compact()
        key = f"register:{node_signer.address}"
        self._send(key, "Registry", "register", node_signer.address, r, vs, metadata_digest)
        return self._client.get(self._client.reads.provider_of(self.address))

    def set_metadata(self, provider: int, digest: bytes) -> Outcome | None:
        """Enters the digest of the metadata document; None if it is there already."""
        if self._client.get(self._client.reads.metadata_digest(provider)) == digest:
            return None
        key = f"metadata:{provider}:{digest.hex()}:{self._client.transaction_count(self.address)}"
        return self._send(key, "Registry", "set_metadata", provider, digest)

    def create_offer(self, provider: int, terms: Terms, limits: OfferLimits) -> tuple[int, int]:
        """Publishes a new offer; returns (offer id, version)."""
        key = f"offer:{provider}:{hash_struct(terms).hex()}"
        outcome = self._send(key, "Registry", "create_offer", provider, _struct(terms, limits))
        return self._published(outcome, "OfferCreated")

    def update_offer(self, key: str, provider: int, offer_id: int, terms: Terms, limits: OfferLimits) -> int:
        """Publishes a new version of an offer and returns its number; open leases keep their terms."""
        outcome = self._send(
            f"update-offer:{key}", "Registry", "update_offer", provider, offer_id, _struct(terms, limits)
        )
        return self._published(outcome, "OfferUpdated")[1]

    def set_offer_open(self, key: str, provider: int, offer_id: int, *, is_open: bool) -> Outcome:
        """Lets new leases be opened, or not; open leases go on."""
        return self._send(f"offer-open:{key}", "Registry", "set_offer_open", provider, offer_id, is_open)

    def offer_limits(self, provider: int, offer_id: int) -> OfferLimits:
        """The limits of an offer as the registry has them."""
        offer = self._client.offer(provider, offer_id)
        return OfferLimits(
            offer.min_deposit, offer.max_duration, offer.close_delay_min, offer.close_delay_max, offer.max_active
        )

    def collect(self, key: str, provider: int, token: str) -> Outcome:
        """Moves matured earnings into the owner's account; `key` names this collection."""
        return self._send(f"collect:{key}", "LeaseEscrow", "collect", provider, token)

    def withdraw(self, key: str, token: str, amount: int, to: str) -> Outcome:
        """Pays out of the owner's account in the market; `key` names this withdrawal."""
        return self._send(f"withdraw:{key}", "LeaseEscrow", "withdraw", token, amount, to)

    def _published(self, outcome: Outcome, name: str) -> tuple[int, int]:
        for event in self._client.decoder.decode_all(outcome.receipt.logs if outcome.receipt else ()):
            if event.name == name:
                return int(event.args["offer_id"]), int(event.args["version"])
        raise AssertionError(f"an offer was published without the event {name}")

    def _send(self, key: str, contract: str, function: str, *arguments: object) -> Outcome:
        data = self._client.encode(contract, function, *arguments)
        return self._sender.execute(key, self._client.deployment.address(contract), data, timeout=TIMEOUT_S)


def _struct(terms: Terms, limits: OfferLimits) -> tuple[object, ...]:
    """The registry's `Offer`."""
    return (
        terms.offer_kind,
        terms.token,
        hash_struct(terms),
        limits.min_deposit,
        limits.max_duration,
        limits.close_delay_min,
        limits.close_delay_max,
        limits.max_active,
    )


@contextmanager
def open_owner(config: Config, owner_key: Path, password: Password) -> Iterator[tuple[ChainClient, Owner]]:
    """The owner of the configured provider, ready to send.

    Raises ConfigError if the keystore is not the provider's owner, ChainError, KeystoreError.
    """
    signer = keystore.load(owner_key, password)
    provider = config.provider.id
    with ChainClient(config.chain.rpc, deployments.load_file(config.chain.deployment)) as client:
        client.check_deployment()
        registered = client.get(client.reads.owner_of(provider))
        if registered != signer.address:
            raise ConfigError(f"provider {provider} belongs to {registered}, {owner_key} holds {signer.address}")
        config.provider.data.mkdir(parents=True, exist_ok=True)
        path = config.provider.data / SENDER_FILE
        with TransactionSender(client, signer, path, SenderPolicy(poll_s=0.2)) as sender:
            domain = Domain(client.deployment.chain_id, client.deployment.address("LeaseEscrow"))
            yield client, Owner(client, sender, domain)
