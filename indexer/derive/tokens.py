"""ERC-20 transfers of the deployment's tokens."""

from __future__ import annotations

from typing import Any

from indexer.decode.decoder import Event
from indexer.derive.handlers import on
from indexer.rpc.logs import Log
from indexer.store.rows import Rows
from indexer.store.shapes import Key, Model
from indexer.store.tables.tokens import Mint, TokenBalance, TokenSupply, TokenTransfer

NOBODY = bytes(20)


@on("ClawToken", "Transfer", lambda e: _balances(e.log, e.args["sender"], e.args["receiver"]))
def claw_transfer(event: Event, rows: Rows) -> None:
    _transfer(event.log, rows, event.args["sender"], event.args["receiver"], event.args["value"])


@on("TestUSDC", "Transfer", lambda e: _balances(e.log, e.args["from"], e.args["to"]))
def usdc_transfer(event: Event, rows: Rows) -> None:
    _transfer(event.log, rows, event.args["from"], event.args["to"], event.args["value"])


@on("ClawToken", "Minted")
def minted(event: Event, rows: Rows) -> None:
    rows.add(Mint, event.log, **event.args)


def _transfer(log: Log, rows: Rows, sender: bytes, receiver: bytes, value: int) -> None:
    token = log.address
    for owner, change in ((sender, -value), (receiver, value)):
        if owner == NOBODY:
            supply: dict[str, Any] = rows.ensure(TokenSupply, token, supply=0)
            supply["supply"] -= change
        else:
            rows.ensure(TokenBalance, token, owner, balance=0)["balance"] += change
    rows.add(TokenTransfer, log, token=token, sender=sender, receiver=receiver, amount=value)


def _balances(log: Log, *owners: bytes) -> list[tuple[Model, Key]]:
    return [(TokenBalance, (log.address, owner)) for owner in owners]
