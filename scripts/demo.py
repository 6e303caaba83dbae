"""`make demo`: the market's main job on this machine, with real processes and a real model.

Anvil, the deployment, a provider's worker with its engine, and a consumer: deposit by permit, open a lease, ask, check
the receipts, pay by voucher, anchor, settle, wait out the hold, collect and withdraw. Every sum is checked to the last
unit; any step that is off ends the run with a non-zero code.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar

import httpx
from eth_account import Account
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from consumer.audit import Inclusion, prove_on_chain, prove_receipt
from consumer.endpoints import Endpoint
from consumer.exceptions import ConsumerError
from consumer.funds import Funds
from consumer.lease import Leases, LeaseWish
from consumer.lease_client import Checked, End, LeaseClient, Question, Text
from consumer.offers import fetch_offer
from consumer.store import Store
from consumer.tokenizer import PromptCounter
from protocol import keystore, money
from protocol.chain import deployments
from protocol.chain.client import ChainClient
from protocol.chain.clock import MarketClock
from protocol.chain.sender import SenderPolicy, TransactionSender
from protocol.exceptions import ProtocolError
from protocol.headers import Signed
from protocol.keystore import Password
from protocol.money import USDC, Money
from protocol.signing import Signer
from protocol.typed_data import Domain, Receipt
from provider.enrolment import Enrolment, EnrolmentPlan, enrol
from provider.exceptions import ProviderError
from provider.owner import Owner
from scripts.default_model import NAME as DEFAULT_NAME
from scripts.default_model import default_model

ROOT = Path(__file__).resolve().parents[1]
MNEMONIC = "test test test test test test test test test test test junk"
CHAIN_ID = 31337
QUESTION = "Explain in two sentences why the sky is blue."
SCRYPT_N = 2**12  # keys that live as long as this run
DEPOSIT, LEASE = 25_000_000, 10_000_000  # USDC base units
ETHER = 10**18
STEP_TIMEOUT_S = 60.0
DAY_S = 86_400
T = TypeVar("T")


class DemoFailed(Exception):  # noqa: N818 - it is what happened
    """A step did not do what it should."""


class Timeline:
    """Prints what happens and when."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._started = time.monotonic()

    def note(self, who: str, what: str) -> None:
        """One line."""
        elapsed = time.monotonic() - self._started
        self.console.print(f"[dim]{elapsed:6.1f} s[/dim]  [bold cyan]{who:<9}[/bold cyan] {escape(what)}")


class Processes:
    """Every process of this run, stopped in reverse order whatever happens."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: list[tuple[str, subprocess.Popen[bytes]]] = []

    def start(self, name: str, command: list[str], ready: str) -> str:
        """Starts a process and waits for the line that matches `ready`; returns the match's first group."""
        guard = ["setpriv", "--pdeathsig", "KILL", "--"] if shutil.which("setpriv") else []
        process = subprocess.Popen(
            [*guard, *command], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        self._running.append((name, process))
        assert process.stdout is not None
        return _wait_for_line(name, process, process.stdout, re.compile(ready), self._folder / f"{name}.log")

    def pid(self, name: str) -> int:
        """The process id."""
        return next(process.pid for known, process in self._running if known == name)

    def stop(self) -> None:
        """Ends all of them."""
        while self._running:
            _, process = self._running.pop()
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def _wait_for_line(
    name: str, process: subprocess.Popen[bytes], output: IO[bytes], ready: re.Pattern[str], log: Path
) -> str:
    found: list[str] = []
    event = threading.Event()

    def read() -> None:
        with log.open("wb") as file:
            for line in output:
                file.write(line)
                file.flush()
                match = ready.search(line.decode(errors="replace"))
                if match and not found:
                    found.append(match[1])
                    event.set()
        event.set()

    threading.Thread(target=read, daemon=True).start()
    event.wait(STEP_TIMEOUT_S)
    if not found:
        process.poll()
        tail = log.read_text(errors="replace").strip().splitlines()[-8:] if log.exists() else []
        raise DemoFailed(f"{name} did not start: " + " | ".join(tail))
    return found[0]


def dev_signer(index: int) -> Signer:
    """The index-th account that anvil funds at its start."""
    Account.enable_unaudited_hdwallet_features()
    return Signer(bytes(Account.from_mnemonic(MNEMONIC, account_path=f"m/44'/60'/0'/0/{index}").key))


def wait_for(what: str, condition: Callable[[], T | None]) -> T:
    """Polls until the condition gives something."""
    deadline = time.monotonic() + STEP_TIMEOUT_S
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.1)
    raise DemoFailed(f"{what} did not happen within {STEP_TIMEOUT_S:.0f} s")


