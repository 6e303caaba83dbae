"""The keeper's dealings with the chain: each blocks, one at a time, and finishes what an earlier run has begun."""

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from consumer.endpoints import Endpoint
from consumer.exceptions import AccountTooLow, OfferMismatch
from consumer.lease import Leases, LeaseWish
from consumer.offers import Offer
from consumer.records import LeaseRecord
from protocol.chain.client import ChainClient
from protocol.chain.sender import TransactionSender
from protocol.chain.views import Lease

CLOSE_DELAY_S = 3_600
"""How long a provider may settle after a close, where its offer allows."""
EXPIRY_MARGIN_S = 600
"""A lease with less time left takes no new requests."""


@dataclass(frozen=True)
class Wish:
    """How much a deposit takes, at the least and if possible, in token base units; how long a new lease runs.

    `limit` is the most that a new lease may take, whatever its provider asks for.
    """

    least: int
    most: int
    duration_s: int = 0
    limit: int = 0


def serves(record: LeaseRecord, offer: Offer, endpoint: Endpoint) -> bool:
    """Whether a lease is of this version of this offer, at this address."""
    terms = (record.provider, record.offer_id, record.version)
    place = (record.endpoint, record.tls_pin)
    return (*terms, *place) == (offer.provider, offer.offer_id, offer.version, endpoint.url, endpoint.tls_pin)


class LeaseDesk:
    """Opens, tops up, closes and releases the owner's leases. Everything raises ChainError, KeystoreError."""

    def __init__(
        self,
        client: ChainClient,
        leases: Leases,
        owner: Callable[[], str],
        sender: Callable[[], AbstractContextManager[TransactionSender]],
    ) -> None:
        """`owner` is the address of the account that `sender` sends for."""
        self._client = client
        self._leases = leases
        self._owner = owner
        self._sender = sender
        self._lock = threading.Lock()

    def open(self, offer: Offer, endpoint: Endpoint, wish: Wish, now: int) -> LeaseRecord:
        """A new lease, open on chain; one whose opening was interrupted is finished instead.

        None is opened that would be too old for use by the clock that says `now`.

        Raises OfferMismatch, AccountTooLow, StoreError.
        """
        with self._lock, self._sender() as sender:
            for record in self._leases.finish_openings(sender):
                if serves(record, offer, endpoint):
                    return record
            state = self._client.offer(offer.provider, offer.offer_id)
            if state.version != offer.version or not state.is_open or not state.is_registered:
                raise OfferMismatch(f"provider {offer.provider} has changed or closed its offer {offer.offer_id}")
            if state.max_duration <= 2 * EXPIRY_MARGIN_S:
                raise OfferMismatch(f"leases of offer {offer.offer_id} end after {state.max_duration} s: too short")
            if state.min_deposit > wish.limit:
                raise OfferMismatch(
                    f"leases of offer {offer.offer_id} take a deposit of {state.min_deposit} base units, of max_locked "
                    f"only {wish.limit} are not locked in leases"
                )
            duration_s = min(wish.duration_s, state.max_duration)
            ahead_s = now - self._client.head().timestamp
            if ahead_s >= duration_s - EXPIRY_MARGIN_S:
                raise OfferMismatch(f"this machine's clock is {ahead_s} s ahead of the chain's: set it right")
            amount = self._affordable(offer.terms.token, Wish(max(wish.least, state.min_deposit), wish.most))
            request, record = self._leases.prepare(
                self._owner(),
                offer,
                endpoint,
                LeaseWish(
                    amount,
                    duration_s=duration_s,
                    close_delay_s=min(max(CLOSE_DELAY_S, state.close_delay_min), state.close_delay_max),
                ),
            )
            self._leases.open(sender, request)
            return record

    def top_up(self, record: LeaseRecord, known: int, wish: Wish) -> int:
        """A lease's new deposit. Where the chain has more than the `known` one already, nothing is added.

        A node that says less than is known adds nothing twice. Raises AccountTooLow.
        """
        with self._lock, self._sender() as sender:
            deposit = self._client.lease(record.lease_id).deposit
            if deposit > known:
                return deposit
            deposit = self._leases.top_up(sender, record.lease_id, known, self._affordable(record.token, wish))
            return max(deposit, known)

    def close(self, lease_id: bytes) -> None:
        """Asks for the end of a lease."""
        with self._lock, self._sender() as sender:
            self._leases.close(sender, lease_id)

    def release(self, lease_id: bytes) -> None:
        """Returns what a closed lease did not use to the account."""
        with self._lock, self._sender() as sender:
            self._leases.release(sender, lease_id)

    def finish_openings(self) -> None:
        """Brings openings that were interrupted to their end."""
        with self._lock, self._sender() as sender:
            self._leases.finish_openings(sender)

    def look(self, lease_ids: Sequence[bytes]) -> tuple[int, dict[bytes, Lease]]:
        """The chain's time, and those of these leases that the node knows."""
        calls = [self._client.reads.lease(lease_id) for lease_id in lease_ids]
        found = self._client.read_each(calls) if calls else []
        leases = {lease_id: state for lease_id, state in zip(lease_ids, found, strict=True) if isinstance(state, Lease)}
        return self._client.head().timestamp, leases

    def _affordable(self, token: str, wish: Wish) -> int:
        free = self._client.account(self._owner(), token)
        if free < wish.least:
            raise AccountTooLow(
                f"the account holds {free} base units of {token}, {wish.least} are needed: deposit "
                f"{wish.least - free} more, or ask for fewer tokens"
            )
        return max(wish.least, min(wish.most, free))
