"""Who may call what: every function that changes state, of every contract, for every role.

All calls are `eth_call`s on one prepared state, in which each function has somebody who may call it. A function that is
in an ABI but not in the matrix fails a test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from eth_account import Account

from protocol.chain.abi import ContractAbi, revert_reason
from protocol.chain.exceptions import RpcRejected
from protocol.chain.rpc import RpcPool
from protocol.typed_data import Message
from scripts.deploy import rpc_of
from tests.contracts.ape.market import CLAW, DAY, UNLIMITED, USD, ZERO32, Market, signer_named, signer_of
from tests.contracts.ape.test_deposit import permit

ROLES = (
    "deployer",  # owns Params and ClawToken
    "provider_owner",
    "node_key",
    "lease_owner",
    "session_key",
    "staker",  # has a stake, a finished cooldown and the offer to own Params and ClawToken
    "arbitration",
    "registry",
    "staking",
    "stranger",
)
EVERYBODY = frozenset(ROLES)
CONTRACTS = (
    "claw",
    "usdc",
    "params",
    "registry",
    "staking",
    "escrow",
    "usage_anchor",
    "arbitration",
    "lens",
)
DISPUTE = b"\xd1" * 32


@dataclass(frozen=True)
class Stage:
    """The prepared state; `lease` is open, `disputed` has an open pot, `closed` waits for its release."""

    market: Market
    actors: Mapping[str, Any]
    rpc: RpcPool
    lease: bytes
    disputed: bytes
    closed: bytes

    def address(self, role: str) -> str:
        return str(self.actors[role].address)

    def outcome(self, role: str, contract: str, data: bytes) -> str:
        """ "allowed", or why the call reverts."""
        target = getattr(self.market.contracts, contract)
        call = {"from": self.address(role), "to": target.address, "data": "0x" + data.hex()}
        answer = self.rpc.batch([("eth_call", [call, "latest"])])[0]
        if not isinstance(answer, RpcRejected):
            return "allowed"
        abi = ContractAbi(contract, [entry.model_dump(mode="json") for entry in target.contract_type.abi])
        return revert_reason(bytes.fromhex((answer.data or "0x")[2:]), [abi])


Arguments = Callable[[Stage, str], tuple[Any, ...]]


@dataclass(frozen=True)
class Rule:
    """Who may make this call, and what the others, or single ones of them, are told."""

    arguments: Arguments
    allowed: frozenset[str] = EVERYBODY
    refusal: str = ""
    exceptions: Mapping[str, str] = field(default_factory=dict)

    def expected(self, role: str) -> str:
        if role in self.exceptions:
            return self.exceptions[role]
        return "allowed" if role in self.allowed else self.refusal


def fixed(*values: Any) -> Arguments:
    return lambda stage, role: values


def only(*roles: str) -> frozenset[str]:
    return frozenset(roles)


def open_request(stage: Stage, role: str, *, signed: bool) -> tuple[Any, ...]:
    request = stage.market.request()
    signature = signer_of(stage.market.consumer).sign(stage.market.domain, request).to_bytes() if signed else b""
    return request.as_tuple(), signature


def registration(stage: Stage, role: str) -> tuple[Any, ...]:
    key = signer_named("node of the matrix")
    return (key.address, *stage.market.sign_node_key(stage.actors[role], key), ZERO32)


def rotation(stage: Stage, role: str) -> tuple[Any, ...]:
    key = signer_named("node of the matrix")
    return (stage.market.provider, key.address, *stage.market.sign_node_key(stage.market.provider_owner, key))


def usdc_permit(stage: Stage, role: str) -> tuple[Any, ...]:
    market = stage.market
    return (market.consumer, market.escrow, USD, *permit(market, market.consumer, USD))


def claw_permit(stage: Stage, role: str) -> tuple[Any, ...]:
    market, token = stage.market, stage.market.claw
    deadline = market.now() + 600
    signed = sign_for_consumer(
        market,
        {"name": "OpenClaw", "version": "1", "verifyingContract": token.address},
        "Permit",
        [
            ("owner", "address", market.consumer.address),
            ("spender", "address", market.escrow.address),
            ("value", "uint256", 1),
            ("nonce", "uint256", token.nonces(market.consumer)),
            ("deadline", "uint256", deadline),
        ],
    )
    return (market.consumer, market.escrow, 1, deadline, *signed)


def delegation(stage: Stage, role: str) -> tuple[Any, ...]:
    market = stage.market
    expiry = market.now() + 600
    signed = sign_for_consumer(
        market,
        {"name": "OpenClaw Staking", "version": "1", "verifyingContract": market.staking.address},
        "Delegation",
        [
            ("delegatee", "address", market.stranger.address),
            ("nonce", "uint256", market.staking.nonces(market.consumer)),
            ("expiry", "uint256", expiry),
        ],
    )
    return (market.stranger, market.staking.nonces(market.consumer), expiry, *signed)


def sign_for_consumer(
    market: Market, domain: dict[str, Any], name: str, members: list[tuple[str, str, Any]]
) -> tuple[int, bytes, bytes]:
    signed = Account.sign_typed_data(
        market.consumer.private_key,
        domain | {"chainId": market.domain.chain_id},
        {name: [{"name": member, "type": kind} for member, kind, _ in members]},
        {member: value for member, _, value in members},
    )
    return signed.v, signed.r.to_bytes(32, "big"), signed.s.to_bytes(32, "big")


def of_market(build: Callable[[Market], tuple[Any, ...]]) -> Arguments:
    return lambda stage, role: build(stage.market)


def own_account(stage: Stage, role: str) -> tuple[Any, ...]:
    return stage.market.usdc, 1, stage.market.deployer


NOT_OWNER = "ownable: caller is not the owner"
NOT_PROVIDER = "registry: caller is not the owner"
NOT_ARBITRATION = "adjudication: not arbitration"
NO_ALLOWANCE = "erc20: insufficient allowance"

OWNERSHIP = {
    "transfer_ownership": Rule(of_market(lambda m: (m.stranger,)), only("deployer"), NOT_OWNER),
    "accept_ownership": Rule(fixed(), only("staker"), "ownable_2step: caller is not the new owner"),
    "renounce_ownership": Rule(fixed(), only("deployer"), NOT_OWNER),
}

MATRIX: dict[str, dict[str, Rule]] = {
    "claw": {
        **OWNERSHIP,
        "transfer": Rule(of_market(lambda m: (m.deployer, 1))),
        "approve": Rule(of_market(lambda m: (m.deployer, 1))),
        "transferFrom": Rule(of_market(lambda m: (m.escrow, m.stranger, 1)), only(), NO_ALLOWANCE),
        "burn": Rule(fixed(1)),
        "burn_from": Rule(of_market(lambda m: (m.escrow, 1)), only(), NO_ALLOWANCE),
        "permit": Rule(claw_permit),
        "mint": Rule(of_market(lambda m: (m.stranger, 1)), only("deployer"), NOT_OWNER),
    },
    "usdc": {
        "transfer": Rule(of_market(lambda m: (m.deployer, 1))),
        "approve": Rule(of_market(lambda m: (m.deployer, 1))),
        "transferFrom": Rule(of_market(lambda m: (m.deployer, m.stranger, 1)), only(), "ERC20InsufficientAllowance"),
        "permit": Rule(usdc_permit),
        "mint": Rule(of_market(lambda m: (m.stranger, 1))),
    },
    "params": {
        **OWNERSHIP,
        "set": Rule(fixed(0, 600), only("deployer"), NOT_OWNER),
        "list_token": Rule(of_market(lambda m: (m.usdc, False)), only("deployer"), NOT_OWNER),
        "set_treasury": Rule(of_market(lambda m: (m.stranger,)), only("deployer"), NOT_OWNER),
    },
    "registry": {
        "register": Rule(
            registration,
            only("staker"),
            "registry: stake too low",
            {"provider_owner": "registry: already registered"},
        ),
        "set_metadata": Rule(of_market(lambda m: (m.provider, ZERO32)), only("provider_owner"), NOT_PROVIDER),
        "rotate_node_key": Rule(rotation, only("provider_owner"), NOT_PROVIDER),
        "create_offer": Rule(
            of_market(lambda m: (m.provider, m.offer.as_tuple())), only("provider_owner"), NOT_PROVIDER
        ),
        "update_offer": Rule(
            of_market(lambda m: (m.provider, 1, m.offer.as_tuple())), only("provider_owner"), NOT_PROVIDER
        ),
        "set_offer_open": Rule(of_market(lambda m: (m.provider, 1, False)), only("provider_owner"), NOT_PROVIDER),
        "deregister": Rule(
            of_market(lambda m: (m.provider_owner,)), only("staking"), "registry: caller is not Staking"
        ),
    },
    "staking": {
        "delegate": Rule(of_market(lambda m: (m.stranger,))),
        "delegateBySig": Rule(delegation),
        "stake": Rule(fixed(1), EVERYBODY),
        "start_cooldown": Rule(fixed(1), only("provider_owner", "staker"), "staking: amount above active stake"),
        "withdraw": Rule(of_market(lambda m: (m.deployer,)), only("staker"), "staking: nothing in cooldown"),
        "pull_fees": Rule(of_market(lambda m: (m.usdc,))),
        "claim": Rule(of_market(lambda m: (m.usdc, m.deployer))),
        "slash": Rule(
            of_market(lambda m: (ZERO32, m.provider_owner, 1, False, m.stranger, 0)),
            only("arbitration"),
            "staking: caller is not Arbitration",
        ),
    },
    "escrow": {
        "deposit": Rule(of_market(lambda m: (m.usdc, 1, m.stranger))),
        "deposit_with_permit": Rule(of_market(lambda m: (m.usdc, 1, 0, 0, ZERO32, ZERO32))),
        "withdraw": Rule(own_account),
        "open_lease": Rule(lambda stage, role: open_request(stage, role, signed=True)),
        "open_lease (unsigned)": Rule(
            lambda stage, role: open_request(stage, role, signed=False), only("lease_owner"), "leases: bad signature"
        ),
        "bump_nonce": Rule(fixed()),
        "top_up": Rule(lambda stage, role: (stage.lease, 1)),
        "close": Rule(lambda stage, role: (stage.lease,), only("lease_owner", "provider_owner"), "leases: not a party"),
        "revoke": Rule(lambda stage, role: (stage.lease,), only("lease_owner"), "leases: not a party"),
        "release": Rule(lambda stage, role: (stage.closed,)),
        "end_leases": Rule(of_market(lambda m: (m.provider,)), only("registry"), "leases: not the registry"),
        "collect": Rule(of_market(lambda m: (m.provider, m.usdc))),
        "settle": Rule(lambda stage, role: (stage.market.provider, stage.market.usdc, [voucher(stage)])),
        "collect_fees": Rule(of_market(lambda m: (m.usdc,))),
        "freeze": Rule(lambda stage, role: (b"\xd2" * 32, stage.lease, 1), only("arbitration"), NOT_ARBITRATION),
        "pay_pot": Rule(fixed(DISPUTE, 1), only("arbitration"), NOT_ARBITRATION),
        "refund": Rule(lambda stage, role: (stage.lease, 1), only("arbitration"), NOT_ARBITRATION),
    },
    "usage_anchor": {"submit": Rule(of_market(lambda m: ([m.anchor(1, b"\x01" * 32)],)))},
    "arbitration": {"fallback": Rule(fixed(), only(), "arbitration: not in this deployment")},
    "lens": {},
}
CELLS = [(contract, function) for contract, rules in MATRIX.items() for function in rules]


def voucher(stage: Stage) -> tuple[Any, ...]:
    return stage.market.voucher(stage.lease, 60 * USD)


@pytest.fixture(scope="module")
def stage(market: Market, accounts: Any) -> Iterator[Stage]:
    """Everybody has money in wallet and account; earnings have matured, others are held, a cooldown is over."""
    provider = market.chain.provider
    unlocked = (market.node.address, market.session.address, market.registry.address, market.staking.address)
    for address in unlocked:
        provider.set_balance(address, 10**20)
    actors = {
        "deployer": market.deployer,
        "provider_owner": market.provider_owner,
        "node_key": accounts[market.node.address],
        "lease_owner": market.consumer,
        "session_key": accounts[market.session.address],
        "staker": accounts[4],
        "arbitration": market.arbitration,
        "registry": accounts[market.registry.address],
        "staking": accounts[market.staking.address],
        "stranger": market.stranger,
    }
    market.stake(actors["staker"], 10_001 * CLAW)
    market.staking.start_cooldown(CLAW, sender=actors["staker"])
    expiry = market.now() + 29 * DAY
    lease, disputed = market.settled_lease(expiry=expiry), market.settled_lease(expiry=expiry)
    market.travel(22 * DAY)
    market.settle(market.voucher(lease, 50 * USD), market.voucher(disputed, 50 * USD))
    closed = market.open()
    market.escrow.close(closed, sender=market.provider_owner)
    market.escrow.freeze(DISPUTE, disputed, USD, sender=market.arbitration)
    for token in (market.params, market.claw):
        token.transfer_ownership(actors["staker"], sender=market.deployer)
    for role, actor in actors.items():
        market.deposit(actor, 10 * USD)
        market.give(market.usdc, actor, 10 * USD)
        if role != "deployer":
            market.claw.transfer(actor, CLAW, sender=market.deployer)
        market.claw.approve(market.staking, UNLIMITED, sender=actor)
    with rpc_of(provider) as rpc:
        yield Stage(market, actors, rpc, lease, disputed, closed)


def state_changing(contract: Any) -> set[str]:
    """Names of what a contract's ABI lets others change."""
    names = set()
    for entry in contract.contract_type.abi:
        if entry.type == "function" and entry.stateMutability in ("nonpayable", "payable"):
            names.add(entry.name)
        elif entry.type in ("fallback", "receive"):
            names.add(entry.type)
    return names


