"""Shared libraries: which ones programs need, and which Debian packages they come from."""

import os
import re
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from provider.sandbox.errors import ImageError

_FOUND = re.compile(r"^\s+(?:(\S+) => )?(/\S+) \(0x[0-9a-f]+\)$")
_MISSING = re.compile(r"^\s+(\S+) => not found")


def is_elf(path: Path) -> bool:
    """Whether it is a program or shared library."""
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def closure(files: list[Path]) -> dict[str, Path]:
    """Libraries outside of `files` that they load, by their paths in an image. Raises ImageError if one is missing."""
    done = subprocess.run(
        ["ldd", *map(str, files)],
        capture_output=True,
        text=True,
        check=False,
        env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"},
    )
    own = {os.path.realpath(file) for file in files}
    own_names = {file.name for file in files}
    found: dict[str, Path] = {}
    for line in done.stdout.splitlines():
        if (match := _MISSING.match(line)) and match[1] not in own_names:
            raise ImageError(f"the shared library {match[1]} is missing on this machine")
        if (
            (match := _FOUND.match(line))
            and os.path.realpath(match[2]) not in own
            and Path(match[2]).name not in own_names
        ):
            path = Path(match[2])
            # The folder may be a link (/lib, /lib64), the file's own name is what the loader looks for.
            found[str(Path(os.path.realpath(path.parent)) / path.name).lstrip("/")] = Path(os.path.realpath(path))
    if not found:
        raise ImageError(f"ldd finds no shared library: {done.stderr.strip()[:200]}")
    return dict(sorted(found.items()))


@dataclass(frozen=True)
class DebianPackage:
    """An installed package."""

    name: str
    version: str
    architecture: str
    licences: tuple[str, ...]


def owners(files: list[Path]) -> dict[Path, str]:
    """The package that each file was installed by, as far as dpkg knows."""
    spellings = {spelling: file for file in files for spelling in _spellings(file)}
    done = _dpkg("-S", *sorted(spellings))
    found: dict[Path, str] = {}
    for line in done.splitlines():
        package, _, path = line.rpartition(": ")
        if path in spellings:
            found[spellings[path]] = package.split(", ")[0]
    return found


@cache
def debian_package(name: str) -> DebianPackage:
    """What dpkg and the package's copyright file say of it."""
    plain, version, architecture = _dpkg("-W", "-f=${Package}\t${Version}\t${Architecture}", name).split("\t")
    return DebianPackage(plain, version, architecture, _licences(plain))


def _licences(package: str) -> tuple[str, ...]:
    try:
        text = Path("/usr/share/doc", package, "copyright").read_text(errors="replace")
    except OSError:
        return ()
    return tuple(sorted(set(re.findall(r"^License: *(\S[^\n]*)$", text, re.MULTILINE))))


def _spellings(file: Path) -> set[str]:
    """With and without /usr: dpkg knows a file under the name it was packed with."""
    path = str(file)
    return {path, path.removeprefix("/usr") if path.startswith("/usr/lib") else path}


def _dpkg(*arguments: str) -> str:
    try:
        return subprocess.run(["dpkg-query", *arguments], capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        return ""
