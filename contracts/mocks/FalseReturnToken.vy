# pragma version 0.4.3
# pragma nonreentrancy off
"""
@title FalseReturnToken
@license MIT
@notice For tests: a token that, once broken, moves nothing and returns false instead of reverting.
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


# Off at first, so that the token can enter the market.
is_broken: public(bool)


@external
def set_broken(is_broken: bool):
    """
    @notice Switches the bad behaviour on or off; anyone may.
    """
    self.is_broken = is_broken


@external
def transfer(receiver: address, amount: uint256) -> bool:
    if self.is_broken:
        return False
    token_ledger._move(msg.sender, receiver, amount)
    return True


@external
def transferFrom(sender: address, receiver: address, amount: uint256) -> bool:
    if self.is_broken:
        return False
    token_ledger._spend(sender, msg.sender, amount)
    token_ledger._move(sender, receiver, amount)
    return True


@external
def approve(spender: address, amount: uint256) -> bool:
    token_ledger._approve(msg.sender, spender, amount)
    return True
