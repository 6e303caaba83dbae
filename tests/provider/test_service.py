"""A provider over HTTP, with the tiny model: admission, streams, receipts, payment, repeats."""

import asyncio
import gc
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from protocol import money
from protocol.exceptions import InvalidSignature
from protocol.headers import SEQ_WINDOW, VERSION_HEADER, Signed, parse_response_headers
from protocol.merkle import response_root
from protocol.sandboxes import SandboxTier
from protocol.signing import Signer
from protocol.typed_data import Domain, digest
from provider.backend import Generation, GenerationRequest
from provider.exceptions import LedgerError
from provider.ledger import AdmittedRequest
from tests.support.provider_stack import DOMAIN, NODE, ProviderStack, make_offer, provider_stack
from tests.support.raw_gateway import Prepared, RawGateway, Received, chat_body, prepare, refusal_code, sign
from tests.support.tiny_gguf import CONTEXT, prompt_tokens
from tests.support.waiting import until

HELLO = prompt_tokens([{"role": "user", "content": "hello"}])


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def shared_stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ProviderStack]:
    async with provider_stack(tmp_path_factory.mktemp("provider")) as running:
        yield running


@pytest.fixture
def stack(shared_stack: ProviderStack) -> Iterator[ProviderStack]:
    yield shared_stack
    shared_stack.clock.shift = 0


@pytest_asyncio.fixture(loop_scope="module")
async def gateway(stack: ProviderStack) -> AsyncIterator[RawGateway]:
    async with RawGateway(stack.url) as client:
        yield client


def check_receipts(stack: ProviderStack, prepared: Prepared, answer: Received) -> None:
    """Every receipt of an answer fits what was received, and only the last is final."""
    terms = stack.offer.terms
    for number, signed in enumerate(answer.receipts):
        receipt = signed.message
        signed.verify(DOMAIN, NODE.address)
        assert (receipt.lease_id, receipt.seq, receipt.part) == (
            prepared.voucher.message.lease_id,
            prepared.context.seq,
            number,
        )
        assert receipt.final == (number == len(answer.receipts) - 1)
        assert receipt.request_hash == prepared.context.request_hash
        assert receipt.model_fingerprint == stack.offer.fingerprint
        assert receipt.response_hash == response_root(
            (t.token_id, t.logprob) for t in answer.tokens[: receipt.units_out]
        )
        assert receipt.cost <= money.receipt_cost(terms, receipt)
    assert answer.final.units_out == len(answer.tokens)
    assert answer.final.cost == money.receipt_cost(terms, answer.final)


async def test_streamed_answer_is_metered_to_the_token(stack: ProviderStack, gateway: RawGateway) -> None:
    lease = stack.add_lease()
    prepared = prepare(lease.lease_id, body=chat_body(stream_options={"include_usage": True}))
    answer = await gateway.ask(prepared)
    check_receipts(stack, prepared, answer)
    assert answer.done
    assert (answer.finish_reason, len(answer.tokens), len(answer.receipts)) == ("length", 20, 3)
    assert (answer.final.units_in, answer.final.units_cached, answer.final.cost) == (HELLO, 0, HELLO * 10 + 20 * 30)
    assert answer.usage is not None
    assert (answer.usage["prompt_tokens"], answer.usage["completion_tokens"]) == (HELLO, 20)
    assert stack.ledger.account(lease.lease_id).served == answer.final.cost
    stack.ledger.check()


async def test_whole_answer_carries_tokens_and_receipt(stack: ProviderStack, gateway: RawGateway) -> None:
    lease = stack.add_lease()
    streamed = await gateway.ask(prepare(lease.lease_id))
    response = await gateway.post(
        prepare(lease.lease_id, seq=1, cumulative=streamed.final.cost, body=chat_body(stream=False))
    )
    content = response.json()
    signed = parse_response_headers(response.headers.items()).receipt
    assert signed is not None
    signed.verify(DOMAIN, NODE.address)
    assert content["clawmarket"]["tokens"] == [[t.token_id, t.logprob] for t in streamed.tokens]
    assert content["choices"][0]["message"]["content"] == streamed.text
    assert content["usage"]["completion_tokens"] == signed.message.units_out == 20


