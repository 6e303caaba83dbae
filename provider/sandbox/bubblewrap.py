"""Runs programs under bubblewrap: namespaces, no capabilities, the same filter, but no limits. For development only."""

import os
import signal
import subprocess
import tarfile
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path, PurePosixPath

from provider.sandbox import bpf, host_view
from provider.sandbox.bait import Bait
from provider.sandbox.errors import ContainerError, SetupError
from provider.sandbox.evidence import ANSWER_S, Evidence, read_facts
from provider.sandbox.image.build import BuiltImage
from provider.sandbox.image.contents import ENVIRONMENT
from provider.sandbox.listeners import HostListeners
from provider.sandbox.policy import TMP, USER, Limits, Mount
from provider.sandbox.programs import find_program


def root_folder(image: BuiltImage) -> Path:
    """The image unpacked, once."""
    folder = image.archive.with_name("root")
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".root-") as name:
            unpacked = Path(name) / "root"
            with tarfile.open(image.archive) as archive:
                layer = archive.extractfile("layer.tar")
                if layer is None:
                    raise ContainerError(f"{image.archive} has no layer")
                with tarfile.open(fileobj=layer) as tar:
                    tar.extractall(unpacked)  # noqa: S202 - our own archive
            with suppress(OSError):  # another process was quicker
                unpacked.rename(folder)
    return folder


def command_line(
    root: Path, command: list[str], limits: Limits, *, filter_fd: int, mounts: tuple[Mount, ...] = ()
) -> list[str]:
    """What starts `command`. Raises SetupError."""
    program = find_program("bwrap")
    if program is None:
        raise SetupError("bubblewrap is not installed; as root: clawmarket sandbox setup")
    binds = [
        part
        for mount in mounts
        for part in ("--ro-bind" if mount.read_only else "--bind", str(mount.source), mount.target)
    ]
    parents = sorted({str(PurePosixPath(mount.target).parent) for mount in mounts})
    places = [part for parent in parents for part in ("--tmpfs", parent)]
    sealed = [part for parent in parents for part in ("--remount-ro", parent)]
    variables = [part for name, value in ENVIRONMENT.items() for part in ("--setenv", name, value)]
    return [
        *("prlimit", f"--nofile={limits.open_files}", "--core=0", "--", program),
        "--unshare-all",
        "--unshare-user",
        *("--uid", str(USER), "--gid", str(USER)),
        *("--cap-drop", "ALL", "--die-with-parent", "--new-session", "--clearenv", *variables),
        *("--ro-bind", str(root), "/", "--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev"),
        *("--size", str(limits.tmp), "--tmpfs", TMP, *places, *binds, *sealed),
        *("--seccomp", str(filter_fd), "--", *command),
    ]


def start(
    image: BuiltImage, command: list[str], limits: Limits, mounts: tuple[Mount, ...] = ()
) -> subprocess.Popen[bytes]:
    """Starts a program; it ends with this process. Raises SetupError, ContainerError."""
    with tempfile.TemporaryFile() as filter_file:
        filter_file.write(bpf.filter_program())
        filter_file.seek(0)
        line = command_line(root_folder(image), command, limits, filter_fd=filter_file.fileno(), mounts=mounts)
        try:
            return subprocess.Popen(
                line,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=[filter_file.fileno()],
                start_new_session=True,
            )
        except OSError as error:
            raise ContainerError(f"bubblewrap cannot be started: {error}") from error


def collect(image: BuiltImage, command: list[str], limits: Limits, listeners: HostListeners, bait: Bait) -> Evidence:
    """Runs a probe. Raises SetupError, ContainerError."""
    started = time.monotonic()
    process = start(image, command, limits, (bait.mount,))
    with process:
        alarm = threading.Timer(ANSWER_S, end, args=(process,))
        alarm.start()
        try:
            line = process.stdout.readline() if process.stdout else b""
            seconds = time.monotonic() - started
            view = host_view.look(host_view.innermost(process.pid))
        finally:
            alarm.cancel()
            end(process)
        if not line:
            said = process.stderr.read().decode(errors="replace").strip() if process.stderr else ""
            raise ContainerError(f"bubblewrap ended with code {process.returncode}: {said[-300:]}")
    heard, changed = tuple(listeners.heard), tuple(bait.changes())
    return Evidence(read_facts(line), view, heard, changed, os.uname().release, "", seconds)


def end(process: subprocess.Popen[bytes]) -> None:
    """Kills it; the kernel ends all that is in its process namespace."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
