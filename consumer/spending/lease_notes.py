"""What has become of leases since they were opened, as the chain said last: known also while the chain is away."""

from dataclasses import dataclass
from enum import StrEnum

from consumer.records import LeaseRecord
from consumer.spending.file import GatewayFile


class Stage(StrEnum):
    """How far a lease's life is."""

    OPEN = "open"
    CLOSING = "closing"
    RELEASED = "released"


@dataclass(frozen=True)
class LeaseNote:
    """A lease's deposit with its top-ups, in token base units, and its stage."""

    deposit: int
    stage: Stage = Stage.OPEN


class LeaseNotes:
    """The notes in the gateway's file."""

    def __init__(self, file: GatewayFile) -> None:
        self._file = file

    def find(self, record: LeaseRecord) -> LeaseNote:
        """The note of a lease; that of a new one if there is none. Raises StoreError."""
        rows = self._file.rows("SELECT deposit, stage FROM lease_notes WHERE lease_id = ?", record.lease_id)
        return LeaseNote(int(rows[0][0]), Stage(rows[0][1])) if rows else LeaseNote(record.deposit)

    def keep(self, lease_id: bytes, note: LeaseNote) -> None:
        """Replaces a lease's note. Raises StoreError."""
        self._file.write("INSERT OR REPLACE INTO lease_notes VALUES (?, ?, ?)", lease_id, str(note.deposit), note.stage)
