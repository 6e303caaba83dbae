"""What a person can get wrong: each ends with an error that says what to do next, and nothing is sent or lost."""

import json
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from consumer.cli import PASSWORD_VARIABLE, app
from protocol import keystore
from provider.backup import OFFERS_FOLDER
from tests.support.anvil import Anvil
from tests.support.engines import tiny_model
from tests.support.live_market import ETHER, PASSWORD, SCRYPT_N, LiveMarket, live_market, signer_of

OWNER = 3
START = 20_000_000


@contextmanager
def offers(folder: Path) -> Iterator[str]:
    """Serves a provider's offers as its worker would."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            *_, offer, version = self.path.split("/")
            content = (folder / f"{offer}-{version}.json").read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@dataclass
class Consumer:
    """A configured consumer with money, and the options that name an offer."""

    market: LiveMarket
    folder: Path
    offer: list[str]

    def configure(self, **changes: object) -> None:
        """Writes the configuration; None leaves an entry out."""
        entries: dict[str, object] = {
            "rpc": [self.market.node.url],
            "deployment": str(self.market.deployment_file),
            "tokenizer": str(tiny_model()),
            **changes,
        }
        lines = [f"{name} = {json.dumps(value)}" for name, value in entries.items() if value is not None]
        (self.folder / "consumer.toml").write_text("\n".join(lines) + "\n")

    def run(self, command: str, *arguments: str, password: str = PASSWORD.reveal()) -> tuple[int, str]:
        """A command's exit code, and all it printed."""
        options = [] if command == "" else [f"--config={self.folder / 'consumer.toml'}"]
        done = CliRunner(env={PASSWORD_VARIABLE: password}).invoke(app, [command, *arguments, *options])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.exit_code, done.output

    def state(self) -> tuple[int, ...]:
        """Everything on chain that a mistake could cost: account, wallet, lease nonce, transactions."""
        client, owner = self.market.client, signer_of(OWNER).address
        wallet = client.get(client.reads.view("TestUSDC", "balanceOf", owner))
        return client.account(owner, self.market.token), wallet, client.nonce(owner), client.transaction_count(owner)


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveMarket]:
    with live_market(tmp_path_factory.mktemp("market")) as running:
        yield running


@pytest.fixture(scope="module")
def consumer(market: LiveMarket, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consumer]:
    folder = tmp_path_factory.mktemp("consumer")
    keystore.save(folder / "owner.json", signer_of(OWNER), PASSWORD, scrypt_n=SCRYPT_N)
    market.call(OWNER, "mint", "TestUSDC", "mint", signer_of(OWNER).address, START)
    enrolment = market.enrol(market.folder / "provider")
    with offers(enrolment.config.parent / "data" / OFFERS_FOLDER) as url:
        options = [f"--endpoint={url}", f"--provider={enrolment.provider}", f"--offer={enrolment.offer_id}"]
        found = Consumer(market, folder, options)
        found.configure()
        assert found.run("deposit", "12 USDC") == (0, "deposited 12 USDC\n")
        code, output = found.run("open", *options, "--amount=10 USDC")
        assert code == 0, output
        yield found


@pytest.fixture(autouse=True)
def unchanged(consumer: Consumer) -> Iterator[None]:
    """A mistake costs nothing, and after it the right command still works."""
    before, leases = consumer.state(), consumer.run("leases")[1]
    assert leases.count("0x") == 1
    yield
    consumer.configure()
    assert consumer.state() == before
    assert consumer.run("leases") == (0, leases)


def refused(result: tuple[int, str], *words: str) -> None:
    code, output = result
    assert code == 1, output
    assert output.startswith("error: ")
    for word in words:
        assert word in output
    assert PASSWORD.reveal() not in output


@pytest.mark.parametrize("command", [("deposit", "1 USDC"), ("withdraw", "1 USDC"), ("ask", "hello"), ("close",)])
def test_wrong_password(consumer: Consumer, command: tuple[str, ...]) -> None:
    refused(consumer.run(*command, password="wrong"), "the password does not open")


def test_missing_key(consumer: Consumer) -> None:
    consumer.configure(owner_key="elsewhere.json")
    refused(consumer.run("deposit", "1 USDC"), "elsewhere.json does not exist", "correct the path")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ("does not exist", "deploy the contracts")),
        ("", ("not valid JSON", "restore the file")),
        ("{}", ("contracts is missing", "restore the file")),
        ('{"contracts": {}, "profile": 5}', ("restore the file",)),
    ],
)
def test_unreadable_deployment(consumer: Consumer, tmp_path: Path, content: str | None, words: tuple[str, ...]) -> None:
    path = tmp_path / "deployment.json"
    if content is not None:
        path.write_text(content)
    consumer.configure(deployment=str(path))
    for command in (("deposit", "1 USDC"), ("leases",), ("ask", "hello")):
        refused(consumer.run(*command), *words)


def test_deployment_that_is_not_on_this_chain(consumer: Consumer, tmp_path: Path) -> None:
    deployment = consumer.market.client.deployment
    contracts = {
        name: replace(record, address="0x" + f"{number + 1:040x}")
        for number, (name, record) in enumerate(sorted(deployment.contracts.items()))
    }
    path = replace(deployment, contracts=contracts).save(tmp_path)
    consumer.configure(deployment=str(path), data=str(tmp_path / "data"))
    refused(consumer.run("deposit", "1 USDC"), "deploy")


