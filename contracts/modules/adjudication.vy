# pragma version 0.4.3
# pragma nonreentrancy on
"""
@title adjudication
@license MIT
@notice What a ruling may do with money: freeze part of a provider's held earnings for one dispute, pay or return that
        pot, and refund a consumer from held earnings. Open to the Arbitration contract alone.
        Invariants: refunded + frozen on a lease ≤ settled − its fee; refunds per provider, token and day ≤ the daily
        cap; a pot goes back with its old maturity; fees are never returned; nothing matured is touched.
"""
from . import held_earnings
from . import escrow
from . import leases
from . import param_keys
from . import settlement

uses: escrow
uses: leases
uses: held_earnings


event EarningsFrozen:
    dispute_id: indexed(bytes32)
    lease_id: indexed(bytes32)
    provider: indexed(uint256)
    amount: uint256


event PotPaid:
    dispute_id: indexed(bytes32)
    owner: indexed(address)
    to_consumer: uint256
    to_provider: uint256
    shortfall: uint256


event Refunded:
    lease_id: indexed(bytes32)
    owner: indexed(address)
    amount: uint256
    shortfall: uint256


struct Pot:
    lease_id: bytes32  # zero: no such dispute, or its pot is paid
    parts: DynArray[uint256, 8]  # ring words, newest day first


_BPS: constant(uint256) = 10_000
_DAY: constant(uint256) = 86_400
_U160: constant(uint256) = 2**160 - 1
_U128: constant(uint256) = 2**128 - 1
_U96: constant(uint256) = 2**96 - 1
_U32: constant(uint256) = 2**32 - 1
_U8: constant(uint256) = 2**8 - 1

arbitration: public(immutable(address))

# what each dispute has frozen
_pots: HashMap[bytes32, Pot]
# disputes that ever froze: an id is used once
_has_frozen: HashMap[bytes32, bool]
# refunded so far 96 | frozen now 96, by lease; frozen > 0 says that a freeze is open
_returned: HashMap[bytes32, uint256]
# all open pots of a (provider, token): part of the bond that the daily cap is a share of
_frozen: HashMap[uint256, HashMap[address, uint256]]
# amount 128 | day, by (provider, token): what the daily cap counts
_refunded_today: HashMap[uint256, HashMap[address, uint256]]


@deploy
def __init__(arbitration_: address):
    arbitration = arbitration_


@external
def freeze(dispute_id: bytes32, lease_id: bytes32, amount: uint256) -> uint256:
    """
    @notice Moves held earnings into a dispute's pot: at most `amount`, what the lease has paid net of its fee and
            earlier refunds, and what the provider has held in that token. One open freeze per lease.
    @param dispute_id The dispute; never used again.
    @param lease_id The disputed lease.
    @param amount Token base units.
    @return frozen What the pot holds, in token base units.
    """
    self._check_arbitration()
    payment: uint256 = leases._check_lease(lease_id)
    provider: uint256 = (payment >> 160) & _U32
    token: address = escrow.tokens[(payment >> 192) & _U8]
    assert not self._has_frozen[dispute_id], "adjudication: dispute has frozen"
    returned: uint256 = self._returned[lease_id]
    assert returned >> 96 == 0, "adjudication: lease has a freeze"

    parts: DynArray[uint256, 8] = held_earnings._take_held(
        provider, token, min(amount, self._refundable(lease_id, payment, returned))
    )
    frozen: uint256 = 0
    for part: uint256 in parts:
        frozen += part & _U128
    assert frozen > 0, "adjudication: nothing to freeze"
    self._has_frozen[dispute_id] = True
    self._pots[dispute_id] = Pot(lease_id=lease_id, parts=parts)
    self._returned[lease_id] = returned | (frozen << 96)
    self._frozen[provider][token] += frozen
    log EarningsFrozen(dispute_id=dispute_id, lease_id=lease_id, provider=provider, amount=frozen)
    return frozen


