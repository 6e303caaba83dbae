# pragma version 0.4.3
# pragma nonreentrancy off
"""
@title token_ledger
@license MIT
@notice For tests: what all the weird tokens have in common, an ERC-20's books without its outward behaviour.
        Invariant: the balances sum to the total supply.
"""

event Transfer:
    sender: indexed(address)
    receiver: indexed(address)
    value: uint256


event Approval:
    owner: indexed(address)
    spender: indexed(address)
    value: uint256


# The ERC-20 views, named as the standard names them.
balanceOf: public(HashMap[address, uint256])
allowance: public(HashMap[address, HashMap[address, uint256]])
totalSupply: public(uint256)


@external
def mint(receiver: address, amount: uint256):
    """
    @notice Creates tokens; anyone may.
    """
    self.balanceOf[receiver] += amount
    self.totalSupply += amount
    log Transfer(sender=empty(address), receiver=receiver, value=amount)


@external
@view
def decimals() -> uint8:
    return 18


@internal
def _move(sender: address, receiver: address, amount: uint256):
    assert self.balanceOf[sender] >= amount, "mock: balance too low"
    self.balanceOf[sender] -= amount
    self.balanceOf[receiver] += amount
    log Transfer(sender=sender, receiver=receiver, value=amount)


@internal
def _spend(owner: address, spender: address, amount: uint256):
    assert self.allowance[owner][spender] >= amount, "mock: allowance too low"
    self.allowance[owner][spender] -= amount


@internal
def _approve(owner: address, spender: address, amount: uint256):
    self.allowance[owner][spender] = amount
    log Approval(owner=owner, spender=spender, value=amount)
