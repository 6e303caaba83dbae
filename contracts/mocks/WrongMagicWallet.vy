# pragma version 0.4.3
# pragma nonreentrancy off
"""
@title WrongMagicWallet
@license MIT
@notice For tests: a smart wallet that answers every signature check with a chosen word; "true" is not the magic value.
"""


# What every check answers.
answer: public(bytes32)


@deploy
def __init__(answer_: bytes32):
    self.answer = answer_


@external
@view
def isValidSignature(digest: bytes32, signature: Bytes[1024]) -> bytes32:
    """
    @notice ERC-1271, in name only.
    """
    return self.answer


@external
@payable
def execute(target: address, payload: Bytes[4096]) -> Bytes[1024]:
    """
    @notice Calls anything as this wallet; anyone may.
    """
    return raw_call(target, payload, max_outsize=1024, value=msg.value)
