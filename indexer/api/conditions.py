"""What a request asks beside its query: `min_block`, and whether it has the answer already."""

from __future__ import annotations

import hashlib

from starlette.requests import Request

from indexer.api.errors import ApiError, bad_parameter
from indexer.api.indexed import Indexed
from indexer.api.resources import BY_NAME, Resource
from indexer.api.watcher import Watcher

MIN_BLOCK = "min_block"
_FORMAT = b"1"
"""Raise it when the same rows are shown differently."""


def resource_of(request: Request) -> Resource:
    """The one that the path names. Raises ApiError, 404."""
    resource = BY_NAME.get(request.path_params["resource"])
    if resource is None:
        raise not_found(f"there is no resource {request.path_params['resource'][:100]!r}")
    return resource


def parameters_of(request: Request) -> dict[str, str]:
    """The query string's. Raises ApiError when one is there twice."""
    found: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name in found:
            raise bad_parameter(name[:100], "given twice")
        found[name] = value
    return found


async def wait_for_block(watcher: Watcher, parameters: dict[str, str]) -> None:
    """Takes `min_block` out of the parameters and waits until it is indexed. Raises ApiError."""
    text = parameters.pop(MIN_BLOCK, None)
    if text is None:
        return
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise bad_parameter(MIN_BLOCK, "not a block number")
    await watcher.wait_for(int(text))


def etag_of(request: Request, indexed: Indexed) -> str:
    """The same for the same address at the same block alone."""
    scope = request.scope
    parts = (_FORMAT, indexed.hash, scope["raw_path"], scope["query_string"])
    return f'"{hashlib.blake2b(b"?".join(parts), digest_size=16).hexdigest()}"'


def has_already(request: Request, etag: str) -> bool:
    """Whether If-None-Match names the answer."""
    named = request.headers["if-none-match"].split(",")
    return any(part.strip().removeprefix("W/") in (etag, "*") for part in named)


def not_found(what: str) -> ApiError:
    """There is no such row, or address."""
    return ApiError(404, "not_found", what)