async def test_repeat_gives_the_stored_receipt_and_bills_nothing(stack: ProviderStack, gateway: RawGateway) -> None:
    lease = stack.add_lease()
    prepared = prepare(lease.lease_id)
    answer = await gateway.ask(prepared)
    count = stack.ledger.count
    stack.clock.shift = 500
    for _ in range(2):
        response = await gateway.post(prepared)
        assert (response.status_code, response.json()["error"]["code"]) == (409, "already_served")
        stored = parse_response_headers(response.headers.items()).receipt
        assert stored is not None
        assert stored.encode() == answer.receipts[-1].encode()
    assert stack.ledger.account(lease.lease_id).served == answer.final.cost
    assert stack.ledger.count == count


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "foreign key": ({"signer": Signer(b"\x33" * 32)}, "bad_signature"),
    "foreign chain": ({"domain": replace(DOMAIN, chain_id=1)}, "bad_signature"),
    "foreign escrow": ({"domain": Domain(31337, "0x" + "1" * 40)}, "bad_signature"),
    "too early": ({"sent_at": -130}, "clock"),
    "too late": ({"sent_at": 130}, "clock"),
    "cost above the deposit": ({"max_cost": 1_000_001}, "overdrawn"),
    "cost below the prompt's": ({"max_cost": HELLO * 10 + 29}, "overdrawn"),
    "voucher above the deposit": ({"cumulative": 999_999}, "overdrawn"),
}


@pytest.mark.parametrize("name", CHANGES)
async def test_voucher_wrong_in_one_field_is_refused(stack: ProviderStack, gateway: RawGateway, name: str) -> None:
    changes, code = CHANGES[name]
    lease = stack.add_lease()
    changes = dict(changes)
    if "sent_at" in changes:
        changes["sent_at"] += stack.clock.now()
    response = await gateway.post(prepare(lease.lease_id, **changes))
    assert refusal_code(response) == code
    assert response.status_code in (400, 401, 402)
    assert stack.ledger.request(lease.lease_id, 0) is None
    assert len((await gateway.ask(prepare(lease.lease_id))).tokens) == 20


@pytest.mark.parametrize("field", ["seq", "request_hash", "max_cost", "sent_at"])
async def test_context_must_be_the_signed_one(stack: ProviderStack, gateway: RawGateway, field: str) -> None:
    prepared = prepare(stack.add_lease().lease_id)
    value = getattr(prepared.context, field)
    changes: dict[str, Any] = {field: b"\x07" * 32 if isinstance(value, bytes) else value + 1}
    prepared.context = replace(prepared.context, **changes)
    response = await gateway.post(prepared)
    assert refusal_code(response) == "malformed"


async def test_body_and_salt_must_be_the_hashed_ones(stack: ProviderStack, gateway: RawGateway) -> None:
    lease = stack.add_lease()
    other_body, other_salt = prepare(lease.lease_id), prepare(lease.lease_id)
    other_body.body = chat_body("hello!")
    other_salt.context = replace(other_salt.context, salt=b"\x01" * 32)
    for prepared in (other_body, other_salt):
        assert refusal_code(await gateway.post(prepared)) == "request_hash"


async def test_voucher_of_another_lease_is_refused(stack: ProviderStack, gateway: RawGateway) -> None:
    mine, other = stack.add_lease(), stack.add_lease(signer=Signer(b"\x44" * 32).address)
    prepared = prepare(mine.lease_id)
    moved = replace(prepared.voucher.message, lease_id=other.lease_id)
    prepared.voucher = Signed(moved, prepared.voucher.signature)
    assert refusal_code(await gateway.post(prepared)) == "bad_signature"


