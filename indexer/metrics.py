"""What the writer counts, for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Metric, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from indexer.exceptions import ConfigUnusable
from indexer.rpc.endpoints import Endpoints
from indexer.sync.follower import Progress

HOST = "127.0.0.1"


class WriterMetrics(Collector):
    """Filled by what the follower reports; read from any thread. Endpoints are told apart by their number from 0."""

    def __init__(self, endpoints: Endpoints) -> None:
        self._endpoints = endpoints
        self._progress: Progress | None = None
        self._logs = self._reorgs = 0

    def report(self, progress: Progress) -> None:
        """A step of the follower's. One that ends below the last has undone blocks."""
        before, self._progress = self._progress, progress
        self._logs += progress.logs
        self._reorgs += before is not None and progress.position.block_number < before.position.block_number

    def serve(self, port: int) -> None:
        """Answers scrapes on the loopback address from a thread of its own. Raises ConfigUnusable."""
        registry = CollectorRegistry()
        registry.register(self)
        try:
            start_http_server(port, HOST, registry)
        except OSError as error:
            raise ConfigUnusable(f"metrics_port {port} cannot be used: {error.strerror}") from error

    def collect(self) -> Iterable[Metric]:
        """For prometheus-client."""
        yield CounterMetricFamily("clawmarket_indexer_logs", "Logs written.", self._logs)
        yield CounterMetricFamily("clawmarket_indexer_reorgs", "Times that blocks were undone.", self._reorgs)
        failures = CounterMetricFamily("clawmarket_indexer_rpc_errors", "Failed requests.", labels=["endpoint"])
        for number, count in enumerate(self._endpoints.failures):
            failures.add_metric([str(number)], count)
        yield failures
        progress = self._progress
        if progress is not None:
            position = progress.position
            yield GaugeMetricFamily("clawmarket_indexer_block", "The newest indexed block.", position.block_number)
            behind = progress.target - position.block_number
            yield GaugeMetricFamily("clawmarket_indexer_lag_blocks", "Blocks of the chain that are missing.", behind)
            lag = max(0.0, time.time() - position.block_time)
            yield GaugeMetricFamily("clawmarket_indexer_lag_seconds", "Age of the newest indexed block.", lag)
