"""Collecting documents in a thread beside the writer, which never waits for it."""

from __future__ import annotations

import asyncio
import threading
from urllib.parse import urlsplit

from indexer.config import IndexerConfig
from indexer.documents.collector import Collector, Report
from indexer.documents.fetching import Fetcher
from indexer.exceptions import StoreError
from indexer.session import open_database
from protocol.chain.deployments import Deployment
from protocol.typed_data import Domain

_PAUSE_S = 2.0


def collect_beside(
    config: IndexerConfig, deployment: Deployment, stopped: threading.Event, report: Report
) -> threading.Thread:
    """Starts the thread; it ends soon after `stopped` is set, at the latest with the process."""
    arguments = (config, deployment, stopped, report)
    thread = threading.Thread(target=lambda: asyncio.run(_collect(*arguments)), name="documents", daemon=True)
    thread.start()
    return thread


async def _collect(config: IndexerConfig, deployment: Deployment, stopped: threading.Event, report: Report) -> None:
    domain = Domain(deployment.chain_id, deployment.address("LeaseEscrow"))
    trusted = None
    if not deployment.profile.is_development:
        trusted = frozenset(urlsplit(address).hostname or "" for address in config.providers)
    async with Fetcher(trusted) as fetcher:
        while not stopped.is_set():
            try:
                database = open_database(config)
                try:
                    collector = Collector(database, domain, config.providers, fetcher, report)
                    while not stopped.is_set():
                        if not await collector.round():
                            await asyncio.to_thread(stopped.wait, _PAUSE_S)
                finally:
                    database.close()
            except StoreError as error:
                report(f"documents wait: {error}")
                await asyncio.to_thread(stopped.wait, _PAUSE_S)
