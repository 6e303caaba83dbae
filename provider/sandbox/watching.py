"""Watches this process's containers from outside, while they run: figures for `/metrics`, anomalies for alerts."""

import asyncio
import contextlib
import logging
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from docker.errors import DockerException
from docker.models.containers import Container
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from requests.exceptions import RequestException

from provider.sandbox import containers, denials
from provider.sandbox.anomalies import ENDS, Anomaly, Kind, find_anomalies, find_denied
from provider.sandbox.daemon import Client, Daemon
from provider.sandbox.denials import Heard
from provider.sandbox.errors import SandboxError
from provider.sandbox.figures import Figures, Gauge
from provider.sandbox.paths import SandboxPaths

LOOK_S = 2.0
KEPT_S = 3600.0
"""How long an anomaly is told, if it does not come again."""
_log = logging.getLogger(__name__)
_GONE = (DockerException, RequestException)
_LABELS = ["role", "subject"]
_COUNTERS = {
    "cpu_s": ("cpu_seconds", "Seconds of the processor."),
    "throttled": ("throttled_periods", "Periods in which more of the processor was wanted than there was."),
    "oom_kills": ("memory_kills", "Processes that the kernel killed for memory."),
    "refused_pids": ("refused_processes", "Processes and threads that could not be made."),
    "read": ("read_bytes", "Bytes read from disks."),
    "written": ("written_bytes", "Bytes written to disks."),
}
_GAUGES = {
    "memory": ("memory_bytes", "Memory in use."),
    "memory_peak": ("memory_peak_bytes", "Most memory that was in use, of those that run."),
    "memory_limit": ("memory_limit_bytes", "Memory that may be used."),
    "pids": ("processes", "Processes and threads, gVisor's own among them."),
    "pids_limit": ("processes_limit", "Processes and threads that may be."),
}


@dataclass
class _Watched:
    container: Container
    gauge: Gauge
    started_at: float
    role: str
    subject: str
    last: Figures = field(default_factory=Figures)


@dataclass(frozen=True)
class _Named:
    """A container that something is told of."""

    container_id: str
    name: str
    role: str


