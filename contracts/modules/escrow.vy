# pragma version 0.4.3
# pragma nonreentrancy on
"""
@title escrow
@license MIT
@notice Who owns how much of which token inside the market. Tokens come in by `deposit` and go out by `withdraw`, and
        nowhere else; everything between is bookkeeping.
        Invariant: per token, the sum of all internal ledgers equals what came in minus what went out, and never
        exceeds `balanceOf(self)`.
        Not supported: tokens that take a fee on transfer (refused at deposit) and tokens that rebase.
"""
from ethereum.ercs import IERC20

from ..interfaces import IParams


event Deposited:
    caller: indexed(address)
    receiver: indexed(address)
    token: indexed(address)
    amount: uint256


event Withdrawn:
    owner: indexed(address)
    token: indexed(address)
    to: address
    amount: uint256


event TokenAdmitted:
    token: indexed(address)
    token_id: uint256


_MAX_TOKENS: constant(uint256) = 255

params: public(immutable(IParams))

# 1-based, so that 0 says "never deposited"; a lease word holds 8 bits of it instead of an address
token_ids: public(HashMap[address, uint256])
# the way back from a lease word to its token
tokens: public(HashMap[uint256, address])
# the last id given
token_count: public(uint256)
# spendable balances; replaces balanceOf(self), which anyone can inflate
accounts: public(HashMap[address, HashMap[address, uint256]])


@deploy
def __init__(params_: IParams):
    params = params_


@external
def deposit(token: address, amount: uint256, receiver: address):
    """
    @notice Moves `amount` of an allow-listed token from the caller into `receiver`'s account.
    @param token The ERC-20 token.
    @param amount Token base units.
    @param receiver Whose account is credited.
    """
    self._check_listed(token)
    self._deposit(token, amount, receiver)


@external
def deposit_with_permit(token: address, amount: uint256, deadline: uint256, v: uint8, r: bytes32, s: bytes32):
    """
    @notice Deposits into the caller's own account, with an EIP-2612 permit in the same transaction. A permit that fails
            (someone submitted a copy of it first, or the token has none) is ignored if the allowance suffices.
    @param token The ERC-20 token.
    @param amount Token base units, the permit's value.
    @param deadline The permit's deadline, in seconds.
    @param v The permit's signature.
    @param r The permit's signature.
    @param s The permit's signature.
    """
    self._check_listed(token)
    success: bool = raw_call(
        token,
        abi_encode(
            msg.sender,
            self,
            amount,
            deadline,
            v,
            r,
            s,
            method_id=method_id("permit(address,address,uint256,uint256,uint8,bytes32,bytes32)"),
        ),
        revert_on_failure=False,
    )
    if not success:
        assert staticcall IERC20(token).allowance(msg.sender, self) >= amount, "escrow: permit failed and allowance too low"
    self._deposit(token, amount, msg.sender)


@external
def withdraw(token: address, amount: uint256, to: address):
    """
    @notice Pays out of the caller's account. Never pausable; the token's listing and every other account are irrelevant.
    @param token The ERC-20 token.
    @param amount Token base units.
    @param to Who receives the tokens.
    """
    assert to != empty(address) and to != self, "escrow: bad receiver"
    self._debit(msg.sender, token, amount)
    log Withdrawn(owner=msg.sender, token=token, to=to, amount=amount)
    assert extcall IERC20(token).transfer(to, amount, default_return_value=True), "escrow: transfer failed"


@internal
@view
def _check_listed(token: address):
    assert staticcall params.token_listed(token), "escrow: token not listed"


@internal
def _deposit(token: address, amount: uint256, receiver: address):
    assert receiver != empty(address) and receiver != self, "escrow: bad receiver"
    assert amount > 0, "escrow: nothing to deposit"
    if self.token_ids[token] == 0:
        self._admit(token)
    self.accounts[receiver][token] += amount
    log Deposited(caller=msg.sender, receiver=receiver, token=token, amount=amount)
    held: uint256 = staticcall IERC20(token).balanceOf(self)
    assert extcall IERC20(token).transferFrom(
        msg.sender, self, amount, default_return_value=True
    ), "escrow: transfer failed"
    assert staticcall IERC20(token).balanceOf(self) == held + amount, "escrow: token takes a fee"


@internal
def _admit(token: address):
    token_id: uint256 = self.token_count + 1
    assert token_id <= _MAX_TOKENS, "escrow: too many tokens"
    self.token_count = token_id
    self.token_ids[token] = token_id
    self.tokens[token_id] = token
    log TokenAdmitted(token=token, token_id=token_id)


@internal
def _debit(owner: address, token: address, amount: uint256):
    balance: uint256 = self.accounts[owner][token]
    assert balance >= amount, "escrow: account too low"
    self.accounts[owner][token] = unsafe_sub(balance, amount)
