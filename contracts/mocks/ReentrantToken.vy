# pragma version 0.4.3
# pragma nonreentrancy off
"""
@title ReentrantToken
@license MIT
@notice For tests: a token that makes a call of the test's choice in the middle of every transfer and permit.
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


event CalledBack:
    target: indexed(address)
    success: bool
    response: Bytes[1024]


# What every transfer calls; no call while it is the zero address.
target: public(address)

# The calldata of that call.
payload: public(Bytes[4096])

# Whether a failing call fails the transfer too.
must_succeed: public(bool)

# How many calls succeeded: a test of a refused re-entrancy asserts 0.
successes: public(uint256)

# How many calls failed: the same test asserts that one was tried.
failures: public(uint256)

# What the last call returned, revert data included.
last_response: public(Bytes[1024])

# Keeps the callback from calling itself for ever.
_is_calling: bool


@external
def set_callback(target: address, payload: Bytes[4096], must_succeed: bool):
    """
    @notice Chooses the call; anyone may.
    @param target Whom to call; the zero address for nobody.
    @param payload The calldata.
    @param must_succeed Whether a failing call fails the transfer too.
    """
    self.target = target
    self.payload = payload
    self.must_succeed = must_succeed


@external
def transfer(receiver: address, amount: uint256) -> bool:
    self._move_and_call(msg.sender, receiver, amount)
    return True


@external
def transferFrom(sender: address, receiver: address, amount: uint256) -> bool:
    token_ledger._spend(sender, msg.sender, amount)
    self._move_and_call(sender, receiver, amount)
    return True


@external
def approve(spender: address, amount: uint256) -> bool:
    token_ledger._approve(msg.sender, spender, amount)
    return True


@external
def permit(owner: address, spender: address, amount: uint256, deadline: uint256, v: uint8, r: bytes32, s: bytes32):
    """
    @notice EIP-2612 in name only: makes the call and approves nothing.
    """
    self._call()


@internal
def _move_and_call(sender: address, receiver: address, amount: uint256):
    token_ledger._move(sender, receiver, amount)
    self._call()


@internal
def _call():
    if self.target == empty(address) or self._is_calling:
        return
    self._is_calling = True
    success: bool = False
    response: Bytes[1024] = b""
    success, response = raw_call(self.target, self.payload, max_outsize=1024, revert_on_failure=False)
    self._is_calling = False
    assert success or not self.must_succeed, "mock: callback failed"
    self.last_response = response
    if success:
        self.successes += 1
    else:
        self.failures += 1
    log CalledBack(target=self.target, success=success, response=response)
