"""The chain as services see it: batched typed reads, blocks, receipts and events of one deployment.

    client = ChainClient(["https://…"], deployments.load(8453))
    client.check_deployment()
    lease, nonce = client.read([client.reads.lease(lease_id), client.reads.nonce(owner)])

Calls block; every failure is a ChainError. Nothing a node says is trusted in form: see `protocol.chain.rpc`. Time on
chain is the head block's timestamp, never this machine's clock.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self, TypeVar, cast

from web3 import Web3
from web3.middleware import AttributeDictMiddleware

from protocol.address import to_address
from protocol.chain import _checks
from protocol.chain import abi as abis
from protocol.chain.abi import ContractAbi, ContractCall
from protocol.chain.answers import parse_logs
from protocol.chain.deployments import Deployment, abi_hash, code_hash
from protocol.chain.events import Event, EventDecoder
from protocol.chain.exceptions import (
    ContractReverted,
    DeploymentError,
    MalformedAnswer,
    RpcRejected,
)
from protocol.chain.reads import Reads
from protocol.chain.rpc import Call, RpcLimits, RpcPool
from protocol.chain.views import Earnings, Fees, Head, Lease, LeaseOffer, RawLog, TxReceipt

T = TypeVar("T")
BlockId = int | str
"""A block's number, or "latest", "safe", "finalized", "pending"."""

_FALLBACK_TIP = 1_000_000_000
_REVERT_CODE = 3


