# pragma version 0.4.3
# pragma nonreentrancy off
"""
@title param_keys
@license MIT
@notice Under which key `Params` holds each parameter, and how many there are.
"""

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
