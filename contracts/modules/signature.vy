# pragma version 0.4.3
# pragma nonreentrancy off
"""
@title signature
@license MIT
@notice Recovers the signer of a digest from an EIP-2098 compact signature.
        Invariant: a signature counts at most once per (signer, digest): the high-s twin of a signature, r = 0, s = 0
        and every other malformed one recover to the zero address, which no caller may accept.
"""

# half the order of secp256k1, rounded down: a larger s is the malleable twin (EIP-2)
_HALF_ORDER: constant(uint256) = 57896044618658097711785492504343953926418782139537452191302581570759080747168
_S_MASK: constant(uint256) = (1 << 255) - 1


@internal
@pure
def _recover(digest: bytes32, r: bytes32, vs: bytes32) -> address:
    """
    @notice The address that signed `digest`, or the zero address.
    @param digest The 32-byte EIP-712 digest.
    @param r The signature's r.
    @param vs EIP-2098: the top bit is yParity, the rest is s.
    """
    word: uint256 = convert(vs, uint256)
    s: uint256 = word & _S_MASK
    if s > _HALF_ORDER:
        return empty(address)
    return ecrecover(digest, 27 + (word >> 255), convert(r, uint256), s)


@internal
@pure
def _compact(signature: Bytes[1024]) -> (bytes32, bytes32):
    """
    @notice Turns a 65-byte r‖s‖v signature into its EIP-2098 form; any other input into one that recovers to zero.
    @param signature The signature; v is 27 or 28.
    """
    if len(signature) != 65:
        return empty(bytes32), empty(bytes32)
    s: uint256 = convert(slice(signature, 32, 32), uint256)
    v: uint256 = convert(slice(signature, 64, 1), uint256)
    if s > _HALF_ORDER or (v != 27 and v != 28):
        return empty(bytes32), empty(bytes32)
    return convert(slice(signature, 0, 32), bytes32), convert(s | ((v - 27) << 255), bytes32)
