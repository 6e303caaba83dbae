"""A container that is ready to run one program: its files, its work folder and the line to it, made and removed."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from docker.models.containers import Container

from provider.sandbox import containers
from provider.sandbox.attaching import Attached
from provider.sandbox.containers import Job
from provider.sandbox.holding import Holder
from provider.sandbox.policy import Mount
from provider.sandbox.staging import IN, staged

if TYPE_CHECKING:
    from provider.sandbox.running import Place, RunLimits


@dataclass(frozen=True)
class Box:
    """A running container; `files` is the folder that it sees as `/in`."""

    container: Container
    holder: Holder
    files: Path
    link: Attached


@contextmanager
def open_box(
    place: "Place",
    role: str,
    command: list[str],
    limits: "RunLimits",
    files: Mapping[str, bytes | Path],
    *,
    takes_input: bool,
) -> Iterator[Box]:
    """A box for the time of the block; nothing is left of it. Raises JobError, ContainerError."""
    with (
        staged(place.paths, files) as folder,
        Holder(place.client, place.image, limits.work, limits.work_files) as holder,
    ):
        job = Job(
            role,
            place.image,
            command,
            limits.box,
            (Mount(folder, IN),),
            scratch=holder.scratch,
            gpu=place.gpu,
            takes_input=takes_input,
        )
        container = containers.make(place.client, place.tier, job)
        try:
            with Attached(place.client, place.paths, str(container.id), takes_input=takes_input) as link:
                containers.started(container)
                yield Box(container, holder, folder, link)
        finally:
            containers.remove(container)
