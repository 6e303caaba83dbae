"""The consumer's account in the market: deposits by permit, withdrawals. Amounts in token base units."""

from eth_abi.abi import encode

from consumer.exceptions import AccountTooLow
from protocol.chain.client import ChainClient
from protocol.chain.exceptions import ContractReverted
from protocol.chain.sender import Outcome, TransactionSender
from protocol.hashing import keccak, word
from protocol.signing import Signature, Signer

TIMEOUT_S = 180.0
PERMIT_LIFETIME_S = 3_600
_DOMAIN_TYPE = b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
_PERMIT_TYPE = b"Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)"


class Funds:
    """One owner's account; `contract_of` tokens are named by their contract in the deployment."""

    def __init__(self, client: ChainClient, sender: TransactionSender, owner: Signer) -> None:
        self._client = client
        self._sender = sender
        self._owner = owner
        self._escrow = client.deployment.address("LeaseEscrow")

    def deposit(self, key: str, token_contract: str, amount: int) -> Outcome:
        """Deposits with an EIP-2612 permit in one transaction; `key` names this deposit.

        Raises AccountTooLow when nothing was sent for want of tokens, ChainError.
        """
        token = self._client.deployment.address(token_contract)
        deadline = self._client.head().timestamp + PERMIT_LIFETIME_S
        permit = self._sign_permit(token_contract, token, amount, deadline)
        data = self._client.encode(
            "LeaseEscrow",
            "deposit_with_permit",
            token,
            amount,
            deadline,
            permit.v,
            permit.r.to_bytes(32, "big"),
            permit.s.to_bytes(32, "big"),
        )
        try:
            return self._sender.execute(f"deposit:{key}", self._escrow, data, timeout=TIMEOUT_S)
        except ContractReverted as error:
            wallet = self._client.get(self._client.reads.view(token_contract, "balanceOf", self._owner.address))
            if wallet >= amount:
                raise
            raise AccountTooLow(
                f"the wallet {self._owner.address} holds {wallet} base units of {token}, the deposit takes {amount}: "
                f"send {amount - wallet} more to it, or deposit less"
            ) from error

    def withdraw(self, key: str, token: str, amount: int, to: str) -> Outcome:
        """Pays out of the account; `key` names this withdrawal.

        Raises AccountTooLow when nothing was sent for want of tokens, ChainError.
        """
        data = self._client.encode("LeaseEscrow", "withdraw", token, amount, to)
        try:
            return self._sender.execute(f"withdraw:{key}", self._escrow, data, timeout=TIMEOUT_S)
        except ContractReverted as error:
            if (free := self.balance(token)) >= amount:
                raise
            raise AccountTooLow(
                f"escrow: account too low: it holds {free} base units of {token}: withdraw at most that, or close "
                "and release leases first"
            ) from error

    def balance(self, token: str) -> int:
        """What is free in the account."""
        return self._client.account(self._owner.address, token)

    def _sign_permit(self, token_contract: str, token: str, amount: int, deadline: int) -> Signature:
        """The domain's name and version come from the token, its chain and address from the deployment."""
        reads = self._client.reads
        domain, nonce = self._client.read(
            [reads.view(token_contract, "eip712Domain"), reads.view(token_contract, "nonces", self._owner.address)]
        )
        separator = keccak(
            encode(
                ["bytes32", "bytes32", "bytes32", "uint256", "address"],
                [
                    keccak(_DOMAIN_TYPE),
                    keccak(domain[1].encode()),
                    keccak(domain[2].encode()),
                    self._client.deployment.chain_id,
                    token,
                ],
            )
        )
        struct = keccak(
            keccak(_PERMIT_TYPE)
            + encode(["address", "address"], [self._owner.address, self._escrow])
            + word(amount)
            + word(nonce)
            + word(deadline)
        )
        return self._owner.sign_digest(keccak(b"\x19\x01" + separator + struct))
