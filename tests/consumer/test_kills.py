"""kill -9 of a gateway at every transaction of a question: nothing is signed twice, the next run settles the rest."""

import asyncio
import json
import signal
import sys
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from consumer.records import LeaseRecord, RequestState
from consumer.store import Store
from protocol.headers import MAX_CLOCK_SKEW_S, RequestContext, parse_request, parse_voucher
from provider.leases import Lease
from tests.consumer.buyer import PROMPT, record_of
from tests.consumer.hostile_provider import PRICE_IN, PRICE_OUT
from tests.support.anvil import ROOT
from tests.support.engines import tiny_model
from tests.support.provider_stack import DOMAIN, ProviderStack, provider_stack
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")
TRANSACTIONS = 5
"""Of one question: authorise, one for each of three receipts, and one voucher; slow ones admit, and sign more often."""
LATER = MAX_CLOCK_SKEW_S + 5


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ProviderStack]:
    async with provider_stack(tmp_path_factory.mktemp("provider"), credit=5_000, chunk_tokens=8) as running:
        yield running


async def run(folder: Path, shift: int = 0, last: int = 0, moment: str = "after") -> tuple[int, list[str]]:
    """One process of the gateway: its exit code and its output."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.consumer.dying_gateway", folder, str(shift), str(last), moment),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode().splitlines()


def prepare(folder: Path, stack: ProviderStack, lease: Lease) -> LeaseRecord:
    record = record_of(lease, stack.url)
    store = Store(folder / "consumer.sqlite", DOMAIN)
    store.add_lease(record)
    store.close()
    (folder / "lease").write_text(record.to_json())
    (folder / "model").write_text(str(tiny_model()))
    (folder / "sent").touch()
    return record


def contexts(folder: Path) -> dict[int, RequestContext]:
    """Every request that has a number, by it."""
    store = Store(folder / "consumer.sqlite", DOMAIN)
    rows = store._db.execute("SELECT seq, context FROM requests").fetchall()
    store.close()
    return {seq: parse_request(text) for seq, text in rows}


def check_sent(folder: Path) -> None:
    """What left is on disk: each context went out with one cumulative, and is that of a numbered request."""
    sent: dict[str, set[int]] = defaultdict(set)
    for line in (folder / "sent").read_text().splitlines():
        note = json.loads(line)
        sent[note["context"]].add(note["cumulative"])
    store = Store(folder / "consumer.sqlite", DOMAIN)
    signed = [parse_voucher(text).message for (text,) in store._db.execute("SELECT signed FROM vouchers")]
    store.close()
    on_disk = {(voucher.context.hex(), voucher.cumulative) for voucher in signed}
    assert {(context, each) for context, found in sent.items() for each in found} <= on_disk
    sent.pop(bytes(32).hex(), None)
    assert set(sent) <= {context.context.hex() for context in contexts(folder).values()}
    assert all(len(cumulatives) == 1 for cumulatives in sent.values())


async def test_a_question_takes_at_least_this_many_transactions(stack: ProviderStack, tmp_path: Path) -> None:
    lease = stack.add_lease()
    prepare(tmp_path, stack, lease)
    code, (transactions,) = await run(tmp_path)
    assert code == 0
    assert TRANSACTIONS <= int(transactions) <= TRANSACTIONS + 3
    account = stack.ledger.account(lease.lease_id)
    assert account.cumulative == account.served == PROMPT * PRICE_IN + 20 * PRICE_OUT


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("last", range(1, TRANSACTIONS + 1))
async def test_nothing_is_signed_twice_and_nothing_stays_open(
    stack: ProviderStack, tmp_path: Path, last: int, moment: str
) -> None:
    lease = stack.add_lease()
    record = prepare(tmp_path, stack, lease)
    code, output = await run(tmp_path, 0, last, moment)
    assert (code, output) == (-signal.SIGKILL, [])
    before = contexts(tmp_path)
    check_sent(tmp_path)

    await until(lambda: not stack.ledger.unfinished())
    stack.clock.shift = LATER
    try:
        code, output = await run(tmp_path, LATER)
    finally:
        stack.clock.shift = 0
    assert (code, len(output)) == (0, 1), output
    check_sent(tmp_path)
    after = contexts(tmp_path)
    assert {seq: after[seq] for seq in before} == before
    assert len(after) == len(before) + 1

    store = Store(tmp_path / "consumer.sqlite", DOMAIN)
    assert store.unfinished(record.lease_id) == []
    assert store.state(record.lease_id, max(after)) is RequestState.SETTLED
    account = stack.ledger.account(record.lease_id)
    highest = store.highest_voucher(record.lease_id)
    assert highest is not None
    assert store.owed(record.lease_id) == highest.message.cumulative == account.cumulative == account.served
    store.close()
