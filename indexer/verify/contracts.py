"""Compares the tables with what the contracts say at the indexed block."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

from indexer.store.database import Database
from indexer.store.shapes import Model, Row, shape_of
from indexer.store.tables.escrow import Account, Earning, Fee, Lease, LeaseNonce
from indexer.store.tables.registry import NodeKey, Provider
from indexer.store.tables.staking import Stake, Vote
from indexer.store.tables.tokens import TokenBalance, TokenSupply
from protocol.chain.abi import ContractCall
from protocol.chain.client import ChainClient
from protocol.chain.views import Earnings, KeyRecord
from protocol.chain.views import Lease as LeaseView

_BATCH = 100


class Check(NamedTuple):
    """A read of a contract, and what the tables say its result is."""

    what: str
    call: ContractCall[Any]
    expected: Any


def contract_differences(database: Database, client: ChainClient, block: int) -> Iterator[str]:
    """What the tables say otherwise than the contracts did at this block, which must be the position's."""
    with database.transaction():
        checks = _checks(database, client)
        while batch := list(islice(checks, _BATCH)):
            told = client.read_each([check.call for check in batch], block)
            for check, answer in zip(batch, told, strict=True):
                if answer != check.expected:
                    yield f"{check.what}: {check.expected} here, {answer} on the chain at block {block}"


def _checks(database: Database, client: ChainClient) -> Iterator[Check]:
    names = {record.address.lower(): name for name, record in client.deployment.contracts.items()}
    reads = client.reads
    for row in _rows(database, Account):
        owner, token = _hex(row["owner"]), _hex(row["token"])
        yield Check(f"account of {owner} in {token}", reads.account(owner, token), row["balance"])
    for row in _rows(database, LeaseNonce):
        yield Check(f"nonce of {_hex(row['owner'])}", reads.nonce(_hex(row["owner"])), row["nonce"])
    ends = {row["provider"]: row["leases_end"] for row in _rows(database, Provider)}
    for row in _rows(database, Lease):
        yield _lease(client, row, ends.get(row["provider"]))
        returned = (row["refunded"], row["frozen"])
        yield Check(
            f"returned of lease {_hex(row['lease_id'])}",
            reads.view("LeaseEscrow", "returned", row["lease_id"]),
            returned,
        )
    for row in _rows(database, Earning):
        token = _hex(row["token"])
        yield Check(
            f"earnings of provider {row['provider']} in {token}",
            reads.earnings(row["provider"], token).then(_uncollected),
            row["uncollected"],
        )
    for row in _rows(database, Fee):
        yield Check(
            f"fees in {_hex(row['token'])}", reads.view("LeaseEscrow", "fees", _hex(row["token"])), row["pending"]
        )
    for row in _rows(database, Provider):
        yield Check(f"owner of provider {row['provider']}", _lower(reads.owner_of(row["provider"])), _hex(row["owner"]))
    for row in _rows(database, NodeKey):
        record = KeyRecord(row["provider"], row["valid_from"], row["valid_until"])
        yield Check(f"node key {_hex(row['node_key'])}", reads.key_record(_hex(row["node_key"])), record)
    yield from _stakes(database, client)
    for row in _rows(database, TokenBalance):
        token, owner = _hex(row["token"]), _hex(row["owner"])
        yield Check(f"{names[token]} of {owner}", reads.view(names[token], "balanceOf", owner), row["balance"])
    for row in _rows(database, TokenSupply):
        token = _hex(row["token"])
        yield Check(f"supply of {names[token]}", reads.view(names[token], "totalSupply"), row["supply"])


def _stakes(database: Database, client: ChainClient) -> Iterator[Check]:
    for row in _rows(database, Stake):
        account = _hex(row["account"])
        yield Check(f"stake of {account}", client.reads.view("Staking", "active_stake", account), row["active"])
        cooling = (row["cooling"], row["cooling_until"])
        yield Check(f"cooldown of {account}", client.reads.view("Staking", "cooling", account), cooling)
        delegate = account if row["delegate"] is None else _hex(row["delegate"])
        yield Check(f"delegate of {account}", _lower(client.reads.view("Staking", "delegates", account)), delegate)
    for row in _rows(database, Vote):
        account = _hex(row["delegate"])
        yield Check(f"votes of {account}", client.reads.view("Staking", "getVotes", account), row["votes"])


def _lease(client: ChainClient, row: Row, ends_at: int | None) -> Check:
    closes_at = row["closes_at"] if ends_at is None else min(row["closes_at"], ends_at)
    copied = ("provider", "offer_id", "version", "deposit", "settled", "expiry", "close_delay", "fee_bps")
    expected = (
        *(_hex(row[name]) for name in ("owner", "token", "signer")),
        *(row[name] for name in copied),
        closes_at,
        *(row[name] for name in ("is_closing", "is_revoked", "is_released")),
    )

    def told(lease: LeaseView) -> tuple[Any, ...]:
        return (
            *(address.lower() for address in (lease.owner, lease.token, lease.signer)),
            *(getattr(lease, name) for name in copied),
            lease.closes_at,
            *(lease.is_closing, lease.is_revoked, lease.is_released),
        )

    return Check(f"lease {_hex(row['lease_id'])}", client.reads.lease(row["lease_id"]).then(told), expected)


def _rows(database: Database, model: Model) -> Iterable[Row]:
    shape = shape_of(model)
    return (dict(zip(shape.columns, row, strict=True)) for row in database.scan(shape))


def _uncollected(earnings: Earnings) -> int:
    return earnings.held + earnings.free


def _lower(call: ContractCall[str]) -> ContractCall[str]:
    lower: Callable[[str], str] = str.lower
    return call.then(lower)


def _hex(value: bytes) -> str:
    return "0x" + value.hex()
