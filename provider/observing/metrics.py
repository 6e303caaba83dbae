"""What is counted while serving, in a Prometheus registry of its own. Times in seconds, units in tokens."""

import time
from collections import Counter as Tally
from collections import deque

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

RATE_WINDOW_S = 60.0
_FIRST_TOKEN_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)
_WHOLE_S = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0)
LEDGER_FAULT = "ledger_unavailable"
"""The code of a refusal or failure because the ledger could not be written."""


class Metrics:
    """One worker's counts. Called on the event loop; scraped from any thread."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "clawmarket_requests", "Requests that ended, by how.", ["model", "outcome"], registry=self.registry
        )
        self._refusals = Counter(
            "clawmarket_refusals", "Requests that were not admitted, by the refusal's code.", ["code"],
            registry=self.registry,
        )  # fmt: skip
        self._tokens = Counter(
            "clawmarket_tokens", "Tokens billed: in, cached, out.", ["model", "kind"], registry=self.registry
        )
        self._running = Gauge(
            "clawmarket_requests_running", "Requests being answered or waiting for the engine.", ["model"],
            registry=self.registry,
        )  # fmt: skip
        self._ttft = Histogram(
            "clawmarket_first_token_seconds", "From arrival to the first token.", ["model"],
            buckets=_FIRST_TOKEN_S, registry=self.registry,
        )  # fmt: skip
        self._duration = Histogram(
            "clawmarket_request_seconds", "From arrival to the end, without waiting for vouchers.", ["model"],
            buckets=_WHOLE_S, registry=self.registry,
        )  # fmt: skip
        self._failures = Counter(
            "clawmarket_job_failures", "Parts of the tick that failed, by the error's class.", ["job", "error"],
            registry=self.registry,
        )  # fmt: skip
        self.running: Tally[str] = Tally()
        self.ended: Tally[tuple[str, str]] = Tally()
        self.refused: Tally[str] = Tally()
        self.units: Tally[tuple[str, str]] = Tally()
        self.failed: Tally[tuple[str, str]] = Tally()
        self._recent: deque[tuple[float, str, int]] = deque()
        self._ledger_fault_at: float | None = None

    def request_refused(self, code: str) -> None:
        """A request was not admitted."""
        self._refusals.labels(code).inc()
        self.refused[code] += 1
        self._note(code)

    def request_started(self, model: str) -> None:
        """A request was admitted."""
        self._running.labels(model).inc()
        self.running[model] += 1

    def request_ended(
        self,
        model: str,
        outcome: str,
        ttft_ms: int,
        duration_ms: int,
        units_in: int,
        units_cached: int,
        units_out: int,
    ) -> None:
        """A request has its final receipt. Times in milliseconds; `outcome` is a finish reason or a failure's code."""
        self._running.labels(model).dec()
        self.running[model] -= 1
        self._requests.labels(model, outcome).inc()
        self.ended[model, outcome] += 1
        for kind, units in (("in", units_in), ("cached", units_cached), ("out", units_out)):
            self._tokens.labels(model, kind).inc(units)
            self.units[model, kind] += units
        if units_out:
            self._ttft.labels(model).observe(ttft_ms / 1000)
        self._duration.labels(model).observe(duration_ms / 1000)
        self._recent.append((time.monotonic(), model, units_out))
        self._forget_old()
        self._note(outcome)

    def job_failed(self, job: str, error: BaseException) -> None:
        """A part of the tick failed."""
        name = type(error).__name__
        self._failures.labels(job, name).inc()
        self.failed[job, name] += 1

    def tokens_per_s(self, model: str) -> float:
        """Generated tokens a second, of requests that ended in the last minute."""
        self._forget_old()
        return sum(units for _, name, units in self._recent if name == model) / RATE_WINDOW_S

    def has_ledger_fault(self) -> bool:
        """Whether the ledger failed a request in the last minute."""
        return self._ledger_fault_at is not None and time.monotonic() - self._ledger_fault_at < RATE_WINDOW_S

    def _forget_old(self) -> None:
        while self._recent and time.monotonic() - self._recent[0][0] > RATE_WINDOW_S:
            self._recent.popleft()

    def _note(self, code: str) -> None:
        if code == LEDGER_FAULT:
            self._ledger_fault_at = time.monotonic()
