# pragma version 0.4.3
# pragma nonreentrancy off
"""
@title votes
@license MIT
@notice Delegation over checkpointed stake: ERC-5805 and ERC-6372 with the timestamp clock.
        Invariant: the votes of all accounts together are the total active stake less the stake of those who abstain,
        and past votes never change.
        Refuses: chains of delegation; what is delegated to an account is not delegated on.
"""

from ..interfaces import IStaking
from . import checkpoints
from snekmate.utils import ecdsa
from snekmate.utils import eip712_domain_separator

uses: checkpoints
uses: eip712_domain_separator


_VOTES: constant(uint256) = 0
_STAKE: constant(uint256) = 1
_TOTAL: constant(uint256) = 2

_DELEGATION_TYPE: constant(bytes32) = keccak256("Delegation(address delegatee,uint256 nonce,uint256 expiry)")


# Who votes with an account's stake; zero stands for the account itself, so that stake votes without a transaction.
_delegatee: HashMap[address, address]

# Tells an account that chose nobody from one that never chose.
_abstains: HashMap[address, bool]

# One sequence per account, so that a signed delegation counts once.
nonces: public(HashMap[address, uint256])


@external
def delegate(delegatee: address):
    self._delegate(msg.sender, delegatee)


@external
def delegateBySig(delegatee: address, nonce: uint256, expiry: uint256, v: uint8, r: bytes32, s: bytes32):
    assert block.timestamp <= expiry, "votes: signature expired"
    digest: bytes32 = eip712_domain_separator._hash_typed_data_v4(
        keccak256(abi_encode(_DELEGATION_TYPE, delegatee, nonce, expiry))
    )
    signer: address = ecdsa._recover_vrs(digest, convert(v, uint256), convert(r, uint256), convert(s, uint256))
    assert signer != empty(address), "votes: bad signature"
    assert nonce == self.nonces[signer], "votes: bad nonce"
    self.nonces[signer] = nonce + 1
    self._delegate(signer, delegatee)


@external
@view
def delegates(account: address) -> address:
    return self._delegate_of(account)


@external
@view
def getVotes(account: address) -> uint256:
    return checkpoints._latest(_VOTES, account)


@external
@view
def getPastVotes(account: address, timepoint: uint256) -> uint256:
    return checkpoints._lookup(_VOTES, account, timepoint)


@external
@view
def getPastTotalSupply(timepoint: uint256) -> uint256:
    return checkpoints._lookup(_TOTAL, empty(address), timepoint)


@external
@view
def getPastStake(account: address, timepoint: uint256) -> uint256:
    return checkpoints._lookup(_STAKE, account, timepoint)


@external
@view
def clock() -> uint48:
    return convert(block.timestamp, uint48)


@external
@view
def CLOCK_MODE() -> String[14]:
    return "mode=timestamp"


@internal
@view
def _delegate_of(account: address) -> address:
    if self._abstains[account]:
        return empty(address)
    delegatee: address = self._delegatee[account]
    if delegatee == empty(address):
        return account
    return delegatee


@internal
def _delegate(account: address, delegatee: address):
    old: address = self._delegate_of(account)
    self._abstains[account] = delegatee == empty(address)
    self._delegatee[account] = delegatee
    log IStaking.DelegateChanged(delegator=account, fromDelegate=old, toDelegate=delegatee)
    if old == delegatee:
        return
    amount: uint256 = checkpoints._latest(_STAKE, account)
    if amount == 0:
        return
    if old != empty(address):
        self._set_votes(old, checkpoints._latest(_VOTES, old) - amount)
    if delegatee != empty(address):
        self._set_votes(delegatee, checkpoints._latest(_VOTES, delegatee) + amount)


@internal
def _set_stake(account: address, old_stake: uint256, new_stake: uint256, total: uint256):
    """
    @notice Records an account's new active stake and moves the votes that follow it.
    @param old_stake The active stake before.
    @param new_stake The active stake after.
    @param total The total active stake after.
    """
    checkpoints._push(_STAKE, account, new_stake)
    checkpoints._push(_TOTAL, empty(address), total)
    holder: address = self._delegate_of(account)
    if holder != empty(address):
        self._set_votes(holder, checkpoints._latest(_VOTES, holder) + new_stake - old_stake)


@internal
def _set_votes(holder: address, new_votes: uint256):
    log IStaking.DelegateVotesChanged(
        delegate=holder, previousVotes=checkpoints._latest(_VOTES, holder), newVotes=new_votes
    )
    checkpoints._push(_VOTES, holder, new_votes)
