"""Runs a probe in a container and collects what it found, what the host sees of it, and what the host heard."""

import json
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docker.errors import DockerException
from docker.models.containers import Container
from requests.exceptions import RequestException

from provider.sandbox import containers, host_view, inside
from provider.sandbox.bait import TARGET, Bait
from provider.sandbox.daemon import Client
from provider.sandbox.errors import ContainerError
from provider.sandbox.host_view import HostView
from provider.sandbox.listeners import HostListeners

ANSWER_S = 60.0
_POLL_S = 0.05


@dataclass(frozen=True)
class Evidence:
    """`facts` come from inside; `view`, `heard` and what `changed` in the bait from the host.

    `runc` is the version of the host's, empty where it has no part in this. `seconds` until the facts were there.
    """

    facts: dict[str, Any]
    view: HostView
    heard: tuple[str, ...]
    changed: tuple[str, ...]
    host_kernel: str
    runc: str
    seconds: float


def probe_command(interpreter: str, listeners: HostListeners) -> list[str]:
    """What to run inside."""
    target = {
        "tcp": listeners.tcp,
        "udp": listeners.udp,
        "abstract": listeners.abstract,
        "mount": TARGET,
        "hold": ANSWER_S,
    }
    return [interpreter, "-S", "-c", Path(inside.__file__).read_text(encoding="utf-8"), json.dumps(target)]


def collect(client: Client, settings: dict[str, Any], name: str, listeners: HostListeners, bait: Bait) -> Evidence:
    """Runs a container with these settings: a `probe_command`, and the bait's mount. Raises ContainerError."""
    started = time.monotonic()
    runc = _runc_version(client)
    container = containers.start_with(client, settings, name)
    try:
        facts = _first_line(container)
        seconds = time.monotonic() - started
        container.reload()
        view = host_view.settled(int(container.attrs["State"]["Pid"]))
    except (DockerException, RequestException) as error:
        raise ContainerError(f"the probe {name} was lost: {error}") from error
    finally:
        containers.remove(container)
    return Evidence(facts, view, tuple(listeners.heard), tuple(bait.changes()), os.uname().release, runc, seconds)


def _runc_version(client: Client) -> str:
    try:
        parts = client.version()["Components"]
    except (DockerException, RequestException) as error:
        raise ContainerError(f"the daemon does not say which runc it uses: {error}") from error
    return next((str(part["Version"]) for part in parts if part["Name"] == "runc"), "")


def _first_line(container: Container) -> dict[str, Any]:
    end = time.monotonic() + ANSWER_S
    while time.monotonic() < end:
        output = container.logs(stdout=True, stderr=False)
        if b"\n" in output:
            return read_facts(output)
        container.reload()
        if container.status not in ("created", "running") and b"\n" not in container.logs(stdout=True, stderr=False):
            said = container.logs(stdout=False, stderr=True).decode(errors="replace").strip()[-300:]
            raise ContainerError(f"the probe ended with code {container.attrs['State']['ExitCode']}: {said}")
        time.sleep(_POLL_S)
    raise ContainerError(f"the probe gave no answer within {ANSWER_S:.0f} s")


def read_facts(output: bytes) -> dict[str, Any]:
    """The probe's line. Raises ContainerError."""
    with suppress(ValueError):
        facts = json.loads(output.split(b"\n", 1)[0])
        if isinstance(facts, dict):
            return facts
    raise ContainerError("the probe's answer cannot be read")