def usdc(units: int) -> str:
    """An amount as people write it."""
    return str(Money(units, USDC))


@dataclass
class World:
    """What the steps share."""

    client: ChainClient
    domain: Domain
    folder: Path
    password: Password
    timeline: Timeline
    token: str

    def sender(self, name: str, signer: Signer) -> TransactionSender:
        """A transaction sender with its own records."""
        return TransactionSender(self.client, signer, self.folder / f"{name}.sqlite", SenderPolicy(poll_s=0.1))

    def wallet(self, address: str) -> int:
        """USDC outside of the market."""
        return int(self.client.get(self.client.reads.view("TestUSDC", "balanceOf", address)))

    def travel(self, seconds: int) -> None:
        """Moves the chain's time forward."""
        self.client.rpc.request("evm_increaseTime", seconds)
        self.client.rpc.request("anvil_mine", "0x1")


def start_chain(processes: Processes) -> str:
    """Starts anvil on a port the kernel chooses; returns its address."""
    native = (
        ROOT / "node_modules/@foundry-rs" / f"anvil-linux-{'arm64' if os.uname().machine == 'aarch64' else 'amd64'}"
    )
    anvil = native / "bin/anvil"
    command = [str(anvil) if anvil.exists() else "anvil", "--host", "127.0.0.1", "--port", "0"]
    command += ["--chain-id", str(CHAIN_ID), "--hardfork", "prague", "--threads", "1"]
    return "http://" + processes.start("anvil", command, r"Listening on (\S+)")


def deploy(rpc: str, folder: Path) -> Path:
    """Deploys through scripts/deploy.py; returns the deployment file."""
    ape = shutil.which("ape")
    if ape is None:
        raise DemoFailed("`ape` is not on the PATH: run `make demo`, or `. scripts/activate` first")
    command = [ape, "run", "deploy", "--network", rpc, "--folder", str(folder)]
    run = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        raise DemoFailed("the deployment failed: " + (run.stdout + run.stderr).strip()[-800:])
    return folder / f"{CHAIN_ID}.json"


def fund(world: World, owner: Signer, consumer: Signer, stake: int) -> None:
    """CLAW for the provider's owner, USDC for the consumer; ether they have."""
    with world.sender("treasury", dev_signer(0)) as sender:
        encode, address = world.client.encode, world.client.deployment.address
        sender.execute("claw", address("ClawToken"), encode("ClawToken", "transfer", owner.address, stake), timeout=30)
        mint = encode("TestUSDC", "mint", consumer.address, 2 * DEPOSIT)
        sender.execute("usdc", address("TestUSDC"), mint, timeout=30)
    world.timeline.note("funding", f"{stake // 10**18} CLAW to the provider, {usdc(2 * DEPOSIT)} to the consumer")


