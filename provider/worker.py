"""The worker process: engine, ledger, HTTP surface and the periodic tick, started and stopped together."""

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from types import FrameType

import uvicorn
import uvloop

from protocol import keystore
from protocol.chain import deployments
from protocol.chain.client import ChainClient
from protocol.chain.clock import MarketClock
from protocol.chain.sender import SenderPolicy, TransactionSender
from protocol.keystore import Password
from protocol.typed_data import Domain
from provider import metadata
from provider.anchoring import Anchoring
from provider.api import create_app
from provider.backup import LEDGER_FILE, OFFERS_FOLDER, SENDER_FILE, Backups
from provider.config import Config
from provider.content_policy import ContentPolicy, check_policy_matches
from provider.exceptions import ConfigError
from provider.exposure import CreditPolicy
from provider.guard import EdgeGate, server_config
from provider.host import Gate, Sensors
from provider.host.cores import keep_to_cores
from provider.isolation import REMEDY, weaknesses
from provider.leases import LeaseCache
from provider.ledger import Ledger
from provider.limits import TokenBucket
from provider.market import Market
from provider.models.library import ModelLibrary
from provider.models.serving import make_pool
from provider.observing.logs import hide
from provider.observing.metrics import Metrics
from provider.observing.observer import Observer
from provider.observing.operations import add_readiness, operations
from provider.offers import OfferBook
from provider.releasing import Releasing
from provider.restoring import check_restored
from provider.sandbox.serving import Sandbox
from provider.service import InferenceService, ServiceSettings
from provider.settling import Settling, SettlingPolicy
from provider.tls import server_context, tls_files
from provider.upkeep import Job, Upkeep

_log = logging.getLogger(__name__)


