"""The status of a provider, as `/status` gives it and `clawmarket provider status` shows it.

Amounts in token base units (text in JSON, which has no integers of that size), times in Unix seconds.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, PlainSerializer

from protocol.money import Token
from protocol.sandboxes import SandboxTier
from provider.observing.chain_figures import ChainFigures
from provider.observing.ledger_figures import LedgerFigures
from provider.offers import Offer

Amount = Annotated[int, PlainSerializer(str, return_type=str)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class ModelStatus(_Part):
    """One model since the worker's start; `tokens_per_s` of requests that ended in the last minute."""

    name: str
    running: int
    requests: int
    failed: int
    units_in: int
    units_cached: int
    units_out: int
    tokens_per_s: float


class Alert(_Part):
    """Something to look after, and what to do about it."""

    what: str
    do: str


class WorkerStatus(_Part):
    """The running worker, its times by its machine's clock; `tick_at` is 0 before the first tick ended.

    `refused_offers` promise more than its sandbox keeps.
    """

    started_at: int
    tick_at: int
    queue: int
    refused: int
    restarts: int
    gate: str
    reasons: list[str]
    anomalies: list[Alert]
    sandbox: SandboxTier
    refused_offers: list[str]
    models: list[ModelStatus]
    failures: dict[str, int]


class MoneyStatus(_Part):
    """One token. `unpaid` is served and not covered by vouchers, `unsettled` covered and not yet on chain.

    `settled` is None where leases pay in several tokens.
    """

    symbol: str
    decimals: int
    unpaid: Amount
    unsettled: Amount
    settled: Amount | None
    held: Amount
    free: Amount
    account: Amount


class OfferStatus(_Part):
    """An offer on chain; `is_here` says whether this worker has the terms of that version.

    `sandbox` is what the terms here promise, empty without them.
    """

    offer_id: int
    version: int
    model: str
    is_open: bool
    is_here: bool
    sandbox: str
    active: int
    max_active: int


class StakeStatus(_Part):
    """CLAW base units."""

    active: Amount
    cooling: Amount
    cooling_until: int
    minimum: Amount


class LedgerStatus(_Part):
    """Receipts so far, how many are under a final anchor, and how long others and vouchers have waited (seconds)."""

    receipts: int
    unfinished: int
    anchored: int
    unanchored_s: int
    settlement_lag_s: int


class Status(_Part):
    """All of it. `worker` is None when none runs, `chain_time` 0 when the chain could not be read."""

    provider: int
    time: int
    worker: WorkerStatus | None
    ledger: LedgerStatus | None
    chain_time: int
    chain_fault: str
    is_registered: bool
    operator_wei: Amount
    stake: StakeStatus | None
    money: list[MoneyStatus]
    offers: list[OfferStatus]
    alerts: list[Alert]


def ledger_status(figures: LedgerFigures, now: int) -> LedgerStatus:
    """The ledger's part at the market's time `now`."""
    waiting = [account.since for account in figures.accounts if account.unsettled and account.since]
    return LedgerStatus(
        receipts=figures.receipts,
        unfinished=figures.unfinished,
        anchored=figures.anchored,
        unanchored_s=max(0, now - figures.unanchored_since) if figures.unanchored_since else 0,
        settlement_lag_s=max(0, now - min(waiting)) if waiting else 0,
    )


def offer_status(chain: ChainFigures, offers: list[Offer]) -> list[OfferStatus]:
    """The offers on chain beside those this worker has."""
    here = {(offer.offer_id, offer.version): offer for offer in offers}
    names = {offer.offer_id: offer.model_name for offer in offers}
    return [
        OfferStatus(
            offer_id=found.offer_id,
            version=found.version,
            model=names.get(found.offer_id, ""),
            is_open=found.is_open,
            is_here=(known := here.get((found.offer_id, found.version))) is not None
            and known.digest == found.terms_digest,
            sandbox=known.sandbox if known else "",
            active=found.active,
            max_active=found.max_active,
        )
        for found in chain.offers
    ]


def stake_status(chain: ChainFigures) -> StakeStatus:
    """The owner's stake."""
    stake = chain.stake
    return StakeStatus(
        active=stake.active, cooling=stake.cooling, cooling_until=stake.cooling_until, minimum=stake.minimum
    )


def money_status(
    chain: ChainFigures, ledger: LedgerFigures | None, offers: list[Offer], token_of: dict[bytes, str]
) -> list[MoneyStatus]:
    """By token, what the ledger and the chain have; `token_of` says it of leases where offers have several."""
    only = only_token(offers)
    accounts = ledger.accounts if ledger else ()
    found = []
    for earned in chain.tokens:
        mine = [account for account in accounts if (only or token_of.get(account.lease_id)) == earned.address]
        settled = (ledger.settled if earned.address == only else 0) if ledger and only else None
        token: Token = earned.token
        found.append(
            MoneyStatus(
                symbol=token.symbol,
                decimals=token.decimals,
                unpaid=sum(account.unpaid for account in mine),
                unsettled=sum(account.unsettled for account in mine),
                settled=settled,
                held=earned.held,
                free=earned.free,
                account=earned.account,
            )
        )
    return found


def only_token(offers: list[Offer]) -> str | None:
    """The token of all offers ever published, if it is one."""
    tokens = {offer.terms.token for offer in offers}
    return tokens.pop() if len(tokens) == 1 else None
