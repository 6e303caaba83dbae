"""The market in SQL: Postgres, the indexer and its API, which see the same sums as the chain."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from rich.table import Table

from protocol.money import USDC, Money
from scripts.demo.books import Books
from scripts.demo.failed import DemoFailed
from scripts.demo.screen import table
from scripts.demo.world import CONSUMER, World, dev_signer, wait_for

NAME, API = "indexer", "indexer api"
SETTINGS = """rpc = ["{rpc}"]
deployment = "{deployment}"
database = "{database}"
providers = {providers}
poll_s = 0.1
[api]
port = 0
"""


@dataclass(frozen=True)
class Sums:
    """What the tables say at a block, in base units of USDC, by the names that the books have for it."""

    block: int
    figures: dict[str, int]

    def table(self) -> Table:
        """The sums as a table."""
        shown = table(f"The same from Postgres, indexed up to block {self.block}", "", "USDC", "base units")
        for name, units in self.figures.items():
            shown.add_row(name, Money(units, USDC).format(), str(units))
        return shown

    def check(self, books: Books) -> None:
        """Raises DemoFailed where the chain says something else."""
        on_chain = {"all fees": books.fees, "consumer's debit": books.debit}
        for share in books.shares:
            on_chain |= {
                f"settled by provider {share.provider}": share.settled,
                f"credit of provider {share.provider}": share.credit,
            }
        for name, units in on_chain.items():
            if self.figures.get(name) != units:
                raise DemoFailed(f"{name} is {units} on chain and {self.figures.get(name)} in the indexer")


@dataclass(frozen=True)
class Indexer:
    """Both processes run."""

    world: World
    url: str

    @classmethod
    def started(cls, world: World, database: str, providers: list[str]) -> "Indexer":
        """`database` is an empty one's address, `providers` are those of workers that answer."""
        config = world.folder / "indexer.toml"
        places = {"rpc": world.rpc, "deployment": world.deployment, "database": database}
        config.write_text(SETTINGS.format(**places, providers=json.dumps(providers)), encoding="utf-8")
        _start(world, NAME, "run", config, r"block (\d+) of")
        url = _start(world, API, "serve", config, r"listening on (http://\S+)")
        found = cls(world, url)
        world.screen.note(NAME, f"indexer {world.processes.pid(NAME)} fills Postgres; its API answers on {url}/v1")
        return found

    def wait_for_documents(self, count: int) -> None:
        """Until it has the metadata of so many providers, and their terms, which may be the same."""
        wait_for("the indexing of metadata", lambda: len(self._rows("provider_documents")) >= count)
        wait_for("the indexing of terms", lambda: len(self._rows("offer_documents")) > 0)
        self.world.screen.note(NAME, f"has the metadata and the terms of {count} providers, as the registry names them")

    def sums(self, books: Books) -> Sums:
        """Once everything up to the chain's head is in the tables."""
        consumer, token = dev_signer(CONSUMER).address, self.world.token
        head = self.world.client.head().number
        wait_for(f"indexing block {head}", lambda: self._block() >= head)
        figures: dict[str, int] = {}
        for share in books.shares:
            leases = self._rows("leases", provider=share.provider)
            figures[f"settled by provider {share.provider}"] = _sum(leases, "settled")
            earned = self._rows("earnings", provider=share.provider)
            figures[f"credit of provider {share.provider}"] = _sum(earned, "collected")
        fees = self._rows("fees", token=token)
        figures["all fees"] = _sum(fees, "to_stakers") + _sum(fees, "to_treasury")
        deposited = _sum(self._rows("deposits", receiver=consumer, token=token), "amount")
        withdrawn = _sum(self._rows("withdrawals", owner=consumer, token=token), "amount")
        figures["consumer's debit"] = deposited - withdrawn
        return Sums(head, figures)

    def _block(self) -> int:
        return int(httpx.get(f"{self.url}/v1/status", timeout=10).raise_for_status().json()["block"]["number"])

    def _rows(self, resource: str, **filters: str | int) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        after: dict[str, str] = {}
        while True:
            found = httpx.get(f"{self.url}/v1/{resource}", params={**filters, **after}, timeout=10)
            page = found.raise_for_status().json()
            rows += page["data"]
            if page["next"] is None:
                return rows
            after = {"after": page["next"]}


def _start(world: World, name: str, command: str, config: Path, ready: str) -> str:
    return world.processes.start_clawmarket(name, "indexer", command, "--config", config, ready=ready)


def _sum(rows: list[dict[str, Any]], column: str) -> int:
    return sum(int(row[column]) for row in rows)
