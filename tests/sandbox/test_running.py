"""Running a program of somebody else's: files in, output while it comes, results out, every end explained, no trace."""

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from provider.sandbox import containers, holding, staging
from provider.sandbox.collecting import ResultLimits
from provider.sandbox.errors import ContainerError, JobError
from provider.sandbox.policy import Limits
from provider.sandbox.running import Ending, Outcome, Place, Program, RunLimits, run, run_async
from provider.sandbox.streaming import Stream
from provider.sandbox.tiers import PRODUCTION_TIERS, Tier
from tests.support.sandbox import Sandbox

tiers = pytest.mark.parametrize("tier", PRODUCTION_TIERS)
two_tiers = pytest.mark.parametrize("tier", [Tier.GVISOR_SYSTRAP, Tier.RUNC_SECCOMP])
RUNC = Tier.RUNC_SECCOMP
SMALL = RunLimits(seconds=40, box=Limits(memory=256 << 20, pids=64, tmp=4 << 20), work=8 << 20, work_files=64)


@pytest.fixture(autouse=True)
def nothing_is_left(sandbox: Sandbox) -> Iterator[None]:
    yield
    assert_nothing_left(sandbox)


def assert_nothing_left(sandbox: Sandbox) -> None:
    assert containers.ours(sandbox.client) == []
    assert sandbox.client.volumes.list() == []
    assert [each.name for each in sandbox.paths.share.iterdir() if each.name.startswith("job-")] == []
    assert "clawmarket-work" not in Path("/proc/mounts").read_text()


def place(sandbox: Sandbox, tier: Tier = RUNC) -> Place:
    return Place(sandbox.client, sandbox.paths, tier, sandbox.image.image_id)


def python(source: str, **files: bytes) -> Program:
    return Program(["main.py"], {"main.py": source.encode(), **files})


@pytest.fixture
def go(sandbox: Sandbox, tmp_path: Path) -> Callable[..., tuple[Outcome, str]]:
    """Runs Python in a tier; also returns all that it printed."""

    def start(
        source: str, tier: Tier = RUNC, limits: RunLimits = SMALL, given: bytes | None = None
    ) -> tuple[Outcome, str]:
        said: list[bytes] = []
        outcome = run(
            place(sandbox, tier),
            replace(python(source), given=given),
            tmp_path / "out",
            limits,
            printed=lambda _, data: said.append(data),
        )
        return outcome, b"".join(said).decode(errors="replace")

    return start


Go = Callable[..., tuple[Outcome, str]]


@tiers
def test_files_input_output_and_results(sandbox: Sandbox, tier: Tier, tmp_path: Path) -> None:
    source = """
import errno, os, sys
print(sys.argv[1:], open('/in/data').read(), os.getcwd(), sys.stdin.buffer.read() == b'x' * 300_000)
print('a fault', file=sys.stderr)
for path in ('/in/data', '/in/new', '/new'):
    try: open(path, 'w'); print('wrote', path)
    except OSError as e: print(errno.errorcode[e.errno] in ('EROFS', 'EACCES'))
os.mkdir('out/deep')
open('out/deep/result', 'wb').write(bytes(range(256)))
open('beside', 'w').write('no result')
"""
    data = tmp_path / "data"
    data.write_text("given")
    files: dict[str, bytes | Path] = {"main.py": source.encode(), "data": data}
    said: dict[Stream, bytes] = {Stream.OUT: b"", Stream.ERR: b""}

    def keep(stream: Stream, part: bytes) -> None:
        said[stream] += part

    program = Program(["main.py", "a", "b c"], files, b"x" * 300_000)
    outcome = run(place(sandbox, tier), program, tmp_path / "out", SMALL, printed=keep)
    assert said[Stream.OUT].decode().splitlines() == [
        "['a', 'b c'] given /work True",
        "True",
        "True",
        "True",
    ]
    assert said[Stream.ERR] == b"a fault\n"
    assert (outcome.ending, outcome.exit_code, outcome.succeeded) == (Ending.EXITED, 0, True)
    assert outcome.results.files == {"deep/result": 256}
    assert outcome.results.left_out == ()
    assert (tmp_path / "out/deep/result").read_bytes() == bytes(range(256))
    assert data.read_text() == "given"


