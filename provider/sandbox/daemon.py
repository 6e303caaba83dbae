"""The private container daemon: its own folders and socket, no bridge, no firewall rules, two ways to run gVisor.

It runs detached. A worker that crashes takes neither the daemon nor another worker's containers with it, and the next
one finds it by its pid file and socket. Whoever may write to the socket is root on this machine in effect, so that it
is open to one user only.
"""

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
from docker.errors import DockerException
from requests.exceptions import RequestException

from provider.sandbox import gvisor_start, processes, reaping
from provider.sandbox.errors import DaemonError, SetupError
from provider.sandbox.gpus import NVPROXY, find_gpus, runtime_of
from provider.sandbox.paths import SandboxPaths
from provider.sandbox.programs import PATH, find_program, find_runsc, knows
from provider.sandbox.tiers import Tier

START_S = 60.0
STOP_S = 20.0
CALL_S = 60
NICENESS = 10
"""Of the daemon and so of all its containers: the machine's owner goes first."""
_POLL_S = 0.05
_REMEDY = "as root: clawmarket sandbox setup"
_GVISOR_FLAGS = ("--network=none", "--host-uds=open", "--oci-seccomp")
# Without it gVisor truncates files of read-only mounts, see provider/sandbox/bait.py. Older ones have no such way.
_NO_DIRECT_FILES = "--directfs=false"
_PLATFORMS = {Tier.GVISOR_SYSTRAP: "systrap", Tier.GVISOR_PTRACE: "ptrace"}  # never kvm: nested, it spins


class Client(docker.DockerClient):
    """A connection to one private daemon; `share` is the folder of the paths of that name."""

    share: Path


