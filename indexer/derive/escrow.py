"""Accounts, leases, settlements, earnings, fees, and what rulings do with them."""

from indexer.decode.decoder import Event
from indexer.derive.handlers import on
from indexer.store.rows import Rows
from indexer.store.shapes import Key, Model, Row
from indexer.store.tables.daily import DAY_S, DailyUsage
from indexer.store.tables.escrow import (
    Account,
    Collection,
    Deposit,
    Earning,
    Fee,
    FeeCollection,
    Hold,
    Lease,
    LeaseClose,
    LeaseNonce,
    LeaseRelease,
    LeaseTopUp,
    PaymentToken,
    Pot,
    Refund,
    Settlement,
    VoucherSkip,
    Withdrawal,
)
from indexer.store.tables.params import Role
from indexer.store.tables.registry import Offer, Provider


def _account(rows: Rows, owner: bytes, token: bytes) -> Row:
    return rows.ensure(Account, owner, token, balance=0)


def _earning(rows: Rows, provider: int, token: bytes) -> Row:
    return rows.ensure(Earning, provider, token, uncollected=0, frozen=0, collected=0, refunded=0)


def _fee(rows: Rows, token: bytes) -> Row:
    return rows.ensure(Fee, token, pending=0, to_stakers=0, to_treasury=0)


def _daily(rows: Rows, time: int, lease: Row) -> Row:
    return rows.ensure(
        DailyUsage,
        *_daily_key(time, lease),
        token=lease["token"],
        **dict.fromkeys(("volume", "fees", "disowned_fees", "refunded"), 0),
        **dict.fromkeys(("settlements", "leases_opened", "leases_released"), 0),
    )


def _daily_key(time: int, lease: Row) -> Key:
    return time // DAY_S, lease["provider"], lease["offer_id"], lease["version"]


def _sums_of_lease(event: Event, rows: Rows) -> list[tuple[Model, Key]]:
    """The day's sums and the provider's earnings of a lease that was opened in an earlier batch."""
    lease = rows.find(Lease, event.args["lease_id"])
    if lease is None:
        return []
    return [(DailyUsage, _daily_key(event.log.block_time, lease)), (Earning, (lease["provider"], lease["token"]))]


@on("LeaseEscrow", "TokenAdmitted", lambda e: [(PaymentToken, (e.args["token"],))])
def token_admitted(event: Event, rows: Rows) -> None:
    rows.ensure(PaymentToken, event.args["token"], is_listed=True)["token_id"] = event.args["token_id"]


@on("LeaseEscrow", "Deposited", lambda e: [(Account, (e.args["receiver"], e.args["token"]))])
def deposited(event: Event, rows: Rows) -> None:
    args = event.args
    _account(rows, args["receiver"], args["token"])["balance"] += args["amount"]
    rows.add(Deposit, event.log, **args)


@on("LeaseEscrow", "Withdrawn", lambda e: [(Account, (e.args["owner"], e.args["token"]))])
def withdrawn(event: Event, rows: Rows) -> None:
    args = event.args
    _account(rows, args["owner"], args["token"])["balance"] -= args["amount"]
    rows.add(
        Withdrawal,
        event.log,
        owner=args["owner"],
        token=args["token"],
        receiver=args["to"],
        amount=args["amount"],
    )


@on(
    "LeaseEscrow",
    "LeaseOpened",
    lambda e: [
        (Lease, (e.args["lease_id"],)),
        (LeaseNonce, (e.args["owner"],)),
        (Account, (e.args["owner"], e.args["token"])),
        (Offer, (e.args["provider"], e.args["offer_id"])),
        (DailyUsage, _daily_key(e.log.block_time, e.args)),
        (Earning, (e.args["provider"], e.args["token"])),
    ],
)
def lease_opened(event: Event, rows: Rows) -> None:
    args = event.args
    _account(rows, args["owner"], args["token"])["balance"] -= args["amount"]
    rows.ensure(LeaseNonce, args["owner"])["nonce"] = args["nonce"] + 1
    rows.change(Offer, args["provider"], args["offer_id"])["active_leases"] += 1
    copied = ("owner", "provider", "offer_id", "version", "token", "signer", "terms_digest", "nonce")
    rows.ensure(
        Lease,
        args["lease_id"],
        **{name: args[name] for name in (*copied, "fee_bps", "expiry", "close_delay")},
        **dict.fromkeys(("settled", "fees", "refunded", "frozen"), 0),
        **dict.fromkeys(("is_closing", "is_revoked", "is_released"), False),
        deposit=args["amount"],
        opened_at=event.log.block_time,
        closes_at=args["expiry"] + args["close_delay"],
    )
    _daily(rows, event.log.block_time, args)["leases_opened"] += 1


