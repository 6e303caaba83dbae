"""Builds images into the cache and loads them into the daemon; each happens only when something changed."""

import fcntl
import io
import json
import platform
import shutil
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

from docker.errors import DockerException, ImageNotFound
from requests.exceptions import RequestException

from provider.files import write_whole
from provider.sandbox.daemon import Client
from provider.sandbox.errors import ImageError
from provider.sandbox.image.bill import bill_of_materials
from provider.sandbox.image.contents import Contents, Recipe, plan
from provider.sandbox.image.layer import write_layer
from provider.sandbox.paths import SandboxPaths

REPOSITORY = "clawmarket"
KEPT = 3
INPUTS_LABEL = "market.clawmarket.inputs"
_EPOCH = "1970-01-01T00:00:00Z"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True)
class BuiltImage:
    """An image in the cache: its digests, its size in bytes, how long building it took, and its files."""

    tag: str
    image_id: str
    layer: str
    inputs: str
    size: int
    seconds: float
    archive: Path
    bill: Path


def build(paths: SandboxPaths, recipe: Recipe) -> BuiltImage:
    """The image of this recipe, built unless the cache has it. Raises ImageError."""
    return build_planned(paths, plan(recipe))


def build_planned(paths: SandboxPaths, contents: Contents) -> BuiltImage:
    """The image with these contents, built unless the cache has it. Raises ImageError."""
    recipe = contents.recipe
    folder = paths.images / f"{recipe.name}-{contents.digest[:32]}"
    with _lock(paths):
        if not (folder / "image.json").exists():
            _build(contents, folder)
        (folder / "image.json").touch()
        _prune(paths, recipe)
        return built_in(folder)


def load(client: Client, built: BuiltImage) -> str:
    """Gives the image to the daemon unless it has it; returns its id. Raises ImageError."""
    try:
        try:
            client.images.get(built.image_id)
        except ImageNotFound:
            with built.archive.open("rb") as archive:
                client.images.load(archive)
            client.images.get(built.image_id)
    except (DockerException, RequestException, OSError) as error:
        raise ImageError(f"the image {built.tag} cannot be loaded: {error}") from error
    return built.image_id


def stale(client: Client, paths: SandboxPaths, current: BuiltImage) -> set[str]:
    """Tags of other images of the same recipe, in the cache or the daemon. Raises ImageError."""
    repository = current.tag.partition(":")[0]
    try:
        loaded = {tag for image in client.images.list(repository) for tag in image.tags}
    except (DockerException, RequestException) as error:
        raise ImageError(f"images cannot be listed: {error}") from error
    return (loaded | {built_in(file.parent).tag for file in paths.images.glob("*/image.json")}) - {current.tag}


def remove(client: Client, paths: SandboxPaths, tags: set[str]) -> None:
    """Removes images from the cache and the daemon. Raises ImageError if one is in use."""
    for tag in tags:
        try:
            client.images.remove(tag)
        except ImageNotFound:
            pass
        except (DockerException, RequestException) as error:
            raise ImageError(f"{tag} cannot be removed: {error}") from error
    for file in paths.images.glob("*/image.json"):
        if built_in(file.parent).tag in tags:
            shutil.rmtree(file.parent)


def _prune(paths: SandboxPaths, recipe: Recipe) -> None:
    """Keeps the images used last: several checkouts may share a cache."""
    files = sorted(paths.images.glob(f"{recipe.name}-*/image.json"), key=lambda file: -file.stat().st_mtime_ns)
    for file in files[KEPT:]:
        shutil.rmtree(file.parent)


def _build(contents: Contents, folder: Path) -> None:
    started = time.monotonic()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".building-") as name:
        work = Path(name)
        result = work / "result"
        result.mkdir()
        layer = work / "layer.tar"
        write_layer(contents, layer, work / "staging")
        with layer.open("rb") as file:
            layer_digest = file_digest(file, "sha256").hexdigest()
        tag = f"{REPOSITORY}/{contents.recipe.name}:{contents.digest[:32]}"
        settings = _image_settings(contents, layer_digest)
        image_id = f"sha256:{sha256(settings).hexdigest()}"
        _write_archive(result / "image.tar", layer, settings, tag)
        bill = json.dumps(bill_of_materials(contents, image_id), indent=1, sort_keys=True)
        (result / "bill.cdx.json").write_text(bill + "\n")
        record = {
            "tag": tag,
            "image_id": image_id,
            "layer": f"sha256:{layer_digest}",
            "inputs": contents.digest,
            "size": layer.stat().st_size,
            "seconds": round(time.monotonic() - started, 2),
        }
        write_whole(result / "image.json", json.dumps(record, indent=2).encode() + b"\n")
        result.rename(folder)


def _image_settings(contents: Contents, layer: str) -> bytes:
    """The image's own configuration, whose digest is the image's id."""
    settings: dict[str, Any] = {
        "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "created": _EPOCH,
        "config": contents.settings | {"Labels": {INPUTS_LABEL: contents.digest}},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer}"]},
        "history": [{"created": _EPOCH, "created_by": "clawmarket sandbox build"}],
    }
    return json.dumps(settings, sort_keys=True).encode()


def _write_archive(target: Path, layer: Path, settings: bytes, tag: str) -> None:
    config_name = f"{sha256(settings).hexdigest()}.json"
    manifest = json.dumps([{"Config": config_name, "RepoTags": [tag], "Layers": ["layer.tar"]}]).encode()
    with tarfile.open(target, "w") as tar:
        for name, content in (("manifest.json", manifest), (config_name, settings)):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        info = tarfile.TarInfo("layer.tar")
        info.size = layer.stat().st_size
        with layer.open("rb") as file:
            tar.addfile(info, file)


def built_in(folder: Path) -> BuiltImage:
    """The image in a folder of the cache. Raises ImageError."""
    try:
        record = json.loads((folder / "image.json").read_text())
        return BuiltImage(**record, archive=folder / "image.tar", bill=folder / "bill.cdx.json")
    except (OSError, ValueError, TypeError) as error:
        raise ImageError(f"the cached image {folder} is damaged ({error}): delete it") from error


@contextmanager
def _lock(paths: SandboxPaths) -> Iterator[None]:
    paths.images.mkdir(parents=True, exist_ok=True)
    with (paths.images / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
