# pragma version 0.4.3
# pragma nonreentrancy off
"""
@title RevertingWallet
@license MIT
@notice For tests: a smart wallet whose signature check always reverts.
"""


@external
@view
def isValidSignature(digest: bytes32, signature: Bytes[1024]) -> bytes4:
    """
    @notice ERC-1271, in name only.
    """
    raise "mock: wallet refuses"


@external
@payable
def execute(target: address, payload: Bytes[4096]) -> Bytes[1024]:
    """
    @notice Calls anything as this wallet; anyone may.
    """
    return raw_call(target, payload, max_outsize=1024, value=msg.value)
