"""Live queries say what is, then only what changes."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from queue import Empty, Queue
from typing import Any

import httpx
import pytest

from indexer.api.live import MAX_PER_CLIENT
from tests.indexer.api.served import ANSWER_S, Served
from tests.support.anvil import dev_account

QUIET_S = 1.5


@contextmanager
def listening(served: Served, path: str, **parameters: Any) -> Iterator[Queue[dict[str, Any]]]:
    """The events' data, as they come."""
    found: Queue[dict[str, Any]] = Queue()

    def read(answer: httpx.Response) -> None:
        try:
            for line in answer.iter_lines():
                if line.startswith("data: "):
                    found.put(json.loads(line.removeprefix("data: ")))
        except (httpx.HTTPError, httpx.StreamError):
            pass

    with (
        httpx.Client(base_url=served.url, timeout=ANSWER_S) as client,
        client.stream("GET", f"/v1/live/{path}", params=parameters) as answer,
    ):
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert "x-indexed-block" in answer.headers
        reader = threading.Thread(target=read, args=(answer,))
        reader.start()
        try:
            yield found
        finally:
            # A close alone does not wake the reader.
            answer.extensions["network_stream"].get_extra_info("socket").shutdown(socket.SHUT_RDWR)
            reader.join()


def test_live__emits_at_first_and_on_change_alone(served: Served) -> None:
    served.market.transfer(1)
    served.catch_up()
    owner = dev_account(3).address
    query = {"owner": owner, "token": served.market.address("ClawToken")}
    with listening(served, "token_balances", **query) as mine, listening(served, "leases") as others:
        first = mine.get(timeout=ANSWER_S)
        others.get(timeout=ANSWER_S)
        assert first["data"] == served.client.get("/v1/token_balances", params=query).json()["data"]
        served.market.transfer(5, receiver=7)
        served.market.node.mine(2)
        served.catch_up()
        with pytest.raises(Empty):
            mine.get(timeout=QUIET_S)
        served.market.transfer(77)
        head = served.catch_up()
        second = mine.get(timeout=ANSWER_S)
        assert int(second["data"][0]["balance"]) == int(first["data"][0]["balance"]) + 77
        assert second["block"]["number"] == head
        with pytest.raises(Empty):
            others.get(timeout=QUIET_S)


def test_live__undone_block__emits_what_was_before(served: Served) -> None:
    snapshot = served.market.node.snapshot()
    served.catch_up()
    query = {"owner": dev_account(3).address, "token": served.market.address("ClawToken")}
    with listening(served, "token_balances", **query) as events:
        before = events.get(timeout=ANSWER_S)
        served.market.transfer(9)
        served.catch_up()
        assert events.get(timeout=ANSWER_S)["data"] != before["data"]
        served.market.node.revert(snapshot)
        served.market.transfer(1, receiver=8)
        served.market.transfer(1, receiver=8)
        served.catch_up()
        assert events.get(timeout=ANSWER_S)["data"] == before["data"]


def test_live__hostile_parameters__are_refused(served: Served) -> None:
    for parameters in ({"owner": "x"}, {"after": "AAAA"}, {"sort": "1"}):
        answer = served.client.get("/v1/live/leases", params=parameters)
        assert answer.status_code == 400


def test_live__too_many_of_one_client__are_refused_and_room_comes_back(served: Served) -> None:
    with ExitStack() as stack:
        for _ in range(MAX_PER_CLIENT):
            stack.enter_context(listening(served, "providers"))
        refused = served.client.get("/v1/live/providers")
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_live")
        assert served.client.get("/v1/providers").status_code == 200
        assert f"clawmarket_api_live {float(MAX_PER_CLIENT)}" in served.client.get("/metrics").text
    for _ in range(200):
        if "clawmarket_api_live 0.0" in served.client.get("/metrics").text:
            break
        threading.Event().wait(0.1)
    with listening(served, "providers") as events:
        events.get(timeout=ANSWER_S)
