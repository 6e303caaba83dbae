"""Parameters, and who may do what."""

from sqlmodel import SQLModel

from indexer.store.columns import binary, number, text, uint256
from indexer.store.tables.event import EventRow


class Parameter(SQLModel, table=True):
    """A parameter's value; the keys are those of Params."""

    __tablename__ = "parameter"

    key: int = number(key=True)
    value: int = uint256()
    changed_at: int = number()


class Role(SQLModel, table=True):
    """Who holds a role ("owner", "pending_owner", "treasury") at a contract."""

    __tablename__ = "role"

    contract: str = text(key=True)
    role: str = text(key=True)
    holder: bytes = binary()


class ParameterChange(EventRow, table=True):
    """A change of a parameter; the first ones are of the deployment."""

    __tablename__ = "parameter_change"

    key: int = number()
    old_value: int = uint256()
    new_value: int = uint256()


STATES = (Parameter, Role)
EVENTS = (ParameterChange,)
