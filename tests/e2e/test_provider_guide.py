"""The provider's guide holds: its commands run as written, in its order, and print what it shows."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from protocol.chain import deployments
from protocol.chain.client import ChainClient
from provider.sandbox.paths import SandboxPaths
from provider.sandbox.watching import Watchdog
from tests.e2e.test_readme import environment
from tests.support.anvil import ROOT
from tests.support.engine_slots import hold_engine_slots
from tests.support.readme import blocks, matches, session

GUIDE = (ROOT / "docs" / "provider-guide.md").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Ended:
    """What the session wrote, the owner's USDC, and how it ended."""

    output: str
    owner: int
    cost: int
    exit_code: int
    left_running: int
    metadata_is_published: bool


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ended]:
    folder = tmp_path_factory.mktemp("guide")
    surroundings = environment(folder)
    commands = blocks(GUIDE, "sh")
    with hold_engine_slots(1), session(folder, surroundings) as running:
        running.start("\n".join(commands[:-1]), commands[-1])
        deployment = deployments.load_file(folder / "work" / "31337.json")
        with ChainClient([f"http://127.0.0.1:{surroundings['RPC_PORT']}"], deployment) as client:
            owner = client.get(client.reads.owner_of(1))
            wallet = int(client.get(client.reads.view("TestUSDC", "balanceOf", owner)))
            digest = client.get(client.reads.metadata_digest(1))
        cost = re.search(r"tokens, (\d+) base units\]", running.output)
        assert cost, running.output
        exit_code = running.finish()
        output = running.output
        for name in ("provider.log", "restored.log"):
            output += (folder / "work" / name).read_text()
        yield Ended(output, wallet, int(cost[1]), exit_code, len(running.processes()), digest != bytes(32))


def test_guide__as_written__earns_what_was_asked(ended: Ended) -> None:
    assert ended.cost > 0
    assert ended.owner == ended.cost - ended.cost * 500 // 10_000
    assert ended.metadata_is_published


def test_guide__its_end__stops_everything(ended: Ended) -> None:
    assert (ended.exit_code, ended.left_running) == (0, 0), ended.output


def test_guide__shown_output__was_printed(ended: Ended) -> None:
    promised = [line for block in blocks(GUIDE, "text") for line in block.splitlines()]
    assert len(promised) > 10
    assert [line for line in promised if not matches(line, ended.output)] == []


def test_guide__every_metric_it_names__exists() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "provider" / "observing").glob("*.py"))
    sources += " ".join(metric.name for metric in Watchdog(SandboxPaths.system()).collect())
    named = set(re.findall(r"`(clawmarket_\w+)", GUIDE))
    assert len(named) > 5
    assert [name for name in named if name.removesuffix("_total") not in sources] == []


def test_guide__links__exist() -> None:
    assert [path for path in re.findall(r"`((?:tests|docs)/[\w./-]*)`", GUIDE) if not (ROOT / path).exists()] == []
