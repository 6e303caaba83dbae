"""A restart gives nothing back: what was open or paid after midnight counts on the new day, as it did before."""

from pathlib import Path

import pytest

from consumer.records import Draft, Limits
from consumer.spending.allowance import Allowance
from consumer.spending.api_keys import ApiKeys
from consumer.spending.budgets import DAY_S, OWNER, BudgetExceeded, Budgets, Hold
from consumer.spending.file import GatewayFile
from consumer.spending.settings import BudgetSettings
from consumer.store import Store
from consumer.vouchers import VoucherBook
from protocol.headers import Signed
from protocol.money import USDC, Money
from protocol.typed_data import Receipt
from tests.consumer.buyer import record_of
from tests.support.provider_stack import DOMAIN, NODE, SESSION, make_lease, make_offer

pytestmark = pytest.mark.asyncio
MOST = 100
RECORD = record_of(make_lease(make_offer().terms), "http://127.0.0.1:9")


class Runs:
    """Runs of a gateway, one after another, on records that stay."""

    def __init__(self, folder: Path) -> None:
        self.time = 20_000 * DAY_S - 60
        self.store = Store(folder / "consumer.sqlite", DOMAIN)
        self.store.add_lease(RECORD)
        self._keys = ApiKeys(GatewayFile(folder / "gateway.sqlite"), self.now)
        self.restart()

    def now(self) -> int:
        return self.time

    def restart(self) -> None:
        settings = BudgetSettings(per_day=Allowance((Money(MOST, USDC),)))
        self.budgets = Budgets(settings, self._keys, self.store, {RECORD.token: USDC}, self.now)
        self.book = VoucherBook(DOMAIN, self.store, RECORD, SESSION, self.now, lambda draft: self.hold(draft.max_cost))

    def hold(self, amount: int) -> Hold:
        return self.budgets.hold(OWNER, RECORD.model, RECORD.token, amount)

    async def ask(self) -> None:
        await self.book.authorise(Draft(b"{}", bytes(32), bytes(32), MOST, 0, Limits(1, 1, 1)))

    async def pay(self) -> None:
        message = Receipt(RECORD.lease_id, 0, 0, True, MOST, 1, 1, 0, bytes(32), bytes(32), 0, 1, self.time, bytes(32))
        await self.book.pay(Signed(message, NODE.sign(DOMAIN, message)))


async def test_what_was_paid_after_midnight_counts_after_a_restart(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    await runs.ask()
    runs.time += 3_600
    await runs.pay()
    with pytest.raises(BudgetExceeded):
        runs.hold(1)
    runs.restart()
    with pytest.raises(BudgetExceeded):
        runs.hold(1)
    runs.time += DAY_S
    runs.restart()
    runs.hold(MOST)


async def test_what_is_open_since_yesterday_counts_after_a_restart(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    await runs.ask()
    runs.time += 3_600
    runs.restart()
    with pytest.raises(BudgetExceeded):
        runs.hold(1)
