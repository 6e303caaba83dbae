"""What the running gateway spent, and what providers settle of it."""

from consumer.client import Client
from scripts.demo.failed import DemoFailed
from scripts.demo.provider import Provider
from scripts.demo.screen import table, usdc
from scripts.demo.world import World, wait_for


def show_budgets(world: World, client: Client) -> None:
    """What is spent of each, and what is held for requests whose end is not known."""
    budgets = client.status()["budgets"]
    shown = table("Budgets", "whose", "limit", "spent", "held")
    for budget in budgets:
        figures = (usdc(budget[name]) for name in ("spent", "held"))
        shown.add_row(f"{budget['scope']}, per {budget['period']}", budget["limit"], *figures)
    world.screen.console.print(shown)
    if not budgets:
        raise DemoFailed("the gateway has no budget")


def wait_settled(world: World, client: Client, provider: Provider) -> None:
    """Until the provider has settled all that the gateway owes it."""

    def settled() -> int:
        mine = [lease for lease in client.status()["leases"] if lease["provider"] == provider.number]
        done = sum(world.client.lease(bytes.fromhex(lease["lease"][2:])).settled for lease in mine)
        return done if done == sum(lease["owed"] for lease in mine) else 0

    units = wait_for(f"the settlement by {provider.name}", settled)
    held = world.client.earnings(provider.number, world.token).held
    world.screen.note(provider.name, f"settled {usdc(units)} on chain: {usdc(held)} held as its bond")
