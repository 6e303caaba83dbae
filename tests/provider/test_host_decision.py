"""When the machine is lent out: schedules over midnights, week ends and changes of the clock; limits; hysteresis."""

from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider.host import Decision, HostLimits, Readings, Schedule, decide
from provider.host.schedule import DAYS, Window

BERLIN = ZoneInfo("Europe/Berlin")
MONDAY = datetime(2026, 3, 2, tzinfo=BERLIN)
AT = datetime(2026, 3, 4, 12, 0, tzinfo=BERLIN)
ALL_KEPT = Readings(
    at=100.0,
    other_cpu_percent=5,
    user_idle_s=10_000,
    free_memory=10 * 2**30,
    free_vram=10 * 2**30,
    temperature_c=40,
    power_w=20,
    on_battery=False,
)
LIMITS = HostLimits(
    pause_while_in_use_s=300,
    max_other_cpu_percent=50,
    min_free_memory=2**30,
    min_free_vram=2**30,
    max_temperature_c=80,
    max_power_w=200,
    settle_s=30,
)


def at(day: int, clock: str) -> datetime:
    """A time in the week that starts on MONDAY."""
    return datetime.combine((MONDAY + timedelta(days=day)).date(), time.fromisoformat(clock), BERLIN)


@pytest.mark.parametrize(
    ("windows", "opens", "shuts"),
    [
        (
            ["mon-fri 19:00-07:00"],
            [(0, "19:00"), (1, "06:59"), (5, "06:59")],
            [(0, "06:59"), (5, "19:00"), (4, "18:59")],
        ),
        (["sat,sun 00:00-24:00"], [(5, "00:00"), (6, "23:59")], [(4, "23:59"), (0, "00:00")]),
        (["daily 22:00-06:00"], [(0, "05:59"), (6, "22:00")], [(0, "06:00"), (6, "21:59")]),
        (["fri-mon 10:00-11:00"], [(4, "10:00"), (0, "10:30")], [(1, "10:30"), (3, "10:30"), (0, "11:00")]),
        (["sun 23:00-01:00"], [(6, "23:00"), (0, "00:59")], [(0, "01:00"), (0, "23:30"), (6, "00:30")]),
        (["mon 00:00-00:00"], [(0, "00:00"), (0, "23:59")], [(1, "00:00"), (6, "23:59")]),
        (["mon 08:00-09:00", "tue 10:00-11:00"], [(0, "08:30"), (1, "10:30")], [(0, "10:30"), (1, "08:30")]),
        ([], [(0, "00:00"), (3, "12:00")], []),
    ],
)
def test_windows(windows: list[str], opens: list[tuple[int, str]], shuts: list[tuple[int, str]]) -> None:
    schedule = Schedule.parse(windows)
    assert [schedule.is_open(at(*when)) for when in opens] == [True] * len(opens)
    assert [schedule.is_open(at(*when)) for when in shuts] == [False] * len(shuts)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "mon",
        "mon 8:00-9:00",
        "mun 08:00-09:00",
        "mon 08:00-25:00",
        "mon 24:00-08:00",
        "mon- 08:00-09:00",
        "mon 08:00-09:00 ",
    ],
)
def test_mistakes_in_windows_are_told(text: str) -> None:
    with pytest.raises(ValueError, match="is n"):
        Schedule.parse([text])


def test_clock_changes_move_no_window() -> None:
    """Berlin, 29 March 2026: 02:00 becomes 03:00; 25 October 2026: 03:00 becomes 02:00."""
    schedule = Schedule.parse(["sun 01:30-03:30"])
    spring = [datetime(2026, 3, 29, hour, 0, tzinfo=UTC).astimezone(BERLIN) for hour in (0, 1, 2)]
    assert [(when.hour, schedule.is_open(when)) for when in spring] == [(1, False), (3, True), (4, False)]
    autumn = [datetime(2026, 10, 25, hour, 0, tzinfo=UTC).astimezone(BERLIN) for hour in (0, 1, 2, 3)]
    assert [(when.hour, schedule.is_open(when)) for when in autumn] == [(2, True), (2, True), (3, True), (4, False)]


def test_seconds_to_opening_counts_real_hours_over_a_clock_change() -> None:
    schedule = Schedule.parse(["sun 04:00-05:00"])
    assert schedule.seconds_to_opening(datetime(2026, 3, 29, 1, 0, tzinfo=BERLIN)) == 2 * 3600
    assert schedule.seconds_to_opening(datetime(2026, 10, 25, 1, 0, tzinfo=BERLIN)) == 4 * 3600


_times = st.builds(time, hour=st.integers(0, 23), minute=st.integers(0, 59))
_windows = st.builds(Window, st.frozensets(st.integers(0, 6), min_size=1), _times, _times)
_schedules = st.builds(Schedule, st.lists(_windows, min_size=1, max_size=4).map(tuple))
_moments = st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1)).map(lambda naive: naive.replace(tzinfo=UTC))  # noqa: DTZ001


