"""From configuration, registered models and offers to the pool: which file and which engine answer for each offer."""

import functools
from collections.abc import Callable, Iterable

from provider.backends.key import read_key
from provider.backends.openai import OpenAIBackend
from provider.config import BackendSection, Config
from provider.engine.client import EngineClient, EngineSettings
from provider.engine.host import EngineHost
from provider.engine.memory import VOCABULARY_BYTES, estimate_bytes
from provider.exceptions import ConfigError
from provider.model_card import ENGINE_NAME, FOREIGN_ENGINE
from provider.models.files import ModelFile
from provider.models.library import ModelLibrary
from provider.models.machine import engine_threads, usable_memory
from provider.models.pool import ModelKey, ModelPool, PooledModel, Server, key_of
from provider.offers import Offer, OfferBook


def make_pool(config: Config, library: ModelLibrary, offers: OfferBook, host: EngineHost) -> ModelPool:
    """The pool that serves these offers, with engines in `host`.

    Raises ConfigError when a current one cannot be served.
    """
    if not offers.all():
        raise ConfigError("there are no offers: run `clawmarket provider init` first")
    files = _files(config, library)
    current = set(map(key_of, offers.current()))
    wanted: dict[ModelKey, list[Offer]] = {}
    for offer in offers.all():
        if offer.document["model"]["gguf_sha256"] in files:
            wanted.setdefault(key_of(offer), []).append(offer)
        elif key_of(offer) in current:
            raise ConfigError(_missing(offer, files.values()))
    budget = config.engine.memory or usable_memory() // 2
    memory = {
        key: _memory(files[key.gguf_sha256], _context(config, of_key), config, key) for key, of_key in wanted.items()
    }
    threads = engine_threads(config.engine.threads, _most_at_once(memory, budget))
    models: dict[ModelKey, PooledModel] = {}
    for key, of_key in wanted.items():
        file, offer = files[key.gguf_sha256], of_key[-1]
        settings = EngineSettings(
            file.path, threads, config.engine.parallel, _context(config, of_key), memory=memory[key]
        )
        backend = config.backends.get(offer.model_name)
        if key.engine == ENGINE_NAME:
            make: Callable[[], Server] = functools.partial(EngineClient, settings, host)
        elif backend is not None and key.engine == FOREIGN_ENGINE:
            make = functools.partial(_foreign, backend, settings, host)
        elif key in current:
            raise ConfigError(
                f"offer {offer.offer_id} promises the engine {key.engine}: "
                f"say where it is in [backends.{offer.model_name}]"
            )
        else:
            continue
        models[key] = PooledModel(offer.model_name, memory[key], functools.partial(library.digests.check, file), make)
    return ModelPool(models, budget)


def _files(config: Config, library: ModelLibrary) -> dict[str, ModelFile]:
    files = {model.entry.gguf_sha256: model.file for model in library}
    if config.engine.model is not None:
        path = config.engine.model
        digest = library.digests.get(path)
        files[digest] = ModelFile(path, digest)
    return files


def _missing(offer: Offer, files: Iterable[ModelFile]) -> str:
    model = offer.document["model"]
    there = ", ".join(str(file.path) for file in files) or "no file at all"
    return (
        f"there is no model file that offer {offer.offer_id} promises "
        f"({model['name']}, SHA-256 {model['gguf_sha256']}); "
        f"there is {there}: register the right one with `clawmarket models add`"
    )


def _context(config: Config, offers: Iterable[Offer]) -> int:
    return config.engine.context or max(offer.document["model"]["context_length"] for offer in offers)


def _memory(file: ModelFile, context: int, config: Config, key: ModelKey) -> int:
    if key.engine == ENGINE_NAME:
        return estimate_bytes(file.path, context, config.engine.parallel)
    return VOCABULARY_BYTES


def _most_at_once(memory: dict[ModelKey, int], budget: int) -> int:
    """How many engines of our own can be in memory together."""
    count = 0
    for need in sorted(need for key, need in memory.items() if key.engine == ENGINE_NAME):
        budget -= need
        count += budget >= 0
    return count


def _foreign(backend: BackendSection, settings: EngineSettings, host: EngineHost) -> OpenAIBackend:
    return OpenAIBackend(backend, read_key(backend), settings, host)
