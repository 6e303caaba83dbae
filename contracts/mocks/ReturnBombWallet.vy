# pragma version 0.4.3
# pragma nonreentrancy off
"""
@title ReturnBombWallet
@license MIT
@notice For tests: a smart wallet that answers a signature check with 96 kB that begin with the magic value, as return
        or as revert data: a caller that copies the answer pays for it.
"""

_MAGIC: constant(bytes32) = 0x1626ba7e00000000000000000000000000000000000000000000000000000000
_WORDS: constant(uint256) = 3_000


# Whether the answer comes as revert data.
reverts: public(bool)


@deploy
def __init__(reverts_: bool):
    self.reverts = reverts_


@external
@view
@raw_return
def isValidSignature(digest: bytes32, signature: Bytes[1024]) -> Bytes[_WORDS * 32]:
    """
    @notice ERC-1271, in name only.
    """
    bomb: bytes32[_WORDS] = empty(bytes32[_WORDS])
    bomb[0] = _MAGIC
    if self.reverts:
        raw_revert(abi_encode(bomb))
    return abi_encode(bomb)


@external
@payable
def execute(target: address, payload: Bytes[4096]) -> Bytes[1024]:
    """
    @notice Calls anything as this wallet; anyone may.
    """
    return raw_call(target, payload, max_outsize=1024, value=msg.value)
