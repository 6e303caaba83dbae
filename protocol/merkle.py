"""Append-only merkle mountain ranges, their proofs, and the root over an answer.

Hashing: leaf = keccak(0x00 ‖ digest), node = keccak(0x01 ‖ left ‖ right). A range of `count` leaves is a row of perfect
trees ("mountains"), one for each bit of `count`, largest first. Their roots ("peaks") are bagged from right to left:
bag = last peak, then bag = node(peak, bag). root = keccak(0x02 ‖ uint64 count ‖ bag); the empty range has root zero.

Inclusion proof of leaf `index` among `count`: the siblings from the bottom up inside the leaf's mountain; then, if any
peak lies to the right, the bag of all of those; then the peaks to the left, from right to left. Left or right follows
from index and count, so a proof has exactly one length.

Consistency proof from n1 to n2 leaves: the n1 old peaks, then the roots of the largest aligned complete subtrees that
cover [n1, n2) from left to right.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from protocol.exceptions import InvalidField, InvalidProof
from protocol.hashing import ZERO_BYTES32, keccak
from protocol.typed_data import check_bytes32, check_uint

MAX_PROOF = 128
"""No valid proof over fewer than 2^64 leaves has more items."""

_MAX_COUNT = (1 << 64) - 1
_INT32 = 1 << 31


def leaf_hash(leaf_digest: bytes) -> bytes:
    """keccak(0x00 ‖ digest)."""
    return keccak(b"\x00" + leaf_digest)


def node_hash(left: bytes, right: bytes) -> bytes:
    """keccak(0x01 ‖ left ‖ right)."""
    return keccak(b"\x01" + left + right)


def bag_peaks(peaks: Sequence[bytes]) -> bytes:
    """Fold peaks (left to right, at least one) from right to left."""
    bag = peaks[-1]
    for peak in reversed(peaks[:-1]):
        bag = node_hash(peak, bag)
    return bag


def root_hash(count: int, peaks: Sequence[bytes]) -> bytes:
    """The root of a range with these peaks; zero when it is empty."""
    if count == 0:
        return ZERO_BYTES32
    return keccak(b"\x02" + count.to_bytes(8, "big") + bag_peaks(peaks))


class Subtree(NamedTuple):
    """A perfect subtree: it holds the leaves [position << level, (position + 1) << level)."""

    level: int
    position: int


def peak_subtrees(count: int) -> list[Subtree]:
    """The mountains of a range of `count` leaves, left to right."""
    return [Subtree(level, (count >> level) - 1) for level in reversed(range(count.bit_length())) if count >> level & 1]


def extension_subtrees(old_count: int, new_count: int) -> list[Subtree]:
    """The largest aligned perfect subtrees that cover [old_count, new_count), left to right."""
    subtrees = []
    position = old_count
    while position < new_count:
        level = (new_count - position).bit_length() - 1
        if position:
            level = min(level, (position & -position).bit_length() - 1)
        subtrees.append(Subtree(level, position >> level))
        position += 1 << level
    return subtrees


class NodeStore(Protocol):
    """Where a range keeps the roots of its perfect subtrees. A stored node never changes."""

    def get(self, level: int, index: int) -> bytes:
        """The root of a perfect subtree that was put before."""

    def put(self, level: int, index: int, node: bytes) -> None:
        """Keep the root of a perfect subtree; repeating a put with the same node is allowed."""


class MemoryStore:
    """A node store in memory."""

    __slots__ = ("_nodes",)

    def __init__(self) -> None:
        self._nodes: dict[tuple[int, int], bytes] = {}

    def get(self, level: int, index: int) -> bytes:
        return self._nodes[level, index]

    def put(self, level: int, index: int, node: bytes) -> None:
        self._nodes[level, index] = node


class MountainRange:
    """An append-only merkle mountain range over a node store.

    `count` leaves of the store are in use: whoever keeps the store keeps the count with it, in one transaction. An
    append writes one node and reads and writes at most one a level above, so it touches O(log count) nodes. Roots and
    proofs of any earlier count stay available.
    """

    __slots__ = ("_count", "_store")

    def __init__(self, store: NodeStore | None = None, count: int = 0) -> None:
        check_uint(count, "count", 64)
        self._store: NodeStore = MemoryStore() if store is None else store
        self._count = count

    def __len__(self) -> int:
        return self._count

    @property
    def count(self) -> int:
        """How many leaves there are."""
        return self._count

    def append(self, leaf_digest: bytes) -> int:
        """Add a leaf (32 bytes) and return its index."""
        check_bytes32(leaf_digest, "leaf_digest")
        if self._count == _MAX_COUNT:
            raise InvalidField("count", "the range is full")
        index = self._count
        node, level, position = leaf_hash(leaf_digest), 0, index
        self._store.put(0, index, node)
        while position & 1:
            node = node_hash(self._store.get(level, position - 1), node)
            level, position = level + 1, position >> 1
            self._store.put(level, position, node)
        self._count = index + 1
        return index

    def peaks(self, count: int | None = None) -> list[bytes]:
        """The peaks of the first `count` leaves (all by default), left to right."""
        return [self._store.get(*subtree) for subtree in peak_subtrees(self._known(count))]

    def root(self, count: int | None = None) -> bytes:
        """The root of the first `count` leaves (all by default)."""
        return root_hash(self._known(count), self.peaks(count))

    def inclusion_proof(self, index: int, count: int | None = None) -> list[bytes]:
        """Prove that leaf `index` is among the first `count` leaves (all by default)."""
        count = self._known(count)
        check_uint(index, "index", 64)
        if index >= count:
            raise InvalidField("index", f"only {count} leaves")
        mountains = peak_subtrees(count)
        at = _mountain_of(mountains, index)
        proof = [self._store.get(level, (index >> level) ^ 1) for level in range(mountains[at].level)]
        if right := mountains[at + 1 :]:
            proof.append(bag_peaks([self._store.get(*subtree) for subtree in right]))
        proof += [self._store.get(*subtree) for subtree in reversed(mountains[:at])]
        return proof

    def consistency_proof(self, old_count: int, new_count: int | None = None) -> list[bytes]:
        """Prove that the first `old_count` leaves are the beginning of the first `new_count` (all by default)."""
        new_count = self._known(new_count)
        check_uint(old_count, "old_count", 64)
        if old_count > new_count:
            raise InvalidField("old_count", f"above the new count {new_count}")
        subtrees = peak_subtrees(old_count) + extension_subtrees(old_count, new_count)
        return [self._store.get(*subtree) for subtree in subtrees]

    def _known(self, count: int | None) -> int:
        if count is None:
            return self._count
        check_uint(count, "count", 64)
        if count > self._count:
            raise InvalidField("count", f"only {self._count} leaves")
        return count


def _mountain_of(mountains: Sequence[Subtree], index: int) -> int:
    return next(at for at, mountain in enumerate(mountains) if index < (mountain.position + 1) << mountain.level)


def _check_proof(proof: Sequence[bytes]) -> None:
    if len(proof) > MAX_PROOF or any(type(item) is not bytes or len(item) != 32 for item in proof):
        raise InvalidProof(f"a proof is at most {MAX_PROOF} items of 32 bytes")


def root_from_inclusion(leaf_digest: bytes, index: int, count: int, proof: Sequence[bytes]) -> bytes:
    """The root that an inclusion proof leads to. Raises InvalidProof when its length is not the one that fits."""
    check_bytes32(leaf_digest, "leaf_digest")
    check_uint(index, "index", 64)
    check_uint(count, "count", 64)
    _check_proof(proof)
    if index >= count:
        raise InvalidProof(f"no leaf {index} among {count}")
    mountains = peak_subtrees(count)
    at = _mountain_of(mountains, index)
    height = mountains[at].level
    has_right = at + 1 < len(mountains)
    if len(proof) != height + has_right + at:
        raise InvalidProof(f"a proof of leaf {index} among {count} has {height + has_right + at} items")
    node = leaf_hash(leaf_digest)
    for level, sibling in enumerate(proof[:height]):
        node = node_hash(sibling, node) if index >> level & 1 else node_hash(node, sibling)
    if has_right:
        node = node_hash(node, proof[height])
    for peak in proof[height + has_right :]:
        node = node_hash(peak, node)
    return keccak(b"\x02" + count.to_bytes(8, "big") + node)


def verify_inclusion(leaf_digest: bytes, index: int, count: int, proof: Sequence[bytes], root: bytes) -> None:
    """Raise InvalidProof unless leaf `index` of the `count` leaves under `root` is `leaf_digest`."""
    if root_from_inclusion(leaf_digest, index, count, proof) != root:
        raise InvalidProof("the proof leads to another root")


def verify_consistency(
    old_count: int, old_root: bytes, new_count: int, new_root: bytes, proof: Sequence[bytes]
) -> None:
    """Raise InvalidProof unless the range under `old_root` is the beginning of the one under `new_root`."""
    check_uint(old_count, "old_count", 64)
    check_uint(new_count, "new_count", 64)
    _check_proof(proof)
    if old_count > new_count:
        raise InvalidProof("the old count is above the new one")
    old = peak_subtrees(old_count)
    subtrees = old + extension_subtrees(old_count, new_count)
    if len(proof) != len(subtrees):
        raise InvalidProof(f"a proof from {old_count} to {new_count} has {len(subtrees)} items")
    if root_hash(old_count, proof[: len(old)]) != old_root:
        raise InvalidProof("the proof does not start from the old root")
    peaks = Peaks()
    for subtree, node in zip(subtrees, proof, strict=True):
        peaks.push(node, subtree.level)
    if peaks.root() != new_root:
        raise InvalidProof("the proof does not lead to the new root")


class Peaks:
    """The peaks of a growing range and nothing else: roots without proofs, in O(log count) memory."""

    __slots__ = ("_count", "_stack")

    def __init__(self) -> None:
        self._stack: list[tuple[int, bytes]] = []
        self._count = 0

    @property
    def count(self) -> int:
        """How many leaves there are."""
        return self._count

    def append(self, leaf_digest: bytes) -> None:
        """Add a leaf (32 bytes)."""
        check_bytes32(leaf_digest, "leaf_digest")
        self.push(leaf_hash(leaf_digest), 0)

    def push(self, node: bytes, level: int) -> None:
        """Add a perfect subtree of 2^level leaves, no larger than the last peak, and merge peaks of equal size."""
        stack = self._stack
        self._count += 1 << level
        while stack and stack[-1][0] == level:
            node = keccak(b"\x01" + stack.pop()[1] + node)
            level += 1
        stack.append((level, node))

    def root(self) -> bytes:
        """The root so far."""
        return root_hash(self._count, [node for _, node in self._stack])


def quantise_logprob(logprob: float) -> int:
    """Thousandths of a nat, rounded half to even, held within int32. Raises InvalidField on NaN."""
    if logprob != logprob:
        raise InvalidField("logprob", "not a number")
    if logprob in (float("inf"), float("-inf")):
        return _INT32 - 1 if logprob > 0 else -_INT32
    return max(-_INT32, min(_INT32 - 1, round(logprob * 1000)))


def quantise_component(component: float) -> int:
    """Millionths of a component of a vector of unit length, rounded half to even. Raises InvalidField beyond ±1."""
    if not -1.000001 < component < 1.000001:
        raise InvalidField("component", "not of a vector of unit length")
    return max(-1_000_000, min(1_000_000, round(component * 1_000_000)))


def token_word(token_id: int, logprob: int) -> bytes:
    """The leaf digest of one token: 24 zero bytes, the id as uint32 and the quantised log-probability as int32."""
    check_uint(token_id, "token_id", 32)
    if type(logprob) is not int or not -_INT32 <= logprob < _INT32:
        raise InvalidField("logprob", "out of range for int32")
    return bytes(24) + token_id.to_bytes(4, "big") + logprob.to_bytes(4, "big", signed=True)


class ResponseRoot:
    """The merkle root over an answer, token by token: the `responseHash` of each receipt of the request."""

    __slots__ = ("_peaks",)

    def __init__(self) -> None:
        self._peaks = Peaks()

    @property
    def count(self) -> int:
        """How many tokens there are."""
        return self._peaks.count

    def append(self, token_id: int, logprob: int) -> None:
        """Add a token and its log-probability as `quantise_logprob` gives it."""
        self._peaks.push(leaf_hash(token_word(token_id, logprob)), 0)

    def root(self) -> bytes:
        """The root so far; zero for an empty answer."""
        return self._peaks.root()


def response_root(tokens: Iterable[tuple[int, int]]) -> bytes:
    """The root over a whole answer: pairs of token id and quantised log-probability."""
    answer = ResponseRoot()
    for token_id, logprob in tokens:
        answer.append(token_id, logprob)
    return answer.root()


def vectors_root(vectors: Iterable[Iterable[int]]) -> bytes:
    """The root over vectors in millionths: leaf i holds i and component i, counted through all vectors."""
    return response_root(enumerate(component for vector in vectors for component in vector))