class Watchdog(Collector):
    """Looks at all containers of this process; register it with the registry of `/metrics`."""

    def __init__(self, paths: SandboxPaths) -> None:
        self._paths = paths
        self._lock = threading.Lock()
        self._watched: dict[str, _Watched] = {}
        self._ended: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        self._anomalies: Counter[tuple[str, str]] = Counter()
        self._denied: dict[str, Heard] = {}
        self._ended_denied: Counter[tuple[str, str]] = Counter()
        self._told: dict[tuple[str, Kind], tuple[float, Anomaly]] = {}

    async def run(self) -> None:
        """Looks every `LOOK_S` seconds until it is cancelled; a daemon that is away is looked for again."""
        while True:
            with contextlib.suppress(SandboxError):
                await asyncio.to_thread(self.look)
            await asyncio.sleep(LOOK_S)

    def look(self) -> None:
        """One look; ends what the policy says. Raises SandboxError."""
        client = Daemon(self._paths).client()
        try:
            found = {str(each.id): each for each in containers.own(client)}
            with self._lock:
                for name in self._watched.keys() - found.keys():
                    self._forget(self._watched.pop(name))
                for name, container in found.items():
                    if name not in self._watched and (new := _watch(container)):
                        self._watched[name] = new
                watched = list(self._watched.values())
            for each in watched:
                self._judge(each, client)
            for heard in denials.take():
                self._judge_denied(heard, client)
        finally:
            client.close()

    def anomalies(self) -> list[Anomaly]:
        """What was seen within the last hour, the newest first."""
        with self._lock:
            now = time.monotonic()
            self._told = {key: told for key, told in self._told.items() if now - told[0] < KEPT_S}
            return [anomaly for _, anomaly in sorted(self._told.values(), key=lambda told: -told[0])]

    def collect(self) -> Iterable[Metric]:
        """For prometheus-client."""
        with self._lock:
            totals = {key: Counter(counts) for key, counts in self._ended.items()}
            running: Counter[tuple[str, str]] = Counter()
            for each in self._watched.values():
                key = (each.role, each.subject)
                running[key] += 1
                sums = totals.setdefault(key, Counter())
                for name in (*_COUNTERS, *_GAUGES):
                    sums[name] += getattr(each.last, name)
            anomalies = dict(self._anomalies)
            denied = Counter(self._ended_denied)
            for heard in self._denied.values():
                for call, count in heard.calls.items():
                    denied[heard.role, call] += count
        yield _gauge("containers", "Containers that run.", running)
        for name, (shown, about) in _COUNTERS.items():
            yield _counter(shown, about, _LABELS, {key: sums[name] for key, sums in totals.items()})
        for name, (shown, about) in _GAUGES.items():
            yield _gauge(shown, about, {key: totals[key][name] for key in running})
        yield _counter("anomalies", "Seen, by kind.", ["role", "kind"], anomalies)
        about = "System calls that the filter denied, by name; gVisor's tiers only."
        yield _counter("denied_calls", about, ["role", "call"], denied)

    def _judge(self, each: _Watched, client: Client) -> None:
        if (now := each.gauge.read()) is None:
            return
        with self._lock:
            each.last = now
        name = containers.name_of(each.container)
        found = find_anomalies(name, each.role, now, time.time() - each.started_at)
        self._tell(_Named(str(each.container.id), name, each.role), list(found), client)

    def _judge_denied(self, heard: Heard, client: Client) -> None:
        with self._lock:
            before = self._denied.pop(heard.container_id, None)
            if heard.has_ended:
                for call, count in heard.calls.items():
                    self._ended_denied[heard.role, call] += count
            else:
                self._denied[heard.container_id] = heard
        if before is None or heard.calls != before.calls:
            found = list(find_denied(heard.name, heard.calls))
            self._tell(_Named(heard.container_id, heard.name, heard.role), found, client)

    def _tell(self, of: _Named, found: list[Anomaly], client: Client) -> None:
        """What was found of one container; ends it if the policy says so."""
        with self._lock:
            fresh = [anomaly for anomaly in found if (of.name, anomaly.kind) not in self._told]
            for anomaly in found:
                self._told[of.name, anomaly.kind] = (time.monotonic(), anomaly)
            for anomaly in fresh:
                self._anomalies[of.role, anomaly.kind] += 1
        for anomaly in fresh:
            _log.warning("%s: %s", anomaly.what, anomaly.do)
            if anomaly.kind in ENDS.get(of.role, ()):
                _log.warning("%s is ended for it", of.name)
                with contextlib.suppress(*_GONE):
                    client.api.kill(of.container_id)

    def _forget(self, gone: _Watched) -> None:
        for name in _COUNTERS:
            self._ended[gone.role, gone.subject][name] += getattr(gone.last, name)


def _watch(container: Container) -> _Watched | None:
    state = container.attrs["State"]
    gauge = Gauge.of(int(state["Pid"])) if state["Running"] else None
    if gauge is None:
        return None
    labels = container.labels
    return _Watched(
        container,
        gauge,
        datetime.fromisoformat(state["StartedAt"][:19] + "+00:00").timestamp(),
        labels.get(containers.ROLE, ""),
        labels.get(containers.SUBJECT, ""),
    )


def _gauge(name: str, about: str, values: dict[tuple[str, str], int]) -> GaugeMetricFamily:
    metric = GaugeMetricFamily(f"clawmarket_sandbox_{name}", about, labels=_LABELS)
    for key, value in values.items():
        metric.add_metric(key, value)
    return metric


def _counter(name: str, about: str, labels: list[str], values: Mapping[tuple[str, str], float]) -> CounterMetricFamily:
    metric = CounterMetricFamily(f"clawmarket_sandbox_{name}", about, labels=labels)
    for key, value in values.items():
        metric.add_metric(key, value)
    return metric
