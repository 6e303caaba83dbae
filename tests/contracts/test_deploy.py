"""Deploying: once, again, after every kind of crash, and onto chains where it must be refused."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account

from protocol.chain.deployments import Deployment, Profile, load
from protocol.chain.exceptions import ChainError, DeploymentError, InsufficientFunds
from protocol.chain.rpc import RpcPool
from scripts.deployment import Artifact, KeySigner, Network, Settings, Signer, deploy, load_build, network_of
from scripts.deployment.artifacts import CONTRACTS
from tests.support.anvil import Anvil, dev_account

CHAIN_ID = 31337
TRANSACTIONS = len(CONTRACTS) + 2


class CrashError(Exception):
    """Stands for the end of the process."""


class CrashingPool(RpcPool):
    """Ends the process at its n-th transaction: `sent` with it at the node but not waited for, else before it left."""

    def __init__(self, node: Anvil, crash_at: int, *, sent: bool) -> None:
        super().__init__([node.url], CHAIN_ID)
        self._node = node
        self._left = crash_at
        self._sent = sent

    def request(self, method: str, *params: Any) -> Any:
        if method == "eth_sendRawTransaction":
            if self._left == 0:
                if self._sent:
                    self._node.wait_receipt(super().request(method, *params))
                raise CrashError
            self._left -= 1
        return super().request(method, *params)


@pytest.fixture(scope="module")
def anvil() -> Iterator[Anvil]:
    with Anvil() as node:
        yield node


@dataclass
class Stage:
    """A node and all that a deployment to it needs."""

    node: Anvil
    rpc: RpcPool
    signer: Signer
    artifacts: dict[str, Artifact]
    network: Network
    settings: Settings

    @property
    def file(self) -> Path:
        return self.settings.folder / f"{CHAIN_ID}.json"

    @property
    def journal(self) -> Path:
        return self.settings.folder / f"{CHAIN_ID}.pending.json"

    def deploy(self) -> Deployment:
        return deploy(self.rpc, self.signer, self.artifacts, self.network, self.settings)

    def crash(self, crash_at: int, *, sent: bool) -> None:
        """Begin a deployment that ends at the transaction `crash_at`, counted from 0."""
        with CrashingPool(self.node, crash_at, sent=sent) as pool, pytest.raises(CrashError):
            dataclasses.replace(self, rpc=pool).deploy()

    def replace_artifact(self, name: str, **changes: Any) -> None:
        self.artifacts = self.artifacts | {name: dataclasses.replace(self.artifacts[name], **changes)}

    def replace_settings(self, **changes: Any) -> None:
        self.settings = dataclasses.replace(self.settings, **changes)

    def nonce(self, index: int = 0) -> int:
        return int(self.node.rpc("eth_getTransactionCount", [dev_account(index).address, "latest"]), 16)

    def send_ether(self) -> None:
        address = dev_account(0).address
        self.node.wait_receipt(self.node.rpc("eth_sendTransaction", [{"from": address, "to": address, "value": "0x1"}]))

    def read(self, deployment: Deployment, contract: str, function: str, *args: Any) -> Any:
        call = self.artifacts[contract].encoder().call(deployment.address(contract), function, *args)
        answer = self.node.rpc("eth_call", [{"to": call.to, "data": "0x" + call.data.hex()}, "latest"])
        return call.decode(bytes.fromhex(answer[2:]))

    def check_complete(self, deployment: Deployment) -> None:
        assert sorted(deployment.contracts) == sorted(CONTRACTS)
        assert load(CHAIN_ID, self.settings.folder) == deployment
        assert not self.journal.exists()
        for record in deployment.contracts.values():
            assert len(self.node.rpc("eth_getCode", [record.address, "latest"])) > 100


@pytest.fixture(scope="module")
def artifacts() -> dict[str, Artifact]:
    return load_build()


@pytest.fixture
def stage(anvil: Anvil, artifacts: dict[str, Artifact], tmp_path: Path) -> Iterator[Stage]:
    """The module's node, afterwards again as it was before the test."""
    snapshot = anvil.snapshot()
    with RpcPool([anvil.url], CHAIN_ID) as pool:
        settings = Settings(folder=tmp_path, timeout_s=10)
        yield Stage(anvil, pool, KeySigner(dev_account(0)), artifacts, network_of(CHAIN_ID), settings)
    anvil.automine(True)
    anvil.revert(snapshot)


