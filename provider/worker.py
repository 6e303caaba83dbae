"""The worker process: engine, ledger, HTTP surface and the periodic tick, started and stopped together."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn

from protocol import keystore
from protocol.chain import deployments
from protocol.chain.client import ChainClient
from protocol.chain.clock import MarketClock
from protocol.chain.exceptions import ChainError
from protocol.chain.sender import SenderPolicy, TransactionSender
from protocol.keystore import Password
from protocol.typed_data import Domain
from provider.anchoring import Anchoring
from provider.app import create_app
from provider.config import Config
from provider.engine.client import EngineClient, EngineSettings
from provider.exceptions import ConfigError
from provider.exposure import CreditPolicy
from provider.leases import LeaseCache
from provider.ledger import Ledger
from provider.market import Market
from provider.model_card import describe_model
from provider.offers import OfferBook
from provider.service import InferenceService, ServiceSettings
from provider.settling import Settling, SettlingPolicy

_log = logging.getLogger(__name__)
LEDGER_FILE = "ledger.sqlite"
SENDER_FILE = "sender.sqlite"
OFFERS_FOLDER = "offers"


class Worker:
    """Everything of one worker. Building it reads and checks; `run` serves."""

    def __init__(self, config: Config, password: Password) -> None:
        """Raises ConfigError, LedgerError, ChainError or KeystoreError when something does not fit."""
        deployment = deployments.load_file(config.chain.deployment)
        self._config = config
        self.client = ChainClient(config.chain.rpc, deployment)
        self.client.check_deployment()
        self.domain = Domain(deployment.chain_id, deployment.address("LeaseEscrow"))
        self._node = keystore.load(config.provider.node_key, password)
        self._operator = keystore.load(config.provider.operator_key, password)
        self._check_registration()
        data = config.provider.data
        data.mkdir(parents=True, exist_ok=True)
        offers = OfferBook(data / OFFERS_FOLDER)
        _check_model(offers, config.engine.model)
        clock = MarketClock()
        self.market = Market(self.client, clock)
        self.sender = TransactionSender(self.client, self._operator, data / SENDER_FILE, SenderPolicy(poll_s=0.2))
        self.engine = EngineClient(
            EngineSettings(config.engine.model, config.engine.threads, config.engine.parallel, config.engine.context)
        )
        serving = config.serving
        self.service = InferenceService(
            domain=self.domain,
            provider=config.provider.id,
            signer=self._node,
            ledger=Ledger(data / LEDGER_FILE, self.domain, config.provider.id),
            leases=LeaseCache(self.market.lease, serving.lease_ttl_s),
            offers=offers,
            engine=self.engine,
            clock=clock,
            settings=ServiceSettings(
                credit=CreditPolicy(serving.credit_stranger, serving.credit_growth_bps),
                chunk_tokens=serving.chunk_tokens,
                voucher_timeout_s=serving.voucher_timeout_s,
            ),
        )
        policy = SettlingPolicy(config.settling.gas_multiple, config.settling.ether_price)
        self.anchoring = Anchoring(self.service, self.client, self.sender, self._node)
        self.settling = Settling(self.service, self.market, self.sender, policy)

    def run(self) -> None:
        """Serves until SIGINT or SIGTERM. Raises ConfigError when the port is taken."""
        listening = _listen(self._config.serving.host, self._config.serving.port)
        app = create_app(self.service, self._lifespan)
        settings = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=5)
        host, port = listening.getsockname()[:2]
        _log.info("provider %d serves on http://%s:%d", self.service.provider, host, port)
        uvicorn.Server(settings).run(sockets=[listening])

    @asynccontextmanager
    async def _lifespan(self) -> AsyncIterator[None]:
        await self.market.refresh()
        await self.engine.start()
        interrupted = await self.service.recover()
        if interrupted:
            _log.warning("%d requests were interrupted and got their final receipts", interrupted)
        ticking = asyncio.create_task(self._tick_forever())
        try:
            yield
        finally:
            ticking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await ticking
            await self.service.stop()
            await self.engine.stop()
            self.sender.close()
            self.service.ledger.close()
            self.client.close()

    async def _tick_forever(self) -> None:
        anchor_due = 0.0
        loop = asyncio.get_running_loop()
        while True:
            try:
                if loop.time() >= anchor_due and await self.anchoring.tick():
                    anchor_due = loop.time() + self._config.settling.anchor_s
                await self.settling.tick()
            except ChainError as error:
                _log.warning("the tick goes on later: %s", error)
            await asyncio.sleep(self._config.settling.tick_s)

    def _check_registration(self) -> None:
        provider = self._config.provider.id
        registered = self.client.node_key(provider)
        if registered != self._node.address:
            raise ConfigError(
                f"provider {provider} has the node key {registered}, the keystore holds {self._node.address}: "
                "correct provider.id or rotate the key"
            )


def _check_model(offers: OfferBook, model: Path) -> None:
    if not offers.all():
        raise ConfigError("there are no offers: run `clawmarket provider init` first")
    found = describe_model(model, "model")
    for offer in offers.current():
        if offer.document["model"]["gguf_sha256"] != found.gguf_sha256:
            raise ConfigError(f"{model} is not the model file that offer {offer.offer_id} promises")


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
