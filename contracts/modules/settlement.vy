# pragma version 0.4.3
# pragma nonreentrancy on
"""
@title settlement
@license MIT
@notice Pays vouchers: exactly what a lease's session key signed, never more than the lease's deposit. 95 % go to the
        provider's held earnings, 5 % (the fee frozen at open) to the platform, as internal credits; no token moves.
        Invariant: paid on a lease ≤ its deposit and ≤ the highest cumulative its signer signed; `settled` only grows;
        any order, split or repetition of the same vouchers within one block ends in the same `settled` and fees.
"""
from . import held_earnings
from . import escrow
from . import leases
from . import param_keys
from . import signature as signatures
from . import typed_data

uses: escrow
uses: leases
uses: held_earnings


event VoucherSettled:
    lease_id: indexed(bytes32)
    paid: uint256
    fee: uint256
    context: bytes32


event VoucherSkipped:
    lease_id: indexed(bytes32)
    reason: uint256


event FeesCollected:
    token: indexed(address)
    to_stakers: uint256
    to_treasury: uint256


struct SignedVoucher:
    lease_id: bytes32
    cumulative: uint256  # uint128 in the signed type; wider here, so that a larger one is skipped and reverts no batch
    context: bytes32
    r: bytes32
    vs: bytes32


MAX_VOUCHERS: constant(uint256) = 128

# why a voucher was skipped
SKIPPED_FOREIGN: constant(uint256) = 1  # no such lease, or one of another provider or token
SKIPPED_CLOSED: constant(uint256) = 2
SKIPPED_SETTLED: constant(uint256) = 3  # nothing above what is settled already
SKIPPED_SIGNATURE: constant(uint256) = 4

_BPS: constant(uint256) = 10_000

# the platform's part of settlements, not yet split between stakers and treasury
fees: public(HashMap[address, uint256])


@external
def settle(provider: uint32, token: address, vouchers: DynArray[SignedVoucher, MAX_VOUCHERS]):
    """
    @notice Settles vouchers of one provider in one token. Permissionless and idempotent; a bad voucher is skipped with
            an event and harms no other.
    @param provider The provider's id.
    @param token The payment token.
    @param vouchers The highest voucher of each lease, with EIP-2098 signatures of the lease's session key.
    """
    provider_id: uint256 = convert(provider, uint256)
    payee: uint256 = provider_id | (escrow.token_ids[token] << 32)
    ends_at: uint256 = leases.leases_end[provider_id]
    if ends_at == 0:
        ends_at = max_value(uint256)
    separator: bytes32 = typed_data._domain_separator(self)
    total: uint256 = 0
    total_fee: uint256 = 0

    for voucher: SignedVoucher in vouchers:
        payment: uint256 = leases._payment[voucher.lease_id]
        if payment == 0 or (payment >> 160) & (2**40 - 1) != payee:
            log VoucherSkipped(lease_id=voucher.lease_id, reason=SKIPPED_FOREIGN)
            continue
        funds: uint256 = leases._funds[voucher.lease_id]
        if block.timestamp >= min((funds >> 192) & (2**40 - 1), ends_at):
            log VoucherSkipped(lease_id=voucher.lease_id, reason=SKIPPED_CLOSED)
            continue
        settled: uint256 = (funds >> 96) & (2**96 - 1)
        target: uint256 = min(voucher.cumulative, funds & (2**96 - 1))
        if target <= settled:
            log VoucherSkipped(lease_id=voucher.lease_id, reason=SKIPPED_SETTLED)
            continue
        if voucher.cumulative > 2**128 - 1:
            log VoucherSkipped(lease_id=voucher.lease_id, reason=SKIPPED_SIGNATURE)
            continue
        digest: bytes32 = typed_data._digest(
            separator, typed_data._hash_voucher(voucher.lease_id, voucher.cumulative, voucher.context)
        )
        signer: address = signatures._recover(digest, voucher.r, voucher.vs)
        if signer == empty(address) or convert(signer, uint256) != payment & (2**160 - 1):
            log VoucherSkipped(lease_id=voucher.lease_id, reason=SKIPPED_SIGNATURE)
            continue

        paid: uint256 = unsafe_sub(target, settled)
        fee: uint256 = self._fee(target, payment) - self._fee(settled, payment)
        leases._funds[voucher.lease_id] = funds + (paid << 96)
        total += paid
        total_fee += fee
        log VoucherSettled(lease_id=voucher.lease_id, paid=paid, fee=fee, context=voucher.context)

    if total > 0:
        self.fees[token] += total_fee
        held_earnings._credit(provider_id, token, total - total_fee)


@external
def collect_fees(token: address):
    """
    @notice Splits the fees so far between the accounts of the Staking contract and of the treasury. Anyone may call.
    @param token The payment token.
    """
    amount: uint256 = self.fees[token]
    self.fees[token] = 0
    to_stakers: uint256 = amount * staticcall escrow.params.get(param_keys.STAKER_SHARE_BPS) // _BPS
    treasury: address = staticcall escrow.params.treasury()
    escrow.accounts[leases.staking.address][token] += to_stakers
    escrow.accounts[treasury][token] += amount - to_stakers
    log FeesCollected(token=token, to_stakers=to_stakers, to_treasury=amount - to_stakers)


@internal
@pure
def _fee(settled: uint256, payment: uint256) -> uint256:
    """
    @notice F(x) = x · feeBps // 10000 of what is settled on a lease, so that fees do not depend on how it was split.
    """
    return settled * ((payment >> 200) & (2**16 - 1)) // _BPS