@on("LeaseEscrow", "NonceBumped", lambda e: [(LeaseNonce, (e.args["owner"],))])
def nonce_bumped(event: Event, rows: Rows) -> None:
    rows.ensure(LeaseNonce, event.args["owner"])["nonce"] = event.args["nonce"]


@on("LeaseEscrow", "LeaseToppedUp", lambda e: [(Lease, (e.args["lease_id"],))])
def lease_topped_up(event: Event, rows: Rows) -> None:
    args = event.args
    lease = rows.change(Lease, args["lease_id"])
    lease["deposit"] += args["amount"]
    _account(rows, args["caller"], lease["token"])["balance"] -= args["amount"]
    rows.add(LeaseTopUp, event.log, **args)


@on("LeaseEscrow", "LeaseClosed", lambda e: [(Lease, (e.args["lease_id"],))], _sums_of_lease)
def lease_closed(event: Event, rows: Rows) -> None:
    args = event.args
    lease = rows.change(Lease, args["lease_id"])
    by_provider = args["caller"] != lease["owner"]
    is_broken_off = by_provider and not lease["is_closing"] and event.log.block_time < lease["expiry"]
    if is_broken_off or (args["revoked"] and not lease["is_revoked"]):
        _daily(rows, lease["opened_at"], lease)["disowned_fees"] += lease["fees"]
    lease["closes_at"] = args["closes_at"]
    lease["is_closing"] = True
    lease["is_revoked"] = lease["is_revoked"] or args["revoked"]
    rows.add(
        LeaseClose,
        event.log,
        lease_id=args["lease_id"],
        caller=args["caller"],
        closes_at=args["closes_at"],
        is_revocation=args["revoked"],
    )


@on("LeaseEscrow", "LeaseReleased", lambda e: [(Lease, (e.args["lease_id"],))], _sums_of_lease)
def lease_released(event: Event, rows: Rows) -> None:
    args = event.args
    lease = rows.change(Lease, args["lease_id"])
    lease["deposit"] -= args["amount"]
    lease["is_released"] = True
    _daily(rows, event.log.block_time, lease)["leases_released"] += 1
    rows.change(Offer, lease["provider"], lease["offer_id"])["active_leases"] -= 1
    _account(rows, args["owner"], lease["token"])["balance"] += args["amount"]
    rows.add(LeaseRelease, event.log, **args)


@on("LeaseEscrow", "LeasesEnded", lambda e: [(Provider, (e.args["provider"],))])
def leases_ended(event: Event, rows: Rows) -> None:
    rows.change(Provider, event.args["provider"])["leases_end"] = event.args["ends_at"]


@on("LeaseEscrow", "VoucherSettled", lambda e: [(Lease, (e.args["lease_id"],))], _sums_of_lease)
def voucher_settled(event: Event, rows: Rows) -> None:
    args = event.args
    lease = rows.change(Lease, args["lease_id"])
    lease["settled"] += args["paid"]
    lease["fees"] += args["fee"]
    _fee(rows, lease["token"])["pending"] += args["fee"]
    _earning(rows, lease["provider"], lease["token"])["uncollected"] += args["paid"] - args["fee"]
    daily = _daily(rows, event.log.block_time, lease)
    daily["settlements"] += 1
    daily["volume"] += args["paid"]
    daily["fees"] += args["fee"]
    if lease["is_revoked"]:
        _daily(rows, lease["opened_at"], lease)["disowned_fees"] += args["fee"]
    rows.add(Settlement, event.log, **args)


