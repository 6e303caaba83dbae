"""TLS pins: a gateway talks to the published key and to no other."""

import ssl
from pathlib import Path

import httpx
import pytest

from consumer.tls import WrongTlsKey, pinned_context, spki_pin, unchecked_context, verification, wrong_key
from provider import tls
from tests.support.tls_server import TlsServer, tls_server

SECRET = {"Authorization": "Bearer of-one-consumer"}


def fetch(server: TlsServer, context: ssl.SSLContext | bool) -> str:
    with httpx.Client(verify=context, trust_env=False) as http:
        return http.get(f"{server.url}/question", headers=SECRET).text


async def fetch_async(server: TlsServer, context: ssl.SSLContext | bool) -> str:
    async with httpx.AsyncClient(verify=context, trust_env=False) as http:
        return (await http.get(f"{server.url}/question", headers=SECRET)).text


async def test_pinned__the_published_key__is_talked_to(tmp_path: Path) -> None:
    with tls_server(tmp_path) as server:
        assert fetch(server, pinned_context(server.pin)) == "hello"
        assert await fetch_async(server, pinned_context(server.pin)) == "hello"
        assert len(server.received) == 2


async def test_pinned__another_certificate__learns_nothing(tmp_path: Path) -> None:
    honest = tls.ensure(tmp_path / "honest", ["127.0.0.1"])
    with tls_server(tmp_path / "thief") as thief:
        context = pinned_context(honest.pin)
        with pytest.raises(httpx.ConnectError, match="TLS key is not the one the provider published") as raised:
            fetch(thief, context)
        assert isinstance(wrong_key(raised.value), WrongTlsKey)
        with pytest.raises(httpx.ConnectError, match="TLS key is not the one the provider published") as raised:
            await fetch_async(thief, context)
        assert isinstance(wrong_key(raised.value), WrongTlsKey)
        assert thief.received == []


async def test_without_the_pin_check__the_same_thief_reads_the_request(tmp_path: Path) -> None:
    """The control: what the pin prevents happens without it."""
    tls.ensure(tmp_path / "honest", ["127.0.0.1"])
    with tls_server(tmp_path / "thief") as thief:
        fetch(thief, unchecked_context())
        await fetch_async(thief, unchecked_context())
        assert thief.received == ["GET /question HTTP/1.1 Bearer of-one-consumer"] * 2


def test_verification__no_pin__leaves_it_to_the_authorities(tmp_path: Path) -> None:
    with tls_server(tmp_path) as server, pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        fetch(server, verification(""))


def test_spki_pin__is_the_providers(tmp_path: Path) -> None:
    files = tls.ensure(tmp_path, ["127.0.0.1"])
    assert spki_pin(ssl.PEM_cert_to_DER_cert(files.certificate.read_text())) == files.pin


def test_pinned__renewed_certificate__is_still_the_same_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "VALID_DAYS", 1)
    published = tls.ensure(tmp_path, ["127.0.0.1"]).pin
    monkeypatch.undo()
    with tls_server(tmp_path) as renewed:
        assert fetch(renewed, pinned_context(published)) == "hello"


async def test_pinned__a_pooled_connection_that_reconnects_to_another_key__sends_nothing(tmp_path: Path) -> None:
    """The honest server goes, and a thief takes its port; the control reads what a client without the pin sends it."""
    clients = {}
    with tls_server(tmp_path / "honest") as honest:
        for name, context in (("pinned", pinned_context(honest.pin)), ("trusting", unchecked_context())):
            clients[name] = (
                httpx.Client(verify=context, trust_env=False),
                httpx.AsyncClient(verify=context, trust_env=False),
            )
            for _ in range(2):
                assert clients[name][0].get(f"{honest.url}/question").text == "hello"
                assert (await clients[name][1].get(f"{honest.url}/question")).text == "hello"
        port = httpx.URL(honest.url).port
        assert port is not None
    with tls_server(tmp_path / "thief", port=port) as thief:
        assert thief.url == honest.url
        plain, concurrent = clients["pinned"]
        with pytest.raises(httpx.ConnectError, match="TLS key is not the one the provider published"):
            plain.get(f"{thief.url}/question", headers=SECRET)
        with pytest.raises(httpx.ConnectError, match="TLS key is not the one the provider published"):
            await concurrent.get(f"{thief.url}/question", headers=SECRET)
        assert thief.received == []
        plain, concurrent = clients["trusting"]
        plain.get(f"{thief.url}/question", headers=SECRET)
        await concurrent.get(f"{thief.url}/question", headers=SECRET)
        assert len(thief.received) == 2
        for plain, concurrent in clients.values():
            plain.close()
            await concurrent.aclose()