@pytest.mark.parametrize("header", ["Clawmarket-Version", "Clawmarket-Voucher", "Clawmarket-Request"])
@pytest.mark.parametrize("value", [None, "", "nonsense", "x" * 2_000])
async def test_bad_headers_are_refused(
    stack: ProviderStack, gateway: RawGateway, header: str, value: str | None
) -> None:
    prepared = prepare(stack.add_lease().lease_id)
    headers = {name: text for name, text in prepared.headers().items() if name != header or value is not None}
    if value is not None:
        headers[header] = value
    response = await gateway.post(prepared, headers)
    assert response.status_code == 400
    assert refusal_code(response) in ("malformed", "unsupported_version")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"is_revoked": True}, "lease_ended"),
        ({"is_closing": True}, "lease_ended"),
        ({"is_released": True}, "lease_ended"),
        ({"expiry": 1_000}, "lease_ended"),
        ({"closes_at": 1_000}, "lease_ended"),
        ({"provider": 8}, "unknown_lease"),
        ({"version": 2}, "terms"),
        ({"offer_id": 2}, "terms"),
        ({"signer": Signer(b"\x55" * 32).address}, "bad_signature"),
    ],
)
async def test_lease_that_does_not_fit_is_refused(
    stack: ProviderStack, gateway: RawGateway, changes: dict[str, Any], code: str
) -> None:
    lease = stack.add_lease(**changes)
    assert refusal_code(await gateway.post(prepare(lease.lease_id))) == code
    assert stack.ledger.account(lease.lease_id).highest_seq == -1


async def test_offer_that_promises_a_stronger_sandbox__is_not_served__but_what_is_owed_can_be_paid(
    stack: ProviderStack, gateway: RawGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = stack.add_lease()
    before = await gateway.ask(prepare(lease.lease_id))
    monkeypatch.setattr(stack.service, "sandbox", SandboxTier.BUBBLEWRAP)
    response = await gateway.post(prepare(lease.lease_id, seq=1))
    assert (response.status_code, refusal_code(response)) == (409, "terms")
    assert "promises the sandbox runc-seccomp, here is only bubblewrap" in response.text
    assert (await gateway.pay(sign(lease.lease_id, before.final.cost))).status_code == 204
    monkeypatch.setattr(stack.service, "sandbox", SandboxTier.GVISOR_SYSTRAP)
    assert (await gateway.ask(prepare(lease.lease_id, seq=2))).final.final


async def test_unknown_lease_is_refused(gateway: RawGateway) -> None:
    assert refusal_code(await gateway.post(prepare(b"\x0a" * 32))) == "unknown_lease"


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        (b"{", 400, None),
        (b"[]", 400, None),
        (chat_body(messages=[]), 400, "messages"),
        (chat_body(messages=[{"role": "wizard", "content": "x"}]), 400, "messages.0.role"),
        (chat_body(max_tokens=0), 400, "max_tokens"),
        (chat_body(temperature=3), 400, "temperature"),
        (chat_body(stop=["x"] * 5), 400, "stop"),
        (chat_body(model="another"), 404, "model"),
        (chat_body("x" * CONTEXT), 413, "messages"),
    ],
)
async def test_bad_body_is_an_openai_error(
    stack: ProviderStack, gateway: RawGateway, body: bytes, status: int, param: str | None
) -> None:
    response = await gateway.post(prepare(stack.add_lease().lease_id, body=body))
    error = response.json()["error"]
    assert response.status_code == status
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert error["message"]


async def test_seq_window(stack: ProviderStack, gateway: RawGateway) -> None:
    lease = stack.add_lease()
    highest = await gateway.ask(prepare(lease.lease_id, seq=2_000))
    low = await gateway.ask(prepare(lease.lease_id, seq=2_001 - SEQ_WINDOW, cumulative=highest.final.cost))
    assert low.done
    response = await gateway.post(prepare(lease.lease_id, seq=2_000 - SEQ_WINDOW, cumulative=2_000))
    assert refusal_code(response) == "seq_too_old"


async def test_stream_pauses_at_the_cap_and_goes_on_when_paid(tmp_path: Path) -> None:
    cap = HELLO * 10 + 5 * 30
    async with provider_stack(tmp_path, credit=cap, voucher_timeout_s=20) as stack, RawGateway(stack.url) as gateway:
        lease = stack.add_lease()
        prepared, answer, paid = prepare(lease.lease_id), Received(), 0
        async for _ in gateway.lines(prepared, answer):
            served = HELLO * 10 + len(answer.tokens) * 30
            assert served - paid <= cap
            if answer.exposures and answer.exposures[-1].cumulative == paid and answer.receipts[-1].message.cost > paid:
                assert answer.exposures[-1].paused
                paid = answer.receipts[-1].message.cost
                assert (await gateway.pay(sign(lease.lease_id, paid))).status_code == 204
        check_receipts(stack, prepared, answer)
        assert len(answer.exposures) > 1
        assert (len(answer.tokens), answer.finish_reason) == (20, "length")


