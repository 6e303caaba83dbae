# pragma version 0.4.3
# pragma nonreentrancy off
"""
@title GasBurnerWallet
@license MIT
@notice For tests: a smart wallet whose signature check burns all the gas it is given.
"""


@external
@view
def isValidSignature(digest: bytes32, signature: Bytes[1024]) -> bytes32:
    """
    @notice ERC-1271, in name only.
    """
    word: bytes32 = digest
    for _: uint256 in range(max_value(uint256)):
        word = keccak256(word)
    return word


@external
@payable
def execute(target: address, payload: Bytes[4096]) -> Bytes[1024]:
    """
    @notice Calls anything as this wallet; anyone may.
    """
    return raw_call(target, payload, max_outsize=1024, value=msg.value)
