"""A market driven directly by development accounts: 0 deployer, 1 provider's owner, 2 consumer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from protocol.chain.client import ChainClient
from protocol.chain.deployments import Deployment
from protocol.ids import lease_id_of
from protocol.signing import Signer
from protocol.typed_data import Anchor, Domain, NodeKey, OpenLease, Voucher
from tests.support.anvil import Anvil, dev_account

ETHER = 10**18
SESSION = Signer(b"\x51" * 32)
NODES = (Signer(b"\x61" * 32), Signer(b"\x62" * 32))
TERMS = b"\x07" * 32


@dataclass
class Market:
    """One chain with the contracts on it."""

    node: Anvil
    deployment: Deployment
    file: Path

    @cached_property
    def client(self) -> ChainClient:
        return ChainClient([self.node.url], self.deployment)

    @property
    def domain(self) -> Domain:
        return Domain(self.deployment.chain_id, self.address("LeaseEscrow"))

    def address(self, contract: str) -> str:
        return self.deployment.address(contract)

    def send(self, sender: int | str, contract: str, function: str, *args: Any) -> None:
        """One successful transaction; a contract's address as sender is impersonated."""
        source = dev_account(sender).address if isinstance(sender, int) else sender
        if isinstance(sender, str):
            self.node.rpc("anvil_impersonateAccount", [sender])
            self.node.set_balance(sender, ETHER)
        data = "0x" + self.client.encode(contract, function, *args).hex()
        sent = {"from": source, "to": self.address(contract), "data": data, "gas": hex(5_000_000)}
        receipt = self.node.wait_receipt(self.node.rpc("eth_sendTransaction", [sent]))
        assert receipt["status"] == "0x1", f"{contract}.{function} reverted"

    def transfer(self, amount: int, receiver: int = 3) -> None:
        self.send(0, "ClawToken", "transfer", dev_account(receiver).address, amount)

    def open_lease(self) -> bytes:
        """A lease of account 2's at provider 1."""
        owner = dev_account(2).address
        now = self.node.timestamp()
        request = OpenLease(
            owner=owner,
            provider=1,
            offer_id=1,
            version=self.client.offer(1, 1).version,
            token=self.address("TestUSDC"),
            amount=1_000_000,
            signer=SESSION.address,
            expiry=now + 86_400,
            close_delay=3_600,
            terms_digest=TERMS,
            nonce=self.client.nonce(owner),
            deadline=now + 3_600,
        )
        self.send(2, "LeaseEscrow", "open_lease", request, b"")
        return lease_id_of(self.domain, request)

    def settle(self, lease_id: bytes, cumulative: int) -> None:
        voucher = Voucher(lease_id, cumulative)
        r, vs = SESSION.sign(self.domain, voucher).compact()
        row = (lease_id, cumulative, bytes(32), r, vs)
        self.send(3, "LeaseEscrow", "settle", 1, self.address("TestUSDC"), [row])

    def open(self) -> None:
        """A staked provider with an offer, and a consumer with a deposit."""
        owner, escrow, staking, usdc = (
            dev_account(1).address,
            *(self.address(name) for name in ("LeaseEscrow", "Staking", "TestUSDC")),
        )
        self.send(0, "ClawToken", "transfer", owner, 50_000 * ETHER)
        self.send(1, "ClawToken", "approve", staking, 50_000 * ETHER)
        self.send(1, "Staking", "stake", 20_000 * ETHER)
        r, vs = NODES[0].sign(self.domain, NodeKey(owner)).compact()
        self.send(1, "Registry", "register", NODES[0].address, r, vs, b"\x01" * 32)
        offer = (1, usdc, TERMS, 1_000, 30 * 86_400, 3_600, 86_400, 10)
        self.send(1, "Registry", "create_offer", 1, offer)
        self.send(0, "TestUSDC", "mint", dev_account(2).address, 10_000_000)
        self.send(2, "TestUSDC", "approve", escrow, 10_000_000)
        self.send(2, "LeaseEscrow", "deposit", usdc, 10_000_000, dev_account(2).address)

    def trade(self) -> None:
        """Something of every contract: leases, vouchers, rulings, anchors, votes, rewards, slashes, exits."""
        usdc, arbitration = self.address("TestUSDC"), self.address("Arbitration")
        first, second = self.open_lease(), self.open_lease()
        self.settle(first, 400_000)
        self.settle(first, 300_000)
        self.send(2, "LeaseEscrow", "top_up", second, 500_000)
        self.settle(second, 1_200_000)
        self.send(arbitration, "LeaseEscrow", "freeze", b"\x0d" * 32, second, 100_000)
        self.send(arbitration, "LeaseEscrow", "pay_pot", b"\x0d" * 32, 30_000)
        self.send(arbitration, "LeaseEscrow", "freeze", b"\x0e" * 32, first, 50_000)
        self.send(arbitration, "LeaseEscrow", "refund", second, 20_000)
        filer = dev_account(4).address
        self.send(arbitration, "Staking", "slash", b"\x0f" * 32, dev_account(1).address, 500, False, filer, 1_000)
        self.send(1, "Staking", "delegate", dev_account(5).address)
        self.send(2, "Staking", "pull_fees", usdc)
        anchor = Anchor(1, 3, b"\x0a" * 32)
        r, vs = NODES[0].sign(self.domain, anchor).compact()
        row = (1, 0, bytes(32), 3, b"\x0a" * 32, r, vs)
        self.send(3, "UsageAnchor", "submit", [row, row])
        r, vs = NODES[1].sign(self.domain, NodeKey(dev_account(1).address)).compact()
        self.send(1, "Registry", "rotate_node_key", 1, NODES[1].address, r, vs)
        self.send(1, "Registry", "set_metadata", 1, b"\x02" * 32)
        offer = (1, usdc, TERMS, 2_000, 30 * 86_400, 3_600, 86_400, 10)
        self.send(1, "Registry", "update_offer", 1, 1, offer)
        self.send(1, "Registry", "set_offer_open", 1, 1, False)
        self.send(2, "LeaseEscrow", "revoke", first)
        self.send(2, "LeaseEscrow", "bump_nonce")
        self.node.time_travel(8 * 86_400)
        self.send(3, "LeaseEscrow", "collect", 1, usdc)
        self.send(3, "LeaseEscrow", "release", first)
        self.send(1, "Staking", "claim", usdc, dev_account(1).address)
        self.send(1, "Staking", "start_cooldown", 15_000 * ETHER)
        self.send(2, "LeaseEscrow", "withdraw", usdc, 1_000_000, dev_account(6).address)
