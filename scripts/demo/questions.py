"""Questions to the gateway; the second one loses its provider half-way."""

from consumer.client import Answer, Client
from protocol.money import Money
from scripts.default_model import NAME
from scripts.demo.failed import DemoFailed
from scripts.demo.provider import Provider
from scripts.demo.screen import Screen, table
from scripts.demo.world import World

SHORT, SHORT_TOKENS = "Explain in two sentences why the sky is blue.", 96
LONG, LONG_TOKENS = "Tell a story about a lighthouse keeper who finds a message in a bottle.", 200
CREATIVE = {"temperature": 0.7, "seed": 11}
KILLED_AFTER = 30
"""Pieces of text that are shown before the kill, about as many tokens: more than one receipt's."""
STYLES = ("green", "yellow")


def ask(world: World, client: Client, question: str = SHORT) -> Answer:
    """A question that nothing happens to."""
    answer, _ = _ask(world, client, question, [], max_tokens=SHORT_TOKENS, temperature=0)
    if len(answer.legs) != 1:
        raise DemoFailed(f"one provider should have answered, not {len(answer.legs)}")
    return answer


def ask_and_kill(world: World, client: Client, providers: list[Provider]) -> tuple[Answer, Provider]:
    """A longer one, whose provider is killed once its first words are shown; returns that one too."""
    answer, killed = _ask(world, client, LONG, providers, max_tokens=LONG_TOKENS, **CREATIVE)
    if killed is None or [leg["route"] for leg in answer.legs][:1] != [killed.route] or answer.route == killed.route:
        raise DemoFailed(f"the answer should have begun at one provider and ended at the other: {answer.legs}")
    return answer, killed


def _ask(
    world: World, client: Client, question: str, targets: list[Provider], **options: float
) -> tuple[Answer, Provider | None]:
    screen, killed, shown, route = world.screen, None, 0, ""
    style = STYLES[0]
    screen.plain(f"\n{question}", "bold")
    with client.stream(question, NAME, **options) as stream:
        for text in stream:
            if route not in ("", stream.route):
                style = STYLES[1]
                screen.plain(f" [{stream.route} goes on] ", "dim", end="")
            route = stream.route
            screen.plain(text, style, end="")
            shown += 1
            if targets and killed is None and shown == KILLED_AFTER:
                killed = next(provider for provider in targets if provider.route == route)
                killed.kill()
                screen.plain(f" [{killed.name} is killed] ", "bold red", end="")
    screen.plain("\n")
    answer = stream.answer
    if not answer.text:
        raise DemoFailed("the answer is empty")
    _show_legs(screen, answer)
    return answer, killed


def _show_legs(screen: Screen, answer: Answer) -> None:
    shown = table("Who answered", "route", "in", "out", "first", "cost")
    for leg in answer.legs:
        shown.add_row(
            leg["route"],
            str(leg["prompt_tokens"]),
            str(leg["completion_tokens"]),
            f"{leg['ttft_ms']} ms",
            leg["cost"],
        )
    shown.add_row(
        "the whole answer", *map(str, (answer.usage.prompt_tokens, answer.usage.completion_tokens)), "", answer.cost
    )
    screen.console.print(shown)
    if sum(_units(leg["cost"]) for leg in answer.legs) != _units(answer.cost):
        raise DemoFailed("the legs' costs are not the answer's cost")


def _units(cost: str) -> int:
    return 0 if cost == "0" else Money.parse(cost).units