@two_tiers
def test_what_is_printed_comes_while_the_program_runs(sandbox: Sandbox, tier: Tier, tmp_path: Path) -> None:
    stop, said = threading.Event(), b""

    def answer(_stream: Stream, data: bytes) -> None:
        nonlocal said
        said += data
        if said == b"now\n":
            stop.set()

    program = python("import time; print('now', flush=True); time.sleep(300)")
    outcome = run(place(sandbox, tier), program, tmp_path / "out", SMALL, printed=answer, stop=stop)
    assert (outcome.ending, said) == (Ending.STOPPED, b"now\n")


@two_tiers
def test_time_runs_out(go: Go, tier: Tier) -> None:
    """What was written until then is a result."""
    limits = replace(SMALL, seconds=2.5)
    source = "import os\nopen('out/begun', 'w').write('half'); os.fork()\nwhile True: pass"
    outcome, _ = go(source, tier, limits)
    assert (outcome.ending, outcome.exit_code) == (Ending.TIME, None)
    assert 2.5 <= outcome.seconds < 9
    assert "2.5 s; allow more time" in outcome.why
    assert outcome.results.files == {"begun": 4}


@two_tiers
def test_the_processor_runs_out_though_its_work_is_spread(go: Go, tier: Tier) -> None:
    """Four processes that take turns: no limit of one process would see it."""
    source = "import os\nopen('out/begun', 'w').close(); os.fork(); os.fork()\nwhile True: pass"
    outcome, _ = go(source, tier, replace(SMALL, processor=2.0))
    assert (outcome.ending, outcome.exit_code) == (Ending.PROCESSOR, None)
    assert "2 s of the processor; allow more" in outcome.why
    assert outcome.results.files == {"begun": 0}


def test_time_that_is_slept_is_none_of_the_processor(go: Go) -> None:
    outcome, _ = go("import time; time.sleep(3)", limits=replace(SMALL, processor=2.0))
    assert outcome.succeeded, outcome


def test_a_container_keeps_to_its_cores(go: Go) -> None:
    last = max(os.sched_getaffinity(0))
    limits = replace(SMALL, box=replace(SMALL.box, cores=(last,)))
    outcome, said = go("import os; print(os.sched_getaffinity(0))", limits=limits)
    assert (outcome.succeeded, said) == (True, f"{{{last}}}\n")


@tiers
def test_memory_runs_out(go: Go, tier: Tier) -> None:
    outcome, said = go("b = bytearray(400 << 20); print('made')", tier)
    assert outcome.ending is Ending.MEMORY, outcome
    assert "256 MiB" in outcome.why
    assert said == ""


@tiers
def test_the_work_folder_is_bounded_in_bytes_and_files(go: Go, tier: Tier) -> None:
    source = """
import errno, os
n = 0
try:
    for n in range(1000): open(f'f{n}', 'w').close()
except OSError as e: print('files', errno.errorcode[e.errno], n < 64)
for k in range(n): os.unlink(f'f{k}')
made = 0
try:
    with open('big1', 'wb', 0) as f, open('big2', 'wb', 0) as g:
        for _ in range(6): made += f.write(bytes(1 << 20))
        for _ in range(6): made += g.write(bytes(1 << 20))
except OSError as e: print('bytes', errno.errorcode[e.errno], made <= 8 << 20)
"""
    outcome, said = go(source, tier)
    assert said.splitlines() == ["files ENOSPC True", "bytes ENOSPC True"], said
    assert outcome.succeeded


