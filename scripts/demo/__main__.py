"""Runs the demo; its exit code says whether every step and every sum was right."""

import argparse
import contextlib
import os
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from consumer.client import GatewayError
from consumer.exceptions import ConsumerError
from protocol.chain import deployments
from protocol.chain.client import ChainClient
from protocol.exceptions import ProtocolError
from protocol.keystore import Password
from provider.exceptions import ProviderError
from provider.sandbox.paths import VARIABLE
from provider.sandbox.temporary import temporary_paths
from scripts import demo
from scripts.default_model import default_model
from scripts.demo.chain import deploy, start_chain
from scripts.demo.failed import DemoFailed
from scripts.demo.processes import Processes
from scripts.demo.screen import Screen
from scripts.demo.staying import stay
from scripts.demo.story import play
from scripts.demo.world import World
from scripts.postgres import postgres


@contextlib.contextmanager
def working_folder(chosen: Path | None) -> Iterator[Path]:
    """A folder of this run's own, deleted afterwards unless it was chosen."""
    if chosen is not None:
        chosen.mkdir(parents=True)
        yield chosen.resolve()
        return
    folder = Path(tempfile.mkdtemp(prefix="clawmarket-demo-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def sandbox(screen: Screen) -> Iterator[None]:
    """Where the models run: a daemon of this run's own, unless the environment names one."""
    if VARIABLE in os.environ:
        yield
        return
    with temporary_paths(lambda text: screen.note("sandbox", text)) as paths:
        os.environ[VARIABLE] = str(paths.state.parent)
        yield


def main() -> int:
    """Runs the demo; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.demo", description=demo.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="GGUF file; by default SmolLM2")
    parser.add_argument("--folder", type=Path, help="new folder for logs and databases, which stays afterwards")
    parser.add_argument(
        "--keep", action="store_true", default=os.environ.get("KEEP") == "1", help="stay up at the end, as KEEP=1 does"
    )
    arguments = parser.parse_args()
    screen = Screen()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with (
            working_folder(arguments.folder) as folder,
            sandbox(screen),
            contextlib.closing(Processes(folder)) as processes,
        ):
            _run(screen, folder, processes, arguments)
    except (DemoFailed, ConsumerError, GatewayError, ProviderError, ProtocolError, OSError) as error:
        screen.plain(f"demo failed: {error}", "bold red")
        return 1
    except KeyboardInterrupt:
        screen.plain("interrupted", "bold red")
        return 130
    return 0


def _run(screen: Screen, folder: Path, processes: Processes, arguments: argparse.Namespace) -> None:
    model = (arguments.model or default_model()).resolve()
    if not model.is_file():
        raise DemoFailed(f"there is no model file {model}")
    rpc = start_chain(processes)
    screen.note("chain", f"anvil {processes.pid('anvil')} on {rpc}")
    deployment_file = deploy(rpc, folder)
    deployment = deployments.load_file(deployment_file)
    screen.note("contracts", f"{len(deployment.contracts)} deployed and verified")
    password = Password(secrets.token_urlsafe(16))
    with postgres() as database, ChainClient([rpc], deployment) as client:
        client.check_deployment()
        world = World(rpc, deployment_file, client, folder, password, screen, processes, model)
        gateway, indexer, books = play(world, database)
        screen.console.print(books.table())
        books.check()
        indexed = indexer.sums(books)
        screen.console.print(indexed.table())
        indexed.check(books)
        screen.plain(f"all sums match, {screen.elapsed_s:.1f} s", "bold green")
        if arguments.keep:
            stay(gateway, indexer)


if __name__ == "__main__":
    sys.exit(main())
