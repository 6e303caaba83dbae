"""Containers under the policy: the engine runs in each tier, limits hold, owners and orphans are told apart."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from provider.engine import frames
from provider.sandbox import containers, processes
from provider.sandbox.containers import Job
from provider.sandbox.errors import ContainerError
from provider.sandbox.image.interpreter import program
from provider.sandbox.policy import Limits, Mount
from provider.sandbox.tiers import PRODUCTION_TIERS, Tier
from tests.support.engine_slots import hold_engine_slots
from tests.support.engines import tiny_model
from tests.support.sandbox import Sandbox

PYTHON = str(program())
SLEEP = [PYTHON, "-S", "-c", "import time; time.sleep(300)"]
GVISOR = Tier.GVISOR_SYSTRAP


def job(sandbox: Sandbox, source: str, *, limits: Limits | None = None, mounts: tuple[Mount, ...] = ()) -> Job:
    return Job("test", sandbox.image.image_id, [PYTHON, "-S", "-c", source], limits or Limits(), mounts)


def outcome(sandbox: Sandbox, tier: Tier, one: Job) -> tuple[int, str]:
    """The exit code and what was printed."""
    with containers.running(sandbox.client, tier, one) as container:
        code = int(container.wait(timeout=60)["StatusCode"])
        return code, container.logs().decode(errors="replace").strip()


@pytest.mark.parametrize("tier", PRODUCTION_TIERS)
def test_engine_starts_and_serves_over_a_socket_of_the_host(sandbox: Sandbox, tier: Tier, tmp_path: Path) -> None:
    """No network: the host listens on a Unix socket that the container sees as a file."""
    folder = tmp_path / "link"
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    model = tiny_model()
    with socket.socket(socket.AF_UNIX) as listener, hold_engine_slots(1):
        listener.bind(str(folder / "engine.sock"))
        (folder / "engine.sock").chmod(0o666)
        listener.listen()
        listener.settimeout(60)
        command = [
            PYTHON,
            "-s",
            "-m",
            "provider.engine",
            "--model=/models/model.gguf",
            "--socket=/run/host/engine.sock",
        ]
        mounts = (Mount(model, "/models/model.gguf"), Mount(folder, "/run/host", read_only=False))
        model.parent.chmod(0o755)
        engine = Job("engine", sandbox.image.image_id, command, Limits(), mounts)
        started = time.monotonic()
        with containers.running(sandbox.client, tier, engine) as container:
            try:
                link = listener.accept()[0]
            except TimeoutError:
                pytest.fail(container.logs().decode())
            with link, link.makefile("rb") as stream:
                link.settimeout(60)
                header = stream.read(frames.HEADER.size)
                ready = frames.decode(stream.read(frames.body_length(header)))
                print(f"{tier}: ready after {time.monotonic() - started:.2f} s")
                assert ready["ev"] == "ready"
                assert ready["model"]["architecture"] == "llama"
                link.sendall(frames.encode({"op": "shutdown"}))
                assert container.wait(timeout=30)["StatusCode"] == 0


@pytest.mark.parametrize("tier", PRODUCTION_TIERS)
def test_memory_over_the_limit_ends_the_container(sandbox: Sandbox, tier: Tier) -> None:
    greedy = "b = bytearray(400 << 20); print(len(b), flush=True)"
    limits = Limits(memory=128 << 20)
    code, said = outcome(sandbox, tier, job(sandbox, greedy, limits=limits))
    assert code != 0
    assert "419430400" not in said
    code, said = outcome(sandbox, tier, job(sandbox, greedy, limits=Limits(memory=1 << 30)))
    assert (code, said) == (0, "419430400")


@pytest.mark.parametrize("tier", PRODUCTION_TIERS)
def test_processes_over_the_limit_are_not_made(sandbox: Sandbox, tier: Tier) -> None:
    """Under gVisor its own threads count, so that it may end the whole container instead."""
    bomb = (
        "import os, time\nmade = 0\ntry:\n    for _ in range(600):\n        if os.fork() == 0:\n"
        "            time.sleep(60)\n            os._exit(0)\n        made += 1\n"
        "except OSError:\n    pass\nprint(made, flush=True)\nos._exit(0)"
    )
    code, said = outcome(sandbox, tier, job(sandbox, bomb, limits=Limits(pids=64)))
    assert code != 0 or int(said) < 300


@pytest.mark.parametrize("tier", PRODUCTION_TIERS)
def test_tmp_is_bounded(sandbox: Sandbox, tier: Tier) -> None:
    fill = (
        "import errno\nn = 0\ntry:\n    with open('/tmp/x', 'wb') as f:\n        for _ in range(64):\n"
        "            f.write(bytes(1 << 20)); f.flush(); n += 1\n"
        "except OSError as e:\n    print(errno.errorcode[e.errno], n)"
    )
    assert outcome(sandbox, tier, job(sandbox, fill, limits=Limits(tmp=8 << 20))) == (0, "ENOSPC 8")


@pytest.mark.parametrize("tier", PRODUCTION_TIERS)
def test_open_files_are_bounded(sandbox: Sandbox, tier: Tier) -> None:
    hoard = (
        "import errno\nf = []\ntry:\n    while True: f.append(open('/dev/null'))\n"
        "except OSError as e:\n    n = len(f); f.clear(); print(errno.errorcode[e.errno], n < 50)"
    )
    assert outcome(sandbox, tier, job(sandbox, hoard, limits=Limits(open_files=50))) == (0, "EMFILE True")


@pytest.mark.parametrize("tier", PRODUCTION_TIERS)
def test_read_only_mounts_cannot_be_written_and_others_can(sandbox: Sandbox, tier: Tier, tmp_path: Path) -> None:
    for name in ("in", "out"):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o777)
    (tmp_path / "in/a").write_text("given")
    (tmp_path / "in/a").chmod(0o666)
    tmp_path.chmod(0o755)
    try_both = (
        "import errno\nprint(open('/in/a').read())\nopen('/out/b', 'w').write('made')\n"
        "try:\n    open('/in/a', 'w')\nexcept OSError as e:\n    print(errno.errorcode[e.errno])"
    )
    mounts = (Mount(tmp_path / "in", "/in"), Mount(tmp_path / "out", "/out", read_only=False))
    assert outcome(sandbox, tier, job(sandbox, try_both, mounts=mounts)) == (0, "given\nEROFS")
    assert (tmp_path / "out/b").read_text() == "made"
    assert (tmp_path / "in/a").read_text() == "given"


def test_what_a_container_prints_is_bounded(sandbox: Sandbox) -> None:
    shout = "import sys\nfor _ in range(300): sys.stdout.write('x' * 65535 + chr(10))"
    with containers.running(sandbox.client, Tier.RUNC_SECCOMP, job(sandbox, shout)) as container:
        assert container.wait(timeout=60)["StatusCode"] == 0
        container.reload()
        folder = Path(container.attrs["LogPath"]).parent
        kept = sum(file.stat().st_size for file in folder.glob("*-json.log*"))
        assert kept <= 2 << 20


def test_a_container_is_gone_after_its_block(sandbox: Sandbox) -> None:
    def fail() -> None:
        with containers.running(sandbox.client, GVISOR, Job("test", *sleeping(sandbox))):
            assert [each.role for each in containers.listed(sandbox.client)] == ["test"]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert containers.listed(sandbox.client) == []


def test_removing_twice_is_no_fault(sandbox: Sandbox) -> None:
    container = containers.start(sandbox.client, Tier.RUNC_SECCOMP, Job("test", *sleeping(sandbox)))
    containers.remove(container)
    containers.remove(container)


def test_list_says_what_runs(sandbox: Sandbox) -> None:
    with containers.running(sandbox.client, GVISOR, Job("engine", *sleeping(sandbox))):
        (found,) = containers.listed(sandbox.client)
    assert (found.role, found.tier, found.state, found.is_orphan) == ("engine", "gvisor-systrap", "running", False)
    assert found.memory is not None
    assert 1 << 20 < found.memory < 1 << 30
    assert 0 <= found.age_s < 60


def test_what_cannot_start_is_explained_and_leaves_nothing(sandbox: Sandbox) -> None:
    with pytest.raises(ContainerError, match="No such image"):
        containers.start(sandbox.client, Tier.RUNC_SECCOMP, Job("test", "sha256:" + "0" * 64, ["/usr/bin/sh"]))
    assert containers.ours(sandbox.client) == []


def test_a_program_that_is_not_there_is_said_so(sandbox: Sandbox) -> None:
    code, said = outcome(sandbox, Tier.RUNC_SECCOMP, Job("test", sandbox.image.image_id, ["/usr/bin/sh"]))
    assert code == 127
    assert "No such file or directory" in said


def test_only_containers_of_ended_workers_are_orphans(sandbox: Sandbox) -> None:
    with containers.running(sandbox.client, Tier.RUNC_SECCOMP, Job("test", *sleeping(sandbox))) as own:
        process = worker_with_container(sandbox)
        try:
            assert len(containers.ours(sandbox.client)) == 2
            assert containers.remove_orphans(sandbox.client) == []
        finally:
            process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()
        (orphan,) = [each for each in containers.listed(sandbox.client) if each.is_orphan]
        assert containers.remove_orphans(sandbox.client) == [orphan.name]
        assert [containers.name_of(each) for each in containers.ours(sandbox.client)] == [own.name]


def worker_with_container(sandbox: Sandbox) -> "subprocess.Popen[bytes]":
    """A process that has started a container and waits."""
    settings = {"folder": str(sandbox.paths.state.parent), "job": ["test", *sleeping(sandbox)]}
    source = (
        "import json, sys, time\nfrom pathlib import Path\n"
        "from provider.sandbox import containers\nfrom provider.sandbox.daemon import Daemon\n"
        "from provider.sandbox.paths import SandboxPaths\nfrom provider.sandbox.tiers import Tier\n"
        "settings = json.loads(sys.argv[1])\n"
        "client = Daemon(SandboxPaths.under(Path(settings['folder']))).client()\n"
        "containers.start(client, Tier.RUNC_SECCOMP, containers.Job(*settings['job']))\n"
        "print('started', flush=True)\ntime.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", source, json.dumps(settings)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"started\n"
    return process


def sleeping(sandbox: Sandbox) -> tuple[str, list[str]]:
    return sandbox.image.image_id, SLEEP


@pytest.mark.parametrize("tier", PRODUCTION_TIERS)
def test_all_of_gvisor_is_batch_work(sandbox: Sandbox, tier: Tier) -> None:
    """Its own threads do not take the processor from the guest's."""
    with containers.running(sandbox.client, tier, Job("test", *sleeping(sandbox))) as container:
        container.reload()
        group = processes.control_groups(int(container.attrs["State"]["Pid"]))
        found = [pid for pid in processes.all_pids() if processes.control_groups(pid) == group]
        threads = [int(each.name) for pid in found for each in Path(f"/proc/{pid}/task").iterdir()]
        assert {os.sched_getscheduler(each) for each in threads} == {
            os.SCHED_BATCH if tier.is_gvisor else os.SCHED_OTHER
        }


def test_killed_containers_leave_no_process(sandbox: Sandbox) -> None:
    for tier in PRODUCTION_TIERS:
        with containers.running(sandbox.client, tier, Job("test", *sleeping(sandbox))) as container:
            container.reload()
            pid = int(container.attrs["State"]["Pid"])
            family = {pid} | processes.descendants({pid})
            assert all(processes.is_alive(each) for each in family)
        assert not [each for each in family if processes.is_alive(each)]
