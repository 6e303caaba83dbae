"""Whether what stands on a chain is one deployment of these contracts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from protocol.chain.abi import ContractCall
from protocol.chain.deployments import Deployment, abi_hash, code_hash
from protocol.chain.exceptions import DeploymentError
from protocol.exceptions import InvalidField
from scripts.deployment.artifacts import CONTRACTS, Artifact
from scripts.deployment.node import Node
from scripts.deployment.plan import CONTRACT_OF_REFERENCE, TREASURY, Creation, references_of


def check_references(node: Node, artifacts: Mapping[str, Artifact], creations: Iterable[Creation]) -> None:
    """Every address a constructor was given is what the public getter of that name answers.

    Raises DeploymentError listing each that is not: such a deployment is void.
    """
    wanted: list[tuple[str, str]] = []
    calls: list[ContractCall[str]] = []
    for creation in creations:
        encoder = artifacts[creation.name].encoder()
        for getter, expected in creation.references.items():
            try:
                calls.append(encoder.call(creation.address, getter))
            except InvalidField:
                raise DeploymentError(f"void: {creation.name} has no public getter {getter}()") from None
            wanted.append((f"{creation.name}.{getter}()", expected))
    wrong = [
        f"{label} answers {answer}, not {expected}"
        for (label, expected), answer in zip(wanted, node.read(calls), strict=True)
        if answer != expected
    ]
    if wrong:
        raise DeploymentError("void: " + "; ".join(wrong))


def check_codes(node: Node, artifacts: Mapping[str, Artifact], creations: Iterable[Creation]) -> dict[str, bytes]:
    """The code of every contract. Raises DeploymentError where there is none, or another than was built."""
    creations = list(creations)
    codes = dict(zip([c.name for c in creations], node.codes([c.address for c in creations]), strict=True))
    for creation in creations:
        if not codes[creation.name]:
            raise DeploymentError(f"void: there is no code at {creation.address}, where {creation.name} should be")
        if not artifacts[creation.name].is_runtime(codes[creation.name]):
            raise DeploymentError(f"void: the code at {creation.address} is not that of {creation.name}")
    return codes


def stands(node: Node, deployment: Deployment) -> bool:
    """Whether any of the deployment is on this chain: False after a development chain was restarted."""
    if deployment.genesis_hash != node.genesis_hash():
        return False
    return any(node.codes([record.address for record in deployment.contracts.values()]))


def check_deployment(node: Node, artifacts: Mapping[str, Artifact], deployment: Deployment, usdc: str | None) -> None:
    """A recorded deployment against the chain and the build. Raises DeploymentError saying what differs."""
    names = [name for name in CONTRACTS if usdc is None or name != "TestUSDC"]
    records = deployment.contracts
    if sorted(records) != sorted(names):
        raise DeploymentError(f"void: the file lists {', '.join(sorted(records))}, not {', '.join(sorted(names))}")
    codes = node.codes([records[name].address for name in names])
    for name, code in zip(names, codes, strict=True):
        if code_hash(code) != records[name].code_hash:
            raise DeploymentError(f"void: the code of {name} at {records[name].address} is not what was deployed")
        if abi_hash(artifacts[name].abi) != records[name].abi_hash:
            raise DeploymentError(
                f"the deployed {name} has another ABI than this checkout's: use the version it was deployed from, or "
                "move the deployment file away to deploy this one"
            )
    values = {key: records[name].address for key, name in CONTRACT_OF_REFERENCE.items()} | {TREASURY: ""}
    creations = []
    for name in names:
        references = references_of(artifacts[name], values)
        references.pop(TREASURY, None)  # may have been changed since
        creations.append(Creation(name, 0, records[name].address, b"", references))
    check_references(node, artifacts, creations)
