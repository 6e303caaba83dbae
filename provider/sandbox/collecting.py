"""Takes results out of a stream that a stranger has filled: files and folders with plain names, of bounded size.

Links, devices, pipes and odd names are left out, and it is said so. Nothing that is there already is ever opened.
"""

import os
import tarfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from provider.sandbox.errors import ContainerError

_DEEPEST = 8
_LONGEST = 120  # bytes of a name: more fail on some file systems
_SHOWN = 100
_COPY = 1 << 16
_PER_ENTRY = 4096


@dataclass(frozen=True)
class ResultLimits:
    """How much may be brought out: bytes of one file, of all, and how many files and folders."""

    file: int = 64 << 20
    total: int = 64 << 20
    count: int = 256


@dataclass(frozen=True)
class Collected:
    """Where results are, their names and sizes, and what was left out and why."""

    folder: Path
    files: dict[str, int]
    left_out: tuple[str, ...] = ()


class _Bounded:
    """A stream of which only so much is read: a sparse file costs nothing to make, and time to skip."""

    def __init__(self, source: BinaryIO, most: int) -> None:
        self._source = source
        self._left = most

    def read(self, size: int) -> bytes:
        if self._left <= 0:
            raise _TooMuchError
        data = self._source.read(min(size, self._left))
        self._left -= len(data)
        return data


class _TooMuchError(Exception):
    pass


def collect(archive: Callable[[], AbstractContextManager[BinaryIO]], into: Path, limits: ResultLimits) -> Collected:
    """Unpacks what `archive` streams into the empty folder `into`. Raises ContainerError."""
    files: dict[str, int] = {}
    left_out: list[str] = []
    most = 2 * limits.total + limits.count * _PER_ENTRY + (1 << 20)
    try:
        with (
            archive() as stream,
            tarfile.open(fileobj=_Bounded(stream, most), mode="r|", bufsize=_COPY, errors="surrogateescape") as tar,  # type: ignore[call-overload]
        ):
            for entries, member in enumerate(tar):
                if entries > limits.count:
                    left_out.append(f"all beyond {limits.count} files and folders")
                    break
                fault = _fault(member, limits, sum(files.values())) or _take(tar, member, into)
                if fault:
                    left_out.append(f"{_shown(member.name)}: {fault}")
                elif member.isreg():
                    files[_inner(member).as_posix()] = member.size
    except _TooMuchError:
        left_out.append(f"what follows: all of it is more than {most:,} bytes, counting holes in files")
    except (tarfile.TarError, OSError) as error:
        raise ContainerError(f"the results cannot be taken out: {error}") from error
    return Collected(into, files, tuple(left_out))


def _inner(member: tarfile.TarInfo) -> PurePosixPath:
    """Its path below the result folder, which is the first part of every name."""
    return PurePosixPath(*PurePosixPath(member.name).parts[1:])


def _fault(member: tarfile.TarInfo, limits: ResultLimits, taken: int) -> str:
    if member.issym() or member.islnk():
        return "links are not brought out"
    if not (member.isreg() or member.isdir()) or member.issparse():
        return "neither a file nor a folder"
    if not _is_plain(member.name):
        return f"no plain name, at most {_DEEPEST} deep and {_LONGEST} bytes each"
    if member.isreg() and member.size > limits.file:
        return f"{member.size:,} bytes are more than the {limits.file:,} of one file"
    if member.isreg() and member.size > limits.total - taken:
        return f"all results together may have {limits.total:,} bytes"
    return ""


def _is_plain(name: str) -> bool:
    parts = name.split("/")
    return (
        len(parts) <= _DEEPEST
        and not name.startswith("/")
        and all(
            part.isprintable()  # escaped bytes that are no UTF-8 are not
            and part not in ("", ".", "..")
            and "\\" not in part
            and len(part.encode()) <= _LONGEST
            for part in parts
        )
    )


def _take(tar: tarfile.TarFile, member: tarfile.TarInfo, into: Path) -> str:
    target = into / _inner(member)
    if member.isdir():
        if target != into:
            target.mkdir(mode=0o700)
        return ""
    if not target.parent.is_dir() or target == into:
        return "its folder was left out"
    source = tar.extractfile(member)
    if source is None:
        return "it has no content"
    with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as made:
        while data := source.read(_COPY):
            made.write(data)
    return ""


def _shown(name: str) -> str:
    """Fit for a terminal."""
    inner = name.partition("/")[2] or name
    text = "".join(each if each.isprintable() else "�" for each in inner)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
