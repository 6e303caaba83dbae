"""ERC-20 balances and transfers of the deployment's tokens."""

from sqlmodel import SQLModel

from indexer.store.columns import binary, number, uint256
from indexer.store.tables.event import EventRow


class TokenBalance(SQLModel, table=True):
    """What an account holds outside of the market."""

    __tablename__ = "token_balance"

    token: bytes = binary(key=True)
    owner: bytes = binary(key=True)
    balance: int = uint256()


class TokenSupply(SQLModel, table=True):
    """All there is of a token."""

    __tablename__ = "token_supply"

    token: bytes = binary(key=True)
    supply: int = uint256()


class TokenTransfer(EventRow, table=True):
    """A transfer; zero bytes as sender for what was minted, as receiver for what was burned."""

    __tablename__ = "token_transfer"

    token: bytes = binary()
    sender: bytes = binary()
    receiver: bytes = binary()
    amount: int = uint256()


class Mint(EventRow, table=True):
    """CLAW created within a year's cap."""

    __tablename__ = "mint"

    receiver: bytes = binary()
    year: int = number()
    amount: int = uint256()
    minted_in_year: int = uint256()
    year_cap: int = uint256()


STATES = (TokenBalance, TokenSupply)
EVENTS = (TokenTransfer, Mint)
