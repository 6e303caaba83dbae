# pragma version 0.4.3
# pragma nonreentrancy off
"""
@title Staking
@custom:contract-name Staking
@license MIT
@notice CLAW stakes: cooldown, slashing, votes and fee rewards; outside documentation in `interfaces/IStaking.vyi`.
        Invariant: active + cooling + booked CLAW rewards never exceed the CLAW held; stake in cooldown can be slashed,
        earns nothing and votes for nobody; one fact is punished once; what an account cooled down it can withdraw,
        whatever reward tokens, the owner of the parameters or anybody else does.
        Refuses: transferring stake, withdrawing before the cooldown ends, and counting tokens sent here without a call.
"""

from ethereum.ercs import IERC20
from snekmate.utils import eip712_domain_separator

from .interfaces import IParams
from .interfaces import IRegistry
from .interfaces import IStaking
from .modules import checkpoints
from .modules import param_keys
from .modules import rewards
from .modules import votes

implements: IStaking

initializes: checkpoints
initializes: eip712_domain_separator
initializes: rewards
initializes: votes[checkpoints := checkpoints, eip712_domain_separator := eip712_domain_separator]

exports: (
    votes.delegate,
    votes.delegateBySig,
    votes.delegates,
    votes.nonces,
    votes.getVotes,
    votes.getPastVotes,
    votes.getPastTotalSupply,
    votes.getPastStake,
    votes.clock,
    votes.CLOCK_MODE,
    eip712_domain_separator.eip712Domain,
)


interface Claw:
    def burn(amount: uint256): nonpayable


interface Escrow:
    def accounts(owner: address, token: address) -> uint256: view
    def collect_fees(token: address): nonpayable
    def withdraw(token: address, amount: uint256, to: address): nonpayable


struct Cooling:
    amount: uint256
    until: uint256


struct DaySlashes:
    day: uint256
    amount: uint256  # meaningless unless `day` is today


MAX_FILER_BPS: constant(uint256) = 1_000
_BPS: constant(uint256) = 10_000
_DAY: constant(uint256) = 86_400


claw: public(immutable(IERC20))
params: public(immutable(IParams))
registry: public(immutable(IRegistry))
escrow: public(immutable(Escrow))
arbitration: public(immutable(address))

# Stake that earns, votes and backs a provider; opening a lease reads it.
active_stake: public(HashMap[address, uint256])

# One bucket per account on its way out, still open to slashes.
_cooling: HashMap[address, Cooling]

# Sum of active_stake: the divisor of rewards and the total supply of votes.
total_active: public(uint256)

# Sum of all cooling amounts, so that anyone can check the books against the balance.
total_cooling: public(uint256)

# Facts punished already, so that none is twice.
is_slashed: public(HashMap[bytes32, bool])

# What each account lost on the day of its last slash; holds the daily cap.
_day_slashes: HashMap[address, DaySlashes]


@deploy
def __init__(claw_: IERC20, params_: IParams, registry_: IRegistry, escrow_: Escrow, arbitration_: address):
    """
    @param claw_ The staked token.
    @param params_ Minimum stake, cooldown and slash caps.
    @param registry_ Told when a cooldown takes a provider below the minimum stake.
    @param escrow_ Pays the stakers' share of the fees.
    @param arbitration_ The only caller of `slash`.
    """
    eip712_domain_separator.__init__("OpenClaw Staking", "1")
    claw = claw_
    params = params_
    registry = registry_
    escrow = escrow_
    arbitration = arbitration_


@external
@nonreentrant
def stake(amount: uint256):
    assert amount != 0, "staking: amount is zero"
    active: uint256 = self._set_active(msg.sender, self.active_stake[msg.sender] + amount)
    log IStaking.Staked(account=msg.sender, amount=amount, active_stake=active)
    assert extcall claw.transferFrom(msg.sender, self, amount), "staking: transfer failed"


@external
@nonreentrant
def start_cooldown(amount: uint256):
    assert amount != 0, "staking: amount is zero"
    active: uint256 = self.active_stake[msg.sender]
    assert amount <= active, "staking: amount above active stake"
    active = self._set_active(msg.sender, active - amount)
    bucket: Cooling = self._cooling[msg.sender]
    bucket.amount += amount
    bucket.until = max(bucket.until, block.timestamp + staticcall params.get(param_keys.COOLDOWN))
    self._cooling[msg.sender] = bucket
    self.total_cooling += amount
    log IStaking.CooldownStarted(
        account=msg.sender, amount=amount, active_stake=active, cooling=bucket.amount, until=bucket.until
    )
    if active < staticcall params.get(param_keys.MIN_STAKE):
        extcall registry.deregister(msg.sender)


@external
@nonreentrant
def withdraw(to: address) -> uint256:
    bucket: Cooling = self._cooling[msg.sender]
    assert bucket.amount != 0, "staking: nothing in cooldown"
    assert block.timestamp >= bucket.until, "staking: cooldown not over"
    assert to != self, "staking: receiver is this contract"
    self._cooling[msg.sender] = empty(Cooling)
    self.total_cooling -= bucket.amount
    log IStaking.Withdrawn(account=msg.sender, receiver=to, amount=bucket.amount)
    assert extcall claw.transfer(to, bucket.amount), "staking: transfer failed"
    return bucket.amount