async def test_unpaid_stream_ends_with_a_final_receipt_within_the_cap(tmp_path: Path) -> None:
    cap = HELLO * 10 + 5 * 30
    async with provider_stack(tmp_path, credit=cap, voucher_timeout_s=0.3) as stack, RawGateway(stack.url) as gateway:
        lease = stack.add_lease()
        prepared = prepare(lease.lease_id)
        answer = await gateway.ask(prepared)
        check_receipts(stack, prepared, answer)
        assert answer.error is not None
        assert answer.error["code"] == "unpaid"
        assert (len(answer.tokens), answer.final.cost, answer.done) == (5, cap, False)
        assert refusal_code(await gateway.post(prepare(lease.lease_id, seq=1))) in ("unpaid", "prepay")
        again = await gateway.ask(prepare(lease.lease_id, seq=2, cumulative=cap, max_cost=HELLO * 10 + 90))
        assert len(again.tokens) == 3


async def test_payer_of_one_token_at_a_time_keeps_no_place_in_the_engine_for_ever(tmp_path: Path) -> None:
    """Each wait is short, all together are not."""
    cap = HELLO * 10 + 30
    async with (
        provider_stack(tmp_path, credit=cap, voucher_timeout_s=20, max_paused_s=1) as stack,
        RawGateway(stack.url) as gateway,
    ):
        lease = stack.add_lease()
        prepared, answer, paid = prepare(lease.lease_id), Received(), 0
        async for _ in gateway.lines(prepared, answer):
            if answer.error is None and answer.exposures and answer.exposures[-1].cumulative == paid:
                await asyncio.sleep(0.4)  # what the payer does to it
                paid += 30
                await gateway.pay(sign(lease.lease_id, paid))
        check_receipts(stack, prepared, answer)
        assert answer.error is not None
        assert (answer.error["code"], answer.done) == ("unpaid", False)
        assert 1 < len(answer.tokens) <= 4
        await until(lambda: stack.service.running() == 0)


async def test_prompt_dearer_than_the_cap_needs_prepayment(tmp_path: Path) -> None:
    async with provider_stack(tmp_path, credit=HELLO * 10 - 1) as stack, RawGateway(stack.url) as gateway:
        lease = stack.add_lease()
        assert refusal_code(await gateway.post(prepare(lease.lease_id, max_cost=HELLO * 10 + 60))) == "prepay"
        answer = await gateway.ask(prepare(lease.lease_id, seq=1, cumulative=HELLO * 10, max_cost=HELLO * 10 + 60))
        assert len(answer.tokens) == 2


async def test_max_cost_bounds_the_answer(stack: ProviderStack, gateway: RawGateway) -> None:
    lease = stack.add_lease()
    answer = await gateway.ask(prepare(lease.lease_id, max_cost=HELLO * 10 + 7 * 30 + 29))
    assert (len(answer.tokens), answer.finish_reason) == (7, "length")


async def test_parallel_requests_share_the_deposit(stack: ProviderStack, gateway: RawGateway) -> None:
    each = HELLO * 10 + 20 * 30
    lease = stack.add_lease(deposit=each * 3)
    answers = await asyncio.gather(*[gateway.post(prepare(lease.lease_id, seq=seq, max_cost=each)) for seq in range(6)])
    refused = [answer for answer in answers if answer.status_code != 200]
    assert all(refusal_code(answer) in ("overdrawn", "unpaid", "busy") for answer in refused)
    assert 1 <= len(answers) - len(refused) <= 3
    assert stack.ledger.account(lease.lease_id).served <= lease.deposit
    stack.ledger.check()


