"""The consumer's gateway: set up, run, and looked at while it rests."""

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from consumer.client import Client
from consumer.config import ConsumerConfig
from consumer.gateway.commands_access import greeting, key_file, make_own_key, own_key
from consumer.gateway.server import base_url
from consumer.session import TOKEN_CONTRACTS, Session, new_key
from consumer.setup import SetupPlan, set_up
from protocol import keystore
from scripts.demo.screen import usdc
from scripts.demo.world import CONSUMER, SCRYPT_N, World, dev_signer, free_port

DEPOSIT = 25_000_000  # USDC base units
NAME = "gateway"
SETTINGS = """
indexers = ["{indexer}"]
[gateway]
port = {port}
canary_s = 0  # nothing is asked and paid but the questions below
[budget]
per_day = ["1 USDC"]
[leases]
amount = "2 USDC"
"""


@dataclass(frozen=True)
class Gateway:
    """Its process need not run."""

    world: World
    config_file: Path

    @classmethod
    def set_up(cls, world: World, indexer: str) -> "Gateway":
        """What `clawmarket gateway init` does, with settings of this run's own; `indexer` is its address."""
        folder = world.folder / "consumer"
        keystore.save(folder / "owner.json", dev_signer(CONSUMER), world.password, scrypt_n=SCRYPT_N)
        plan = SetupPlan(
            folder,
            world.rpc,
            world.deployment,
            owner=folder / "owner.json",
            tokenizers=(world.model,),
            accepts_unverified=False,
        )
        done = set_up(plan, world.password)
        with done.config.open("a", encoding="utf-8") as file:
            file.write(SETTINGS.format(indexer=indexer, port=free_port()))
        found = cls(world, done.config)
        make_own_key(found.config)
        world.screen.note(NAME, f"{done.config.name} names the indexer and no provider; a first API key is made")
        return found

    @property
    def config(self) -> ConsumerConfig:
        """What stands in its file."""
        return ConsumerConfig.load(self.config_file)

    @property
    def session(self) -> Session:
        """Its records, keys and the owner's account; only while it rests."""
        return Session(self.config, self.world.password, SCRYPT_N)

    @property
    def client(self) -> Client:
        """As applications ask it."""
        return Client(base_url(self.config.gateway, self.config.gateway.port), own_key(self.config))

    def greeting(self, url: str) -> str:
        """How others ask it."""
        return greeting(url, key_file(self.config))

    def start(self) -> str:
        """Starts its process; returns the base URL."""
        config, password = self.config_file, self.world.password_file
        url = self.world.processes.start_clawmarket(
            NAME, "gateway", "run", "--config", config, "--password-file", password
        )
        self.world.screen.note(NAME, f"gateway {self.world.processes.pid(NAME)} serves on {url}")
        return url

    def stop(self) -> None:
        """Lets it finish."""
        self.world.processes.end(NAME)

    def deposit(self) -> None:
        """Into the owner's account in the market."""
        with closing(self.session) as session, session.funds() as funds:
            funds.deposit(new_key(), TOKEN_CONTRACTS["USDC"], DEPOSIT)
        self.world.screen.note("consumer", f"deposited {usdc(DEPOSIT)} by permit, in one transaction")
