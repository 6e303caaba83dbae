"""The contracts' views that services need, as typed reads: batch them with `ChainClient.read`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from protocol.chain.abi import ContractAbi, ContractCall
from protocol.chain.deployments import Deployment
from protocol.chain.views import Earnings, KeyRecord, Lease, LeaseOffer


class Reads:
    """Builds reads of one deployment's contracts; nothing is sent here."""

    def __init__(self, deployment: Deployment, abi: Callable[[str], ContractAbi]) -> None:
        self._deployment = deployment
        self._abi = abi

    def view(self, contract: str, function: str, *args: object) -> ContractCall[Any]:
        """Any view, decoded by the ABI alone."""
        return self._abi(contract).call(self._deployment.address(contract), function, *args)

    def lease(self, lease_id: bytes) -> ContractCall[Lease]:
        """Reverts when there is no such lease."""
        return self.view("LeaseEscrow", "lease", lease_id).then(Lease.of)

    def nonce(self, owner: str) -> ContractCall[int]:
        """The nonce of the owner's next lease request."""
        return self.view("LeaseEscrow", "nonces", owner)

    def account(self, owner: str, token: str) -> ContractCall[int]:
        """The owner's free balance inside the escrow."""
        return self.view("LeaseEscrow", "accounts", owner, token)

    def earnings(self, provider: int, token: str) -> ContractCall[Earnings]:
        return self.view("LeaseEscrow", "earnings", provider, token).then(lambda pair: Earnings(*pair))

    def offer(self, provider: int, offer_id: int) -> ContractCall[LeaseOffer]:
        return self.view("Registry", "lease_offer", provider, offer_id).then(LeaseOffer.of)

    def node_key(self, provider: int) -> ContractCall[str]:
        return self.view("Registry", "node_key", provider)

    def key_record(self, key: str) -> ContractCall[KeyRecord]:
        return self.view("Registry", "key_record", key).then(lambda triple: KeyRecord(*triple))

    def provider_of(self, owner: str) -> ContractCall[int]:
        """The owner's active provider, 0 if none."""
        return self.view("Registry", "provider_of", owner)

    def owner_of(self, provider: int) -> ContractCall[str]:
        return self.view("Registry", "owner_of", provider)

    def metadata_digest(self, provider: int) -> ContractCall[bytes]:
        return self.view("Registry", "metadata_digest", provider)

    def latest_anchor(self, provider: int) -> ContractCall[bytes]:
        """keccak(abi.encode(count, root)) of the latest anchor, zero bytes before the first."""
        return self.view("UsageAnchor", "latest", provider)