def test_records_of_another_deployment(consumer: Consumer, tmp_path: Path) -> None:
    deployment = consumer.market.client.deployment
    escrow = replace(deployment.contracts["LeaseEscrow"], address="0x" + "11" * 20)
    path = replace(deployment, contracts={**deployment.contracts, "LeaseEscrow": escrow}).save(tmp_path)
    consumer.configure(deployment=str(path))
    refused(consumer.run("leases"), "belongs to another deployment", "choose another data folder")


def test_damaged_records(consumer: Consumer, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "consumer.sqlite").write_bytes(b"no database" * 500)
    consumer.configure(data=str(data))
    refused(consumer.run("leases"), "cannot be opened", "restore the file")


def test_records_of_another_version(consumer: Consumer, tmp_path: Path) -> None:
    shutil.copytree(consumer.folder / "data", tmp_path / "data")
    database = sqlite3.connect(tmp_path / "data" / "consumer.sqlite")
    database.execute("PRAGMA user_version = 1")
    database.close()
    consumer.configure(data=str(tmp_path / "data"))
    refused(consumer.run("leases"), "another version")


def test_data_folder_that_is_a_file(consumer: Consumer, tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    consumer.configure(data=str(tmp_path / "data"))
    refused(consumer.run("leases"), "choose another folder")


@pytest.mark.parametrize("command", [("deposit", "1 USDC"), ("ask", "hello"), ("leases",), ("close",)])
def test_no_node(consumer: Consumer, command: tuple[str, ...]) -> None:
    consumer.configure(rpc=["http://127.0.0.1:1"])
    refused(consumer.run(*command), "no RPC endpoint answers", "check the network and the RPC addresses")


def test_node_of_another_chain(consumer: Consumer) -> None:
    with Anvil(chain_id=1337) as other:
        consumer.configure(rpc=[other.url])
        for command in (("deposit", "1 USDC"), ("ask", "hello")):
            refused(consumer.run(*command), "serves chain 1337, expected chain 31337", "correct the RPC address")


def test_deployment_file_of_another_chain(consumer: Consumer, tmp_path: Path) -> None:
    path = replace(consumer.market.client.deployment, chain_id=8453).save(tmp_path)
    consumer.configure(deployment=str(path), data=str(tmp_path / "data"))
    refused(consumer.run("deposit", "1 USDC"), "expected chain 8453", "use the deployment file of that chain")


def test_development_chain_that_was_restarted(consumer: Consumer, tmp_path: Path) -> None:
    path = replace(consumer.market.client.deployment, genesis_hash=b"\x01" * 32).save(tmp_path)
    consumer.configure(deployment=str(path))
    refused(consumer.run("deposit", "1 USDC"), "another genesis block", "deploy again")


def test_no_money_for_gas(consumer: Consumer) -> None:
    node, owner = consumer.market.node, signer_of(OWNER).address
    kept = node.balance(owner)
    node.set_balance(owner, 0)
    try:
        for command in (("deposit", "1 USDC"), ("open", *consumer.offer, "--amount=1 USDC"), ("close",)):
            refused(consumer.run(*command), f"{owner} has 0 wei", f"wei to {owner} and try again")
    finally:
        node.set_balance(owner, max(kept, ETHER))


def test_account_too_low_for_a_lease(consumer: Consumer) -> None:
    sessions = sorted((consumer.folder / "data" / "sessions").iterdir())
    result = consumer.run("open", *consumer.offer, "--amount=99 USDC")
    refused(result, "account too low", "holds 2000000", "deposit 97000000 more")
    assert sorted((consumer.folder / "data" / "sessions").iterdir()) == sessions


def test_amount_in_another_token(consumer: Consumer) -> None:
    refused(consumer.run("open", *consumer.offer, "--amount=1 CLAW"), "not priced in CLAW", "in its token")


def test_wallet_too_low_for_a_deposit(consumer: Consumer) -> None:
    refused(consumer.run("deposit", "9 USDC"), "holds 8000000", "send 1000000 more to it")


def test_account_too_low_for_a_withdrawal(consumer: Consumer) -> None:
    refused(consumer.run("withdraw", "3 USDC"), "holds 2000000", "withdraw at most that")


def test_no_tokenizer(consumer: Consumer) -> None:
    consumer.configure(tokenizer=None)
    refused(consumer.run("ask", "hello"), "tokenizer", "accept_unverified")


def test_tokenizer_that_is_no_model(consumer: Consumer, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_text("no model")
    consumer.configure(tokenizer=str(tmp_path / "model.gguf"))
    refused(consumer.run("ask", "hello"), "not a readable GGUF file")


def test_provider_that_is_not_there(consumer: Consumer) -> None:
    gone = ["--endpoint=http://127.0.0.1:1", *consumer.offer[1:]]
    refused(consumer.run("open", *gone, "--amount=1 USDC"), "http://127.0.0.1:1", "check the address")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "cannot be read"),
        ("rpc = [", "is not TOML"),
        ('rpc = []\ndeployment = "x"\n', "rpc"),
        ('rpc = ["http://127.0.0.1:1"]\ndeployment = "x"\ncolour = "red"\n', "colour"),
    ],
)
def test_unusable_configuration(consumer: Consumer, text: str | None, words: str) -> None:
    path = consumer.folder / "consumer.toml"
    path.unlink()
    if text is not None:
        path.write_text(text)
    refused(consumer.run("leases"), "configuration", words)
