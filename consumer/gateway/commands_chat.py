"""`clawmarket chat`: talking to the gateway in a terminal. Answers stream; each ends with a line on route and cost."""

import sys
import time
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from consumer.client import Answer, Client, GatewayError
from consumer.exceptions import ConsumerError
from consumer.gateway.commands_access import AccessOption, client_of
from consumer.gateway.explain import explain_table

HELP = """/providers       routes to the chosen model, best first
/models          names that can be asked for
/model NAME      choose one
/explain         why the next question takes the route it takes
/new             forget the conversation
/quit            leave, as does the end of input"""


def chat(
    config: AccessOption = None, model: Annotated[str, typer.Option(help="A name to begin with.")] = "auto"
) -> None:
    """Talk to the running gateway; /help lists what else can be typed."""
    try:
        with client_of(config) as client:
            Chat(client, model, Console(soft_wrap=True, highlight=False)).run()
    except ConsumerError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error


app = typer.Typer()
app.callback(invoke_without_command=True, help="Talk to the running gateway in the terminal.")(chat)


class Chat:
    """One conversation."""

    def __init__(self, client: Client, model: str, console: Console) -> None:
        self._client = client
        self._model = model
        self._console = console
        self._messages: list[dict[str, Any]] = []

    def run(self) -> None:
        """Until the end of input."""
        is_typed = sys.stdin.isatty()
        if is_typed:
            self._say(f"{self._model}; /help lists commands")
        while True:
            try:
                line = self._console.input("[bold]> [/bold]" if is_typed else "").strip()
            except (EOFError, KeyboardInterrupt):
                return
            if line == "/quit":
                return
            try:
                self._command(line) if line.startswith("/") else self._ask(line)
            except GatewayError as error:
                self._say(f"error: {error}")

    def _command(self, line: str) -> None:
        name, _, rest = line.partition(" ")
        match name:
            case "/providers" | "/explain":
                self._console.print(explain_table(self._explained()))
            case "/models":
                table = Table.grid()
                for model in self._client.models():
                    table.add_row(visible(model))
                self._console.print(table)
            case "/model" if rest.strip():
                self._model = rest.strip()
                self._say(f"asks {self._model}")
            case "/new":
                self._messages = []
                self._say("a new conversation")
            case _:
                self._console.print(HELP, markup=False)

    def _explained(self) -> dict[str, Any]:
        return self._client.explain(self._messages or "Hello", self._model)

    def _ask(self, question: str) -> None:
        if not question:
            return
        asked = [*self._messages, {"role": "user", "content": question}]
        began = time.monotonic()
        try:
            with self._client.stream(asked, self._model) as stream:
                for text in stream:
                    self._console.print(visible(text), end="", markup=False)
        except KeyboardInterrupt:
            self._say("\ncancelled")
            return
        answer = stream.answer
        self._messages = [*asked, answer.message]
        self._say("\n" + cost_line(answer, time.monotonic() - began))

    def _say(self, text: str) -> None:
        self._console.print(visible(text), style="dim", markup=False)


def cost_line(answer: Answer, seconds: float) -> str:
    """Who answered, how much, and for what."""
    usage = answer.usage
    return (
        f"[{answer.route} · {usage.prompt_tokens} + {usage.completion_tokens} tokens · {answer.cost} · {seconds:.1f} s]"
    )


def visible(text: str) -> str:
    """Without what would steer the terminal: answers are strangers' words."""
    return "".join(character for character in text if character.isprintable() or character in "\n\t")
