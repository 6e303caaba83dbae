"""A private container daemon for tests: installed when missing, one a session, in a temporary folder."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provider.sandbox import installing, processes
from provider.sandbox.daemon import Client, Daemon
from provider.sandbox.image.build import BuiltImage, build, load
from provider.sandbox.image.contents import ENGINE
from provider.sandbox.paths import SandboxPaths
from provider.sandbox.tiers import Tier

CACHE = Path.home() / ".cache/clawmarket/sandbox"
UNFILTERED = "runsc-unfiltered"  # gVisor without --oci-seccomp: it takes a filter and ignores it
DIRECT = "runsc-direct"  # gVisor that opens the host's files itself
_PREFIX = "claw-sbx-"


class LooseDaemon(Daemon):
    """Has more ways to run gVisor, weak ones, for tests that must see the difference."""

    def settings(self) -> dict[str, Any]:
        settings = super().settings()
        whole = settings["runtimes"][Tier.GVISOR_SYSTRAP.runtime]
        for name, flag in ((UNFILTERED, "--oci-seccomp"), (DIRECT, "--directfs=false")):
            settings["runtimes"][name] = whole | {
                "runtimeArgs": [each for each in whole["runtimeArgs"] if each != flag]
            }
        return settings


@dataclass(frozen=True)
class Sandbox:
    """A running daemon that has the engine's image."""

    paths: SandboxPaths
    client: Client
    image: BuiltImage


@contextmanager
def new_paths() -> Iterator[SandboxPaths]:
    """Folders for a daemon, short enough for its sockets; what runs in them at the end is stopped."""
    installing.install(SandboxPaths(Path(), Path(), CACHE), lambda text: print(text, file=sys.stderr))
    _stop_abandoned()
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    (folder / "tester").write_text(processes.identity())
    paths = SandboxPaths.under(folder, CACHE)
    folder.chmod(0o711)
    (folder / "cache").symlink_to(CACHE)  # for commands that are given the folder only
    try:
        yield paths
    finally:
        _remove(folder)


@contextmanager
def running_sandbox() -> Iterator[Sandbox]:
    """A daemon of its own with the engine's image."""
    with new_paths() as paths:
        image = build(paths, ENGINE)
        client = LooseDaemon(paths).ensure()
        try:
            load(client, image)
            yield Sandbox(paths, client, image)
        finally:
            client.close()


def _stop_abandoned() -> None:
    """Daemons of test runs that were killed."""
    for file in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/tester"):
        if not processes.is_running(file.read_text()):
            _remove(file.parent)


def _remove(folder: Path) -> None:
    Daemon(SandboxPaths.under(folder, CACHE)).stop()
    shutil.rmtree(folder, ignore_errors=True)
