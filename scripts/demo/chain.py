"""The chain and what stands on it."""

import os
import shutil
import subprocess
from pathlib import Path

from scripts.demo.failed import DemoFailed
from scripts.demo.processes import ROOT, Processes
from scripts.demo.screen import usdc
from scripts.demo.world import CONSUMER, FIRST_OWNER, SECOND_OWNER, TREASURY, World, dev_signer

CHAIN_ID = 31337
STAKE_CLAW = 10_000
CONSUMER_UNITS = 50_000_000  # of USDC


def start_chain(processes: Processes) -> str:
    """Starts anvil on a port the kernel chooses; returns its address."""
    machine = "arm64" if os.uname().machine == "aarch64" else "amd64"
    native = ROOT / "node_modules/@foundry-rs" / f"anvil-linux-{machine}" / "bin/anvil"
    command = [str(native) if native.exists() else "anvil", "--host", "127.0.0.1", "--port", "0"]
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


def fund(world: World) -> None:
    """CLAW for the providers' owners, USDC for the consumer; ether they have."""
    encode, address = world.client.encode, world.client.deployment.address
    with world.sender("treasury", dev_signer(TREASURY)) as sender:
        for index in (FIRST_OWNER, SECOND_OWNER):
            claw = encode("ClawToken", "transfer", dev_signer(index).address, STAKE_CLAW * 10**18)
            sender.execute(f"claw-{index}", address("ClawToken"), claw, timeout=30)
        mint = encode("TestUSDC", "mint", dev_signer(CONSUMER).address, CONSUMER_UNITS)
        sender.execute("usdc", address("TestUSDC"), mint, timeout=30)
    world.screen.note("funding", f"{STAKE_CLAW} CLAW to each provider, {usdc(CONSUMER_UNITS)} to the consumer")


def collect_fees(world: World) -> int:
    """Moves the platform's fees to stakers and treasury; returns what they have."""
    escrow = world.client.deployment.address("LeaseEscrow")
    with world.sender("treasury", dev_signer(TREASURY)) as sender:
        sender.execute("fees", escrow, world.client.encode("LeaseEscrow", "collect_fees", world.token), timeout=30)
    treasury = world.client.get(world.client.reads.view("Params", "treasury"))
    receivers = (treasury, world.client.deployment.address("Staking"))
    fees = sum(world.client.account(who, world.token) for who in receivers)
    world.screen.note("platform", f"fee of {usdc(fees)} collected for stakers and treasury")
    return fees
