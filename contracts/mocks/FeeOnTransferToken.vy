# pragma version 0.4.3
# pragma nonreentrancy off
"""
@title FeeOnTransferToken
@license MIT
@notice For tests: a token that burns a share of every transfer; the receiver gets less than the sender sent.
"""

from . import token_ledger

initializes: token_ledger

exports: (
    token_ledger.mint,
    token_ledger.balanceOf,
    token_ledger.allowance,
    token_ledger.totalSupply,
    token_ledger.decimals,
)


_BPS: constant(uint256) = 10_000

# The share that vanishes; 0 at first, so that the token can enter the market before it turns.
fee_bps: public(uint256)


@external
def set_fee(fee_bps: uint256):
    """
    @notice Sets the share of every transfer that is burned, in basis points; anyone may.
    """
    assert fee_bps <= _BPS, "mock: fee above 100 %"
    self.fee_bps = fee_bps


@external
def transfer(receiver: address, amount: uint256) -> bool:
    self._move_less_fee(msg.sender, receiver, amount)
    return True


@external
def transferFrom(sender: address, receiver: address, amount: uint256) -> bool:
    token_ledger._spend(sender, msg.sender, amount)
    self._move_less_fee(sender, receiver, amount)
    return True


@external
def approve(spender: address, amount: uint256) -> bool:
    token_ledger._approve(msg.sender, spender, amount)
    return True


@internal
def _move_less_fee(sender: address, receiver: address, amount: uint256):
    fee: uint256 = amount * self.fee_bps // _BPS
    token_ledger._move(sender, empty(address), fee)
    token_ledger.balanceOf[empty(address)] -= fee
    token_ledger.totalSupply -= fee
    token_ledger._move(sender, receiver, amount - fee)
