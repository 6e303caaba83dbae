# pragma version 0.4.3
# pragma nonreentrancy on
"""
@title held_earnings
@license MIT
@notice A provider's settled earnings are its bond: they are held for `holdDays` after the day they were earned and then
        fall free. Per (provider, token) a ring of eight words, one a day; a word that is used again first moves its
        old amount to `free`, which is sound because every hold ends within seven days.
        Invariant: a change of the hold binds new days only and lowers no earlier maturity; what has matured can no
        longer be frozen or refunded from.
"""
from ..interfaces import IParams
from . import escrow
from . import leases
from . import param_keys

uses: escrow
uses: leases


event HoldStarted:
    provider: indexed(uint256)
    token: indexed(address)
    day: uint256
    hold_days: uint256
    freed: uint256


event EarningsCollected:
    provider: indexed(uint256)
    token: indexed(address)
    owner: indexed(address)
    amount: uint256


RING: constant(uint256) = 8
_DAY: constant(uint256) = 86_400
_U128: constant(uint256) = 2**128 - 1
_U8: constant(uint256) = 2**8 - 1

# amount 128 | hold days 8 | day: by provider and token, slot = day % 8
_held: HashMap[uint256, HashMap[address, uint256[RING]]]
# matured amounts whose word was needed for a new day
_free: HashMap[uint256, HashMap[address, uint256]]


@external
def collect(provider: uint32, token: address):
    """
    @notice Moves matured earnings into the account of the provider's owner, from which it withdraws. Anyone may call.
    @param provider The provider's id.
    @param token The payment token.
    """
    provider_id: uint256 = convert(provider, uint256)
    owner: address = staticcall leases.registry.owner_of(provider)
    assert owner != empty(address), "earnings: no such provider"
    amount: uint256 = self._free[provider_id][token]
    self._free[provider_id][token] = 0
    for slot: uint256 in range(RING):
        word: uint256 = self._held[provider_id][token][slot]
        if word & _U128 != 0 and self._has_matured(word):
            amount += word & _U128
            self._held[provider_id][token][slot] = word & ~_U128
    assert amount > 0, "earnings: nothing matured"
    escrow.accounts[owner][token] += amount
    log EarningsCollected(provider=provider_id, token=token, owner=owner, amount=amount)


@external
@view
def earnings(provider: uint32, token: address) -> (uint256, uint256):
    """
    @notice What a provider has earned and not collected, frozen pots apart.
    @param provider The provider's id.
    @param token The payment token.
    @return held Not matured yet, in token base units.
    @return free Ready for `collect`, in token base units.
    """
    provider_id: uint256 = convert(provider, uint256)
    held: uint256 = 0
    free: uint256 = self._free[provider_id][token]
    for slot: uint256 in range(RING):
        word: uint256 = self._held[provider_id][token][slot]
        if self._has_matured(word):
            free += word & _U128
        else:
            held += word & _U128
    return held, free


@external
@view
def held_words(provider: uint32, token: address) -> uint256[RING]:
    """
    @notice The ring itself: amount 128 | hold days 8 | day, slot = day % 8.
    @param provider The provider's id.
    @param token The payment token.
    """
    return self._held[convert(provider, uint256)][token]


@internal
def _credit(provider: uint256, token: address, amount: uint256):
    day: uint256 = block.timestamp // _DAY
    slot: uint256 = day % RING
    word: uint256 = self._held[provider][token][slot]
    if word >> 136 == day:
        self._held[provider][token][slot] = word + amount
        return
    freed: uint256 = word & _U128
    if freed > 0:
        self._free[provider][token] += freed
    hold_days: uint256 = staticcall escrow.params.get(param_keys.HOLD_DAYS)
    self._held[provider][token][slot] = amount | (hold_days << 128) | (day << 136)
    log HoldStarted(provider=provider, token=token, day=day, hold_days=hold_days, freed=freed)


@internal
@view
def _has_matured(word: uint256) -> bool:
    """
    @param word A ring word; it matures at (day + 1 + hold days) days.
    """
    return block.timestamp >= ((word >> 136) + 1 + ((word >> 128) & _U8)) * _DAY


@internal
@view
def _sum_held(provider: uint256, token: address) -> uint256:
    total: uint256 = 0
    for slot: uint256 in range(RING):
        word: uint256 = self._held[provider][token][slot]
        if not self._has_matured(word):
            total += word & _U128
    return total


@internal
def _take_held(provider: uint256, token: address, amount: uint256) -> DynArray[uint256, RING]:
    """
    @notice Takes up to `amount` of what has not matured, newest day first.
    @return parts What was taken, as ring words: amount 128 | hold days 8 | day.
    """
    parts: DynArray[uint256, RING] = []
    today: uint256 = block.timestamp // _DAY
    rest: uint256 = amount
    for age: uint256 in range(RING):
        if rest == 0:
            break
        slot: uint256 = (today - age) % RING
        word: uint256 = self._held[provider][token][slot]
        if word >> 136 != today - age or self._has_matured(word):
            continue
        part: uint256 = min(rest, word & _U128)
        if part == 0:
            continue
        self._held[provider][token][slot] = word - part
        parts.append((word & ~_U128) | part)
        rest -= part
    return parts


@internal
def _return_held(provider: uint256, token: address, part: uint256):
    """
    @notice Puts back what `_take_held` took, with its old maturity.
    @param part A ring word.
    """
    slot: uint256 = (part >> 136) % RING
    word: uint256 = self._held[provider][token][slot]
    if word >> 136 == part >> 136:
        self._held[provider][token][slot] = word + (part & _U128)
    else:
        self._free[provider][token] += part & _U128
