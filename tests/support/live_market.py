"""A market on a real chain for end-to-end tests: anvil, the contracts, a funded consumer, real provider processes."""

import asyncio
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from consumer.endpoints import Endpoint
from consumer.funds import Funds
from consumer.lease import Leases, LeaseWish
from consumer.lease_client import End, LeaseClient, Question
from consumer.offers import fetch_offer
from consumer.store import LeaseRecord, Store
from consumer.tls import unchecked_context
from consumer.tokenizer import PromptCounter
from protocol import keystore
from protocol.chain.client import ChainClient
from protocol.chain.clock import MarketClock
from protocol.chain.rpc import RpcPool
from protocol.chain.sender import SenderPolicy, TransactionSender
from protocol.keystore import Password
from protocol.sandboxes import SandboxTier
from protocol.signing import Signer
from protocol.typed_data import Domain
from provider.enrolment import Enrolment, EnrolmentPlan, enrol
from scripts.deployment import Settings, deploy, load_build, network_of
from scripts.deployment.signer import KeySigner
from tests.support.anvil import ROOT, Anvil, dev_account, wait_for
from tests.support.engines import tiny_model
from tests.support.promised import PROMISED
from tests.support.sandbox import worker_sandbox
from tests.support.tiny_gguf import NAME

SCRYPT_N = 2**12
PASSWORD = Password("correct horse")
ETHER = 10**18
MORE_PROVIDERS = (3, 4)
"""Further accounts that can own a provider."""
MESSAGES = [{"role": "user", "content": "hello"}]


def signer_of(index: int) -> Signer:
    """A development account's key."""
    return Signer(bytes(dev_account(index).key))


@dataclass
class LiveMarket:
    """One chain with the contracts on it. Accounts: 0 deployer, 1 provider's owner, 2 consumer.

    `promised` is the sandbox in the terms of the offers that `enrol` makes.
    """

    node: Anvil
    folder: Path
    deployment_file: Path
    client: ChainClient
    promised: SandboxTier = PROMISED

    @property
    def domain(self) -> Domain:
        """The signing domain."""
        return Domain(self.client.deployment.chain_id, self.client.deployment.address("LeaseEscrow"))

    @property
    def token(self) -> str:
        """TestUSDC."""
        return self.client.deployment.address("TestUSDC")

    @contextmanager
    def sender(self, name: str, index: int) -> Iterator[TransactionSender]:
        """A transaction sender of a development account."""
        path = self.folder / f"{name}.sqlite"
        with TransactionSender(self.client, signer_of(index), path, SenderPolicy(poll_s=0.05)) as found:
            yield found

    def call(self, index: int, key: str, contract: str, function: str, *arguments: object) -> None:
        """One transaction of a development account."""
        with self.sender(f"account-{index}", index) as sender:
            data = self.client.encode(contract, function, *arguments)
            sender.execute(key, self.client.deployment.address(contract), data, timeout=30)

    def enrol(self, folder: Path, **serving: object) -> Enrolment:
        """A provider with the tiny model, ready to run; `serving` are settings of that section.

        Its owner is the one whose keystore the folder holds, else account 1.
        """
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "owner.json").exists():
            keystore.save(folder / "owner.json", signer_of(1), PASSWORD, scrypt_n=SCRYPT_N)
        plan = EnrolmentPlan(
            folder=folder,
            rpc=self.node.url,
            deployment=self.deployment_file,
            model=tiny_model(),
            model_name=NAME,
            owner=folder / "owner.json",
            price_in="0.01 USDC per 1K tokens",
            price_out="0.03 USDC per 1K tokens",
            stake="10000",
            scrypt_n=SCRYPT_N,
        )
        enrolment = enrol(plan, PASSWORD, self.promised, report=lambda _: None)
        settings = {"port": 0, "chunk_tokens": 8, "lease_ttl_s": 0, **serving}
        lines = "\n".join(f"{name} = {value}" for name, value in settings.items())
        enrolment.config.write_text(
            f"""[chain]
rpc = ["{self.node.url}"]
deployment = "{self.deployment_file}"
[provider]
id = {enrolment.provider}
[engine]
threads = 1
[serving]
{lines}
[settling]
tick_s = 0.5
anchor_s = 0
gas_multiple = 0
[operations]
port = 0
"""
        )
        (folder / "password").write_text(PASSWORD.reveal() + "\n")
        (folder / "password").chmod(0o600)
        return enrolment

    def open_lease(self, store: Store, endpoint: str, enrolment: Enrolment) -> tuple[LeaseRecord, Signer]:
        """A lease of the consumer's."""
        leases = Leases(self.client, self.domain, store, self.folder / "sessions", PASSWORD, SCRYPT_N)
        place = Endpoint(endpoint)
        offer = fetch_offer(self.client, place, enrolment.provider, enrolment.offer_id)
        with self.sender("consumer", 2) as sender:
            request, record = leases.prepare(
                signer_of(2).address, offer, place, LeaseWish(1_000_000, duration_s=20 * 86_400)
            )
            leases.open(sender, request)
        return record, leases.session_key(record)

    def deposit(self, amount: int) -> None:
        """Mints and deposits USDC for the consumer, by permit."""
        key = f"deposit-{self.node.block_number()}"
        self.call(2, key, "TestUSDC", "mint", signer_of(2).address, amount)
        with self.sender("consumer", 2) as sender:
            Funds(self.client, sender, signer_of(2)).deposit(key, "TestUSDC", amount)


