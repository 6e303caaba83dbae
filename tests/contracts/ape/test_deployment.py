"""What a fresh deployment looks like from outside."""

from __future__ import annotations

from typing import Any


def test_deployment__fresh__references_form_one_set(deployment: Any, deployer: Any) -> None:
    d = deployment
    expected = {
        d.params: {"treasury": deployer},
        d.registry: {"params": d.params, "staking": d.staking, "escrow": d.escrow},
        d.staking: {
            "claw": d.claw,
            "params": d.params,
            "registry": d.registry,
            "escrow": d.escrow,
            "arbitration": d.arbitration,
        },
        d.escrow: {
            "params": d.params,
            "registry": d.registry,
            "staking": d.staking,
            "arbitration": d.arbitration,
        },
        d.usage_anchor: {"registry": d.registry, "escrow": d.escrow},
        d.arbitration: {"escrow": d.escrow, "staking": d.staking, "registry": d.registry},
        d.lens: {
            "params": d.params,
            "registry": d.registry,
            "staking": d.staking,
            "escrow": d.escrow,
            "usage_anchor": d.usage_anchor,
        },
    }
    for contract, references in expected.items():
        for getter, target in references.items():
            assert getattr(contract, getter)() == target.address, f"{contract}.{getter}"


def test_deployment__fresh__both_tokens_are_listed(deployment: Any, stranger: Any) -> None:
    assert deployment.params.token_listed(deployment.usdc)
    assert deployment.params.token_listed(deployment.claw)
    assert not deployment.params.token_listed(stranger)


def test_deployment__fresh__deployer_owns_what_has_an_owner(deployment: Any, deployer: Any) -> None:
    assert deployment.params.owner() == deployer
    assert deployment.claw.owner() == deployer
    assert deployment.claw.totalSupply() == 10**27
    # Other tests of this session may have staked some of it.
    held = deployment.claw.balanceOf(deployer) + deployment.claw.balanceOf(deployment.staking)
    assert held == deployment.claw.totalSupply()
