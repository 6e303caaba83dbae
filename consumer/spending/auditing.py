"""Every receipt of mine against the roots that providers anchored on chain."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from consumer.audit import Inclusion, prove_receipt
from consumer.exceptions import NotProved, ProviderFailed, ReceiptRejected
from consumer.records import LeaseRecord, RequestState
from consumer.store import Store
from protocol.chain.client import ChainClient
from protocol.chain.views import KeyRecord
from protocol.exceptions import InvalidSignature
from protocol.headers import Signed
from protocol.typed_data import Domain, Receipt

DUE_S = 2 * 3_600
"""A provider anchors each hour; a receipt this old has to be under a final anchor."""


class Verdict(StrEnum):
    """What the audit found."""

    PROVED = "proved"
    NOT_DUE = "not due yet"
    UNFINISHED = "no end yet"
    UNREACHABLE = "unreachable"
    MISSING = "missing"
    CONTRADICTED = "contradicted"
    DISPUTED = "disputed"


WRONG = frozenset({Verdict.UNREACHABLE, Verdict.MISSING, Verdict.CONTRADICTED, Verdict.DISPUTED})


@dataclass(frozen=True)
class Audited:
    """A request that may have cost something, with its final receipt if it has one."""

    lease: LeaseRecord
    seq: int
    state: RequestState
    receipt: Signed[Receipt] | None


@dataclass(frozen=True)
class Finding:
    """The verdict on one request, and why."""

    audited: Audited
    verdict: Verdict
    reason: str = ""


def requests_of(store: Store) -> Iterator[Audited]:
    """All requests, oldest first, but for those that providers did not take. Raises StoreError."""
    leases = {record.lease_id: record for is_open in (True, False) for record in store.leases(is_open=is_open)}
    for spent in list(store.spending()):
        state = store.state(spent.lease_id, spent.seq)
        if state is not RequestState.REFUSED:
            receipt = store.final_receipt(spent.lease_id, spent.seq)
            yield Audited(leases[spent.lease_id], spent.seq, state, receipt)


class Auditor:
    """Asks providers for proofs, and the chain what they are worth. `now` is the market's clock."""

    def __init__(self, client: ChainClient, domain: Domain, now: Callable[[], int]) -> None:
        self._client = client
        self._domain = domain
        self._now = now
        self._keys: dict[str, KeyRecord] = {}

    def audit(self, requests: Iterable[Audited]) -> Iterator[Finding]:
        """One finding for each. Raises ChainError."""
        for audited in requests:
            if audited.state is RequestState.DISPUTED:
                yield Finding(audited, Verdict.DISPUTED, "its receipts were not what was delivered")
            elif audited.receipt is None:
                yield Finding(audited, Verdict.UNFINISHED, "it has no final receipt")
            else:
                yield self._prove(audited, audited.receipt)

    def _prove(self, audited: Audited, signed: Signed[Receipt]) -> Finding:
        if not self._is_by_the_provider(audited.lease, signed):
            return Finding(
                audited, Verdict.CONTRADICTED, "no node key of the provider signed the receipt as it is here"
            )
        is_due = self._now() >= signed.message.ended_at + DUE_S
        try:
            found = self._proof(audited.lease, signed)
        except ReceiptRejected as error:
            return Finding(audited, Verdict.CONTRADICTED, str(error))
        except NotProved as error:
            return Finding(audited, Verdict.MISSING if is_due else Verdict.NOT_DUE, str(error))
        except ProviderFailed as error:
            return Finding(audited, Verdict.UNREACHABLE if is_due else Verdict.NOT_DUE, str(error))
        return Finding(audited, Verdict.PROVED, f"place {found.position} of {found.count}")

    def _proof(self, lease: LeaseRecord, signed: Signed[Receipt]) -> Inclusion:
        return prove_receipt(self._client, self._domain, lease.endpoint, lease.provider, signed, tls_pin=lease.tls_pin)

    def _is_by_the_provider(self, lease: LeaseRecord, signed: Signed[Receipt]) -> bool:
        try:
            key = signed.recover(self._domain)
        except InvalidSignature:
            return False
        if key not in self._keys:
            self._keys[key] = self._client.get(self._client.reads.key_record(key))
        known = self._keys[key]
        return known.provider == lease.provider and known.valid_from <= signed.message.ended_at <= known.valid_until
