"""What the chain says of a provider: stake, offers, earnings, keys. Amounts in token base units or wei."""

from collections.abc import Iterable
from dataclasses import dataclass

from protocol.chain.client import ChainClient
from protocol.chain.exceptions import ContractReverted
from provider.payout import TokenEarnings, read_earnings

MIN_STAKE_KEY = 3
"""Of `Params`."""
MAX_OFFERS = 256
_BATCH = 100


@dataclass(frozen=True)
class StakeFigures:
    """CLAW base units; what cools down can be withdrawn from `cooling_until` on (Unix seconds)."""

    active: int
    cooling: int
    cooling_until: int
    minimum: int


@dataclass(frozen=True)
class OfferFigures:
    """An offer as the registry has it; `active` leases of it are not yet released."""

    offer_id: int
    version: int
    is_open: bool
    token: str
    terms_digest: bytes
    active: int
    max_active: int


@dataclass(frozen=True)
class ChainFigures:
    """All of it as of the block `head`, whose timestamp is `time`. `operator_wei` pays for transactions."""

    head: int
    time: int
    owner: str
    is_registered: bool
    node_key: str
    metadata_digest: bytes
    operator_wei: int
    stake: StakeFigures
    tokens: tuple[TokenEarnings, ...]
    offers: tuple[OfferFigures, ...]


def read_chain(client: ChainClient, provider: int, operator: str) -> ChainFigures:
    """Blocks. Raises ChainError."""
    head, reads = client.head(), client.reads
    owner, node_key, digest, is_registered, count = client.read(
        [
            reads.owner_of(provider),
            reads.node_key(provider),
            reads.metadata_digest(provider),
            reads.view("Registry", "is_registered", provider),
            reads.view("Registry", "offer_count", provider),
        ]
    )
    return ChainFigures(
        head=head.number,
        time=head.timestamp,
        owner=owner,
        is_registered=is_registered,
        node_key=node_key,
        metadata_digest=digest,
        operator_wei=client.balance(operator),
        stake=read_stake(client, owner),
        tokens=tuple(read_earnings(client, provider)),
        offers=_offers(client, provider, min(count, MAX_OFFERS)),
    )


def read_stake(client: ChainClient, owner: str) -> StakeFigures:
    """An owner's stake. Blocks. Raises ChainError."""
    active, (cooling, until), minimum = client.read(
        [
            client.reads.view("Staking", "active_stake", owner),
            client.reads.view("Staking", "cooling", owner),
            client.reads.view("Params", "get", MIN_STAKE_KEY),
        ]
    )
    return StakeFigures(active, cooling, until, minimum)


def lease_tokens(client: ChainClient, lease_ids: Iterable[bytes]) -> dict[bytes, str]:
    """In which token each lease pays; leases the chain does not know are left out. Blocks. Raises ChainError."""
    wanted, found = list(lease_ids), {}
    for start in range(0, len(wanted), _BATCH):
        batch = wanted[start : start + _BATCH]
        for lease_id, lease in zip(batch, client.read_each([client.reads.lease(one) for one in batch]), strict=True):
            if not isinstance(lease, ContractReverted):
                found[lease_id] = str(lease.token)
    return found


def _offers(client: ChainClient, provider: int, count: int) -> tuple[OfferFigures, ...]:
    if count == 0:
        return ()
    ids = range(1, count + 1)
    offers = client.read([client.reads.offer(provider, offer_id) for offer_id in ids])
    active = client.read([client.reads.view("LeaseEscrow", "active_leases", provider, offer_id) for offer_id in ids])
    return tuple(
        OfferFigures(offer_id, offer.version, offer.is_open, offer.token, offer.terms_digest, leases, offer.max_active)
        for offer_id, offer, leases in zip(ids, offers, active, strict=True)
    )
