"""Owners that are contracts (ERC-1271): the good wallet works, hostile ones cost a bounded amount and gain nothing."""

from __future__ import annotations

from typing import Any

import ape
import pytest

from protocol.ids import lease_id_of
from tests.contracts.ape.checks import check_account, check_lease
from tests.contracts.ape.market import DEPOSIT, USD, Market, signer_of
from tests.support.anvil import wait_for

CHECK_GAS = 500_000
"""What the escrow gives a wallet for one check."""
OPEN_GAS = 200_000
"""Above what opening a lease costs besides the check."""
MAGIC = bytes.fromhex("1626ba7e") + bytes(28)


@pytest.fixture
def wallet_of(market: Market, project: Any) -> Any:
    """Deploys a wallet by name, with money in the market."""

    def make(name: str, *arguments: Any) -> Any:
        wallet = market.deployer.deploy(getattr(project, name), *arguments)
        market.give(market.usdc, market.stranger, 1_000 * USD)
        market.escrow.deposit(market.usdc, 1_000 * USD, wallet, sender=market.stranger)
        return wallet

    return make


def open_for(market: Market, wallet: Any, signature: bytes = b"any", **options: Any) -> Any:
    request = market.request(owner=wallet.address)
    return market.escrow.open_lease(request.as_tuple(), signature, sender=market.stranger, **options)


def test_open_lease__wallet_with_its_keys_signature__opens(market: Market, wallet_of: Any, consumer: Any) -> None:
    wallet = wallet_of("OwnerKeyWallet", consumer)
    request = market.request(owner=wallet.address)
    signature = signer_of(consumer).sign(market.domain, request).to_bytes()
    market.escrow.open_lease(request.as_tuple(), signature, sender=market.stranger)
    check_lease(market, lease_id_of(market.domain, request), owner=wallet.address, deposit=DEPOSIT)
    check_account(market, wallet, 1_000 * USD - DEPOSIT)


def test_open_lease__wallet_with_anothers_signature__is_refused(market: Market, wallet_of: Any, consumer: Any) -> None:
    wallet = wallet_of("OwnerKeyWallet", consumer)
    request = market.request(owner=wallet.address)
    signature = signer_of(market.stranger).sign(market.domain, request).to_bytes()
    with ape.reverts("leases: bad signature"):
        market.escrow.open_lease(request.as_tuple(), signature, sender=market.stranger)


def test_open_lease__owner_without_code_and_bad_signature__is_refused(market: Market) -> None:
    request = market.request()
    with ape.reverts("leases: bad signature"):
        market.escrow.open_lease(request.as_tuple(), b"\x01" * 65, sender=market.stranger)


def test_open_lease__wallet_that_reverts__is_refused(market: Market, wallet_of: Any) -> None:
    with ape.reverts("leases: bad signature"):
        open_for(market, wallet_of("RevertingWallet"))


@pytest.mark.parametrize(
    "answer",
    [
        bytes(32),
        bytes(31) + b"\x01",
        bytes(28) + bytes.fromhex("1626ba7e"),
        bytes.fromhex("ffffffff") + bytes(28),
        MAGIC[:31] + b"\x01",
    ],
    ids=["zero", "true", "right_aligned", "refusal", "trailing_bits"],
)
def test_open_lease__wallet_with_wrong_magic__is_refused(market: Market, wallet_of: Any, answer: bytes) -> None:
    with ape.reverts("leases: bad signature"):
        open_for(market, wallet_of("WrongMagicWallet", answer))


def test_open_lease__right_magic_from_the_same_wallet__opens(market: Market, wallet_of: Any) -> None:
    assert not open_for(market, wallet_of("WrongMagicWallet", MAGIC)).failed


def test_open_lease__contract_that_is_no_wallet__is_refused(market: Market) -> None:
    with ape.reverts("leases: bad signature"):
        open_for(market, market.params)


def open_within(market: Market, wallet: Any, gas: int) -> tuple[bool, int]:
    """(whether the lease was opened, gas used), without the trace of a failure that Ape would ask for."""
    data = market.escrow.open_lease.encode_input(market.request(owner=wallet.address).as_tuple(), b"any")
    request = market.chain.provider.make_request
    transaction = {"from": market.stranger.address, "to": market.escrow.address, "data": data.hex(), "gas": hex(gas)}
    sent = request("eth_sendTransaction", [transaction])
    receipt = wait_for(lambda: request("eth_getTransactionReceipt", [sent]))
    return int(receipt["status"], 16) == 1, int(receipt["gasUsed"], 16)


def test_open_lease__wallet_that_burns_gas__costs_the_same_however_much_is_offered(
    market: Market, wallet_of: Any
) -> None:
    wallet = wallet_of("GasBurnerWallet")
    results = [open_within(market, wallet, gas) for gas in (2_000_000, 25_000_000)]
    assert [opened for opened, _ in results] == [False, False]
    # The two requests differ in their deadlines' bytes, which calldata pays by the byte.
    assert abs(results[0][1] - results[1][1]) < 1_000
    assert CHECK_GAS < results[0][1] < CHECK_GAS + OPEN_GAS


def test_open_lease__wallet_with_a_revert_bomb__costs_a_bounded_amount(market: Market, wallet_of: Any) -> None:
    opened, gas = open_within(market, wallet_of("ReturnBombWallet", True), 25_000_000)
    assert not opened
    assert gas < CHECK_GAS + OPEN_GAS


def test_open_lease__wallet_that_answers_magic_and_96_kb_more__costs_a_bounded_amount(
    market: Market, wallet_of: Any
) -> None:
    """The answer begins with the magic value, so the wallet said yes; its length costs the wallet's gas alone."""
    opened, gas = open_within(market, wallet_of("ReturnBombWallet", False), 25_000_000)
    assert opened
    assert gas < CHECK_GAS + OPEN_GAS