@two_tiers
def test_only_plain_files_are_brought_out(go: Go, tier: Tier, tmp_path: Path) -> None:
    """A link that led out of the result folder would show or change files of this machine."""
    secret = tmp_path / "secret"
    secret.write_text("of this machine")
    source = f"""
import errno, os
os.chdir('out')
os.symlink({str(secret)!r}, 'link'); os.symlink('/etc', 'folder'); os.symlink('../../..', 'up')
open('plain', 'w').write('kept'); os.link('plain', 'twice'); os.chmod('plain', 0)
open(b'odd\\xff', 'w').close(); open('line\\nfeed', 'w').close(); open('back\\\\slash', 'w').close()
os.makedirs('/'.join('abcdefghij'))
try: os.mkfifo('pipe')
except OSError as e: print(errno.errorcode[e.errno])
with open('sparse', 'wb') as f:
    try: f.truncate(1 << 40)
    except OSError as e: print(errno.errorcode[e.errno])
    f.truncate(6 << 20)
"""
    outcome, said = go(source, tier, replace(SMALL, results=ResultLimits(file=1 << 20)))
    assert outcome.succeeded, said
    assert said.splitlines() == ["EPERM", "EFBIG"], said
    kept = {file.relative_to(tmp_path / "out").as_posix() for file in (tmp_path / "out").rglob("*") if file.is_file()}
    assert len(outcome.results.files) == 1
    assert kept == set(outcome.results.files) <= {"plain", "twice"}
    assert {(tmp_path / "out" / each).read_text() for each in kept} == {"kept"}
    assert not [each for each in (tmp_path / "out").rglob("*") if each.is_symlink()]
    reasons = "\n".join(outcome.results.left_out)
    for name in ("link", "folder", "up", "odd�", "line�feed", "back\\slash", "sparse"):
        assert f"{name}: " in reasons
    assert "6,291,456 bytes are more than the 1,048,576 of one file" in reasons


def test_too_many_results(go: Go) -> None:
    limits = replace(SMALL, work_files=500, results=ResultLimits(count=20))
    outcome, _ = go("for n in range(300): open(f'out/{n}', 'w').close()", limits=limits)
    assert len(outcome.results.files) == 20
    assert outcome.results.left_out == ("all beyond 20 files and folders",)


def test_results_that_are_together_too_large(go: Go) -> None:
    """Holes cost nothing to make: they count as what they would take here."""
    source = "for n in range(40): open(f'out/{n}', 'wb').truncate(1 << 20)"
    outcome, _ = go(source, limits=replace(SMALL, results=ResultLimits(total=4 << 20)))
    assert sum(outcome.results.files.values()) <= 4 << 20
    assert len(outcome.results.files) == 4
    assert "what follows: all of it is more than" in outcome.results.left_out[-1]


@pytest.mark.parametrize("trick", ["os.rmdir('out')", "os.rmdir('out'); os.symlink('/etc', 'out')"])
def test_a_result_folder_that_is_none(go: Go, trick: str, tmp_path: Path) -> None:
    outcome, _ = go(f"import os; {trick}")
    assert outcome.succeeded
    assert outcome.results.files == {}
    assert list((tmp_path / "out").iterdir()) == []


@two_tiers
def test_output_is_capped(go: Go, tier: Tier) -> None:
    limits = replace(SMALL, output=100_000)
    outcome, said = go("while True: print('y' * 999)", tier, limits)
    assert (outcome.ending, len(said)) == (Ending.OUTPUT, 100_000)
    assert "more than 100,000 bytes" in outcome.why


def test_output_up_to_its_cap_is_no_fault(go: Go) -> None:
    outcome, said = go("import sys; sys.stdout.write('y' * 100_000)", limits=replace(SMALL, output=100_000))
    assert (outcome.ending, len(said)) == (Ending.EXITED, 100_000)


@two_tiers
def test_exit_codes_and_signals_are_told(sandbox: Sandbox, tier: Tier, tmp_path: Path) -> None:
    for end, expected in (("sys.exit(7)", (Ending.EXITED, 7)), ("os.kill(os.getpid(), 11)", (Ending.KILLED, 139))):
        outcome = run(place(sandbox, tier), python(f"import os, sys; {end}"), tmp_path / end[:6], SMALL)
        assert (outcome.ending, outcome.exit_code) == expected, outcome
        assert not outcome.succeeded


def test_input_that_nobody_reads_does_not_block(go: Go) -> None:
    outcome, said = go("print('done')", given=bytes(8 << 20))
    assert (outcome.succeeded, said) == (True, "done\n")


