"""Stakes, votes and rewards."""

from sqlmodel import SQLModel

from indexer.store.columns import binary, number, text, uint256
from indexer.store.tables.event import EventRow


class Stake(SQLModel, table=True):
    """An account's stake. `delegate` is null until it first delegates, zero bytes while it abstains."""

    __tablename__ = "stake"

    account: bytes = binary(key=True)
    active: int = uint256()
    cooling: int = uint256()
    cooling_until: int = number()
    slashed: int = uint256()
    delegate: bytes | None = binary(nullable=True)


class Vote(SQLModel, table=True):
    """A delegate's votes now."""

    __tablename__ = "vote"

    delegate: bytes = binary(key=True)
    votes: int = uint256()


class Reward(SQLModel, table=True):
    """A reward token; the state of its stream when something was last added."""

    __tablename__ = "reward"

    token: bytes = binary(key=True)
    added: int = uint256()
    claimed: int = uint256()
    stream_left: int = uint256()
    stream_seconds: int = number()
    added_at: int = number()


class StakeChange(EventRow, table=True):
    """`kind` is "staked", "cooled" or "withdrawn"."""

    __tablename__ = "stake_change"

    account: bytes = binary()
    kind: str = text()
    amount: int = uint256()


class Delegation(EventRow, table=True):
    """A change of delegate."""

    __tablename__ = "delegation"

    delegator: bytes = binary()
    from_delegate: bytes = binary()
    to_delegate: bytes = binary()


class VoteChange(EventRow, table=True):
    """A delegate's votes from here on."""

    __tablename__ = "vote_change"

    delegate: bytes = binary()
    previous: int = uint256()
    votes: int = uint256()


class RewardAdded(EventRow, table=True):
    """Fees that went into a stream."""

    __tablename__ = "reward_added"

    token: bytes = binary()
    caller: bytes = binary()
    amount: int = uint256()


class RewardClaim(EventRow, table=True):
    """Rewards that a staker took."""

    __tablename__ = "reward_claim"

    account: bytes = binary()
    token: bytes = binary()
    receiver: bytes = binary()
    amount: int = uint256()


class Slash(EventRow, table=True):
    """A slash and what became of it."""

    __tablename__ = "slash"

    fact: bytes = binary()
    account: bytes = binary()
    filer: bytes = binary()
    amount: int = uint256()
    from_active: int = uint256()
    from_cooling: int = uint256()
    filer_share: int = uint256()
    burned: int = uint256()


STATES = (Stake, Vote, Reward)
EVENTS = (StakeChange, Delegation, VoteChange, RewardAdded, RewardClaim, Slash)
