"""The models a worker may serve: `models.json` says what each name stands for, `model-files.json` where its file is.

`models.json` is a registry as `protocol/schemas/models.json` describes it, and can be given to others; the paths are
this machine's own. Names that everybody knows are shipped (`well_known.json`) and stand for one file only.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from protocol.exceptions import InvalidDocument, ModelMismatch
from protocol.models import ModelEntry, ModelRegistry
from provider.exceptions import ConfigError
from provider.files import write_whole
from provider.model_card import describe_model
from provider.models.files import ChangedFile, FileDigests, ModelFile, Progress

REGISTRY_FILE = "models.json"
PATHS_FILE = "model-files.json"
DIGESTS_FILE = "file-digests.json"
_SCHEMA = "clawmarket/models/1"


@dataclass(frozen=True)
class LocalModel:
    """A registered model and its file here."""

    entry: ModelEntry
    path: Path

    @property
    def file(self) -> ModelFile:
        """The file and its SHA-256."""
        return ModelFile(self.path, self.entry.gguf_sha256)


def well_known() -> ModelRegistry:
    """The shipped registry."""
    return ModelRegistry.from_json((resources.files("provider.models") / "well_known.json").read_bytes())


class ModelLibrary:
    """The models registered in a folder, by name."""

    def __init__(self, folder: Path) -> None:
        """Raises ConfigError if its files are damaged."""
        self._folder = folder
        self.digests = FileDigests(folder / DIGESTS_FILE)
        self._models = self._load()

    def __iter__(self) -> Iterator[LocalModel]:
        return iter(self._models.values())

    def find(self, name: str) -> LocalModel:
        """Raises ConfigError for an unknown name."""
        try:
            return self._models[name]
        except KeyError:
            raise ConfigError(f"there is no model {name}: `clawmarket models list` shows those there are") from None

    def add(self, path: Path, name: str | None = None, progress: Progress | None = None) -> LocalModel:
        """Registers a file under `name`, by default the file's well-known name or else its own.

        The same file may come again, also from another place. Raises ConfigError if the name stands for another file.
        """
        path = path.resolve()
        digest = self.digests.get(path, progress)
        name = name or _known_name(digest) or path.stem.lower()
        entry = describe_model(path, name, digest)
        known = well_known()
        if name in known:
            check_same(entry, known[name], "everybody knows")
        if name in self._models:
            check_same(entry, self._models[name].entry, "is registered here")
        model = LocalModel(entry, path)
        self._save({**self._models, name: model})
        return model

    def remove(self, name: str) -> None:
        """Forgets a name; the file stays. Raises ConfigError for an unknown name."""
        self.find(name)
        self._save({other: model for other, model in self._models.items() if other != name})

    def verify(self, name: str, progress: Progress | None = None) -> None:
        """Reads the whole file again. Raises ChangedFile if it is another one now, ConfigError."""
        model = self.find(name)
        check_same(describe_model(model.path, name, progress=progress), model.entry, "is registered here")

    def _load(self) -> dict[str, LocalModel]:
        registry, files = self._folder / REGISTRY_FILE, self._folder / PATHS_FILE
        if not registry.exists():
            return {}
        try:
            entries = ModelRegistry.from_json(registry.read_bytes())
            paths = json.loads(files.read_bytes())
            return {name: LocalModel(entry, Path(paths[name])) for name, entry in entries.items()}
        except OSError as error:
            raise ConfigError(f"{error.filename} cannot be read: {error.strerror}") from error
        except (InvalidDocument, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{registry} and {files} are damaged or do not belong together: {error}; "
                "delete both and add the models again"
            ) from error

    def _save(self, models: dict[str, LocalModel]) -> None:
        document = {"schema": _SCHEMA, "models": {name: _as_document(model.entry) for name, model in models.items()}}
        try:
            ModelRegistry(document)
        except InvalidDocument as error:
            raise ConfigError(
                f"this cannot be registered: {error}; names are lower-case letters, digits and . _ -"
            ) from error
        paths = {name: str(model.path) for name, model in {**self._models, **models}.items()}
        write_whole(self._folder / PATHS_FILE, json.dumps(paths, indent=2, ensure_ascii=False).encode())
        write_whole(self._folder / REGISTRY_FILE, json.dumps(document, indent=2).encode())
        self._models = models


def check_same(found: ModelEntry, wanted: ModelEntry, what: str) -> None:
    """Raises ChangedFile, naming the digest that differs, unless both are of the same file."""
    try:
        wanted.check(
            gguf_sha256=found.gguf_sha256,
            tokenizer_sha256=found.tokenizer_sha256,
            chat_template_sha256=found.chat_template_sha256,
        )
    except ModelMismatch as error:
        field = str(error.field)
        raise ChangedFile(
            f"this is not the {wanted.name} that {what}: its {field} is {getattr(found, field)}, "
            f"not {getattr(wanted, field)}; give this file another name with --name, or get the right file"
        ) from error


def _known_name(gguf_sha256: str) -> str | None:
    return next((name for name, entry in well_known().items() if entry.gguf_sha256 == gguf_sha256), None)


def _as_document(entry: ModelEntry) -> dict[str, Any]:
    optional = ("size_bytes", "licence")
    fields = asdict(entry).items()
    return {key: value for key, value in fields if key != "name" and (value is not None or key not in optional)}
