"""What the API counts, in a Prometheus registry of its own."""

from __future__ import annotations

import time
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from indexer.api.watcher import Watcher

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class Metrics:
    """One process's counts; `clawmarket_api_indexed_*` are of the tables."""

    def __init__(self, watcher: Watcher) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "clawmarket_api_requests", "Requests answered.", ["route", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "clawmarket_api_seconds", "From a request's arrival to its answer's end.", ["route"],
            buckets=_SECONDS, registry=self._registry,
        )  # fmt: skip
        self.live = Gauge("clawmarket_api_live", "Open live queries.", registry=self._registry)
        self._registry.register(_Position(watcher))

    def answered(self, route: str, status: int, seconds: float) -> None:
        """A request ended."""
        self._requests.labels(route, status).inc()
        self._seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """In Prometheus' format."""
        return generate_latest(self._registry)


class _Position(Collector):
    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """For prometheus-client."""
        indexed = self._watcher.indexed
        if indexed is not None:
            yield GaugeMetricFamily("clawmarket_api_indexed_block", "The newest indexed block.", indexed.number)
            lag = max(0.0, time.time() - indexed.time)
            yield GaugeMetricFamily("clawmarket_api_indexed_lag_seconds", "Age of that block.", lag)
