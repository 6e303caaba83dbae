"""Floods, slow and huge requests, queries that take too long."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from indexer.api.errors import ApiError
from indexer.api.guard import MAX_URL
from indexer.api.rate_limit import MAX_CLIENTS, RateLimit, client_of
from indexer.api.readers import open_reader
from indexer.api.readers.base import STATEMENT_S
from indexer.api.server import HEAD_S, MAX_HEAD, STALLED_S
from tests.indexer.api.served import ANSWER_S, Served, serving
from tests.indexer.market import Market


@pytest.fixture
def strict(traded: Market, tmp_path: Path) -> Iterator[Served]:
    """Two requests a second, eight at once, behind one proxy."""
    with serving(tmp_path, traded, "strict.sqlite", "rate_per_s = 2\nforwarded_hops = 1") as found:
        yield found


def connect(served: Served) -> socket.socket:
    url = served.client.base_url
    return socket.create_connection((url.host, url.port), timeout=ANSWER_S)


def answer_to(connection: socket.socket) -> bytes:
    """All until the server ends the connection."""
    found = b""
    while part := connection.recv(65536):
        found += part
    return found


def test_flood__of_one_client__is_429_with_retry_after_and_others_are_served(strict: Served) -> None:
    def ask(client: str) -> int:
        answer = strict.client.get("/v1/nothing", headers={"X-Forwarded-For": f"9.9.9.9, {client}"})
        if answer.status_code == 429:
            assert answer.headers["retry-after"] == "1"
            assert answer.json()["error"]["code"] == "rate_limited"
        return answer.status_code

    flood = [ask("192.0.2.1") for _ in range(40)]
    assert flood[:8] == [404] * 8
    assert 429 in flood
    assert ask("192.0.2.2") == 404
    assert strict.client.get("/health", headers={"X-Forwarded-For": "192.0.2.1"}).status_code == 200


def test_forwarded_for__without_a_proxy__changes_nothing() -> None:
    assert client_of("192.0.2.9", "192.0.2.1", 0) == "192.0.2.9"
    assert client_of("192.0.2.9", "forged, 192.0.2.1", 1) == "192.0.2.1"
    assert client_of("192.0.2.9", "forged, 192.0.2.1, 192.0.2.2", 2) == "192.0.2.1"
    assert client_of("192.0.2.9", "no address", 1) == "192.0.2.9"
    assert client_of("2001:db8::1", "", 0) == client_of("2001:db8::2", "", 0) != client_of("2001:db8:0:1::1", "", 0)
    assert client_of("::ffff:192.0.2.1", "", 0) == "192.0.2.1"


def test_rate_limit__refills_by_time_and_forgets_who_is_gone() -> None:
    now = [0.0]
    limit = RateLimit(2.0, lambda: now[0])
    assert [limit.take("a") for _ in range(9)] == [0.0] * 8 + [0.5]
    now[0] = 0.5
    assert [limit.take("a"), limit.take("a")] == [0.0, 0.5]
    for number in range(MAX_CLIENTS + 10):
        limit.take(str(number))
    assert len(limit) == MAX_CLIENTS


def test_address__too_long__is_414(served: Served) -> None:
    answer = served.client.get("/v1/leases?after=" + "A" * MAX_URL)
    assert (answer.status_code, answer.json()["error"]["code"]) == (414, "url_too_long")


def test_head__too_long__is_431_and_ends_the_connection(served: Served) -> None:
    with connect(served) as connection:
        connection.sendall(b"GET /v1/leases HTTP/1.1\r\nHost: x\r\n")
        line, sent = b"X-More: " + b"y" * 1000 + b"\r\n", 0
        with contextlib.suppress(OSError):
            while sent < MAX_HEAD * 1000:
                connection.sendall(line)
                sent += len(line)
        try:
            found = answer_to(connection)
        except ConnectionResetError:
            found = b""
    assert not found or found.startswith(b"HTTP/1.1 431")
    assert sent < MAX_HEAD * 1000
    assert served.client.get("/v1/leases").status_code == 200


@pytest.mark.parametrize("first", [b"", b"GET /v1/leases HTTP/1.1\r\nHost: x\r\n\r\n"], ids=["new", "kept alive"])
def test_head__too_slow__is_ended_while_others_are_served(served: Served, first: bytes) -> None:
    with connect(served) as connection:
        connection.sendall(first + b"GET /v1/leases HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        started = time.monotonic()
        assert served.client.get("/v1/leases").status_code == 200
        found = answer_to(connection)
    assert time.monotonic() - started > HEAD_S / 2
    assert found.count(b"HTTP/1.1 200") == bool(first)
    assert b"HTTP/1.1 408" in found


def test_client__that_takes_no_answers__is_ended(served: Served) -> None:
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(STALLED_S * 6)
        url = served.client.base_url
        connection.connect((url.host, url.port))
        request = b"GET /v1/logs?limit=200 HTTP/1.1\r\nHost: x\r\n\r\n"
        with pytest.raises(OSError):  # noqa: PT011, PT012 - reset, or broken pipe
            while True:
                connection.sendall(request)
    assert served.client.get("/v1/leases").status_code == 200


def test_query__that_takes_too_long__is_ended(served: Served) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"

    async def run() -> None:
        reader = open_reader(served.config)
        await reader.open()
        try:
            started = time.monotonic()
            with pytest.raises(ApiError) as caught:
                await reader.fetch(endless, ())
            assert caught.value.code == "query_timeout"
            assert time.monotonic() - started >= STATEMENT_S * 0.9
            assert await reader.fetch("SELECT 1", ()) == [(1,)]
        finally:
            await reader.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    "statement", ["DELETE FROM lease", "CREATE TABLE mine (i INTEGER)", "UPDATE cursor SET final = 0"]
)
def test_reader__cannot_write(served: Served, statement: str) -> None:
    async def run() -> None:
        reader = open_reader(served.config)
        await reader.open()
        try:
            with pytest.raises(ApiError):
                await reader.fetch(statement, ())
        finally:
            await reader.close()

    asyncio.run(run())
    assert served.client.get("/v1/leases").json()["data"]
