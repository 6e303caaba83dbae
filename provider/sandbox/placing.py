"""Finds where a program may run: the tier that works here, and the image, loaded."""

from collections.abc import Iterator
from contextlib import contextmanager

from provider.sandbox import containers
from provider.sandbox.daemon import Daemon
from provider.sandbox.gpus import devices_for
from provider.sandbox.image.build import load
from provider.sandbox.image.contents import ENGINE
from provider.sandbox.image.known import current
from provider.sandbox.paths import SandboxPaths
from provider.sandbox.remembering import tier_of
from provider.sandbox.running import Place


@contextmanager
def open_place(paths: SandboxPaths, *, gpu: bool = False) -> Iterator[Place]:
    """A place to run in, cleared of what dead processes left; with `gpu` all GPUs are passed.

    Raises DaemonError, ImageError, JobError without a GPU to pass, and NoSandboxError where no tier keeps its promises:
    then nothing runs.
    """
    image = current(paths, ENGINE)
    client = Daemon(paths).ensure()
    try:
        tier = tier_of(paths, image)
        nodes = devices_for(tier, paths) if gpu else ()
        containers.remove_orphans(client)
        load(client, image)
        yield Place(client, paths, tier, image.image_id, nodes)
    finally:
        client.close()