@on("LeaseEscrow", "VoucherSkipped")
def voucher_skipped(event: Event, rows: Rows) -> None:
    rows.add(VoucherSkip, event.log, **event.args)


@on("LeaseEscrow", "HoldStarted")
def hold_started(event: Event, rows: Rows) -> None:
    rows.add(Hold, event.log, **event.args)


@on(
    "LeaseEscrow",
    "EarningsCollected",
    lambda e: [(Earning, (e.args["provider"], e.args["token"])), (Account, (e.args["owner"], e.args["token"]))],
)
def earnings_collected(event: Event, rows: Rows) -> None:
    args = event.args
    earning = _earning(rows, args["provider"], args["token"])
    earning["uncollected"] -= args["amount"]
    earning["collected"] += args["amount"]
    _account(rows, args["owner"], args["token"])["balance"] += args["amount"]
    rows.add(Collection, event.log, **args)


@on("LeaseEscrow", "FeesCollected", lambda e: [(Fee, (e.args["token"],)), (Role, ("Params", "treasury"))])
def fees_collected(event: Event, rows: Rows) -> None:
    args = event.args
    fee = _fee(rows, args["token"])
    fee["pending"] -= args["to_stakers"] + args["to_treasury"]
    fee["to_stakers"] += args["to_stakers"]
    fee["to_treasury"] += args["to_treasury"]
    treasury = rows.get(Role, "Params", "treasury")["holder"]
    _account(rows, rows.addresses["Staking"], args["token"])["balance"] += args["to_stakers"]
    _account(rows, treasury, args["token"])["balance"] += args["to_treasury"]
    rows.add(FeeCollection, event.log, **args)


@on("LeaseEscrow", "EarningsFrozen", lambda e: [(Lease, (e.args["lease_id"],)), (Pot, (e.args["dispute_id"],))])
def earnings_frozen(event: Event, rows: Rows) -> None:
    args = event.args
    lease = rows.change(Lease, args["lease_id"])
    lease["frozen"] += args["amount"]
    earning = _earning(rows, args["provider"], lease["token"])
    earning["uncollected"] -= args["amount"]
    earning["frozen"] += args["amount"]
    rows.ensure(
        Pot,
        args["dispute_id"],
        lease_id=args["lease_id"],
        provider=args["provider"],
        token=lease["token"],
        amount=args["amount"],
        is_paid=False,
        to_consumer=0,
        to_provider=0,
        shortfall=0,
    )


@on("LeaseEscrow", "PotPaid", lambda e: [(Pot, (e.args["dispute_id"],))])
def pot_paid(event: Event, rows: Rows) -> None:
    args = event.args
    pot = rows.change(Pot, args["dispute_id"])
    pot["is_paid"] = True
    pot.update({name: args[name] for name in ("to_consumer", "to_provider", "shortfall")})
    lease = rows.change(Lease, pot["lease_id"])
    lease["frozen"] -= pot["amount"]
    lease["refunded"] += args["to_consumer"]
    _daily(rows, event.log.block_time, lease)["refunded"] += args["to_consumer"]
    earning = _earning(rows, pot["provider"], pot["token"])
    earning["frozen"] -= pot["amount"]
    earning["uncollected"] += args["to_provider"]
    earning["refunded"] += args["to_consumer"]
    _account(rows, args["owner"], pot["token"])["balance"] += args["to_consumer"]


@on("LeaseEscrow", "Refunded", lambda e: [(Lease, (e.args["lease_id"],))], _sums_of_lease)
def refunded(event: Event, rows: Rows) -> None:
    args = event.args
    lease = rows.change(Lease, args["lease_id"])
    lease["refunded"] += args["amount"]
    _daily(rows, event.log.block_time, lease)["refunded"] += args["amount"]
    earning = _earning(rows, lease["provider"], lease["token"])
    earning["uncollected"] -= args["amount"]
    earning["refunded"] += args["amount"]
    _account(rows, args["owner"], lease["token"])["balance"] += args["amount"]
    rows.add(Refund, event.log, **args)
