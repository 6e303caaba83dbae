"""The README holds: its session runs as written, ends with the sums it names, and prints what it shows."""

import os
import random
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from protocol import keystore
from protocol.chain import deployments
from protocol.chain.client import ChainClient
from protocol.money import Money
from scripts.deployment.artifacts import CONTRACTS
from tests.support.anvil import ROOT
from tests.support.engine_slots import hold_engine_slots
from tests.support.readme import SessionFailed, blocks, matches, section, session
from tests.support.sandbox import worker_sandbox

SESSION = "A session by hand"
DOCUMENTS = ["README.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md"]
REFUSALS = """
! clawmarket gateway status --once
! clawmarket provider withdraw --owner "$WORK/consumer/owner.json"
clawmarket provider withdraw --owner "$WORK/owner.json"
"""
ROTATION = """
clawmarket provider rotate-key --owner "$WORK/owner.json"
clawmarket provider run 2>"$WORK/rotated.log" &
until grep "serves on" "$WORK/rotated.log"; do sleep 1; done
kill $! && wait $!
"""


def free_port(taken: set[int]) -> int:
    """A free port below those the kernel hands out, so that nothing else takes it before the session does."""
    while True:
        port = random.randrange(15_000, 32_000)
        with socket.socket() as probe:
            if port not in taken and probe.connect_ex(("127.0.0.1", port)) != 0:
                taken.add(port)
                return port


def environment(folder: Path) -> dict[str, str]:
    """A shell that knows nothing but where the session may lie and listen."""
    taken: set[int] = set()
    return {
        "HOME": os.environ["HOME"],
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "WORK": str(folder / "work"),
        "CLAWMARKET_SANDBOX": str(worker_sandbox().state.parent),
        "RPC_PORT": str(free_port(taken)),
        "PORT": str(free_port(taken)),
        "GATEWAY_PORT": str(free_port(taken)),
    }


@dataclass(frozen=True)
class Ended:
    """The session's end: what it wrote, and the chain's sums, in base units of USDC."""

    output: str
    consumer: int
    owner: int
    escrow: int
    settled: int
    exit_code: int
    left_running: int


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ended]:
    folder = tmp_path_factory.mktemp("readme")
    surroundings = environment(folder)
    commands = blocks(section(SESSION), "sh")
    with hold_engine_slots(1), session(folder, surroundings) as running:
        stop_worker, stop_chain = commands[-1].splitlines()
        running.start("\n".join(commands[:-1]) + REFUSALS, stop_worker + ROTATION + stop_chain)
        deployment = deployments.load_file(folder / "work" / "31337.json")
        with ChainClient([f"http://127.0.0.1:{surroundings['RPC_PORT']}"], deployment) as client:

            def wallet(address: str) -> int:
                return int(client.get(client.reads.view("TestUSDC", "balanceOf", address)))

            lease = client.lease(bytes.fromhex(re.findall(r"lease 0x([0-9a-f]{64}) is released", running.output)[0]))
            owner = client.get(client.reads.owner_of(1))
            escrow = deployment.address("LeaseEscrow")
            sums = wallet(lease.owner), wallet(owner), wallet(escrow), lease.settled
        exit_code = running.finish()
        yield Ended(running.output, *sums, exit_code, len(running.processes()))


def test_session__as_written__pays_what_was_counted(ended: Ended) -> None:
    used = re.search(r'"prompt_tokens":(\d+),"completion_tokens":(\d+)', ended.output)
    told = re.search(r"x-clawmarket-cost: (\S+ USDC)", ended.output)
    owed = re.search(r"owed (\d+) of \d+ base units, all settled", ended.output)
    assert used, ended.output
    assert told
    assert owed
    units_in, units_out = map(int, used.groups())
    assert units_out > 0
    assert Money.parse(told[1]).units == -(-(units_in * 10_000 + units_out * 30_000) // 1_000)
    cost = int(owed[1])
    assert ended.settled == cost > Money.parse(told[1]).units
    fee = cost * 500 // 10_000
    assert (ended.consumer, ended.owner, ended.escrow) == (50_000_000 - cost, cost - fee, fee)


def test_session__its_end__stops_everything(ended: Ended) -> None:
    assert (ended.exit_code, ended.left_running) == (0, 0), ended.output


def test_session__shown_output__was_printed(ended: Ended) -> None:
    work = re.search(r"wrote (\S+)/31337\.json", ended.output)
    assert work
    output = ended.output + (Path(work[1]) / "provider.log").read_text()
    promised = [line for block in blocks(section(SESSION), "text") for line in block.splitlines()]
    assert len(promised) > 10
    assert [line for line in promised if not matches(line, output)] == []


def test_rotate_key__worker_stopped__serves_with_the_new_key(ended: Ended) -> None:
    node, rotated = re.findall(r"node key (?:is now )?(0x[0-9a-fA-F]{40})", ended.output)
    work = re.search(r"wrote (\S+)/31337\.json", ended.output)
    assert work
    provider = Path(work[1]) / "provider"
    assert keystore.address(provider / "node.json") == rotated != node
    assert keystore.address(provider / f"node.{node[2:10].lower()}.json") == node
    assert "serves on" in (Path(work[1]) / "rotated.log").read_text()


def test_session__wrong_use__is_refused_with_a_reason(ended: Ended) -> None:
    assert "error: provider 1 belongs to" in ended.output
    assert "nothing has matured yet" in ended.output
    assert "is it running?" in ended.output
    assert "Traceback" not in ended.output


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ("clawmarket consumer opne", "No such command 'opne'"),
        ("clawmarket keys new", "Missing argument"),
        ("cast no-such-command | cat", "unrecognized subcommand"),
    ],
)
def test_session__wrong_command__fails(tmp_path: Path, wrong: str, reason: str) -> None:
    first_line = blocks(section(SESSION), "sh")[0].splitlines()[0]
    with session(tmp_path, environment(tmp_path)) as running, pytest.raises(SessionFailed, match=reason):
        running.start(f"{first_line}\n{wrong}", "true")


def test_matches__other_words__are_noticed() -> None:
    assert matches("wrote …/31337.json, 5 of 0xab", "x\nwrote /tmp/a/1.json, 77 of 0xcdef\n")
    assert not matches("wrote …/31337.json", "made /tmp/a/31337.json\n")
    assert not matches("withdrew 5 USDC", "withdrew 5 USDC later\n")


@pytest.mark.parametrize("name", DOCUMENTS)
def test_document__its_links_and_paths__exist(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    paths = re.findall(r"`((?:tests|scripts|docs|protocol|provider|consumer|contracts)/[\w./-]*)`", text)
    assert [path for path in links + paths if not (ROOT / path).exists()] == []


def test_tree__every_contract_and_module__has_one_line() -> None:
    tree = section("Contracts")
    named = re.findall(r"(?:├──|└──) ((?:modules/)?\w+\.(?:vy|sol)) +\S", tree)
    there = [file.name for suffix in ("vy", "sol") for file in (ROOT / "contracts").glob(f"*.{suffix}")]
    modules = [f"modules/{file.name}" for file in (ROOT / "contracts" / "modules").glob("*.vy")]
    assert sorted(named) == sorted(there + modules)
    assert {Path(file).stem for file in there} == set(CONTRACTS)


def test_make_targets__named_in_the_documents__exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        target for name in DOCUMENTS for target in re.findall(r"(?:`|^)make ([a-z-]+)", (ROOT / name).read_text(), re.M)
    }
    assert {"demo", "test"} <= named <= targets
