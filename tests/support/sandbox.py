"""A private container daemon for tests: installed when missing, one a session, in a temporary folder."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

from provider.sandbox.daemon import Client, Daemon
from provider.sandbox.image.build import BuiltImage, build, load
from provider.sandbox.image.contents import ENGINE
from provider.sandbox.paths import VARIABLE, SandboxPaths
from provider.sandbox.temporary import temporary_paths
from provider.sandbox.tiers import Tier

UNFILTERED = "runsc-unfiltered"  # gVisor without --oci-seccomp: it takes a filter and ignores it
DIRECT = "runsc-direct"  # gVisor that opens the host's files itself


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


def new_paths() -> AbstractContextManager[SandboxPaths]:
    """Folders for a daemon; what runs in them at the end is stopped."""
    return temporary_paths(lambda text: print(text, file=sys.stderr))


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


@cache
def worker_sandbox() -> SandboxPaths:
    """The sandbox of all workers that this test process starts; the environment names it to them."""
    kept = ExitStack()
    atexit.register(kept.close)
    paths = kept.enter_context(new_paths())
    Daemon(paths).ensure().close()
    os.environ[VARIABLE] = str(paths.state.parent)
    return paths
