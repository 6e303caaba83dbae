"""The parts of this machine's Python that go into an image: program, standard library, packages."""

import os
import re
import sys
import sysconfig
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path, PurePosixPath

from provider.sandbox.errors import ImageError

_LEFT_OUT = {
    "__pycache__",
    "__phello__",
    "dist-packages",
    "distutils",
    "ensurepip",
    "idlelib",
    "lib2to3",
    "pydoc_data",
    "site-packages",
    "test",
    "tests",
    "tkinter",
    "turtledemo",
    "venv",
}
_LEFT_OUT_FILES = {"sitecustomize.py", "turtle.py", "antigravity.py", "this.py"}
_EXTENSIONS_LEFT_OUT = re.compile(
    r"_?(test|xx|curses|dbm|gdbm|tkinter|ssl|hashlib|crypt|lsprof|ctypes_test)|readline|nis|ossaudiodev|audioop"
)
_UNUSED_IN_PACKAGES = re.compile(
    r"^(bin|lib|\.\.)/|(^|/)(tests?|testing/data|__pycache__|include|server|f2py|distutils|doc)/|\.(pyc|pyi|pyx|pxd|h|hpp|c|a|cmake)$"
)


def program() -> Path:
    """The interpreter itself, outside of any virtual environment."""
    return Path(os.path.realpath(sys.executable))


def standard_library() -> dict[str, Path]:
    """Its files by their paths in the image, which are those of this machine."""
    stdlib = Path(sysconfig.get_path("stdlib"))
    found: dict[str, Path] = {}
    for folder, names, files in os.walk(stdlib):
        names[:] = sorted(name for name in names if name not in _LEFT_OUT and not name.startswith("config-"))
        for name in files:
            path = Path(folder, name)
            is_extension = path.parent.name == "lib-dynload"
            if is_extension and _EXTENSIONS_LEFT_OUT.match(name):
                continue
            if path.suffix in (".py", ".so") and name not in _LEFT_OUT_FILES:
                found[str(path).lstrip("/")] = path
    return found


def package_closure(*names: str) -> list[Distribution]:
    """The named packages and what they require, without extras, by name. Raises ImageError."""
    found: dict[str, Distribution] = {}
    pending = list(names)
    while pending:
        name = _plain(pending.pop())
        if name in found:
            continue
        try:
            found[name] = distribution(name)
        except PackageNotFoundError as error:
            raise ImageError(f"the Python package {name} is not installed") from error
        for requirement in found[name].requires or []:
            if "extra ==" not in requirement:
                match = re.match(r"[A-Za-z0-9._-]+", requirement)
                pending += [match[0]] if match else []
    return [found[name] for name in sorted(found)]


def package_files(package: Distribution) -> Iterator[tuple[str, Path]]:
    """A package's files by their paths below a folder of packages, without tests and headers."""
    for file in package.files or []:
        relative = PurePosixPath(file).as_posix()
        if _UNUSED_IN_PACKAGES.search(relative):
            continue
        path = Path(str(package.locate_file(file)))
        if path.is_file():
            yield relative, path


def licence_of(package: Distribution) -> str:
    """As the package states it."""
    metadata = package.metadata
    stated = next((metadata[name] for name in ("License-Expression", "License") if name in metadata), "")
    if stated and "\n" not in stated and len(stated) < 80:
        return stated
    classifiers = [line for line in metadata.get_all("Classifier") or [] if line.startswith("License ::")]
    return classifiers[0].rpartition(":: ")[2] if classifiers else "NOASSERTION"


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
