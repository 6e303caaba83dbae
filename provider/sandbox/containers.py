"""Containers of this machine's workers: made by the policy, labelled with who owns them, found again by that."""

import contextlib
import secrets
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from docker.errors import APIError, DockerException, NotFound
from docker.models.containers import Container
from requests.exceptions import RequestException

from provider.sandbox import processes
from provider.sandbox.daemon import Client
from provider.sandbox.denials import listening
from provider.sandbox.errors import ContainerError
from provider.sandbox.policy import Limits, Mount, Scratch, container_settings
from provider.sandbox.tiers import Tier

PREFIX = "market.clawmarket."
OWNER, ROLE, TIER, SUBJECT = (f"{PREFIX}{name}" for name in ("owner", "role", "tier", "subject"))
_NAME_BYTES = 6


@dataclass(frozen=True)
class Job:
    """What to run: `role` says what for, such as "engine" or "probe", `subject` for which of them, such as a model."""

    role: str
    image: str
    command: list[str]
    limits: Limits = field(default_factory=Limits)
    mounts: tuple[Mount, ...] = ()
    environment: dict[str, str] | None = None
    scratch: Scratch | None = None
    gpu: tuple[Path, ...] = ()
    takes_input: bool = False
    subject: str = ""


@dataclass(frozen=True)
class Listed:
    """A container as `ps` shows it; `memory` in bytes, None where the daemon cannot say."""

    name: str
    role: str
    tier: str
    state: str
    age_s: float
    memory: int | None
    is_orphan: bool


def make(client: Client, tier: Tier, job: Job) -> Container:
    """Makes a container under the policy. Raises ContainerError; then there is none."""
    settings = container_settings(
        tier,
        job.image,
        job.command,
        job.limits,
        mounts=job.mounts,
        scratch=job.scratch,
        gpu=job.gpu,
        takes_input=job.takes_input,
        environment=job.environment,
        labels={OWNER: processes.identity(), ROLE: job.role, TIER: tier.value, SUBJECT: job.subject},
    )
    return _make(client, settings, f"clawmarket-{job.role}-{secrets.token_hex(_NAME_BYTES)}")


def start(client: Client, tier: Tier, job: Job) -> Container:
    """Makes and starts a container under the policy. Raises ContainerError; then none is left."""
    return started(make(client, tier, job))


def start_with(client: Client, settings: dict[str, Any], name: str) -> Container:
    """Makes and starts a container with these very settings, for a trial: what it is denied is not told.

    Raises ContainerError; then none is left.
    """
    return _started(_make(client, settings, name))


def started(container: Container) -> Container:
    """Starts what was made. Raises ContainerError; then it is removed."""
    labels = container.labels
    with ExitStack() as stack:
        if Tier(labels[TIER]).is_gvisor:
            share = cast("Client", container.client).share
            stack.enter_context(listening(share, str(container.id), name_of(container), labels[ROLE]))
        return _started(container)


def _started(container: Container) -> Container:
    try:
        container.start()
    except BaseException as error:
        remove(container)
        if isinstance(error, (DockerException, RequestException)):
            raise _cannot(container.name, error) from error
        raise
    return container


def _make(client: Client, settings: dict[str, Any], name: str) -> Container:
    try:
        made = client.api.create_container_from_config(settings, name)  # type: ignore[no-untyped-call]
        return client.containers.get(made["Id"])
    except (DockerException, RequestException) as error:
        raise _cannot(name, error) from error


@contextmanager
def running(client: Client, tier: Tier, job: Job) -> Iterator[Container]:
    """A container for the time of the block; it is killed and removed afterwards."""
    container = start(client, tier, job)
    try:
        yield container
    finally:
        remove(container)


def remove(container: Container) -> None:
    """Kills and removes a container, and is content if it is gone."""
    with contextlib.suppress(NotFound):
        try:
            container.remove(force=True, v=True)
        except (DockerException, RequestException) as error:
            if isinstance(error, APIError) and error.status_code == 409:  # being removed already
                return
            if isinstance(error, NotFound):
                return
            raise ContainerError(f"the container {container.name} cannot be removed: {_explanation(error)}") from error


def ours(client: Client) -> list[Container]:
    """All containers with our labels, running or not."""
    try:
        return list(client.containers.list(all=True, filters={"label": OWNER}, ignore_removed=True))
    except (DockerException, RequestException) as error:
        raise ContainerError(f"containers cannot be listed: {_explanation(error)}") from error


def own(client: Client) -> list[Container]:
    """Those that this process made. Raises ContainerError."""
    mine = f"{OWNER}={processes.identity()}"
    try:
        return list(client.containers.list(all=True, filters={"label": mine}, ignore_removed=True))
    except (DockerException, RequestException) as error:
        raise ContainerError(f"containers cannot be listed: {_explanation(error)}") from error


def is_orphan(container: Container) -> bool:
    """Whether the worker that started it has ended."""
    return not processes.is_running(container.labels.get(OWNER, ""))


def name_of(container: Container) -> str:
    """Its name; the daemon gives each one."""
    return container.name or str(container.id)


def listed(client: Client) -> list[Listed]:
    """What runs, the oldest first."""
    found = [_listed(container) for container in ours(client)]
    return sorted(found, key=lambda each: -each.age_s)


def remove_orphans(client: Client) -> list[str]:
    """Removes containers whose worker has ended; returns their names."""
    orphans = [container for container in ours(client) if is_orphan(container)]
    for container in orphans:
        remove(container)
    return [name_of(container) for container in orphans]


def _listed(container: Container) -> Listed:
    memory = None
    if container.status == "running":
        with contextlib.suppress(DockerException, RequestException, KeyError):
            figures: Any = container.stats(stream=False, one_shot=True)
            memory = int(figures["memory_stats"]["usage"])
    created = datetime.fromisoformat(container.attrs["Created"][:19] + "+00:00")
    return Listed(
        name=name_of(container),
        role=container.labels.get(ROLE, ""),
        tier=container.labels.get(TIER, ""),
        state=container.status,
        age_s=max(0.0, time.time() - created.timestamp()),
        memory=memory,
        is_orphan=is_orphan(container),
    )


def _cannot(name: str | None, error: Exception) -> ContainerError:
    return ContainerError(f"the container {name} cannot be started: {_explanation(error)}")


def _explanation(error: Exception) -> str:
    return str(error.explanation if isinstance(error, APIError) and error.explanation else error)
