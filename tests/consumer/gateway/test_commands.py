"""`clawmarket gateway init | run | status | explain | chat` against a real chain and a local model."""

import re
import signal
import stat
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
from typer.testing import CliRunner

from clawmarket_cli import PARTS
from consumer.cli import PASSWORD_VARIABLE
from consumer.client import AsyncClient
from consumer.gateway.commands import app
from consumer.gateway.commands_chat import app as chat_app
from consumer.gateway.commands_chat import visible
from tests.support.anvil import wait_for
from tests.support.engine_slots import hold_engine_slots
from tests.support.engines import tiny_model
from tests.support.live_market import PASSWORD, LiveMarket, WorkerProcess, live_market
from tests.support.waiting import until

PROVIDER = "http://127.0.0.1:9"
OTHERS = """
[gateway]
port = 0
[local.tiny]
path = "{model}"
context = 256
threads = 1
"""


@dataclass
class Ran:
    """A running gateway."""

    process: WorkerProcess
    config: Path
    url: str

    def invoke(self, *arguments: str, typed: str | None = None) -> str:
        """Output of a command, which must succeed."""
        done = CliRunner(env={"CLAWMARKET_CONSUMER": str(self.config), "CLAWMARKET_URL": self.url}).invoke(
            app, arguments, input=typed
        )
        assert done.exit_code == 0, done.output
        return done.output


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveMarket]:
    with live_market(tmp_path_factory.mktemp("market")) as found:
        yield found


def init(market: LiveMarket, folder: Path, *options: str) -> str:
    command = ["init", str(folder), f"--rpc={market.node.url}", f"--deployment={market.deployment_file}", *options]
    done = CliRunner(env={PASSWORD_VARIABLE: PASSWORD.reveal()}).invoke(app, command)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture(scope="module")
