"""One provider: enrolled, served by a worker of its own, and paid in the end."""

import contextlib
from dataclasses import dataclass

import httpx

from consumer.endpoints import Endpoint
from consumer.offers import fetch_offer
from protocol import keystore
from protocol.sandboxes import SandboxTier
from protocol.signing import Signer
from provider.config import load_config
from provider.enrolment import Enrolment, EnrolmentPlan, enrol
from provider.owner import Owner
from provider.publishing import publish
from provider.sandbox.serving import find_sandbox
from scripts.default_model import NAME
from scripts.demo.chain import STAKE_CLAW
from scripts.demo.failed import DemoFailed
from scripts.demo.screen import usdc
from scripts.demo.world import ETHER, SCRYPT_N, TREASURY, World, dev_signer, free_port, wait_for

SETTINGS = """[chain]
rpc = ["{rpc}"]
deployment = "{deployment}"
[provider]
id = {id}
[engine]
parallel = 2
context = 2048
[serving]
port = {port}
chunk_tokens = 16
[settling]
tick_s = 1
anchor_s = 0
gas_multiple = 0
[operations]
port = 0
[metadata]
urls = ["http://127.0.0.1:{port}"]
"""


@dataclass(frozen=True)
class Provider:
    """Its worker need not run."""

    world: World
    owner: Signer
    enrolment: Enrolment
    port: int

    @property
    def number(self) -> int:
        """Its id on chain."""
        return self.enrolment.provider

    @property
    def name(self) -> str:
        """On the screen, and of its process."""
        return f"provider {self.number}"

    @property
    def route(self) -> str:
        """By which name the gateway calls it."""
        return f"provider/{self.number}/{NAME}"

    @property
    def endpoint(self) -> str:
        """Where its worker answers."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def promised(self) -> SandboxTier:
        """The sandbox in its offer's terms, which the chain has the digest of."""
        offer, place = self.enrolment, Endpoint(self.endpoint)
        return SandboxTier(fetch_offer(self.world.client, place, self.number, offer.offer_id).document["sandbox"])

    @classmethod
    def enrolled(cls, world: World, account: int) -> "Provider":
        """Stake, node key, offer, configuration, metadata, and ether for the worker's transactions."""
        owner, folder, port = dev_signer(account), world.folder / f"owner-{account}", free_port()
        folder.mkdir()
        keystore.save(folder / "owner.json", owner, world.password, scrypt_n=SCRYPT_N)
        plan = EnrolmentPlan(
            folder=folder,
            rpc=world.rpc,
            deployment=world.deployment,
            model=world.model,
            model_name=NAME,
            owner=folder / "owner.json",
            price_in="0.01 USDC per 1K tokens",
            price_out="0.03 USDC per 1K tokens",
            stake=str(STAKE_CLAW),
            scrypt_n=SCRYPT_N,
        )
        lines: list[str] = []
        enrolment = enrol(plan, world.password, find_sandbox(), report=lines.append)
        enrolment.config.write_text(
            SETTINGS.format(rpc=world.rpc, deployment=world.deployment, id=enrolment.provider, port=port),
            encoding="utf-8",
        )
        publish(load_config(enrolment.config), folder / "owner.json", world.password, lines.append)
        with world.sender("treasury", dev_signer(TREASURY)) as sender:
            sender.execute(f"operator-{account}", enrolment.operator, value=10 * ETHER, timeout=30)
        found = cls(world, owner, enrolment, port)
        world.screen.note(found.name, "; ".join(lines))
        return found

    def start(self) -> None:
        """Starts its worker, which starts an engine."""
        config, password = self.enrolment.config, self.world.password_file
        self.world.processes.start_clawmarket(
            self.name, "provider", "run", "--config", config, "--password-file", password
        )

    def wait_ready(self) -> None:
        """Until it answers questions."""

        def is_ready() -> bool:
            with contextlib.suppress(httpx.HTTPError):
                return httpx.get(f"{self.endpoint}/healthz", timeout=5).status_code == httpx.codes.OK
            return False

        wait_for(f"the start of {self.name}'s engine", is_ready)
        pid = self.world.processes.pid(self.name)
        found = httpx.get(f"{self.endpoint}/healthz", timeout=5).json()["sandbox"]
        if found != self.promised:
            raise DemoFailed(f"{self.name} runs in {found}, its terms promise {self.promised}")
        self.world.screen.note(
            self.name, f"worker {pid} serves {NAME} on {self.endpoint}, inside {found} as its terms promise"
        )

    def kill(self) -> None:
        """SIGKILL for its worker."""
        self.world.processes.kill(self.name)

    def collect(self) -> int:
        """Takes its matured earnings to its owner's wallet; returns how much that was."""
        before = self.world.wallet(self.owner.address)
        with self.world.sender(f"owner-{self.number}", self.owner) as sender:
            account = Owner(self.world.client, sender, self.world.domain)
            account.collect("demo", self.number, self.world.token)
            earned = self.world.client.account(self.owner.address, self.world.token)
            account.withdraw("demo", self.world.token, earned, self.owner.address)
        self.world.screen.note(self.name, f"collected and withdrew {usdc(earned)}")
        return self.world.wallet(self.owner.address) - before
