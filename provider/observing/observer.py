"""Looks at a running worker: ledger and chain beside the event loop, its own counts on it."""

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from protocol.chain.client import ChainClient
from protocol.chain.exceptions import ChainError
from protocol.sandboxes import SandboxTier
from provider import metadata
from provider.config import Config
from provider.exceptions import LedgerError, Refusal
from provider.isolation import weaknesses
from provider.observing.alerts import find_alerts
from provider.observing.chain_figures import ChainFigures, lease_tokens, read_chain
from provider.observing.ledger_figures import LedgerFigures, read_ledger, room_fault
from provider.observing.metrics import Metrics
from provider.observing.status import (
    Alert,
    LedgerStatus,
    ModelStatus,
    Status,
    WorkerStatus,
    ledger_status,
    money_status,
    offer_status,
    only_token,
    stake_status,
)
from provider.offers import Offer
from provider.sandbox.anomalies import Anomaly
from provider.seams import Gate
from provider.service import InferenceService
from provider.upkeep import Job

CHAIN_AGE_S = 15.0
"""How old the chain's figures may be before a reader has them read anew."""
PATIENCE_S = 3.0
"""How long a reader waits for that."""
FAULTS_AGE_S = 1.0
CHAIN_STALE_S = 120.0
"""How long the chain may be out of reach before the worker is not ready."""
PROBE_S = 5.0
MAX_NEW_TOKENS = 1_000


@dataclass(frozen=True)
class Observed:
    """One look: figures, or why there are none."""

    ledger: LedgerFigures | None
    chain: ChainFigures | None
    fault: str


