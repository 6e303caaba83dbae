# pragma version 0.4.3
# pragma nonreentrancy off
"""
@title offers
@license MIT
@notice Stores offers in three words each, since every opened lease reads one.
        Invariant: an offer's version only grows, and a stored offer kept to the limits when it was stored.
"""

from ..interfaces import IRegistry


KINDS: constant(uint8) = 5
CLOSE_DELAY_FLOOR: constant(uint32) = 3_600
CLOSE_DELAY_CEILING: constant(uint32) = 6 * 86_400
_MASK_8: constant(uint256) = 2**8 - 1
_MASK_32: constant(uint256) = 2**32 - 1
_MASK_40: constant(uint256) = 2**40 - 1
_MASK_96: constant(uint256) = 2**96 - 1
_MASK_160: constant(uint256) = 2**160 - 1
_OPEN_BIT: constant(uint256) = 1 << 168


# Provider id to offer id to [token 160 | kind 8 | open 8 | version 32 | max_active 32, terms digest,
# min_deposit 96 | max_duration 40 | close_delay_min 32 | close_delay_max 32], lowest bits first.
_offers: HashMap[uint32, HashMap[uint32, uint256[3]]]


@internal
@pure
def _check(offer: IRegistry.Offer):
    """
    @notice Reverts for an offer nobody could lease.
    """
    assert offer.kind < KINDS, "registry: unknown offer kind"
    assert offer.terms_digest != empty(bytes32), "registry: terms digest is zero"
    assert offer.max_duration != 0, "registry: maximum duration is zero"
    assert offer.max_active != 0, "registry: maximum of active leases is zero"
    assert offer.close_delay_min >= CLOSE_DELAY_FLOOR, "registry: close delay below 1 hour"
    assert offer.close_delay_max <= CLOSE_DELAY_CEILING, "registry: close delay above 6 days"
    assert offer.close_delay_min <= offer.close_delay_max, "registry: close delays out of order"


@internal
def _store(provider: uint32, offer_id: uint32, offer: IRegistry.Offer, version: uint32, is_open: bool):
    self._check(offer)
    flag: uint256 = 0
    if is_open:
        flag = _OPEN_BIT
    self._offers[provider][offer_id] = [
        convert(offer.token, uint256)
        | (convert(offer.kind, uint256) << 160)
        | flag
        | (convert(version, uint256) << 176)
        | (convert(offer.max_active, uint256) << 208),
        convert(offer.terms_digest, uint256),
        convert(offer.min_deposit, uint256)
        | (convert(offer.max_duration, uint256) << 96)
        | (convert(offer.close_delay_min, uint256) << 136)
        | (convert(offer.close_delay_max, uint256) << 168),
    ]


@internal
def _set_open(provider: uint32, offer_id: uint32, is_open: bool):
    word: uint256 = self._offers[provider][offer_id][0] & ~_OPEN_BIT
    if is_open:
        word |= _OPEN_BIT
    self._offers[provider][offer_id][0] = word


@internal
@view
def _status(provider: uint32, offer_id: uint32) -> (uint32, bool):
    """
    @notice (version, whether it is open); version 0 if there is no such offer.
    """
    word: uint256 = self._offers[provider][offer_id][0]
    return self._version(word), word & _OPEN_BIT != 0


@internal
@view
def _load(provider: uint32, offer_id: uint32) -> IRegistry.Offer:
    words: uint256[3] = self._offers[provider][offer_id]
    return IRegistry.Offer(
        kind=self._kind(words[0]),
        token=self._token(words[0]),
        terms_digest=convert(words[1], bytes32),
        min_deposit=self._min_deposit(words[2]),
        max_duration=self._max_duration(words[2]),
        close_delay_min=self._close_delay_min(words[2]),
        close_delay_max=self._close_delay_max(words[2]),
        max_active=self._max_active(words[0]),
    )


@internal
@view
def _lease_offer(provider: uint32, offer_id: uint32, owner: address, is_registered: bool) -> IRegistry.LeaseOffer:
    words: uint256[3] = self._offers[provider][offer_id]
    return IRegistry.LeaseOffer(
        owner=owner,
        is_registered=is_registered,
        is_open=words[0] & _OPEN_BIT != 0,
        version=self._version(words[0]),
        kind=self._kind(words[0]),
        token=self._token(words[0]),
        terms_digest=convert(words[1], bytes32),
        min_deposit=self._min_deposit(words[2]),
        max_duration=self._max_duration(words[2]),
        close_delay_min=self._close_delay_min(words[2]),
        close_delay_max=self._close_delay_max(words[2]),
        max_active=self._max_active(words[0]),
    )


@internal
@pure
def _token(word: uint256) -> address:
    return convert(word & _MASK_160, address)


@internal
@pure
def _kind(word: uint256) -> uint8:
    return convert((word >> 160) & _MASK_8, uint8)


@internal
@pure
def _version(word: uint256) -> uint32:
    return convert((word >> 176) & _MASK_32, uint32)


@internal
@pure
def _max_active(word: uint256) -> uint32:
    return convert((word >> 208) & _MASK_32, uint32)


@internal
@pure
def _min_deposit(word: uint256) -> uint96:
    return convert(word & _MASK_96, uint96)


@internal
@pure
def _max_duration(word: uint256) -> uint40:
    return convert((word >> 96) & _MASK_40, uint40)


@internal
@pure
def _close_delay_min(word: uint256) -> uint32:
    return convert((word >> 136) & _MASK_32, uint32)


@internal
@pure
def _close_delay_max(word: uint256) -> uint32:
    return convert((word >> 168) & _MASK_32, uint32)
