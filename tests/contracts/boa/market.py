"""The whole market in an in-process EVM: the real contracts, wired as the deployment wires them.

Amounts are token base units, times are seconds. `Market(sources)` takes another folder of contract sources, so that a
mutated copy can stand in for the real one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import boa

from protocol.hashing import keccak
from protocol.ids import lease_id_of
from protocol.signing import Signature, Signer
from protocol.typed_data import Domain, NodeKey, OpenLease, Voucher

CONTRACTS = Path(__file__).resolve().parents[3] / "contracts"
ZERO32 = bytes(32)
DAY = 86_400
CLAW = 10**18
TERMS = keccak(b"terms")


@lru_cache(maxsize=64)
def deployer(sources: Path, name: str) -> Any:
    """The compiled contract `name` of a source folder; compiled once a process."""
    return boa.load_partial(str(sources / f"{name}.vy"))


def signer(name: str) -> Signer:
    """A key that depends on `name` alone."""
    return Signer(keccak(name.encode()))


@dataclass(frozen=True)
class Offer:
    """The struct argument of `create_offer`, in its order."""

    token: str
    kind: int = 0
    terms_digest: bytes = TERMS
    min_deposit: int = 1
    max_duration: int = 30 * DAY
    close_delay_min: int = 3_600
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


class Market:
    """One deployment. `admin` owns Params and all CLAW; `arbitration` is a plain account that may rule."""

    def __init__(self, sources: Path = CONTRACTS) -> None:
        self.admin = boa.env.generate_address("admin")
        self.treasury = boa.env.generate_address("treasury")
        self.arbitration = boa.env.generate_address("arbitration")
        at = {n: boa.env.generate_address(n) for n in ("Registry", "Staking", "LeaseEscrow")}
        with boa.env.prank(self.admin):
            self.claw = deployer(sources, "ClawToken").deploy()
            # The real test dollar is Solidity; here a second ERC-20 of the same kind stands for "another token".
            self.usdc = deployer(CONTRACTS, "ClawToken").deploy()
            self.params = deployer(sources, "Params").deploy(self.treasury)
            self.registry = deployer(sources, "Registry").deploy(
                self.params.address, at["Staking"], at["LeaseEscrow"], override_address=at["Registry"]
            )
            self.staking = deployer(sources, "Staking").deploy(
                self.claw.address,
                self.params.address,
                at["Registry"],
                at["LeaseEscrow"],
                self.arbitration,
                override_address=at["Staking"],
            )
            self.escrow = deployer(sources, "LeaseEscrow").deploy(
                self.params.address,
                at["Registry"],
                at["Staking"],
                self.arbitration,
                override_address=at["LeaseEscrow"],
            )
            self.anchor = deployer(sources, "UsageAnchor").deploy(at["Registry"], at["LeaseEscrow"])
            self.params.list_token(self.usdc.address, True)
            self.params.list_token(self.claw.address, True)
        self.domain = Domain(boa.env.evm.patch.chain_id, str(self.escrow.address))

    def now(self) -> int:
        return int(boa.env.evm.patch.timestamp)

    def give(self, token: Any, who: str, amount: int) -> None:
        """Tokens in `who`'s wallet, approved to the escrow and to Staking."""
        with boa.env.prank(self.admin):
            token.transfer(who, amount)
        with boa.env.prank(who):
            token.approve(self.escrow.address, 2**256 - 1)
            token.approve(self.staking.address, 2**256 - 1)

    def stake(self, who: str, amount: int) -> None:
        self.give(self.claw, who, amount)
        with boa.env.prank(who):
            self.staking.stake(amount)

    def deposit(self, who: str, token: Any, amount: int) -> None:
        self.give(token, who, amount)
        with boa.env.prank(who):
            self.escrow.deposit(token.address, amount, who)

    def register(self, owner: str, node: Signer, stake: int = 10_000 * CLAW) -> int:
        """A registered provider with `stake` behind it; returns its id."""
        self.stake(owner, stake)
        r, vs = node.sign(self.domain, NodeKey(owner=str(owner))).compact()
        with boa.env.prank(owner):
            return int(self.registry.register(node.address, r, vs, ZERO32))

    def create_offer(self, owner: str, provider: int, offer: Offer) -> int:
        with boa.env.prank(owner):
            return int(self.registry.create_offer(provider, offer.as_tuple()))

    def request(self, owner: str, provider: int, session: Signer, amount: int, **changes: Any) -> OpenLease:
        """A lease request that the offer from `create_offer` with defaults accepts; `changes` replace fields."""
        fields: dict[str, Any] = {
            "owner": str(owner),
            "provider": provider,
            "offer_id": 1,
            "version": 1,
            "token": str(self.usdc.address),
            "amount": amount,
            "signer": session.address,
            "expiry": self.now() + 7 * DAY,
            "close_delay": 3_600,
            "terms_digest": TERMS,
            "nonce": int(self.escrow.nonces(owner)),
            "deadline": self.now() + 600,
        }
        return OpenLease(**fields | changes)

    def open(self, request: OpenLease, signature: Signature | None = None, caller: str | None = None) -> bytes:
        """Open a lease; by its owner unless a signature is given. Returns the lease id."""
        data = signature.to_bytes() if signature else b""
        with boa.env.prank(caller or request.owner):
            lease_id = bytes(self.escrow.open_lease(request.as_tuple(), data))
        assert lease_id == lease_id_of(self.domain, request)
        return lease_id

    def voucher(self, lease_id: bytes, session: Signer, cumulative: int, context: bytes = ZERO32) -> tuple[Any, ...]:
        """A signed voucher as `settle` takes it."""
        message = Voucher(lease_id=lease_id, cumulative=cumulative, context=context)
        return (lease_id, cumulative, context, *session.sign(self.domain, message).compact())


def with_offer(market: Market, name: str = "provider", **offer: Any) -> tuple[str, int, Signer]:
    """A registered provider with one USDC offer: (owner, provider id, node key)."""
    owner = boa.env.generate_address(name)
    node = signer(f"node of {name}")
    provider = market.register(owner, node)
    market.create_offer(owner, provider, replace(Offer(token=str(market.usdc.address)), **offer))
    return owner, provider, node
