"""The market of the Ape tests: a provider with an offer, a consumer with money, and what tests do with them.

Amounts are base units (1e6 = one test dollar), times are seconds. Signed data comes from `protocol`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from protocol.hashing import keccak
from protocol.ids import lease_id_of
from protocol.signing import Signature, Signer
from protocol.typed_data import Anchor, Domain, Message, NodeKey, OpenLease, Voucher
from tests.contracts.ape.fixtures.deployment import Contracts

ZERO32 = bytes(32)
ZERO_ADDRESS = "0x" + "00" * 20
HOUR = 3_600
DAY = 24 * HOUR
CLAW = 10**18
USD = 10**6
UNLIMITED = 2**256 - 1
TERMS_DIGEST = keccak(b"terms of the tests")
DEPOSIT = 100 * USD
FEE_BPS = 500

SKIPPED_FOREIGN, SKIPPED_CLOSED, SKIPPED_SETTLED, SKIPPED_SIGNATURE = 1, 2, 3, 4


def signer_named(name: str) -> Signer:
    """A key that depends on the name alone."""
    return Signer(keccak(name.encode()))


def signer_of(account: Any) -> Signer:
    """The key of a test account, for what its wallet would sign."""
    return Signer(bytes.fromhex(account.private_key.removeprefix("0x")))


def low_s_twin(signature: Signature) -> tuple[bytes, bytes, int]:
    """The other root of a signature, (r, high s, v): valid to a verifier that does not refuse high s."""
    order = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141
    return signature.r.to_bytes(32, "big"), (order - signature.s).to_bytes(32, "big"), 55 - signature.v


@dataclass(frozen=True)
class Offer:
    """The struct argument of `create_offer`, in its order."""

    kind: int
    token: str
    terms_digest: bytes = TERMS_DIGEST
    min_deposit: int = USD
    max_duration: int = 30 * DAY
    close_delay_min: int = HOUR
    close_delay_max: int = 6 * DAY
    max_active: int = 1_000

    def as_tuple(self) -> tuple[Any, ...]:
        return (
            self.kind,
            self.token,
            self.terms_digest,
            self.min_deposit,
            self.max_duration,
            self.close_delay_min,
            self.close_delay_max,
            self.max_active,
        )


@dataclass
class Market:
    """`provider` is registered with offer 1 in test dollars; `consumer` has 10,000 of them in its account.

    `arbitration` is the account of the Arbitration contract, impersonated.
    """

    contracts: Contracts
    chain: Any
    deployer: Any
    provider_owner: Any
    consumer: Any
    stranger: Any
    arbitration: Any
    domain: Domain
    node: Signer
    session: Signer
    provider: int = 0
    offer: Offer = field(default=Offer(0, ZERO_ADDRESS))

    @property
    def escrow(self) -> Any:
        return self.contracts.escrow

    @property
    def registry(self) -> Any:
        return self.contracts.registry

    @property
    def staking(self) -> Any:
        return self.contracts.staking

    @property
    def params(self) -> Any:
        return self.contracts.params

    @property
    def claw(self) -> Any:
        return self.contracts.claw

    @property
    def usdc(self) -> Any:
        return self.contracts.usdc

    def now(self) -> int:
        """The time at which the next block will be mined, at the earliest."""
        return int(self.chain.pending_timestamp)

    def travel_to(self, timestamp: int) -> None:
        """Mine a block at exactly this time; transactions follow in the next seconds."""
        self.chain.mine(timestamp=timestamp)

    def travel(self, seconds: int) -> None:
        self.travel_to(self.now() + seconds)

    def give(self, token: Any, who: Any, amount: int) -> None:
        """Tokens in `who`'s wallet, approved to the escrow."""
        if token == self.claw:
            token.transfer(who, amount, sender=self.deployer)
        else:
            token.mint(who, amount, sender=self.deployer)
        token.approve(self.escrow, UNLIMITED, sender=who)

    def deposit(self, who: Any, amount: int, token: Any = None) -> None:
        token = token or self.usdc
        self.give(token, who, amount)
        self.escrow.deposit(token, amount, who, sender=who)

    def stake(self, who: Any, amount: int) -> None:
        self.claw.transfer(who, amount, sender=self.deployer)
        self.claw.approve(self.staking, UNLIMITED, sender=who)
        self.staking.stake(amount, sender=who)

    def register(self, owner: Any, node: Signer, stake: int = 10_000 * CLAW) -> int:
        """A registered provider; returns its id."""
        if stake:
            self.stake(owner, stake)
        r, vs = self.sign_node_key(owner, node)
        self.registry.register(node.address, r, vs, ZERO32, sender=owner)
        return int(self.registry.provider_of(owner))

    def sign_node_key(self, owner: Any, node: Signer) -> tuple[bytes, bytes]:
        return node.sign(self.domain, NodeKey(owner=str(owner.address))).compact()

    def second_provider(self, owner: Any) -> int:
        """A second registered provider with the same offer; returns its id."""
        provider = self.register(owner, signer_named(f"node of {owner.address}"))
        self.registry.create_offer(provider, self.offer.as_tuple(), sender=owner)
        return provider

    def request(self, **changes: Any) -> OpenLease:
        """A lease request that the offer accepts; `changes` replace fields."""
        owner = changes.get("owner", self.consumer.address)
        fields: dict[str, Any] = {
            "owner": owner,
            "provider": self.provider,
            "offer_id": 1,
            "version": 1,
            "token": self.usdc.address,
            "amount": DEPOSIT,
            "signer": self.session.address,
            "expiry": self.now() + 7 * DAY,
            "close_delay": HOUR,
            "terms_digest": TERMS_DIGEST,
            "nonce": int(self.escrow.nonces(owner)),
            "deadline": self.now() + 600,
        }
        # Ape's integers and addresses are subclasses, which messages refuse.
        values = (fields | changes).items()
        plain: dict[str, Any] = {name: int(value) if isinstance(value, int) else value for name, value in values}
        return OpenLease(**plain)

    def open(self, sender: Any = None, **changes: Any) -> bytes:
        """Open a lease as its owner; returns its id."""
        sender = sender or self.consumer
        request = self.request(**{"owner": sender.address} | changes)
        self.escrow.open_lease(request.as_tuple(), b"", sender=sender)
        return lease_id_of(self.domain, request)

    def voucher(
        self,
        lease_id: bytes,
        cumulative: int,
        context: bytes = ZERO32,
        *,
        session: Signer | None = None,
        domain: Domain | None = None,
    ) -> tuple[Any, ...]:
        """A signed voucher as `settle` takes it."""
        message = Voucher(lease_id=bytes(lease_id), cumulative=int(cumulative), context=context)
        return (lease_id, cumulative, context, *self.compact(session or self.session, message, domain))

    def compact(self, signer: Signer, message: Message, domain: Domain | None = None) -> tuple[bytes, bytes]:
        return signer.sign(domain or self.domain, message).compact()

    def settle(self, *vouchers: tuple[Any, ...], provider: int | None = None, token: Any = None) -> Any:
        """Settle as a stranger; returns the receipt."""
        return self.escrow.settle(
            self.provider if provider is None else provider, token or self.usdc, list(vouchers), sender=self.stranger
        )

    def settled_lease(self, cumulative: int = 40 * USD, **changes: Any) -> bytes:
        """An open lease on which `cumulative` is settled already."""
        lease_id = self.open(**changes)
        self.settle(self.voucher(lease_id, cumulative))
        return lease_id

    def anchor(self, count: int, root: bytes, previous: tuple[int, bytes] = (0, ZERO32), **changes: Any) -> Any:
        """A signed anchor as `submit` takes it; `changes` may replace signer, domain and provider."""
        provider = changes.get("provider", self.provider)
        message = Anchor(provider=provider, count=count, root=root)
        r, vs = self.compact(changes.get("signer", self.node), message, changes.get("domain"))
        return (provider, *previous, count, root, r, vs)

    def update_offer(self, **changes: Any) -> None:
        """Replace offer 1."""
        offer = replace(self.offer, **changes)
        self.registry.update_offer(self.provider, 1, offer.as_tuple(), sender=self.provider_owner)
