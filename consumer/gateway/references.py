"""What answers of a model are compared with: its file, where this machine has it, else answers recorded elsewhere."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from consumer.exceptions import ConfigUnusable, TokenizerUnusable
from consumer.routing.canary import Known
from consumer.routing.reference import LocalReference
from protocol.stream import StreamToken


class References:
    """Files are read when one is first wanted; one model at a time is in memory."""

    def __init__(self, paths: Iterable[Path], known: Mapping[str, Sequence[Known]] | None = None) -> None:
        """`known` has recorded answers by the SHA-256 of the model's file."""
        self._paths = list(dict.fromkeys(paths))
        self._known = known or {}
        self._digests: dict[Path, str] = {}
        self._one_at_a_time = asyncio.Lock()

    @asynccontextmanager
    async def of(self, sha256: str) -> AsyncIterator[LocalReference | Sequence[Known]]:
        """The model with this SHA-256 until the end of the block, or recorded answers. Raises TokenizerUnusable."""
        async with self._one_at_a_time:
            path = await self._find(sha256)
            if path is None:
                yield self._known.get(sha256, ())
                return
            loading = asyncio.ensure_future(asyncio.to_thread(LocalReference, path))
            try:
                yield await asyncio.shield(loading)
            finally:
                reference = await loading
                await asyncio.to_thread(reference.close)

    async def _find(self, sha256: str) -> Path | None:
        for path in self._paths:
            if path not in self._digests:
                self._digests[path] = await asyncio.to_thread(_sha256_of, path)
            if self._digests[path] == sha256:
                return path
        return None


def load_known(path: Path) -> dict[str, list[Known]]:
    """Recorded answers: `{SHA-256: [{"prompt": …, "tokens": [[id, thousandths of a nat], …]}, …]}`.

    Raises ConfigUnusable.
    """
    try:
        return {
            str(sha256): [
                Known(str(each["prompt"]), tuple(StreamToken(int(token), int(log)) for token, log in each["tokens"]))
                for each in answers
            ]
            for sha256, answers in json.loads(path.read_text(encoding="utf-8")).items()
        }
    except OSError as error:
        raise ConfigUnusable(f"recorded answers {path} cannot be read: {error.strerror}") from error
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigUnusable(f"recorded answers {path} are damaged: {error}") from error


def dump_known(known: Mapping[str, Sequence[Known]]) -> str:
    """The reverse of `load_known`."""
    return json.dumps(
        {
            sha256: [
                {"prompt": each.prompt, "tokens": [[token.token_id, token.logprob] for token in each.tokens]}
                for each in answers
            ]
            for sha256, answers in known.items()
        }
    )


def _sha256_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise TokenizerUnusable(f"{path} cannot be read: {error.strerror}") from error