def enrol_provider(world: World, rpc: str, deployment: Path, model: Path, owner: Signer) -> Enrolment:
    """Stake, node key, offer, configuration, and ether for the worker's transactions."""
    home = world.folder / "provider"
    home.mkdir()
    keystore.save(home / "owner.json", owner, world.password, scrypt_n=SCRYPT_N)
    plan = EnrolmentPlan(
        folder=home,
        rpc=rpc,
        deployment=deployment,
        model=model,
        model_name=DEFAULT_NAME,
        owner=home / "owner.json",
        price_in="0.01 USDC per 1K tokens",
        price_out="0.03 USDC per 1K tokens",
        stake="10000",
        scrypt_n=SCRYPT_N,
    )
    enrolment = enrol(plan, world.password, report=lambda line: world.timeline.note("provider", line))
    enrolment.config.write_text(
        f"""[chain]
rpc = ["{rpc}"]
deployment = "{deployment}"
[provider]
id = {enrolment.provider}
[engine]
parallel = 2
context = 2048
[serving]
port = 0
chunk_tokens = 16
[settling]
tick_s = 1
anchor_s = 0
gas_multiple = 0
[operations]
port = 0
""",
        encoding="utf-8",
    )
    with world.sender("treasury", dev_signer(0)) as sender:
        sender.execute("operator", enrolment.operator, value=10 * ETHER, timeout=30)
    return enrolment


def start_worker(world: World, processes: Processes, enrolment: Enrolment) -> str:
    """Starts the provider's worker and its engine; returns its address."""
    password_file = world.folder / "password"
    password_file.touch(mode=0o600)
    password_file.write_text(world.password.reveal() + "\n")
    command = [sys.executable, str(ROOT / "clawmarket_cli.py"), "provider", "run"]
    command += ["--config", str(enrolment.config), "--password-file", str(password_file)]
    endpoint = processes.start("provider", command, r"serves on (http://[^\s\"]+)")

    def ready() -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{endpoint}/healthz", timeout=5).status_code == httpx.codes.OK
        return False

    wait_for("the engine's start", ready)
    world.timeline.note("provider", f"worker {processes.pid('provider')} serves {DEFAULT_NAME} on {endpoint}")
    return endpoint


async def ask(world: World, client: LeaseClient, question: str) -> End:
    """Streams an answer to the screen; every receipt on the way is checked and paid."""
    console, parts, end = world.timeline.console, 0, None
    console.print(f"\n[bold]{escape(question)}[/bold]")
    async for event in client.ask(Question([{"role": "user", "content": question}], max_tokens=96, temperature=0)):
        match event:
            case Text():
                console.print(escape(event.text), end="", style="green", soft_wrap=True)
            case Checked():
                parts += 1
            case End():
                end = event
    console.print("\n")
    await client.close()
    if end is None:
        raise DemoFailed("the answer has no end")
    receipt = end.receipt.message
    world.timeline.note(
        "consumer",
        f"{parts} receipts checked: {receipt.units_in} + {receipt.units_out} tokens for {usdc(receipt.cost)}, "
        f"first token after {receipt.ttft_ms} ms, {receipt.duration_ms} ms in all",
    )
    world.timeline.note("consumer", f"signed a voucher for exactly {usdc(end.voucher.message.cumulative)}")
    if end.voucher.message.cumulative != receipt.cost:
        raise DemoFailed("the voucher is not for the receipt's cost")
    return end


def prove(world: World, endpoint: str, provider: int, signed: Signed[Receipt]) -> Inclusion:
    """The receipt against the anchored root, here and by the Lens contract."""
    empty = bytes(32)
    wait_for("the anchor", lambda: world.client.get(world.client.reads.latest_anchor(provider)) != empty)

    def proof() -> Inclusion | None:
        with contextlib.suppress(ConsumerError):
            return prove_receipt(world.client, world.domain, endpoint, provider, signed)
        return None

    inclusion = wait_for("a proof under the anchored root", proof)
    world.timeline.note("provider", f"anchored {inclusion.count} receipts under root 0x{inclusion.root.hex()[:16]}…")
    if not prove_on_chain(world.client, world.domain, provider, signed.message, inclusion):
        raise DemoFailed("the Lens contract does not accept the proof")
    tampered = bytes([inclusion.root[0] ^ 1]) + inclusion.root[1:]
    wrong = Inclusion(inclusion.position, inclusion.count, tampered, inclusion.proof)
    if prove_on_chain(world.client, world.domain, provider, signed.message, wrong):
        raise DemoFailed("the Lens contract accepts a wrong root")
    world.timeline.note(
        "consumer", "receipt proven under the anchored root, by the verifier here and by the Lens contract"
    )
    return inclusion