def test_deploy__fresh_chain__writes_the_file(stage: Stage) -> None:
    stage.send_ether()
    first = stage.nonce()
    deployment = stage.deploy()
    stage.check_complete(deployment)
    assert stage.nonce() == first + TRANSACTIONS
    first_code = stage.node.rpc("eth_getCode", [deployment.address("ClawToken"), hex(deployment.block)])
    assert len(first_code) > 100
    assert stage.node.rpc("eth_getCode", [deployment.address("ClawToken"), hex(deployment.block - 1)]) == "0x"


def test_deploy__second_run__sends_nothing(stage: Stage) -> None:
    first = stage.deploy()
    text = stage.file.read_bytes()
    sent = stage.nonce()
    assert stage.deploy() == first
    assert stage.nonce() == sent
    assert stage.file.read_bytes() == text


@pytest.mark.parametrize("sent", [False, True], ids=["unsent", "sent"])
@pytest.mark.parametrize("crash_at", range(TRANSACTIONS))
def test_deploy__crash__goes_on_at_the_same_addresses(stage: Stage, crash_at: int, sent: bool) -> None:
    first = stage.nonce()
    stage.crash(crash_at, sent=sent)
    assert not stage.file.exists()
    assert stage.nonce() == first + crash_at + sent
    deployment = stage.deploy()
    stage.check_complete(deployment)
    assert stage.nonce() == first + TRANSACTIONS


def test_deploy__transaction_stuck__is_replaced_by_the_next_run(stage: Stage) -> None:
    first = stage.nonce()
    stage.replace_settings(timeout_s=0.2)
    stage.node.automine(False)
    for _ in range(2):
        with pytest.raises(DeploymentError, match="ClawToken is not mined after"):
            stage.deploy()
    journal = json.loads(stage.journal.read_bytes())
    hashes = journal["attempts"][str(first)]["hashes"]
    assert len(set(hashes)) == 2
    assert stage.node.rpc("eth_getTransactionByHash", [hashes[0]]) is None
    assert stage.node.rpc("eth_getTransactionByHash", [hashes[1]]) is not None
    stage.node.mine()
    stage.node.automine(True)
    stage.replace_settings(timeout_s=10)
    stage.check_complete(stage.deploy())
    assert stage.nonce() == first + TRANSACTIONS


def test_deploy__other_transaction_took_the_nonce__is_void(stage: Stage) -> None:
    stage.crash(3, sent=False)
    stage.send_ether()
    with pytest.raises(DeploymentError, match=r"void: nonce \d+ of 0x.* was used but Registry is not there.*Remove"):
        stage.deploy()
    stage.journal.unlink()
    stage.check_complete(stage.deploy())


def test_deploy__unmined_transactions_of_the_deployer__are_waited_for(stage: Stage) -> None:
    stage.node.automine(False)
    address = dev_account(0).address
    stage.node.rpc("eth_sendTransaction", [{"from": address, "to": address}])
    with pytest.raises(DeploymentError, match="not mined yet"):
        stage.deploy()


@pytest.mark.parametrize("change", ["account", "treasury", "contracts"])
def test_deploy__resumed_otherwise_than_begun__is_refused(stage: Stage, change: str) -> None:
    stage.crash(5, sent=True)
    if change == "account":
        stage.signer = KeySigner(dev_account(1))
    elif change == "treasury":
        stage.replace_settings(treasury=dev_account(1).address)
    else:
        stage.replace_artifact("Lens", init_code=stage.artifacts["Lens"].init_code + b"\0")
    sent = stage.nonce(), stage.nonce(1)
    with pytest.raises(DeploymentError, match="differs from this one"):
        stage.deploy()
    assert (stage.nonce(), stage.nonce(1)) == sent


