"""The mountain range against a naive definition, and proofs that were tampered with."""

from __future__ import annotations

from typing import Any

import pytest
from eth_utils.crypto import keccak
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import merkle
from protocol.exceptions import InvalidField, InvalidProof
from tests.protocol import strategies

SMALL = 40


def naive_root(digests: list[bytes]) -> bytes:
    """The definition, read literally: split at the largest power of two, bag, seal with the count."""
    if not digests:
        return bytes(32)
    return keccak(b"\x02" + len(digests).to_bytes(8, "big") + _naive_bag(digests))


def _naive_bag(digests: list[bytes]) -> bytes:
    size = 1 << (len(digests).bit_length() - 1)
    peak = _naive_tree(digests[:size])
    return peak if size == len(digests) else keccak(b"\x01" + peak + _naive_bag(digests[size:]))


def _naive_tree(digests: list[bytes]) -> bytes:
    if len(digests) == 1:
        return keccak(b"\x00" + digests[0])
    half = len(digests) // 2
    return keccak(b"\x01" + _naive_tree(digests[:half]) + _naive_tree(digests[half:]))


def digests(count: int) -> list[bytes]:
    return [keccak(index.to_bytes(4, "big")) for index in range(count)]


def range_of(leaves: list[bytes]) -> merkle.MountainRange:
    tree = merkle.MountainRange()
    for leaf in leaves:
        tree.append(leaf)
    return tree


TREE = range_of(digests(SMALL))
ROOTS = [naive_root(digests(count)) for count in range(SMALL + 1)]


def test_root__every_small_count__is_the_definition() -> None:
    tree, peaks = merkle.MountainRange(), merkle.Peaks()
    assert tree.root() == peaks.root() == bytes(32)
    for index, leaf in enumerate(digests(SMALL)):
        assert tree.append(leaf) == index
        peaks.append(leaf)
        assert tree.root() == peaks.root() == ROOTS[index + 1]
        assert len(tree) == tree.count == peaks.count == index + 1
    assert [tree.root(count) for count in range(SMALL + 1)] == ROOTS


def test_inclusion__every_small_index_and_count__verifies() -> None:
    for count in range(1, SMALL + 1):
        for index, leaf in enumerate(digests(count)):
            merkle.verify_inclusion(leaf, index, count, TREE.inclusion_proof(index, count), ROOTS[count])


def test_consistency__every_small_pair__verifies() -> None:
    for new in range(SMALL + 1):
        for old in range(new + 1):
            merkle.verify_consistency(old, ROOTS[old], new, ROOTS[new], TREE.consistency_proof(old, new))


@settings(max_examples=30)
@given(st.integers(1, 600), st.data())
def test_proofs__larger_ranges__verify(count: int, data: st.DataObject) -> None:
    leaves = digests(count)
    tree = range_of(leaves)
    index = data.draw(st.integers(0, count - 1))
    old = data.draw(st.integers(0, count))
    merkle.verify_inclusion(leaves[index], index, count, tree.inclusion_proof(index), tree.root())
    merkle.verify_consistency(old, naive_root(leaves[:old]), count, tree.root(), tree.consistency_proof(old))


@given(st.integers(1, SMALL), st.data())
def test_inclusion__tampered__is_refused(count: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, count - 1))
    leaf, proof, root = digests(count)[index], TREE.inclusion_proof(index, count), ROOTS[count]
    other_index = data.draw(st.integers(0, 2 * SMALL).filter(lambda value: value != index))
    other_count = data.draw(st.integers(0, 2 * SMALL).filter(lambda value: value != count))
    cases: list[tuple[bytes, int, int, list[bytes], bytes]] = [
        (_flip(leaf), index, count, proof, root),
        (leaf, other_index, count, proof, root),
        (leaf, index, other_count, proof, root),
        (leaf, index, count, [*proof, bytes(32)], root),
        (leaf, index, count, proof, _flip(root)),
        (leaf, index, count, proof, bytes(32)),
    ]
    if proof:
        at = data.draw(st.integers(0, len(proof) - 1))
        cases.append((leaf, index, count, [*proof[:at], _flip(proof[at]), *proof[at + 1 :]], root))
        cases.append((leaf, index, count, proof[:at] + proof[at + 1 :], root))
    for case in cases:
        with pytest.raises(InvalidProof):
            merkle.verify_inclusion(*case)


