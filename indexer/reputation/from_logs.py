"""The same evidence straight from the raw logs, by code that shares nothing with the tables'."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from indexer.decode.decoder import Event
from indexer.reputation.evidence import STAKER_SHARE_KEY, Known, Who, evidence_of
from indexer.reputation.formula import Day, StakerShares
from indexer.store.tables.daily import DAY_S


@dataclass
class _Lease:
    who: Who
    owner: bytes
    opened: int
    expiry: int
    fees: int = 0
    is_closing: bool = False
    is_revoked: bool = False


class _Reader:
    """One method for each event that counts."""

    def __init__(self) -> None:
        self.days: dict[Who, dict[int, Day]] = defaultdict(dict)
        self.anchors: dict[int, list[int]] = defaultdict(list)
        self.slashed: list[tuple[bytes, int]] = []
        self.owners: dict[int, bytes] = {}
        self.shares: list[tuple[int, int]] = []
        self._leases: dict[bytes, _Lease] = {}
        self._frozen: dict[bytes, _Lease] = {}

    def read(self, event: Event) -> None:
        """Events in chain order."""
        args, time = event.args, event.log.block_time
        today = time // DAY_S
        match event.contract, event.name:
            case "LeaseEscrow", "LeaseOpened":
                who = args["provider"], args["token"]
                self._leases[args["lease_id"]] = _Lease(who, args["owner"], today, args["expiry"])
                self._add(who, today)
            case "LeaseEscrow", "VoucherSettled":
                lease = self._leases[args["lease_id"]]
                lease.fees += args["fee"]
                self._add(lease.who, today, fees=args["fee"])
                if lease.is_revoked:
                    self._add(lease.who, lease.opened, disowned=args["fee"])
            case "LeaseEscrow", "LeaseClosed":
                lease = self._leases[args["lease_id"]]
                is_early = args["caller"] != lease.owner and not lease.is_closing and time < lease.expiry
                if is_early or (args["revoked"] and not lease.is_revoked):
                    self._add(lease.who, lease.opened, disowned=lease.fees)
                lease.is_closing = True
                lease.is_revoked |= args["revoked"]
            case "LeaseEscrow", "LeaseReleased":
                self._add(self._leases[args["lease_id"]].who, today)
            case "LeaseEscrow", "Refunded":
                self._add(self._leases[args["lease_id"]].who, today, refunded=args["amount"])
            case "LeaseEscrow", "EarningsFrozen":
                self._frozen[args["dispute_id"]] = self._leases[args["lease_id"]]
            case "LeaseEscrow", "PotPaid":
                self._add(self._frozen[args["dispute_id"]].who, today, refunded=args["to_consumer"])
            case "UsageAnchor", "Anchored":
                self.anchors[args["provider"]].append(today)
            case "Registry", "ProviderRegistered":
                self.owners[args["provider"]] = args["owner"]
            case "Staking", "Slashed":
                self.slashed.append((args["account"], today))
            case "Params", "ParameterChanged" if args["key"] == STAKER_SHARE_KEY:
                self.shares.append((today, args["new_value"]))

    def _add(self, who: Who, day: int, *, fees: int = 0, disowned: int = 0, refunded: int = 0) -> None:
        before = self.days[who].get(day, Day())
        self.days[who][day] = Day(before.fees + fees, before.disowned_fees + disowned, before.refunded + refunded)


def known_from(events: Iterable[Event | None]) -> Known:
    """From all events of the market, in chain order; None is a log that no ABI explains."""
    reader = _Reader()
    for event in events:
        if event is not None:
            reader.read(event)
    slashes = {
        provider: [day for account, day in reader.slashed if account == owner]
        for provider, owner in reader.owners.items()
    }
    return Known(evidence_of(reader.days, reader.anchors, slashes), StakerShares(reader.shares))
