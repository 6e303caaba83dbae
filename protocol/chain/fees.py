"""What a transaction will cost in all, in wei, the data fee of an L2 included.

A profile with `l1_fee` is of the OP stack (Base): posting the transaction to L1 is charged apart from gas, as much as
the predeploy GasPriceOracle says. Arbitrum has none: its charge for that is part of what eth_estimateGas answers.
"""

from __future__ import annotations

from dataclasses import dataclass

from protocol.chain.abi import ContractAbi
from protocol.chain.client import ChainClient
from protocol.chain.transactions import Transaction, unsigned_bytes
from protocol.chain.views import Fees

GAS_PRICE_ORACLE = "0x420000000000000000000000000000000000000F"
_ORACLE = ContractAbi(
    "GasPriceOracle",
    [
        {
            "type": "function",
            "name": "getL1Fee",
            "inputs": [{"name": "data", "type": "bytes"}],
            "outputs": [{"name": "", "type": "uint256"}],
        }
    ],
)


@dataclass(frozen=True, slots=True)
class CostEstimate:
    """`total` is the most the transaction can take besides its value: gas at the highest bid, plus the data fee."""

    gas: int
    fees: Fees
    l1_fee: int

    @property
    def total(self) -> int:
        return self.gas * self.fees.max_fee + self.l1_fee


def total_cost_estimate(
    client: ChainClient, sender: str, transaction: Transaction, *, gas: int | None = None, fees: Fees | None = None
) -> CostEstimate:
    """Estimates what is not given. Raises ContractReverted when the transaction would revert."""
    fees = fees or client.fees()
    if gas is None:
        gas = client.estimate_gas(transaction.as_request(sender))
    return CostEstimate(gas, fees, data_fee(client, transaction, gas=gas, fees=fees))


def data_fee(client: ChainClient, transaction: Transaction, *, gas: int, fees: Fees, nonce: int = 2**32 - 1) -> int:
    """The fee for posting to L1 that comes on top of gas; 0 on chains without one.

    The default nonce has as many bytes as any real one, so the estimate is never too low for that.
    """
    if not client.deployment.profile.l1_fee:
        return 0
    raw = unsigned_bytes(transaction, chain_id=client.deployment.chain_id, nonce=nonce, gas=gas, fees=fees)
    fee: int = client.get(_ORACLE.call(GAS_PRICE_ORACLE, "getL1Fee", raw))
    return fee
