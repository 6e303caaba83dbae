"""Where the money went, to the last unit. Amounts in base units of USDC."""

from dataclasses import dataclass

from rich.table import Table

from protocol import money
from protocol.money import USDC, Money
from scripts.demo.failed import DemoFailed
from scripts.demo.screen import table

FEE_BPS = 500


@dataclass(frozen=True)
class Share:
    """One provider's: what the gateway signed for, what was settled of it, and what its owner took home."""

    provider: int
    owed: int
    settled: int
    credit: int
    fee_bps: int

    @property
    def fee(self) -> int:
        """The platform's."""
        return self.settled - self.credit

    def check(self) -> None:
        """Raises DemoFailed if a sum is off."""
        who = f"provider {self.provider}"
        if self.owed == 0:
            raise DemoFailed(f"{who} earned nothing")
        if self.settled != self.owed:
            raise DemoFailed(f"{who} settled {self.settled}, the gateway signed for {self.owed}")
        if self.fee_bps != FEE_BPS or self.fee != self.settled * FEE_BPS // 10_000:
            raise DemoFailed(f"of {self.settled} settled by {who}, {self.fee} is not 5 % rounded down")
        if self.fee != money.fee(self.settled, self.fee_bps):
            raise DemoFailed(f"the fee of {who} is not what the protocol says")


@dataclass(frozen=True)
class Books:
    """All of it. `debit` left the consumer's wallet for good, `counted` was spent by the gateway's budgets."""

    shares: tuple[Share, ...]
    debit: int
    counted: int
    fees: int
    in_escrow: int

    def table(self) -> Table:
        """The sums as a table."""
        shown = table("To the last unit", "", "USDC", "base units")
        rows: list[tuple[str, int]] = []
        for share in self.shares:
            rows += [
                (f"owed to provider {share.provider} by vouchers", share.owed),
                (f"settled by provider {share.provider}", share.settled),
                (f"credit of provider {share.provider}", share.credit),
                (f"fee ({share.fee_bps / 100:g} %, rounded down)", share.fee),
            ]
        rows += [
            ("all credits", self.credits),
            ("all fees", self.fees),
            ("credits + fees", self.credits + self.fees),
            ("consumer's debit", self.debit),
        ]
        for name, units in rows:
            shown.add_row(name, Money(units, USDC).format(), str(units))
        return shown

    @property
    def credits(self) -> int:
        """What the owners of providers took home."""
        return sum(share.credit for share in self.shares)

    def check(self) -> None:
        """Raises DemoFailed if a sum is off."""
        for share in self.shares:
            share.check()
        owed = sum(share.owed for share in self.shares)
        if self.debit != self.credits + self.fees:
            raise DemoFailed(f"debit {self.debit} is not credits {self.credits} + fees {self.fees}")
        if self.debit != owed:
            raise DemoFailed(f"the consumer paid {self.debit}, the gateway signed for {owed}")
        if self.counted != owed:
            raise DemoFailed(f"by its budgets the gateway spent {self.counted}, it signed for {owed}")
        if self.fees != sum(share.fee for share in self.shares) or self.in_escrow != self.fees:
            raise DemoFailed(f"fees of {self.fees} were collected, the escrow holds {self.in_escrow}")
