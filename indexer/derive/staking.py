"""Stakes, votes, rewards and slashes."""

from indexer.decode.decoder import Event
from indexer.derive.handlers import on
from indexer.store.rows import Rows
from indexer.store.shapes import Row
from indexer.store.tables.staking import (
    Delegation,
    Reward,
    RewardAdded,
    RewardClaim,
    Slash,
    Stake,
    StakeChange,
    Vote,
    VoteChange,
)


def _stake(rows: Rows, account: bytes) -> Row:
    return rows.ensure(Stake, account, active=0, cooling=0, cooling_until=0, slashed=0, delegate=None)


@on("Staking", "Staked", lambda e: [(Stake, (e.args["account"],))])
def staked(event: Event, rows: Rows) -> None:
    args = event.args
    _stake(rows, args["account"])["active"] = args["active_stake"]
    rows.add(StakeChange, event.log, account=args["account"], kind="staked", amount=args["amount"])


@on("Staking", "CooldownStarted", lambda e: [(Stake, (e.args["account"],))])
def cooldown_started(event: Event, rows: Rows) -> None:
    args = event.args
    newest = {"active": args["active_stake"], "cooling": args["cooling"], "cooling_until": args["until"]}
    _stake(rows, args["account"]).update(newest)
    rows.add(StakeChange, event.log, account=args["account"], kind="cooled", amount=args["amount"])


@on("Staking", "Withdrawn", lambda e: [(Stake, (e.args["account"],))])
def withdrawn(event: Event, rows: Rows) -> None:
    args = event.args
    _stake(rows, args["account"]).update(cooling=0, cooling_until=0)
    rows.add(StakeChange, event.log, account=args["account"], kind="withdrawn", amount=args["amount"])


@on("Staking", "DelegateChanged", lambda e: [(Stake, (e.args["delegator"],))])
def delegate_changed(event: Event, rows: Rows) -> None:
    args = event.args
    _stake(rows, args["delegator"])["delegate"] = args["toDelegate"]
    rows.add(
        Delegation,
        event.log,
        delegator=args["delegator"],
        from_delegate=args["fromDelegate"],
        to_delegate=args["toDelegate"],
    )


@on("Staking", "DelegateVotesChanged", lambda e: [(Vote, (e.args["delegate"],))])
def delegate_votes_changed(event: Event, rows: Rows) -> None:
    args = event.args
    rows.ensure(Vote, args["delegate"])["votes"] = args["newVotes"]
    rows.add(VoteChange, event.log, delegate=args["delegate"], previous=args["previousVotes"], votes=args["newVotes"])


@on("Staking", "RewardsAdded", lambda e: [(Reward, (e.args["token"],))])
def rewards_added(event: Event, rows: Rows) -> None:
    args = event.args
    reward = _reward(rows, args["token"])
    reward["added"] += args["amount"]
    reward.update(stream_left=args["left"], stream_seconds=args["seconds_left"], added_at=event.log.block_time)
    rows.add(RewardAdded, event.log, token=args["token"], caller=args["caller"], amount=args["amount"])


@on("Staking", "RewardClaimed", lambda e: [(Reward, (e.args["token"],))])
def reward_claimed(event: Event, rows: Rows) -> None:
    args = event.args
    _reward(rows, args["token"])["claimed"] += args["amount"]
    rows.add(RewardClaim, event.log, **args)


@on("Staking", "Slashed", lambda e: [(Stake, (e.args["account"],))])
def slashed(event: Event, rows: Rows) -> None:
    args = event.args
    stake = _stake(rows, args["account"])
    stake["active"] -= args["from_active"]
    stake["cooling"] -= args["from_cooling"]
    stake["slashed"] += args["amount"]
    rows.add(Slash, event.log, **args)


def _reward(rows: Rows, token: bytes) -> Row:
    return rows.ensure(Reward, token, added=0, claimed=0, stream_left=0, stream_seconds=0, added_at=0)
