# pragma version 0.4.3
# pragma nonreentrancy off
"""
@title UsageAnchor
@custom:contract-name UsageAnchor
@license MIT
@notice The latest merkle root of each provider's final receipts. Roots serve audit and proof; they move no money.
        Invariant: a provider's count only grows, by 1 … 2³² at a time, and every accepted (count, root) was signed by
        the node key in force.
"""
from .interfaces import IRegistry
from .modules import signature as signatures
from .modules import typed_data


event Anchored:
    provider: indexed(uint32)
    count: uint64
    root: bytes32
    r: bytes32
    vs: bytes32


event AnchorSkipped:
    provider: indexed(uint32)
    count: uint64
    reason: uint256


struct SignedAnchor:
    provider: uint32
    prev_count: uint64
    prev_root: bytes32
    count: uint64
    root: bytes32
    r: bytes32
    vs: bytes32


# every call pays for the memory of the largest batch, so that is kept small
MAX_ANCHORS: constant(uint256) = 16
MAX_GROWTH: constant(uint64) = 2**32

# why an anchor was skipped
SKIPPED_STALE: constant(uint256) = 1  # (prev_count, prev_root) is not the latest
SKIPPED_COUNT: constant(uint256) = 2
SKIPPED_SIGNATURE: constant(uint256) = 3

registry: public(immutable(IRegistry))
escrow: public(immutable(address))

# keccak256(abi.encode(count, root)) of the latest anchor: one slot; zero before the first
latest: public(HashMap[uint32, bytes32])


@deploy
def __init__(registry_: IRegistry, escrow_: address):
    """
    @param registry_ Where node keys are looked up.
    @param escrow_ The EIP-712 domain's verifying contract.
    """
    registry = registry_
    escrow = escrow_


@external
def submit(anchors: DynArray[SignedAnchor, MAX_ANCHORS]):
    """
    @notice Records signed anchors of any providers. Anyone may call; a stale or bad one is skipped with an event.
    @param anchors Each names the anchor it follows (zeros for the first) and carries an EIP-2098 signature of the
           provider's node key.
    """
    separator: bytes32 = typed_data._domain_separator(escrow)
    for anchor: SignedAnchor in anchors:
        previous: bytes32 = empty(bytes32)
        if anchor.prev_count != 0:
            previous = keccak256(abi_encode(anchor.prev_count, anchor.prev_root))
        if self.latest[anchor.provider] != previous:
            log AnchorSkipped(provider=anchor.provider, count=anchor.count, reason=SKIPPED_STALE)
            continue
        if anchor.count <= anchor.prev_count or anchor.count - anchor.prev_count > MAX_GROWTH:
            log AnchorSkipped(provider=anchor.provider, count=anchor.count, reason=SKIPPED_COUNT)
            continue
        digest: bytes32 = typed_data._digest(
            separator, typed_data._hash_anchor(anchor.provider, anchor.count, anchor.root)
        )
        signer: address = signatures._recover(digest, anchor.r, anchor.vs)
        if signer == empty(address) or signer != staticcall registry.node_key(anchor.provider):
            log AnchorSkipped(provider=anchor.provider, count=anchor.count, reason=SKIPPED_SIGNATURE)
            continue
        self.latest[anchor.provider] = keccak256(abi_encode(anchor.count, anchor.root))
        log Anchored(provider=anchor.provider, count=anchor.count, root=anchor.root, r=anchor.r, vs=anchor.vs)