class Daemon:
    """One private daemon, running or not."""

    def __init__(self, paths: SandboxPaths) -> None:
        self.paths = paths

    def client(self) -> Client:
        """A connection to it; close it after use. Raises DaemonError if it does not answer."""
        try:
            with socket.socket(socket.AF_UNIX) as link:  # the client would leave one open that finds nobody
                link.connect(str(self.paths.socket))
            client = Client(base_url=f"unix://{self.paths.socket}", version="auto", timeout=CALL_S)
        except (DockerException, RequestException, OSError) as error:
            raise DaemonError(f"the sandbox's daemon does not answer: {self._why_not()}; {_REMEDY}") from error
        client.share = self.paths.share
        return client

    def answers(self) -> bool:
        """Whether it runs and answers now; its process may be hidden from this user."""
        try:
            client = self.client()
        except DaemonError:
            return False
        client.close()
        return True

    def pid(self) -> int | None:
        """Its process, if it runs; a number that another process has by now does not count."""
        try:
            pid = int(self.paths.pid_file.read_text())
        except (OSError, ValueError):
            return None
        ours = f"--config-file={self.paths.config}" in processes.command_line(pid)
        return pid if ours and processes.is_alive(pid) else None

    def ensure(self) -> Client:
        """Starts it unless it runs, after clearing what a dead one left. Raises DaemonError, SetupError."""
        if not self.answers():
            if os.geteuid() != 0:
                raise DaemonError(f"the sandbox's daemon does not answer: {self._why_not()}; {_REMEDY}")
            with self._lock():
                if not self.answers():
                    self._end(self.pid())
                    reaping.reap(self.paths)
                    self._start()
        return self.client()

    def is_current(self) -> bool:
        """Whether it was started with the settings it would get now, for example before gVisor was installed."""
        try:
            return bool(json.loads(self.paths.config.read_text()) == self.settings())
        except (OSError, ValueError):
            return False

    def stop(self) -> None:
        """Ends it with all its containers."""
        if not self.paths.run.exists():
            return
        with self._lock():
            self._end(self.pid())
            reaping.reap(self.paths)

    def allow(self, uid: int) -> None:
        """Names the one user that may talk to it, now and after later starts."""
        self._make_folders()
        self.paths.owner.write_text(f"{uid}\n")
        if self.paths.socket.exists():
            self._hand_over()

    def _start(self) -> None:
        self._make_folders()
        self.paths.config.write_text(json.dumps(self.settings(), indent=2) + "\n")
        if runsc := find_runsc(self.paths):
            self.paths.gvisor_start.write_text(gvisor_start.script(runsc, self.paths.share))
            self.paths.gvisor_start.chmod(0o755)
        dockerd = find_program("dockerd")
        if dockerd is None:
            raise SetupError(f"dockerd is not installed; {_REMEDY}")
        with self.paths.log.open("wb") as log:
            process = subprocess.Popen(
                ["nice", "-n", str(NICENESS), dockerd, f"--config-file={self.paths.config}"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env={"PATH": PATH, "HOME": str(self.paths.state)},
                start_new_session=True,
            )
        end = time.monotonic() + START_S
        while not self.answers():
            if process.poll() is not None:
                raise DaemonError(f"the sandbox's daemon ended at once: {self._last_words()}; see {self.paths.log}")
            if time.monotonic() > end:
                self._end(process.pid)
                raise DaemonError(f"the sandbox's daemon was not ready after {START_S:.0f} s; see {self.paths.log}")
            time.sleep(_POLL_S)
        threading.Thread(target=process.wait, name="sandbox daemon's end", daemon=True).start()  # leaves no zombie
        self._hand_over()

    def settings(self) -> dict[str, Any]:
        """The daemon's configuration file."""
        runsc = find_runsc(self.paths)
        flags = [*_GVISOR_FLAGS, *([_NO_DIRECT_FILES] if runsc and knows(runsc, _NO_DIRECT_FILES) else [])]
        runtimes: dict[str, dict[str, Any]] = {
            tier.runtime: {"path": str(self.paths.gvisor_start), "runtimeArgs": [*flags, f"--platform={platform}"]}
            for tier, platform in _PLATFORMS.items()
        }
        for tier in _PLATFORMS:
            if find_gpus(tier, runsc).nodes:
                whole = runtimes[tier.runtime]
                runtimes[runtime_of(tier)] = whole | {"runtimeArgs": [*whole["runtimeArgs"], NVPROXY]}
        return {
            "data-root": str(self.paths.data),
            "exec-root": str(self.paths.exec_root),
            "pidfile": str(self.paths.pid_file),
            "hosts": [f"unix://{self.paths.socket}"],
            "group": "root",
            "bridge": "none",
            "iptables": False,
            "ip6tables": False,
            "ip-forward": False,
            "ip-masq": False,
            "userland-proxy": False,
            "no-new-privileges": True,
            "log-level": "warn",
            "features": {"containerd-snapshotter": False},  # it would name images by another digest than ours
            "runtimes": runtimes if runsc else {},
        }

    def _make_folders(self) -> None:
        for folder in (self.paths.state, self.paths.run, self.paths.share):
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o711)

    def _hand_over(self) -> None:
        uid = int(self.paths.owner.read_text()) if self.paths.owner.exists() else os.geteuid()
        self.paths.socket.chmod(0o600)
        os.chown(self.paths.socket, uid, -1)
        os.chown(self.paths.share, uid, -1)
        if uid == os.geteuid():
            return
        self.paths.images.mkdir(parents=True, exist_ok=True)
        for folder, _, names in os.walk(self.paths.images):
            for name in (".", *names):
                os.chown(Path(folder, name), uid, -1, follow_symlinks=False)

    def _end(self, pid: int | None) -> None:
        if pid is None:
            return
        for stop, wait_s in ((signal.SIGTERM, STOP_S), (signal.SIGKILL, STOP_S)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, stop)
            end = time.monotonic() + wait_s
            while time.monotonic() < end:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
                if not processes.is_alive(pid):
                    return
                time.sleep(_POLL_S)

    def _why_not(self) -> str:
        if not self.paths.socket.exists():
            return f"it does not run (there is no {self.paths.socket})"
        if not os.access(self.paths.socket, os.W_OK):
            return f"{self.paths.socket} belongs to another user"
        return f"nothing answers on {self.paths.socket}"

    def _last_words(self) -> str:
        lines = _tail(self.paths.log)
        return lines[-1] if lines else "it said nothing"

    @contextmanager
    def _lock(self) -> Iterator[None]:
        self._make_folders()
        with (self.paths.run / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _tail(log: Path) -> list[str]:
    try:
        return log.read_text(errors="replace").splitlines()
    except OSError:
        return []
