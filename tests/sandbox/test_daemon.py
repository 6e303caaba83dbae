"""The private daemon: starts once, outlives who started it, is cleared away when it died."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from provider.sandbox import containers, daemon, host_view, processes, reaping
from provider.sandbox.daemon import Daemon
from provider.sandbox.errors import DaemonError, SetupError
from provider.sandbox.image.build import build, load
from provider.sandbox.image.contents import ENGINE
from provider.sandbox.image.interpreter import program
from provider.sandbox.paths import SandboxPaths
from provider.sandbox.temporary import CACHE
from provider.sandbox.tiers import PRODUCTION_TIERS, Tier
from tests.support.sandbox import new_paths

SLEEP = [str(program()), "-S", "-c", "import time; time.sleep(300)"]
NOBODY = 65_534


@pytest.fixture
def paths() -> Iterator[SandboxPaths]:
    with new_paths() as found:
        yield found


def start_elsewhere(paths: SandboxPaths) -> "subprocess.Popen[bytes]":
    """Another process that needs the daemon."""
    source = (
        "import sys\nfrom pathlib import Path\nfrom provider.sandbox.daemon import Daemon\n"
        "from provider.sandbox.paths import SandboxPaths\n"
        "Daemon(SandboxPaths.under(Path(sys.argv[1]), Path(sys.argv[2]))).ensure().close()"
    )
    return subprocess.Popen([sys.executable, "-c", source, str(paths.state.parent), str(CACHE)])


def kill(pid: int) -> None:
    """Kills a process that is waited for elsewhere; fails if it stays as a zombie."""
    os.kill(pid, signal.SIGKILL)
    end = time.monotonic() + 30
    while processes.status(pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert processes.status(pid) == {}


def links() -> set[str]:
    return {path.name for path in Path("/sys/class/net").iterdir()}


def firewall() -> bytes:
    return subprocess.run(["iptables-save"], capture_output=True, check=False).stdout


def test_one_daemon_for_all_who_start_it_at_once_and_it_outlives_them(paths: SandboxPaths) -> None:
    starters = [start_elsewhere(paths) for _ in range(3)]
    assert [starter.wait(timeout=60) for starter in starters] == [0, 0, 0]
    running = Daemon(paths)
    pid = running.pid()
    assert pid is not None
    line = f"--config-file={paths.config}"
    assert [each for each in processes.all_pids() if line in processes.command_line(each)] == [pid]
    running.ensure().close()
    assert running.pid() == pid
    running.stop()
    assert running.pid() is None
    assert not processes.is_alive(pid)
    assert not running.answers()


def test_it_touches_no_network_of_the_machine(paths: SandboxPaths) -> None:
    before, rules = links(), firewall()
    forwarding = Path("/proc/sys/net/ipv4/ip_forward").read_text()
    client = Daemon(paths).ensure()
    assert [network.name for network in client.networks.list() if network.name not in ("none", "host")] == []
    client.close()
    assert (links(), firewall(), Path("/proc/sys/net/ipv4/ip_forward").read_text()) == (before, rules, forwarding)
    settings = json.loads(paths.config.read_text())
    assert settings["bridge"] == "none"
    assert not settings["iptables"]
    for runtime in settings["runtimes"].values():
        assert {"--network=none", "--host-uds=open", "--oci-seccomp"} < set(runtime["runtimeArgs"])
    assert all("--directfs=false" in runtime["runtimeArgs"] for runtime in settings["runtimes"].values())
    platforms = [runtime["runtimeArgs"][-1] for runtime in settings["runtimes"].values()]
    assert platforms == ["--platform=systrap", "--platform=ptrace"]


def test_only_its_user_may_talk_to_it(paths: SandboxPaths) -> None:
    Daemon(paths).ensure().close()
    assert (paths.socket.stat().st_mode & 0o777, paths.socket.stat().st_uid) == (0o600, os.geteuid())
    connect = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    command = ["/usr/bin/python3.11", "-S", "-c", connect, str(paths.socket)]
    refused = subprocess.run(command, user=NOBODY, group=NOBODY, extra_groups=[], capture_output=True, check=False)
    assert b"PermissionError" in refused.stderr
    Daemon(paths).allow(NOBODY)
    subprocess.run(command, user=NOBODY, group=NOBODY, extra_groups=[], check=True)
    Daemon(paths).stop()
    Daemon(paths).ensure().close()
    assert paths.socket.stat().st_uid == NOBODY


def test_its_user_sees_what_a_probe_must_see(paths: SandboxPaths) -> None:
    """A worker that is not root: it builds images into the cache, starts containers and looks at them."""
    own = SandboxPaths(paths.state, paths.run, paths.state.parent / "own-cache")
    own.runsc.parent.mkdir(parents=True)
    shutil.copy(paths.runsc if paths.runsc.exists() else "/usr/bin/runsc", own.runsc)
    image = build(paths, ENGINE)
    Daemon(own).allow(NOBODY)
    client = Daemon(own).ensure()
    load(client, image)
    client.close()

    def look() -> None:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        (own.images / "mine").write_text("x")
        (own.share / "mine").write_text("x")
        client = Daemon(own).ensure()
        with containers.running(client, Tier.GVISOR_SYSTRAP, containers.Job("test", image.image_id, SLEEP)) as each:
            each.reload()
            while (view := host_view.settled(int(each.attrs["State"]["Pid"]))).platform == "":
                time.sleep(0.05)
            assert (view.platform, view.memory, view.shared) == ("systrap", 2 << 30, None)
            assert not containers.is_orphan(each)
        client.close()

    child = multiprocessing.get_context("fork").Process(target=look)
    child.start()
    child.join(60)
    assert child.exitcode == 0


def test_a_killed_daemon_is_no_zombie_of_who_started_it(paths: SandboxPaths) -> None:
    running = Daemon(paths)
    running.ensure().close()
    pid = running.pid()
    assert pid is not None
    assert processes.parent(pid) == os.getpid()
    kill(pid)


def test_what_a_killed_daemon_left_is_cleared_before_the_next_starts(paths: SandboxPaths) -> None:
    image = build(paths, ENGINE)
    first = Daemon(paths)
    client = first.ensure()
    load(client, image)
    for tier in PRODUCTION_TIERS:
        containers.start(client, tier, containers.Job("test", image.image_id, SLEEP))
    client.close()
    pid = first.pid()
    assert pid is not None
    kill(pid)
    left = reaping.leftovers(paths)
    assert len(left) >= 2 * len(PRODUCTION_TIERS)
    assert not first.answers()

    client = first.ensure()
    try:
        assert not [each for each in left if processes.is_alive(each)]
        assert {each.state for each in containers.listed(client)} == {"exited"}
        client.images.get(image.image_id)
    finally:
        client.close()


def test_reaping_leaves_other_daemons_alone(paths: SandboxPaths) -> None:
    image = build(paths, ENGINE)
    client = Daemon(paths).ensure()
    load(client, image)
    container = containers.start(client, PRODUCTION_TIERS[0], containers.Job("test", image.image_id, SLEEP))
    with new_paths() as others:
        other = Daemon(others)
        other.ensure().close()
        other.stop()
        assert reaping.leftovers(others) == set()
    container.reload()
    assert container.status == "running"
    client.close()


def test_stopping_ends_containers_and_mounts(paths: SandboxPaths) -> None:
    image = build(paths, ENGINE)
    client = Daemon(paths).ensure()
    load(client, image)
    container = containers.start(client, PRODUCTION_TIERS[0], containers.Job("test", image.image_id, SLEEP))
    container.reload()
    pid = int(container.attrs["State"]["Pid"])
    client.close()
    Daemon(paths).stop()
    assert not processes.is_alive(pid)
    assert str(paths.state.parent) not in Path("/proc/self/mountinfo").read_text()


def test_a_number_in_the_pid_file_is_not_enough(paths: SandboxPaths) -> None:
    paths.run.mkdir(parents=True)
    paths.pid_file.write_text(f"{os.getpid()}\n")
    assert Daemon(paths).pid() is None
    Daemon(paths).ensure().close()
    assert Daemon(paths).pid() not in (None, os.getpid())


def test_a_daemon_that_ends_at_once_is_explained(paths: SandboxPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Daemon, "settings", lambda self: {"no-such-setting": True})
    with pytest.raises(DaemonError, match=r"ended at once: .*no-such-setting.*daemon\.log"):
        Daemon(paths).ensure()


def test_without_dockerd_set_up_is_named(paths: SandboxPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon, "find_program", lambda name: None)
    with pytest.raises(SetupError, match="as root: clawmarket sandbox setup"):
        Daemon(paths).ensure()


def test_a_folder_too_deep_for_sockets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="too long a path"):
        SandboxPaths.under(tmp_path / ("x" * 100))


def test_identities_tell_processes_apart() -> None:
    own = processes.identity()
    assert processes.is_running(own)
    boot, pid, started = own.split(".")
    for other in (
        f"{boot}.{pid}.{int(started) - 1}",
        f"another-boot.{pid}.{started}",
        "",
        "x",
        f"{boot}.{pid}.",
        "a.b.c",
    ):
        assert not processes.is_running(other)
    ended = subprocess.Popen(["true"])
    name = processes.identity(ended.pid)
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    assert not processes.is_running(name)  # a zombie is no worker
    ended.wait()