async def test_client_that_leaves_still_gets_a_final_receipt(stack: ProviderStack, gateway: RawGateway) -> None:
    lease = stack.add_lease()
    prepared, answer = prepare(lease.lease_id, body=chat_body(max_tokens=200), max_cost=20_000), Received()
    async for _ in gateway.lines(prepared, answer):
        if len(answer.tokens) >= 2:
            break
    await until(lambda: stack.ledger.final_receipt(lease.lease_id, 0) is not None)
    response = await gateway.post(prepared)
    stored = parse_response_headers(response.headers.items()).receipt
    assert stored is not None
    assert stored.message.final
    assert 2 <= stored.message.units_out <= 200
    assert stored.message.cost == money.receipt_cost(stack.offer.terms, stored.message)


async def test_engine_crash_ends_the_request_clearly(stack: ProviderStack, gateway: RawGateway) -> None:
    lease = stack.add_lease()
    prepared, answer = prepare(lease.lease_id, body=chat_body(max_tokens=200), max_cost=20_000), Received()
    async for _ in gateway.lines(prepared, answer):
        if len(answer.tokens) == 1 and stack.engine.pid:
            os.kill(stack.engine.pid, signal.SIGKILL)
    check_receipts(stack, prepared, answer)
    assert answer.error is not None or answer.done
    await until(lambda: stack.engine.is_ready)
    after = await gateway.ask(prepare(lease.lease_id, seq=1, cumulative=answer.final.cost))
    assert len(after.tokens) == 20


async def test_restart_finishes_what_a_crash_interrupted(tmp_path: Path) -> None:
    async with provider_stack(tmp_path) as stack:
        lease = stack.add_lease()
        prepared = prepare(lease.lease_id)
        request = AdmittedRequest(lease.lease_id, 0, prepared.context.request_hash, 5_000, prepared.context.sent_at)
        stack.ledger.admit(request, prepared.voucher, lease.owner, stack.clock.now())
    async with provider_stack(tmp_path) as stack, RawGateway(stack.url) as gateway:
        stack.add_lease(0)
        response = await gateway.post(prepared)
        stored = parse_response_headers(response.headers.items()).receipt
        assert stored is not None
        assert (stored.message.final, stored.message.cost) == (True, 0)
        assert stack.ledger.unfinished() == []
        stack.ledger.check()


async def test_side_channel_refuses_what_is_not_a_good_voucher(stack: ProviderStack, gateway: RawGateway) -> None:
    lease = stack.add_lease()
    good = sign(lease.lease_id, 50)
    accepted = await gateway.pay(good)
    exposure = parse_response_headers(accepted.headers.items()).exposure
    assert exposure is not None
    assert (exposure.cumulative, exposure.served, exposure.paused) == (50, 0, False)
    for voucher in (
        sign(lease.lease_id, 60, signer=NODE),
        sign(lease.lease_id, 60, domain=replace(DOMAIN, chain_id=1)),
    ):
        assert refusal_code(await gateway.pay(voucher)) == "bad_signature"
    elsewhere = await gateway.http.post(
        "/v1/leases/0x" + "00" * 32 + "/vouchers",
        headers={VERSION_HEADER: "1", "Clawmarket-Voucher": good.encode()},
    )
    assert refusal_code(elsewhere) == "malformed"
    assert stack.ledger.account(lease.lease_id).cumulative == 50


async def test_models_offers_and_health(stack: ProviderStack, gateway: RawGateway) -> None:
    models = (await gateway.http.get("/v1/models")).json()
    assert [model["id"] for model in models["data"]] == [stack.offer.model_name]
    assert (await gateway.http.get("/healthz")).json()["ready"] is True
    offer = json.loads((await gateway.http.get("/v1/offers/1/1")).text)
    assert offer["document"] == stack.offer.document
    assert (await gateway.http.get("/v1/offers/1/9")).status_code == 404
    missing = await gateway.http.get("/v1/receipts/0x" + "00" * 32 + "/0/proof")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "unknown_receipt")


async def test_sla_credit_is_taken_off_the_final_cost(tmp_path: Path) -> None:
    offer = make_offer(sla_milli_tokens_per_s=10**12, sla_credit_bps=5_000)
    async with provider_stack(tmp_path, offer=offer) as stack, RawGateway(stack.url) as gateway:
        prepared = prepare(stack.add_lease().lease_id)
        answer = await gateway.ask(prepared)
        check_receipts(stack, prepared, answer)
        gross = HELLO * 10 + 20 * 30
        assert answer.final.cost == gross - gross // 2


