"""A disk that is full: the worker refuses new requests with a reason, loses nothing, and goes on when there is room.

The limit on a file's size stands for the disk, because it needs no privilege: every write of the worker fails with it.
"""

import asyncio
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from protocol.headers import Signed, parse_response_headers
from protocol.typed_data import Receipt
from tests.support.chain_provider import SESSION
from tests.support.engine_slots import hold_engine_slots
from tests.support.ledger_oracle import Evidence, judge
from tests.support.live_market import WorkerProcess, live_market
from tests.support.raw_gateway import Prepared, RawGateway, Received, chat_body, prepare, refusal_code, sign
from tests.support.shop import Shop, open_shop


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    with live_market(tmp_path) as market, hold_engine_slots(1):
        yield open_shop(market, tmp_path / "provider", credit_stranger=2_000, voucher_timeout_s=1.5)


@contextmanager
def full_disk(worker: WorkerProcess) -> Iterator[None]:
    """Until the end of the block no file of the worker grows beyond one byte."""
    process = worker.process.pid
    before = resource.prlimit(process, resource.RLIMIT_FSIZE)
    resource.prlimit(process, resource.RLIMIT_FSIZE, (1, before[1]))
    try:
        yield
    finally:
        resource.prlimit(process, resource.RLIMIT_FSIZE, before)


def question(shop: Shop, lease_id: bytes, seq: int, cumulative: int = 0, tokens: int = 20) -> Prepared:
    return prepare(
        lease_id,
        seq=seq,
        cumulative=cumulative,
        max_cost=20_000,
        body=chat_body(max_tokens=tokens),
        sent_at=shop.market.node.timestamp(),
        signer=SESSION,
        domain=shop.market.domain,
    )


async def final_of(gateway: RawGateway, prepared: Prepared) -> Signed[Receipt]:
    """Its final receipt, once the worker has signed it."""
    async with asyncio.timeout(30):
        while True:
            response = await gateway.post(prepared)
            found = parse_response_headers(response.headers.items()).receipt
            if found is not None:
                return found
            assert response.status_code in (httpx.codes.CONFLICT, httpx.codes.SERVICE_UNAVAILABLE), response.text
            await asyncio.sleep(0.1)


async def test_full_disk_loses_nothing(shop: Shop) -> None:
    lease_id = shop.open_lease()
    broken = question(shop, lease_id, 0, tokens=200)
    evidence = Evidence(shop.market.domain)
    received = Received()
    with WorkerProcess(shop.enrolment.config) as worker:
        async with RawGateway(await asyncio.to_thread(worker.wait_ready)) as gateway:
            stream = gateway.lines(broken, received)
            async for _ in stream:
                if received.exposures:
                    break
            voucher = sign(lease_id, received.exposures[0].served, signer=SESSION, domain=shop.market.domain)
            with full_disk(worker):
                assert (await gateway.pay(voucher)).status_code == httpx.codes.SERVICE_UNAVAILABLE
                async for _ in stream:
                    pass
                assert received.error is not None
                assert not any(signed.message.final for signed in received.receipts)
                response = await gateway.post(question(shop, lease_id, 1, voucher.message.cumulative))
                assert response.status_code == httpx.codes.SERVICE_UNAVAILABLE
                assert refusal_code(response) == "ledger_unavailable"
                assert worker.process.poll() is None
            final = await final_of(gateway, broken)
            assert (await final_of(gateway, broken)).encode() == final.encode()
            cost = final.message.cost
            assert cost >= received.receipts[-1].message.cost
            paid = sign(lease_id, cost, signer=SESSION, domain=shop.market.domain)
            assert (await gateway.pay(paid)).is_success
            later = question(shop, lease_id, 2, cumulative=cost)
            answer = await gateway.ask(later)
            evidence.receipts = [signed.encode() for signed in (*received.receipts, final, *answer.receipts)]
            evidence.finals = {(lease_id, 0): cost, (lease_id, 2): answer.final.cost}
            evidence.paid = {lease_id: cost}
        assert await asyncio.to_thread(worker.stop) == 0
    assert judge(shop.config.provider.data / "ledger.sqlite", evidence) == 2
