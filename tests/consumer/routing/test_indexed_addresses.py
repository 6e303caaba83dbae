"""Addresses from indexers that lie, or are away: they name places to look at, and nothing else."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from consumer.routing import fetching
from consumer.routing.indexed_addresses import MAX_PROVIDERS, IndexedAddresses
from protocol.documents import sign_envelope
from protocol.signing import Signer
from tests.support.hostile_server import HostileServer, Reply, hostile_server
from tests.support.provider_stack import DOMAIN

OFFERS, STAKES = "/v1/offers?is_open=true&limit=200", "/v1/stakes?active_min=1&limit=200"
DOCUMENTS = "/v1/provider_documents?limit=20"


def signer(number: int) -> Signer:
    return Signer(number.to_bytes(32, "big"))


def document_row(number: int, *urls: str) -> dict[str, Any]:
    """A provider's metadata as the indexer shows it; its owner and its node key are one."""
    document = {
        "schema": "clawmarket/provider/1",
        "chain_id": DOMAIN.chain_id,
        "escrow": DOMAIN.escrow,
        "owner": signer(number).address,
        "node_key": signer(number).address,
        "issued_at": 1,
        "expires_at": 2,
        "endpoints": [{"url": url, "tls_spki_sha256": "00" * 32} for url in urls],
        "models": [
            {"name": "tiny", "fingerprint": "0x" + "00" * 32, "offer_id": 1, "sandbox": "gvisor-systrap"},
        ],
        "tier": "shared",
        "region": "ZZ",
        "policies": {"retention": {"input_s": 0, "output_s": 0, "log_s": 0}, "refuses": []},
    }
    return {"provider": number, "envelope": json.dumps(sign_envelope(DOMAIN, document, signer(number)))}


def page(*rows: dict[str, Any], following: str | None = None) -> Reply:
    return Reply(json.dumps({"data": rows, "next": following, "block": {"number": 1}}).encode())


def show(server: HostileServer, *rows: dict[str, Any]) -> None:
    """Everybody listed has an open offer and as much stake as their number says."""
    server.replies[OFFERS] = page(*({"provider": row["provider"]} for row in rows))
    server.replies[STAKES] = page(
        *({"account": signer(row["provider"]).address, "active": str(row["provider"])} for row in rows)
    )
    server.replies[DOCUMENTS] = page(*rows)


@pytest.fixture
def servers() -> Iterator[list[HostileServer]]:
    with ExitStack() as stack:
        yield [stack.enter_context(hostile_server()) for _ in range(2)]


def of(servers: list[HostileServer], *, may_be_private: bool = True) -> IndexedAddresses:
    return IndexedAddresses([server.url + "/" for server in servers], may_be_private=may_be_private)


async def test_union_of_all__most_stake_first(servers: list[HostileServer]) -> None:
    show(servers[0], document_row(1, "https://a/"), document_row(3, "https://c", "https://d"))
    show(servers[1], document_row(1, "https://a"), document_row(2, "https://b"))
    found = of(servers)
    assert await found.urls() == ["https://c", "https://d", "https://a", "https://b"]
    assert found.is_complete


async def test_provider_without_open_offer__is_not_asked(servers: list[HostileServer]) -> None:
    show(servers[0], document_row(1, "https://a"), document_row(2, "https://b"))
    servers[0].replies[OFFERS] = page({"provider": 2})
    assert await of(servers[:1]).urls() == ["https://b"]


async def test_pages__all_are_read(servers: list[HostileServer]) -> None:
    show(servers[0], document_row(1, "https://a"))
    servers[0].replies[OFFERS] = page({"provider": 1}, following="x&y")
    servers[0].replies[f"{OFFERS}&after=x%26y"] = page({"provider": 2})
    servers[0].replies[DOCUMENTS] = page(document_row(1, "https://a"), following="z")
    servers[0].replies[f"{DOCUMENTS}&after=z"] = page(document_row(2, "https://b"))
    assert await of(servers[:1]).urls() == ["https://a", "https://b"]


