"""Runs attempts in containers, under the production policy and weakened, and judges them from the host."""

import contextlib
import json
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from docker.models.containers import Container

from provider.sandbox import containers, processes
from provider.sandbox.errors import ContainerError
from provider.sandbox.image.contents import ENVIRONMENT
from provider.sandbox.image.interpreter import program
from provider.sandbox.policy import Limits, container_settings
from provider.sandbox.tiers import Tier
from tests.sandbox.escape.attempt import ATTEMPTS, CHANGED, LOADER_MARK, LOOT, MAPPED, NOTED, SECRET, Attempt
from tests.sandbox.escape.stage import Disk, Stage, wait_until
from tests.sandbox.escape.weakening import weaken
from tests.support.sandbox import Sandbox

LIMITS = Limits(memory=512 << 20, cpus=1, pids=256, tmp=16 << 20, open_files=64)
ALONE = {
    "fork-bomb": Limits(memory=1 << 30, cpus=1, pids=64),
    "memory-bomb": Limits(memory=128 << 20),
    "log-bomb": Limits(memory=512 << 20),
    "processor-bomb": Limits(memory=512 << 20, cpus=0.1),
}
BOMB = {
    "processes": 300,
    "memory": 300 << 20,
    "tmp": 32 << 20,
    "files": 6000,
    "output": 8 << 20,
    "descriptors": 100,
}
_MOST_LOG = 4 << 20
_MOST_FILES = 5000
_RAISED = -5
_RUN_S = 150
_GROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Outcome:
    """What came of one attempt. `error` is what it met inside; `seen`: the container's output or end shows it."""

    name: str
    succeeded: bool
    error: str
    loot: str = ""
    seen: bool = True


@dataclass
class Run:
    """What the host saw of one container."""

    said: dict[str, dict[str, str]] = field(default_factory=dict)
    ended: bool = False
    code: int = 0
    log_bytes: int = 0
    throttled: int | None = None


def attempt_all(sandbox: Sandbox, disk: Disk, tier: Tier) -> dict[str, Outcome]:
    """All attempts under the production policy."""
    together = [name for name, each in ATTEMPTS.items() if not each.alone]
    found = _attempt(sandbox, disk, tier, together, LIMITS)
    for name, limits in ALONE.items():
        found |= _attempt(sandbox, disk, tier, [name], limits)
    return {name: found[name] for name in ATTEMPTS}


def control(sandbox: Sandbox, disk: Disk, control_: str) -> dict[str, Outcome]:
    """All attempts with this control, in a container on the host's kernel that lacks the walls that it names."""
    names = [name for name, each in ATTEMPTS.items() if each.control == control_]
    alone = [name for name in names if name in ALONE]
    return _attempt(sandbox, disk, Tier.RUNC_SECCOMP, names, ALONE[alone[0]] if alone else LIMITS, control_)


def _attempt(
    sandbox: Sandbox, disk: Disk, tier: Tier, names: list[str], limits: Limits, control_: str = ""
) -> dict[str, Outcome]:
    with Stage(sandbox.paths.share, str(sandbox.paths.socket), disk, names, control_) as stage:
        with neighbour(sandbox, tier, stage, wanted=not control_ or "other container" in control_) as other:
            run = _run(sandbox, tier, stage, limits, control_)
            if other is not None and "signal-another-container" in names:
                time.sleep(0.2)
                if b"signalled" in other.logs():
                    stage.noted.add("signal-another-container")
        time.sleep(0.15)  # what was noted last is on its way from threads
        noted = stage.successes()
        return {name: _judge(ATTEMPTS[name], run, stage.secret, noted=name in noted) for name in names}


def _judge(attempt: Attempt, run: Run, secret: str, *, noted: bool) -> Outcome:
    said = run.said.get(attempt.name)
    loot, error = (said["loot"], said["error"]) if said else ("", "the container was ended")
    succeeded = {
        SECRET: secret in loot,
        LOOT: bool(loot),
        CHANGED: noted,
        NOTED: noted,
    }[attempt.effect]
    if attempt.name == "log-bomb":
        succeeded, error = run.log_bytes > _MOST_LOG, error or "output is dropped"
    if attempt.name == "processor-bomb":
        succeeded, error = run.throttled == 0, error or "held back"
    return Outcome(attempt.name, succeeded, error or "nothing came of it", loot, seen=said is not None or run.code != 0)