def test_a_program_among_the_files_runs_itself(sandbox: Sandbox, tmp_path: Path) -> None:
    """Its first line names the image's Python."""
    from provider.sandbox.image.interpreter import program

    script = f"#!{program()}\nprint('by itself')".encode()
    said: list[bytes] = []
    outcome = run(
        place(sandbox), Program(["tool"], {"tool": script}), tmp_path / "o", printed=lambda _, part: said.append(part)
    )
    assert (outcome.succeeded, said) == (True, [b"by itself\n"])


def test_nothing_is_left_when_the_listener_fails(sandbox: Sandbox, tmp_path: Path) -> None:
    def fail(_stream: Stream, _data: bytes) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(place(sandbox), python("import time; print(1, flush=True); time.sleep(300)"), tmp_path / "o", printed=fail)


async def test_nothing_is_left_after_cancelling(sandbox: Sandbox, tmp_path: Path) -> None:
    started = asyncio.Event()
    loop = asyncio.get_running_loop()
    program = python("import time; print(1, flush=True); time.sleep(300)")

    def notice(_stream: Stream, _data: bytes) -> None:
        loop.call_soon_threadsafe(started.set)

    task = asyncio.create_task(run_async(place(sandbox), program, tmp_path / "o", printed=notice))
    await asyncio.wait_for(started.wait(), 30)
    assert {each.role for each in containers.listed(sandbox.client)} == {"job", "holder"}
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert_nothing_left(sandbox)


def test_a_lost_work_folder_is_no_empty_result(sandbox: Sandbox, tmp_path: Path) -> None:
    def sabotage(_stream: Stream, _data: bytes) -> None:
        for container in containers.ours(sandbox.client):
            if container.labels[containers.ROLE] == holding.ROLE:
                containers.remove(container)

    with pytest.raises(ContainerError, match=r"work folder|results cannot be read"):
        run(place(sandbox), python("open('out/x', 'w'); print(1)"), tmp_path / "o", printed=sabotage)


def test_what_a_dead_process_left_is_swept(sandbox: Sandbox) -> None:
    dead = "0.1.2"
    sandbox.client.volumes.create("clawmarket-work-dead", labels={containers.OWNER: dead})
    (sandbox.paths.share / f"job-{dead}-abc/in").mkdir(parents=True)
    with (
        holding.Holder(sandbox.client, sandbox.image.image_id, 1 << 20, 8) as held,
        staging.staged(sandbox.paths, {}),
    ):
        assert [each.name for each in sandbox.client.volumes.list()] == [held.scratch.name]
        assert len(list(sandbox.paths.share.glob("job-*"))) == 1


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (Program([]), "there is no program"),
        (Program(["a.out"]), "a.out is not among the files"),
        (Program(["python"], {"../x": b""}), "is no name for a file"),
        (Program(["python"], {"x/y": b""}), "is no name for a file"),
        (Program(["python"], {"-x": b""}), "is no name for a file"),
        (Program(["python"], {"x": Path("/nowhere")}), "/nowhere is no file"),
        (Program(["python"], {"x": Path("/dev/zero")}), "/dev/zero is no file"),
        (Program(["python"], {f"x{n}": b"" for n in range(1001)}), "too many"),
    ],
)
def test_what_cannot_run_is_refused(sandbox: Sandbox, tmp_path: Path, program: Program, message: str) -> None:
    with pytest.raises(JobError, match=message):
        run(place(sandbox), program, tmp_path / "o")


def test_results_never_go_where_something_is(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "kept").touch()
    with pytest.raises(JobError, match="is not empty"):
        run(place(sandbox), python(""), tmp_path)


def test_limits_that_mean_none_are_refused() -> None:
    for wrong in ({"seconds": 0}, {"seconds": float("inf")}, {"seconds": float("nan")}, {"output": -1}):
        with pytest.raises(ValueError, match="a run lasts"):
            RunLimits(**wrong)
    with pytest.raises(ValueError, match="seconds of the processor"):
        RunLimits(processor=0.0)