def test_deploy__restarted_dev_chain__deploys_anew(stage: Stage) -> None:
    before = stage.deploy()
    with Anvil(["--timestamp", "1700000000"]) as other:
        with RpcPool([other.url], CHAIN_ID) as pool:
            restarted = dataclasses.replace(stage, node=other, rpc=pool)
            after = restarted.deploy()
        restarted.check_complete(after)
    assert after.genesis_hash != before.genesis_hash


def test_deploy__journal_of_a_restarted_dev_chain__is_dropped(stage: Stage) -> None:
    stage.crash(5, sent=True)
    stage.journal.write_text(json.dumps(json.loads(stage.journal.read_text()) | {"genesis_hash": "ab" * 32}))
    stage.check_complete(stage.deploy())


def test_deploy__code_changed_on_chain__is_void(stage: Stage) -> None:
    deployment = stage.deploy()
    stage.node.rpc("anvil_setCode", [deployment.address("Lens"), "0x6001"])
    with pytest.raises(DeploymentError, match="void: the code of Lens"):
        stage.deploy()


def test_deploy__recorded_address_of_another_set__is_void(stage: Stage, tmp_path: Path) -> None:
    """Code hashes alone do not show it: the file holds a contract of another set together with its hash."""
    first = stage.deploy()
    second = dataclasses.replace(stage, settings=Settings(folder=tmp_path / "second")).deploy()
    mixed = dataclasses.replace(first, contracts={**first.contracts, "Staking": second.contract("Staking")})
    mixed.save(stage.settings.folder)
    with pytest.raises(DeploymentError, match=r"void: Registry.staking\(\) answers"):
        stage.deploy()


def test_deploy__constructor_stores_a_wrong_address__is_void_and_unwritten(stage: Stage) -> None:
    swapped = json.loads(json.dumps(stage.artifacts["Registry"].abi))
    inputs = next(entry for entry in swapped if entry["type"] == "constructor")["inputs"]
    inputs[0]["name"], inputs[1]["name"] = inputs[1]["name"], inputs[0]["name"]
    stage.replace_artifact("Registry", abi=swapped)
    with pytest.raises(DeploymentError, match=r"void: Registry.*answers"):
        stage.deploy()
    assert not stage.file.exists()


def test_deploy__constructor_wants_something_unknown__is_refused_before_sending(stage: Stage) -> None:
    abi = [{"type": "constructor", "inputs": [{"name": "oracle_", "type": "address"}]}]
    stage.replace_artifact("Lens", abi=abi)
    before = stage.nonce()
    with pytest.raises(DeploymentError, match="the constructor of Lens wants an unknown address oracle"):
        stage.deploy()
    assert stage.nonce() == before


def test_deploy__contracts_changed_since__says_so(stage: Stage) -> None:
    stage.deploy()
    stage.replace_artifact("Lens", abi=stage.artifacts["Lens"].abi[:-1])
    with pytest.raises(DeploymentError, match="the deployed Lens has another ABI than this checkout's"):
        stage.deploy()


def test_deploy__creation_reverts__is_refused_before_sending(stage: Stage) -> None:
    before = stage.nonce()
    stage.replace_artifact("ClawToken", init_code=bytes.fromhex("60006000fd"))
    with pytest.raises(DeploymentError, match="void: ClawToken would revert"):
        stage.deploy()
    assert stage.nonce() == before


@pytest.mark.parametrize("name", [f"{CHAIN_ID}.json", f"{CHAIN_ID}.pending.json"])
@pytest.mark.parametrize("text", ["", "{", "[]", '{"attempts": 1}'])
def test_deploy__damaged_file__is_refused(stage: Stage, name: str, text: str) -> None:
    (stage.settings.folder / name).write_text(text)
    with pytest.raises(DeploymentError, match=name):
        stage.deploy()