def _run(sandbox: Sandbox, tier: Tier, stage: Stage, limits: Limits, control_: str) -> Run:
    run = Run()
    facts = stage.facts() | {"bomb": BOMB}
    command = [str(program()), "-s", "-m", "tests.sandbox.escape.inside", json.dumps(facts)]
    environment = ENVIRONMENT | {"PYTHONPATH": f"/run/escape:{ENVIRONMENT['PYTHONPATH']}"}
    settings = container_settings(
        tier, sandbox.image.image_id, command, limits, mounts=stage.mounts, environment=environment
    )
    if control_:
        weaken(settings, control_, stage)
    container = containers.start_with(sandbox.client, settings, f"escape-{secrets.token_hex(4)}")
    try:
        container.reload()
        pid = int(container.attrs["State"]["Pid"])

        def is_over() -> bool:
            if "processor-bomb" in stage.names:
                run.throttled = _throttled(pid, run.throttled)
            _watch(pid, stage)
            container.reload()
            return container.status != "running"

        run.ended = wait_until(is_over, _RUN_S)
        run.code = int(container.attrs["State"]["ExitCode"])
        if container.attrs["LogPath"]:
            folder = Path(container.attrs["LogPath"]).parent
            run.log_bytes = sum(file.stat().st_size for file in folder.glob("*-json.log*"))
        run.said = _lines(container)
    finally:
        containers.remove(container)
    if not run.ended:
        raise ContainerError(f"attempts took more than {_RUN_S} s: {run.said}")
    return run


def _watch(pid: int, stage: Stage) -> None:
    """What the host's kernel knows of the container's processes now."""
    for process in {pid} | processes.descendants({pid}):
        folder = Path(f"/proc/{process}")
        try:
            mapped = (folder / "uid_map").read_text().split()
            stage.noted |= {name for name, user in MAPPED.items() if mapped[:1] == [str(user)]}
            if os.getpriority(os.PRIO_PROCESS, process) == _RAISED:
                stage.noted.add("raise-priority")
            if LOADER_MARK in (folder / "cmdline").read_text():
                stage.noted.add("program-by-loader")
        except OSError:
            continue
    with contextlib.suppress(OSError):
        found = os.statvfs(f"/proc/{pid}/root/tmp")
        if found.f_files - found.f_ffree > _MOST_FILES and "inode-bomb" in stage.names:
            stage.noted.add("inode-bomb")


def _lines(container: Container) -> dict[str, dict[str, str]]:
    found = {}
    for line in container.logs(stdout=True, stderr=False).decode(errors="replace").splitlines():
        if line.startswith("{"):
            said: dict[str, str] = json.loads(line)
            found[said["name"]] = said
    if not found:
        print(container.logs().decode(errors="replace")[-2000:])
    return found


def _throttled(pid: int, before: int | None) -> int | None:
    """How often the control group held the container back."""
    for line in processes.control_groups(pid).splitlines():
        _, controllers, path = line.split(":", 2)
        if "cpu" in controllers.split(",") or not controllers:
            for base in (_GROUPS / controllers, _GROUPS / "cpu", _GROUPS):
                try:
                    text = (base / path.lstrip("/") / "cpu.stat").read_text()
                except OSError:
                    continue
                counted = [int(entry.split()[1]) for entry in text.splitlines() if entry.startswith("nr_throttled")]
                if counted:
                    return max(counted[0], before or 0)
    return before


_NEIGHBOUR = """
import os, signal, socket, sys, time
signal.signal(signal.SIGUSR1, lambda *_: os.write(1, b"signalled\\n"))
open("/tmp/secret", "w").write(os.environ["CLAW_KEY"])
link = socket.socket(socket.AF_UNIX)
link.bind("\\0" + sys.argv[2])
link.listen()
os.write(1, b"listens\\n")
while True:
    link.accept()[0].sendall(os.environ["CLAW_KEY"].encode())
"""


@contextmanager
def neighbour(sandbox: Sandbox, tier: Tier, stage: Stage, *, wanted: bool) -> Iterator[Container | None]:
    """Another container on the machine. It has no filter, so that it can offer an abstract socket at all."""
    if not wanted:
        yield None
        return
    name = stage.facts()["neighbour_abstract"]
    settings = container_settings(
        tier,
        sandbox.image.image_id,
        [str(program()), "-S", "-c", _NEIGHBOUR, "neighbour-mark", name, str(stage.folder)],
        Limits(memory=256 << 20),
        environment={"CLAW_KEY": stage.secret},
    )
    weaken(settings, "no filter", stage)
    container = containers.start_with(sandbox.client, settings, f"neighbour-{secrets.token_hex(4)}")
    try:
        if not wait_until(lambda: b"listens" in container.logs(), 30):
            raise ContainerError(f"the other container does not listen: {container.logs().decode()[-300:]}")
        stage.neighbour_id = str(container.id)
        yield container
    finally:
        containers.remove(container)


def fault(outcome: Outcome) -> str:
    """What is wrong with the attempt itself."""
    return outcome.error if outcome.error.startswith("fault") else ""


def controls() -> list[str]:
    """All controls."""
    return sorted({each.control for each in ATTEMPTS.values()})