@external
def pay_pot(dispute_id: bytes32, to_consumer: uint256):
    """
    @notice Ends a dispute's freeze: pays up to `to_consumer` to the lease's owner, within the daily cap, and returns the
            rest to the provider's earnings with its old maturity.
    @param dispute_id The dispute.
    @param to_consumer Token base units.
    """
    self._check_arbitration()
    lease_id: bytes32 = self._pots[dispute_id].lease_id
    assert lease_id != empty(bytes32), "adjudication: no pot"
    parts: DynArray[uint256, 8] = self._pots[dispute_id].parts
    self._pots[dispute_id] = empty(Pot)
    payment: uint256 = leases._payment[lease_id]
    provider: uint256 = (payment >> 160) & _U32
    token: address = escrow.tokens[(payment >> 192) & _U8]
    owner: address = convert(leases._origin[lease_id] & _U160, address)
    pot: uint256 = self._returned[lease_id] >> 96

    granted: uint256 = self._grant_refund(provider, token, min(to_consumer, pot))
    rest: uint256 = granted
    for part: uint256 in parts:
        taken: uint256 = min(rest, part & _U128)
        rest -= taken
        if part & _U128 > taken:
            held_earnings._return_held(provider, token, part - taken)
    self._returned[lease_id] = (self._returned[lease_id] & _U96) + granted
    self._frozen[provider][token] -= pot
    escrow.accounts[owner][token] += granted
    log PotPaid(
        dispute_id=dispute_id,
        owner=owner,
        to_consumer=granted,
        to_provider=pot - granted,
        shortfall=to_consumer - granted,
    )


@external
def refund(lease_id: bytes32, amount: uint256) -> uint256:
    """
    @notice Refunds a lease's owner from the provider's held earnings of that token. What they, the lease's payments or
            the daily cap do not cover is lost and emitted.
    @param lease_id The lease.
    @param amount Token base units.
    @return paid What was refunded, in token base units.
    """
    self._check_arbitration()
    payment: uint256 = leases._check_lease(lease_id)
    provider: uint256 = (payment >> 160) & _U32
    token: address = escrow.tokens[(payment >> 192) & _U8]
    owner: address = convert(leases._origin[lease_id] & _U160, address)
    returned: uint256 = self._returned[lease_id]

    available: uint256 = min(self._refundable(lease_id, payment, returned), held_earnings._sum_held(provider, token))
    paid: uint256 = self._grant_refund(provider, token, min(amount, available))
    held_earnings._take_held(provider, token, paid)
    self._returned[lease_id] = returned + paid
    escrow.accounts[owner][token] += paid
    log Refunded(lease_id=lease_id, owner=owner, amount=paid, shortfall=amount - paid)
    return paid


@external
@view
def returned(lease_id: bytes32) -> (uint256, uint256):
    """
    @notice What rulings have done to a lease's payments.
    @param lease_id The lease.
    @return refunded Token base units paid back to the owner so far.
    @return frozen Token base units in the lease's open pot.
    """
    word: uint256 = self._returned[lease_id]
    return word & _U96, word >> 96


@internal
@view
def _check_arbitration():
    assert msg.sender == arbitration, "adjudication: not arbitration"


@internal
@view
def _refundable(lease_id: bytes32, payment: uint256, returned: uint256) -> uint256:
    settled: uint256 = (leases._funds[lease_id] >> 96) & _U96
    return settled - settlement._fee(settled, payment) - (returned & _U96) - (returned >> 96)


@internal
def _grant_refund(provider: uint256, token: address, amount: uint256) -> uint256:
    """
    @notice Counts a refund against the day's cap: REFUND_DAY_BPS of the bond, which is what is held, frozen and was
            refunded today.
    @return granted At most `amount`, in token base units.
    """
    today: uint256 = block.timestamp // _DAY
    word: uint256 = self._refunded_today[provider][token]
    used: uint256 = 0
    if word >> 128 == today:
        used = word & _U128
    bond: uint256 = held_earnings._sum_held(provider, token) + self._frozen[provider][token] + used
    cap: uint256 = bond * staticcall escrow.params.get(param_keys.REFUND_DAY_BPS) // _BPS
    granted: uint256 = 0
    if cap > used:
        granted = min(amount, cap - used)
    self._refunded_today[provider][token] = (used + granted) | (today << 128)
    return granted
