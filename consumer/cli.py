"""`clawmarket consumer …`"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from consumer.config import ConsumerConfig
from consumer.endpoints import find_endpoint
from consumer.exceptions import ConsumerError, OfferMismatch, ProviderFailed
from consumer.lease import LeaseWish
from consumer.lease_client import End, LeaseClient, Question, Text
from consumer.offers import fetch_offer
from consumer.session import TOKEN_CONTRACTS, Session, new_key
from consumer.setup import SetupPlan, set_up
from protocol.address import to_address
from protocol.exceptions import ProtocolError
from protocol.keystore import find_password
from protocol.money import TOKENS, Money

PASSWORD_VARIABLE = "CLAWMARKET_PASSWORD"  # noqa: S105 - the variable's name
app = typer.Typer(help="Buy answers: deposits, leases, questions.", no_args_is_help=True)

ConfigOption = Annotated[Path, typer.Option("--config", envvar="CLAWMARKET_CONSUMER", help="The consumer's TOML file.")]
PasswordFileOption = Annotated[Path | None, typer.Option("--password-file", help="File with the keystores' password.")]
LeaseOption = Annotated[str, typer.Option("--lease", help="The lease id or its start; by default the newest.")]


@contextmanager
def _session(config: Path, password_file: Path | None) -> Iterator[Session]:
    try:
        found = Session(
            ConsumerConfig.load(config),
            find_password(file=password_file, env=PASSWORD_VARIABLE, prompt="Keystore password: "),
        )
        try:
            yield found
        finally:
            found.close()
    except (ConsumerError, ProtocolError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="New folder for configuration, keys and records.")],
    rpc: Annotated[str, typer.Option(help="RPC address of the chain.")],
    deployment: Annotated[Path, typer.Option(help="The deployment file.")],
    tokenizer: Annotated[Path | None, typer.Option(help="GGUF file of the model, to count tokens with.")] = None,
    accept_unverified: Annotated[bool, typer.Option(help="Pay what the provider says it counted.")] = False,  # noqa: FBT002
    owner: Annotated[Path | None, typer.Option(help="Keystore of the owner; by default a new key.")] = None,
    password_file: PasswordFileOption = None,
) -> None:
    """Write the configuration, and make the owner's key if there is none."""
    if (tokenizer is None) != accept_unverified:
        typer.echo("error: give either --tokenizer, the model's GGUF file, or --accept-unverified", err=True)
        raise typer.Exit(1)
    try:
        password = find_password(file=password_file, env=PASSWORD_VARIABLE, prompt="Keystore password: ")
        done = set_up(SetupPlan(folder, rpc, deployment, tokenizer, owner), password)
    except (ConsumerError, ProtocolError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo(f"wrote {done.config}; the owner is {done.owner}")


@app.command()
def balance(config: ConfigOption, password_file: PasswordFileOption = None) -> None:
    """Show what is in the account, free for leases or to withdraw, and what is in the wallet."""
    with _session(config, password_file) as session:
        owner, reads = session.owner.address, session.client.reads
        for symbol, contract in TOKEN_CONTRACTS.items():
            token = session.client.deployment.address(contract)
            account, wallet = session.client.read(
                [reads.account(owner, token), reads.view(contract, "balanceOf", owner)]
            )
            amounts = [Money(units, TOKENS[symbol]) for units in (account, wallet)]
            typer.echo(f"{amounts[0]} in the account, {amounts[1]} in the wallet")


@app.command()
def deposit(
    config: ConfigOption,
    amount: Annotated[str, typer.Argument(help="For example '25 USDC'.")],
    password_file: PasswordFileOption = None,
) -> None:
    """Deposit tokens by permit, in one transaction."""
    with _session(config, password_file) as session:
        money = Money.parse(amount)
        with session.funds() as funds:
            funds.deposit(new_key(), TOKEN_CONTRACTS[money.token.symbol], money.units)
        typer.echo(f"deposited {money}")


@app.command(name="open")
def open_lease(
    config: ConfigOption,
    endpoint: Annotated[str, typer.Option(help="The provider's address, e.g. https://…")],
    provider: Annotated[int, typer.Option(help="The provider's id.")],
    offer: Annotated[int, typer.Option(help="The offer's id.")],
    amount: Annotated[str, typer.Option(help="What the lease may cost at most, e.g. '10 USDC'.")],
    days: Annotated[float, typer.Option(min=0.05, max=365)] = 7.0,
    password_file: PasswordFileOption = None,
) -> None:
    """Open a lease with a session key of its own."""
    with _session(config, password_file) as session:
        place = find_endpoint(session.client, session.domain, provider, endpoint)
        found = fetch_offer(session.client, place, provider, offer)
        money = Money.parse(amount)
        if session.client.deployment.address(TOKEN_CONTRACTS[money.token.symbol]) != found.terms.token:
            raise OfferMismatch(f"the offer is not priced in {money.token.symbol}: give an amount in its token")
        wish = LeaseWish(money.units, duration_s=int(days * 86_400))
        with session.sender() as sender:
            request, record = session.leases.prepare(session.owner.address, found, place, wish)
            session.leases.open(sender, request)
        typer.echo(f"lease 0x{record.lease_id.hex()} for {found.model_name}")


@app.command()
def leases(config: ConfigOption, password_file: PasswordFileOption = None) -> None:
    """List leases with what they owe."""
    with _session(config, password_file) as session:
        session.leases.reconcile()
        for record in session.store.leases():
            owed = session.store.owed(record.lease_id)
            settled = session.client.lease(record.lease_id).settled
            paid = "all settled" if settled == owed else f"{settled} settled"
            typer.echo(f"0x{record.lease_id.hex()}  {record.model}  owed {owed} of {record.deposit} base units, {paid}")


@app.command()
def ask(
    config: ConfigOption,
    question: Annotated[str, typer.Argument(help="What to ask.")],
    lease: LeaseOption = "",
    max_tokens: Annotated[int, typer.Option(min=1)] = 256,
    temperature: Annotated[float, typer.Option(min=0, max=2)] = 0.7,
    password_file: PasswordFileOption = None,
) -> None:
    """Ask a question; the answer streams, its receipts are checked and paid."""
    with _session(config, password_file) as session:
        record = session.find_lease(lease)
        request = Question([{"role": "user", "content": question}], max_tokens, temperature)
        with session.lease_client(record) as client:
            end = asyncio.run(_stream(client, request))
        receipt = end.receipt.message
        prompt = receipt.units_in + receipt.units_cached
        typer.echo(f"\n[{prompt} + {receipt.units_out} tokens, {receipt.cost} base units]", err=True)


async def _stream(client: LeaseClient, question: Question) -> End:
    try:
        async for event in client.ask(question):
            if isinstance(event, Text):
                typer.echo(event.text, nl=False)
            elif isinstance(event, End):
                return event
    finally:
        await client.close()
    raise ProviderFailed("the answer has no end")


@app.command()
def close(config: ConfigOption, lease: LeaseOption = "", password_file: PasswordFileOption = None) -> None:
    """Ask for the end of a lease; once its close delay has passed, `release` returns the rest."""
    with _session(config, password_file) as session, session.sender() as sender:
        record = session.find_lease(lease)
        session.leases.close(sender, record.lease_id)
        typer.echo(f"lease 0x{record.lease_id.hex()} closes at {session.client.lease(record.lease_id).closes_at}")


@app.command()
def release(config: ConfigOption, lease: LeaseOption = "", password_file: PasswordFileOption = None) -> None:
    """Return what a closed lease did not use to the account."""
    with _session(config, password_file) as session, session.sender() as sender:
        record = session.find_lease(lease)
        session.leases.release(sender, record.lease_id)
        typer.echo(f"lease 0x{record.lease_id.hex()} released")


@app.command()
def withdraw(
    config: ConfigOption,
    amount: Annotated[str, typer.Argument(help="For example '5 USDC', or 'all USDC'.")],
    to: Annotated[str | None, typer.Option(help="Who receives it; by default the owner.")] = None,
    password_file: PasswordFileOption = None,
) -> None:
    """Withdraw from the account."""
    with _session(config, password_file) as session:
        everything = amount.removeprefix("all ") if amount.startswith("all ") else None
        money = Money.parse(f"0 {everything}" if everything else amount)
        token = session.client.deployment.address(TOKEN_CONTRACTS[money.token.symbol])
        if everything:
            money = Money(session.client.account(session.owner.address, token), money.token)
        with session.funds() as funds:
            funds.withdraw(new_key(), token, money.units, to_address(to or session.owner.address, "to"))
        typer.echo(f"withdrew {money}")
