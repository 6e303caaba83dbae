"""Weakenings of the escrow, each with the invariant it breaks; the escrow machine must find every one of them."""

from __future__ import annotations

from tests.contracts.boa.escrow_machine import EXITS, FIGURES, GUARDS, REFUNDS, SIGNED, SOLVENCY
from tests.contracts.boa.mutation import Mutation

ESCROW = [
    Mutation(
        "deposit_credits_twice",
        "modules/escrow.vy",
        "self.accounts[receiver][token] += amount",
        "self.accounts[receiver][token] += 2 * amount",
        SOLVENCY,
    ),
    Mutation(
        "fee_is_not_taken_from_the_provider",
        "modules/settlement.vy",
        "held_earnings._credit(provider_id, token, total - total_fee)",
        "held_earnings._credit(provider_id, token, total)",
        SOLVENCY,
    ),
    Mutation(
        "release_forgets_what_was_settled",
        "modules/leases.vy",
        "rest: uint256 = (funds & _U96) - settled",
        "rest: uint256 = funds & _U96",
        SIGNED,
    ),
    Mutation(
        "release_twice",
        "modules/leases.vy",
        'assert funds & _RELEASED == 0, "leases: released"',
        "pass",
        GUARDS,
    ),
    Mutation(
        "reused_ring_word_is_lost",
        "modules/held_earnings.vy",
        "    if freed > 0:\n        self._free[provider][token] += freed\n",
        "",
        SOLVENCY,
    ),
    Mutation(
        "voucher_above_the_deposit",
        "modules/settlement.vy",
        "min(voucher.cumulative, funds & (2**96 - 1))",
        "voucher.cumulative",
        SIGNED,
    ),
    Mutation(
        "a_lower_voucher_blocks_the_batch",
        "modules/settlement.vy",
        "if target <= settled:",
        "if target == settled:",
        EXITS,
    ),
    Mutation(
        "any_key_signs_vouchers",
        "modules/settlement.vy",
        "if signer == empty(address) or convert(signer, uint256) != payment & (2**160 - 1):",
        "if signer == empty(address):",
        SIGNED,
    ),
    Mutation(
        "settles_after_closing",
        "modules/settlement.vy",
        "if block.timestamp >= min((funds >> 192) & (2**40 - 1), ends_at):",
        "if block.timestamp >= min((funds >> 192) & (2**40 - 1), ends_at) + 86_400:",
        SIGNED,
    ),
    Mutation(
        "deregistration_ends_no_lease",
        "modules/leases.vy",
        "return min(closes_at, ends_at)",
        "return closes_at",
        EXITS,
    ),
    Mutation(
        "closing_ignores_the_delay",
        "modules/leases.vy",
        "closes_at = min(closes_at, block.timestamp + ((origin >> 160) & _U32))",
        "closes_at = block.timestamp + ((origin >> 160) & _U32)",
        EXITS,
    ),
    Mutation(
        "hold_of_today_judges_old_days",
        "modules/held_earnings.vy",
        "((word >> 136) + 1 + ((word >> 128) & _U8)) * _DAY",
        "((word >> 136) + 1 + staticcall escrow.params.get(param_keys.HOLD_DAYS)) * _DAY",
        FIGURES,
    ),
    Mutation(
        "freeze_takes_more_than_was_paid",
        "modules/adjudication.vy",
        "provider, token, min(amount, self._refundable(lease_id, payment, returned))",
        "provider, token, amount",
        REFUNDS,
    ),
    Mutation(
        "fees_are_returned_too",
        "modules/adjudication.vy",
        "return settled - settlement._fee(settled, payment) - (returned & _U96) - (returned >> 96)",
        "return settled - (returned & _U96) - (returned >> 96)",
        REFUNDS,
    ),
    Mutation(
        "no_daily_cap_on_refunds",
        "modules/adjudication.vy",
        "granted = min(amount, cap - used)",
        "granted = amount",
        REFUNDS,
    ),
    Mutation(
        "pot_goes_back_as_free",
        "modules/held_earnings.vy",
        "    if word >> 136 == part >> 136:\n",
        "    if False:\n",
        FIGURES,
    ),
    Mutation(
        "freeze_reaches_matured_earnings",
        "modules/held_earnings.vy",
        "if word >> 136 != today - age or self._has_matured(word):",
        "if word >> 136 != today - age:",
        GUARDS,
    ),
    Mutation(
        "fee_depends_on_the_split",
        "modules/settlement.vy",
        "self._fee(target, payment) - self._fee(settled, payment)",
        "self._fee(paid, payment)",
        FIGURES,
    ),
]