@dataclass(frozen=True)
class Books:
    """Where the money went, in base units."""

    debit: int
    credit: int
    fee: int
    owed: int
    fee_bps: int

    def table(self) -> Table:
        """The sums as a table."""
        table = Table(title="To the last unit")
        for heading, justify in (("", "left"), ("USDC", "right"), ("base units", "right")):
            table.add_column(heading, justify=justify)  # type: ignore[arg-type]
        for name, units in (
            ("voucher the consumer signed", self.owed),
            ("consumer's debit", self.debit),
            ("provider's credit", self.credit),
            (f"platform fee ({self.fee_bps / 100:g} %, rounded down)", self.fee),
            ("credit + fee", self.credit + self.fee),
        ):
            table.add_row(name, Money(units, USDC).format(), str(units))
        return table

    def check(self) -> None:
        """Raises DemoFailed if a sum is off."""
        if self.debit != self.owed:
            raise DemoFailed(f"the consumer paid {self.debit}, it signed for {self.owed}")
        if self.debit != self.credit + self.fee:
            raise DemoFailed(f"debit {self.debit} is not credit {self.credit} + fee {self.fee}")
        if (
            self.fee_bps != 500
            or self.fee != self.debit * 500 // 10_000
            or self.fee != money.fee(self.debit, self.fee_bps)
        ):
            raise DemoFailed(f"fee {self.fee} is not 5 % of {self.debit} rounded down")
        if self.debit == 0:
            raise DemoFailed("nothing was paid")


def run(world: World, processes: Processes, rpc: str, deployment: Path, model: Path, question: str) -> Books:
    """All steps after the deployment."""
    client, note, token = world.client, world.timeline.note, world.token
    owner, consumer = dev_signer(1), dev_signer(2)
    fund(world, owner, consumer, 10_000 * 10**18)
    enrolment = enrol_provider(world, rpc, deployment, model, owner)
    endpoint = start_worker(world, processes, enrolment)
    provider = enrolment.provider

    store = Store(world.folder / "consumer.sqlite", world.domain)
    leases = Leases(client, world.domain, store, world.folder / "sessions", world.password, SCRYPT_N)
    with world.sender("consumer-tx", consumer) as sender:
        wallet_before, owner_before = world.wallet(consumer.address), world.wallet(owner.address)
        funds = Funds(client, sender, consumer)
        funds.deposit("demo", "TestUSDC", DEPOSIT)
        note("consumer", f"deposited {usdc(DEPOSIT)} by permit, in one transaction")
        place = Endpoint(endpoint)
        offer = fetch_offer(client, place, provider, enrolment.offer_id)
        request, record = leases.prepare(
            consumer.address, offer, place, LeaseWish(LEASE, duration_s=14 * DAY_S, close_delay_s=3_600)
        )
        leases.open(sender, request)
        note(
            "consumer", f"opened lease 0x{record.lease_id.hex()[:16]}… with {usdc(LEASE)} and a session key of its own"
        )

        clock = MarketClock.of(client.deployment.profile)
        clock.update(client.head().timestamp)
        session = leases.session_key(record)
        counter = PromptCounter(model)
        lease_client = LeaseClient(
            domain=world.domain,
            store=store,
            record=record,
            signer=session,
            now=clock.now,
            counter=counter,
            key_lookup=lambda key: client.get(client.reads.key_record(key)),
        )
        end = asyncio.run(ask(world, lease_client, question))
        counter.close()
        owed = end.voucher.message.cumulative
        prove(world, endpoint, provider, end.receipt)
        wait_for("the settlement", lambda: client.lease(record.lease_id).settled == owed)
        settled = client.lease(record.lease_id)
        earnings = client.earnings(provider, token)
        note("provider", f"settled {usdc(settled.settled)} on chain: {usdc(earnings.held)} held as the provider's bond")

        world.travel(5 * DAY_S)
        note("chain", "five days later the hold has passed")
        with world.sender("owner-tx", owner) as owner_sender:
            account = Owner(client, owner_sender, world.domain)
            account.collect("demo", provider, token)
            earned = client.account(owner.address, token)
            account.withdraw("demo", token, earned, owner.address)
        note("provider", f"collected and withdrew {usdc(earned)}")

        leases.close(sender, record.lease_id)
        world.travel(2 * 3_600)
        leases.release(sender, record.lease_id)
        rest = funds.balance(token)
        funds.withdraw("demo", token, rest, consumer.address)
        note("consumer", f"closed and released the lease, withdrew the rest of {usdc(rest)}")

        fees_data = client.encode("LeaseEscrow", "collect_fees", token)
        sender.execute("fees", client.deployment.address("LeaseEscrow"), fees_data, timeout=30)
    treasury = client.get(client.reads.view("Params", "treasury"))
    fee = sum(client.account(who, token) for who in (treasury, client.deployment.address("Staking")))
    note("platform", f"fee of {usdc(fee)} collected for stakers and treasury")
    left = world.wallet(client.deployment.address("LeaseEscrow"))
    store.close()
    if left != fee:
        raise DemoFailed(f"the escrow holds {left}, only the fee of {fee} should be left")
    debit = wallet_before - world.wallet(consumer.address)
    return Books(debit, world.wallet(owner.address) - owner_before, fee, owed, settled.fee_bps)


