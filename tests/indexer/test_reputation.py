"""The formula's promises, and everybody's reputation from the tables against the raw logs."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.config import IndexerConfig
from indexer.reputation.evidence import known, questions
from indexer.reputation.formula import BPS, FADE_DAYS, Day, Evidence, Score, StakerShares, score
from indexer.session import Session
from indexer.store import cursor
from indexer.store.tables.daily import DAY_S
from indexer.verify.reputation import reputation_differences
from tests.indexer.conftest import CONFIRMATIONS, NewConfig
from tests.indexer.market import Market
from tests.indexer.test_ingest import catch_up

TODAY = 20_000
SHARE = 6_000
SHARES = StakerShares([(0, SHARE)])
amounts = st.integers(0, 10**30)
ages = st.integers(0, FADE_DAYS + 5)
sums = st.builds(Day, amounts, amounts, amounts)
days = st.dictionaries(ages.map(lambda age: TODAY - age), sums, max_size=8)


def of(days: dict[int, Day], anchors: list[int] | None = None, slashes: tuple[int, ...] = ()) -> Evidence:
    return Evidence(days, list(days) if anchors is None else anchors, slashes)


def points(evidence: Evidence, today: int = TODAY, shares: StakerShares = SHARES) -> int:
    return score(evidence, shares, today).points


def test_worked_example() -> None:
    """The one in docs/indexer.md."""
    found = of({TODAY - 73: Day(fees=50_000_000, disowned_fees=1_250_000), TODAY: Day(fees=10_000_000)})
    assert score(found, SHARES, TODAY) == Score(20_000_000, 400_000, 0, 19_600_000)
    slashed = found._replace(slashes=[TODAY])
    assert score(slashed, SHARES, TODAY) == Score(20_000_000, 400_000, 2_500, 14_700_000)


@given(st.lists(st.tuples(ages, amounts), max_size=12), st.integers(0, BPS))
def test_paying_oneself__never_more_points_than_was_lost(payments: list[tuple[int, int]], share: int) -> None:
    """The stakers' part may come back; a point costs a unit of the rest."""
    found: dict[int, Day] = {}
    for age, fee in payments:
        found[TODAY - age] = Day(found.get(TODAY - age, Day()).fees + fee)
    lost = sum(fee for _, fee in payments) * (BPS - share)
    assert points(of(found), shares=StakerShares([(0, share)])) * BPS <= lost


@given(days, st.integers(1, 50))
def test_credit_and_debit__fade_and_never_grow(days: dict[int, Day], later: int) -> None:
    now, then = (score(of(days), SHARES, day) for day in (TODAY, TODAY + later))
    assert then.credit <= now.credit
    assert then.debit <= now.debit
    assert score(of(days), SHARES, TODAY + FADE_DAYS) == Score(0, 0, 0, 0)


@given(days)
def test_without_an_anchor__no_fee_counts(days: dict[int, Day]) -> None:
    found = score(of(days, anchors=[TODAY - 2_000]), SHARES, TODAY)
    refunds = {day: Day(refunded=sums.refunded) for day, sums in days.items()}
    assert found == score(of(refunds), SHARES, TODAY)
    assert found.points == found.credit == 0


@given(st.integers(0, 60), st.lists(st.tuples(st.integers(0, 60), amounts), max_size=6), days, st.integers(0, 400))
def test_revoking__takes_back_no_more_than_the_lease_gave(
    opened: int, payments: list[tuple[int, int]], others: dict[int, Day], later: int
) -> None:
    """Whenever it is revoked: what others paid stays."""
    first = TODAY - 200 + opened
    whole = dict(others)
    for age, fee in payments:
        day = whole.get(first + age, Day())
        whole[first + age] = day._replace(fees=day.fees + fee)
    day = whole.get(first, Day())
    whole[first] = day._replace(disowned_fees=day.disowned_fees + sum(fee for _, fee in payments))
    before, after = (score(of(each), SHARES, TODAY + later) for each in (others, whole))
    assert after.credit - after.debit >= before.credit - before.debit - 1


@pytest.mark.parametrize(("distance", "counts"), [(-8, False), (-7, True), (0, True), (31, True), (32, False)])
def test_anchor__near_enough(distance: int, counts: bool) -> None:
    day = TODAY - 40
    assert (points(of({day: Day(fees=10**9)}, anchors=[day + distance])) > 0) is counts