def ran(market: LiveMarket, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    folder = tmp_path_factory.mktemp("gateway") / "new"
    init(market, folder, f"--tokenizer={tiny_model()}")
    config = folder / "consumer.toml"
    config.write_text(config.read_text() + OTHERS.format(model=tiny_model()))
    (folder / "password").write_text(PASSWORD.reveal())
    with hold_engine_slots(1), WorkerProcess(config, extra=("gateway", "run")) as process:
        found = wait_for(lambda: re.search(r"serves on (http://127\.0\.0\.1:\d+/v1)\n", process.output), timeout=60)
        wait_for(lambda: "openai" in process.output, timeout=10)
        yield Ran(process, config, found[1])


def test_init__writes_configuration_and_a_key_for_its_owner_only(market: LiveMarket, tmp_path: Path) -> None:
    output = init(market, tmp_path / "new", f"--provider={PROVIDER}", "--provider=https://other.example")
    config = tomllib.loads((tmp_path / "new" / "consumer.toml").read_text())
    assert config["providers"] == [PROVIDER, "https://other.example"]
    assert config["accept_unverified"] is False
    key = tmp_path / "new" / "data" / "api_key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert key.read_text().startswith("claw-")
    assert key.read_text().strip() not in output
    assert "`tokenizers`" in output
    again = CliRunner(env={PASSWORD_VARIABLE: PASSWORD.reveal()}).invoke(
        app, ["init", str(tmp_path / "new"), f"--rpc={market.node.url}", f"--deployment={market.deployment_file}"]
    )
    assert (again.exit_code, "consumer.toml exists" in again.stderr) == (1, True)


@pytest.mark.slow
def test_greeting__works_as_it_is_printed(ran: Ran) -> None:
    curl = re.search(r"  (curl .*?}')\n", ran.process.output, re.DOTALL)
    assert curl is not None
    done = subprocess.run(["bash", "-c", curl[1]], capture_output=True, text=True, check=True)
    assert '"model":"local/tiny"' in done.stdout
    python = ran.process.output[ran.process.output.index("  from pathlib") :]
    names: dict[str, object] = {}
    exec("\n".join(line.strip() for line in python.splitlines()), names)
    client = names["client"]
    models = [model.id for model in client.models.list()]  # type: ignore[attr-defined]
    client.close()  # type: ignore[attr-defined]
    assert models == ["auto", "auto:cheap", "auto:fast", "local/tiny"]


@pytest.mark.slow
def test_explain_and_status__show_routes_and_requests(ran: Ran) -> None:
    assert re.search(r"1.*local/tiny.*local", ran.invoke("explain"))
    ran.invoke("chat", typed="Hello\n")
    shown = ran.invoke("status", "--once")
    assert "Routes" in shown
    assert "local/tiny" in shown
    assert "finished" in shown
    assert '"recent"' in ran.invoke("status", "--json")


@pytest.mark.slow
def test_chat__answers_with_route_and_cost_and_takes_commands(ran: Ran) -> None:
    typed = "/model local/tiny\nHello\n/providers\n/models\n/new\n/what\n/model local/none\nHello\n/quit\nHello\n"
    output = ran.invoke("chat", typed=typed)
    assert re.search(r"\[local/tiny · \d+ \+ \d+ tokens · 0 · \d+\.\d s\]", output)
    assert output.count("tokens · 0") == 1
    assert "auto:cheap" in output
    assert "/providers       routes" in output
    assert "a new conversation" in output
    assert "error: " in output


@pytest.mark.slow
def test_chat__by_itself_is_the_same(ran: Ran) -> None:
    assert PARTS["chat"][0] == "consumer.gateway.commands_chat"
    key = (ran.config.parent / "data" / "api_key").read_text().strip()
    runner = CliRunner(env={"CLAWMARKET_URL": ran.url, "CLAWMARKET_API_KEY": key, "CLAWMARKET_CONSUMER": None})
    assert "local/tiny" in runner.invoke(chat_app, [], input="/models\n").output


def test_chat__nobody_there__says_so() -> None:
    runner = CliRunner(env={"CLAWMARKET_URL": "http://127.0.0.1:9", "CLAWMARKET_CONSUMER": None})
    assert "is it running?" in runner.invoke(chat_app, [], input="Hello\n").output


def test_answers__cannot_steer_the_terminal() -> None:
    assert visible("a\x1b[2Jb\r\x07\n\tc\x9b") == "a[2Jb\n\tc"


@pytest.mark.slow
def test_busy_port__is_said(market: LiveMarket, tmp_path: Path, ran: Ran) -> None:
    init(market, tmp_path / "new")
    port = httpx.URL(ran.url).port
    config = tmp_path / "new" / "consumer.toml"
    config.write_text(config.read_text() + f"[gateway]\nport = {port}\n")
    done = CliRunner(env={PASSWORD_VARIABLE: PASSWORD.reveal()}).invoke(app, ["run", f"--config={config}"])
    assert (done.exit_code, f"cannot listen on 127.0.0.1:{port}" in done.stderr) == (1, True)


@pytest.mark.slow
async def test_sigterm__finishes_the_answer_under_way_and_ends_the_model(ran: Ran) -> None:
    key = (ran.config.parent / "data" / "api_key").read_text().strip()
    async with AsyncClient(ran.url, key) as client:
        await client.ask("Hi", "local/tiny", max_tokens=1)
        children = psutil.Process(ran.process.process.pid).children()
        (model,) = [child for child in children if "local_child.py" in str(child.cmdline())]
        async with client.stream("Hi", "local/tiny", max_tokens=200, temperature=0) as stream:
            texts = aiter(stream)
            await anext(texts)
            model.suspend()
            ran.process.process.send_signal(signal.SIGTERM)
            await until(lambda: not _connects(ran.url))
            model.resume()
            async for _ in texts:
                pass
    assert stream.answer.finish_reason in ("length", "stop")
    assert ran.process.wait_end() == 0
    assert not model.is_running()


def _connects(url: str) -> bool:
    try:
        httpx.get(url.removesuffix("/v1") + "/healthz")
    except httpx.TransportError:
        return False
    return True