@contextlib.contextmanager
def working_folder(keep: bool) -> Iterator[Path]:  # noqa: FBT001
    """A folder of this run's own."""
    folder = Path(tempfile.mkdtemp(prefix="clawmarket-demo-"))
    try:
        yield folder
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    """Runs the demo; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="GGUF file; by default SmolLM2")
    parser.add_argument("--question", default=QUESTION)
    parser.add_argument("--keep", action="store_true", help="keep logs and databases")
    arguments = parser.parse_args()
    console = Console(highlight=False)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    started = time.monotonic()
    with working_folder(arguments.keep) as folder:
        processes = Processes(folder)
        try:
            books = _demo(console, folder, processes, arguments)
            console.print(books.table())
            books.check()
        except (DemoFailed, ConsumerError, ProviderError, ProtocolError, OSError) as error:
            console.print(f"[bold red]demo failed:[/bold red] {escape(str(error))}", soft_wrap=True)
            return 1
        except KeyboardInterrupt:
            console.print("[bold red]interrupted[/bold red]")
            return 130
        finally:
            processes.stop()
        if arguments.keep:
            console.print(f"logs and databases are in {folder}")
    console.print(f"[bold green]all sums match[/bold green], {time.monotonic() - started:.1f} s")
    return 0


def _demo(console: Console, folder: Path, processes: Processes, arguments: argparse.Namespace) -> Books:
    timeline = Timeline(console)
    model = (arguments.model or default_model()).resolve()
    rpc = start_chain(processes)
    timeline.note("chain", f"anvil {processes.pid('anvil')} on {rpc}")
    deployment_file = deploy(rpc, folder)
    deployment = deployments.load_file(deployment_file)
    timeline.note("contracts", f"{len(deployment.contracts)} deployed and verified")
    with ChainClient([rpc], deployment) as client:
        client.check_deployment()
        domain = Domain(deployment.chain_id, deployment.address("LeaseEscrow"))
        password = Password(secrets.token_urlsafe(16))
        world = World(client, domain, folder, password, timeline, deployment.address("TestUSDC"))
        return run(world, processes, rpc, deployment_file, model, arguments.question)


if __name__ == "__main__":
    sys.exit(main())