@pytest.mark.parametrize("contract", CONTRACTS)
def test_matrix__every_function_of_the_abi__has_a_row(market: Market, contract: str) -> None:
    rows = {name.partition(" ")[0] for name in MATRIX[contract]}
    assert rows == state_changing(getattr(market.contracts, contract))


def test_matrix__every_contract__is_in_it(market: Market) -> None:
    assert set(MATRIX) == set(CONTRACTS) == set(vars(market.contracts))


@pytest.mark.parametrize(("contract", "function"), CELLS, ids=[f"{c}.{f}" for c, f in CELLS])
def test_call__by_each_role__is_as_the_matrix_says(stage: Stage, contract: str, function: str) -> None:
    rule = MATRIX[contract][function]
    found = {}
    for role in ROLES:
        arguments = rule.arguments(stage, role)
        data = encode(stage, contract, function, arguments)
        found[role] = stage.outcome(role, contract, data).partition("(")[0]
    assert found == {role: rule.expected(role) for role in ROLES}


def encode(stage: Stage, contract: str, function: str, arguments: tuple[Any, ...]) -> bytes:
    if function == "fallback":
        return b"\x01\x02\x03\x04"
    plain = [value.as_tuple() if isinstance(value, Message) else value for value in arguments]
    # Not getattr: Ape's own attributes hide functions of the same name, such as `delegate`.
    handler = getattr(stage.market.contracts, contract)._mutable_methods_[function.partition(" ")[0]]
    return bytes(handler.encode_input(*plain))
