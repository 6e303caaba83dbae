"""Engines in containers: the model and one socket are all that an engine sees of this machine."""

import asyncio
import contextlib
import os
import shutil
import signal
import stat
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from docker.errors import DockerException
from docker.models.containers import Container
from requests.exceptions import RequestException

from provider.engine.errors import EngineStartError
from provider.engine.host import SOCKET, STDERR_BYTES, EngineSettings, arguments, last_words
from provider.engine.memory import VOCABULARY_BYTES, estimate_bytes
from provider.exceptions import ConfigError
from provider.sandbox import containers, processes
from provider.sandbox.containers import Job
from provider.sandbox.daemon import Client, Daemon
from provider.sandbox.errors import SandboxError
from provider.sandbox.image.build import BuiltImage, load
from provider.sandbox.image.interpreter import program
from provider.sandbox.paths import SandboxPaths
from provider.sandbox.policy import Limits, Mount
from provider.sandbox.tiers import Tier

ROLE = "engine"
MODELS, LINK = "/models", "/run/host"
_FOLDER = "engine-"
_OVERHEAD_BYTES = 256 << 20  # gVisor's own, and what the C library does not give back
_TMP_BYTES = 16 << 20
_PIDS = 64
_LOOK_S = 0.1
_LEAVE_S = 2.0
_KILLED = 137
_GONE = (DockerException, RequestException)


class ContainerHost:
    """Starts engines in one tier of one machine's sandbox."""

    def __init__(self, paths: SandboxPaths, tier: Tier, image: BuiltImage) -> None:
        self._paths = paths
        self._tier = tier
        self._image = image
        self._left: list[Container] = []

    def new_folder(self) -> TemporaryDirectory[str]:
        """Entered by the engine's user; nobody else can list the folder it is in. Raises OSError."""
        folder = TemporaryDirectory(prefix=f"{_FOLDER}{_owner()}-", dir=self._paths.share)
        Path(folder.name).chmod(0o711)
        return folder

    async def start(self, settings: EngineSettings, folder: Path) -> "ContainerEngine":
        """Starts a container. Raises EngineStartError: `model_missing`, `model_damaged`, `sandbox`."""
        starting = asyncio.ensure_future(asyncio.to_thread(self._start, settings, folder))
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            with contextlib.suppress(EngineStartError):
                await (await starting).close(at_once=True)
            raise

    def sweep(self) -> int:
        """Removes containers and socket folders of workers that have ended; returns how many. Raises SandboxError."""
        client = Daemon(self._paths).ensure()
        try:
            count = len(containers.remove_orphans(client))
        finally:
            client.close()
        for folder in self._paths.share.iterdir():
            if _is_abandoned(folder.name):
                shutil.rmtree(folder, ignore_errors=True)
                count += 1
        return count

    def forget(self, container: Container) -> None:
        """Tries again later to remove it: the daemon is away."""
        self._left.append(container)

    def _start(self, settings: EngineSettings, folder: Path) -> "ContainerEngine":
        model = check_file(settings.model)
        if not model.stat().st_mode & stat.S_IROTH:
            raise EngineStartError("model_missing", f"the sandbox may not read {model}: run `chmod o+r` on it")
        limits = limits_of(settings)
        job = Job(
            ROLE,
            self._image.image_id,
            command_of(settings),
            limits,
            mounts_of(model, folder),
            subject=settings.model.stem,
        )
        try:
            client = Daemon(self._paths).ensure()
            try:
                self._clear(client)
                load(client, self._image)
                container = containers.start(client, self._tier, job)
                container.reload()
            except BaseException:
                client.close()
                raise
        except (SandboxError, *_GONE) as error:
            raise EngineStartError("sandbox", str(error)) from error
        return ContainerEngine(self, client, container, limits)

    def _clear(self, client: Client) -> None:
        left, self._left = {str(container.id) for container in self._left}, []
        for container in containers.ours(client) if left else []:
            if container.id in left:
                containers.remove(container)