@given(st.integers(1, SMALL), st.data())
def test_consistency__tampered__is_refused(new: int, data: st.DataObject) -> None:
    old = data.draw(st.integers(0, new))
    proof = TREE.consistency_proof(old, new)
    at = data.draw(st.integers(0, len(proof) - 1))
    other = data.draw(st.integers(0, new).filter(lambda value: value != old))
    cases: list[tuple[int, bytes, int, bytes, list[bytes]]] = [
        (old, _flip(ROOTS[old]), new, ROOTS[new], proof),
        (old, ROOTS[old], new, _flip(ROOTS[new]), proof),
        (old, ROOTS[old], new, ROOTS[new], [*proof[:at], _flip(proof[at]), *proof[at + 1 :]]),
        (old, ROOTS[old], new, ROOTS[new], proof[:at] + proof[at + 1 :]),
        (old, ROOTS[old], new, ROOTS[new], [*proof, bytes(32)]),
        (other, ROOTS[old], new, ROOTS[new], proof),
        (new + 1, ROOTS[old], new, ROOTS[new], proof),
    ]
    for case in cases:
        with pytest.raises(InvalidProof):
            merkle.verify_consistency(*case)


@given(st.integers(2, SMALL), st.data())
def test_consistency__rewritten_history__cannot_be_proved(count: int, data: st.DataObject) -> None:
    leaves = digests(count)
    old = data.draw(st.integers(1, count))
    at = data.draw(st.integers(0, old - 1))
    rewritten = range_of([*leaves[:at], _flip(leaves[at]), *leaves[at + 1 :]])
    with pytest.raises(InvalidProof):
        merkle.verify_consistency(old, ROOTS[old], count, rewritten.root(), rewritten.consistency_proof(old))


@given(
    st.lists(st.one_of(strategies.bytes32, st.binary(max_size=33)), max_size=140),
    strategies.uints(64),
    strategies.uints(64),
    strategies.bytes32,
)
def test_verify__arbitrary_proof__raises_only_invalid_proof(
    proof: list[bytes], one: int, two: int, root: bytes
) -> None:
    with pytest.raises(InvalidProof):
        merkle.verify_inclusion(root, one, two, proof, root)
    if one or two:
        with pytest.raises(InvalidProof):
            merkle.verify_consistency(one, root, two, root, proof)


def test_root_from_inclusion__wrong_length__is_refused() -> None:
    for count in range(1, SMALL + 1):
        for index in range(count):
            proof = TREE.inclusion_proof(index, count)
            for wrong in ([*proof, bytes(32)], proof[:-1] if proof else [bytes(32)] * 2):
                with pytest.raises(InvalidProof, match="items"):
                    merkle.root_from_inclusion(bytes(32), index, count, wrong)


def test_leaf_and_node__never_hash_alike() -> None:
    leaf = digests(2)
    assert merkle.leaf_hash(leaf[0]) != merkle.node_hash(leaf[0], leaf[1])
    assert merkle.root_from_inclusion(leaf[0], 0, 1, []) != merkle.leaf_hash(leaf[0])


class CountingStore(merkle.MemoryStore):
    def __init__(self) -> None:
        super().__init__()
        self.touched = 0

    def get(self, level: int, index: int) -> bytes:
        self.touched += 1
        return super().get(level, index)

    def put(self, level: int, index: int, node: bytes) -> None:
        self.touched += 1
        super().put(level, index, node)