@external
@nonreentrant
def pull_fees(token: address) -> uint256:
    extcall escrow.collect_fees(token)
    credit: uint256 = staticcall escrow.accounts(self, token)
    if credit == 0:
        return 0
    balance_before: uint256 = staticcall IERC20(token).balanceOf(self)
    extcall escrow.withdraw(token, credit, self)
    amount: uint256 = staticcall IERC20(token).balanceOf(self) - balance_before
    if amount == 0:
        return 0
    rewards._add(token, amount, self.total_active)
    log IStaking.RewardsAdded(
        token=token,
        caller=msg.sender,
        amount=amount,
        left=rewards._streams[token].left,
        seconds_left=rewards._streams[token].seconds_left,
    )
    return amount


@external
@nonreentrant
def claim(token: address, to: address) -> uint256:
    assert to != self, "staking: receiver is this contract"
    rewards._settle(token, msg.sender, self.active_stake[msg.sender], self.total_active)
    amount: uint256 = rewards._take(token, msg.sender)
    if amount == 0:
        return 0
    log IStaking.RewardClaimed(account=msg.sender, token=token, receiver=to, amount=amount)
    assert extcall IERC20(token).transfer(to, amount, default_return_value=True), "staking: reward transfer failed"
    return amount


@external
@nonreentrant
def slash(
    fact: bytes32, account: address, bps: uint256, is_contradiction: bool, filer: address, filer_bps: uint256
) -> uint256:
    assert msg.sender == arbitration, "staking: caller is not Arbitration"
    assert not self.is_slashed[fact], "staking: fact already slashed"
    self.is_slashed[fact] = True

    active: uint256 = self.active_stake[account]
    whole: uint256 = active + self._cooling[account].amount
    amount: uint256 = min(self._slash_of(whole, bps, is_contradiction), self._room_today(account, whole))
    from_active: uint256 = 0
    if whole != 0:
        from_active = amount * active // whole
    from_cooling: uint256 = amount - from_active
    self._day_slashes[account] = DaySlashes(
        day=block.timestamp // _DAY, amount=self._slashed_today(account) + amount
    )
    if from_active != 0:
        self._set_active(account, active - from_active)
    self._cooling[account].amount -= from_cooling
    self.total_cooling -= from_cooling

    filer_share: uint256 = 0
    if filer != empty(address):
        filer_share = amount * min(filer_bps, MAX_FILER_BPS) // _BPS
        rewards._credit(claw.address, filer, filer_share)
    log IStaking.Slashed(
        fact=fact,
        account=account,
        filer=filer,
        amount=amount,
        from_active=from_active,
        from_cooling=from_cooling,
        filer_share=filer_share,
        burned=amount - filer_share,
    )
    if amount != filer_share:
        extcall Claw(claw.address).burn(amount - filer_share)
    return amount


@external
@view
def cooling(account: address) -> (uint256, uint256):
    bucket: Cooling = self._cooling[account]
    return bucket.amount, bucket.until


@external
@view
def slashed_today(account: address) -> uint256:
    return self._slashed_today(account)


@external
@view
def earned(account: address, token: address) -> uint256:
    return rewards._earned(token, account, self.active_stake[account], self.total_active)


@external
@view
def reward_tokens() -> DynArray[address, 8]:
    return rewards._tokens


@external
@view
def booked_rewards(token: address) -> uint256:
    return rewards._booked[token]


@external
@view
def stream(token: address) -> (uint256, uint256):
    state: rewards.Stream = rewards._released(token, self.total_active)
    return state.left, state.seconds_left


@internal
def _set_active(account: address, new_stake: uint256) -> uint256:
    """
    @notice Changes an account's active stake, with its rewards settled first and its votes moved along.
    @return The new active stake.
    """
    old_stake: uint256 = self.active_stake[account]
    total: uint256 = self.total_active
    rewards._settle_all(account, old_stake, total)
    total = total + new_stake - old_stake
    self.active_stake[account] = new_stake
    self.total_active = total
    votes._set_stake(account, old_stake, new_stake, total)
    return new_stake


@internal
@view
def _slash_of(whole: uint256, bps: uint256, is_contradiction: bool) -> uint256:
    key: uint256 = param_keys.SLASH_EVENT_BPS
    if is_contradiction:
        key = param_keys.SLASH_CONTRADICTION_BPS
    return whole * min(bps, staticcall params.get(key)) // _BPS


@internal
@view
def _room_today(account: address, whole: uint256) -> uint256:
    """
    @notice What the day's cap leaves: SLASH_DAY_BPS of what the stake would be without today's slashes, less those.
    """
    today: uint256 = self._slashed_today(account)
    cap: uint256 = (whole + today) * staticcall params.get(param_keys.SLASH_DAY_BPS) // _BPS
    return max(cap, today) - today


@internal
@view
def _slashed_today(account: address) -> uint256:
    record: DaySlashes = self._day_slashes[account]
    if record.day == block.timestamp // _DAY:
        return record.amount
    return 0
