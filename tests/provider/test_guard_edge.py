"""Floods and abuse against the whole provider behind the guard; the unguarded application shows what each would do."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from protocol.signing import Signer
from provider.exceptions import Refusal
from provider.guard import GuardLimits
from provider.limits import RequestRates
from provider.offers import Offer
from tests.support.provider_stack import OWNER, ProviderStack, make_offer, provider_stack
from tests.support.raw_connection import RawConnection
from tests.support.raw_gateway import Prepared, RawGateway, chat_body, prepare, refusal_code, sign
from tests.support.waiting import until

FORGER = Signer(b"\x66" * 32)
FLOOD = 400
LIMITS = GuardLimits(forgeries=5, forgiveness_s=3_600)


def forged(stack: ProviderStack, number: int) -> Prepared:
    """A request with a forged voucher: on a lease that exists, or on none."""
    known = list(stack.leases)
    lease_id = known[0] if number % 2 else number.to_bytes(32, "big")
    return prepare(lease_id, seq=number, signer=FORGER, body=chat_body(max_tokens=1))


async def flood(stack: ProviderStack, count: int = FLOOD) -> list[httpx.Response]:
    """Forged requests on 8 connections."""
    ready = [forged(stack, number) for number in range(count)]

    async def some(part: list[Prepared]) -> list[httpx.Response]:
        async with RawGateway(stack.url) as gateway:
            return [await gateway.post(prepared) for prepared in part]

    parts = await asyncio.gather(*(some(ready[start::8]) for start in range(8)))
    return [response for part in parts for response in part]


@pytest.mark.slow
async def test_flood_of_forged_vouchers_is_refused_unread_and_good_requests_are_served(tmp_path: Path) -> None:
    async with provider_stack(tmp_path, guard=LIMITS, credit=10**6) as stack:
        lease = stack.add_lease(deposit=10**9)
        async with RawGateway(stack.url) as gateway:
            first = await gateway.ask(prepare(lease.lease_id))
            assert first.done
            flooding = asyncio.create_task(flood(stack))
            good = [
                await gateway.ask(prepare(lease.lease_id, seq=seq, body=chat_body(max_tokens=3)))
                for seq in range(1, 11)
            ]
            refused = await flooding
            assert all(answer.done and answer.final.units_out == 3 for answer in good)
            assert all(response.status_code in (401, 403, 429) for response in refused)
            statuses = [response.status_code for response in refused]
            assert statuses.count(429) > FLOOD * 0.4, "strangers' leases are not looked at"
            unread = next(response for response in refused if response.status_code == httpx.codes.TOO_MANY_REQUESTS)
            assert (refusal_code(unread), unread.headers["retry-after"]) == ("busy", "3600")
        assert stack.ledger.account(lease.lease_id).highest_seq == 10


async def test_without_the_guard_every_forged_voucher_is_looked_up(tmp_path: Path) -> None:
    """Positive control: the chain is asked about each invented lease."""
    asked: dict[bool, int] = {}
    for is_guarded in (True, False):
        async with provider_stack(tmp_path / str(is_guarded), guard=LIMITS if is_guarded else None) as stack:
            stack.add_lease()
            fetch, count = stack.service.leases._fetch, 0

            async def counted(lease_id: bytes, fetch: Any = fetch) -> Any:
                nonlocal count
                count += 1
                return await fetch(lease_id)

            stack.service.leases._fetch = counted
            await flood(stack, 60)
            asked[is_guarded] = count
    assert asked[False] == 60
    assert asked[True] <= LIMITS.forgeries + 8


async def test_forger_is_heard_again_on_good_leases_only(tmp_path: Path) -> None:
    async with provider_stack(tmp_path, guard=LIMITS, credit=10**6) as stack:
        known, other = stack.add_lease(), stack.add_lease()
        async with RawGateway(stack.url) as gateway:
            assert (await gateway.ask(prepare(known.lease_id))).done
            for number in range(LIMITS.forgeries):
                response = await gateway.post(prepare(other.lease_id, signer=FORGER, seq=number))
                assert refusal_code(response) == "bad_signature"
            assert (await gateway.post(prepare(other.lease_id))).status_code == httpx.codes.TOO_MANY_REQUESTS
            assert (await gateway.ask(prepare(known.lease_id, seq=1))).done
            assert refusal_code(await gateway.post(prepare(known.lease_id, seq=2, signer=FORGER))) == "bad_signature"
            assert (await gateway.pay(sign(known.lease_id, 10))).status_code == httpx.codes.NO_CONTENT


async def test_floods_without_vouchers_have_a_rate(tmp_path: Path) -> None:
    limits = GuardLimits(address_burst=20, address_per_s=0.001)
    async with provider_stack(tmp_path, guard=limits) as stack, RawGateway(stack.url) as gateway:
        statuses = [(await gateway.http.get("/v1/models")).status_code for _ in range(30)]
        assert statuses == [200] * 20 + [429] * 10


@pytest.mark.parametrize(
    ("proxies", "said", "statuses"),
    [
        ((), "10.0.0.{}", [200, 200, 429, 429]),
        (("127.0.0.1",), "10.0.0.{}", [200] * 4),
        (("127.0.0.1",), "10.0.0.{}, 10.9.9.9", [200, 200, 429, 429]),
    ],
    ids=["nobody's word", "a proxy's word", "what a client told the proxy"],
)
async def test_an_address_is_believed_from_a_proxy_only(
    tmp_path: Path, proxies: tuple[str, ...], said: str, statuses: list[int]
) -> None:
    limits = GuardLimits(address_burst=2, address_per_s=0.001, trusted_proxies=proxies)
    async with provider_stack(tmp_path, guard=limits) as stack, RawGateway(stack.url) as gateway:
        found = [
            (await gateway.http.get("/v1/models", headers={"X-Forwarded-For": said.format(number)})).status_code
            for number in range(4)
        ]
    assert found == statuses


async def test_voucher_flood_on_one_lease_has_a_rate_and_leaves_others_alone(tmp_path: Path) -> None:
    limits = GuardLimits(lease_burst=30, lease_per_s=0.001)
    async with provider_stack(tmp_path, guard=limits) as stack:
        flooded, other = stack.add_lease(), stack.add_lease()
        async with RawGateway(stack.url) as gateway:
            same = sign(flooded.lease_id, 5)
            statuses = [(await gateway.pay(same)).status_code for _ in range(40)]
            # the first comes before its lease is known
            assert statuses == [204] * 31 + [429] * 9
            assert (await gateway.ask(prepare(other.lease_id))).done
    async with provider_stack(tmp_path / "bare") as stack:
        lease = stack.add_lease()
        async with RawGateway(stack.url) as gateway:
            assert {(await gateway.pay(sign(lease.lease_id, 5))).status_code for _ in range(40)} == {204}


@pytest.mark.parametrize("max_tokens", [-1, 0, -(2**63), 2**63, 10**40])
async def test_absurd_max_tokens_charge_nothing_or_what_is_promised(tmp_path: Path, max_tokens: int) -> None:
    async with provider_stack(tmp_path, guard=LIMITS) as stack:
        lease = stack.add_lease()
        async with RawGateway(stack.url) as gateway:
            body = chat_body(max_tokens=max_tokens, stream=False)
            response = await gateway.post(prepare(lease.lease_id, body=body, max_cost=2_000))
        served = stack.ledger.account(lease.lease_id).served
        if max_tokens < 1:
            assert (response.status_code, served) == (400, 0)
        elif response.status_code == httpx.codes.OK:
            assert 0 < served <= 2_000, "never above what the voucher allows"
        else:
            assert (response.status_code, served) == (400, 0)


@pytest.mark.parametrize("deposit", [0, 1, 29])
async def test_dust_lease_gets_nothing_and_is_charged_nothing(tmp_path: Path, deposit: int) -> None:
    async with provider_stack(tmp_path, guard=LIMITS) as stack:
        lease = stack.add_lease(deposit=deposit)
        async with RawGateway(stack.url) as gateway:
            for max_cost in (deposit, 5_000):
                response = await gateway.post(prepare(lease.lease_id, max_cost=max_cost))
                assert refusal_code(response) == "overdrawn"
        assert stack.ledger.account(lease.lease_id).served == 0
        assert stack.ledger.unfinished() == []


def _offer(per_minute: int) -> Offer:
    offer = make_offer()
    caps = {**offer.document["caps"], "requests_per_minute": per_minute}
    return replace(offer, document={**offer.document, "caps": caps})


async def test_requests_a_minute_of_the_terms_over_http(tmp_path: Path) -> None:
    """Beyond them a lease, and its owner under another lease, waits as long as the answer says; others do not."""
    async with provider_stack(tmp_path, offer=_offer(3), guard=GuardLimits(), credit=10**6) as stack:
        lease = stack.add_lease(owner=OWNER)
        same_owner, other = stack.add_lease(owner=OWNER), stack.add_lease()
        async with RawGateway(stack.url) as gateway:

            async def ask(lease_id: bytes, seq: int) -> httpx.Response:
                return await gateway.post(prepare(lease_id, seq=seq, body=chat_body(max_tokens=1)))

            assert [(await ask(lease.lease_id, seq)).status_code for seq in range(3)] == [200] * 3
            for lease_id in (lease.lease_id, same_owner.lease_id):
                refused = await ask(lease_id, 3)
                assert (refused.status_code, refusal_code(refused)) == (429, "busy")
                assert 0 < int(refused.headers["retry-after"]) <= 20
                assert refused.headers["x-should-retry"] == "true"
            assert (await ask(other.lease_id, 3)).status_code == httpx.codes.OK
        assert stack.ledger.account(same_owner.lease_id).served == 0
        assert stack.ledger.account(lease.lease_id).highest_seq == 2


def test_rates_are_each_leases_and_each_owners() -> None:
    now = [0.0]
    rates = RequestRates(lambda: now[0])

    def take(lease: bytes, owner: str, offer: int = 1) -> int | None:
        try:
            rates.take(lease, owner, offer, 3)
        except Refusal as refusal:
            return int(refusal.details["retry_after_s"])
        return None

    assert [take(b"a", "x") for _ in range(4)] == [None, None, None, 20]
    assert take(b"b", "x") == 20, "another lease of the same owner"
    assert take(b"c", "x", 2) is None, "another offer"
    assert take(b"d", "y") is None
    now[0] += 20
    assert [take(b"b", "x"), take(b"a", "x")] == [None, 20]


def test_memory_of_rates_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("provider.limits.MAX_RATES", 10)
    rates = RequestRates()
    for number in range(100):
        rates.take(bytes([number]), str(number), 1, 3)
    assert len(rates._buckets) == 10


async def test_reader_who_leaves_or_stops_reading_gets_his_final_receipt(tmp_path: Path) -> None:
    """The request ends, is billed for what was made, and its slot serves the next."""
    async with provider_stack(tmp_path, guard=GuardLimits(send_timeout_s=0.5), credit=10**9) as stack:
        lease = stack.add_lease(deposit=10**9)
        for seq, leaves in ((0, True), (1, False), (2, True)):
            prepared = prepare(lease.lease_id, seq=seq, max_cost=10**6, body=chat_body(max_tokens=200))
            raw = await RawConnection.open(stack.url, 4096)
            fields = "".join(f"{name}: {value}\r\n" for name, value in prepared.headers().items())
            head = (
                f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n{fields}Content-Length: {len(prepared.body)}\r\n\r\n"
            )
            await raw.say(head.encode() + prepared.body)
            await raw.reader.readuntil(b"data: ")
            if leaves:
                raw.close()
            await until(lambda seq=seq: stack.ledger.final_receipt(lease.lease_id, seq))  # type: ignore[misc]
            raw.close()
        await until(lambda: stack.service.running() == 0)
        stack.ledger.check()
        async with RawGateway(stack.url) as gateway:
            assert (await gateway.ask(prepare(lease.lease_id, seq=3))).done


async def test_500_connections_at_once_are_served_or_refused_and_the_worker_lives(tmp_path: Path) -> None:
    limits = GuardLimits(connections_per_address=100, address_burst=10_000, address_per_s=10_000)
    async with provider_stack(tmp_path, guard=limits) as stack:
        lease = stack.add_lease()
        everybody = [await RawConnection.open(stack.url) for _ in range(500)]

        async def ask(raw: RawConnection) -> bytes:
            try:
                await raw.say(b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n")
                return (await raw.reader.readline())[9:12]
            except ConnectionError:
                return b""

        statuses = await asyncio.gather(*map(ask, everybody))
        for raw in everybody:
            raw.close()
        assert set(statuses) <= {b"200", b"503", b""}
        assert statuses.count(b"200") == 100
        assert statuses.count(b"503") >= 100
        async with RawGateway(stack.url) as gateway:
            assert (await gateway.ask(prepare(lease.lease_id))).done


@pytest.mark.parametrize("is_kept", [False, True], ids=["nothing kept", "positive control"])
async def test_neither_prompt_nor_answer_is_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, is_kept: bool
) -> None:
    """Every byte of the data folder, its write-ahead log included, and every line of the log."""
    caplog.set_level("DEBUG", "provider")
    secret = "zebra-4711-marmalade"
    async with provider_stack(tmp_path, guard=LIMITS, credit=10**6) as stack:
        lease = stack.add_lease()
        async with RawGateway(stack.url) as gateway:
            answer = await gateway.ask(prepare(lease.lease_id, body=chat_body(secret)))
            bad = json.dumps({"model": secret, "messages": [{"role": secret, "content": secret}]}).encode()
            refused = await gateway.post(prepare(lease.lease_id, seq=1, cumulative=answer.final.cost, body=bad))
            assert refused.status_code >= httpx.codes.BAD_REQUEST
            assert len(answer.text) >= 8
            if is_kept:
                stack.ledger._db.execute("CREATE TABLE leak (text)")
                stack.ledger._db.execute("INSERT INTO leak VALUES (?)", (secret,))
        files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}  # noqa: ASYNC240
        assert any(path.name.endswith("-wal") and content for path, content in files.items())
        everything = b"\n".join(files.values()) + caplog.text.encode()
        assert lease.lease_id in everything
        assert (secret.encode() in everything) == is_kept
        assert answer.text.encode() not in everything
