"""A work folder that outlives the container which wrote it, held by a second one.

That one runs nothing of the job's, so that it needs no strong tier and gets the one that starts fastest.
"""

import contextlib
import io
import secrets
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import BinaryIO, Self, cast

from docker.errors import APIError, DockerException, NotFound
from docker.models.containers import Container
from requests.exceptions import RequestException

from provider.sandbox import containers, processes
from provider.sandbox.daemon import CALL_S, Client
from provider.sandbox.errors import ContainerError
from provider.sandbox.image.interpreter import program
from provider.sandbox.policy import USER, Limits, Scratch
from provider.sandbox.tiers import Tier

WORK = "/work"
OUT = "out"
ROLE = "holder"
_LIMITS = Limits(memory=64 << 20, cpus=0.5, pids=8, tmp=1 << 20)
_GONE = (DockerException, RequestException)


class Holder:
    """Keeps a new work folder with an empty `out` in it for the time of the block."""

    def __init__(self, client: Client, image: str, size: int, files: int) -> None:
        self.scratch = Scratch(f"clawmarket-work-{secrets.token_hex(6)}", WORK, size, files)
        self._client = client
        self._image = image
        self._container: Container | None = None

    def __enter__(self) -> Self:
        """Raises ContainerError; then nothing is left."""
        sweep(self._client)
        wait = [str(program()), "-I", "-S", "-c", "import signal; signal.pause()"]
        job = containers.Job(ROLE, self._image, wait, _LIMITS, scratch=self.scratch)
        try:
            self._container = containers.start(self._client, Tier.RUNC_SECCOMP, job)
            self._container.put_archive(WORK, _empty_folder())
        except BaseException as error:
            self.__exit__(None, None, None)
            if isinstance(error, _GONE):
                raise ContainerError(f"there is no work folder: {error}") from error
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Removes the folder with all that is in it."""
        try:
            if self._container:
                containers.remove(self._container)
        finally:
            with contextlib.suppress(NotFound):
                _remove_volume(self._client, self.scratch.name)

    @contextmanager
    def archive(self) -> Iterator[BinaryIO]:
        """What is in `out`, as the stream of a tar file. Raises ContainerError."""
        if self._container is None:
            raise ContainerError("there is no work folder")
        api = self._client.api
        url = f"{api.base_url}/v{api.api_version}/containers/{self._container.id}/archive"
        try:
            self._container.reload()
            if self._container.status != "running":  # the daemon would show an empty folder instead
                raise ContainerError("the work folder was lost: somebody ended the container that held it")
            wanted, plain = {"path": f"{WORK}/{OUT}"}, {"Accept-Encoding": "identity"}
            with api.get(url, params=wanted, headers=plain, stream=True, timeout=CALL_S) as answer:
                if answer.status_code == 404:  # the program has removed it
                    yield io.BytesIO(bytes(2 * tarfile.BLOCKSIZE))
                    return
                answer.raise_for_status()
                yield cast("BinaryIO", answer.raw)
        except _GONE as error:
            raise ContainerError(f"the results cannot be read: {error}") from error


def sweep(client: Client) -> None:
    """Removes work folders whose process has ended."""
    try:
        volumes = client.volumes.list(filters={"label": containers.OWNER})
    except _GONE as error:
        raise ContainerError(f"work folders cannot be listed: {error}") from error
    for volume in volumes:
        if not processes.is_running((volume.attrs.get("Labels") or {}).get(containers.OWNER, "")):
            with contextlib.suppress(ContainerError, NotFound):  # still in use by an orphan, which goes first
                _remove_volume(client, str(volume.name))


def _remove_volume(client: Client, name: str) -> None:
    try:
        client.api.remove_volume(name)
    except NotFound:
        raise
    except (APIError, *_GONE) as error:
        raise ContainerError(f"the work folder {name} cannot be removed: {error}") from error


def _empty_folder() -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        folder = tarfile.TarInfo(OUT)
        folder.type, folder.mode, folder.uid, folder.gid = tarfile.DIRTYPE, 0o700, USER, USER
        tar.addfile(folder)
    return made.getvalue()
