"""Decoding of logs, calls, results and revert reasons, without a node."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from eth_abi.abi import encode
from hypothesis import given
from hypothesis import strategies as st

from protocol.chain.abi import ContractAbi, load_abi, revert_reason, topic
from protocol.chain.events import EventDecoder
from protocol.chain.exceptions import DeploymentError, MalformedAnswer, MalformedLog
from protocol.chain.views import RawLog
from protocol.exceptions import InvalidField
from protocol.hashing import keccak
from tests.protocol.chain.probe import probe_abi

ADDRESS = "0x" + "44" * 20
CALLER = "0x" + "11" * 20
TYPES = ["uint256", "string", "(address,uint96)"]
DECODER = EventDecoder({ADDRESS: probe_abi()})


def bumped(count: int = 3, note: str = "hello") -> RawLog:
    return RawLog(
        address=ADDRESS,
        topics=(
            DECODER.topic_of("Probe", "Bumped"),
            bytes(12) + bytes.fromhex(CALLER[2:]),
            (9).to_bytes(32, "big"),
            keccak(b"bump"),
        ),
        data=encode(TYPES, [count, note, (CALLER, 7)]),
        block_number=5,
        block_hash=b"\x02" * 32,
        tx_hash=b"\x03" * 32,
        tx_index=1,
        log_index=4,
    )


@given(count=st.integers(0, 2**256 - 1), note=st.text(max_size=16))
def test_decode__known_event__gives_its_values_and_place(count: int, note: str) -> None:
    event = DECODER.decode(bumped(count, note))
    assert event is not None
    assert (event.contract, event.name, event.address) == ("Probe", "Bumped", ADDRESS)
    assert (event.block_number, event.block_hash, event.tx_hash) == (5, b"\x02" * 32, b"\x03" * 32)
    assert (event.tx_index, event.log_index) == (1, 4)
    assert list(event.args.items()) == [
        ("caller", CALLER),
        ("slot", 9),
        ("label", keccak(b"bump")),
        ("count", count),
        ("note", note),
        ("pair", {"who": CALLER, "amount": 7}),
    ]


def test_event__cannot_be_changed() -> None:
    event = DECODER.decode(bumped())
    assert event is not None
    with pytest.raises(TypeError):
        event.args["count"] = 1  # type: ignore[index]


@pytest.mark.parametrize(
    "log",
    [
        replace(bumped(), topics=()),
        replace(bumped(), topics=(b"\x09" * 32,)),
        replace(bumped(), address="0x" + "45" * 20),
    ],
)
def test_decode__unknown_topic_or_address__is_skipped(log: RawLog) -> None:
    assert DECODER.decode(log) is None
    assert DECODER.decode_all([log, bumped(), log]) == [DECODER.decode(bumped())]


GOOD = bumped()
HUGE_POINTER = GOOD.data[:32] + (2**255).to_bytes(32, "big") + GOOD.data[64:]
SELF_POINTER = GOOD.data[:32] + bytes(32) + GOOD.data[64:]
WIDE_AMOUNT = GOOD.data[:96] + (2**96).to_bytes(32, "big") + GOOD.data[128:]


@pytest.mark.parametrize(
    "log",
    [
        replace(GOOD, topics=GOOD.topics[:3]),
        replace(GOOD, topics=(*GOOD.topics, bytes(32))),
        replace(GOOD, topics=(GOOD.topics[0], b"\xff" * 32, *GOOD.topics[2:])),
        replace(GOOD, data=b""),
        replace(GOOD, data=GOOD.data[:-1]),
        replace(GOOD, data=GOOD.data[:-32]),
        replace(GOOD, data=GOOD.data + bytes(32)),
        replace(GOOD, data=HUGE_POINTER),
        replace(GOOD, data=SELF_POINTER),
        replace(GOOD, data=WIDE_AMOUNT),
        replace(GOOD, data=encode(["uint256", "bytes", "(address,uint96)"], [3, b"\xff\xfe", (CALLER, 7)])),
    ],
)
def test_decode__log_its_abi_cannot_make__is_refused(log: RawLog) -> None:
    with pytest.raises(MalformedLog, match=r"Probe\.Bumped in block 5, log 4"):
        DECODER.decode(log)


@given(data=st.binary(max_size=512))
def test_decode__any_bytes__decode_exactly_or_are_refused(data: bytes) -> None:
    try:
        event = DECODER.decode(replace(GOOD, data=data))
    except MalformedLog:
        return
    assert event is not None
    pair = event.args["pair"]
    assert encode(TYPES, [event.args["count"], event.args["note"], (pair["who"], pair["amount"])]) == data


def test_topic_of__unknown_event__says_what_to_do() -> None:
    with pytest.raises(DeploymentError, match="export the ABIs again"):
        DECODER.topic_of("Probe", "Nothing")


def test_topic__is_the_hash_of_the_signature() -> None:
    entry = next(e for e in probe_abi().events if e["name"] == "Bumped")
    assert topic(entry) == keccak(b"Bumped(address,uint256,string,uint256,string,(address,uint96))")


def test_encode__structs_by_name_position_and_list() -> None:
    abi = probe_abi()
    by_name = abi.encode("sum", [{"amount": 5, "who": CALLER}], True)
    assert by_name == abi.encode("sum", [(CALLER, 5)], True)
    assert by_name[:4] == keccak(b"sum((address,uint96)[],bool)")[:4]


@pytest.mark.parametrize(
    ("function", "args"),
    [
        ("nothing", ()),
        ("bump", (1,)),
        ("bump", ("x", "note")),
        ("bump", (-1, "note")),
        ("bump", (2**256, "note")),
        ("bump", (1, b"\xff")),
        ("sum", ([{"who": CALLER}], True)),
        ("sum", ([{"who": CALLER, "amount": 1, "more": 2}], True)),
        ("sum", ([(CALLER,)], True)),
        ("sum", ([(CALLER, 2**96)], True)),
        ("sum", ([("0x12", 1)], True)),
        ("sum", ([(CALLER, 1)], 2)),
        ("sum", (5, True)),
        ("sum", ([5], True)),
    ],
)
def test_encode__arguments_that_do_not_fit__are_refused(function: str, args: tuple[Any, ...]) -> None:
    with pytest.raises(InvalidField):
        probe_abi().encode(function, *args)


@given(raw=st.binary(max_size=256))
def test_result__any_bytes__decode_or_are_malformed(raw: bytes) -> None:
    call = probe_abi().call(ADDRESS, "sum", [], False)
    try:
        total, pair = call.decode(raw)
    except MalformedAnswer:
        return
    assert 0 <= total < 2**256
    assert 0 <= pair["amount"] < 2**96


def test_revert_reason__in_words() -> None:
    custom = ContractAbi(
        "Token",
        [{"type": "error", "name": "Short", "inputs": [{"name": "have", "type": "uint256"}]}],
    )
    text = keccak(b"Error(string)")[:4]
    panic = keccak(b"Panic(uint256)")[:4]
    short = keccak(b"Short(uint256)")[:4]
    assert revert_reason(text + encode(["string"], ["escrow: lease not active"])) == "escrow: lease not active"
    assert revert_reason(panic + encode(["uint256"], [0x11])) == "panic: arithmetic overflow"
    assert revert_reason(panic + encode(["uint256"], [0x77])) == "panic: 0x77"
    assert revert_reason(short + encode(["uint256"], [5]), [custom]) == "Short(5)"
    assert revert_reason(short, [custom]) == "Short"
    assert revert_reason(b"") == "no reason given"
    assert revert_reason(b"\x01\x02\x03\x04\x05") == "unknown error 0x0102030405"
    assert revert_reason(text + b"\xff" * 40).startswith("unreadable reason 0x08c379a0")


@given(data=st.binary(max_size=200))
def test_revert_reason__any_bytes__is_text(data: bytes) -> None:
    assert revert_reason(data, [probe_abi()])


@pytest.mark.parametrize(
    "content", ["", "{", "{}", "[5]", '[{"type": "function"}]', '["x"]', "[" * 100_000], ids=range(7)
)
def test_load_abi__damaged_file__says_what_to_do(tmp_path: Any, content: str) -> None:
    (tmp_path / "Bad.json").write_text(content, encoding="utf-8")
    with pytest.raises(DeploymentError, match="export the ABIs again"):
        load_abi("Bad", tmp_path)