def test_deploy__no_money_for_gas__says_how_much(stage: Stage) -> None:
    stage.signer = KeySigner(Account.from_key(b"\1" * 32))
    with pytest.raises(InsufficientFunds, match="send at least"):
        stage.deploy()


def test_deploy__two_at_once__second_is_refused(stage: Stage) -> None:
    class Nested(KeySigner):
        def sign(self, transaction: Mapping[str, Any]) -> bytes:
            stage.deploy()
            raise AssertionError("the second deployment was let in")

    with pytest.raises(DeploymentError, match="another deployment to chain 31337 is running"):
        dataclasses.replace(stage, signer=Nested(dev_account(0))).deploy()


def test_deploy__wrong_chain__is_refused(stage: Stage) -> None:
    with Anvil(chain_id=8453) as other, RpcPool([other.url], CHAIN_ID) as pool:
        stage.rpc = pool
        with pytest.raises(ChainError, match="serves chain 8453"):
            stage.deploy()


class TestLiveNetwork:
    """A network with a USDC of its own, played by anvil."""

    @pytest.fixture
    def live(self, stage: Stage) -> Stage:
        usdc = stage.node.deploy(stage.artifacts["TestUSDC"].init_code, dev_account(5).address)
        profile = Profile("live", finality_tag="finalized", l1_fee=True)
        stage.network = Network(CHAIN_ID, profile, dev=False, usdc=usdc)
        stage.replace_settings(treasury=dev_account(7).address)
        return stage

    def test_deploy__own_usdc__lists_it(self, live: Stage) -> None:
        deployment = live.deploy()
        assert sorted(deployment.contracts) == sorted(set(CONTRACTS) - {"TestUSDC"})
        assert deployment.profile == live.network.profile
        assert live.read(deployment, "Params", "treasury") == dev_account(7).address
        assert live.read(deployment, "Params", "token_listed", live.network.usdc)
        assert not live.read(deployment, "Params", "token_listed", dev_account(9).address)
        assert live.deploy() == deployment

    def test_deploy__treasury_changed_since__still_stands(self, live: Stage) -> None:
        deployment = live.deploy()
        data = live.artifacts["Params"].encoder().encode("set_treasury", dev_account(8).address)
        transaction = {"from": dev_account(0).address, "to": deployment.address("Params"), "data": "0x" + data.hex()}
        live.node.wait_receipt(live.node.rpc("eth_sendTransaction", [transaction]))
        assert live.read(deployment, "Params", "treasury") == dev_account(8).address
        assert live.deploy() == deployment

    def test_deploy__no_treasury__is_refused(self, live: Stage) -> None:
        live.replace_settings(treasury=None)
        with pytest.raises(DeploymentError, match="needs a treasury"):
            live.deploy()

    def test_deploy__usdc_is_no_contract__is_refused(self, live: Stage) -> None:
        live.network = dataclasses.replace(live.network, usdc=dev_account(3).address)
        with pytest.raises(DeploymentError, match="there is no contract at"):
            live.deploy()

    def test_deploy__usdc_has_other_decimals__is_refused(self, live: Stage) -> None:
        claw = live.node.deploy(live.artifacts["ClawToken"].init_code, dev_account(5).address)
        live.network = dataclasses.replace(live.network, usdc=claw)
        with pytest.raises(DeploymentError, match="has 18 decimals"):
            live.deploy()

    def test_deploy__file_of_another_chain__is_refused(self, live: Stage) -> None:
        deployment = live.deploy()
        dataclasses.replace(deployment, genesis_hash=b"\1" * 32).save(live.settings.folder)
        with pytest.raises(DeploymentError, match=r"nothing of .* is on chain"):
            live.deploy()
