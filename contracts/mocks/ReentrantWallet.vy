# pragma version 0.4.3
# pragma nonreentrancy off
"""
@title ReentrantWallet
@license MIT
@notice For tests: a smart wallet that makes a call of the test's choice while its signature is checked, and says yes if
        that call succeeded.
"""

_MAGIC: constant(bytes4) = 0x1626ba7e
_REFUSED: constant(bytes4) = 0xffffffff


# Whom a check calls.
target: public(address)

# The calldata of that call.
payload: public(Bytes[4096])


@external
def set_callback(target: address, payload: Bytes[4096]):
    """
    @notice Chooses the call; anyone may.
    """
    self.target = target
    self.payload = payload


@external
def isValidSignature(digest: bytes32, signature: Bytes[1024]) -> bytes4:
    """
    @notice ERC-1271, in name only; not a view, so that it may try to change state.
    """
    if raw_call(self.target, self.payload, revert_on_failure=False):
        return _MAGIC
    return _REFUSED