@given(days, ages, amounts)
def test_failures__only_take_away(days: dict[int, Day], age: int, amount: int) -> None:
    before = points(of(days))
    for worse in (Day(disowned_fees=amount), Day(refunded=amount)):
        day = days.get(TODAY - age, Day())
        more = {**days, TODAY - age: Day(*map(sum, zip(day, worse, strict=True)))}
        assert points(of(more)) <= before
    assert points(of(days, slashes=(TODAY - age,))) <= before
    assert points(of(days, slashes=(TODAY,) * 4)) == 0


@given(st.lists(st.tuples(st.integers(TODAY - 9, TODAY), st.integers(0, BPS)), min_size=1, max_size=8), ages)
def test_share_of_a_day__is_the_largest_of_it(changes: list[tuple[int, int]], age: int) -> None:
    changes.sort(key=lambda change: change[0])
    day, shares = TODAY - age, StakerShares(changes)
    before = [share for at, share in changes if at < day][-1:]
    assert shares.on(day) == max([*before, *(share for at, share in changes if at == day)], default=BPS)


@given(days, st.randoms(use_true_random=False))
def test_rows_of_several_offers_in_any_order__give_the_same(days: dict[int, Day], chance: random.Random) -> None:
    token = b"\x01" * 20
    rows = []
    for day, whole in days.items():
        part = Day(*(chance.randint(0, amount) for amount in whole))
        rows += [(1, token, day, *part), (1, token, day, *(a - b for a, b in zip(whole, part, strict=True)))]
    chance.shuffle(rows)
    found = known(rows, [(1, day) for day in days], [], [(0, str(SHARE))])
    assert all(evidence.days == days for evidence in found.by_provider.values())
    assert bool(found.by_provider) is bool(days)


def differences(config: IndexerConfig) -> list[str]:
    with Session(config) as session:
        return reputation_differences(
            session.database, session.decoder, cursor.load(session.database, session.deployment)
        )


def scores(config: IndexerConfig, change: str = "") -> dict[tuple[int, bytes], Score]:
    """From the tables as they would be after a change, which is undone."""
    with Session(config) as session:
        database = session.database
        database.execute("BEGIN")
        try:
            if change:
                database.execute(change)
            today = cursor.load(database, session.deployment).block_time // DAY_S
            rows = [database.execute(each.statement, each.values) for each in questions(today)]
            return known(*rows).scores(today)
        finally:
            database.execute("ROLLBACK")


def test_market_run__tables_and_logs_agree__and_a_changed_row_is_found(market: Market, new_config: NewConfig) -> None:
    config = new_config()
    market.open()
    first = market.open_lease()
    market.settle(first, 900_000)
    market.trade()
    market.node.mine(CONFIRMATIONS)
    catch_up(config)
    assert differences(config) == []
    ((who, found),) = scores(config).items()
    assert who == (1, bytes.fromhex(market.address("TestUSDC")[2:]))
    assert found.credit > 0
    assert found.debit > 0
    assert found.slashed > 0
    for change in (
        "UPDATE daily_anchor SET provider = 2",
        "UPDATE daily_usage SET disowned_fees = volume",
        "DELETE FROM slash",
        "DELETE FROM parameter_change WHERE key = 1",
    ):
        assert scores(config, change) != scores(config), change
    with Session(config) as session:
        session.database.execute("UPDATE daily_usage SET fees = volume")
    assert len(differences(config)) == 1


def test_reorg__takes_its_reputation_with_it(market: Market, new_config: NewConfig) -> None:
    config = new_config()
    market.open()
    lease = market.open_lease()
    market.settle(lease, 400_000)
    snapshot = market.node.snapshot()
    market.settle(lease, 900_000)
    catch_up(config)
    market.node.revert(snapshot)
    market.send(1, "Registry", "set_metadata", 1, b"\x05" * 32)
    market.transfer(1)
    catch_up(config)
    assert differences(config) == []
    with Session(config) as session:
        ((volume,),) = session.database.execute("SELECT volume FROM daily_usage")
    assert int(volume) == 400_000
