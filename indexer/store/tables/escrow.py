"""The market's money: accounts, leases, settlements, earnings, fees, and what rulings did."""

from sqlmodel import SQLModel

from indexer.store.columns import binary, flag, number, uint256
from indexer.store.tables.event import EventRow


class PaymentToken(SQLModel, table=True):
    """A token the market has seen; `token_id` once one was deposited."""

    __tablename__ = "payment_token"

    token: bytes = binary(key=True)
    token_id: int | None = number(nullable=True)
    is_listed: bool = flag()


class Account(SQLModel, table=True):
    """An owner's free balance inside the escrow."""

    __tablename__ = "account"

    owner: bytes = binary(key=True)
    token: bytes = binary(key=True)
    balance: int = uint256()


class LeaseNonce(SQLModel, table=True):
    """The nonce of an owner's next lease request."""

    __tablename__ = "lease_nonce"

    owner: bytes = binary(key=True)
    nonce: int = uint256()


class Lease(SQLModel, table=True):
    """`closes_at` is the lease's own: a provider's `leases_end` may be earlier. `fees` are part of `settled`."""

    __tablename__ = "lease"

    lease_id: bytes = binary(key=True)
    owner: bytes = binary(index=True)
    provider: int = number()
    offer_id: int = number()
    version: int = number()
    token: bytes = binary()
    signer: bytes = binary()
    terms_digest: bytes = binary()
    nonce: int = uint256()
    deposit: int = uint256()
    settled: int = uint256()
    fees: int = uint256()
    refunded: int = uint256()
    frozen: int = uint256()
    fee_bps: int = number()
    opened_at: int = number()
    expiry: int = number()
    close_delay: int = number()
    closes_at: int = number()
    is_closing: bool = flag()
    is_revoked: bool = flag()
    is_released: bool = flag()


class Earning(SQLModel, table=True):
    """A provider's earnings in one token: `uncollected` is still held or free to collect, `frozen` is in pots."""

    __tablename__ = "earning"

    provider: int = number(key=True)
    token: bytes = binary(key=True)
    uncollected: int = uint256()
    frozen: int = uint256()
    collected: int = uint256()
    refunded: int = uint256()


class Fee(SQLModel, table=True):
    """The platform's fees in one token: not split yet, and given to stakers and treasury so far."""

    __tablename__ = "fee"

    token: bytes = binary(key=True)
    pending: int = uint256()
    to_stakers: int = uint256()
    to_treasury: int = uint256()


class Pot(SQLModel, table=True):
    """What a dispute has frozen, and once it is paid, to whom it went."""

    __tablename__ = "pot"

    dispute_id: bytes = binary(key=True)
    lease_id: bytes = binary()
    provider: int = number()
    token: bytes = binary()
    amount: int = uint256()
    is_paid: bool = flag()
    to_consumer: int = uint256()
    to_provider: int = uint256()
    shortfall: int = uint256()


class Deposit(EventRow, table=True):
    """Tokens that came into an account."""

    __tablename__ = "deposit"

    caller: bytes = binary()
    receiver: bytes = binary()
    token: bytes = binary()
    amount: int = uint256()


class Withdrawal(EventRow, table=True):
    """Tokens that left an account."""

    __tablename__ = "withdrawal"

    owner: bytes = binary()
    token: bytes = binary()
    receiver: bytes = binary()
    amount: int = uint256()


class LeaseTopUp(EventRow, table=True):
    """An addition to a lease's deposit."""

    __tablename__ = "lease_top_up"

    lease_id: bytes = binary()
    caller: bytes = binary()
    amount: int = uint256()


class LeaseClose(EventRow, table=True):
    """A call for a lease's end."""

    __tablename__ = "lease_close"

    lease_id: bytes = binary()
    caller: bytes = binary()
    closes_at: int = number()
    is_revocation: bool = flag()


class LeaseRelease(EventRow, table=True):
    """What went back to the owner of a closed lease."""

    __tablename__ = "lease_release"

    lease_id: bytes = binary()
    owner: bytes = binary()
    amount: int = uint256()


class Settlement(EventRow, table=True):
    """A voucher that was paid; `fee` is part of `paid`."""

    __tablename__ = "settlement"

    lease_id: bytes = binary(index=True)
    paid: int = uint256()
    fee: int = uint256()
    context: bytes = binary()


class VoucherSkip(EventRow, table=True):
    """A bad voucher; `reason` as in LeaseEscrow. There may be no such lease."""

    __tablename__ = "voucher_skip"

    lease_id: bytes = binary()
    reason: int = uint256()


class Hold(EventRow, table=True):
    """A day's earnings begin to be held; `freed` is what the day's slot of the ring held before."""

    __tablename__ = "hold"

    provider: int = number()
    token: bytes = binary()
    day: int = number()
    hold_days: int = number()
    freed: int = uint256()


class Collection(EventRow, table=True):
    """Matured earnings that went to the provider's owner."""

    __tablename__ = "collection"

    provider: int = number()
    token: bytes = binary()
    owner: bytes = binary()
    amount: int = uint256()


class FeeCollection(EventRow, table=True):
    """A split of fees between stakers and treasury."""

    __tablename__ = "fee_collection"

    token: bytes = binary()
    to_stakers: int = uint256()
    to_treasury: int = uint256()


class Refund(EventRow, table=True):
    """A refund outside of a pot; `shortfall` is what could not be paid."""

    __tablename__ = "refund"

    lease_id: bytes = binary()
    owner: bytes = binary()
    amount: int = uint256()
    shortfall: int = uint256()


STATES = (PaymentToken, Account, LeaseNonce, Lease, Earning, Fee, Pot)
EVENTS = (
    *(Deposit, Withdrawal, LeaseTopUp, LeaseClose, LeaseRelease, Settlement, VoucherSkip),
    *(Hold, Collection, FeeCollection, Refund),
)
