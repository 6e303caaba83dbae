"""Gas of the market's transactions on anvil, against one ERC-20 transfer per payment.

Every figure is `gasUsed` of a mined transaction, in gas units. Keys, dates and clock are fixed, so the figures are the
same on every machine. Steady state means that a transaction writes no word from zero but a lease's own; the `cold_`
figures are the same transactions when they are the first of their kind.

make bench BENCH=gas                       the table
python -m scripts.bench.gas --renew        the table, and a new tests/contracts/gas-snapshot.json
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from protocol.chain.abi import topic
from protocol.chain.deployments import Deployment
from protocol.chain.rpc import RpcPool
from protocol.hashing import ZERO_BYTES32, keccak
from protocol.ids import lease_id_of
from protocol.signing import Signer
from protocol.typed_data import Anchor, Domain, NodeKey, OpenLease, Voucher
from scripts.bench.report import Report
from scripts.deployment import Artifact, KeySigner, Settings, deploy, load_build, network_of
from tests.support.anvil import Anvil, dev_account

SNAPSHOT = Path(__file__).resolve().parents[2] / "tests" / "contracts" / "gas-snapshot.json"
GOALS = {
    "settle_per_lease_1": 60_000,
    "settle_per_lease_10": 21_000,
    "settle_per_lease_100": 17_500,
    "open_lease": 150_000,
    "anchor": 42_000,
    "withdraw": 50_000,
}
"""Upper limits in steady state."""

_CHAIN_ID = 31337
_START = 1_900_000_000
_GAS_LIMIT = 10_000_000
_DAY = 86_400
_USD = 10**6
_LEASES = 100
_TERMS = keccak(b"terms")


def run() -> Report:
    """Measure everything and compare it with the goals and with a transfer per payment."""
    figures = measure()
    peer = figures["erc20_transfer"]
    rows: list[list[int | str]] = []
    for name, gas in figures.items():
        goal = GOALS.get(name)
        verdict = "" if goal is None else ("met" if gas <= goal else "MISSED")
        rows.append([name, gas, "" if goal is None else goal, verdict])
    saved = {
        f"saved_percent_{count}": round(100 * (1 - figures[f"settle_per_lease_{count}"] / peer), 1)
        for count in (10, 100)
    }
    return Report(
        columns=("transaction", "gas", "goal", ""),
        rows=rows,
        figures={**figures, **saved},
        notes=(
            f"naive peer: one ERC-20 transfer per payment costs {peer:,} gas; a lease settled in a batch of 100 costs "
            f"{figures['settle_per_lease_100']:,}, whatever the number of payments its voucher sums up",
        ),
    )


def measure() -> dict[str, int]:
    """Gas units by name; names with `per_lease` are divided by the number of leases, rounded up."""
    with _bench() as bench:
        return bench.measure()


def main(arguments: Sequence[str]) -> int:
    if list(arguments) not in ([], ["--renew"]):
        print("usage: python -m scripts.bench.gas [--renew]", file=sys.stderr)
        return 2
    report = run()
    report.show("gas")
    if arguments:
        gas = {row[0]: row[1] for row in report.rows}
        SNAPSHOT.write_text(json.dumps(gas, indent=1) + "\n")
        print(f"wrote {SNAPSHOT}")
    return 0


@contextmanager
def _bench() -> Iterator[_Bench]:
    with (
        tempfile.TemporaryDirectory() as folder,
        Anvil(["--timestamp", str(_START)]) as node,
        RpcPool([node.url], _CHAIN_ID) as rpc,
    ):
        node.rpc("anvil_setBlockTimestampInterval", [1])
        artifacts = load_build()
        settings = Settings(folder=Path(folder), timeout_s=30)
        deployment = deploy(rpc, KeySigner(dev_account(0)), artifacts, network_of(_CHAIN_ID), settings)
        yield _Bench(node, artifacts, deployment)


class _Bench:
    """A deployment on a node, and accounts that send: 0 deployer, 1 provider, 2 consumer, 3 keeper."""

    def __init__(self, node: Anvil, artifacts: dict[str, Artifact], deployment: Deployment) -> None:
        self._node = node
        self._abis = {name: artifact.encoder() for name, artifact in artifacts.items()}
        self._deployment = deployment
        self._domain = Domain(_CHAIN_ID, deployment.address("LeaseEscrow"))
        self._usdc = deployment.address("TestUSDC")
        self._node_key = Signer(keccak(b"node key"))
        self._sessions = [Signer(keccak(b"session" + bytes([number]))) for number in range(_LEASES)]

    def measure(self) -> dict[str, int]:
        self._set_up()
        gas: dict[str, int] = {}
        gas |= self._measure_open()
        gas |= self._measure_settle()
        gas |= self._measure_anchor()
        gas |= self._measure_money()
        gas |= self._measure_peer()
        return gas

    def _set_up(self) -> None:
        staking = self._deployment.address("Staking")
        stake = 10_000 * 10**18
        self._send(0, "ClawToken", "transfer", dev_account(1).address, stake)
        self._send(1, "ClawToken", "approve", staking, stake)
        self._send(1, "Staking", "stake", stake)
        proof = self._node_key.sign(self._domain, NodeKey(owner=dev_account(1).address)).compact()
        self._send(1, "Registry", "register", self._node_key.address, *proof, ZERO_BYTES32)
        offer = (0, self._usdc, _TERMS, 1, 30 * _DAY, 3_600, 6 * _DAY, 1_000_000)
        self._send(1, "Registry", "create_offer", 1, offer)
        self._send(0, "TestUSDC", "mint", dev_account(2).address, 10**12)
        self._send(2, "TestUSDC", "approve", self._escrow, 2**256 - 1)

    def _measure_open(self) -> dict[str, int]:
        cold_deposit = self._deposit(10**11)
        cold, *_, direct = [self._open(nonce) for nonce in range(_LEASES - 1)]
        signed = self._open(_LEASES - 1, by_signature=True)
        return {
            "open_lease": max(direct, signed),
            "open_lease_by_owner": direct,
            "open_lease_by_signature": signed,
            "cold_open_lease": cold,
            "deposit": self._deposit(10**6),
            "cold_deposit": cold_deposit,
        }

    def _measure_settle(self) -> dict[str, int]:
        self._node.time_travel_to(self._tomorrow())
        cold = self._settle(range(1), 1_000)
        self._settle(range(_LEASES), 2_000)
        figures = {
            f"settle_per_lease_{count}": -(-self._settle(range(count), 3_000 + count) // count)
            for count in (1, 10, 100)
        }
        self._node.time_travel_to(self._tomorrow())
        first_of_day = self._settle(range(1), 4_000)
        return figures | {"cold_settle": cold, "cold_settle_first_of_day": first_of_day}

    def _measure_anchor(self) -> dict[str, int]:
        cold = self._anchor(5, (0, ZERO_BYTES32))
        return {"anchor": self._anchor(9, (5, _root(5))), "cold_anchor": cold}

    def _measure_money(self) -> dict[str, int]:
        self._node.time_travel_to(self._tomorrow() + 7 * _DAY)
        cold_collect = self._send(3, "LeaseEscrow", "collect", 1, self._usdc)
        fresh = "0x" + "11" * 20
        cold = self._send(2, "LeaseEscrow", "withdraw", self._usdc, 1_000, fresh)
        steady = self._send(2, "LeaseEscrow", "withdraw", self._usdc, 1_000, fresh)
        return {
            "withdraw": steady,
            "cold_withdraw": cold,
            "cold_collect": cold_collect,
            "cold_collect_fees": self._send(3, "LeaseEscrow", "collect_fees", self._usdc),
            "release": self._send(3, "LeaseEscrow", "release", self._lease_id(0)),
        }

    def _measure_peer(self) -> dict[str, int]:
        """What paying without a market costs: the sender and the receiver hold the token already."""
        receiver = "0x" + "11" * 20
        self._send(2, "TestUSDC", "approve", dev_account(3).address, 10**9)
        return {
            "erc20_transfer": self._send(2, "TestUSDC", "transfer", receiver, 1_000),
            "erc20_transfer_from": self._send(3, "TestUSDC", "transferFrom", dev_account(2).address, receiver, 1_000),
        }

    @property
    def _escrow(self) -> str:
        return self._deployment.address("LeaseEscrow")

    def _tomorrow(self) -> int:
        return (self._node.timestamp() // _DAY + 1) * _DAY + 3_600

    def _deposit(self, amount: int) -> int:
        return self._send(2, "LeaseEscrow", "deposit", self._usdc, amount, dev_account(2).address)

    def _request(self, nonce: int) -> OpenLease:
        return OpenLease(
            owner=dev_account(2).address,
            provider=1,
            offer_id=1,
            version=1,
            token=self._usdc,
            amount=100 * _USD,
            signer=self._sessions[nonce].address,
            expiry=_START // _DAY * _DAY + 7 * _DAY,
            close_delay=3_600,
            terms_digest=_TERMS,
            nonce=nonce,
            deadline=_START + _DAY,
        )

    def _lease_id(self, nonce: int) -> bytes:
        return lease_id_of(self._domain, self._request(nonce))

    def _open(self, nonce: int, *, by_signature: bool = False) -> int:
        request = self._request(nonce)
        if not by_signature:
            return self._send(2, "LeaseEscrow", "open_lease", request, b"")
        signature = Signer(bytes(dev_account(2).key)).sign(self._domain, request).to_bytes()
        return self._send(3, "LeaseEscrow", "open_lease", request, signature)

    def _settle(self, nonces: range, cumulative: int) -> int:
        vouchers = []
        for nonce in nonces:
            context = keccak(b"request" + bytes([nonce]))
            voucher = Voucher(lease_id=self._lease_id(nonce), cumulative=cumulative * _USD // 100, context=context)
            signature = self._sessions[nonce].sign(self._domain, voucher).compact()
            vouchers.append((*voucher.as_tuple(), *signature))
        return self._send(3, "LeaseEscrow", "settle", 1, self._usdc, vouchers, emits=("VoucherSettled", len(vouchers)))

    def _anchor(self, count: int, previous: tuple[int, bytes]) -> int:
        anchor = Anchor(provider=1, count=count, root=_root(count))
        signature = self._node_key.sign(self._domain, anchor).compact()
        return self._send(
            3, "UsageAnchor", "submit", [(1, *previous, count, _root(count), *signature)], emits=("Anchored", 1)
        )

    def _send(
        self, sender: int, contract: str, function: str, *arguments: Any, emits: tuple[str, int] | None = None
    ) -> int:
        """Gas used by one transaction, which must succeed and emit what `emits` counts."""
        transaction = {
            "from": dev_account(sender).address,
            "to": self._deployment.address(contract),
            "data": "0x" + self._abis[contract].encode(function, *arguments).hex(),
            "gas": hex(_GAS_LIMIT),
        }
        receipt = self._node.wait_receipt(self._node.rpc("eth_sendTransaction", [transaction]))
        assert int(receipt["status"], 16) == 1, f"{contract}.{function} reverted"
        if emits is not None:
            event, count = emits
            wanted = next("0x" + topic(entry).hex() for entry in self._abis[contract].events if entry["name"] == event)
            found = sum(log["topics"][0] == wanted for log in receipt["logs"])
            assert found == count, f"{contract}.{function} emitted {found} {event} instead of {count}"
        return int(receipt["gasUsed"], 16)


def _root(count: int) -> bytes:
    return keccak(b"root" + bytes([count]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
