"""How much of which token may be spent."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import PlainSerializer, PlainValidator, TypeAdapter

from consumer.settings import Amount
from protocol.money import Money

_AMOUNTS = TypeAdapter(tuple[Amount, ...])


@dataclass(frozen=True)
class Allowance:
    """Amounts of tokens, and nothing of a token that is not named. Without any amount it limits nothing."""

    amounts: tuple[Money, ...] = ()

    def __post_init__(self) -> None:
        if len({money.token for money in self.amounts}) < len(self.amounts):
            raise ValueError("a token comes twice")

    @classmethod
    def parse(cls, texts: Iterable[str]) -> "Allowance":
        """From amounts such as "2 USDC". Raises ValueError."""
        return cls(_AMOUNTS.validate_python(tuple(texts)))

    def limit(self, symbol: str) -> int | None:
        """What may be spent of a token in base units; None for any amount."""
        if not self.amounts:
            return None
        return next((money.units for money in self.amounts if money.token.symbol == symbol), 0)

    def as_list(self) -> list[str]:
        """The reverse of `parse`."""
        return [str(money) for money in self.amounts]


NO_LIMIT = Allowance()


def _allowance(value: Any) -> Allowance:
    if isinstance(value, Allowance):
        return value
    return Allowance(_AMOUNTS.validate_python(value))


AllowanceField = Annotated[Allowance, PlainValidator(_allowance), PlainSerializer(Allowance.as_list)]
"""An allowance as a list of amounts: ["5 USDC", "2 CLAW"]."""
