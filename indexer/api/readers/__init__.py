"""Reading without ever holding up the writer: read-only, with a time limit, from a snapshot."""

from indexer.api.readers.base import Fetch, Reader
from indexer.api.readers.opening import open_reader

__all__ = ["Fetch", "Reader", "open_reader"]
