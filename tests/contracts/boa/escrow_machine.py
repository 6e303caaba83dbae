"""A state machine over the escrow with a ledger of its own, against which every figure of the contract is held.

The model keeps maturities as an unbounded map from day to amount, not as a ring, and sums what it signed itself: it
shares no arithmetic with the contract beyond the fee formula.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import boa
from boa import BoaError
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from protocol.hashing import keccak
from protocol.signing import Signer
from tests.contracts.boa.market import CLAW, DAY, Market, Offer, signer
from tests.contracts.boa.mutation import SETTINGS, Machine, hold

CONSUMERS, PROVIDERS = 5, 3
START = 999_999_937  # a prime, so that shares and fees are rounded
ORDERS = st.randoms(use_true_random=False)
CLOSE_DELAYS = (3_600, DAY, 6 * DAY)


@dataclass
class LeaseModel:
    owner: str
    provider: int
    token: str
    fee_bps: int
    deposit: int
    closes_at: int
    close_delay: int
    session: Signer
    settled: int = 0
    signed: int = 0
    refunded: int = 0
    frozen: int = 0
    closing: bool = False
    released: bool = False
    vouchers: list[tuple[Any, ...]] = field(default_factory=list)

    def fee(self, settled: int) -> int:
        return settled * self.fee_bps // 10_000


@dataclass
class Bucket:
    hold: int
    amount: int = 0

    def matures_at(self, day: int) -> int:
        return (day + 1 + self.hold) * DAY


SOLVENCY = "solvency"  # internal ledgers sum to what came in less what went out, covered by the balance
SIGNED = "signed"  # paid on a lease ≤ its deposit, ≤ the highest cumulative signed; settled only grows
REFUNDS = "refunds"  # refunded + frozen ≤ settled − fee; refunds capped per day
EXITS = "exits"  # what is someone's can be taken out when it is due
GUARDS = "guards"  # what is not due, or not the caller's, is refused
FIGURES = "figures"  # every balance agrees with the model's, to the last unit


class EscrowMachine(Machine):
    """Five consumers, three providers, arbitration, a stranger. Few long lives: money must be earned to be frozen."""

    run_settings = settings(SETTINGS, max_examples=8, stateful_step_count=120)

    def __init__(self) -> None:
        super().__init__()
        self._anchor = boa.env.anchor()
        self._anchor.__enter__()
        self.market = Market(self.sources)
        self.tokens = {str(t.address): t for t in (self.market.usdc, self.market.claw)}
        self.token_names = list(self.tokens)
        self.consumers = [str(boa.env.generate_address(f"consumer {i}")) for i in range(CONSUMERS)]
        self.owners: dict[int, str] = {}
        self.offers: dict[tuple[int, str], int] = {}
        self.accounts: dict[tuple[str, str], int] = {}
        self.flows = dict.fromkeys(self.token_names, 0)
        self.leases: dict[bytes, LeaseModel] = {}
        self.buckets: dict[tuple[int, str], dict[int, Bucket]] = {}
        self.fees = dict.fromkeys(self.token_names, 0)
        self.pots: dict[bytes, tuple[bytes, list[tuple[int, int]]]] = {}
        self.refunds: dict[tuple[int, str, int], int] = {}
        self.ended: dict[int, int] = {}
        self.hold = 3
        self.fee_bps = 500
        self.serial = 0
        for i in range(PROVIDERS):
            owner = str(boa.env.generate_address(f"provider {i}"))
            provider = self.market.register(owner, signer(f"node {i}"))
            self.owners[provider] = owner
            for token in self.token_names:
                offer = Offer(token=token, max_duration=90 * DAY)
                self.offers[provider, token] = self.market.create_offer(owner, provider, offer)
        for who in self.consumers:
            for token in self.tokens.values():
                self.market.give(token, who, START)
                self._deposit(who, str(token.address), START // 2)
        for i, (provider, token) in enumerate([*self.offers, *self.offers]):
            self._open(self.consumers[i % CONSUMERS], provider, token, START // 8, 60, CLOSE_DELAYS[i % 3])
        for i in range(len(self.leases)):
            self.settle(i, [100], random.Random(i))

    def teardown(self) -> None:
        try:
            self.audit()
            self._everyone_leaves()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Undo all of this life on the chain."""
        self._anchor.__exit__(None, None, None)

    # --- helpers

    @property
    def today(self) -> int:
        return self.market.now() // DAY

    def _account(self, who: str, token: str, change: int) -> None:
        self.accounts[who, token] = self.accounts.get((who, token), 0) + change

    def _deposit(self, who: str, token: str, amount: int) -> None:
        with boa.env.prank(who):
            self.market.escrow.deposit(token, amount, who)
        self._account(who, token, amount)
        self.flows[token] += amount

    def _bucket(self, provider: int, token: str) -> dict[int, Bucket]:
        return self.buckets.setdefault((provider, token), {})

    def _held(self, provider: int, token: str) -> int:
        now = self.market.now()
        return sum(b.amount for day, b in self._bucket(provider, token).items() if now < b.matures_at(day))

    def _matured(self, provider: int, token: str) -> int:
        now = self.market.now()
        return sum(b.amount for day, b in self._bucket(provider, token).items() if now >= b.matures_at(day))

    def _frozen(self, provider: int, token: str) -> int:
        leases = self.leases.values()
        return sum(le.frozen for le in leases if (le.provider, le.token) == (provider, token))

    def _closes_at(self, lease: LeaseModel) -> int:
        return min(lease.closes_at, self.ended.get(lease.provider, lease.closes_at))

    def _is_open(self, lease: LeaseModel) -> bool:
        return not lease.released and self.market.now() < self._closes_at(lease)

    def _take(self, provider: int, token: str, amount: int) -> list[tuple[int, int]]:
        """Newest day first, what has not matured; returns (day, amount) parts."""
        parts = []
        for day in sorted(self._bucket(provider, token), reverse=True):
            bucket = self._bucket(provider, token)[day]
            part = min(amount, bucket.amount)
            if part and self.market.now() < bucket.matures_at(day):
                bucket.amount -= part
                amount -= part
                parts.append((day, part))
        return parts

    def _grant(self, provider: int, token: str, amount: int) -> int:
        used = self.refunds.get((provider, token, self.today), 0)
        bond = self._held(provider, token) + self._frozen(provider, token) + used
        granted = max(0, min(amount, bond * 5_000 // 10_000 - used))
        self.refunds[provider, token, self.today] = used + granted
        return granted

    def _pick(self, index: int) -> tuple[bytes, LeaseModel]:
        lease_id = list(self.leases)[index % len(self.leases)]
        return lease_id, self.leases[lease_id]

    def _unique(self, label: str) -> bytes:
        self.serial += 1
        return keccak(f"{label} {self.serial}".encode())

    # --- rules

    @rule(seconds=st.one_of(st.integers(1, DAY), st.sampled_from([DAY, DAY, 2 * DAY, 8 * DAY])))
    def time_passes(self, seconds: int) -> None:
        boa.env.time_travel(seconds=seconds)

    @rule(who=st.integers(0, CONSUMERS - 1), token=st.integers(0, 1), amount=st.integers(1, START))
    def deposit(self, who: int, token: int, amount: int) -> None:
        name = self.token_names[token]
        wallet = self.tokens[name].balanceOf(self.consumers[who])
        if wallet:
            self._deposit(self.consumers[who], name, min(amount, wallet))

    @rule(who=st.integers(0, CONSUMERS + PROVIDERS - 1), token=st.integers(0, 1), part=st.integers(1, 4))
    def withdraw(self, who: int, token: int, part: int) -> None:
        people = [*self.consumers, *self.owners.values()]
        name = self.token_names[token]
        amount = self.accounts.get((people[who], name), 0) // part
        self._withdraw(people[who], name, amount)

    def _withdraw(self, who: str, token: str, amount: int) -> None:
        before = self.tokens[token].balanceOf(who)
        self._attempt(who, lambda: self.market.escrow.withdraw(token, amount, who), may=True)
        hold(EXITS, self.tokens[token].balanceOf(who) == before + amount)
        self._account(who, token, -amount)
        self.flows[token] -= amount

    @rule(
        who=st.integers(0, CONSUMERS - 1),
        provider=st.integers(1, PROVIDERS),
        token=st.integers(0, 1),
        share=st.integers(1, 8),
        days=st.integers(1, 30),
        delay=st.sampled_from(CLOSE_DELAYS),
    )
    def open_lease(self, who: int, provider: int, token: int, share: int, days: int, delay: int) -> None:
        owner, name = self.consumers[who], self.token_names[token]
        amount = self.accounts.get((owner, name), 0) // share
        if amount == 0 or provider in self.ended:
            return
        self._open(owner, provider, name, amount, days, delay)

    def _open(self, owner: str, provider: int, name: str, amount: int, days: int, delay: int) -> None:
        session = signer(f"session {len(self.leases)}")
        request = self.market.request(
            owner,
            provider,
            session,
            amount,
            token=name,
            offer_id=self.offers[provider, name],
            expiry=self.market.now() + days * DAY,
            close_delay=delay,
        )
        lease_id = self.market.open(request)
        assert lease_id not in self.leases
        self._account(owner, name, -amount)
        self.leases[lease_id] = LeaseModel(
            owner, provider, name, self.fee_bps, amount, request.expiry + delay, delay, session
        )

    def _sign(self, lease_id: bytes, milli: int) -> None:
        """A voucher for some of the deposit, or for more than it."""
        lease = self.leases[lease_id]
        cumulative = lease.deposit * milli // 1_000
        lease.vouchers.append(self.market.voucher(lease_id, lease.session, cumulative, self._unique("context")))
        lease.signed = max(lease.signed, cumulative)

    @rule(index=st.integers(0, 99), milli=st.lists(st.integers(0, 1_300), min_size=1, max_size=2), order=ORDERS)
    def settle(self, index: int, milli: list[int], order: random.Random) -> None:
        """One provider's turn in one token: new vouchers, all others ever signed, forged and foreign ones, shuffled."""
        lease_id, lease = self._pick(index)
        provider, name = lease.provider, lease.token
        for share in milli:
            self._sign(lease_id, share)
        batch = [v for le in self.leases.values() for v in le.vouchers][-98:]
        batch.append(self.market.voucher(lease_id, signer("thief"), lease.deposit))
        batch.append(self.market.voucher(self._unique("no lease"), signer("thief"), 5))
        order.shuffle(batch)
        self._attempt(self.consumers[0], lambda: self.market.escrow.settle(provider, name, batch), may=True)

        best: dict[bytes, int] = {}
        for lease_id, cumulative, _context, r, vs in batch:
            model = self.leases.get(lease_id)
            if model and (lease_id, cumulative, _context, r, vs) in model.vouchers:
                best[lease_id] = max(best.get(lease_id, 0), cumulative)
        net = 0
        for lease_id, cumulative in best.items():
            lease = self.leases[lease_id]
            target = min(cumulative, lease.deposit)
            if (lease.provider, lease.token) != (provider, name) or not self._is_open(lease) or target <= lease.settled:
                continue
            fee = lease.fee(target) - lease.fee(lease.settled)
            self.fees[name] += fee
            net += target - lease.settled - fee
            lease.settled = target
        if net:
            self._bucket(provider, name).setdefault(self.today, Bucket(self.hold)).amount += net

    @rule(index=st.integers(0, 99), who=st.integers(0, CONSUMERS - 1), share=st.integers(2, 9))
    def top_up(self, index: int, who: int, share: int) -> None:
        lease_id, lease = self._pick(index)
        amount = self.accounts.get((self.consumers[who], lease.token), 0) // share
        may = amount > 0 and not lease.closing and self._is_open(lease)
        self._attempt(self.consumers[who], lambda: self.market.escrow.top_up(lease_id, amount), may=may)
        if may:
            lease.deposit += amount
            self._account(self.consumers[who], lease.token, -amount)

    @rule(index=st.integers(0, 99), action=st.sampled_from(["close", "revoke", "provider", "stranger"]))
    def close(self, index: int, action: str) -> None:
        self._close(index, action)
        self.settle(index, [900], random.Random(index))
        boa.env.time_travel(seconds=60)
        self._close(index, "close")

    def _close(self, index: int, action: str) -> None:
        lease_id, lease = self._pick(index)
        escrow = self.market.escrow
        caller = {"provider": self.owners[lease.provider], "stranger": self.market.treasury}.get(action, lease.owner)
        call = escrow.revoke if action == "revoke" else escrow.close
        may = action != "stranger" and self._is_open(lease)
        self._attempt(str(caller), lambda: call(lease_id), may=may)
        if may:
            now = self.market.now()
            lowered = now if action == "provider" else now + lease.close_delay
            lease.closes_at = min(self._closes_at(lease), lowered)
            lease.closing = True

    @rule(index=st.integers(0, 99))
    def release(self, index: int) -> None:
        lease_id, lease = self._pick(index)
        may = not lease.released and not self._is_open(lease)
        self._attempt(self.market.treasury, lambda: self.market.escrow.release(lease_id), may=may)
        if may:
            self._account(lease.owner, lease.token, lease.deposit - lease.settled)
            lease.deposit = lease.settled
            lease.released = True
            self.settle(index, [1_200], random.Random(index))

    @rule(provider=st.integers(1, PROVIDERS), token=st.integers(0, 1))
    def collect(self, provider: int, token: int) -> None:
        name = self.token_names[token]
        amount = self._matured(provider, name)
        self._attempt(self.market.treasury, lambda: self.market.escrow.collect(provider, name), may=amount > 0)
        if amount:
            self._account(self.owners[provider], name, amount)
            now = self.market.now()
            kept = {d: b for d, b in self._bucket(provider, name).items() if now < b.matures_at(d)}
            self.buckets[provider, name] = kept

    @rule(token=st.integers(0, 1))
    def collect_fees(self, token: int) -> None:
        name = self.token_names[token]
        self.market.escrow.collect_fees(name)
        to_stakers = self.fees[name] * 5_000 // 10_000
        self._account(str(self.market.staking.address), name, to_stakers)
        self._account(str(self.market.treasury), name, self.fees[name] - to_stakers)
        self.fees[name] = 0

    @rule(
        index=st.integers(0, 99),
        amount=st.integers(1, 2 * START),
        days=st.sampled_from([0, 0, 5]),
        milli=st.sampled_from([None, 0, 500, 1_100]),
    )
    def freeze(self, index: int, amount: int, days: int, milli: int | None) -> None:
        """Some days after a settlement; ruled at once, for a part of the pot, unless `milli` is None."""
        self.settle(index, [amount % 1_000], random.Random(amount))
        boa.env.time_travel(seconds=days * DAY)
        lease_id, lease = self._pick(index)
        refundable = lease.settled - lease.fee(lease.settled) - lease.refunded - lease.frozen
        expected = min(amount, refundable, self._held(lease.provider, lease.token))
        may = expected > 0 and lease.frozen == 0
        dispute = self._unique("dispute")
        self._attempt(self.market.arbitration, lambda: self.market.escrow.freeze(dispute, lease_id, amount), may=may)
        if may:
            lease.frozen = expected
            self.pots[dispute] = (lease_id, self._take(lease.provider, lease.token, expected))
            if milli is not None:
                self.pay_pot(len(self.pots) - 1, milli)

    @precondition(lambda self: self.pots)
    @rule(index=st.integers(0, 99), milli=st.integers(0, 1_100))
    def pay_pot(self, index: int, milli: int) -> None:
        dispute = list(self.pots)[index % len(self.pots)]
        lease_id, parts = self.pots.pop(dispute)
        lease = self.leases[lease_id]
        asked = lease.frozen * milli // 1_000
        granted = self._grant(lease.provider, lease.token, min(asked, lease.frozen))
        with boa.env.prank(self.market.arbitration):
            self.market.escrow.pay_pot(dispute, asked)
        self._account(lease.owner, lease.token, granted)
        lease.refunded += granted
        lease.frozen = 0
        rest = granted
        for day, part in parts:
            taken = min(rest, part)
            rest -= taken
            bucket = self._bucket(lease.provider, lease.token).get(day)
            if bucket is None:  # its day was collected meanwhile: matured
                bucket = self._bucket(lease.provider, lease.token).setdefault(day, Bucket(0))
            bucket.amount += part - taken
        hold(REFUNDS, self.market.escrow.returned(lease_id) == (lease.refunded, 0), "a pot")
        self.every_figure_agrees()

    @rule(index=st.integers(0, 99), amount=st.integers(0, 2 * START))
    def refund(self, index: int, amount: int) -> None:
        self.settle(index, [amount % 1_000], random.Random(amount))
        lease_id, lease = self._pick(index)
        refundable = lease.settled - lease.fee(lease.settled) - lease.refunded - lease.frozen
        available = min(refundable, self._held(lease.provider, lease.token))
        granted = self._grant(lease.provider, lease.token, min(amount, available))
        with boa.env.prank(self.market.arbitration):
            hold(REFUNDS, self.market.escrow.refund(lease_id, amount) == granted)
        self._take(lease.provider, lease.token, granted)
        self._account(lease.owner, lease.token, granted)
        lease.refunded += granted

    @rule(provider=st.integers(1, PROVIDERS))
    def deregister(self, provider: int) -> None:
        if provider in self.ended:
            return
        with boa.env.prank(self.owners[provider]):
            self.market.staking.start_cooldown(CLAW)
        self.ended[provider] = self.market.now() + 6 * DAY

    @rule(hold=st.sampled_from([-1, 1]), fee=st.sampled_from([-77, 77]), often=st.integers(0, 3))
    def change_parameters(self, hold: int, fee: int, often: int) -> None:
        if often:  # each change lets a week pass, in which much ends
            return
        boa.env.time_travel(seconds=7 * DAY)
        self.settle(hold, [800, 1_000], random.Random(fee))
        new_hold, new_fee_bps = self.hold + hold, self.fee_bps + fee
        with boa.env.prank(self.market.admin):
            if 1 <= new_hold <= 6:
                self.market.params.set(2, new_hold)
                self.hold = new_hold
            if 0 <= new_fee_bps <= 1_000:
                self.market.params.set(0, new_fee_bps)
                self.fee_bps = new_fee_bps
        for _ in range(max(self.hold, new_hold) + 1):
            self.every_figure_agrees()
            boa.env.time_travel(seconds=DAY)

    def _attempt(self, caller: str, call: Any, *, may: bool) -> None:
        """The call succeeds exactly when the model says that it may."""
        try:
            with boa.env.prank(caller):
                call()
        except BoaError as error:
            hold(EXITS, not may, error)
        else:
            hold(GUARDS, may, "allowed what it must refuse")

    # --- invariants

    @rule()
    def audit(self) -> None:
        """A wrong figure stays wrong, so auditing now and then, and before everyone leaves, misses nothing."""
        self.leases_keep_their_bounds()
        self.ledgers_sum_to_what_came_in()
        self.every_figure_agrees()

    def every_figure_agrees(self) -> None:
        escrow = self.market.escrow
        for (who, token), amount in self.accounts.items():
            hold(FIGURES, escrow.accounts(who, token) == amount, "account")
        for token in self.token_names:
            hold(FIGURES, escrow.fees(token) == self.fees[token], "fees")
            for provider in self.owners:
                held, free = escrow.earnings(provider, token)
                hold(FIGURES, held == self._held(provider, token), "held")
                hold(FIGURES, free == self._matured(provider, token), "free")

    def ledgers_sum_to_what_came_in(self) -> None:
        escrow = self.market.escrow
        for token, contract in self.tokens.items():
            total = escrow.fees(token)
            total += sum(escrow.accounts(who, token) for who, name in self.accounts if name == token)
            for provider in self.owners:
                total += sum(escrow.earnings(provider, token))
            for lease_id, lease in self.leases.items():
                if lease.token == token:
                    state = escrow.lease(lease_id)
                    total += state.deposit - state.settled + escrow.returned(lease_id)[1]
            hold(SOLVENCY, total == self.flows[token] <= contract.balanceOf(escrow.address), (total, self.flows[token]))

    def leases_keep_their_bounds(self) -> None:
        for lease_id, lease in self.leases.items():
            state = self.market.escrow.lease(lease_id)
            hold(SIGNED, state.settled <= state.deposit, "paid above the deposit")
            hold(SIGNED, state.settled <= lease.signed, "paid above the signature")
            hold(SIGNED, state.settled == lease.settled, "settled")
            hold(EXITS, state.closes_at == self._closes_at(lease), "closesAt")
            refunded, frozen = self.market.escrow.returned(lease_id)
            hold(REFUNDS, refunded + frozen <= state.settled - lease.fee(state.settled), "refunded above the payment")
            hold(REFUNDS, (refunded, frozen) == (lease.refunded, lease.frozen), "refunds")

    def _everyone_leaves(self) -> None:
        """Whatever happened before: after the longest delay everybody takes out everything that is theirs."""
        for dispute in list(self.pots):
            self.pay_pot(list(self.pots).index(dispute), 500)
        boa.env.time_travel(seconds=100 * DAY)
        for i in range(len(self.leases)):
            if not self._pick(i)[1].released:
                self.release(i)
            self.release(i)
        for provider in self.owners:
            for i in range(2):
                self.collect(provider, i)
        for i in range(2):
            self.collect_fees(i)
        for (who, token), amount in list(self.accounts.items()):
            self._withdraw(who, token, amount)
        for token, contract in self.tokens.items():
            hold(EXITS, contract.balanceOf(self.market.escrow.address) == 0 == self.flows[token], "something is stuck")
