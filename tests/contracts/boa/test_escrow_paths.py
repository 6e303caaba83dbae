"""One walk along every path of the escrow, the anchors and the lens: what line coverage of the modules is measured on.

The refusals and attacks around these paths are tested on anvil (tests/contracts/ape).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import boa
import pytest

from protocol.hashing import keccak
from protocol.merkle import MountainRange
from protocol.signing import Signer
from protocol.typed_data import Anchor, NodeKey
from tests.contracts.boa.market import CONTRACTS, DAY, TERMS, ZERO32, Market, deployer, signer, with_offer

DEPOSIT = 100_000
DISPUTE = b"\xd1" * 32


@dataclass
class Scene:
    """A provider with one offer and a consumer, known by its key, with money."""

    market: Market
    owner: str
    provider: int
    node: Signer
    key: Signer
    session: Signer

    @property
    def escrow(self) -> Any:
        return self.market.escrow

    @property
    def usdc(self) -> str:
        return str(self.market.usdc.address)

    def open(self, **changes: Any) -> bytes:
        return self.market.open(self.market.request(self.key.address, self.provider, self.session, DEPOSIT, **changes))

    def settle(self, lease_id: bytes, cumulative: int) -> None:
        self.escrow.settle(self.provider, self.usdc, [self.market.voucher(lease_id, self.session, cumulative)])

    def earnings(self) -> tuple[int, int]:
        held, free = self.escrow.earnings(self.provider, self.usdc)
        return int(held), int(free)


@pytest.fixture
def scene() -> Iterator[Scene]:
    with boa.env.anchor():
        market = Market()
        owner, provider, node = with_offer(market)
        key = signer("consumer")
        market.deposit(key.address, market.usdc, 10 * DEPOSIT)
        yield Scene(market, str(owner), provider, node, key, signer("session"))


def test_deposit_with_permit__that_fails__needs_the_allowance(scene: Scene) -> None:
    escrow, key = scene.escrow, scene.key.address
    scene.market.give(scene.market.usdc, key, 5)
    with boa.env.prank(key):
        escrow.deposit_with_permit(scene.usdc, 5, 0, 27, ZERO32, ZERO32)
        assert escrow.accounts(key, scene.usdc) == 10 * DEPOSIT + 5
        scene.market.usdc.approve(escrow.address, 0)
        with boa.reverts("escrow: permit failed and allowance too low"):
            escrow.deposit_with_permit(scene.usdc, 5, 0, 27, ZERO32, ZERO32)
        escrow.withdraw(scene.usdc, 5, scene.owner)
        with boa.reverts("escrow: bad receiver"):
            escrow.withdraw(scene.usdc, 5, escrow.address)


def test_open_lease__by_key_and_by_wallet__opens_and_refuses_a_forgery(scene: Scene) -> None:
    market, anyone = scene.market, boa.env.generate_address("anyone")
    wallet = deployer(CONTRACTS / "mocks", "OwnerKeyWallet").deploy(scene.key.address)
    market.deposit(wallet.address, market.usdc, DEPOSIT)
    for owner in (scene.key.address, wallet.address):
        request = market.request(owner, scene.provider, scene.session, DEPOSIT)
        with boa.reverts("leases: bad signature"):
            market.open(request, scene.node.sign(market.domain, request), anyone)
        lease_id = market.open(request, scene.key.sign(market.domain, request), anyone)
        assert scene.escrow.lease(lease_id).owner == owner
    request = market.request(scene.key.address, scene.provider, scene.session, DEPOSIT)
    with boa.reverts("leases: bad signature"), boa.env.prank(anyone):
        scene.escrow.open_lease(request.as_tuple(), b"short")


def test_lease__topped_up_revoked_and_released__ends_in_the_account(scene: Scene) -> None:
    lease_id = scene.open()
    with boa.env.prank(scene.key.address):
        scene.escrow.bump_nonce()
        scene.escrow.top_up(lease_id, 7)
        scene.escrow.revoke(lease_id)
    with boa.env.prank(scene.owner):
        scene.escrow.close(lease_id)
    scene.escrow.release(lease_id)
    assert scene.escrow.accounts(scene.key.address, scene.usdc) == 10 * DEPOSIT


def test_deregistration__with_a_lease_open__ends_it(scene: Scene) -> None:
    lease_id = scene.open(expiry=scene.market.now() + 20 * DAY)
    with boa.env.prank(scene.owner):
        scene.market.staking.start_cooldown(1)
    assert scene.escrow.lease(lease_id).closes_at == scene.market.now() + 6 * DAY


def test_settle__every_reason_to_skip__is_told(scene: Scene) -> None:
    lease_id, closed = scene.open(), scene.open()
    with boa.env.prank(scene.owner):
        scene.escrow.close(closed)
    voucher = scene.market.voucher
    batch = [
        voucher(b"\x01" * 32, scene.session, 1),
        voucher(closed, scene.session, 1),
        voucher(lease_id, scene.session, 0),
        voucher(lease_id, scene.node, 1),
        (*voucher(lease_id, scene.session, 1)[:3], ZERO32, b"\xff" * 32),
        voucher(lease_id, scene.session, 1_000),
    ]
    scene.escrow.settle(scene.provider, scene.usdc, batch)
    assert [log.reason for log in scene.escrow.get_logs() if hasattr(log, "reason")] == [1, 2, 3, 4, 4]
    assert scene.escrow.lease(lease_id).settled == 1_000


def test_earnings__of_many_days__mature_fall_free_and_are_collected(scene: Scene) -> None:
    lease_id = scene.open(expiry=scene.market.now() + 25 * DAY)
    for day in range(10):
        scene.settle(lease_id, (day + 1) * 1_000)
        boa.env.time_travel(seconds=DAY)
    held, free = scene.earnings()
    assert held + free == 9_500
    assert held == 3 * 950
    assert sum(word % 2**128 for word in scene.escrow.held_words(scene.provider, scene.usdc)) == 8 * 950
    scene.escrow.collect(scene.provider, scene.usdc)
    assert scene.escrow.accounts(scene.owner, scene.usdc) == free
    scene.escrow.collect_fees(scene.usdc)
    assert scene.escrow.accounts(scene.market.treasury, scene.usdc) == 250
    scene.market.staking.pull_fees(scene.usdc)
    assert scene.market.usdc.balanceOf(scene.market.staking.address) == 250


def test_rulings__freeze_pay_and_refund__move_held_earnings_alone(scene: Scene) -> None:
    lease_id = scene.open(expiry=scene.market.now() + 25 * DAY)
    for day in range(2):
        scene.settle(lease_id, (day + 1) * 10_000)
        boa.env.time_travel(seconds=DAY)
    with boa.env.prank(scene.market.arbitration):
        assert scene.escrow.freeze(DISPUTE, lease_id, 12_000) == 12_000
        assert scene.escrow.returned(lease_id) == (0, 12_000)
        with boa.reverts("adjudication: lease has a freeze"):
            scene.escrow.freeze(b"\xd2" * 32, lease_id, 1)
        scene.escrow.pay_pot(DISPUTE, 4_000)
        assert scene.escrow.returned(lease_id) == (4_000, 0)
        assert scene.escrow.refund(lease_id, 1_000) == 1_000
        assert scene.earnings() == (19_000 - 5_000, 0)
        scene.escrow.freeze(b"\xd3" * 32, lease_id, 5_000)
    boa.env.time_travel(seconds=8 * DAY)
    scene.settle(lease_id, 21_000)
    with boa.env.prank(scene.market.arbitration):
        scene.escrow.pay_pot(b"\xd3" * 32, 0)
    assert sum(scene.earnings()) == 19_000 - 5_000 + 950


def test_domain__as_erc_5267_gives_it__makes_the_separator(scene: Scene) -> None:
    fields = scene.escrow.eip712Domain()
    assert tuple(fields)[1:3] == ("OpenClaw Compute Market", "1")
    assert fields[4] == scene.escrow.address
    assert bytes(scene.escrow.domain_separator()) == scene.market.domain.separator


def test_anchors_and_lens__shown_and_proved(scene: Scene) -> None:
    market, node = scene.market, scene.node
    ledger = MountainRange()
    leaves = [keccak(bytes([number])) for number in range(7)]
    for leaf in leaves:
        ledger.append(leaf)
    lens = deployer(CONTRACTS, "Lens").deploy(
        *(part.address for part in (market.params, market.registry, market.staking, market.escrow, market.anchor))
    )

    def anchor(count: int, by: Signer, previous: tuple[int, bytes] = (0, ZERO32)) -> tuple[Any, ...]:
        root = ledger.root(min(count, 7))
        message = Anchor(provider=scene.provider, count=count, root=root)
        return (scene.provider, *previous, count, root, *by.sign(market.domain, message).compact())

    first = anchor(3, node)
    bad = [anchor(7, node), anchor(3, node, (3, ledger.root(3))), anchor(7, scene.key, (3, ledger.root(3)))]
    market.anchor.submit([first, *bad])
    assert [log.reason for log in market.anchor.get_logs() if hasattr(log, "reason")] == [1, 2, 3]
    market.anchor.submit([anchor(7, node, (3, ledger.root(3)))])
    for index, leaf in enumerate(leaves):
        assert lens.is_anchored(scene.provider, 7, ledger.root(), index, leaf, ledger.inclusion_proof(index))
    shown = lens.provider(scene.provider)
    assert (shown.owner, shown.node_key, shown.is_registered) == (scene.owner, node.address, True)
    assert bytes(shown.latest_anchor) == keccak((7).to_bytes(32, "big") + ledger.root())
    lease_id = scene.open()
    assert lens.leases_of([lease_id])[0].deposit == DEPOSIT
    assert lens.account(scene.key.address, [scene.usdc])[0].balance == 9 * DEPOSIT


def test_registry__rotated_key_and_updated_offer__are_shown(scene: Scene) -> None:
    market, fresh = scene.market, signer("fresh")
    registry = market.registry
    proof = fresh.sign(market.domain, NodeKey(owner=scene.owner)).compact()
    with boa.env.prank(scene.owner):
        registry.rotate_node_key(scene.provider, fresh.address, *proof)
        offer, version, is_open = registry.offer(scene.provider, 1)
        registry.update_offer(scene.provider, 1, tuple(offer))
        registry.set_offer_open(scene.provider, 1, False)
    assert registry.key_record(scene.node.address)[2] == market.now()
    assert (version, is_open) == (1, True)
    found = registry.lease_offer(scene.provider, 1)
    assert (found.version, found.is_open, bytes(found.terms_digest)) == (2, False, TERMS)


def test_arbitration__any_call__is_refused() -> None:
    nobody = "0x" + "00" * 20
    arbitration = deployer(CONTRACTS, "Arbitration").deploy(nobody, nobody, nobody)
    with boa.reverts("arbitration: not in this deployment"):
        arbitration.__default__()
