"""`clawmarket indexer …`"""

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from indexer.config import IndexerConfig
from indexer.documents.running import collect_beside
from indexer.exceptions import EndpointsDisagree, ForeignStore, IndexerError, StoreError, VerifyFailed, WriterRunning
from indexer.metrics import WriterMetrics
from indexer.session import Session, open_database
from indexer.store import cursor
from indexer.sync.follower import Follower, Progress, Report
from indexer.verify.contracts import contract_differences
from indexer.verify.rebuild import differences, replay
from indexer.verify.reputation import reputation_differences
from protocol.chain.exceptions import MalformedAnswer, RpcUnavailable
from protocol.exceptions import ProtocolError

app = typer.Typer(help="The chain in SQL.", no_args_is_help=True)

ConfigOption = Annotated[Path, typer.Option("--config", envvar="CLAWMARKET_INDEXER", help="The indexer's TOML file.")]
_EVERY_S = 1.0
_END_S = 5.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 15.0


class _Shown:
    """Says how far it is, at most once a second."""

    def __init__(self) -> None:
        self._logs = 0
        self._started = self._last = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        self._logs += progress.logs
        now = time.monotonic()
        if now - self._last >= _EVERY_S or progress.position.block_number >= progress.target:
            self._last = now
            rate = self._logs / max(now - self._started, 0.001)
            typer.echo(
                f"block {progress.position.block_number} of {progress.target}, {self._logs} logs, {rate:,.0f} a second",
                err=True,
            )


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except (IndexerError, ProtocolError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(error.exit_code if isinstance(error, IndexerError) else 1) from error


@app.command()
def backfill(config: ConfigOption) -> None:
    """Read the chain up to its newest final block, then end."""
    with _errors(), Session(IndexerConfig.load(config)) as session:
        tip = session.follower(_Shown()).backfill()
        typer.echo(f"indexed up to the final block {tip.final}")


@app.command()
def run(config: ConfigOption) -> None:
    """Read the chain and stay at its head until stopped."""
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    with _errors(), Session(IndexerConfig.load(config)) as session:
        shown, metrics = _Shown(), WriterMetrics(session.endpoints)

        def report(progress: Progress) -> None:
            shown(progress)
            metrics.report(progress)

        follower: Follower | None = session.follower(report)
        if session.config.metrics_port is not None:
            metrics.serve(session.config.metrics_port)
        collecting = collect_beside(
            session.config, session.deployment, stopped, lambda text: typer.echo(text, err=True)
        )
        while follower is not None and not stopped.is_set():
            try:
                follower.step()
            except (RpcUnavailable, MalformedAnswer, EndpointsDisagree) as error:
                typer.echo(f"waiting: {error}", err=True)
            except StoreError as error:
                follower = _reconnected(session, report, stopped, error)
            stopped.wait(session.config.poll_s)
        collecting.join(_END_S)


def _reconnected(session: Session, report: Report, stopped: threading.Event, error: StoreError) -> Follower | None:
    """Once the database is back, or has room again; None when stopped before. Raises WriterRunning, ForeignStore."""
    pause_s = _FIRST_PAUSE_S
    while True:
        typer.echo(f"waiting for the database: {error}", err=True)
        if stopped.wait(pause_s):
            return None
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        try:
            session.reopen()
            return session.follower(report)
        except (WriterRunning, ForeignStore):
            raise
        except StoreError as again:
            error = again


@app.command()
def serve(config: ConfigOption) -> None:
    """Answer questions about the tables over HTTP until stopped; beside `run`, in any number."""
    from indexer.api.server import run as run_server

    with _errors():
        run_server(IndexerConfig.load(config), lambda address: typer.echo(f"listening on {address}"))


@app.command()
def verify(
    config: ConfigOption,
    reputation: Annotated[  # noqa: FBT002
        bool, typer.Option("--reputation", help="Compute everybody's reputation once more from the raw logs, no more.")
    ] = False,
) -> None:
    """Rebuild the tables from the raw logs and compare; then compare balances, leases and stakes with the contracts."""
    with _errors(), Session(IndexerConfig.load(config)) as session:
        session.database.lock()
        _check_tables(session)
        position = cursor.load(session.database, session.deployment)
        if reputation:
            _conclude(
                reputation_differences(session.database, session.decoder, position),
                f"everybody's reputation is what the logs say at block {position.block_number}",
            )
            return
        block = position.block_number
        with session.database.scratch() as rebuilt:
            started = time.monotonic()
            count = replay(session.database, rebuilt, session.deployment, session.decoder)
            typer.echo(f"replayed {count} logs, {count / max(time.monotonic() - started, 0.001):,.0f} a second")
            found = differences(session.database, rebuilt)
        found += contract_differences(session.database, session.client, block)
        _conclude(found, f"the tables are what the chain says at block {block}")


@app.command()
def status(config: ConfigOption) -> None:
    """Show how far the tables are."""
    with _errors(), Session(IndexerConfig.load(config)) as session:
        _check_tables(session)
        position = cursor.load(session.database, session.deployment)
        head = session.client.head()
        typer.echo(f"database    {session.database.where}")
        typer.echo(f"indexed     block {position.block_number}, 0x{position.block_hash.hex()}")
        typer.echo(f"final       block {position.final}")
        typer.echo(f"chain       block {head.number}, {head.number - position.block_number} ahead")
        ((unknown,),) = session.database.execute("SELECT count(*) FROM unknown_event")
        typer.echo(f"unknown     {unknown} kinds of events are kept raw")


@app.command()
def reset(
    config: ConfigOption,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,  # noqa: FBT002
) -> None:
    """Delete all tables; the chain can fill them again."""
    with _errors():
        found = IndexerConfig.load(config)
        database = open_database(found)
        try:
            database.lock()
            if not yes:
                typer.confirm(f"Delete everything the indexer has in {database.where}?", abort=True)
            database.drop()
            typer.echo(f"deleted the tables in {database.where}")
        finally:
            database.close()


def _conclude(found: Sequence[str], verdict: str) -> None:
    for difference in found:
        typer.echo(f"differs: {difference}", err=True)
    if found:
        raise VerifyFailed(f"{len(found)} differences: run `clawmarket indexer reset`, then `backfill`")
    typer.echo(verdict)


def _check_tables(session: Session) -> None:
    if not session.database.has_tables():
        raise StoreError(f"{session.database.where} has no tables yet: run `clawmarket indexer backfill` first")
