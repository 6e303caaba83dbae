"""State checks that many tests share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tests.contracts.ape.market import FEE_BPS, Market


def fee_of(settled: int) -> int:
    """F(x) of a lease opened under the default fee."""
    return settled * FEE_BPS // 10_000


def check_account(market: Market, who: Any, expected: int, token: Any = None) -> None:
    assert market.escrow.accounts(who, token or market.usdc) == expected


def check_lease(market: Market, lease_id: bytes, **expected: Any) -> None:
    """Compare the named members of a lease."""
    lease = market.escrow.lease(lease_id)
    assert {name: getattr(lease, name) for name in expected} == expected


def check_earnings(market: Market, held: int, free: int = 0, token: Any = None) -> None:
    """What the first provider holds and may collect."""
    assert tuple(market.escrow.earnings(market.provider, token or market.usdc)) == (held, free)


def check_books(market: Market, owners: Iterable[Any], leases: Iterable[bytes], token: Any = None) -> None:
    """All ledgers of a token together are exactly what the escrow holds of it.

    `owners` and `leases` must name everybody and everything with money of that token inside.
    """
    token = token or market.usdc
    escrow = market.escrow
    everybody = {str(getattr(o, "address", o)) for o in (*owners, market.staking, market.params.treasury())}
    total = sum(escrow.accounts(owner, token) for owner in everybody) + escrow.fees(token)
    for lease_id in leases:
        lease = escrow.lease(lease_id)
        total += lease.deposit - lease.settled + escrow.returned(lease_id)[1]
    for provider in range(1, market.registry.provider_count() + 1):
        total += sum(escrow.earnings(provider, token))
    assert total == token.balanceOf(escrow)


def check_skipped(receipt: Any, escrow: Any, *reasons: int) -> None:
    """The batch skipped vouchers for exactly these reasons, in this order."""
    assert [event.reason for event in receipt.decode_logs(escrow.VoucherSkipped)] == list(reasons)


def only_event(receipt: Any, event: Any) -> Any:
    """The one event of this kind in a transaction."""
    events = receipt.decode_logs(event)
    assert len(events) == 1, f"{len(events)} events {event.abi.name}"
    return events[0]