@contextmanager
def live_market(folder: Path) -> Iterator[LiveMarket]:
    """Anvil with the deployed contracts; the provider's owner has CLAW, the consumer a deposit."""
    with Anvil() as node:
        with RpcPool([node.url], node.chain_id) as rpc:
            deployed = deploy(
                rpc, KeySigner(dev_account(0)), load_build(), network_of(node.chain_id), Settings(folder=folder)
            )
        with ChainClient([node.url], deployed) as client:
            market = LiveMarket(node, folder, folder / f"{node.chain_id}.json", client)
            for index in (1, *MORE_PROVIDERS):
                market.call(0, f"claw-{index}", "ClawToken", "transfer", signer_of(index).address, 50_000 * 10**18)
            market.deposit(50_000_000)
            yield market


class WorkerProcess:
    """`clawmarket provider run` as a process of its own, its output kept."""

    def __init__(
        self, config: Path, module: str = "clawmarket_cli", extra: tuple[str, ...] = ("provider", "run")
    ) -> None:
        if extra == ("provider", "run") or module != "clawmarket_cli":
            worker_sandbox()
        guard = ["setpriv", "--pdeathsig", "KILL", "--"] if shutil.which("setpriv") else []
        password = config.parent / "password"
        self.process = subprocess.Popen(
            [*guard, sys.executable, "-m", module, *extra, f"--config={config}", f"--password-file={password}"],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def output(self) -> str:
        """Everything it wrote so far."""
        return "".join(self._lines)

    def wait_ready(self) -> str:
        """Its address, once it serves."""
        address: str = wait_for(self._address, timeout=60)

        def ready() -> bool:
            try:
                return (
                    httpx.get(f"{address}/healthz", timeout=5, verify=unchecked_context()).status_code == httpx.codes.OK
                )
            except httpx.HTTPError:
                return False

        wait_for(ready, timeout=60)
        return address

    def wait_end(self) -> int:
        """Its exit code, once it has ended by itself."""
        code = self.process.wait(60)
        self._reader.join(10)
        return code

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.wait_end()

    def stop(self) -> int:
        """SIGTERM, and its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.wait_end()

    def __enter__(self) -> "WorkerProcess":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.stop()
        self._reader.join(10)

    def _address(self) -> str | None:
        found = re.search(r"serves on (https?://[^\s\"]+)", self.output)
        if found is None and self.process.poll() is not None:
            raise AssertionError(f"the worker ended: {self.output}")
        return found[1] if found else None

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stream:
            for line in stream:
                self._lines.append(line.decode(errors="replace"))


def ask(market: LiveMarket, store: Store, record: LeaseRecord, session: Signer, model: Path | None = None) -> End:
    """One question to `model` (the tiny one), to its checked and paid end."""
    question = Question(MESSAGES, max_tokens=20, temperature=0)
    clock = MarketClock()
    clock.update(market.client.head().timestamp)

    async def run() -> End:
        counter = PromptCounter(model or tiny_model())
        client = LeaseClient(
            domain=market.domain, store=store, record=record, signer=session, now=clock.now, counter=counter
        )
        try:
            events = [event async for event in client.ask(question)]
        finally:
            await client.close()
            counter.close()
        assert isinstance(events[-1], End)
        return events[-1]

    return asyncio.run(run())
