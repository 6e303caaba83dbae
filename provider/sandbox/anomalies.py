"""What is out of the ordinary in a container, by the host's readings, and what is done about it."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from provider.sandbox.figures import Figures

NEAR = 0.9  # of a limit
_SHOWN = 5


class Kind(StrEnum):
    """Kinds of anomalies."""

    MEMORY = "memory"
    MEMORY_KILL = "memory_kill"
    PROCESSES = "processes"
    OVERLONG = "overlong"
    DENIED = "denied"
    NETWORK = "network"
    FLOOD = "flood"


ENDS: dict[str, frozenset[Kind]] = {
    "job": frozenset({Kind.PROCESSES, Kind.OVERLONG, Kind.FLOOD}),
    "warm": frozenset({Kind.PROCESSES, Kind.FLOOD}),  # it may wait for its job as long as the worker runs
}
"""The policy, by role: what ends a container at once. Engines are never ended for it: their users wait for them."""

LONGEST_S = {"job": 7 * 86_400 + 300.0, "probe": 300.0, "model check": 600.0}
"""By role: after this long a container's own supervisor must have ended it. Engines and holders have no such time."""

NETWORK_CALLS = frozenset({"socket", "socketpair", "bind", "listen", "accept", "accept4"})
"""Denied only to who wants another socket than one to the host, or wants to be called."""

MOST_DENIED = 1000
"""Denied calls of one container; a program that carries on after so many searches for a hole."""


@dataclass(frozen=True)
class Anomaly:
    """`what` happened, with the container's name, and what to `do`."""

    kind: Kind
    what: str
    do: str


def find_anomalies(name: str, role: str, now: Figures, age_s: float) -> Iterator[Anomaly]:
    """Of one look at a container that runs for `age_s` seconds."""
    limit = f"{now.memory_limit / 2**20:,.0f} MiB of memory"
    if now.oom_kills:
        yield Anomaly(
            Kind.MEMORY_KILL,
            f"{name}: the kernel killed processes of it, for it needed more than its {limit}",
            "an engine: a smaller context or fewer requests at once; a job: more memory",
        )
    elif now.memory_limit and now.memory_peak > NEAR * now.memory_limit:
        yield Anomaly(
            Kind.MEMORY,
            f"{name} came near the end of its {limit}: {now.memory_peak / 2**20:,.0f} MiB",
            "an engine: a smaller context or fewer requests at once; a job: more memory",
        )
    if now.refused_pids or (now.pids_limit and now.pids > NEAR * now.pids_limit):
        yield Anomaly(
            Kind.PROCESSES,
            f"{name} makes more processes than it may: {now.pids} of {now.pids_limit}",
            "nothing else is harmed; an honest program needs a higher limit, another one is not run again",
        )
    if age_s > LONGEST_S.get(role, age_s):
        yield Anomaly(
            Kind.OVERLONG,
            f"{name} runs for {age_s:.0f} s, longer than any {role} may",
            "its supervisor has failed: see the worker's log, then `clawmarket sandbox clean`",
        )


def find_denied(name: str, denied: Counter[str]) -> Iterator[Anomaly]:
    """Of the calls that were denied to a container, by their names."""
    network = Counter({call: count for call, count in denied.items() if call in NETWORK_CALLS})
    others = denied - network
    do = (
        "it was refused and reached nothing. An engine: its model or a prompt may have taken it over, so stop serving a"
        " model of doubtful origin; a job: an honest program does without, another one is not run again"
    )
    if network:
        yield Anomaly(Kind.NETWORK, f"{name} tried to reach a network or to be reached: {_shown(network)}", do)
    if others:
        yield Anomaly(Kind.DENIED, f"{name} made system calls that are denied: {_shown(others)}", do)
    if denied.total() > MOST_DENIED:
        yield Anomaly(
            Kind.FLOOD,
            f"{name} goes on with system calls that are denied: {denied.total():,} until now",
            "it searches for a hole; what it came from, a model or a job, is not to be run again",
        )


def _shown(calls: Counter[str]) -> str:
    named = [f"{call} ({count:,})" for call, count in calls.most_common(_SHOWN)]
    return ", ".join([*named, "…"] if len(calls) > _SHOWN else named)