def test_append__touches_a_logarithm_of_nodes() -> None:
    store = CountingStore()
    tree = merkle.MountainRange(store)
    worst = 0
    for leaf in digests(1024):
        store.touched = 0
        tree.append(leaf)
        worst = max(worst, store.touched)
    assert worst <= 2 * 10 + 1
    for operation in (tree.root, lambda: tree.inclusion_proof(700), lambda: tree.consistency_proof(699)):
        store.touched = 0
        operation()
        assert store.touched <= 2 * 11


class FailingStore(merkle.MemoryStore):
    fail = False

    def put(self, level: int, index: int, node: bytes) -> None:
        if self.fail and level == 1:
            raise OSError("disk full")
        super().put(level, index, node)


def test_append__store_fails__can_be_repeated() -> None:
    store = FailingStore()
    tree = merkle.MountainRange(store)
    for leaf in digests(3):
        tree.append(leaf)
    store.fail = True
    with pytest.raises(OSError, match="disk full"):
        tree.append(digests(4)[3])
    assert (tree.count, tree.root()) == (3, ROOTS[3])
    store.fail = False
    tree.append(digests(4)[3])
    assert tree.root() == ROOTS[4]


def test_range__over_a_kept_store__goes_on() -> None:
    store = merkle.MemoryStore()
    first = merkle.MountainRange(store)
    for leaf in digests(13):
        first.append(leaf)
    second = merkle.MountainRange(store, first.count)
    second.append(digests(14)[13])
    assert second.root() == ROOTS[14]


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda: TREE.append(bytes(31)), "leaf_digest"),
        (lambda: TREE.root(SMALL + 1), "count"),
        (lambda: TREE.root(-1), "count"),
        (lambda: TREE.inclusion_proof(SMALL), "index"),
        (lambda: TREE.inclusion_proof(5, 5), "index"),
        (lambda: TREE.inclusion_proof(-1), "index"),
        (lambda: TREE.consistency_proof(6, 5), "old_count"),
        (lambda: TREE.consistency_proof(0, SMALL + 1), "count"),
        (lambda: merkle.MountainRange(count=-1), "count"),
        (lambda: merkle.MountainRange(count=(1 << 64) - 1).append(bytes(32)), "count"),
        (lambda: merkle.verify_inclusion(b"", 0, 1, [], bytes(32)), "leaf_digest"),
        (lambda: merkle.verify_inclusion(bytes(32), 0, 1 << 64, [], bytes(32)), "count"),
        (lambda: merkle.token_word(-1, 0), "token_id"),
        (lambda: merkle.token_word(1 << 32, 0), "token_id"),
        (lambda: merkle.token_word(0, 1 << 31), "logprob"),
        (lambda: merkle.token_word(0, -(1 << 31) - 1), "logprob"),
        (lambda: merkle.quantise_logprob(float("nan")), "logprob"),
    ],
)
def test_merkle__wrong_argument__is_refused_by_name(call: Any, field: str) -> None:
    with pytest.raises(InvalidField) as caught:
        call()
    assert caught.value.field == field


@given(st.lists(st.tuples(strategies.uints(32), st.integers(-(1 << 31), (1 << 31) - 1)), max_size=40))
def test_response_root__is_the_range_over_its_words(tokens: list[tuple[int, int]]) -> None:
    words = [((token << 32) | (logprob & 0xFFFFFFFF)).to_bytes(32, "big") for token, logprob in tokens]
    answer = merkle.ResponseRoot()
    for at, (token, logprob) in enumerate(tokens):
        assert answer.root() == naive_root(words[:at])
        answer.append(token, logprob)
    assert answer.root() == merkle.response_root(tokens) == naive_root(words)
    assert answer.count == len(tokens)


@pytest.mark.parametrize(
    ("logprob", "quantised"),
    [(0.0, 0), (-0.0004, 0), (-0.0006, -1), (-1.0425, -1042), (-1e300, -(1 << 31)), (float("-inf"), -(1 << 31))],
)
def test_quantise_logprob(logprob: float, quantised: int) -> None:
    assert merkle.quantise_logprob(logprob) == quantised


def _flip(value: bytes) -> bytes:
    return bytes([value[0] ^ 1]) + value[1:]
