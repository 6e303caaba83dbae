"""An engine or the sandbox's daemon dies under a request that is being paid: charged once, for what was delivered."""

import contextlib
import gc
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from protocol import money
from provider.engine.client import EngineClient, EngineSettings
from provider.sandbox import containers, processes
from provider.sandbox.daemon import Daemon
from provider.sandbox.engines import ContainerHost
from provider.sandbox.tiers import Tier
from tests.support.engines import tiny_model
from tests.support.provider_stack import make_offer, provider_stack
from tests.support.raw_gateway import RawGateway, Received, chat_body, prepare, sign
from tests.support.sandbox import Sandbox, running_sandbox
from tests.support.tiny_gguf import prompt_tokens
from tests.support.waiting import until

HELLO = prompt_tokens([{"role": "user", "content": "hello"}])
CAP = HELLO * 10 + 5 * 30
LONG = 4_000
"""Tokens: an engine that runs ahead of its money is not at the end before the fault comes."""
CONTEXT = 2 * LONG
PRICE = HELLO * 10 + LONG * 30
HANG_S = 2.0
Fault = Callable[[Sandbox, EngineClient], Awaitable[None]]


async def kill_container(_: Sandbox, engine: EngineClient) -> None:
    assert engine.pid is not None
    os.kill(engine.pid, signal.SIGKILL)


async def stop_daemon(sandbox: Sandbox, _: EngineClient) -> None:
    """It ends its containers, too."""
    await end_daemon(sandbox, signal.SIGTERM)


async def kill_daemon_and_container(sandbox: Sandbox, engine: EngineClient) -> None:
    await end_daemon(sandbox, signal.SIGKILL)
    await kill_container(sandbox, engine)


async def end_daemon(sandbox: Sandbox, how: signal.Signals) -> None:
    pid = Daemon(sandbox.paths).pid()
    assert pid is not None
    os.kill(pid, how)
    await until(lambda: not processes.is_alive(pid))


async def freeze(sandbox: Sandbox, engine: EngineClient) -> None:
    """The engine is there and does nothing."""
    client = Daemon(sandbox.paths).client()
    try:
        next(each for each in containers.ours(client) if each.attrs["State"]["Pid"] == engine.pid).pause()
    finally:
        client.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Docker's client forgets sockets
@pytest.mark.parametrize("tier", [Tier.GVISOR_SYSTRAP, Tier.RUNC_SECCOMP])
@pytest.mark.parametrize("fault", [kill_container, stop_daemon, kill_daemon_and_container, freeze])
async def test_a_fault_under_a_paid_request(fault: Fault, tier: Tier, tmp_path: Path) -> None:
    """The answer waits for money when the fault comes, so that it is always in its middle."""
    with running_sandbox() as own:
        host = ContainerHost(own.paths, tier, own.image)
        engine = EngineClient(EngineSettings(tiny_model(CONTEXT), context=CONTEXT, hang_s=HANG_S), host)
        async with (
            provider_stack(
                tmp_path, credit=CAP, voucher_timeout_s=60, backend=engine, offer=make_offer(CONTEXT)
            ) as stack,
            RawGateway(stack.url) as gateway,
        ):
            lease = stack.add_lease()
            first = engine.pid
            answer, paid = Received(), 0
            prepared = prepare(lease.lease_id, body=chat_body(max_tokens=LONG), max_cost=PRICE)
            async with contextlib.aclosing(gateway.lines(prepared, answer)) as lines:
                async for _ in lines:
                    if not answer.receipts or answer.receipts[-1].message.cost <= paid or answer.error:
                        continue
                    if not paid:
                        await fault(own, engine)
                    paid = answer.receipts[-1].message.cost  # also for tokens that were on their way
                    await gateway.pay(sign(lease.lease_id, paid))
            assert answer.error is not None
            assert not answer.done
            assert paid >= CAP
            assert answer.final.final
            assert answer.final.units_out == len(answer.tokens)
            assert answer.final.cost == money.receipt_cost(stack.offer.terms, answer.final)
            assert stack.ledger.account(lease.lease_id).served == answer.final.cost
            repeated = await gateway.post(prepared)
            assert repeated.status_code >= 400
            assert stack.ledger.account(lease.lease_id).served == answer.final.cost
            await until(lambda: engine.is_ready and engine.pid != first, 90)
            served = answer.final.cost
            after = await gateway.ask(
                prepare(lease.lease_id, seq=1, cumulative=served, body=chat_body(max_tokens=3), max_cost=CAP)
            )
            assert len(after.tokens) == 3
            assert stack.ledger.account(lease.lease_id).served == served + after.final.cost
            stack.ledger.check()
            assert engine.restarts == 1 or fault is stop_daemon
    gc.collect()  # the forgotten sockets are this test's
