"""Looking into a gateway's data folder, whether a gateway runs on it or not: its records, keys, and the chain to ask.

No password.
"""

import time
from pathlib import Path
from typing import Self

from consumer.config import ConsumerConfig
from consumer.exceptions import StoreInUse
from consumer.records import LeaseRecord
from consumer.spending.api_keys import ApiKeys
from consumer.spending.budgets import Budgets
from consumer.spending.file import GatewayFile
from consumer.spending.keeper import LeaseFigure
from consumer.spending.lease_notes import LeaseNotes, Stage
from consumer.spending.running import FILE_NAME, market_tokens
from consumer.store import Store
from protocol.chain import deployments
from protocol.chain.client import ChainClient
from protocol.money import Money
from protocol.typed_data import Domain


def open_keys(config: ConsumerConfig) -> ApiKeys:
    """The API keys, also while a gateway runs. Raises StoreError."""
    return ApiKeys(GatewayFile(config.data / FILE_NAME), now)


def now() -> int:
    """This machine's time."""
    return int(time.time())


class DataFolder:
    """Opened for reading."""

    def __init__(self, config_file: Path) -> None:
        """Raises ConfigUnusable, StoreError, ChainError."""
        self.config = ConsumerConfig.load(config_file)
        deployment = deployments.load_file(self.config.deployment)
        self.client = ChainClient(self.config.rpc, deployment)
        self.domain = Domain(deployment.chain_id, deployment.address("LeaseEscrow"))
        self._tokens = market_tokens(self.client)
        self.config.data.mkdir(parents=True, exist_ok=True)
        self._file = GatewayFile(self.config.data / FILE_NAME)
        self.notes = LeaseNotes(self._file)
        self.keys = ApiKeys(self._file, now)
        records = self.config.data / "consumer.sqlite"
        try:
            self.store = Store(records, self.domain)
        except StoreInUse:
            self.store = Store(records, self.domain, only_reads=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.store.close()
        self._file.close()
        self.client.close()

    def budgets(self) -> Budgets:
        """What is spent."""
        return Budgets(self.config.budget, self.keys, self.store, self._tokens, now)

    def leases(self) -> list[LeaseFigure]:
        """Every lease that is not released, as it was known last."""
        return [self._figure(record) for record in self.store.leases() if self._stage(record) is not Stage.RELEASED]

    def money(self, units: int, lease: LeaseRecord) -> str:
        """An amount in the lease's token."""
        token = self._tokens.get(lease.token)
        return str(Money(units, token)) if token else f"{units} base units of {lease.token}"

    def _stage(self, record: LeaseRecord) -> Stage:
        return self.notes.find(record).stage

    def _figure(self, record: LeaseRecord) -> LeaseFigure:
        note, owed = self.notes.find(record), self.store.owed(record.lease_id)
        highest = self.store.highest_voucher(record.lease_id)
        signed = highest.message.cumulative if highest else 0
        room = note.deposit - max(owed, signed) - self.store.promised(record.lease_id)
        return LeaseFigure(record, note.stage, note.deposit, owed, room)