async def test_receipt_signature_covers_every_field(stack: ProviderStack, gateway: RawGateway) -> None:
    signed = (await gateway.ask(prepare(stack.add_lease().lease_id))).receipts[-1]
    for member in signed.message.MEMBERS:
        value = getattr(signed.message, member.attribute)
        changed = not value if isinstance(value, bool) else b"\x0f" * 32 if isinstance(value, bytes) else value + 1
        changes: dict[str, Any] = {member.attribute: changed}
        other = replace(signed.message, **changes)
        assert digest(DOMAIN, other) != digest(DOMAIN, signed.message)
        with pytest.raises(InvalidSignature):
            Signed(other, signed.signature).verify(DOMAIN, NODE.address)


@pytest.mark.parametrize("seq", [2**63, 2**64 - 1])
async def test_seq_beyond_the_ledger_is_refused(stack: ProviderStack, gateway: RawGateway, seq: int) -> None:
    response = await gateway.post(prepare(stack.add_lease().lease_id, seq=seq))
    assert (response.status_code, refusal_code(response)) == (400, "malformed")
    proof = await gateway.http.get("/v1/receipts/0x" + "00" * 32 + f"/{seq}/proof")
    assert (proof.status_code, refusal_code(proof)) == (400, "malformed")


async def test_largest_seq_is_served(stack: ProviderStack, gateway: RawGateway) -> None:
    assert (await gateway.ask(prepare(stack.add_lease().lease_id, seq=2**63 - 1))).done


async def test_vouchers_above_the_deposit_or_below_the_highest_are_refused(
    stack: ProviderStack, gateway: RawGateway
) -> None:
    lease = stack.add_lease(deposit=1_000)
    for cumulative, status in [(1_001, 402), (10**20, 402), (500, 204), (499, 409), (500, 204), (1_000, 204)]:
        assert (await gateway.pay(sign(lease.lease_id, cumulative))).status_code == status
    rows = stack.ledger._db.execute("SELECT cumulative FROM vouchers WHERE lease_id = ?", (lease.lease_id,)).fetchall()
    assert [row[0] for row in rows] == ["500", "1000"]


async def test_vouchers_in_tiny_steps_are_slowed_down(tmp_path: Path) -> None:
    async with (
        provider_stack(tmp_path, vouchers_per_s=0, voucher_burst=3) as stack,
        RawGateway(stack.url) as gateway,
    ):
        lease, other = stack.add_lease(), stack.add_lease()
        answers = [await gateway.pay(sign(lease.lease_id, 10 + step)) for step in range(5)]
        assert [answer.status_code for answer in answers] == [204] * 3 + [429] * 2
        assert stack.ledger.account(lease.lease_id).cumulative == 12
        assert (await gateway.pay(sign(other.lease_id, 1))).status_code == 204


class HeldEngine:
    """Holds every generation back until `open` is set, as a long prompt does."""

    def __init__(self, stack: ProviderStack) -> None:
        self.open = asyncio.Event()
        self.started = 0
        self._generate = stack.engine.generate

    async def generate(self, request: GenerationRequest) -> Generation:
        self.started += 1
        await self.open.wait()
        return await self._generate(request)


async def test_prompts_in_parallel_stay_within_the_cap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cap = HELLO * 10
    async with provider_stack(tmp_path, credit=cap, voucher_timeout_s=0.1) as stack, RawGateway(stack.url) as gateway:
        held = HeldEngine(stack)
        monkeypatch.setattr(stack.engine, "generate", held.generate)
        lease = stack.add_lease()
        sister = stack.add_lease(owner=lease.owner)
        first = asyncio.create_task(gateway.post(prepare(lease.lease_id)))
        await until(lambda: held.started == 1)
        for lease_id in (lease.lease_id, sister.lease_id):
            assert refusal_code(await gateway.post(prepare(lease_id, seq=1))) == "prepay"
        held.open.set()
        await first
        owed = sum(stack.ledger.account(one.lease_id).served for one in (lease, sister))
        assert owed == cap
        assert refusal_code(await gateway.post(prepare(sister.lease_id, seq=2))) == "prepay"


