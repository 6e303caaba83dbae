"""What a provider's owner does on chain: stake, register, publish offers, collect and withdraw earnings.

Every step looks first and sends only what is missing, so that a run that was interrupted is gone on with by running it
again. Amounts in token base units. Errors are ChainErrors.
"""

from dataclasses import dataclass

from protocol.chain.client import ChainClient
from protocol.chain.sender import Outcome, TransactionSender
from protocol.hashing import ZERO_BYTES32
from protocol.signing import Signer
from protocol.typed_data import Domain, NodeKey, Terms, hash_struct

TIMEOUT_S = 180.0


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

    def register(self, node_signer: Signer, metadata_digest: bytes = ZERO_BYTES32) -> int:
        """The owner's provider id, registering it first if there is none."""
        known = self._client.get(self._client.reads.provider_of(self.address))
        if known:
            return known
        r, vs = node_signer.sign(self._domain, NodeKey(self.address)).compact()
        key = f"register:{node_signer.address}"
        self._send(key, "Registry", "register", node_signer.address, r, vs, metadata_digest)
        return self._client.get(self._client.reads.provider_of(self.address))

    def create_offer(self, provider: int, terms: Terms, limits: OfferLimits) -> tuple[int, int]:
        """Publishes a new offer; returns (offer id, version)."""
        digest = hash_struct(terms)
        offer = (
            terms.offer_kind,
            terms.token,
            digest,
            limits.min_deposit,
            limits.max_duration,
            limits.close_delay_min,
            limits.close_delay_max,
            limits.max_active,
        )
        outcome = self._send(f"offer:{provider}:{digest.hex()}", "Registry", "create_offer", provider, offer)
        for event in self._client.decoder.decode_all(outcome.receipt.logs if outcome.receipt else ()):
            if event.name == "OfferCreated":
                return int(event.args["offer_id"]), int(event.args["version"])
        raise AssertionError("create_offer succeeded without its event")

    def collect(self, key: str, provider: int, token: str) -> Outcome:
        """Moves matured earnings into the owner's account; `key` names this collection."""
        return self._send(f"collect:{key}", "LeaseEscrow", "collect", provider, token)

    def withdraw(self, key: str, token: str, amount: int, to: str) -> Outcome:
        """Pays out of the owner's account in the market; `key` names this withdrawal."""
        return self._send(f"withdraw:{key}", "LeaseEscrow", "withdraw", token, amount, to)

    def _send(self, key: str, contract: str, function: str, *arguments: object) -> Outcome:
        data = self._client.encode(contract, function, *arguments)
        return self._sender.execute(key, self._client.deployment.address(contract), data, timeout=TIMEOUT_S)
