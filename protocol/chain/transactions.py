"""A transaction before it is sent: fields, bytes, signature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import rlp
from eth_account import Account

from protocol.address import address_bytes
from protocol.chain.views import Fees
from protocol.hashing import keccak
from protocol.signing import Signer

_EIP1559 = b"\x02"


@dataclass(frozen=True, slots=True)
class Transaction:
    """What a caller wants done: `value` in wei to `to` (EIP-55), with calldata."""

    to: str
    data: bytes = b""
    value: int = 0

    def as_request(self, sender: str) -> dict[str, Any]:
        """The object that eth_call and eth_estimateGas take."""
        return {"from": sender, "to": self.to, "data": "0x" + self.data.hex(), "value": hex(self.value)}


def unsigned_bytes(transaction: Transaction, *, chain_id: int, nonce: int, gas: int, fees: Fees) -> bytes:
    """The EIP-1559 transaction without its signature: what an L2's data fee is computed from."""
    members = [
        *(chain_id, nonce, fees.tip, fees.max_fee, gas),
        *(address_bytes(transaction.to), transaction.value, transaction.data, []),
    ]
    encoded: bytes = rlp.encode(members)
    return _EIP1559 + encoded


def sign(
    transaction: Transaction, signer: Signer, *, chain_id: int, nonce: int, gas: int, fees: Fees
) -> tuple[bytes, bytes]:
    """The signed EIP-1559 transaction and its hash."""
    signed = Account.sign_transaction(
        {
            "type": 2,
            "chainId": chain_id,
            "nonce": nonce,
            "gas": gas,
            "maxFeePerGas": fees.max_fee,
            "maxPriorityFeePerGas": fees.tip,
            "to": transaction.to,
            "value": transaction.value,
            "data": transaction.data,
        },
        signer.private_key,
    )
    raw = bytes(signed.raw_transaction)
    return raw, keccak(raw)
