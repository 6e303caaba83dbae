"""What is in an image: a plan of files, whose digest names the image."""

import json
from dataclasses import dataclass, field
from hashlib import sha256
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any

from provider.sandbox.image import interpreter, libraries
from provider.sandbox.image.modules import module_files
from provider.sandbox.policy import USER

FORMAT = 1  # of images; raise it when the same inputs make another image
PACKAGES = "opt/packages"
PROJECT = "opt/project"
_PASSWD = f"root:x:0:0:root:/:/sbin/nologin\nnobody:x:{USER}:{USER}:nobody:/:/sbin/nologin\n"
_GROUP = f"root:x:0:\nnogroup:x:{USER}:\n"
_LINKS = {"bin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib64", "sbin": "usr/sbin"}
_FOLDERS = ("dev", "etc", "models", "opt", "proc", "run", "sys", "tmp", "usr/bin", "usr/lib", "usr/lib64", "usr/sbin")


@dataclass(frozen=True)
class Recipe:
    """What an image is for: modules of this project, packages they use, the command it runs."""

    name: str
    modules: tuple[str, ...]
    packages: tuple[str, ...]
    command: tuple[str, ...]


ENGINE = Recipe(
    "engine",
    ("provider.engine.__main__", "provider.engine.gguf_check"),
    ("llama-cpp-python", "numpy"),
    ("-m", "provider.engine"),
)


@dataclass
class Contents:
    """Everything that makes an image: files of this machine by their paths in it, texts, links, folders."""

    recipe: Recipe
    files: dict[str, Path] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    folders: tuple[str, ...] = _FOLDERS
    packages: list[Distribution] = field(default_factory=list)

    @property
    def settings(self) -> dict[str, Any]:
        """How a container of it starts by default."""
        return {
            "Cmd": [f"/{self.interpreter}", "-s", *self.recipe.command],
            "Env": [f"{name}={value}" for name, value in sorted(ENVIRONMENT.items())],
            "User": f"{USER}:{USER}",
            "WorkingDir": "/",
        }

    @property
    def interpreter(self) -> str:
        """Python's path in the image, without the leading slash."""
        return str(interpreter.program()).lstrip("/")

    @property
    def digest(self) -> str:
        """Of all inputs: the same digest means the same image."""
        inputs = [FORMAT, self.recipe.name, self.digests, self.texts, self.links, self.folders, self.settings]
        return sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


ENVIRONMENT = {
    "HOME": "/tmp",  # noqa: S108 - of the container
    "LANG": "C.UTF-8",
    "OPENBLAS_NUM_THREADS": "1",
    "PATH": "/usr/bin",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONPATH": f"/{PROJECT}:/{PACKAGES}",
    "PYTHONUTF8": "1",
}


def plan(recipe: Recipe) -> Contents:
    """Reads this machine. Raises ImageError if something is missing."""
    contents = Contents(recipe, texts={"etc/passwd": _PASSWD, "etc/group": _GROUP}, links=dict(_LINKS))
    contents.packages = interpreter.package_closure(*recipe.packages)
    files = interpreter.standard_library()
    files[contents.interpreter] = interpreter.program()
    for package in contents.packages:
        files |= {f"{PACKAGES}/{name}": path for name, path in interpreter.package_files(package)}
    files |= {f"{PROJECT}/{name}": path for name, path in module_files(*recipe.modules).items()}
    binaries = [path for path in files.values() if _may_be_binary(path) and libraries.is_elf(path)]
    files |= libraries.closure(binaries)
    contents.files = dict(sorted(files.items()))
    contents.digests = {name: _digest(path) for name, path in contents.files.items()}
    _link_copies(contents)
    return contents


def _link_copies(contents: Contents) -> None:
    """The same library under two names in one folder becomes a link; package installers copy what was linked."""
    first: dict[tuple[str, str], str] = {}
    for name in sorted(contents.files, key=lambda name: (-len(name), name)):
        folder, _, plain = name.rpartition("/")
        if ".so" not in plain:
            continue
        key = (folder, contents.digests[name])
        if key in first:
            contents.links[name] = first[key].rpartition("/")[2]
            del contents.files[name], contents.digests[name]
        else:
            first[key] = name


def _may_be_binary(path: Path) -> bool:
    return ".so" in path.name or path == interpreter.program()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return _file_digest(file)


def _file_digest(file: Any) -> str:
    from hashlib import file_digest

    return file_digest(file, "sha256").hexdigest()
