# pragma version 0.4.3
# pragma nonreentrancy off
"""
@title Registry
@custom:contract-name Registry
@license MIT
@notice Providers, node keys, metadata digests and versioned offers; outside documentation in
        `interfaces/IRegistry.vyi`.
        Invariant: ids, offer versions and node keys never come back, a provider's owner never changes, and an owner
        has at most one active provider, whose stake reached the minimum when it registered.
        Refuses: holding money, transferring a provider, and pausing anybody but one's own offers.
"""

from .interfaces import IParams
from .interfaces import IRegistry
from .interfaces import IStaking
from .modules import node_keys
from .modules import offers
from .modules import param_keys

implements: IRegistry

initializes: node_keys
initializes: offers


interface Escrow:
    def end_leases(provider: uint32): nonpayable
    def leases_end(provider: uint256) -> uint256: view


_MASK_32: constant(uint256) = 2**32 - 1
_MASK_160: constant(uint256) = 2**160 - 1
_REGISTERED_BIT: constant(uint256) = 1 << 160
_OFFER_COUNT_SHIFT: constant(uint256) = 168


params: public(immutable(IParams))
staking: public(immutable(IStaking))
escrow: public(immutable(Escrow))

# The highest provider id given out; ids are never reused.
provider_count: public(uint32)

# Provider id to owner 160 | registered 8 | offer count 32, lowest bits first; opening a lease reads it in one load.
_providers: HashMap[uint32, uint256]

# The active provider of an owner, so that Staking can deregister by address.
provider_of: public(HashMap[address, uint32])

# The id an owner had before; while its leases may still run, the owner's stake backs them and nothing else.
_former: HashMap[address, uint32]

# The latest metadata digest: how readers find the signed document.
metadata_digest: public(HashMap[uint32, bytes32])


@deploy
def __init__(params_: IParams, staking_: IStaking, escrow_: Escrow):
    """
    @param params_ Holds MIN_STAKE and the token list.
    @param staking_ Knows the stakes; the only caller of `deregister`.
    @param escrow_ Ends a deregistered provider's leases, and is the domain of node key signatures.
    """
    params = params_
    staking = staking_
    escrow = escrow_


@external
def register(node_key: address, r: bytes32, vs: bytes32, metadata_digest: bytes32) -> uint32:
    assert self.provider_of[msg.sender] == 0, "registry: already registered"
    former_end: uint256 = staticcall escrow.leases_end(convert(self._former[msg.sender], uint256))
    assert block.timestamp >= former_end, "registry: leases of the former id still run"
    min_stake: uint256 = staticcall params.get(param_keys.MIN_STAKE)
    assert staticcall staking.active_stake(msg.sender) >= min_stake, "registry: stake too low"
    provider: uint32 = self.provider_count + 1
    self.provider_count = provider
    self._providers[provider] = convert(msg.sender, uint256) | _REGISTERED_BIT
    self.provider_of[msg.sender] = provider
    self.metadata_digest[provider] = metadata_digest
    node_keys._install(provider, msg.sender, node_key, r, vs, escrow.address)
    log IRegistry.ProviderRegistered(
        provider=provider, owner=msg.sender, node_key=node_key, metadata_digest=metadata_digest
    )
    return provider


@external
def set_metadata(provider: uint32, metadata_digest: bytes32):
    self._check_owner(provider)
    self.metadata_digest[provider] = metadata_digest
    log IRegistry.MetadataChanged(provider=provider, metadata_digest=metadata_digest)


@external
def rotate_node_key(provider: uint32, node_key: address, r: bytes32, vs: bytes32):
    self._check_owner(provider)
    old_key: address = node_keys._install(provider, msg.sender, node_key, r, vs, escrow.address)
    log IRegistry.NodeKeyRotated(provider=provider, old_key=old_key, new_key=node_key)


@external
def create_offer(provider: uint32, offer: IRegistry.Offer) -> uint32:
    self._check_active_owner(provider)
    self._check_token(offer.token)
    offer_id: uint32 = self._offer_count(provider) + 1
    self._providers[provider] += 1 << _OFFER_COUNT_SHIFT
    offers._store(provider, offer_id, offer, 1, True)
    log IRegistry.OfferCreated(provider=provider, offer_id=offer_id, version=1, offer=offer)
    return offer_id


@external
def update_offer(provider: uint32, offer_id: uint32, offer: IRegistry.Offer):
    self._check_active_owner(provider)
    self._check_token(offer.token)
    version: uint32 = 0
    is_open: bool = False
    version, is_open = self._check_offer(provider, offer_id)
    offers._store(provider, offer_id, offer, version + 1, is_open)
    log IRegistry.OfferUpdated(provider=provider, offer_id=offer_id, version=version + 1, offer=offer)


@external
def set_offer_open(provider: uint32, offer_id: uint32, is_open: bool):
    self._check_active_owner(provider)
    self._check_offer(provider, offer_id)
    offers._set_open(provider, offer_id, is_open)
    log IRegistry.OfferOpenChanged(provider=provider, offer_id=offer_id, is_open=is_open)


@external
def deregister(owner: address):
    assert msg.sender == staking.address, "registry: caller is not Staking"
    provider: uint32 = self.provider_of[owner]
    if provider == 0:
        return
    self.provider_of[owner] = 0
    self._former[owner] = provider
    self._providers[provider] &= ~_REGISTERED_BIT
    log IRegistry.ProviderDeregistered(provider=provider, owner=owner)
    extcall escrow.end_leases(provider)


@external
@view
def owner_of(provider: uint32) -> address:
    return self._owner(self._providers[provider])


@external
@view
def node_key(provider: uint32) -> address:
    return node_keys._current[provider]


@external
@view
def is_registered(provider: uint32) -> bool:
    return self._providers[provider] & _REGISTERED_BIT != 0


@external
@view
def key_record(key: address) -> (uint32, uint40, uint40):
    return node_keys._record(key)


@external
@view
def offer_count(provider: uint32) -> uint32:
    return self._offer_count(provider)


@external
@view
def lease_offer(provider: uint32, offer_id: uint32) -> IRegistry.LeaseOffer:
    word: uint256 = self._providers[provider]
    return offers._lease_offer(provider, offer_id, self._owner(word), word & _REGISTERED_BIT != 0)


@external
@view
def offer(provider: uint32, offer_id: uint32) -> (IRegistry.Offer, uint32, bool):
    version: uint32 = 0
    is_open: bool = False
    version, is_open = offers._status(provider, offer_id)
    return offers._load(provider, offer_id), version, is_open


@internal
@view
def _check_owner(provider: uint32):
    assert self._owner(self._providers[provider]) == msg.sender, "registry: caller is not the owner"


@internal
@view
def _check_active_owner(provider: uint32):
    self._check_owner(provider)
    assert self._providers[provider] & _REGISTERED_BIT != 0, "registry: provider is not registered"


@internal
@view
def _check_token(token: address):
    assert staticcall params.token_listed(token), "registry: token is not listed"


@internal
@view
def _check_offer(provider: uint32, offer_id: uint32) -> (uint32, bool):
    """
    @notice Reverts if there is no such offer; else (version, whether it is open).
    """
    version: uint32 = 0
    is_open: bool = False
    version, is_open = offers._status(provider, offer_id)
    assert version != 0, "registry: no such offer"
    return version, is_open


@internal
@view
def _offer_count(provider: uint32) -> uint32:
    return convert((self._providers[provider] >> _OFFER_COUNT_SHIFT) & _MASK_32, uint32)


@internal
@pure
def _owner(word: uint256) -> address:
    return convert(word & _MASK_160, address)
