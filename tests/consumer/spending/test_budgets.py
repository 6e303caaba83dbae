"""Budgets are never exceeded, whatever the order of holds, requests, days and restarts; and they can be used up."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from consumer.gateway.events import RouteFailed
from consumer.records import LeaseRecord, Spent
from consumer.spending.allowance import NO_LIMIT, Allowance
from consumer.spending.api_keys import ApiKeys
from consumer.spending.budgets import DAY_S, OWNER, BudgetExceeded, Budgets, Hold, Scope
from consumer.spending.file import GatewayFile
from consumer.spending.settings import BudgetSettings
from protocol.money import CLAW, USDC, Money
from protocol.typed_data import Terms

TOKENS = {"0xe7f1725E7734CE288F8367e1Bb143E90bb3F0512": USDC, "0x5FbDB2315678afecb367f032d93F642f64180aa3": CLAW}
USDC_ADDRESS, CLAW_ADDRESS = TOKENS
MODELS = ("small", "large")
DAYS = BudgetSettings(
    per_day=Allowance((Money(100, USDC), Money(50, CLAW))), models={"large": Allowance((Money(40, USDC),))}
)
KEY_DAY, KEY_TOTAL = Allowance((Money(60, USDC),)), Allowance((Money(90, USDC),))


def record(token: str, model: str) -> LeaseRecord:
    return LeaseRecord(
        lease_id=(token + model).encode()[-32:].rjust(32, b"."),
        owner=token,
        provider=1,
        offer_id=1,
        version=1,
        token=token,
        deposit=10**9,
        expiry=2**33,
        signer=token,
        key_file="",
        endpoint="",
        node_key=token,
        model=model,
        fingerprint=bytes(32),
        terms=Terms(0, token, 1, 1, 1, 1, 0, 0, 0, 0, bytes(32)),
    )


LEASES = {(token, model): record(token, model) for token in TOKENS for model in MODELS}


class Ledger:
    """The records of all requests."""

    def __init__(self) -> None:
        self.entries: list[Spent] = []

    def spending(self) -> Iterator[Spent]:
        return iter(self.entries)

    def leases(self, *, is_open: bool = True) -> list[LeaseRecord]:
        return list(LEASES.values()) if is_open else []


class Clock:
    def __init__(self) -> None:
        self.time = 20_000 * DAY_S + 7

    def now(self) -> int:
        return self.time


@dataclass
class Request:
    """One request: its hold until it ends or a restart forgets it, its place in the ledger once it is signed for."""

    token: str
    model: str
    key_id: str
    amount: int
    hold: Hold | None
    entry: int | None = None


class Spender(RuleBasedStateMachine):
    """Applications that ask under three identities, and the market's clock."""

    kind: type[Budgets] = Budgets
    keys: ApiKeys
    limited: str
    identities: tuple[str, ...]

    @initialize()
    def begin(self) -> None:
        self.clock = Clock()
        self.ledger = Ledger()
        self.requests: list[Request] = []
        self.restart()

    @rule()
    def restart(self) -> None:
        self.requests = [replace(request, hold=None) for request in self.requests if request.entry is not None]
        self.budgets = self.kind(DAYS, self.keys, self.ledger, TOKENS, self.clock.now)

    @rule(seconds=st.sampled_from([1, DAY_S // 3, DAY_S, 2 * DAY_S]))
    def wait(self, seconds: int) -> None:
        self.clock.time += seconds

    @rule(
        who=st.integers(0, 2),
        model=st.sampled_from(MODELS),
        token=st.sampled_from(list(TOKENS)),
        amount=st.sampled_from([0, 1, 15, 30, 40, 50, 60]),
    )
    def hold(self, who: int, model: str, token: str, amount: int) -> None:
        self.set_aside(self.identities[who], model, token, amount)

    @rule(who=st.integers(0, 2), amount=st.sampled_from([10, 40, 60]))
    def spend(self, who: int, amount: int) -> None:
        """A whole request at once."""
        if self.set_aside(self.identities[who], "small", USDC_ADDRESS, amount):
            self.number(self.requests[-1])
            self.finish(self.requests[-1], amount)

    @rule(amount=st.sampled_from([40, 60]))
    def ask_across_midnight(self, amount: int) -> None:
        if self.set_aside(OWNER, "small", USDC_ADDRESS, amount):
            self.clock.time += DAY_S
            self.number(self.requests[-1])
            self.finish(self.requests[-1], amount)

    @rule(amount=st.sampled_from([40, 60]))
    def ask_and_restart(self, amount: int) -> None:
        if self.set_aside(OWNER, "small", USDC_ADDRESS, amount):
            self.number(self.requests[-1])
            self.restart()

    def set_aside(self, key_id: str, model: str, token: str, amount: int) -> bool:
        try:
            found = self.budgets.hold(key_id, model, token, amount)
        except BudgetExceeded:
            assert amount > self.least_room(key_id, model, token)
            return False
        self.requests.append(Request(token, model, key_id, amount, found))
        return True

    def least_room(self, key_id: str, model: str, token: str) -> int:
        """What is left where nothing was ever signed for or held: only then is a refusal known to be wrong."""
        if self.requests or self.ledger.entries:
            return -1
        limits = {USDC_ADDRESS: 100, CLAW_ADDRESS: 50}
        room = limits[token]
        if model == "large":
            room = min(room, 40 if token == USDC_ADDRESS else 0)
        if key_id == self.limited:
            room = min(room, 60 if token == USDC_ADDRESS else 0)
        return room

    @rule(data=st.data())
    def sign(self, data: st.DataObject) -> None:
        held = [request for request in self.requests if request.hold is not None and request.entry is None]
        if held:
            self.number(data.draw(st.sampled_from(held)))

    def number(self, request: Request) -> None:
        request.entry = len(self.ledger.entries)
        lease = LEASES[request.token, request.model].lease_id
        self.ledger.entries.append(
            Spent(self.clock.now(), request.key_id, lease, request.entry, owed=0, promised=request.amount)
        )

    @rule(data=st.data(), part=st.sampled_from([0, 1, 2]))
    def end(self, data: st.DataObject, part: int) -> None:
        """With half, all or nothing of what it might have cost; one that was never signed for costs nothing."""
        if self.requests:
            request = data.draw(st.sampled_from(self.requests))
            self.finish(request, 0 if request.entry is None else request.amount * part // 2)

    def finish(self, request: Request, cost: int) -> None:
        if request.entry is not None:
            entry = self.ledger.entries[request.entry]
            self.ledger.entries[request.entry] = replace(entry, owed=cost, promised=0)
        if request.hold is not None:
            request.hold.settle(cost)
            request.hold.settle(cost)
        self.requests.remove(request)

    @invariant()
    def nothing_is_exceeded(self) -> None:
        days: Counter[Any] = Counter()
        totals: Counter[Any] = Counter()
        for entry in self.ledger.entries if hasattr(self, "ledger") else []:
            (token, model) = next(place for place, lease in LEASES.items() if lease.lease_id == entry.lease_id)
            day, amount = entry.created // DAY_S, entry.owed + entry.promised
            days[day, token] += amount
            if model == "large":
                days[day, token, model] += amount
            if entry.key_id == self.limited:
                days[day, token, "key"] += amount
                totals[token] += amount
        most = {USDC_ADDRESS: (100, 40, 60, 90), CLAW_ADDRESS: (50, 0, 0, 0)}
        for (_, token, *what), amount in days.items():
            in_all, model_limit, key_limit, _ = most[token]
            assert amount <= (in_all if not what else model_limit if what == ["large"] else key_limit)
        for token, amount in totals.items():
            assert amount <= most[token][3]


class ForgetsMidnight(Budgets):
    """Counts a request on the day of its hold only."""

    def settled(self, hold: Hold, cost: int) -> None:
        for scope in hold.scopes:
            self._held[scope, hold.symbol] -= hold.amount
        self._count(hold.scopes, hold.symbol, [hold.day], cost)


class ForgetsHolds(Budgets):
    """Two requests at once are not seen by each other."""

    def hold(self, *arguments: Any) -> Hold:
        self._held.clear()
        return super().hold(*arguments)


class ForgetsOpenEnds(Budgets):
    """A restart takes a request without an end for one that cost nothing."""

    def __init__(self, settings: Any, keys: Any, records: Ledger, *others: Any) -> None:
        ended = Ledger()
        ended.entries = [replace(entry, promised=0) for entry in records.entries]
        super().__init__(settings, keys, ended, *others)


class ForgetsTotals(Budgets):
    """The whole budget of a key begins anew every day."""

    def _allowances(self, *arguments: Any) -> Any:
        return [(period, allowance) for period, allowance in super()._allowances(*arguments) if period == "day"]


def run(kind: type[Budgets], folder: Path, examples: int) -> None:
    class Machine(Spender):
        pass

    Machine.kind = kind
    Machine.keys = ApiKeys(GatewayFile(folder / "gateway.sqlite"), Clock().now)
    limited, _ = Machine.keys.make("limited", per_day=KEY_DAY, total=KEY_TOTAL)
    free, _ = Machine.keys.make("free")
    Machine.limited, Machine.identities = limited.key_id, (OWNER, limited.key_id, free.key_id)
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_no_budget_is_ever_exceeded(tmp_path: Path) -> None:
    run(Budgets, tmp_path, 200)


@pytest.mark.parametrize("kind", [ForgetsMidnight, ForgetsHolds, ForgetsOpenEnds, ForgetsTotals])
def test_the_machine_finds_budgets_that_forget(tmp_path: Path, kind: type[Budgets]) -> None:
    with pytest.raises(AssertionError):
        run(kind, tmp_path, 2_000)


class Desk:
    """Budgets over an empty ledger."""

    def __init__(self, folder: Path, days: BudgetSettings = DAYS) -> None:
        self.clock, self.ledger = Clock(), Ledger()
        self.keys = ApiKeys(GatewayFile(folder / "gateway.sqlite"), self.clock.now)
        self.budgets = Budgets(days, self.keys, self.ledger, TOKENS, self.clock.now)


def test_a_budget_can_be_used_to_its_last_unit_and_the_next_day_is_new(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.budgets.hold(OWNER, "small", USDC_ADDRESS, 70).settle(10)
    desk.budgets.hold(OWNER, "small", USDC_ADDRESS, 90).settle(90)
    with pytest.raises(BudgetExceeded, match="of the daily budget of 100 100 are spent"):
        desk.budgets.hold(OWNER, "small", USDC_ADDRESS, 1)
    desk.clock.time += DAY_S
    desk.budgets.hold(OWNER, "small", USDC_ADDRESS, 100)


def test_the_refusal_is_openais_insufficient_quota(tmp_path: Path) -> None:
    with pytest.raises(BudgetExceeded) as caught:
        Desk(tmp_path).budgets.hold(OWNER, "large", USDC_ADDRESS, 41)
    assert (caught.value.status, caught.value.code) == (402, "insufficient_quota")


def test_a_token_outside_the_market_has_no_budget(tmp_path: Path) -> None:
    free = Desk(tmp_path, BudgetSettings(per_day=NO_LIMIT))
    free.budgets.hold(OWNER, "small", USDC_ADDRESS, 10**30)
    with pytest.raises(BudgetExceeded, match="no token of this market"):
        free.budgets.hold(OWNER, "small", "0x" + "11" * 20, 1)


def test_a_key_asks_only_its_models(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    key, _ = desk.keys.make("narrow", models=("small",))
    desk.budgets.hold(key.key_id, "small", USDC_ADDRESS, 1)
    with pytest.raises(RouteFailed) as caught:
        desk.budgets.hold(key.key_id, "large", USDC_ADDRESS, 1)
    assert (caught.value.status, caught.value.code) == (403, "model_not_allowed")


def test_figures_show_what_is_spent_and_held(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    key, _ = desk.keys.make("team", total=KEY_TOTAL)
    desk.budgets.hold(key.key_id, "large", USDC_ADDRESS, 20).settle(5)
    desk.budgets.hold(key.key_id, "large", USDC_ADDRESS, 10)
    found = {
        (figure.scope, figure.period): (figure.limit.units, figure.spent, figure.held)
        for figure in desk.budgets.figures()
        if figure.limit.token == USDC
    }
    assert found == {
        (Scope("all"), "day"): (100, 5, 10),
        (Scope("model", "large"), "day"): (40, 5, 10),
        (Scope("key", key.key_id), "total"): (90, 5, 10),
    }
