"""Deploying: idempotent, resumable, and refused rather than half right."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from protocol.address import to_address
from protocol.chain.abi import ContractAbi
from protocol.chain.deployments import FOLDER, ContractRecord, Deployment, abi_hash, code_hash, load_file, path_of
from protocol.chain.exceptions import DeploymentError, InsufficientFunds, RpcRejected
from protocol.chain.rpc import RpcPool
from protocol.hashing import keccak
from scripts.deployment.artifacts import Artifact
from scripts.deployment.journal import Attempt, Journal, only_one
from scripts.deployment.node import Node
from scripts.deployment.plan import Creation, Listing, Plan, make_plan
from scripts.deployment.profiles import Network
from scripts.deployment.signer import Signer
from scripts.deployment.verify import check_codes, check_deployment, check_references, stands

_ERC20 = ContractAbi(
    "USDC", [{"type": "function", "name": "decimals", "inputs": [], "outputs": [{"name": "", "type": "uint8"}]}]
)


@dataclass(frozen=True)
class Settings:
    """`treasury` receives the platform's share (None: the deployer, on dev networks only); `timeout_s` is how long one
    transaction may take to be mined; `report` is called with each line of progress."""

    treasury: str | None = None
    folder: Path = FOLDER
    timeout_s: float = 180.0
    report: Callable[[str], None] = field(default=lambda _: None)


def deploy(
    rpc: RpcPool, signer: Signer, artifacts: Mapping[str, Artifact], network: Network, settings: Settings = Settings()
) -> Deployment:
    """The deployment on this chain: a recorded one is verified, an unfinished one finished, else a new one is made.

    Writes `<folder>/<chain-id>.json` once every contract has its code and every back-reference matches. Raises
    DeploymentError otherwise; what was recorded until then stays, and the next call goes on from there.
    """
    node = Node(rpc)
    with only_one(settings.folder, network.chain_id):
        path = path_of(network.chain_id, settings.folder)
        journal_path = settings.folder / f"{network.chain_id}.pending.json"
        if path.exists():
            found = load_file(path)
            if stands(node, found):
                check_deployment(node, artifacts, found, network.usdc)
                settings.report(f"{path} stands: code and back-references verified, nothing to deploy")
                return found
            if not network.dev:
                raise DeploymentError(
                    f"nothing of {path} is on chain {network.chain_id}: check the RPC address; "
                    "if that deployment is given up, move the file away"
                )
            settings.report("the development chain was restarted: deploying anew")
        return _Deployer(node, signer, artifacts, network, settings).run(journal_path)


class _Deployer:
    """One run of a new or unfinished deployment."""

    def __init__(
        self, node: Node, signer: Signer, artifacts: Mapping[str, Artifact], network: Network, settings: Settings
    ) -> None:
        self._node = node
        self._signer = signer
        self._deployer = to_address(signer.address, "deployer")
        self._artifacts = artifacts
        self._network = network
        self._settings = settings
        self._treasury = self._choose_treasury()

    def run(self, journal_path: Path) -> Deployment:
        self._check_usdc()
        genesis = self._node.genesis_hash()
        journal, plan = self._open(journal_path, genesis)
        for creation in plan.creations:
            self._ensure(journal, creation)
        codes = check_codes(self._node, self._artifacts, plan.creations)
        check_references(self._node, self._artifacts, plan.creations)
        for listing in plan.listings:
            self._ensure(journal, listing)
        deployment = Deployment(
            chain_id=self._network.chain_id,
            genesis_hash=genesis,
            block=self._first_block(journal),
            profile=self._network.profile,
            contracts={
                creation.name: ContractRecord(
                    creation.address,
                    code_hash(codes[creation.name]),
                    abi_hash(self._artifacts[creation.name].abi),
                )
                for creation in plan.creations
            },
        )
        path = deployment.save(self._settings.folder)
        journal.remove()
        self._settings.report(f"every back-reference matches; wrote {path}")
        return deployment

    def _choose_treasury(self) -> str:
        if self._settings.treasury is not None:
            return to_address(self._settings.treasury, "treasury")
        if not self._network.dev:
            raise DeploymentError(f"{self._network.profile.name} needs a treasury: the address fees are paid to")
        return self._deployer

    def _check_usdc(self) -> None:
        usdc = self._network.usdc
        if usdc is None:
            return
        if not self._node.codes([usdc])[0]:
            raise DeploymentError(f"there is no contract at {usdc}, the network's USDC in profiles.toml")
        decimals = self._node.read([_ERC20.call(usdc, "decimals")])[0]
        if decimals != 6:
            raise DeploymentError(f"the token at {usdc} has {decimals} decimals, USDC has 6: correct profiles.toml")

    def _open(self, path: Path, genesis: bytes) -> tuple[Journal, Plan]:
        """The unfinished deployment when it is this one, else a new one from the account's next nonce."""
        journal = Journal.load(path)
        if journal is not None and self._network.dev and journal.genesis_hash != genesis.hex():
            journal = None
        if journal is None:
            first_nonce = self._node.nonce(self._deployer)
            if self._node.nonce(self._deployer, "pending") != first_nonce:
                raise DeploymentError(f"{self._deployer} has transactions that are not mined yet: wait for them")
            plan = self._plan(first_nonce)
            journal = Journal(path, genesis.hex(), self._deployer, first_nonce, _digest(plan))
            journal.save()
            return journal, plan
        plan = self._plan(journal.first_nonce)
        begun = (journal.genesis_hash, journal.deployer, journal.plan_digest)
        if begun != (genesis.hex(), self._deployer, _digest(plan)):
            raise DeploymentError(
                f"{path} records an unfinished deployment by {journal.deployer} that differs from this one (chain, "
                "account, treasury or contracts): finish it with what it was begun with, or give it up by removing it"
            )
        self._settings.report(f"resuming the deployment recorded in {path}")
        return journal, plan

    def _plan(self, first_nonce: int) -> Plan:
        return make_plan(self._artifacts, self._deployer, first_nonce, self._treasury, self._network.usdc)

    def _ensure(self, journal: Journal, step: Creation | Listing) -> None:
        """This nonce is used, by this step."""
        if self._node.nonce(self._deployer) <= step.nonce:
            self._send(journal, step)
            self._wait(journal, step)
        if self._is_done(step):
            self._settings.report(_describe(step))
            return
        raise DeploymentError(
            f"void: nonce {step.nonce} of {self._deployer} was used but {step.name} is not there: another transaction "
            f"took the nonce, or it failed. Remove {journal.path} and run again: all contracts are then deployed anew, "
            "at other addresses"
        )

    def _is_done(self, step: Creation | Listing) -> bool:
        if isinstance(step, Creation):
            return bool(self._node.codes([step.address])[0])
        is_listed = self._artifacts["Params"].encoder().call(step.params, "token_listed", step.token)
        return bool(self._node.read([is_listed])[0])

    def _send(self, journal: Journal, step: Creation | Listing) -> None:
        to = None if isinstance(step, Creation) else step.params
        attempt = journal.attempts.setdefault(step.nonce, Attempt())
        try:
            gas = self._node.estimate(self._deployer, to, step.data) * 6 // 5
        except RpcRejected as error:
            raise DeploymentError(f"void: {step.name} would revert: {error.message}") from None
        max_fee, tip = self._node.fees()
        if attempt.max_fee:
            # Replacing what may still be waiting: nodes ask for a tenth more of both fees.
            max_fee = max(max_fee, attempt.max_fee * 9 // 8 + 1)
            tip = max(tip, min(max_fee, attempt.tip * 9 // 8 + 1))
        available = self._node.balance(self._deployer)
        if available < gas * max_fee:
            raise InsufficientFunds(self._deployer, gas * max_fee, available)
        transaction = {
            "type": 2,
            "chainId": self._network.chain_id,
            "nonce": step.nonce,
            "value": 0,
            "data": step.data,
            "gas": gas,
            "maxFeePerGas": max_fee,
            "maxPriorityFeePerGas": tip,
        }
        raw = self._signer.sign(transaction if to is None else transaction | {"to": to})
        attempt.hashes.append("0x" + keccak(raw).hex())
        attempt.max_fee, attempt.tip = max_fee, tip
        journal.save()
        self._node.send(raw)

    def _wait(self, journal: Journal, step: Creation | Listing) -> None:
        deadline = time.monotonic() + self._settings.timeout_s
        pause = 0.02
        while self._node.nonce(self._deployer) <= step.nonce:
            if time.monotonic() > deadline:
                raise DeploymentError(
                    f"{step.name} is not mined after {self._settings.timeout_s:.0f} s "
                    f"({journal.attempts[step.nonce].hashes[-1]}): run again to go on, with a higher fee"
                )
            time.sleep(pause)
            pause = min(2 * pause, 1.0)

    def _first_block(self, journal: Journal) -> int:
        """The block of the first creation."""
        for transaction_hash in journal.attempts[journal.first_nonce].hashes:
            block = self._node.block_of(transaction_hash)
            if block is not None:
                return block
        raise DeploymentError("the node has no receipt of the first transaction: run again, or ask another node")


def _digest(plan: Plan) -> str:
    steps: list[Creation | Listing] = [*plan.creations, *plan.listings]
    return keccak(b"".join(keccak(step.data) for step in steps)).hex()


def _describe(step: Creation | Listing) -> str:
    if isinstance(step, Creation):
        return f"{step.name:<12} {step.address}"
    return f"{'listed':<12} {step.token} ({step.name})"
