# pragma version 0.4.3
# pragma nonreentrancy off
"""
@title NoReturnToken
@license MIT
@notice For tests: a token whose transfers return no data, like USDT; it must work like any other.
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


@external
def transfer(receiver: address, amount: uint256):
    token_ledger._move(msg.sender, receiver, amount)


@external
def transferFrom(sender: address, receiver: address, amount: uint256):
    token_ledger._spend(sender, msg.sender, amount)
    token_ledger._move(sender, receiver, amount)


@external
def approve(spender: address, amount: uint256):
    token_ledger._approve(msg.sender, spender, amount)
