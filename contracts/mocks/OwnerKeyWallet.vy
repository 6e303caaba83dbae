# pragma version 0.4.3
# pragma nonreentrancy off
"""
@title OwnerKeyWallet
@license MIT
@notice For tests: a smart wallet that accepts (ERC-1271) exactly what its owner's key signed, and acts for the owner.
"""

_MAGIC: constant(bytes4) = 0x1626ba7e
_REFUSED: constant(bytes4) = 0xffffffff


# Whose signatures count.
owner: public(immutable(address))


@deploy
def __init__(owner_: address):
    owner = owner_


@external
@view
def isValidSignature(digest: bytes32, signature: Bytes[1024]) -> bytes4:
    """
    @notice ERC-1271.
    @param digest What was signed.
    @param signature 65 bytes r, s, v.
    """
    if len(signature) != 65:
        return _REFUSED
    r: uint256 = convert(slice(signature, 0, 32), uint256)
    s: uint256 = convert(slice(signature, 32, 32), uint256)
    v: uint256 = convert(slice(signature, 64, 1), uint256)
    signer: address = ecrecover(digest, v, r, s)
    if signer == empty(address) or signer != owner:
        return _REFUSED
    return _MAGIC


@external
@payable
def execute(target: address, payload: Bytes[4096]) -> Bytes[1024]:
    """
    @notice Calls anything as this wallet; only the owner.
    """
    assert msg.sender == owner, "mock: caller is not the owner"
    return raw_call(target, payload, max_outsize=1024, value=msg.value)
