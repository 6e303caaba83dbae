"""Nothing that the attempts try comes out of a container of the production policy; without its walls all of it does."""

from collections import Counter
from pathlib import Path

import pytest

from provider.sandbox.tiers import PRODUCTION_TIERS, Tier
from tests.sandbox.escape import host_state, report, suite
from tests.sandbox.escape.attempt import ATTEMPTS
from tests.sandbox.escape.findings import Findings, find, new_disk, settled
from tests.sandbox.escape.stage import Stage
from tests.support.sandbox import Sandbox

_LEAST = 60
_MOST_S = 600


@pytest.fixture(scope="module")
def findings(sandbox: Sandbox) -> Findings:
    found = find(sandbox)
    print({name: round(seconds, 1) for name, seconds in found.seconds.items()})
    return found


def test_there_are_enough_attempts_of_every_class() -> None:
    counted = Counter(each.kind for each in ATTEMPTS.values())
    assert len(ATTEMPTS) >= _LEAST
    assert min(counted.values()) >= 4
    assert {name for name, each in ATTEMPTS.items() if each.alone} == set(suite.ALONE)


@pytest.mark.timeout(_MOST_S)
@pytest.mark.parametrize("tier", PRODUCTION_TIERS)
def test_nothing_comes_out(findings: Findings, tier: Tier) -> None:
    outcomes = findings.outcomes[tier]
    assert set(outcomes) == set(ATTEMPTS)
    assert [each for each in outcomes.values() if each.succeeded] == []


@pytest.mark.parametrize("tier", PRODUCTION_TIERS)
def test_what_was_tried_is_seen(findings: Findings, tier: Tier) -> None:
    """Each attempt ran and met a wall, not a fault of its own; the host has its output or the container's end."""
    outcomes = findings.outcomes[tier].values()
    assert [each for each in outcomes if not each.seen or suite.fault(each) or each.error == "said nothing"] == []


def test_the_host_is_as_before(findings: Findings) -> None:
    before, after = findings.states
    assert after == before


def test_the_comparison_sees_what_stays(sandbox: Sandbox) -> None:
    """While a stage stands and a container runs, the host is not as before; when they are gone it is."""
    before = host_state.look(sandbox.paths)
    with new_disk(sandbox) as disk, Stage(sandbox.paths.share, str(sandbox.paths.socket), disk, []) as stage:
        staged = host_state.look(sandbox.paths)
        with suite.neighbour(sandbox, Tier.RUNC_SECCOMP, stage, wanted=True):
            beside = host_state.look(sandbox.paths)
    kinds = {"processes", "files", "sockets", "files in /dev/shm"} | (
        {"keys"} if Path("/proc/keys").exists() else set()
    )
    assert {kind for kind in before if staged[kind] != before[kind]} == kinds
    assert len(beside["processes"]) >= len(staged["processes"]) + 2  # what watches the container, and its own
    assert len(beside["mounts"]) > len(staged["mounts"])
    assert settled(sandbox, before) == before


def test_every_control_succeeds(findings: Findings) -> None:
    """Where this machine lacks what an attempt uses, and only there, it may fail."""
    assert set(findings.controls) == set(ATTEMPTS)
    failed = {name: each.error for name, each in findings.controls.items() if not each.succeeded}
    assert {name: error for name, error in failed.items() if name not in findings.absent} == {}


def test_the_documentation_tells_it(findings: Findings) -> None:
    assert report.written() == report.tables(findings), "python -m tests.sandbox.escape.report writes it anew"
