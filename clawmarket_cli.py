"""The command `clawmarket`. Each part is imported only when it is used, so that the others need not be installed."""

import importlib
import sys

import typer

PARTS = {
    "keys": ("protocol.cli", "Make, import and look at keystores."),
    "provider": ("provider.cli", "Rent out this machine's models."),
    "models": ("provider.models.cli", "The model files this machine may serve."),
    "sandbox": ("provider.sandbox.cli", "What other people's work runs in."),
    "consumer": ("consumer.cli", "Buy answers: leases, questions, receipts."),
    "gateway": ("consumer.gateway.commands", "Brain Switch: a local OpenAI-compatible endpoint over all routes."),
    "indexer": ("indexer.cli", "The chain in SQL: fill, follow, verify."),
    "chat": ("consumer.gateway.commands_chat", "Talk to the running gateway in the terminal."),
}


def _app() -> typer.Typer:
    main = typer.Typer(name="clawmarket", help="OpenClaw Compute Market.", no_args_is_help=True)
    wanted = next((argument for argument in sys.argv[1:] if not argument.startswith("-")), None)
    for name, (module, summary) in PARTS.items():
        if name == wanted:
            main.add_typer(importlib.import_module(module).app, name=name)
        else:
            main.add_typer(typer.Typer(help=summary), name=name, help=summary)
    return main


def app() -> None:
    """Entry point."""
    _app()()


if __name__ == "__main__":
    app()
