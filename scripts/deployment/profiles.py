"""The networks of scripts/profiles.toml."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from protocol.chain.deployments import Profile
from protocol.chain.exceptions import DeploymentError

FILE = Path(__file__).resolve().parents[1] / "profiles.toml"


@dataclass(frozen=True)
class Network:
    """One network: what readers of the deployment file learn, and what only the deployment needs.

    `usdc` is the address of the payment token that is already there; None on dev networks, which get TestUSDC.
    """

    chain_id: int
    profile: Profile
    dev: bool
    usdc: str | None


def load_networks(file: Path = FILE) -> dict[int, Network]:
    """All networks by chain id. Raises DeploymentError naming the entry that is wrong."""
    networks: dict[int, Network] = {}
    for name, entry in tomllib.loads(file.read_text()).items():
        try:
            dev = entry.get("dev", False)
            network = Network(
                chain_id=entry["chain_id"],
                profile=Profile(name, entry.get("confirmations"), entry.get("finality_tag"), entry["l1_fee"]),
                dev=dev,
                usdc=None if dev else entry["usdc"],
            )
        except KeyError as error:
            raise DeploymentError(f"{file}: {name} has no {error.args[0]}") from None
        if network.chain_id in networks:
            raise DeploymentError(f"{file}: two networks have the chain id {network.chain_id}")
        networks[network.chain_id] = network
    return networks


def network_of(chain_id: int, file: Path = FILE) -> Network:
    """The network with this chain id. Raises DeploymentError when none is configured."""
    networks = load_networks(file)
    if chain_id not in networks:
        known = ", ".join(f"{network.profile.name} ({number})" for number, network in networks.items())
        raise DeploymentError(f"chain {chain_id} is not in {file}: add an entry for it; there are {known}")
    return networks[chain_id]
