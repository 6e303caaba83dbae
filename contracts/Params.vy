# pragma version 0.4.3
# pragma nonreentrancy off
"""
@title Params
@custom:contract-name Params
@license MIT
@notice The market's parameters and its list of payment tokens; outside documentation in `interfaces/IParams.vyi`.
        Invariant: every value lies between its floor and its ceiling, moves by at most one step per change, and
        changes at most once in 7 days. The limits are code: no owner can move them.
        Refuses: holding money, and touching what already runs: leases, earnings and cooldowns keep what they began with.
"""

from .interfaces import IParams
from .modules import param_keys
from snekmate.auth import ownable
from snekmate.auth import ownable_2step

implements: IParams

initializes: ownable
initializes: ownable_2step[ownable := ownable]

exports: (
    ownable_2step.owner,
    ownable_2step.pending_owner,
    ownable_2step.transfer_ownership,
    ownable_2step.accept_ownership,
    ownable_2step.renounce_ownership,
)


FEE_BPS: constant(uint256) = 0
STAKER_SHARE_BPS: constant(uint256) = 1
HOLD_DAYS: constant(uint256) = 2
MIN_STAKE: constant(uint256) = 3
COOLDOWN: constant(uint256) = 4
SLASH_EVENT_BPS: constant(uint256) = 5
SLASH_CONTRADICTION_BPS: constant(uint256) = 6
SLASH_DAY_BPS: constant(uint256) = 7
REFUND_DAY_BPS: constant(uint256) = 8
KEYS: constant(uint256) = 9

MAX_TOKENS: constant(uint256) = 8
CHANGE_INTERVAL: constant(uint256) = 7 * 86_400
_DAY: constant(uint256) = 86_400
_CLAW: constant(uint256) = 10**18

_DEFAULTS: constant(uint256[param_keys.KEYS]) = [
    500, 5_000, 3, 10_000 * _CLAW, 21 * _DAY, 1_000, 5_000, 5_000, 5_000
]
_FLOORS: constant(uint256[param_keys.KEYS]) = [
    0, 0, 1, 100 * _CLAW, 21 * _DAY, 10, 1_000, 1_000, 1_000
]
_CEILINGS: constant(uint256[param_keys.KEYS]) = [
    1_000, 10_000, 6, 1_000_000 * _CLAW, 60 * _DAY, 1_000, 10_000, 10_000, 10_000
]
_STEPS: constant(uint256[param_keys.KEYS]) = [
    100, 1_000, 1, 10_000 * _CLAW, 7 * _DAY, 250, 2_500, 2_500, 2_500
]


# The values in force, by key.
_values: uint256[param_keys.KEYS]

# FEE_BPS 16 | MIN_STAKE 240, lowest bits first: the two values every opened lease reads, in one load.
_open_word: uint256

# When each key last changed; holds the pace of one change per key in 7 days.
_changed_at: uint256[param_keys.KEYS]

# Which tokens the escrow takes deposits in; a token never listed can never reach the ledgers.
token_listed: public(HashMap[address, bool])

# Every token ever listed. Staking can stream as many as this and no more, so the list is bounded here.
_tokens: DynArray[address, MAX_TOKENS]

# Who receives the platform's share of the fees.
treasury: public(address)


@deploy
def __init__(treasury_: address):
    """
    @notice The deployer owns the parameters until it hands them over.
    @param treasury_ Who receives the platform's share of the fees.
    """
    ownable.__init__()
    ownable_2step.__init__()
    for key: uint256 in range(param_keys.KEYS):
        self._values[key] = _DEFAULTS[key]
        log IParams.ParameterChanged(key=key, old_value=0, new_value=_DEFAULTS[key])
    self._pack_open_word()
    self._set_treasury(treasury_)


@external
def set(key: uint256, new_value: uint256):
    ownable._check_owner()
    self._check_key(key)
    old: uint256 = self._values[key]
    assert new_value != old, "params: value unchanged"
    assert new_value >= _FLOORS[key], "params: below floor"
    assert new_value <= _CEILINGS[key], "params: above ceiling"
    assert max(new_value, old) - min(new_value, old) <= _STEPS[key], "params: step too large"
    last: uint256 = self._changed_at[key]
    assert last == 0 or block.timestamp >= last + CHANGE_INTERVAL, "params: changed within 7 days"
    self._values[key] = new_value
    self._changed_at[key] = block.timestamp
    self._pack_open_word()
    log IParams.ParameterChanged(key=key, old_value=old, new_value=new_value)


@external
def list_token(token: address, listed: bool):
    ownable._check_owner()
    assert token.is_contract, "params: token is not a contract"
    if token not in self._tokens:
        assert len(self._tokens) < MAX_TOKENS, "params: too many tokens"
        self._tokens.append(token)
    self.token_listed[token] = listed
    log IParams.TokenListingChanged(token=token, is_listed=listed)


@external
def set_treasury(treasury_: address):
    ownable._check_owner()
    self._set_treasury(treasury_)


@external
@view
def get(key: uint256) -> uint256:
    self._check_key(key)
    return self._values[key]


@external
@view
def open_terms(token: address) -> (uint256, uint256, bool):
    word: uint256 = self._open_word
    return word & (2**16 - 1), word >> 16, self.token_listed[token]


@external
@view
def tokens() -> DynArray[address, MAX_TOKENS]:
    return self._tokens


@external
@view
def changed_at(key: uint256) -> uint256:
    self._check_key(key)
    return self._changed_at[key]


@external
@view
def bounds(key: uint256) -> (uint256, uint256, uint256):
    self._check_key(key)
    return _FLOORS[key], _CEILINGS[key], _STEPS[key]


@internal
@pure
def _check_key(key: uint256):
    assert key < param_keys.KEYS, "params: unknown key"


@internal
def _pack_open_word():
    self._open_word = self._values[param_keys.FEE_BPS] | (self._values[param_keys.MIN_STAKE] << 16)


@internal
def _set_treasury(treasury_: address):
    assert treasury_ != empty(address), "params: treasury is the zero address"
    log IParams.TreasuryChanged(old_treasury=self.treasury, new_treasury=treasury_)
    self.treasury = treasury_
