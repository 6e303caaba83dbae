"""What happens, in order."""

from scripts.demo.books import Books
from scripts.demo.chain import fund
from scripts.demo.ending import withdraw_all
from scripts.demo.gateway import Gateway
from scripts.demo.indexer import Indexer
from scripts.demo.proofs import prove_all
from scripts.demo.provider import Provider
from scripts.demo.questions import ask, ask_and_kill
from scripts.demo.spending import show_budgets, wait_settled
from scripts.demo.world import CONSUMER, FIRST_OWNER, SECOND_OWNER, World, dev_signer


def play(world: World, database: str) -> tuple[Gateway, Indexer, Books]:
    """All steps after the deployment, with an empty database's address; workers and indexer run on."""
    fund(world)
    providers = [Provider.enrolled(world, account) for account in (FIRST_OWNER, SECOND_OWNER)]
    for provider in providers:
        provider.start()
    for provider in providers:
        provider.wait_ready()
    indexer = Indexer.started(world, database, [provider.endpoint for provider in providers])
    gateway = Gateway.set_up(world, indexer.url)
    wallet_before = world.wallet(dev_signer(CONSUMER).address)
    gateway.deposit()
    indexer.wait_for_documents(len(providers))
    gateway.start()
    _ask_and_settle(gateway, providers)
    gateway.stop()
    prove_all(gateway)
    return gateway, indexer, withdraw_all(gateway, providers, wallet_before)


def _ask_and_settle(gateway: Gateway, providers: list[Provider]) -> None:
    world = gateway.world
    with gateway.client as client:
        ask(world, client)
        _, killed = ask_and_kill(world, client, providers)
        show_budgets(world, client)
        living = next(provider for provider in providers if provider is not killed)
        wait_settled(world, client, living)
    killed.start()
    killed.wait_ready()
    gateway.stop()
    world.screen.note("gateway", "stopped; started again, it asks for the receipt that is missing")
    gateway.start()
    with gateway.client as client:
        wait_settled(world, client, killed)
