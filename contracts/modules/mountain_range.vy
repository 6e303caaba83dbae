# pragma version 0.4.3
# pragma nonreentrancy off
"""
@title mountain_range
@license MIT
@notice Proofs against the root of an append-only merkle mountain range of receipt digests.
        leaf = keccak(0x00‖digest), node = keccak(0x01‖left‖right), peaks bagged right to left,
        root = keccak(0x02‖uint64 count‖bag).
        Invariant: a (count, root) proves at most one digest at each index; the proof's length is checked exactly.
"""

MAX_PROOF: constant(uint256) = 128  # 63 siblings, one bag, 63 left peaks at the most


@internal
@pure
def _leaf(digest: bytes32) -> bytes32:
    return keccak256(concat(b"\x00", digest))


@internal
@pure
def _node(left: bytes32, right: bytes32) -> bytes32:
    return keccak256(concat(b"\x01", left, right))


@internal
@pure
def _root(count: uint64, bag: bytes32) -> bytes32:
    return keccak256(concat(b"\x02", convert(count, bytes8), bag))


@internal
@pure
def _includes(root: bytes32, count: uint64, index: uint64, digest: bytes32, proof: DynArray[bytes32, MAX_PROOF]) -> bool:
    """
    @notice Whether `digest` is leaf `index` of the range (count, root).
    @param root The anchored root.
    @param count Leaves under it.
    @param index The leaf's index, from 0.
    @param digest The receipt's EIP-712 digest.
    @param proof Siblings from the leaf to its peak, then the bag of the peaks to the right if there are any, then the
           peaks to the left, nearest first.
    """
    if index >= count:
        return False
    size: uint256 = convert(count, uint256)
    position: uint256 = convert(index, uint256)
    height: uint256 = 64
    left_peaks: uint256 = 0
    for i: uint256 in range(64):
        height -= 1
        width: uint256 = 1 << height
        if size & width == 0:
            continue
        if position < width:
            break
        position -= width
        left_peaks += 1
    right_peaks: uint256 = size & ((1 << height) - 1)
    length: uint256 = height + left_peaks
    if right_peaks != 0:
        length += 1
    if len(proof) != length:
        return False

    accumulator: bytes32 = self._leaf(digest)
    cursor: uint256 = 0
    for level: uint256 in range(height, bound=64):
        if (position >> level) & 1 == 1:
            accumulator = self._node(proof[cursor], accumulator)
        else:
            accumulator = self._node(accumulator, proof[cursor])
        cursor += 1
    if right_peaks != 0:
        accumulator = self._node(accumulator, proof[cursor])
        cursor += 1
    for i: uint256 in range(left_peaks, bound=64):
        accumulator = self._node(proof[cursor], accumulator)
        cursor += 1
    return self._root(count, accumulator) == root
