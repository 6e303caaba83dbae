"""A fresh market for every test, at a fixed time."""

from __future__ import annotations

from collections.abc import Iterator

import boa
import pytest

from tests.contracts.boa.market import Market

START = 1_800_000_000


@pytest.fixture(scope="session")
def deployment() -> Market:
    """The real contracts, deployed once."""
    boa.env.evm.patch.timestamp = START
    return Market()


@pytest.fixture
def market(deployment: Market) -> Iterator[Market]:
    """The deployment as it began; whatever the test does is undone after it."""
    with boa.env.anchor():
        boa.env.evm.patch.timestamp = START
        yield deployment
