# pragma version 0.4.3
# pragma nonreentrancy off
"""
@title Lens
@custom:contract-name Lens
@license MIT
@notice Views for readers: many things in one call, digests as the contracts compute them, proofs against anchored roots.
        Invariant: it holds no state, and no other contract calls it.
"""
from ethereum.ercs import IERC20

from . import LeaseEscrow
from .interfaces import IParams
from .interfaces import IRegistry
from .interfaces import IStaking
from .modules import leases
from .modules import mountain_range
from .modules import typed_data


interface IUsageAnchor:
    def latest(provider: uint32) -> bytes32: view


struct ProviderView:
    owner: address
    is_registered: bool
    node_key: address
    metadata_digest: bytes32
    active_stake: uint256
    leases_end: uint256
    latest_anchor: bytes32


struct AccountView:
    token: address
    balance: uint256  # in the market's account
    wallet: uint256  # outside of it


params: public(immutable(IParams))
registry: public(immutable(IRegistry))
staking: public(immutable(IStaking))
escrow: public(immutable(address))
usage_anchor: public(immutable(IUsageAnchor))


@deploy
def __init__(
    params_: IParams, registry_: IRegistry, staking_: IStaking, escrow_: address, usage_anchor_: IUsageAnchor
):
    params = params_
    registry = registry_
    staking = staking_
    escrow = escrow_
    usage_anchor = usage_anchor_


@external
@view
def leases_of(lease_ids: DynArray[bytes32, 100]) -> DynArray[leases.Lease, 100]:
    """
    @notice Many leases in one call; reverts if one of them does not exist.
    """
    found: DynArray[leases.Lease, 100] = []
    for lease_id: bytes32 in lease_ids:
        found.append(staticcall LeaseEscrow.__at__(escrow).lease(lease_id))
    return found


@external
@view
def provider(provider_id: uint32) -> ProviderView:
    """
    @notice What a consumer wants to know of a provider before opening a lease.
    """
    owner: address = staticcall registry.owner_of(provider_id)
    return ProviderView(
        owner=owner,
        is_registered=staticcall registry.is_registered(provider_id),
        node_key=staticcall registry.node_key(provider_id),
        metadata_digest=staticcall registry.metadata_digest(provider_id),
        active_stake=staticcall staking.active_stake(owner),
        leases_end=staticcall LeaseEscrow.__at__(escrow).leases_end(convert(provider_id, uint256)),
        latest_anchor=staticcall usage_anchor.latest(provider_id),
    )


@external
@view
def account(owner: address, tokens: DynArray[address, 32]) -> DynArray[AccountView, 32]:
    """
    @notice An owner's balances in token base units, inside and outside of the market.
    """
    found: DynArray[AccountView, 32] = []
    for token: address in tokens:
        found.append(
            AccountView(
                token=token,
                balance=staticcall LeaseEscrow.__at__(escrow).accounts(owner, token),
                wallet=staticcall IERC20(token).balanceOf(owner),
            )
        )
    return found


@external
@view
def is_anchored(
    provider_id: uint32,
    count: uint64,
    root: bytes32,
    index: uint64,
    receipt_digest: bytes32,
    proof: DynArray[bytes32, mountain_range.MAX_PROOF],
) -> bool:
    """
    @notice Whether a final receipt is under a provider's latest anchor.
    @param provider_id The provider.
    @param count Receipts under the anchor.
    @param root The anchor's root.
    @param index The receipt's place, from 0.
    @param receipt_digest The receipt's EIP-712 digest.
    @param proof As in `modules/mountain_range.vy`.
    """
    return (
        staticcall usage_anchor.latest(provider_id) == keccak256(abi_encode(count, root))
        and mountain_range._includes(root, count, index, receipt_digest, proof)
    )


@external
@pure
def includes(
    root: bytes32,
    count: uint64,
    index: uint64,
    receipt_digest: bytes32,
    proof: DynArray[bytes32, mountain_range.MAX_PROOF],
) -> bool:
    """
    @notice Whether a digest is leaf `index` under (count, root), anchored or not.
    """
    return mountain_range._includes(root, count, index, receipt_digest, proof)


@external
@view
def open_lease_digest(request: typed_data.OpenLease) -> bytes32:
    """
    @notice What the owner of a lease request signs.
    """
    return self._digest(typed_data._hash_open_lease(request))


@external
@view
def voucher_digest(lease_id: bytes32, cumulative: uint128, context: bytes32) -> bytes32:
    """
    @notice What a lease's session key signs.
    """
    return self._digest(typed_data._hash_voucher(lease_id, convert(cumulative, uint256), context))


@external
@view
def receipt_digest(receipt: typed_data.Receipt) -> bytes32:
    """
    @notice What a provider's node key signs for a request.
    """
    return self._digest(typed_data._hash_receipt(receipt))


@external
@view
def anchor_digest(provider_id: uint32, count: uint64, root: bytes32) -> bytes32:
    """
    @notice What a provider's node key signs for its ledger.
    """
    return self._digest(typed_data._hash_anchor(provider_id, count, root))


@external
@view
def node_key_digest(owner: address) -> bytes32:
    """
    @notice What a node key signs to be registered by `owner`.
    """
    return self._digest(typed_data._hash_node_key(owner))


@external
@pure
def terms_digest(terms: typed_data.Terms) -> bytes32:
    """
    @notice The digest an offer and a lease carry of their terms.
    """
    return typed_data._hash_terms(terms)


@external
@pure
def voucher_context(seq: uint64, request_hash: bytes32, max_cost: uint128, sent_at: uint64) -> bytes32:
    """
    @notice The context of a voucher that also authorises a request.
    """
    return keccak256(abi_encode(seq, request_hash, max_cost, sent_at))


@external
@view
def lease_id(
    owner: address,
    nonce: uint64,
    provider_id: uint32,
    offer_id: uint32,
    version: uint32,
    signer: address,
    terms_digest_: bytes32,
) -> bytes32:
    """
    @notice The id that a lease with this preimage has, or will have.
    """
    return typed_data._lease_id(
        chain.id, escrow, owner, nonce, provider_id, offer_id, version, signer, terms_digest_
    )


@internal
@view
def _digest(struct_hash: bytes32) -> bytes32:
    return typed_data._digest(typed_data._domain_separator(escrow), struct_hash)
