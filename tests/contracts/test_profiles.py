"""The networks a deployment knows."""

from __future__ import annotations

from pathlib import Path

import pytest

from protocol.chain.exceptions import DeploymentError
from scripts.deployment.profiles import load_networks, network_of


def test_networks__shipped__are_the_supported_ones() -> None:
    shown = {number: (n.profile.name, n.profile.l1_fee, n.dev) for number, n in load_networks().items()}
    assert shown == {
        31337: ("anvil", False, True),
        8453: ("base", True, False),
        84532: ("base-sepolia", True, False),
        42161: ("arbitrum", False, False),
        421614: ("arbitrum-sepolia", False, False),
    }
    assert all((network.usdc is None) == network.dev for network in load_networks().values())


def test_network__unknown_chain__says_where_to_add_it() -> None:
    with pytest.raises(DeploymentError, match=r"chain 7 is not in .*profiles.toml: add an entry"):
        network_of(7)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[a]\nchain_id = 1\nconfirmations = 1\nl1_fee = false\n", "a has no usdc"),
        ("[a]\ndev = true\nconfirmations = 1\nl1_fee = false\n", "a has no chain_id"),
        ("[a]\nchain_id = 1\ndev = true\nl1_fee = false\n", "confirmations or finality_tag"),
        ('[a]\nchain_id = 1\ndev = true\nfinality_tag = "latest"\nl1_fee = false\n', "finality_tag must be one of"),
        (
            "[a]\nchain_id = 1\ndev = true\nconfirmations = 1\nl1_fee = false\n"
            "[b]\nchain_id = 1\ndev = true\nconfirmations = 1\nl1_fee = false\n",
            "two networks have the chain id 1",
        ),
    ],
)
def test_networks__wrong_entry__is_named(tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "profiles.toml"
    file.write_text(text)
    with pytest.raises(DeploymentError, match=reason):
        load_networks(file)
