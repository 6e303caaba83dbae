"""When a lease is settled."""

from dataclasses import replace
from typing import Any

import pytest

from protocol.typed_data import Voucher
from provider.settling import DAY_S, SettlingPolicy, is_due
from tests.support.provider_stack import make_lease, make_offer

POLICY = SettlingPolicy(gas_multiple=20, ether_price=3_000_000_000)
GAS_COST = 1_000
LEASE = make_lease(make_offer().terms, expiry=1_000_000, closes_at=1_010_000)


@pytest.mark.parametrize(
    ("cumulative", "now", "settled_at", "changes", "due"),
    [
        (19_999, 500_000, 500_000, {}, False),
        (20_000, 500_000, 500_000, {}, True),
        (30_000, 500_000, 500_000, {"settled": 15_000}, False),
        (1, 500_000, 500_000 - DAY_S, {}, True),
        (1, 500_000, 500_001 - DAY_S, {}, False),
        (1, 500_000, 500_000, {"is_closing": True}, True),
        (1, 500_000, 500_000, {"is_revoked": True}, True),
        (1, 996_399, 996_399, {}, False),
        (1, 996_400, 996_400, {}, True),
        (90, 500_000, 500_000, {"deposit": 100}, True),
        (89, 500_000, 500_000, {"deposit": 100}, False),
        (200, 500_000, 0, {"deposit": 100, "settled": 100}, False),
        (0, 500_000, 0, {}, False),
        (50_000, 500_000, 0, {"is_released": True}, False),
    ],
)
def test_settling_rule(cumulative: int, now: int, settled_at: int, changes: dict[str, Any], due: bool) -> None:
    lease = replace(LEASE, **changes)
    assert is_due(lease, Voucher(lease.lease_id, cumulative), settled_at, now, GAS_COST, POLICY) is due
