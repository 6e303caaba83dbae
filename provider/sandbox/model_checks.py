"""Checks a model file in a container of its own: the engine's policy, little memory, and a bounded time.

An engine checks its file itself before every load. This is for files that are to be registered: nothing of this
machine's own reads a stranger's file first. A verdict is remembered for the file's SHA-256 and the image that gave it.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from docker.errors import DockerException
from docker.models.containers import Container
from requests.exceptions import RequestException

from provider.exceptions import ConfigError
from provider.files import write_whole
from provider.models.files import FileDigests
from provider.sandbox import containers
from provider.sandbox.containers import Job
from provider.sandbox.daemon import Client, Daemon
from provider.sandbox.engines import MODELS
from provider.sandbox.errors import ContainerError
from provider.sandbox.image.build import BuiltImage, load
from provider.sandbox.image.contents import ENGINE
from provider.sandbox.image.interpreter import program
from provider.sandbox.image.known import current
from provider.sandbox.paths import SandboxPaths
from provider.sandbox.policy import Limits, Mount
from provider.sandbox.serving import open_sandbox
from provider.sandbox.tiers import Tier

ROLE = "model-check"
LIMITS = Limits(memory=512 << 20, cpus=1.0, pids=16, tmp=1 << 20)
CHECK_S = 60.0
_RECORD, _DIGESTS = "checked-models.json", "checked-files.json"
_MOST_REMEMBERED = 256
_LOOK_S = 0.05
_LONGEST = 500
_GONE = (DockerException, RequestException)


class ModelChecks:
    """The checks of one machine's sandbox, and what they found."""

    def __init__(self, client: Client, paths: SandboxPaths, tier: Tier, image: BuiltImage) -> None:
        self._client = client
        self._tier = tier
        self._image = image
        self._record = paths.share / _RECORD
        self._digests = FileDigests(paths.share / _DIGESTS)

    def check(self, model: Path, *, within_s: float = CHECK_S) -> None:
        """Raises ConfigError saying what is wrong with the file, ContainerError if it cannot be found out."""
        digest = self._digests.get(model)
        verdicts = self._remembered()
        if digest not in verdicts:
            verdicts[digest] = self._ask(model, within_s)
            self._digests.get(model)
            kept = dict(list(verdicts.items())[-_MOST_REMEMBERED:])
            write_whole(self._record, json.dumps({"image": self._image.image_id, "verdicts": kept}).encode())
        if wrong := verdicts[digest]:
            raise ConfigError(f"model file {model} is not safe to load: {wrong}; get it again from where it comes from")

    def _remembered(self) -> dict[str, str]:
        try:
            record: dict[str, Any] = json.loads(self._record.read_bytes())
            return dict(record["verdicts"]) if record["image"] == self._image.image_id else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def _ask(self, model: Path, within_s: float) -> str:
        """What is wrong with it, empty if nothing. Raises ContainerError."""
        load(self._client, self._image)
        shown = f"{MODELS}/model.gguf"
        command = [str(program()), "-s", "-m", "provider.engine.gguf_check", shown]
        job = Job(ROLE, self._image.image_id, command, LIMITS, (Mount(model.resolve(), shown),))
        with containers.running(self._client, self._tier, job) as container:
            try:
                return _verdict(container, time.monotonic() + within_s)
            except _GONE as error:
                raise ContainerError(f"the check of {model} cannot be followed to its end: {error}") from error


@contextmanager
def open_checks(paths: SandboxPaths | None = None) -> Iterator[ModelChecks]:
    """The checks in this machine's sandbox, for the time of the block. Raises NoSandboxError, ImageError."""
    paths = paths or SandboxPaths.find()
    tier = open_sandbox(paths).tier
    client = Daemon(paths).client()
    try:
        yield ModelChecks(client, paths, tier, current(paths, ENGINE))
    finally:
        client.close()


def _verdict(container: Container, until: float) -> str:
    while True:
        container.reload()
        state = container.attrs["State"]
        if not state["Running"]:
            break
        if time.monotonic() > until:
            return "checking it takes too long"
        time.sleep(_LOOK_S)
    said = container.logs(stdout=False, stderr=True, tail=1)[-_LONGEST:].decode(errors="replace").strip()
    shown = "".join(each if each.isprintable() else " " for each in said)
    match state["ExitCode"]:
        case 0:
            return ""
        case 4:
            return shown or "it is refused without a word"
        case 137:
            return f"checking it takes more than {LIMITS.memory >> 20} MiB of memory"
    raise ContainerError(f"the check of a model ended with exit code {state['ExitCode']}: {shown}")
