"""Files for a run: copies in a folder of their own, that the container sees read-only."""

import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from provider.sandbox import processes
from provider.sandbox.errors import JobError
from provider.sandbox.image.interpreter import program
from provider.sandbox.paths import SandboxPaths

IN = "/in"
_PREFIX = "job-"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}")
_MAX_FILES = 1000


@contextmanager
def staged(paths: SandboxPaths, files: Mapping[str, bytes | Path]) -> Iterator[Path]:
    """A folder with copies of `files` for the time of the block. Raises JobError for names and files that won't do."""
    sweep(paths)
    with TemporaryDirectory(prefix=f"{_PREFIX}{processes.identity()}-", dir=paths.share) as name:
        folder = Path(name) / "in"
        folder.mkdir()
        copy_into(folder, files)
        for shown, mode in ((folder, 0o755), (folder.parent, 0o711)):  # its name is a secret: `share` cannot be listed
            shown.chmod(mode)
        yield folder


def copy_into(folder: Path, files: Mapping[str, bytes | Path]) -> None:
    """Copies `files` into the folder of a run that has not begun. Raises JobError for names and files that won't do."""
    if len(files) > _MAX_FILES:
        raise JobError(f"{len(files)} files are too many for one run: {_MAX_FILES} at most, or one archive")
    for each, content in files.items():
        _copy(each, content, folder)


def sweep(paths: SandboxPaths) -> None:
    """Removes files of runs whose process has ended."""
    for folder in paths.share.glob(f"{_PREFIX}*"):
        if not processes.is_running(folder.name.removeprefix(_PREFIX).rpartition("-")[0]):
            shutil.rmtree(folder, ignore_errors=True)


def command_of(command: list[str], files: Mapping[str, bytes | Path]) -> list[str]:
    """What runs inside: Python for a given `….py`, a given program itself, else a program of the image."""
    if not command or not command[0]:
        raise JobError("there is no program to run: name one of the files, or python")
    first, rest = command[0], command[1:]
    if first in ("python", "python3"):
        return [str(program()), *rest]
    if first not in files:
        if not first.startswith("/"):
            raise JobError(f"{first} is not among the files of this run, nor a whole path in the image")
        return command
    return [str(program()), f"{IN}/{first}", *rest] if first.endswith(".py") else [f"{IN}/{first}", *rest]


def _copy(name: str, content: bytes | Path, folder: Path) -> None:
    if not _NAME.fullmatch(name):
        raise JobError(f"{name!r} is no name for a file of a run: letters, digits and _ . + - only, no folders")
    target = folder / name
    try:
        if isinstance(content, Path):
            if not content.is_file():
                raise JobError(f"{content} is no file")
            shutil.copyfile(content, target)
        else:
            target.write_bytes(content)
    except OSError as error:
        raise JobError(f"the file {name} cannot be given to the run: {error.strerror}") from error
    target.chmod(0o555)