class Observer:
    """One worker's. `restarts` counts engines that ended by themselves, `parallel` what one model answers at once.

    `anomalies` are those of the sandbox's containers.
    """

    def __init__(
        self,
        *,
        config: Config,
        service: InferenceService,
        client: ChainClient,
        operator: str,
        ledger_path: Path,
        metrics: Metrics,
        known: metadata.Metadata | None,
        gate: Gate | None = None,
        restarts: Callable[[], int] = lambda: 0,
        anomalies: Callable[[], list[Anomaly]] = list,
        parallel: int = 1,
    ) -> None:
        self.metrics = metrics
        self._config = config
        self._service = service
        self._client = client
        self._operator = operator
        self._ledger_path = ledger_path
        self._known = known
        self._gate = gate
        self._restarts = restarts
        self._anomalies = anomalies
        self._parallel = parallel
        self._started_at = int(time.time())
        self._tick_at = 0
        self._chain: ChainFigures | None = None
        self._chain_at = -math.inf
        self._fault = ""
        self._token_of: dict[bytes, str] = {}
        self._looking: asyncio.Task[None] | None = None
        self._faults: list[str] = []
        self._faults_at = -FAULTS_AGE_S

    # --- the tick

    def watch(self, job: Job) -> Job:
        """The same part of the tick, its failures counted."""

        async def run() -> None:
            try:
                await job.run()
            except Exception as error:
                self.metrics.job_failed(job.name, error)
                raise

        return Job(job.name, run)

    async def note_tick(self) -> None:
        """A tick has ended."""
        self._tick_at = int(time.time())

    # --- looking

    async def look(self) -> Observed:
        """Figures of now; the chain's are up to `CHAIN_AGE_S` old, older while it cannot be read."""
        try:
            ledger = await asyncio.to_thread(read_ledger, self._ledger_path)
        except LedgerError:
            ledger = None
        await self._refresh(ledger)
        return Observed(ledger, self._chain, self._fault)

    async def status(self) -> Status:
        """Everything, with alerts."""
        seen = await self.look()
        now = self._service.clock.now()
        offers = self._service.offers.all()
        chain = seen.chain
        ledger = ledger_status(seen.ledger, now) if seen.ledger else None
        worker = await self._worker()
        return assemble(
            self._config,
            now=now,
            offers=offers,
            chain=chain,
            chain_fault=seen.fault,
            figures=seen.ledger,
            ledger=ledger,
            worker=worker,
            known=self._known,
            token_of=self._token_of,
        )

    async def faults(self) -> list[str]:
        """Why no request could be served well now; empty when the worker is ready."""
        if time.monotonic() - self._faults_at >= FAULTS_AGE_S:
            self._faults, self._faults_at = await self._find_faults(), time.monotonic()
        return self._faults

    # --- inside

    async def _find_faults(self) -> list[str]:
        found = []
        if not self._service.backends.is_ready():
            found.append("a model is not ready")
        offers = self._service.offers.current()
        if len(refused := weaknesses(offers, self._service.sandbox)) == len(offers):
            found += refused
        if reason := self._gate_reason():
            found.append(f"the gate is closed: {reason}")
        if fault := await self._ledger_fault():
            found.append(fault)
        await self._refresh()
        if time.monotonic() - self._chain_at > CHAIN_STALE_S:
            found.append(f"the chain cannot be read: {self._fault or 'no answer yet'}")
        return found

    async def _refresh(self, ledger: LedgerFigures | None = None) -> None:
        """Has the chain read if that is due, and waits for it, but not for long."""
        if self._looking is None and time.monotonic() - self._chain_at > CHAIN_AGE_S:
            self._looking = asyncio.create_task(self._look_at_chain(ledger))
            self._looking.add_done_callback(self._looked)
        if self._looking is not None:
            await asyncio.wait({self._looking}, timeout=PATIENCE_S)

    def _looked(self, _: asyncio.Task[None]) -> None:
        self._looking = None

    async def _worker(self) -> WorkerStatus:
        counts = self.metrics
        names = dict.fromkeys(offer.model_name for offer in self._service.offers.current())
        return WorkerStatus(
            started_at=self._started_at,
            tick_at=self._tick_at,
            queue=self.queue(),
            refused=counts.refused.total(),
            restarts=self._restarts(),
            gate=self._gate_reason(),
            reasons=await self.faults(),
            anomalies=[Alert(what=each.what, do=each.do) for each in self._anomalies()],
            sandbox=self.sandbox(),
            refused_offers=weaknesses(self._service.offers.current(), self._service.sandbox),
            models=[self._model(name) for name in names],
            failures={f"{job}: {error}": count for (job, error), count in counts.failed.items()},
        )

    def queue(self) -> int:
        """Admitted requests beyond what their models answer at once."""
        return sum(max(0, running - self._parallel) for running in self.metrics.running.values())

    def sandbox(self) -> SandboxTier:
        """What the engines run in."""
        return self._service.sandbox

    def restarts(self) -> int:
        """How often an engine ended by itself."""
        return self._restarts()

    def tick_at(self) -> int:
        """When the last tick ended, in Unix seconds; 0 before the first."""
        return self._tick_at

    def money_of(self, seen: Observed) -> list[tuple[str, str, int]]:
        """(token, kind, base units) of a look."""
        if seen.chain is None:
            return []
        found = money_status(seen.chain, seen.ledger, self._service.offers.all(), self._token_of)
        kinds = ("unpaid", "unsettled", "held", "free", "account")
        return [(money.symbol, kind, getattr(money, kind)) for money in found for kind in kinds]

    def lags_of(self, seen: Observed) -> LedgerStatus | None:
        """The ledger's part of a look."""
        return ledger_status(seen.ledger, self._service.clock.now()) if seen.ledger else None

    def _model(self, name: str) -> ModelStatus:
        counts = self.metrics
        ended = {outcome: count for (model, outcome), count in counts.ended.items() if model == name}
        return ModelStatus(
            name=name,
            running=counts.running[name],
            requests=sum(ended.values()),
            failed=sum(count for outcome, count in ended.items() if outcome not in ("stop", "length", "tool_calls")),
            units_in=counts.units[name, "in"],
            units_cached=counts.units[name, "cached"],
            units_out=counts.units[name, "out"],
            tokens_per_s=round(counts.tokens_per_s(name), 2),
        )

    def _gate_reason(self) -> str:
        if self._gate is None:
            return ""
        try:
            self._gate.check_open()
        except Refusal as refusal:
            return str(refusal)
        return ""

    async def _ledger_fault(self) -> str | None:
        if self.metrics.has_ledger_fault():
            return "the ledger could not be written in the last minute"
        try:
            # the ledger's own thread must get round to it
            await asyncio.wait_for(self._service.write(lambda: None), PROBE_S)
        except TimeoutError:
            return f"the ledger has not answered for {PROBE_S:.0f} s"
        return await asyncio.to_thread(room_fault, self._ledger_path)

    async def _look_at_chain(self, ledger: LedgerFigures | None) -> None:
        try:
            self._chain = await asyncio.to_thread(read_chain, self._client, self._config.provider.id, self._operator)
            await self._learn_tokens(ledger)
        except ChainError as error:
            self._fault = str(error)
        else:
            self._chain_at = time.monotonic()
            self._fault = ""

    async def _learn_tokens(self, ledger: LedgerFigures | None) -> None:
        if ledger is None or only_token(self._service.offers.all()):
            return
        new = [one.lease_id for one in ledger.accounts if one.lease_id not in self._token_of][:MAX_NEW_TOKENS]
        found = await asyncio.to_thread(lease_tokens, self._client, new)
        open_leases = {account.lease_id for account in ledger.accounts}
        self._token_of = {lease: token for lease, token in (self._token_of | found).items() if lease in open_leases}


def assemble(
    config: Config,
    *,
    now: int,
    offers: list[Offer],
    chain: ChainFigures | None,
    chain_fault: str,
    figures: LedgerFigures | None,
    ledger: LedgerStatus | None,
    worker: WorkerStatus | None,
    known: metadata.Metadata | None,
    token_of: dict[bytes, str],
) -> Status:
    """A status from what was seen."""
    on_chain = offer_status(chain, offers) if chain else []
    return Status(
        provider=config.provider.id,
        time=now,
        worker=worker,
        ledger=ledger,
        chain_time=chain.time if chain else 0,
        chain_fault=chain_fault,
        is_registered=bool(chain and chain.is_registered),
        operator_wei=chain.operator_wei if chain else 0,
        stake=stake_status(chain) if chain else None,
        money=money_status(chain, figures, offers, token_of) if chain else [],
        offers=on_chain,
        alerts=find_alerts(config, chain, ledger, worker, on_chain, known, now),
    )