class ContainerEngine:
    """An engine in a container of its own."""

    def __init__(self, host: ContainerHost, client: Client, container: Container, limits: Limits) -> None:
        self._host = host
        self._client = client
        self._container = container
        self._limits = limits
        self._pid = int(container.attrs["State"]["Pid"])
        self._identity = processes.identity(self._pid)

    @property
    def pid(self) -> int | None:
        """The container's first process, as the host numbers it."""
        return self._pid or None

    async def ended(self) -> str:
        """Looks until the container has ended."""
        while (how := await asyncio.to_thread(self._outcome)) is None:  # noqa: ASYNC110 - waiting takes a thread
            await asyncio.sleep(_LOOK_S)
        return how

    async def kill(self) -> None:
        """Kills all that is in the container."""
        await asyncio.to_thread(self._kill)

    async def close(self, *, at_once: bool = False) -> str:
        """Waits a moment for its end, then removes it."""
        return await asyncio.to_thread(self._close, 0.0 if at_once else _LEAVE_S)

    def _close(self, patience_s: float) -> str:
        end = time.monotonic() + patience_s
        while (how := self._outcome()) is None and time.monotonic() < end:
            time.sleep(_LOOK_S / 4)
        try:
            containers.remove(self._container)
        except SandboxError:
            self._kill_process()
            self._host.forget(self._container)
        finally:
            self._client.close()
        return how or "engine was ended"

    def _kill(self) -> None:
        try:
            self._container.kill()
        except _GONE:
            self._kill_process()

    def _kill_process(self) -> None:
        """Without the daemon, and only with the rights for it; an engine whose host has gone ends by itself."""
        if processes.is_running(self._identity):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(self._pid, signal.SIGKILL)

    def _outcome(self) -> str | None:
        """How it ended, None while it runs."""
        try:
            self._container.reload()
            state = self._container.attrs["State"]
            if state["Running"]:
                return None
            said = self._container.logs(stdout=False, stderr=True, tail=50)
        except _GONE as error:
            if processes.is_running(self._identity):
                return None
            return f"engine ended together with the sandbox's daemon: {error}"
        return explain(state, self._limits.memory, said[-STDERR_BYTES:])


def explain(state: dict[str, Any], memory: int, said: bytes) -> str:
    """What a container's end means. The daemon does not always notice that memory was the reason."""
    code = int(state["ExitCode"])
    most = f"{memory / 2**20:,.0f} MiB of memory"
    if state["OOMKilled"]:
        return f"engine was killed for using more than its {most}"
    if code == _KILLED:
        return f"engine was killed, by somebody or for using more than its {most}: {last_words(said)}"
    return f"engine exited with code {code}: {last_words(said)}"


def limits_of(settings: EngineSettings) -> Limits:
    """What an engine may take: its estimate and a quarter, its threads and one to talk. Raises EngineStartError."""
    try:
        need = settings.memory or (
            VOCABULARY_BYTES
            if settings.vocabulary_only
            else estimate_bytes(settings.model, settings.context, settings.parallel)
        )
    except ConfigError as error:
        raise EngineStartError("model_damaged", str(error)) from error
    cores = tuple(sorted(os.sched_getaffinity(0)))  # the worker's: the daemon's containers do not inherit them
    return Limits(
        memory=need + need // 4 + _OVERHEAD_BYTES,
        cpus=min(settings.threads + 1, len(cores)),
        cores=cores,
        pids=_PIDS + 2 * settings.threads,
        tmp=_TMP_BYTES,
    )


def command_of(settings: EngineSettings) -> list[str]:
    """What runs in the sandbox."""
    shown = arguments(settings, f"{MODELS}/{settings.model.name}", f"{LINK}/{SOCKET}")
    return [str(program()), "-s", "-m", "provider.engine", *shown]


def mounts_of(model: Path, folder: Path) -> tuple[Mount, ...]:
    """All that it sees of this machine; connecting to a socket needs no writable folder."""
    return (Mount(model.resolve(), f"{MODELS}/{model.name}"), Mount(folder, LINK))


def check_file(model: Path) -> Path:
    """The model's file. Raises EngineStartError."""
    try:
        mode = model.stat().st_mode
    except OSError as error:
        raise EngineStartError("model_missing", f"model file {model} cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(mode):
        raise EngineStartError("model_missing", f"model file {model} cannot be read: it is no file")
    return model


def _owner() -> str:
    """This process, short enough for a socket's path."""
    _, pid, started = processes.identity().rsplit(".", 2)
    return f"{pid}.{started}"


def _is_abandoned(name: str) -> bool:
    owner = name.removeprefix(_FOLDER).partition("-")[0]
    return name.startswith(_FOLDER) and not processes.is_running(f"{processes.boot_id()}.{owner}")