@given(_schedules, _moments)
def test_window_is_the_minutes_from_its_start_to_its_end(schedule: Schedule, moment: datetime) -> None:
    """Against the plain model: the minutes of a week, each window painted from its start for its length."""
    painted = set()
    for window in schedule.windows:
        start, end = (value.hour * 60 + value.minute for value in (window.start, window.end))
        length = (end - start) % 1440 or 1440
        for day in window.days:
            painted |= {(day * 1440 + start + minute) % 10_080 for minute in range(length)}
    now = moment.weekday() * 1440 + moment.hour * 60 + moment.minute
    assert schedule.is_open(moment) == (now in painted)


@given(_schedules, _moments)
def test_next_opening_is_open_and_nothing_before_it(schedule: Schedule, moment: datetime) -> None:
    seconds = schedule.seconds_to_opening(moment)
    assert 0 <= seconds <= 7 * 86_400
    assert schedule.is_open(moment + timedelta(seconds=seconds))
    if seconds:
        assert not schedule.is_open(moment + timedelta(seconds=seconds / 2))
        assert not schedule.is_open(moment + timedelta(seconds=seconds - 0.001))


@given(_schedules, _moments)
def test_opening_is_found_over_every_clock_change(schedule: Schedule, moment: datetime) -> None:
    local = moment.astimezone(BERLIN)
    seconds = schedule.seconds_to_opening(local)
    opening = (moment + timedelta(seconds=seconds)).astimezone(BERLIN)
    skipped = any(window.start.hour == 2 and window.end > window.start for window in schedule.windows)
    assert schedule.is_open(opening) or skipped


@given(st.lists(st.sampled_from(DAYS), min_size=1, max_size=7, unique=True), _times, _times)
def test_what_is_written_is_read(days: list[str], start: time, end: time) -> None:
    window = Window.parse(f"{','.join(days)} {start:%H:%M}-{end:%H:%M}")
    assert window == Window(frozenset(DAYS.index(day) for day in days), start, end)


BREAKS: dict[str, dict[str, object]] = {
    "uses the machine": {"user_idle_s": 299.0},
    "the processor": {"other_cpu_percent": 50.1},
    "the memory": {"free_memory": 2**30 - 1},
    "graphics memory": {"free_vram": 2**30 - 1},
    "too hot": {"temperature_c": 80.5},
    "too much power": {"power_w": 201.0},
    "battery": {"on_battery": True},
}


@pytest.mark.parametrize("reason", BREAKS)
def test_each_limit_pauses_and_says_why(reason: str) -> None:
    broken = replace(ALL_KEPT, **BREAKS[reason])  # type: ignore[arg-type]
    assert decide(ALL_KEPT, LIMITS, AT, None).is_open
    decision = decide(broken, LIMITS, AT, Decision(is_open=True))
    assert not decision.is_open
    assert [reason in each for each in decision.reasons] == [True]
    assert decide(broken, HostLimits(on_battery=True), AT, None).is_open, "without limits nothing pauses"


def test_all_reasons_are_given() -> None:
    everything = {name: value for change in BREAKS.values() for name, value in change.items()}
    limits = replace(LIMITS, schedule=Schedule.parse(["wed 00:00-01:00"]))
    decision = decide(replace(ALL_KEPT, **everything), limits, AT, None)  # type: ignore[arg-type]
    assert len(decision.reasons) == len(BREAKS) + 1


def test_unknown_limits_nothing_and_is_listed() -> None:
    nothing = Readings(at=1.0)
    assert decide(nothing, LIMITS, AT, None).is_open
    assert LIMITS.unreadable(nothing) == [
        "pause_while_in_use",
        "max_other_cpu",
        "free_memory",
        "free_vram",
        "max_temperature_c",
        "max_power_w",
    ]
    assert LIMITS.unreadable(ALL_KEPT) == HostLimits().unreadable(nothing) == []


def test_reopens_only_well_below_the_limit_and_after_a_while() -> None:
    decision = decide(replace(ALL_KEPT, other_cpu_percent=60), LIMITS, AT, Decision(is_open=True))
    steps = [(110, 49, False), (120, 44, False), (140, 49, False), (150, 44, False), (179, 44, False), (180, 44, True)]
    for seconds, cpu, is_open in steps:
        decision = decide(replace(ALL_KEPT, at=float(seconds), other_cpu_percent=cpu), LIMITS, AT, decision)
        assert decision.is_open == is_open, seconds
    assert decide(replace(ALL_KEPT, at=181.0, other_cpu_percent=49), LIMITS, AT, decision).is_open, "below the limit"


@given(st.lists(st.tuples(st.floats(0.1, 20), st.floats(0, 100)), min_size=1, max_size=60))
def test_gate_never_flutters(steps: list[tuple[float, float]]) -> None:
    """Open never above the limit; after a pause never open again before settle_s without a passed limit."""
    decision, now, last_above = Decision(is_open=True), 0.0, float("-inf")
    for seconds, cpu in steps:
        now += seconds
        decision = decide(replace(ALL_KEPT, at=now, other_cpu_percent=cpu), LIMITS, AT, decision)
        last_above = now if cpu > 50 else last_above
        if decision.is_open:
            assert now - last_above >= LIMITS.settle_s
        else:
            assert decision.reasons
