"""Bodies of every shape: never a 500, never a charge for what was refused, one final receipt for what was admitted."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocol.headers import parse_response_headers
from tests.support.raw_gateway import RawGateway, prepare
from tests.support.scripted_provider import MODEL, ScriptedBackend, ScriptedProvider, scripted_provider

PATHS = ("/v1/chat/completions", "/v1/completions")
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=True, allow_infinity=True),
    st.text(max_size=8),
    st.sampled_from([[], {}, [[]], [{}], {"type": "function"}, "required", 1e308, -0.0]),
)
JSON = st.recursive(
    ODD, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
)
NAMES = ["messages", "prompt", "max_tokens", "max_completion_tokens", "temperature", "top_p", "frequency_penalty"]
NAMES += ["presence_penalty", "seed", "stop", "n", "stream", "stream_options", "logprobs", "top_logprobs"]
NAMES += ["response_format", "tools", "tool_choice", "parallel_tool_calls", "echo", "suffix", "best_of"]
VALID: dict[str, Any] = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "hi"}],
    "prompt": "hi",
    "max_tokens": 5,
}
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "tool", "system", "wizard"]), "content": JSON},
    optional={"name": JSON, "tool_calls": JSON, "tool_call_id": JSON},
)
CHANGES = st.dictionaries(st.sampled_from(NAMES), JSON, max_size=4) | st.fixed_dictionaries(
    {"messages": st.lists(MESSAGE, min_size=1, max_size=3)}
)
RAW = st.binary(max_size=40) | st.sampled_from(
    [
        b'{"model":' + b"[" * 5000,
        b"{" * 100_000,
        b'{"a":' * 500 + b"1" + b"}" * 500,
        b'{"model":"\\ud800"}',
        b"[" + b"1," * 200_000,
    ]
)
BODIES = RAW | CHANGES.map(lambda changes: json.dumps({**VALID, **changes}).encode())

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def provider(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ScriptedProvider]:
    async with scripted_provider(tmp_path_factory.mktemp("fuzz"), ScriptedBackend()) as running:
        yield running


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=BODIES, path=st.sampled_from(PATHS))
async def test_no_body_breaks_it_or_costs_what_was_refused(provider: ScriptedProvider, body: bytes, path: str) -> None:
    lease = provider.add_lease()
    async with RawGateway(provider.url) as gateway:
        response = await gateway.post(prepare(lease.lease_id, body=body, path=path, max_cost=50_000))
    account = provider.ledger.account(lease.lease_id)
    if response.status_code == 200:
        final = provider.ledger.final_receipt(lease.lease_id, 0)
        assert final is not None
        assert account.served == final.message.cost > 0
        return
    assert 400 <= response.status_code < 500, response.text
    error = response.json()["error"]
    assert (set(error) - {"details"}, bool(error["message"])) == ({"message", "type", "param", "code"}, True)
    assert parse_response_headers(response.headers.items()).receipt is None
    assert (account.served, account.highest_seq) == (0, -1)
    assert provider.ledger.request(lease.lease_id, 0) is None


async def test_the_unchanged_body_is_served(provider: ScriptedProvider, tmp_path: Path) -> None:
    """The control: what the fuzz changes is right before."""
    for path in PATHS:
        lease = provider.add_lease()
        async with RawGateway(provider.url) as gateway:
            response = await gateway.post(prepare(lease.lease_id, body=json.dumps(VALID).encode(), path=path))
        assert response.status_code == 200
        assert provider.ledger.account(lease.lease_id).served > 0
