"""Money: earnings, withdraw, stake."""

import secrets
from typing import Annotated

import typer

from provider.commands.common import (
    ConfigOption,
    OwnerOption,
    PasswordFileOption,
    YesOption,
    confirm,
    errors,
    password_of,
)

app = typer.Typer()
stake_app = typer.Typer(help="Show the owner's stake; add to it, or take it out.", invoke_without_command=True)
AmountArgument = Annotated[str, typer.Argument(help="CLAW, e.g. '500' or '500 CLAW'.")]


@app.command()
def earnings(config: ConfigOption) -> None:
    """Show what is held as the bond, what has matured, and what is in the owner's account."""
    from provider import payout
    from provider.config import load_config

    with errors():
        for found in payout.earnings(load_config(config)):
            typer.echo(str(found))


@app.command()
def withdraw(
    config: ConfigOption,
    owner: OwnerOption,
    to: Annotated[str | None, typer.Option(help="Who receives it; by default the owner.")] = None,
    password_file: PasswordFileOption = None,
) -> None:
    """Collect matured earnings and pay out all that is in the owner's account."""
    from protocol.address import to_address
    from provider import payout
    from provider.config import load_config

    with errors():
        receiver = to_address(to, "to") if to else None
        paid = payout.withdraw(load_config(config), owner, password_of(password_file), receiver)
    for money in paid:
        typer.echo(f"withdrew {money}")
    if not paid:
        typer.echo("nothing has matured yet; `clawmarket provider earnings` shows what is held")


@stake_app.callback()
def stake(context: typer.Context, config: ConfigOption) -> None:
    """Show the owner's stake: active, cooling down, and the minimum for new leases."""
    from protocol.chain import deployments
    from protocol.chain.client import ChainClient
    from protocol.money import CLAW, Money
    from provider.commands.shown import show_time
    from provider.config import load_config
    from provider.observing.chain_figures import read_stake

    context.obj = config
    if context.invoked_subcommand:
        return
    with errors():
        loaded = load_config(config)
        with ChainClient(loaded.chain.rpc, deployments.load_file(loaded.chain.deployment)) as client:
            found = read_stake(client, client.get(client.reads.owner_of(loaded.provider.id)))
    typer.echo(f"active   {Money(found.active, CLAW)}, the minimum is {Money(found.minimum, CLAW)}")
    if found.cooling:
        typer.echo(f"cooling  {Money(found.cooling, CLAW)}, to withdraw from {show_time(found.cooling_until)} on")


@stake_app.command()
def add(
    context: typer.Context,
    amount: AmountArgument,
    owner: OwnerOption,
    yes: YesOption = False,  # noqa: FBT002
    password_file: PasswordFileOption = None,
) -> None:
    """Stake more CLAW; it can be slashed, and comes back only through the cooldown."""
    from protocol.money import CLAW, Money
    from provider.config import load_config
    from provider.owner import open_owner

    with errors():
        money = Money.parse(amount, CLAW)
        confirm(f"{money} leaves the owner's wallet; taking it out again takes the cooldown of weeks.", yes=yes)
        with open_owner(load_config(context.obj), owner, password_of(password_file)) as (_, account):
            account.add_stake(secrets.token_hex(8), money.units)
    typer.echo(f"staked {money} more")


@stake_app.command()
def cooldown(
    context: typer.Context,
    amount: AmountArgument,
    owner: OwnerOption,
    yes: YesOption = False,  # noqa: FBT002
    password_file: PasswordFileOption = None,
) -> None:
    """Begin to take stake out. Below the minimum the provider is deregistered for good, and all leases end."""
    from protocol.money import CLAW, Money
    from provider.config import load_config
    from provider.exceptions import ConfigError
    from provider.observing.chain_figures import read_stake
    from provider.owner import open_owner

    with errors():
        money = Money.parse(amount, CLAW)
        with open_owner(load_config(context.obj), owner, password_of(password_file)) as (client, account):
            now = read_stake(client, account.address)
            if money.units > now.active:
                raise ConfigError(f"only {Money(now.active, CLAW)} are active: give that or less")
            left = Money(now.active - money.units, CLAW)
            text = f"{money} can be withdrawn after the cooldown; until then it earns nothing, and can be slashed."
            if now.cooling:
                text += f"\n{Money(now.cooling, CLAW)} cooling down already will wait for the new end, too."
            if left.units < now.minimum:
                text += (
                    f"\nThe {left} left are below the minimum of {Money(now.minimum, CLAW)}: the provider is"
                    "\nDEREGISTERED for good, no lease can be opened, and all its leases end within 6 days."
                    "\nKeep the worker running until everything is settled."
                )
            confirm(text, yes=yes)
            account.start_cooldown(secrets.token_hex(8), money.units)
    typer.echo(f"{money} cool down; `clawmarket provider stake` shows until when")


@stake_app.command("withdraw")
def withdraw_stake(
    context: typer.Context,
    owner: OwnerOption,
    password_file: PasswordFileOption = None,
) -> None:
    """Pay out what has cooled down to the owner."""
    from protocol.money import CLAW, Money
    from provider.commands.shown import show_time
    from provider.config import load_config
    from provider.exceptions import ConfigError
    from provider.observing.chain_figures import read_stake
    from provider.owner import open_owner

    with errors(), open_owner(load_config(context.obj), owner, password_of(password_file)) as (client, account):
        found = read_stake(client, account.address)
        if not found.cooling:
            raise ConfigError("nothing cools down: begin with `clawmarket provider stake cooldown AMOUNT`")
        if client.head().timestamp < found.cooling_until:
            raise ConfigError(f"the cooldown runs until {show_time(found.cooling_until)}: come back then")
        account.withdraw_stake(secrets.token_hex(8), account.address)
        typer.echo(f"withdrew {Money(found.cooling, CLAW)}")
