"""The owner's commands that move stake and write to the system, on a real chain."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from provider import systemd
from provider.cli import app
from provider.sandbox import system_unit
from provider.sandbox.paths import SandboxPaths
from tests.support.live_market import ETHER, PASSWORD, LiveMarket, live_market
from tests.support.shop import Shop, open_shop

DAY_S = 86_400


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveMarket]:
    with live_market(tmp_path_factory.mktemp("market")) as running:
        yield running


@pytest.fixture
def shop(market: LiveMarket, tmp_path: Path) -> Shop:
    return open_shop(market, tmp_path / "provider")


def command(shop: Shop, *arguments: str, answer: str = "") -> Result:
    """`clawmarket provider …` with the configuration and keys of this provider."""
    variables = {
        "CLAWMARKET_PROVIDER": str(shop.enrolment.config),
        "CLAWMARKET_OWNER": str(shop.owner_key),
        "CLAWMARKET_PASSWORD": PASSWORD.reveal(),
    }
    return CliRunner().invoke(app, arguments, env=variables, input=answer)


def staked(shop: Shop) -> tuple[int, int, int]:
    """What the owner has in CLAW: in its wallet, active, cooling down."""
    client = shop.market.client
    owner = client.get(client.reads.owner_of(shop.provider))
    views = [("ClawToken", "balanceOf"), ("Staking", "active_stake"), ("Staking", "cooling")]
    wallet, active, (cooling, _) = client.read([client.reads.view(*view, owner) for view in views])
    return wallet // ETHER, active // ETHER, cooling // ETHER


def test_stake_is_withdrawn_once_and_only_after_the_cooldown(market: LiveMarket, shop: Shop) -> None:
    nothing = command(shop, "stake", "withdraw")
    assert (nothing.exit_code, "nothing cools down" in nothing.stderr) == (1, True)
    assert command(shop, "stake", "cooldown", "10000", "--yes").exit_code == 0
    assert staked(shop) == (0, 0, 10_000)
    early = command(shop, "stake", "withdraw")
    assert (early.exit_code, "the cooldown runs until" in early.stderr) == (1, True)
    assert staked(shop) == (0, 0, 10_000)

    market.node.time_travel(21 * DAY_S + 1)
    market.node.mine()
    paid = command(shop, "stake", "withdraw")
    assert (paid.exit_code, paid.stdout) == (0, "withdrew 10000 CLAW\n")
    assert staked(shop) == (10_000, 0, 0)
    again = command(shop, "stake", "withdraw")
    assert (again.exit_code, "nothing cools down" in again.stderr) == (1, True)
    assert staked(shop) == (10_000, 0, 0)


def test_unit_is_installed_when_the_owner_agrees(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "system" / systemd.UNIT_NAME
    monkeypatch.setattr(systemd, "UNIT_PATH", target)
    password = shop.enrolment.config.parent / "password"
    arguments = ("unit", f"--password-file={password}", "--user=claw")
    printed = command(shop, *arguments)
    assert (printed.exit_code, target.exists()) == (0, False)
    # its engines are other users' processes, in folders that are shared with the sandbox's daemon
    assert "ProtectProc=" not in printed.stdout
    assert f"After=network-online.target {system_unit.UNIT_NAME}\n" in printed.stdout
    assert f'"-{SandboxPaths.system().share}"' in printed.stdout
    impossible = command(shop, *arguments, "--install", "--yes")
    assert (impossible.exit_code, "run this as root" in impossible.stderr) == (1, True)
    target.parent.mkdir()
    refused = command(shop, *arguments, "--install", answer="n\n")
    assert (refused.exit_code, target.exists()) == (1, False)
    done = command(shop, *arguments, "--install", answer="y\n")
    assert done.exit_code == 0, done.stderr
    assert target.read_text() == printed.stdout
    assert f"wrote {target}; next: systemctl daemon-reload" in done.stdout
