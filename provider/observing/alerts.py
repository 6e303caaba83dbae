"""What the owner should look after, with what to do about it."""

import time
from collections.abc import Iterator

from protocol.money import CLAW, Money
from provider import metadata
from provider.config import Config
from provider.isolation import REMEDY
from provider.observing.chain_figures import ChainFigures
from provider.observing.status import Alert, LedgerStatus, OfferStatus, WorkerStatus

LOW_OPERATOR_WEI = 10**15
"""A thousandth of an ether: a few dozen settlements where gas is cheap."""
SETTLEMENT_LATE_S = 26 * 3600
"""Settling is due after a day at the latest; some hours are for gas and outages."""
LATE_TICKS = 3


def find_alerts(
    config: Config,
    chain: ChainFigures | None,
    ledger: LedgerStatus | None,
    worker: WorkerStatus | None,
    offers: list[OfferStatus],
    known: metadata.Metadata | None,
    now: int,
) -> list[Alert]:
    """The most pressing first. `now` is the market's time; a worker's ticks go by this machine's clock."""
    found = list(_of_worker(config, worker, int(time.time())))
    if chain is None:
        found.append(Alert(what="the chain cannot be read", do="check chain.rpc and the network"))
    else:
        found += _of_chain(config, chain, offers, known, now)
    if ledger is not None:
        found += _of_ledger(config, ledger)
    return found


def _of_worker(config: Config, worker: WorkerStatus | None, now: int) -> Iterator[Alert]:
    if worker is None:
        yield Alert(what="the worker does not run", do="start it: `clawmarket provider run`, or its systemd unit")
        return
    for reason in worker.reasons:
        yield Alert(what=f"not ready: {reason}", do="see the worker's log")
    for told in worker.refused_offers:
        yield Alert(what=f"{told}, so it is not served", do=REMEDY)
    yield from worker.anomalies
    if worker.restarts:
        yield Alert(what=f"engines ended {worker.restarts} times and were restarted", do="see the worker's log")
    since = worker.tick_at or worker.started_at
    if now - since > LATE_TICKS * config.settling.tick_s + 60:
        yield Alert(what=f"no tick has ended for {now - since} s", do="see the log; restart the worker if it hangs")


def _of_chain(
    config: Config, chain: ChainFigures, offers: list[OfferStatus], known: metadata.Metadata | None, now: int
) -> Iterator[Alert]:
    if not chain.is_registered:
        yield Alert(
            what="the provider is deregistered: no lease can be opened, and all leases end",
            do="collect what is owed; stake again and run `clawmarket provider init` with a new folder to come back",
        )
    elif chain.stake.active < chain.stake.minimum:
        missing = Money(chain.stake.minimum - chain.stake.active, CLAW)
        yield Alert(
            what="the stake is below the minimum: no lease can be opened",
            do=f"`clawmarket provider stake add '{missing}'`",
        )
    if chain.operator_wei < LOW_OPERATOR_WEI:
        yield Alert(
            what=f"the operator account has {chain.operator_wei} wei: settling and anchoring will stop",
            do="send ether to the address in the operator's keystore (`clawmarket keys address`)",
        )
    for offer in offers:
        if offer.is_open and not offer.is_here:
            yield Alert(
                what=f"the registry has version {offer.version} of offer {offer.offer_id}, which is not here",
                do="restore its file into the offers folder, or `clawmarket provider offers pause`",
            )
        if offer.is_open and offer.active >= offer.max_active:
            yield Alert(
                what=f"offer {offer.offer_id} has no room for more leases",
                do="closed ones are released by the tick; publish another offer for more",
            )
    promised = {offer.offer_id: offer.sandbox for offer in offers if offer.is_here}
    for fault in metadata.faults(config, known, promised, chain.metadata_digest, chain.node_key, now):
        yield Alert(what=fault, do="`clawmarket provider publish --owner …`")


def _of_ledger(config: Config, ledger: LedgerStatus) -> Iterator[Alert]:
    if ledger.settlement_lag_s > SETTLEMENT_LATE_S:
        yield Alert(
            what=f"vouchers have waited {ledger.settlement_lag_s // 3600} h to be settled",
            do="see the log for why settling fails: gas price, operator's ether, chain",
        )
    late_s = 2 * config.settling.anchor_s + LATE_TICKS * config.settling.tick_s + 600
    if ledger.unanchored_s > late_s:
        yield Alert(
            what=f"{ledger.receipts - ledger.anchored} receipts have waited up to {ledger.unanchored_s // 3600} h "
            "to be anchored",
            do="see the log for why anchoring fails; receipts without anchor can cost a dispute",
        )
