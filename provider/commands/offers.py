"""Offers: list, add, price, pause, resume."""

import secrets
from pathlib import Path
from typing import Annotated

import typer

from provider.commands.common import ConfigOption, DevOption, OwnerOption, PasswordFileOption, errors, password_of

app = typer.Typer(help="List the offers; add one, change a price, pause or resume.", invoke_without_command=True)
OfferArgument = Annotated[int, typer.Argument(help="The offer's id.")]
PriceIn = Annotated[str, typer.Option(help="Price of input, e.g. '0.01 USDC per 1K tokens'.")]
PriceOut = Annotated[str, typer.Option(help="Price of output.")]
_RESTART = (
    "next: restart the worker, which knows the offers of its start; `clawmarket provider publish` if models "
    "or the sandbox changed"
)


@app.callback()
def offers(context: typer.Context, config: ConfigOption) -> None:
    """List the offers with prices, leases and whether new leases can be opened."""
    from protocol.chain import deployments
    from protocol.chain.client import ChainClient
    from provider.backup import OFFERS_FOLDER
    from provider.commands.shown import show_price
    from provider.config import load_config
    from provider.offering import token_of
    from provider.offers import OfferBook

    context.obj = config
    if context.invoked_subcommand:
        return
    with errors():
        loaded = load_config(config)
        provider = loaded.provider.id
        book = OfferBook(loaded.provider.data / OFFERS_FOLDER)
        deployment = deployments.load_file(loaded.chain.deployment)
        with ChainClient(loaded.chain.rpc, deployment) as client:
            for offer in sorted(book.current(), key=lambda offer: offer.offer_id):
                on_chain, leases = client.read(
                    [
                        client.reads.offer(provider, offer.offer_id),
                        client.reads.view("LeaseEscrow", "active_leases", provider, offer.offer_id),
                    ]
                )
                token = token_of(deployment, offer.terms)
                prices = (offer.terms.price_in, offer.terms.price_cached, offer.terms.price_out)
                shown = [show_price(price, offer.terms, token) for price in prices]
                state = "open" if on_chain.is_open else "paused"
                if on_chain.terms_digest != offer.digest:
                    state += f", but the registry has version {on_chain.version}: its file is missing here"
                typer.echo(
                    f"{offer.offer_id}  {offer.model_name}  version {offer.version}  sandbox {offer.sandbox}  {state}"
                )
                typer.echo(f"   in {shown[0]}, cached {shown[1]}, out {shown[2]}")
                typer.echo(f"   {leases} of {on_chain.max_active} leases")


@app.command()
def add(
    context: typer.Context,
    model: Annotated[Path, typer.Option(help="GGUF file to serve.")],
    model_name: Annotated[str, typer.Option(help="Name under which clients ask for it.")],
    price_in: PriceIn,
    price_out: PriceOut,
    owner: OwnerOption,
    password_file: PasswordFileOption = None,
    dev: DevOption = False,  # noqa: FBT002
) -> None:
    """Publish an offer of another model, in another token, or of the server in the worker's [backends.NAME]."""
    from provider.backup import OFFERS_FOLDER
    from provider.config import load_config
    from provider.model_card import ENGINE_NAME, FOREIGN_ENGINE
    from provider.models.library import ModelLibrary
    from provider.offering import publish_offer, terms_for
    from provider.offers import OfferBook
    from provider.owner import open_owner
    from provider.sandbox.serving import find_sandbox

    with errors():
        config, found = load_config(context.obj), find_sandbox(dev=dev)
        entry = ModelLibrary(config.provider.data).add(model, model_name).entry
        with open_owner(config, owner, password_of(password_file)) as (client, account):
            engine = FOREIGN_ENGINE if model_name in config.backends else ENGINE_NAME
            terms, document, limits = terms_for(client.deployment, entry, price_in, price_out, found, engine)
            book = OfferBook(config.provider.data / OFFERS_FOLDER)
            offer, is_new = publish_offer(account, config.provider.id, book, terms, document, limits)
    typer.echo(f"offer {offer.offer_id} version {offer.version} {'is published' if is_new else 'was there already'}")
    typer.echo(_RESTART)


@app.command()
def price(
    context: typer.Context,
    offer_id: OfferArgument,
    price_in: PriceIn,
    price_out: PriceOut,
    owner: OwnerOption,
    password_file: PasswordFileOption = None,
    dev: DevOption = False,  # noqa: FBT002
) -> None:
    """Change an offer's prices for new leases, and name the sandbox found now; open leases keep their terms."""
    from provider.backup import OFFERS_FOLDER
    from provider.config import load_config
    from provider.offering import reprice
    from provider.offers import OfferBook
    from provider.owner import open_owner
    from provider.sandbox.serving import find_sandbox

    with errors():
        config, found = load_config(context.obj), find_sandbox(dev=dev)
        book = OfferBook(config.provider.data / OFFERS_FOLDER)
        with open_owner(config, owner, password_of(password_file)) as (client, account):
            offer = reprice(client, account, config.provider.id, book, offer_id, price_in, price_out, found)
    typer.echo(f"offer {offer.offer_id} is now version {offer.version}, in the sandbox {offer.sandbox}")
    typer.echo(_RESTART)


@app.command()
def pause(
    context: typer.Context,
    owner: OwnerOption,
    offer_id: Annotated[int | None, typer.Argument(help="The offer's id; by default all.")] = None,
    password_file: PasswordFileOption = None,
) -> None:
    """Take no new leases; open ones go on. To stop for good, pause all and wait until no lease is left."""
    _set_open(context.obj, owner, password_file, offer_id, is_open=False)


@app.command()
def resume(
    context: typer.Context,
    owner: OwnerOption,
    offer_id: Annotated[int | None, typer.Argument(help="The offer's id; by default all.")] = None,
    password_file: PasswordFileOption = None,
) -> None:
    """Take new leases again."""
    _set_open(context.obj, owner, password_file, offer_id, is_open=True)


def _set_open(path: Path, owner: Path, password_file: Path | None, offer_id: int | None, *, is_open: bool) -> None:
    from provider.backup import OFFERS_FOLDER
    from provider.config import load_config
    from provider.offering import find
    from provider.offers import OfferBook
    from provider.owner import open_owner

    with errors():
        config = load_config(path)
        book = OfferBook(config.provider.data / OFFERS_FOLDER)
        wanted = [find(book, offer_id)] if offer_id is not None else book.current()
        left = 0
        with open_owner(config, owner, password_of(password_file)) as (client, account):
            for offer in wanted:
                number = offer.offer_id
                if client.offer(config.provider.id, number).is_open != is_open:
                    account.set_offer_open(secrets.token_hex(8), config.provider.id, number, is_open=is_open)
                left += client.get(client.reads.view("LeaseEscrow", "active_leases", config.provider.id, number))
                typer.echo(f"offer {number} is {'open' if is_open else 'paused'}")
    if not is_open and left:
        typer.echo(f"{left} leases are still open: keep the worker running until they are settled and released")
