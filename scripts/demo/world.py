"""What all steps share: the chain, the deployment, a folder, a password, the screen and the processes."""

import random
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from eth_account import Account

from protocol.chain.client import ChainClient
from protocol.chain.sender import SenderPolicy, TransactionSender
from protocol.keystore import Password
from protocol.signing import Signer
from protocol.typed_data import Domain
from scripts.demo.failed import DemoFailed
from scripts.demo.processes import Processes
from scripts.demo.screen import Screen

MNEMONIC = "test test test test test test test test test test test junk"
TREASURY, CONSUMER, FIRST_OWNER, SECOND_OWNER = range(4)
"""Accounts of the development chain."""
SCRYPT_N = 2**12  # keys that live as long as this run
ETHER = 10**18
STEP_TIMEOUT_S = 60.0
_PORTS = range(15_000, 32_000)
"""Below those that kernels give to connections, so that a server that was killed finds its port free again."""
T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """One run."""

    rpc: str
    deployment: Path
    client: ChainClient
    folder: Path
    password: Password
    screen: Screen
    processes: Processes
    model: Path

    @property
    def domain(self) -> Domain:
        """The signing domain."""
        return Domain(self.client.deployment.chain_id, self.client.deployment.address("LeaseEscrow"))

    @property
    def token(self) -> str:
        """Address of the test USDC."""
        return self.client.deployment.address("TestUSDC")

    @property
    def password_file(self) -> Path:
        """For commands."""
        path = self.folder / "password"
        if not path.exists():
            path.touch(mode=0o600)
            path.write_text(self.password.reveal() + "\n", encoding="utf-8")
        return path

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


def dev_signer(index: int) -> Signer:
    """The index-th account that anvil funds at its start."""
    Account.enable_unaudited_hdwallet_features()
    return Signer(bytes(Account.from_mnemonic(MNEMONIC, account_path=f"m/44'/60'/0'/0/{index}").key))


def free_port() -> int:
    """A port that nobody listens on."""
    while True:
        port = random.choice(_PORTS)  # noqa: S311 - no secret
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port


def wait_for(what: str, condition: Callable[[], T | None]) -> T:
    """Polls until the condition gives something. Raises DemoFailed."""
    deadline = time.monotonic() + STEP_TIMEOUT_S
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.1)
    raise DemoFailed(f"{what} did not happen within {STEP_TIMEOUT_S:.0f} s")
