"""The worker, killed by SIGKILL when it passes a named point for the n-th time.

    python -m tests.support.crashing_worker <point> <n> --config=… --password-file=…

Points are around what must happen in order: commits of the ledger, signatures, receipts leaving, and the steps of a
transaction. `before` a commit everything of it is written but the commit itself.
"""

import ctypes
import multiprocessing
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from protocol.chain.intents import Intent, IntentStore, State
from protocol.chain.sender import TransactionSender
from protocol.signing import Signer
from protocol.typed_data import Anchor, Domain, Message, Receipt
from provider.cli import app
from provider.ledger import Ledger
from tests.support.sandbox import worker_sandbox

_COMMITS = ("admission", "voucher", "receipt part", "receipt final", "anchor", "anchor confirmed", "settlement")
POINTS = tuple(
    f"{what} {moment}"
    for what in (
        *(f"{name} commit" for name in _COMMITS),
        *(f"{name} sign" for name in ("receipt part", "receipt final", "anchor")),
        *(f"{name} send" for name in ("receipt part", "receipt final")),
        *(f"{name} {step}" for name in ("anchor", "settle") for step in ("intent", "broadcast", "mined")),
    )
    for moment in ("before", "after")
)


class _Killer:
    """Counts how often the chosen point is passed."""

    def __init__(self, point: str, times: int) -> None:
        if point not in POINTS:
            raise ValueError(f"there is no point {point}")
        self._point = point
        self._left = times

    def pass_by(self, point: str) -> None:
        if point == self._point:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def around(self, owner: type, method: str, name: Callable[..., str | None]) -> None:
        """Puts a point before and after a method, if `name` gives one for its arguments."""
        original = getattr(owner, method)

        def passing(*args: Any, **options: Any) -> Any:
            point = name(*args, **options)
            if point:
                self.pass_by(f"{point} before")
            found = original(*args, **options)
            if point:
                self.pass_by(f"{point} after")
            return found

        setattr(owner, method, passing)


def _receipt(receipt: Receipt) -> str:
    return "receipt final" if receipt.final else "receipt part"


def _watch_commits(killer: _Killer) -> None:
    """The ledger is used by one thread at a time, so what it is doing is known."""
    doing = ""

    def note(method: str, name: Callable[..., str]) -> None:
        original = getattr(Ledger, method)

        def noting(*args: Any) -> Any:
            nonlocal doing
            doing = name(*args)
            return original(*args)

        setattr(Ledger, method, noting)

    note("admit", lambda *_: "admission")
    note("record_voucher", lambda *_: "voucher")
    note("record_receipt", lambda _, signed: _receipt(signed.message))
    note("record_anchor", lambda *_: "anchor")
    note("confirm_anchor", lambda *_: "anchor confirmed")
    note("record_settlement", lambda *_: "settlement")
    transaction = Ledger._transaction

    @contextmanager
    def dying(self: Ledger) -> Iterator[None]:
        with transaction(self):
            yield
            killer.pass_by(f"{doing} commit before")
        killer.pass_by(f"{doing} commit after")

    Ledger._transaction = dying  # type: ignore[method-assign]


def _watch_signatures(killer: _Killer) -> None:
    def name(_: Signer, __: Domain, message: Message) -> str | None:
        if isinstance(message, Receipt):
            return f"{_receipt(message)} sign"
        return "anchor sign" if isinstance(message, Anchor) else None

    killer.around(Signer, "sign", name)


def _watch_transactions(killer: _Killer) -> None:
    def of(key: str, step: str) -> str | None:
        kind = key.partition(":")[0]
        return f"{kind} {step}" if kind in ("anchor", "settle") else None

    def mined(_: IntentStore, intent: Intent, state: State, *__: object, **___: object) -> str | None:
        return of(intent.key, "mined") if state in (State.MINED, State.FINAL) else None

    killer.around(IntentStore, "record", lambda _, key, *__: of(key, "intent"))
    killer.around(TransactionSender, "_broadcast", lambda _, intent: of(intent.key, "broadcast"))
    killer.around(IntentStore, "set_state", mined)


def _watch_sending(killer: _Killer) -> None:
    """Around what the HTTP server is handed."""
    build = uvicorn.Config.__init__

    def wrapping(self: uvicorn.Config, app: Any, *args: Any, **options: Any) -> None:
        async def watched(scope: Any, receive: Any, send: Any) -> None:
            async def noting(message: Any) -> None:
                body = message.get("body", b"")
                for mark, name in ((b";final=false;", "receipt part"), (b";final=true;", "receipt final")):
                    if mark in body:
                        killer.pass_by(f"{name} send before")
                await send(message)
                for mark, name in ((b";final=false;", "receipt part"), (b";final=true;", "receipt final")):
                    if mark in body:
                        killer.pass_by(f"{name} send after")

            await app(scope, receive, noting)

        build(self, watched, *args, **options)

    uvicorn.Config.__init__ = wrapping  # type: ignore[method-assign]


def _watch(point: str, times: int) -> None:
    killer = _Killer(point, times)
    _watch_commits(killer)
    _watch_signatures(killer)
    _watch_transactions(killer)
    _watch_sending(killer)


def _live(point: str, times: int, config: Path, log: Path) -> None:
    """In a process of its own, forked from one that has everything imported: a start takes a second less."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    sys.argv = ["worker", "run", f"--config={config}", f"--password-file={config.parent / 'password'}"]
    _watch(point, times)
    app()


class ShortLife:
    """A worker that runs until it passes the point for the n-th time."""

    def __init__(self, config: Path, point: str, times: int) -> None:
        worker_sandbox()
        self._log = config.parent / "life.log"
        self._log.unlink(missing_ok=True)
        self._process = _FORKS.Process(target=_live, args=(point, times, config, self._log), daemon=True)
        self._process.start()

    @property
    def output(self) -> str:
        """Everything it wrote so far."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    @property
    def address(self) -> str | None:
        """Where it serves, once it does."""
        found = re.search(r"serves on (http://[0-9.:]+)", self.output)
        return found[1] if found else None

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.exitcode

    def kill(self) -> None:
        """However it ended, it is gone afterwards."""
        self._process.kill()
        self._process.join()


_PR_SET_PDEATHSIG = 1
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["provider.worker", "provider.commands.life", __name__])


if __name__ == "__main__":
    _watch(sys.argv[1], int(sys.argv[2]))
    sys.argv[1:3] = ["run"]
    app()
