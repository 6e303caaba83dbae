"""Writes an image's one layer, byte for byte the same for the same contents."""

import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

from provider.sandbox.errors import ImageError
from provider.sandbox.image.contents import Contents

_WORLD_WRITABLE = {"tmp"}


def write_layer(contents: Contents, target: Path, staging: Path) -> None:
    """Writes the tar file; `staging` is an empty folder for the work. Raises ImageError."""
    _stage(contents, staging)
    _compile(contents, staging)
    compiled = {str(path.relative_to(staging)): path for path in staging.rglob("*.pyc") if "__pycache__" in path.parts}
    names = set(contents.files) | set(contents.texts) | set(contents.links) | set(compiled)
    folders = set(contents.folders) | {str(above) for name in names for above in Path(name).parents} - {"."}
    folders |= {str(above) for folder in contents.folders for above in Path(folder).parents} - {"."}
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as tar:
        for name in sorted(folders | names):
            if name in contents.links:
                info = _info(name, tarfile.SYMTYPE, 0o777)
                info.linkname = contents.links[name]
                tar.addfile(info)
            elif name in contents.texts:
                _add(tar, name, contents.texts[name].encode(), 0o644)
            elif name in names:
                path = compiled.get(name) or contents.files[name]
                _add(tar, name, path.read_bytes(), 0o755 if _is_program(contents, name) else 0o644)
            else:
                tar.addfile(_info(name, tarfile.DIRTYPE, 0o1777 if name in _WORLD_WRITABLE else 0o755))


def _stage(contents: Contents, staging: Path) -> None:
    for name, source in _sources(contents):
        path = staging / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, path)


def _compile(contents: Contents, staging: Path) -> None:
    """Compiles every module: nothing can be written later. No times in it, and one order of sets."""
    done = subprocess.run(
        [
            *(f"/{contents.interpreter}", "-S", "-s", "-B", "-m", "compileall", "-q", "-j", "1"),
            *("--invalidation-mode", "unchecked-hash", "-s", str(staging), "-p", "/", str(staging)),
        ],
        env={"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise ImageError(f"a module cannot be compiled: {(done.stdout + done.stderr).strip()[-300:]}")


def _sources(contents: Contents) -> Iterator[tuple[str, Path]]:
    return ((name, path) for name, path in contents.files.items() if name.endswith(".py"))


def _is_program(contents: Contents, name: str) -> bool:
    return name == contents.interpreter or os.path.basename(name).startswith("ld-linux")  # noqa: PTH119 - a tar's name


def _info(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.mtime = kind, mode, 0
    return info


def _add(tar: tarfile.TarFile, name: str, content: bytes, mode: int) -> None:
    info = _info(name, tarfile.REGTYPE, mode)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))