async def test_unpaid_value_of_an_owner_survives_a_restart(tmp_path: Path) -> None:
    cap = HELLO * 10 + 5 * 30
    async with provider_stack(tmp_path, credit=cap, voucher_timeout_s=0.1) as stack, RawGateway(stack.url) as gateway:
        lease = stack.add_lease()
        assert (await gateway.ask(prepare(lease.lease_id))).final.cost == cap
    async with provider_stack(tmp_path, credit=cap) as stack, RawGateway(stack.url) as gateway:
        stack.add_lease(0)
        sister = stack.add_lease(owner=lease.owner)
        response = await gateway.post(prepare(sister.lease_id))
        assert response.json()["error"]["details"]["owed_on_other_leases"] == str(cap)
        assert (await gateway.pay(sign(lease.lease_id, cap))).status_code == 204
        assert (await gateway.ask(prepare(sister.lease_id, seq=1))).final.cost == cap


async def test_idle_leases_and_owners_take_no_memory_and_what_they_owe_stays(tmp_path: Path) -> None:
    cap = HELLO * 10 + 5 * 30
    async with provider_stack(tmp_path, credit=cap, voucher_timeout_s=0.1) as stack, RawGateway(stack.url) as gateway:
        service = stack.service
        owing, paying = stack.add_lease(), stack.add_lease()
        sister = stack.add_lease(owner=owing.owner)
        assert (await gateway.ask(prepare(owing.lease_id))).final.cost == cap
        assert (await gateway.ask(prepare(paying.lease_id))).final.cost == cap
        assert (await gateway.pay(sign(paying.lease_id, cap))).status_code == 204
        await until(lambda: service.running() == 0)
        gc.collect()
        assert [len(kept) for kept in (service._exposures, service._owners, service._admission)] == [0, 0, 0]
        response = await gateway.post(prepare(sister.lease_id))
        assert response.json()["error"]["details"]["owed_on_other_leases"] == str(cap)
        exposure = await service.exposure(owing)
        assert (exposure.served, exposure.cumulative, exposure.unpaid) == (cap, 0, cap)
        assert (await gateway.pay(sign(owing.lease_id, cap))).status_code == 204
        assert (await gateway.ask(prepare(sister.lease_id, seq=1))).final.cost == cap
        assert len(service._voucher_rates) == 2


