"""Parameters, the token list, and who may do what."""

from indexer.decode.decoder import Event
from indexer.derive.handlers import on
from indexer.store.rows import Rows
from indexer.store.tables.escrow import PaymentToken
from indexer.store.tables.params import Parameter, ParameterChange, Role


@on("Params", "ParameterChanged", lambda e: [(Parameter, (e.args["key"],))])
def parameter_changed(event: Event, rows: Rows) -> None:
    newest = {"value": event.args["new_value"], "changed_at": event.log.block_time}
    rows.ensure(Parameter, event.args["key"]).update(newest)
    rows.add(ParameterChange, event.log, **event.args)


@on("Params", "TokenListingChanged", lambda e: [(PaymentToken, (e.args["token"],))])
def token_listing_changed(event: Event, rows: Rows) -> None:
    rows.ensure(PaymentToken, event.args["token"], token_id=None)["is_listed"] = event.args["is_listed"]


@on("Params", "TreasuryChanged", lambda _: [(Role, ("Params", "treasury"))])
def treasury_changed(event: Event, rows: Rows) -> None:
    rows.ensure(Role, "Params", "treasury")["holder"] = event.args["new_treasury"]


@on("Params", "OwnershipTransferred")
@on("ClawToken", "OwnershipTransferred")
def ownership_transferred(event: Event, rows: Rows) -> None:
    rows.ensure(Role, event.contract, "owner")["holder"] = event.args["new_owner"]
    rows.ensure(Role, event.contract, "pending_owner")["holder"] = bytes(20)


@on("Params", "OwnershipTransferStarted")
@on("ClawToken", "OwnershipTransferStarted")
def ownership_transfer_started(event: Event, rows: Rows) -> None:
    rows.ensure(Role, event.contract, "pending_owner")["holder"] = event.args["new_owner"]
