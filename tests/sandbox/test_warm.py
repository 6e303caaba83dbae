"""Containers started ahead: each serves one run, sees nothing of another, and none is left."""

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from provider.sandbox import containers
from provider.sandbox.errors import JobError
from provider.sandbox.policy import Limits
from provider.sandbox.running import Ending, Outcome, Place, Program, RunLimits, run
from provider.sandbox.tiers import Tier
from provider.sandbox.warm import MOST, ROLE, WarmPool
from tests.support.sandbox import Sandbox

two_tiers = pytest.mark.parametrize("tier", [Tier.GVISOR_SYSTRAP, Tier.RUNC_SECCOMP])
LIMITS = RunLimits(seconds=40, box=Limits(memory=256 << 20, pids=64, tmp=4 << 20), work=8 << 20, work_files=64)
PATIENCE_S = 60.0


@pytest.fixture(autouse=True)
def nothing_is_left(sandbox: Sandbox) -> Iterator[None]:
    yield
    assert containers.ours(sandbox.client) == []
    assert sandbox.client.volumes.list() == []
    assert not list(sandbox.paths.share.glob("job-*"))


def place(sandbox: Sandbox, tier: Tier = Tier.RUNC_SECCOMP) -> Place:
    return Place(sandbox.client, sandbox.paths, tier, sandbox.image.image_id)


def full(pool: WarmPool) -> WarmPool:
    assert pool.wait_until_full(PATIENCE_S)
    return pool


def waiting(sandbox: Sandbox) -> list[str]:
    return [str(each.id) for each in containers.own(sandbox.client) if each.labels[containers.ROLE] == ROLE]


Go = Callable[..., tuple[Outcome, str]]


@pytest.fixture
def go(tmp_path: Path) -> Go:
    """Runs Python in a pool's container; also returns all that it printed."""
    runs = iter(range(100))

    def start(
        pool: WarmPool, where: Place, source: str, limits: RunLimits = LIMITS, **more: bytes
    ) -> tuple[Outcome, str]:
        said: list[bytes] = []
        files: dict[str, bytes | Path] = {"main.py": source.encode()}
        outcome = run(
            where,
            Program(["main.py", "a\nb", "é"], files, more.get("given")),
            tmp_path / f"out{next(runs)}",
            limits,
            printed=lambda _, data: said.append(data),
            pool=pool,
        )
        return outcome, b"".join(said).decode(errors="replace")

    return start


@two_tiers
def test_a_warm_run_is_like_any_other(sandbox: Sandbox, tier: Tier, go: Go) -> None:
    source = """
import os, sys
print(sys.argv[1:], os.getcwd(), sys.stdin.read(), os.listdir('/in'), os.listdir('/work'))
try: open('/in/main.py', 'w')
except OSError as e: print('read-only')
open('out/r', 'w').write('result'); sys.exit(7)
"""
    with WarmPool(place(sandbox, tier), LIMITS, 1) as pool:
        full(pool)
        (used,) = waiting(sandbox)
        outcome, said = go(pool, place(sandbox, tier), source, given=b"given\n")
        assert (outcome.ending, outcome.exit_code, outcome.results.files) == (Ending.EXITED, 7, {"r": 6}), said
        assert said.splitlines()[:2] == ["['a\\nb', 'é'] /work given", " ['main.py'] ['out']"]
        assert said.splitlines()[-1] == "read-only"
        assert used not in waiting(sandbox)  # it was this one, and it is gone


@two_tiers
def test_a_run_sees_nothing_of_the_one_before_and_the_pool_refills(sandbox: Sandbox, tier: Tier, go: Go) -> None:
    source = """
import os
print(sorted(os.listdir('/work') + os.listdir('/work/out') + os.listdir('/tmp') + os.listdir('/in')))
print(len([each for each in os.listdir('/proc') if each.isdigit()]))
for name in ('/work/w', '/work/out/o', '/tmp/t'): open(name, 'w').write('secret')
if os.fork() == 0: os.setsid()
"""
    with WarmPool(place(sandbox, tier), LIMITS, 2) as pool:
        said = []
        for _ in range(3):
            full(pool)
            before = set(waiting(sandbox))
            outcome, text = go(pool, place(sandbox, tier), source)
            assert outcome.succeeded
            assert len(before - set(waiting(sandbox))) == 1
            said.append(text)
        assert said[0].startswith("['main.py', 'out']\n")
        assert set(said) == {said[0]}


def test_limits_of_time_processor_memory_and_output_hold(sandbox: Sandbox, go: Go) -> None:
    ends = [
        ("import time; time.sleep(300)", replace(LIMITS, seconds=2), Ending.TIME),
        ("while True: pass", replace(LIMITS, processor=1.0), Ending.PROCESSOR),
        ("bytearray(400 << 20)", LIMITS, Ending.MEMORY),
        ("while True: print('y' * 99)", replace(LIMITS, output=1000), Ending.OUTPUT),
    ]
    with WarmPool(place(sandbox), LIMITS, 2) as pool:
        for source, limits, ending in ends:
            full(pool)
            assert go(pool, place(sandbox), source, limits)[0].ending is ending


def test_a_warm_container_that_was_killed_is_not_used(sandbox: Sandbox, go: Go) -> None:
    with WarmPool(place(sandbox), LIMITS, 2) as pool:
        full(pool)
        killed = waiting(sandbox)
        assert len(killed) == 2
        for name in killed:
            container = sandbox.client.containers.get(name)
            os.kill(int(container.attrs["State"]["Pid"]), signal.SIGKILL)
            container.wait()
        assert go(pool, place(sandbox), "print('here')")[1] == "here\n"
        full(pool)
        assert not set(waiting(sandbox)) & set(killed)
        assert go(pool, place(sandbox), "print('again')")[1] == "again\n"


def test_other_limits_and_other_tiers_get_a_container_of_their_own(sandbox: Sandbox, go: Go) -> None:
    with WarmPool(place(sandbox), LIMITS, 1) as pool:
        full(pool)
        kept = waiting(sandbox)
        assert go(pool, place(sandbox), "", replace(LIMITS, work=4 << 20))[0].succeeded
        assert go(pool, place(sandbox, Tier.GVISOR_SYSTRAP), "")[0].succeeded
        assert waiting(sandbox) == kept


def test_files_that_cannot_be_given_use_up_no_more_than_one(sandbox: Sandbox, tmp_path: Path) -> None:
    with WarmPool(place(sandbox), LIMITS, 1) as pool:
        full(pool)
        with pytest.raises(JobError, match="is no name for a file"):
            run(place(sandbox), Program(["python"], {"../x": b""}), tmp_path / "o", LIMITS, pool=pool)
        full(pool)


def test_a_program_that_cannot_start_says_so(sandbox: Sandbox, tmp_path: Path) -> None:
    said: list[bytes] = []
    with WarmPool(place(sandbox), LIMITS, 1) as pool:
        full(pool)
        program = Program(["/nowhere"])
        outcome = run(
            place(sandbox), program, tmp_path / "o", LIMITS, printed=lambda _, part: said.append(part), pool=pool
        )
    assert (outcome.exit_code, said) == (126, [b"/nowhere cannot be started: No such file or directory\n"])


def test_a_pool_that_closes_while_it_fills_leaves_nothing(sandbox: Sandbox) -> None:
    with WarmPool(place(sandbox), LIMITS, 3):
        pass


@pytest.mark.parametrize("size", [0, MOST + 1])
def test_a_pool_is_bounded(sandbox: Sandbox, size: int) -> None:
    with pytest.raises(ValueError, match="a pool holds"):
        WarmPool(place(sandbox), LIMITS, size)
