"""Sums by day, from which statistics and reputation are computed. A day is `block_time // 86_400`."""

from sqlmodel import SQLModel

from indexer.store.columns import binary, number, uint256

DAY_S = 86_400


class DailyUsage(SQLModel, table=True):
    """What happened on one day with the leases of one version of an offer; amounts in base units of `token`.

    `fees` are part of `volume`. `disowned_fees` are all fees of leases that were opened on that day and that their
    owner revoked or their provider broke off. `refunded` is what rulings gave back.
    """

    __tablename__ = "daily_usage"

    day: int = number(key=True)
    provider: int = number(key=True)
    offer_id: int = number(key=True)
    version: int = number(key=True)
    token: bytes = binary()
    volume: int = uint256()
    fees: int = uint256()
    disowned_fees: int = uint256()
    refunded: int = uint256()
    settlements: int = number()
    leases_opened: int = number()
    leases_released: int = number()


class DailyAnchor(SQLModel, table=True):
    """How many anchors of a provider were accepted on a day."""

    __tablename__ = "daily_anchor"

    day: int = number(key=True)
    provider: int = number(key=True)
    anchors: int = number()


STATES = (DailyUsage, DailyAnchor)