class ChainClient:
    """A deployment's contracts behind one or more RPC endpoints. Thread-safe. No request is sent on construction."""

    def __init__(
        self,
        urls: Sequence[str],
        deployment: Deployment,
        *,
        limits: RpcLimits | None = None,
        abi_folder: Path = abis.FOLDER,
    ) -> None:
        self.deployment = deployment
        self.rpc = RpcPool(urls, deployment.chain_id, deployment.genesis_hash, limits or RpcLimits())
        self.reads = Reads(deployment, self.abi)
        self._abi_folder = abi_folder
        self._abis: dict[str, ContractAbi] = {}
        self._decoder: EventDecoder | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.rpc.close()

    @cached_property
    def w3(self) -> Web3:
        """Web3 on these endpoints, without name look-ups: for what this class has no method for.

        Its requests go through `rpc`, with the same checks and errors; what web3 makes of an answer's other members,
        or of data that does not fit an ABI, raises web3's own errors.
        """
        return Web3(self.rpc, middleware=[(AttributeDictMiddleware, "attrdict")], ens=cast("Any", None))

    def check_deployment(self) -> None:
        """Raise unless this chain holds exactly this deployment and the ABIs here are its own.

        Raises WrongChain, DeploymentError, RpcUnavailable.
        """
        records = self.deployment.contracts
        with self.w3.batch_requests() as batch:
            for record in records.values():
                batch.add(cast("Any", self.w3.eth.get_code(cast("Any", record.address))))
            codes = cast("list[bytes]", batch.execute())
        for (name, record), code in zip(records.items(), codes, strict=True):
            where = f"{name} at {record.address} on chain {self.deployment.chain_id}"
            if not code:
                raise DeploymentError(
                    f"{where} has no code: the deployment file is of another chain, or this node is not in sync; "
                    "deploy again or correct the RPC address"
                )
            if code_hash(code) != record.code_hash:
                raise DeploymentError(
                    f"{where} has other code than the deployment file says: do not use it; "
                    "fetch the right deployment file, or deploy again"
                )
            if abi_hash(self.abi(name).entries) != record.abi_hash:
                raise DeploymentError(
                    f"{where} has another ABI than this program: use the version of this program that "
                    "deployed it, or deploy again"
                )

    def abi(self, contract: str) -> ContractAbi:
        """The exported ABI of a contract, read once."""
        if contract not in self._abis:
            self._abis[contract] = abis.load_abi(contract, self._abi_folder)
        return self._abis[contract]

    def encode(self, contract: str, function: str, *args: Any) -> bytes:
        """Calldata for a transaction to `self.deployment.address(contract)`."""
        return self.abi(contract).encode(function, *args)

    def read(self, calls: Sequence[ContractCall[Any]], block: BlockId = "latest") -> list[Any]:
        """Results of several reads in one request, all at `block`. The first that reverts raises ContractReverted.

        With "latest" a new block may arrive in between: give `head().number` where the results must belong together.
        """
        results = self.read_each(calls, block)
        for result in results:
            if isinstance(result, ContractReverted):
                raise result
        return results

    def read_each(self, calls: Sequence[ContractCall[Any]], block: BlockId = "latest") -> list[Any]:
        """As `read`, but a read that reverts leaves its ContractReverted in its place."""
        requests: list[Call] = [
            ("eth_call", [{"to": call.to, "data": "0x" + call.data.hex()}, _block(block)]) for call in calls
        ]
        results: list[Any] = []
        for call, answer in zip(calls, self.rpc.batch(requests), strict=True):
            if isinstance(answer, RpcRejected):
                error = self.explain(answer)
                if not isinstance(error, ContractReverted):
                    raise error
                results.append(error)
            else:
                results.append(call.decode(_checks.data(answer, f"the result of {call.name}")))
        return results

    def get(self, call: ContractCall[T], block: BlockId = "latest") -> T:
        """The result of one read. Raises ContractReverted."""
        result: T = self.read([call], block)[0]
        return result

    def lease(self, lease_id: bytes) -> Lease:
        return self.get(self.reads.lease(lease_id))

    def nonce(self, owner: str) -> int:
        return self.get(self.reads.nonce(owner))

    def account(self, owner: str, token: str) -> int:
        return self.get(self.reads.account(owner, token))

    def earnings(self, provider: int, token: str) -> Earnings:
        return self.get(self.reads.earnings(provider, token))

    def offer(self, provider: int, offer_id: int) -> LeaseOffer:
        return self.get(self.reads.offer(provider, offer_id))

    def node_key(self, provider: int) -> str:
        return self.get(self.reads.node_key(provider))

    def head(self) -> Head:
        """The newest block; its timestamp is the chain's time."""
        return Head.parse(self.rpc.request("eth_getBlockByNumber", "latest", False))

    def block(self, block: BlockId) -> Head | None:
        """A block's header, None if the node has no such block."""
        answer = self.rpc.request("eth_getBlockByNumber", _block(block), False)
        return None if answer is None else Head.parse(answer)

    def final_block(self, head: Head | None = None) -> int:
        """Number of the newest block that the profile calls final; -1 if none is."""
        profile = self.deployment.profile
        if profile.confirmations is not None:
            return (head or self.head()).number - profile.confirmations + 1
        final = self.block(profile.finality_tag or "finalized")
        return -1 if final is None else final.number

    def balance(self, address: str, block: BlockId = "latest") -> int:
        """Wei."""
        return self.w3.eth.get_balance(cast("Any", to_address(address)), cast("Any", block))

    def transaction_count(self, address: str, block: BlockId = "latest") -> int:
        """Transactions of this account up to a block: the next one's nonce."""
        return self.w3.eth.get_transaction_count(cast("Any", to_address(address)), cast("Any", block))

    def fees(self) -> Fees:
        """A bid that outlives five full blocks in a row: twice the base fee, plus the tip the node suggests."""
        head, tip = self.rpc.batch([("eth_getBlockByNumber", ["latest", False]), ("eth_maxPriorityFeePerGas", [])])
        suggested = (
            _FALLBACK_TIP if isinstance(tip, RpcRejected) else _checks.quantity(tip, "the suggested tip per gas", 128)
        )
        return Fees(max_fee=2 * Head.parse(_accepted(head)).base_fee + suggested, tip=suggested)

    def estimate_gas(self, transaction: Mapping[str, Any]) -> int:
        """Gas a transaction needs now. Raises ContractReverted with the contract's reason."""
        try:
            answer = self.rpc.request("eth_estimateGas", dict(transaction))
        except RpcRejected as error:
            raise self.explain(error) from None
        return _checks.quantity(answer, "a gas estimate", 64)

    def receipt(self, tx_hash: bytes) -> TxReceipt | None:
        """The receipt of a mined transaction, None while it is not mined."""
        answer = self.rpc.request("eth_getTransactionReceipt", "0x" + tx_hash.hex())
        return None if answer is None else TxReceipt.parse(answer, tx_hash)

    def logs(
        self,
        first: int,
        last: int,
        *,
        addresses: Sequence[str] | None = None,
        topics: Sequence[Sequence[bytes] | None] = (),
    ) -> list[RawLog]:
        """Logs of the blocks `first` to `last`, both included; by default of all contracts of the deployment.

        Raises RpcRejected when the range or the answer is too large for the node, MalformedAnswer when a log lies
        outside what was asked for.
        """
        wanted = list(addresses) if addresses is not None else self.decoder.addresses
        answer = self.rpc.request(
            "eth_getLogs",
            {
                "fromBlock": hex(first),
                "toBlock": hex(last),
                "address": wanted,
                "topics": [None if choice is None else ["0x" + t.hex() for t in choice] for choice in topics],
            },
        )
        logs = parse_logs(answer)
        if any(log.address not in wanted or not first <= log.block_number <= last for log in logs):
            raise MalformedAnswer("eth_getLogs answered logs that were not asked for")
        return logs

    @property
    def decoder(self) -> EventDecoder:
        """Decodes the logs of the deployment's contracts."""
        if self._decoder is None:
            contracts = {record.address: self.abi(name) for name, record in self.deployment.contracts.items()}
            self._decoder = EventDecoder(contracts)
        return self._decoder

    def events(self, first: int, last: int) -> list[Event]:
        """All events of the deployment in the blocks `first` to `last`, both included."""
        return self.decoder.decode_all(self.logs(first, last))

    def explain(self, error: RpcRejected) -> ContractReverted | RpcRejected:
        """The contract's own words when a node refused because of a revert, else the refusal."""
        data = error.data.get("data") if isinstance(error.data, dict) else error.data
        raw = b""
        if isinstance(data, str) and data.startswith("0x"):
            raw = _checks.data(data, "a revert's data")
        if raw:
            return ContractReverted(abis.revert_reason(raw, self._known_abis()), raw)
        if error.code == _REVERT_CODE or "execution reverted" in error.message.lower():
            reason = error.message.partition("execution reverted")[2].removeprefix(":").strip()
            return ContractReverted(reason or "no reason given")
        return error

    def _known_abis(self) -> list[ContractAbi]:
        """For explaining an error, where a missing ABI must not become a second one."""
        for name in self.deployment.contracts:
            with contextlib.suppress(DeploymentError):
                self.abi(name)
        return list(self._abis.values())


def _block(block: BlockId) -> str:
    return hex(block) if isinstance(block, int) else block


def _accepted(answer: Any) -> Any:
    if isinstance(answer, RpcRejected):
        raise answer
    return answer
