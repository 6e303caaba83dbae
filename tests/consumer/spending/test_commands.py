"""The commands on a data folder: with nobody there, and while a gateway runs."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from consumer.spending.api_keys import ApiKeys
from consumer.spending.commands import app
from consumer.spending.file import GatewayFile
from tests.consumer.spending.stall import Stall, config_of, running, usdc
from tests.support.live_market import PASSWORD, LiveMarket, live_market


@pytest.fixture(scope="module")
def stall(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stall]:
    with live_market(tmp_path_factory.mktemp("market")) as found:
        yield Stall(found)


@dataclass
class Gateway:
    """A configuration in a folder."""

    market: LiveMarket
    folder: Path

    def run(self, *words: str) -> Result:
        options = ["--config", str(self.folder / "consumer.toml")]
        if words[1:] in (("close",), ("release",)):
            options += ["--password-file", str(self.folder / "password")]
        return CliRunner().invoke(app, [*words, *options], env={"COLUMNS": "200"})


@pytest.fixture
def gateway(stall: Stall, tmp_path: Path) -> Gateway:
    config_of(stall.market, tmp_path)
    (tmp_path / "consumer.toml").write_text(
        f'rpc = ["{stall.market.node.url}"]\ndeployment = "{stall.market.deployment_file}"\n'
    )
    (tmp_path / "password").write_text(PASSWORD.reveal() + "\n")
    return Gateway(stall.market, tmp_path)


def test_keys_are_made_listed_and_revoked(gateway: Gateway) -> None:
    made = gateway.run("keys", "new", "alice", "--per-day", "1 USDC", "--model", "m", "--days", "2")
    assert made.exit_code == 0, made.output
    text = made.stdout.strip().splitlines()[-1]
    keys = ApiKeys(GatewayFile(gateway.folder / "data" / "gateway.sqlite"), lambda: 0)
    key = keys.identify(f"Bearer {text}")
    assert (key.name, key.per_day.as_list(), key.models) == ("alice", ["1 USDC"], ("m",))
    assert key.expires == key.created + 2 * 86_400
    listed = gateway.run("keys", "list").output
    assert key.key_id in listed
    assert text.split("-", 2)[2] not in listed
    assert "1 USDC" in gateway.run("budget").output
    assert gateway.run("keys", "revoke", "alice").exit_code == 0
    assert "revoked" in gateway.run("keys", "list").output
    again = gateway.run("keys", "revoke", "alice")
    assert (again.exit_code, again.stderr.startswith("error: 0 keys in use")) == (1, True)


@pytest.mark.parametrize("amount", ["1", "1 EUR", "x USDC"])
def test_an_amount_that_is_none_is_a_clear_error(gateway: Gateway, amount: str) -> None:
    result = gateway.run("keys", "new", "alice", "--per-day", amount)
    assert result.exit_code == 2
    assert "amount" in result.output


def test_a_lease_is_listed_closed_and_released(stall: Stall, gateway: Gateway) -> None:
    config = config_of(stall.market, gateway.folder, amount="1 USDC")
    wanted = stall.publish()

    async def open_one() -> bytes:
        async with running(config) as spending:
            return (await spending.keeper.client_for(wanted, usdc("0.01"))).record.lease_id

    lease_id = asyncio.run(open_one())
    listed = gateway.run("leases", "list").output
    assert f"0x{lease_id.hex()[:16]}" in listed
    assert " open " in listed
    early = gateway.run("leases", "release")
    assert (early.exit_code, "leases: not closed" in early.stderr) == (1, True)
    closed = gateway.run("leases", "close")
    assert (closed.exit_code, "closes at" in closed.output) == (0, True), closed.output
    assert stall.market.client.lease(lease_id).is_closing
    assert " closing " in gateway.run("leases", "list").output
    stall.market.node.time_travel(3_700)
    assert "is released" in gateway.run("leases", "release").output
    assert stall.market.client.lease(lease_id).is_released
    assert lease_id.hex()[:16] not in gateway.run("leases", "list").output
    assert gateway.run("audit").output == "no requests\n"


def test_while_a_gateway_runs_all_is_seen_and_only_it_ends_leases(stall: Stall, gateway: Gateway) -> None:
    config = config_of(stall.market, gateway.folder, amount="1 USDC")
    wanted = stall.publish()

    async def run() -> None:
        async with running(config) as spending:
            lease_id = (await spending.keeper.client_for(wanted, usdc("0.01"))).record.lease_id
            shown = {
                words: await asyncio.to_thread(gateway.run, *words.split())
                for words in ("budget", "leases list", "receipts", "audit")
            }
            assert {words: result.exit_code for words, result in shown.items()} == dict.fromkeys(shown, 0)
            assert lease_id.hex()[:16] in shown["leases list"].output
            result = await asyncio.to_thread(gateway.run, "leases", "close")
            assert (result.exit_code, "the gateway is running" in result.stderr) == (1, True)
            text = (await asyncio.to_thread(gateway.run, "keys", "new", "bob")).stdout.strip().splitlines()[-1]
            assert spending.keys.identify(f"Bearer {text}").name == "bob"

    asyncio.run(run())
