"""Logs: lines for people on a terminal, JSON elsewhere, and nothing secret in either.

Every logger of the process goes through here, the libraries' too. What looks like a key, a password, an Authorization
header or a signature is blotted out wherever it stands: in a message, its arguments, a field, an exception's text.
"""

import logging
import re
import sys
from collections.abc import Mapping
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

BLOT = "[redacted]"
_SECRET_NAMES = frozenset(
    {
        "api_key", "apikey", "authorization", "body", "content", "cookie", "headers", "key", "messages", "mnemonic",
        "passphrase", "password", "private_key", "prompt", "salt", "secret", "seed", "signature", "signed", "text",
        "token", "voucher",
    }
)  # fmt: skip
"""Fields by these names, or ending in `_` and one of them, are never shown."""
_SECRET_TEXTS = (
    # a signature of 64 or 65 bytes, or a wire header with one
    re.compile(r"(?:0x)?[0-9a-fA-F]{126,}"),
    re.compile(r"(?i)\b(authorization|proxy-authorization|cookie|x-api-key)\b(['\"]?\s*[:=]\s*['\"]?)[^\s,;'\"}]+"
               r"(?: [^\s,;'\"}]+)?"),
    re.compile(r"(?i)\b(bearer|basic)( )[A-Za-z0-9+/=._~-]{6,}"),
    re.compile(r"(?i)\b(pass(?:word|phrase|wd)?|secret|private[_ -]?key|api[_-]?key|mnemonic)"
               r"(['\"]?\s*[:=]\s*['\"]?)[^\s,;'\"}]+"),
    # credentials in an address
    re.compile(r"(?i)\b([a-z][a-z0-9+.-]*)(://)[^\s/@]+@"),
    # a private key's own form
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL),
    re.compile(r"(?i)\b(sk-)()[A-Za-z0-9_-]{8,}"),
)  # fmt: skip
_MAX_DEPTH = 6
_MIN_HIDDEN = 4
_hidden: set[str] = set()


def hide(*secrets: str) -> None:
    """Texts this process must never log: its password, its keys in hex. Very short ones would blot out everything."""
    _hidden.update(secret.removeprefix("0x") for secret in secrets if len(secret) >= _MIN_HIDDEN)


def set_up_logging(stream: TextIO | None = None) -> None:
    """Routes all logging of the process to `stream` (standard error): coloured lines on a terminal, else JSON."""
    target = stream or sys.stderr
    for_people = target.isatty()
    shared: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="%H:%M:%S" if for_people else "iso", utc=not for_people),
        structlog.stdlib.PositionalArgumentsFormatter(),
    ]
    render: Processor = structlog.processors.JSONRenderer(ensure_ascii=False)
    if for_people:
        render = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    last: list[Processor] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.processors.format_exc_info,
        redact,
        render,
    ]
    handler = logging.StreamHandler(target)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=last))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):  # it brings handlers of its own
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    for noisy in ("httpx", "httpcore", "web3", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


def redact(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """A processor: the same event without secrets."""
    return {name: _clean(name, value, _MAX_DEPTH) for name, value in event.items()}


def clean_text(text: str) -> str:
    """A text without what looks like a secret."""
    for secret in _hidden:
        text = text.replace(secret, BLOT)
    for pattern in _SECRET_TEXTS:
        text = pattern.sub(_blot, text)
    return text


def _blot(found: re.Match[str]) -> str:
    return "".join(group or "" for group in found.groups()) + BLOT


def _clean(name: str, value: Any, depth: int) -> Any:
    lowered = name.lower().replace("-", "_")
    if lowered in _SECRET_NAMES or any(lowered.endswith(f"_{secret}") for secret in _SECRET_NAMES):
        return BLOT
    if isinstance(value, (bool, int, float)) or value is None:
        return value
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"{BLOT} {len(value)} bytes"
    if depth == 0:
        return BLOT
    if isinstance(value, Mapping):
        return {str(key): _clean(str(key), inner, depth - 1) for key, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_clean("", inner, depth - 1) for inner in value]
    return clean_text(str(value))
