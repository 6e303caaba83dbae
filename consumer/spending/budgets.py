"""Hard budgets: what may be spent in a day, with a key, and on a model. Amounts in token base units, days in UTC.

Before a request is signed for, the most that it may cost is held; once its end is known, the hold is settled with what
it cost. What is held counts on every day until then, what was spent on the days from hold to settlement, so that no
day's requests exceed the budget however they lie across midnight. At start all is read from the records of the
requests: a kill forgets nothing, and a request whose end is not known counts with the most it may cost.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from consumer.gateway.events import FailureClass, RouteFailed
from consumer.records import LeaseRecord, Spent
from consumer.spending.allowance import NO_LIMIT, Allowance
from consumer.spending.api_keys import ApiKeys
from consumer.spending.settings import BudgetSettings
from protocol.money import Money, Token

DAY_S = 86_400
OWNER = ""
"""The key id of the owner itself, whom only the configuration limits."""


class BudgetExceeded(RouteFailed):
    """A request may cost more than is left; nothing was signed for it."""

    def __init__(self, message: str) -> None:
        super().__init__(FailureClass.MONEY, message, status=402, code="insufficient_quota")


class Records(Protocol):
    """Where the spending of earlier runs is read, see `consumer.store`."""

    def spending(self) -> Iterable[Spent]: ...

    def leases(self, *, is_open: bool = True) -> list[LeaseRecord]: ...


@dataclass(frozen=True)
class Scope:
    """Whose spending: everybody's, a model's or a key's. `name` is the model's name or the key's id."""

    kind: str
    name: str = ""


@dataclass(frozen=True)
class Figure:
    """One budget now; `period` is "day" or "total"."""

    scope: Scope
    period: str
    limit: Money
    spent: int
    held: int


class Hold:
    """The most that a request may cost, set aside until it is settled."""

    def __init__(self, budgets: "Budgets", scopes: tuple[Scope, ...], symbol: str, amount: int, day: int) -> None:
        self._budgets = budgets
        self.scopes = scopes
        self.symbol = symbol
        self.amount = amount
        self.day = day
        self._is_open = True

    def settle(self, cost: int) -> None:
        """The request has ended and cost this much; again is no fault."""
        if self._is_open:
            self._is_open = False
            self._budgets.settled(self, cost)


class Budgets:
    """The one place that says whether something may be spent. One event loop uses it."""

    def __init__(
        self,
        settings: BudgetSettings,
        keys: ApiKeys,
        records: Records,
        tokens: Mapping[str, Token],
        now: Callable[[], int],
    ) -> None:
        """`tokens` are the market's by address, `now` is its clock. Raises StoreError."""
        self._settings = settings
        self._keys = keys
        self._tokens = tokens
        self._now = now
        self._held: Counter[tuple[Scope, str]] = Counter()
        self._spent: Counter[tuple[Scope, str, int]] = Counter()
        self._total: Counter[tuple[Scope, str]] = Counter()
        leases = {record.lease_id: record for is_open in (True, False) for record in records.leases(is_open=is_open)}
        for spent in records.spending():
            record = leases[spent.lease_id]
            if record.token in tokens:
                scopes = _scopes(spent.key_id, record.model)
                last = now() if spent.promised else max(spent.created, spent.ended)
                days = _days(spent.created // DAY_S, last // DAY_S)
                self._count(scopes, tokens[record.token].symbol, days, spent.owed + spent.promised)

    def hold(self, key_id: str, model: str, token: str, amount: int) -> Hold:
        """Sets aside what a request may cost of the token with this address.

        Raises BudgetExceeded, and RouteFailed if the key may not ask this model.
        """
        symbol = self._symbol(token)
        scopes = _scopes(key_id, model)
        day = self._now() // DAY_S
        for scope in scopes:
            held = self._held[scope, symbol]
            for period, allowance in self._allowances(scope, model):
                spent = self._spent[scope, symbol, day] if period == "day" else self._total[scope, symbol]
                limit = allowance.limit(symbol)
                if limit is not None and spent + held + amount > limit:
                    raise BudgetExceeded(
                        f"the request may cost {amount} base units of {symbol}; of {_wording(scope, period)} of "
                        f"{limit} {spent} are spent and {held} are held for requests under way: ask for fewer "
                        "tokens, raise the budget, or wait"
                    )
        for scope in scopes:
            self._held[scope, symbol] += amount
        return Hold(self, scopes, symbol, amount, day)

    def settled(self, hold: Hold, cost: int) -> None:
        """Called by the hold."""
        for scope in hold.scopes:
            self._held[scope, hold.symbol] -= hold.amount
        today = self._now() // DAY_S
        self._count(hold.scopes, hold.symbol, _days(hold.day, today), cost)

    def figures(self) -> list[Figure]:
        """Every budget with what is spent and held of it now."""
        scopes = [Scope("all"), *(Scope("model", name) for name in self._settings.models)]
        scopes += [Scope("key", key.key_id) for key in self._keys.list() if not key.is_revoked]
        day = self._now() // DAY_S
        return [
            Figure(
                scope,
                period,
                limit,
                self._spent[scope, limit.token.symbol, day]
                if period == "day"
                else self._total[scope, limit.token.symbol],
                self._held[scope, limit.token.symbol],
            )
            for scope in scopes
            for period, allowance in self._allowances(scope)
            for limit in allowance.amounts
        ]

    def _symbol(self, token: str) -> str:
        found = self._tokens.get(token)
        if found is None:
            raise BudgetExceeded(f"{token} is no token of this market: there is no budget for it")
        return found.symbol

    def _allowances(self, scope: Scope, model: str | None = None) -> list[tuple[str, Allowance]]:
        if scope.kind == "all":
            return [("day", self._settings.per_day)]
        if scope.kind == "model":
            return [("day", self._settings.models.get(scope.name, NO_LIMIT))]
        key = self._keys.find(scope.name)
        if key is None or (model is not None and not key.allows(model)):
            raise RouteFailed(
                FailureClass.AUTH, f"the API key may not ask {model}", status=403, code="model_not_allowed"
            )
        return [("day", key.per_day), ("total", key.total)]

    def _count(self, scopes: tuple[Scope, ...], symbol: str, days: Iterable[int], cost: int) -> None:
        for scope in scopes:
            self._total[scope, symbol] += cost
            for day in days:
                self._spent[scope, symbol, day] += cost


def _days(first: int, last: int) -> range:
    """Both and those between them; clocks may have been set back meanwhile."""
    return range(min(first, last), max(first, last) + 1)


def _scopes(key_id: str, model: str) -> tuple[Scope, ...]:
    shared = (Scope("all"), Scope("model", model))
    return shared if key_id == OWNER else (*shared, Scope("key", key_id))


def _wording(scope: Scope, period: str) -> str:
    whose = {"all": "the", "model": f"the model {scope.name}'s", "key": "the API key's"}[scope.kind]
    return f"{whose} {'daily budget' if period == 'day' else 'whole budget'}"
