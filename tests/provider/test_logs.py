"""Logs: machine-readable off a terminal, readable on one, and without secrets in both."""

import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog

from protocol.headers import Signed
from protocol.signing import Signer
from protocol.typed_data import Domain, Voucher
from provider.observing import logs

DOMAIN = Domain(31337, "0x5FC8d32690cc91D4c39d9d3abcBD16989F875707")
SIGNER = Signer(b"\x5a" * 32)
VOUCHER = Voucher(b"\x01" * 32, 5, b"\0" * 32)
WIRE = Signed(VOUCHER, SIGNER.sign(DOMAIN, VOUCHER)).encode()
SIGNATURE = WIRE.rpartition("0x")[2]
PEM = "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMG\n-----END PRIVATE KEY-----"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()
    logs._hidden.clear()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_off_a_terminal__every_logger__writes_one_json_line() -> None:
    stream = io.StringIO()
    logs.set_up_logging(stream)
    logging.getLogger("provider.worker").info("provider %d serves on %s", 7, "http://127.0.0.1:8080")
    structlog.get_logger("a").warning("settled", lease="0x" + "01" * 32, units=5)
    logging.getLogger("uvicorn.error").error("broken", exc_info=ValueError("a fault\nof two lines"))
    plain, structured, fault = lines(stream)
    assert (plain["event"], plain["level"]) == ("provider 7 serves on http://127.0.0.1:8080", "info")
    assert plain["logger"] == "provider.worker"
    assert (structured["lease"], structured["units"]) == ("0x" + "01" * 32, 5)
    assert "a fault\nof two lines" in fault["exception"]


def test_on_a_terminal__lines_for_people() -> None:
    stream = Terminal()
    logs.set_up_logging(stream)
    logging.getLogger("provider.worker").info("provider %d serves", 7)
    assert "provider 7 serves" in stream.getvalue()
    assert "{" not in stream.getvalue()


def test_debug_and_chatty_libraries__are_left_out() -> None:
    stream = io.StringIO()
    logs.set_up_logging(stream)
    logging.getLogger("httpx").info("HTTP Request: POST http://key@rpc.example")
    logging.getLogger("provider").debug("x")
    assert stream.getvalue() == ""


class Request:
    """What somebody might log in haste."""

    def __repr__(self) -> str:
        return f"Request(Authorization: Bearer abcdefgh12345, voucher={WIRE}, password='hunter22')"


SECRETS = ["abcdefgh12345", SIGNATURE, "hunter22", "MIGHAgEAMBMG", "5a" * 32, "tell me my fortune", "rpc-user"]
MISTAKES: list[Callable[[logging.Logger, Any], None]] = [
    lambda plain, _: plain.info("request %r", Request()),
    lambda plain, _: plain.info(f"request {Request()!r}"),
    lambda plain, _: plain.warning("headers %s", {"Authorization": "Bearer abcdefgh12345", "x": [WIRE]}),
    lambda plain, _: plain.warning("the key is %s", "0x" + "5a" * 32),
    lambda plain, _: plain.warning("from %s", "https://rpc-user:hunter22@rpc.example/v1"),
    lambda plain, _: plain.error("tls: %s", PEM),
    lambda _, structured: structured.info("asked", prompt="tell me my fortune", messages=[{"content": "my fortune"}]),
    lambda _, structured: structured.info("ask", request={"body": {"a": "tell me my fortune"}, "password": "hunter22"}),
    lambda _, structured: structured.info("raw", data=SIGNER.private_key, node_key="5a" * 32),
    lambda _, structured: structured.info("seen", voucher=WIRE, header=[f"x={WIRE}"]),
    lambda _, structured: structured.info("set", environment=["CLAWMARKET_PASSWORD=hunter22"]),
]  # fmt: skip


def write_mistakes(stream: io.StringIO) -> str:
    logs.set_up_logging(stream)
    logs.hide(SIGNER.private_key.hex(), "hunter22")
    plain, structured = logging.getLogger("provider.haste"), structlog.get_logger("provider.haste")
    for mistake in MISTAKES:
        mistake(plain, structured)
    plain.error("failed", exc_info=ValueError(f"bad header {WIRE} by password=hunter22"))
    return stream.getvalue()


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_secrets__logged_by_mistake__are_blotted_out(stream: type[io.StringIO]) -> None:
    written = write_mistakes(stream())
    assert [secret for secret in SECRETS if secret in written] == []
    assert written.count(logs.BLOT) >= len(MISTAKES)


def test_secrets__without_the_redaction__would_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: the same mistakes, the processor taken out."""
    monkeypatch.setattr(logs, "redact", lambda _, __, event: {key: str(value) for key, value in event.items()})
    written = write_mistakes(io.StringIO())
    missing = [secret for secret in SECRETS if secret not in written]
    assert missing == []


def test_what_is_needed__stays() -> None:
    lease = "0x" + "ab" * 32
    text = f"settlement of lease {lease}: 5 USDC at nonce 7, tokens 40, transaction {lease}"
    assert logs.clean_text(text) == text