class Worker:
    """Everything of one worker. Building it reads and checks; `run` serves."""

    def __init__(self, config: Config, password: Password, sandbox: Sandbox) -> None:
        """Raises ConfigError, LedgerError, ChainError or KeystoreError when something does not fit."""
        deployment = deployments.load_file(config.chain.deployment)
        self._config = config
        self._sandbox = sandbox
        self.client = ChainClient(config.chain.rpc, deployment)
        self.client.check_deployment()
        self.domain = Domain(deployment.chain_id, deployment.address("LeaseEscrow"))
        self._node = keystore.load(config.provider.node_key, password)
        self._operator = keystore.load(config.provider.operator_key, password)
        hide(password.reveal(), self._node.private_key.hex(), self._operator.private_key.hex())
        data = config.provider.data
        check_restored(data)
        self._check_registration()
        data.mkdir(parents=True, exist_ok=True)
        offers = OfferBook(data / OFFERS_FOLDER)
        self.models = make_pool(config, ModelLibrary(data), offers, sandbox.engines)
        clock = MarketClock.of(deployment.profile)
        self.market = Market(self.client, clock)
        self.sender = TransactionSender(self.client, self._operator, data / SENDER_FILE, SenderPolicy(poll_s=0.2))
        self._tls = tls_files(config)
        self._metadata = metadata.load(config, self.domain)
        metrics = Metrics()
        if sandbox.watchdog:
            metrics.registry.register(sandbox.watchdog)
        self._policy = ContentPolicy.load(config.policy.rules) if config.policy.rules else None
        check_policy_matches(self._policy, offers.current())
        if config.host.cores:
            keep_to_cores(config.host.cores)
        self.gate = Gate(config.host.limits(), Sensors())
        serving = config.serving
        self.service = InferenceService(
            domain=self.domain,
            provider=config.provider.id,
            signer=self._node,
            ledger=Ledger(data / LEDGER_FILE, self.domain, config.provider.id),
            leases=LeaseCache(
                self.market.lease, serving.lease_ttl_s, unknown_ttl_s=2.0, strangers=TokenBucket(per_s=20, burst=50)
            ),
            offers=offers,
            backends=self.models,
            clock=clock,
            settings=ServiceSettings(
                credit=CreditPolicy(serving.credit_stranger, serving.credit_growth_bps),
                chunk_tokens=serving.chunk_tokens,
                voucher_timeout_s=serving.voucher_timeout_s,
                max_paused_s=serving.max_paused_s,
                closing_margin_s=config.settling.closing_margin_s,
            ),
            sandbox=sandbox.tier.promised,
            gate=self.gate,
            policy=self._policy,
            metrics=metrics,
        )
        self._observer = Observer(
            config=config,
            service=self.service,
            client=self.client,
            operator=self._operator.address,
            ledger_path=data / LEDGER_FILE,
            metrics=metrics,
            known=self._metadata,
            gate=self.gate,
            restarts=self.models.restarts,
            anomalies=sandbox.watchdog.anomalies if sandbox.watchdog else list,
            parallel=config.engine.parallel,
        )
        policy = SettlingPolicy(config.settling.gas_multiple, config.settling.ether_price)
        copies = config.backup
        save = Backups(config, copies.folder, copies.keep, self._node).take if copies.folder else None
        self.anchoring = Anchoring(self.service, self.client, self.sender, self._node, save)
        self.settling = Settling(self.service, self.market, self.sender, policy)
        self.releasing = Releasing(self.service, self.market, self.sender, config.settling.releases_per_tick)
        self._anchor_due = 0.0

    def run(self) -> None:
        """Serves until SIGINT or SIGTERM. Raises ConfigError when the port is taken, EngineStartError, ChainError."""
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        with _listen(self._config.serving.host, self._config.serving.port) as listening:
            async with self._running(), operations(self._config, self._observer):
                app = create_app(self.service)
                add_readiness(app, self._observer)
                metadata.add_route(app, self._metadata)
                limits = self._config.limits.guard()
                settings = server_config(
                    EdgeGate(app, domain=self.domain, known_lease=self.service.leases.known, limits=limits),
                    limits,
                    server_context(self._tls) if self._tls else None,
                    log_config=None,
                    timeout_graceful_shutdown=5,
                )
                _log.info("engines run in the sandbox %s", self._sandbox.tier)
                host, port = listening.getsockname()[:2]
                scheme = "https" if self._tls else "http"
                _log.info("provider %d serves on %s://%s:%d", self.service.provider, scheme, host, port)
                await _Server(settings, self._drain).serve(sockets=[listening])

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
        await self.market.refresh()
        await self.anchoring.check_not_contradicting()
        await asyncio.to_thread(self._check_metadata)
        for told in weaknesses(self.service.offers.current(), self.service.sandbox):
            _log.error("%s, so it is not served: %s", told, REMEDY)
        await self.models.start()
        interrupted = await self.service.recover()
        if interrupted:
            _log.warning("%d requests were interrupted and got their final receipts", interrupted)
        await self.gate.start()
        tasks = [asyncio.create_task(self._upkeep().run()), asyncio.create_task(self.gate.run())]
        if self._sandbox.watchdog:
            tasks.append(asyncio.create_task(self._sandbox.watchdog.run()))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.service.stop()
            await self.models.stop()
            self.sender.close()
            self.service.ledger.close()
            self.client.close()

    async def _drain(self) -> None:
        left = await self.gate.drain(self.service.running, self._config.host.drain_s)
        if left:
            _log.warning("%d requests still run and end now, with their final receipts", left)

    def _upkeep(self) -> Upkeep:
        """What a tick does: money first."""
        jobs = [
            Job("following transactions", lambda: asyncio.to_thread(self.sender.step)),
            Job("settling", self.settling.tick),
            Job("looking after running requests", self.service.look_after_running),
            Job("anchoring", self._anchor),
            Job("releasing", self.releasing.tick),
            Job("noting the tick", self._observer.note_tick),
        ]
        return Upkeep([self._observer.watch(job) for job in jobs], self._config.settling.tick_s)

    async def _anchor(self) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() >= self._anchor_due and await self.anchoring.tick():
            self._anchor_due = loop.time() + self._config.settling.anchor_s

    def _check_metadata(self) -> None:
        """Warns of what consumers would stumble over. Raises ChainError."""
        on_chain = self.client.get(self.client.reads.metadata_digest(self._config.provider.id))
        now = self.service.clock.now()
        promised = {offer.offer_id: offer.sandbox for offer in self.service.offers.current()}
        for fault in metadata.faults(self._config, self._metadata, promised, on_chain, self._node.address, now):
            _log.warning("%s: run `clawmarket provider publish`", fault)

    def _check_registration(self) -> None:
        provider = self._config.provider.id
        registered = self.client.node_key(provider)
        if registered != self._node.address:
            raise ConfigError(
                f"provider {provider} has the node key {registered}, the keystore holds {self._node.address}: "
                "correct provider.id or rotate the key"
            )


class _Server(uvicorn.Server):
    """Uvicorn, but the first signal drains before it stops, so that running answers are finished and paid.

    The second stops at once. A signal that was heeded is not raised again at the end.
    """

    def __init__(self, config: uvicorn.Config, drain: Callable[[], Awaitable[None]]) -> None:
        super().__init__(config)
        self._drain = drain
        self._signals = 0
        self._draining: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - a signal handler's
        """The first time drains, the next stops."""
        self._signals += 1
        if self._signals > 1:
            self.should_exit = self.force_exit = True

    async def on_tick(self, counter: int) -> bool:
        """Starts draining once a signal came, and stops when that is done."""
        if self._signals and self._draining is None:
            self._draining = asyncio.create_task(self._until_drained())
        return await super().on_tick(counter)

    async def _until_drained(self) -> None:
        try:
            await self._drain()
        finally:
            self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise ConfigError(f"cannot listen on {host} port {port}: {error.strerror}") from error
    return listening