async def test_value_served_while_the_ledger_fails_is_not_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its final receipt cannot be written, so only memory knows of it until it can."""
    cap = HELLO * 10 + 5 * 30
    async with provider_stack(tmp_path, credit=cap, voucher_timeout_s=0.1) as stack, RawGateway(stack.url) as gateway:
        lease = stack.add_lease()
        sister = stack.add_lease(owner=lease.owner)
        with monkeypatch.context() as patch:
            patch.setattr(stack.ledger, "record_receipt", _full)
            response = await gateway.post(prepare(lease.lease_id, body=chat_body(stream=False)))
            assert response.json()["error"]["code"] == "ledger_unavailable"
        await until(lambda: stack.service.running() == 0)
        gc.collect()
        assert stack.ledger.account(lease.lease_id).served == 0
        assert refusal_code(await gateway.post(prepare(sister.lease_id))) == "prepay"
        await stack.service.look_after_running()
        gc.collect()
        assert (len(stack.service._exposures), stack.ledger.unfinished()) == (0, [])


def _full(*_: object) -> None:
    raise LedgerError("the ledger cannot be written: disk is full")


async def test_unexpected_failure_still_ends_in_one_final_receipt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with provider_stack(tmp_path) as stack, RawGateway(stack.url) as gateway:
        lease = stack.add_lease()

        def fail(*_: object) -> int:
            raise ValueError("a client's words")

        with monkeypatch.context() as patch:
            patch.setattr("provider.metering.quantise_logprob", fail)
            answer = await gateway.ask(prepare(lease.lease_id))
        assert answer.error is not None
        assert (answer.error["code"], answer.done) == ("internal_error", False)
        assert "words" not in caplog.text + str(answer.error)
        assert "ValueError at " in caplog.text
        assert (answer.final.units_out, answer.final.cost) == (0, HELLO * 10)
        exposure = await stack.service.exposure(lease)
        assert (exposure.running, exposure.served) == ({}, HELLO * 10)
        assert stack.ledger.unfinished() == []
        again = await gateway.ask(prepare(lease.lease_id, seq=1, cumulative=answer.final.cost))
        assert again.done


async def test_final_receipt_that_could_not_be_kept_is_signed_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with provider_stack(tmp_path) as stack, RawGateway(stack.url) as gateway:
        lease = stack.add_lease()
        prepared = prepare(lease.lease_id)

        def full(*_: object) -> None:
            raise LedgerError("the disk is full")

        with monkeypatch.context() as patch:
            patch.setattr(stack.ledger, "record_receipt", full)
            answer = await gateway.ask(prepared)
        assert answer.error is not None
        assert answer.error["code"] == "ledger_unavailable"
        assert len(stack.ledger.unfinished()) == 1
        await stack.service.look_after_running()
        assert stack.ledger.unfinished() == []
        assert stack.ledger.count == 1
        assert (await gateway.post(prepared)).status_code == 409


async def test_running_answer_is_not_taken_for_an_interrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with provider_stack(tmp_path) as stack, RawGateway(stack.url) as gateway:
        held = HeldEngine(stack)
        monkeypatch.setattr(stack.engine, "generate", held.generate)
        prepared = prepare(stack.add_lease().lease_id)
        asking = asyncio.create_task(gateway.ask(prepared))
        await until(lambda: held.started == 1)
        assert await stack.service.recover() == 0
        held.open.set()
        assert (await asking).done


async def test_answer_ends_before_its_lease_closes(tmp_path: Path) -> None:
    cap = HELLO * 10 + 5 * 30
    async with (
        provider_stack(tmp_path, credit=cap, voucher_timeout_s=60, closing_margin_s=600) as stack,
        RawGateway(stack.url) as gateway,
    ):
        lease = stack.add_lease()
        prepared, answer = prepare(lease.lease_id), Received()
        async for _ in gateway.lines(prepared, answer):
            if answer.exposures and stack.clock.shift == 0:
                stack.clock.shift = 100
                closing = stack.clock.now() + 600
                stack.leases[lease.lease_id] = replace(lease, is_closing=True, closes_at=closing)
                await stack.service.look_after_running()
        check_receipts(stack, prepared, answer)
        assert answer.error is not None
        assert (answer.error["code"], len(answer.tokens)) == ("lease_ended", 5)
        assert (await gateway.pay(sign(lease.lease_id, answer.final.cost))).status_code == 204


async def test_lease_that_closes_within_the_margin_takes_no_request(stack: ProviderStack, gateway: RawGateway) -> None:
    margin = stack.service.settings.closing_margin_s
    lease = stack.add_lease(closes_at=stack.clock.now() + margin)
    assert refusal_code(await gateway.post(prepare(lease.lease_id))) == "lease_ended"
    lease = stack.add_lease(closes_at=stack.clock.now() + margin + 60)
    assert (await gateway.ask(prepare(lease.lease_id))).done


async def test_credit_still_possible_counts_against_the_cap(tmp_path: Path) -> None:
    """Every part is paid in full, at the half price it shows; the final receipt charges the whole."""
    offer = make_offer(sla_milli_tokens_per_s=1, sla_credit_bps=5_000)
    cap = HELLO * 10 + 10 * 30
    async with (
        provider_stack(tmp_path, offer=offer, credit=cap, chunk_tokens=1, voucher_timeout_s=0.5) as stack,
        RawGateway(stack.url) as gateway,
    ):
        lease = stack.add_lease()
        prepared, answer = prepare(lease.lease_id, body=chat_body(max_tokens=100), max_cost=20_000), Received()
        paid = 0
        async for _ in gateway.lines(prepared, answer):
            if answer.receipts and not answer.receipts[-1].message.final and answer.receipts[-1].message.cost > paid:
                paid = answer.receipts[-1].message.cost
                assert (await gateway.pay(sign(lease.lease_id, paid))).status_code == 204
        check_receipts(stack, prepared, answer)
        account = stack.ledger.account(lease.lease_id)
        assert 0 < account.served - account.cumulative <= cap