async def test_pages_without_end__are_left_after_a_while(servers: list[HostileServer]) -> None:
    show(servers[0], document_row(1, "https://a"))
    servers[0].replies[OFFERS] = page({"provider": 1}, following="again")
    servers[0].replies[f"{OFFERS}&after=again"] = page({"provider": 1}, following="again")
    assert await of(servers[:1]).urls() == ["https://a"]
    assert len(servers[0].seen) < 100


async def test_more_providers_than_are_asked__those_with_most_stake(servers: list[HostileServer]) -> None:
    show(servers[0], *(document_row(number, f"https://p{number}") for number in range(1, MAX_PROVIDERS + 3)))
    found = await of(servers[:1]).urls()
    assert len(found) == MAX_PROVIDERS
    assert found[0] == f"https://p{MAX_PROVIDERS + 2}"
    assert not {"https://p1", "https://p2"} & set(found)


async def test_indexer_away__its_last_list_and_the_others(servers: list[HostileServer]) -> None:
    show(servers[0], document_row(1, "https://a"))
    show(servers[1], document_row(2, "https://b"))
    found = of(servers)
    assert len(await found.urls()) == 2
    servers[0].replies.clear()
    show(servers[1], document_row(3, "https://c"))
    assert await found.urls() == ["https://a", "https://c"]
    assert not found.is_complete
    show(servers[0])
    assert await found.urls() == ["https://c"]
    assert found.is_complete


LIES: dict[str, Callable[[], Reply]] = {
    "no JSON": lambda: Reply(b"<html>"),
    "deep nesting": lambda: Reply(b"[" * 100_000),
    "a list": lambda: Reply(b"[]"),
    "no rows": lambda: Reply(b'{"next": null}'),
    "rows of numbers": lambda: Reply(b'{"data": [1], "next": null}'),
    "rows without fields": lambda: page({}),
    "a provider that is a list": lambda: page({"provider": [], "account": [], "envelope": []}),
    "endless": lambda: Reply(b" " * 65_536, is_endless=True),
    "silent": lambda: Reply(is_silent=True),
    "elsewhere": lambda: Reply(status=302, headers={"Location": "http://127.0.0.1:1/"}),
}


@pytest.mark.parametrize("path", [OFFERS, STAKES, DOCUMENTS])
@pytest.mark.parametrize("lie", LIES)
async def test_lie__costs_that_indexer_only(
    servers: list[HostileServer], path: str, lie: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "TIMEOUT_S", 1.0)
    show(servers[0], document_row(1, "https://a"))
    show(servers[1], document_row(2, "https://b"))
    servers[0].replies[path] = LIES[lie]()
    found = of(servers)
    assert await found.urls() == ["https://b"]
    assert not found.is_complete
    assert servers[0].sent < 100_000_000


@pytest.mark.parametrize("envelope", ["", "{}", "[1]", '{"document": 1}'])
async def test_document_that_is_none__costs_that_indexer_only(servers: list[HostileServer], envelope: str) -> None:
    show(servers[0], document_row(1, "https://a"))
    show(servers[1], document_row(2, "https://b"))
    servers[0].replies[DOCUMENTS] = page({"provider": 1, "envelope": envelope})
    assert await of(servers).urls() == ["https://b"]


INSIDE = [
    *("https://127.0.0.1:8443", "https://localhost", "https://10.0.0.7", "https://192.168.1.1", "https://172.16.0.1"),
    *(
        "https://169.254.169.254",
        "https://[::1]",
        "https://[fe80::1]",
        "https://[fd00::1]",
        "https://[::ffff:10.0.0.7]",
    ),
    *("https://100.64.0.1", "https://0.0.0.0", "https://224.0.0.1", "https://2130706433", "https://0x7f000001"),
    *("http://127.0.0.1:8080", "https://no-such-name.invalid"),
]


@pytest.mark.parametrize("url", INSIDE)
async def test_address_inside__is_not_asked_in_public(servers: list[HostileServer], url: str) -> None:
    show(servers[0], document_row(1, url, "https://93.184.216.34"))
    assert await of(servers[:1], may_be_private=False).urls() == ["https://93.184.216.34"]
    assert await of(servers[:1]).urls() == [url, "https://93.184.216.34"]
