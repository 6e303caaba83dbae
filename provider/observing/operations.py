"""The owner's own listener: /healthz, /readyz, /metrics, /status. Whoever reaches it reads earnings and traffic.

The public surface has /healthz and a /readyz that gives no reasons.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from provider.config import Config
from provider.exceptions import ConfigError
from provider.files import write_whole
from provider.observing.observer import Observed, Observer
from provider.tls import is_loopback

_log = logging.getLogger(__name__)
ADDRESS_FILE = "operations"
"""In the data folder while the worker runs: where its operations listener is."""


class _Gauges(Collector):
    """The gauges of one look; they live only while it is printed."""

    def __init__(self, observer: Observer, seen: Observed) -> None:
        self._observer = observer
        self._seen = seen

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """For prometheus-client."""
        observer = self._observer
        yield GaugeMetricFamily("clawmarket_queue", "Admitted requests that wait for an engine.", observer.queue())
        yield GaugeMetricFamily("clawmarket_engine_restarts", "Engines that ended by themselves.", observer.restarts())
        sandbox = GaugeMetricFamily("clawmarket_sandbox", "What engines run in; always 1.", labels=["tier"])
        sandbox.add_metric([observer.sandbox()], 1)
        yield sandbox
        yield GaugeMetricFamily(
            "clawmarket_last_tick_timestamp_seconds", "When the last tick ended.", observer.tick_at()
        )
        yield GaugeMetricFamily(
            "clawmarket_chain_reachable", "1 if the last look at the chain succeeded.", int(not self._seen.fault)
        )
        money = GaugeMetricFamily(
            "clawmarket_base_units",
            "Amounts in the token's base units: unpaid, unsettled, held, free, account.",
            labels=["token", "kind"],
        )
        for token, kind, units in observer.money_of(self._seen):
            money.add_metric([token, kind], units)
        yield money
        lags = observer.lags_of(self._seen)
        if lags is not None:
            yield GaugeMetricFamily("clawmarket_ledger_receipts", "Final receipts in the ledger.", lags.receipts)
            yield GaugeMetricFamily(
                "clawmarket_anchor_lag_receipts", "Final receipts under no final anchor.", lags.receipts - lags.anchored
            )
            yield GaugeMetricFamily("clawmarket_anchor_lag_seconds", "Age of the oldest of those.", lags.unanchored_s)
            yield GaugeMetricFamily(
                "clawmarket_settlement_lag_seconds", "Age of the oldest unsettled voucher.", lags.settlement_lag_s
            )


def create_operations_app(observer: Observer) -> FastAPI:
    """The application."""
    app = FastAPI(title="clawmarket operations", docs_url=None, redoc_url=None, openapi_url=None)

    @app.middleware("http")
    async def refuse_foreign_names(request: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
        """A web page whose name was made to point at this machine could else read everything through a browser."""
        server = request.scope.get("server")
        if server and is_loopback(server[0]) and not is_loopback(request.url.hostname or ""):
            return JSONResponse({"error": "ask for 127.0.0.1 or localhost"}, 421)
        return await go_on(request)

    @app.get("/healthz")
    async def health() -> Response:
        return JSONResponse({"alive": True})

    @app.get("/readyz")
    async def ready() -> Response:
        faults = await observer.faults()
        return JSONResponse({"ready": not faults, "reasons": faults}, 503 if faults else 200)

    @app.get("/status")
    async def status() -> Response:
        return Response((await observer.status()).model_dump_json(), media_type="application/json")

    @app.get("/metrics")
    async def metrics() -> Response:
        gauges = _Gauges(observer, await observer.look())
        text = await asyncio.to_thread(generate_latest, observer.metrics.registry) + _print(gauges)
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    return app


def add_readiness(app: FastAPI, observer: Observer) -> None:
    """`/readyz` for the public surface: whether, without why."""

    @app.get("/readyz")
    async def ready() -> Response:
        faults = await observer.faults()
        return JSONResponse({"ready": not faults}, 503 if faults else 200)


@asynccontextmanager
async def operations(config: Config, observer: Observer) -> AsyncIterator[None]:
    """Serves until the end of the block; a port in use is reported and another one taken. Raises ConfigError."""
    section = config.operations
    if not section.enabled:
        yield
        return
    with _listen(section.host, section.port) as listening:
        host, port = listening.getsockname()[:2]
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        address = config.provider.data / ADDRESS_FILE
        write_whole(address, f"{url}\n".encode())
        _log.info("status and metrics on %s", url)
        settings = uvicorn.Config(
            create_operations_app(observer),
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=1,
        )
        server = _Server(settings)
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            yield
        finally:
            server.should_exit = True
            await serving
            address.unlink(missing_ok=True)


def address_of(data: Path) -> str | None:
    """Where a worker with this data folder says its listener is."""
    try:
        return (data / ADDRESS_FILE).read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


class _Server(uvicorn.Server):
    """Signals are the public server's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _print(gauges: _Gauges) -> bytes:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(gauges)
    return generate_latest(registry)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        try:
            listening.bind((host, port))
        except OSError as error:
            _log.warning("port %d of [operations] cannot be used (%s): a free one is taken", port, error.strerror)
            listening.bind((host, 0))
    except OSError as error:
        listening.close()
        raise ConfigError(f"cannot listen on {host} for [operations]: {error.strerror}") from error
    return listening
