# pragma version 0.4.3
# pragma nonreentrancy off
"""
@title BlacklistToken
@license MIT
@notice For tests: a token that refuses to move from or to blacklisted accounts, like USDC.
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


# Whose tokens stand still.
is_blacklisted: public(HashMap[address, bool])


@external
def set_blacklisted(account: address, is_blacklisted: bool):
    """
    @notice Blacklists an account or frees it; anyone may.
    """
    self.is_blacklisted[account] = is_blacklisted


@external
def transfer(receiver: address, amount: uint256) -> bool:
    assert not self.is_blacklisted[msg.sender] and not self.is_blacklisted[receiver], "mock: account is blacklisted"
    token_ledger._move(msg.sender, receiver, amount)
    return True


@external
def transferFrom(sender: address, receiver: address, amount: uint256) -> bool:
    assert not self.is_blacklisted[sender] and not self.is_blacklisted[receiver], "mock: account is blacklisted"
    token_ledger._spend(sender, msg.sender, amount)
    token_ledger._move(sender, receiver, amount)
    return True


@external
def approve(spender: address, amount: uint256) -> bool:
    token_ledger._approve(msg.sender, spender, amount)
    return True
