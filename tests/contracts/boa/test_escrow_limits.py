"""What the state machine does not reach: limits of single calls."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import boa
import pytest

from tests.contracts.boa.market import CLAW, CONTRACTS, DAY, Market, deployer, signer, with_offer


@pytest.fixture
def market() -> Iterator[Market]:
    with boa.env.anchor():
        yield Market()


def lease(market: Market, amount: int = 10**6) -> tuple[int, bytes, Any]:
    _, provider, _ = with_offer(market)
    owner = boa.env.generate_address("consumer")
    market.deposit(owner, market.usdc, amount)
    session = signer("session")
    return provider, market.open(market.request(str(owner), provider, session, amount)), session


def test_deposit__into_the_escrow_itself__refused(market: Market) -> None:
    market.give(market.usdc, market.admin, 0)
    with boa.reverts("escrow: bad receiver"), boa.env.prank(market.admin):
        market.escrow.deposit(market.usdc.address, 1, market.escrow.address)


def test_settle__cumulative_beyond_uint128__skipped_alone(market: Market) -> None:
    provider, lease_id, session = lease(market)
    good = market.voucher(lease_id, session, 1_000)
    huge = (lease_id, 2**128, bytes(32), good[3], good[4])
    market.escrow.settle(provider, market.usdc.address, [huge, good])
    assert [log.reason for log in market.escrow.get_logs() if hasattr(log, "reason")] == [4]
    assert market.escrow.lease(lease_id).settled == 1_000


def test_settle__provider_with_another_tokens_bits__refused(market: Market) -> None:
    """A provider id that carries a token id in its high bits would settle a lease into a ledger nobody can collect."""
    provider, lease_id, session = lease(market)
    forged = provider | (market.escrow.token_ids(market.usdc.address) << 32)
    with pytest.raises(Exception, match=r"uint32|expected|invalid|out of"):
        market.escrow.settle(forged, market.claw.address, [market.voucher(lease_id, session, 1_000)])
    assert market.escrow.lease(lease_id).settled == 0


def test_register__while_former_leases_run__refused_then_allowed(market: Market) -> None:
    """One stake backs one provider: deregistering by a cooldown and coming back at once would let it back two."""
    owner = str(boa.env.generate_address("provider"))
    former = market.register(owner, signer("node 1"))
    with boa.env.prank(owner):
        market.staking.start_cooldown(CLAW)
    assert market.registry.provider_of(owner) == 0
    with boa.reverts("registry: leases of the former id still run"):
        market.register(owner, signer("node 2"), stake=CLAW)
    boa.env.time_travel(seconds=6 * DAY + 12)
    assert market.register(owner, signer("node 2"), stake=CLAW) == former + 1


def test_list_token__ninth__refused(market: Market) -> None:
    """Staking streams eight reward tokens: a ninth payment token's fees could never reach the stakers."""
    with boa.env.prank(market.admin):
        for _ in range(6):
            market.params.list_token(deployer(CONTRACTS, "ClawToken").deploy().address, True)
        ninth = deployer(CONTRACTS, "ClawToken").deploy().address
        with boa.reverts("params: too many tokens"):
            market.params.list_token(ninth, True)
        market.params.list_token(market.usdc.address, False)
        market.params.list_token(market.usdc.address, True)
    assert len(market.params.tokens()) == 8
