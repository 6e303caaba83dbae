"""A process that sends one transaction and is killed with SIGKILL at a point named on the command line.

    python -m tests.protocol.chain.sender_process '{"url": …, "point": …}'

Points: before-record, after-record, after-broadcast, after-replacement-record, full-disk (not killed: its disk quota
is used up before the record), none (prints the outcome's state). The product has no such hooks: they are put around its
methods here.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from protocol.chain.client import ChainClient
from protocol.chain.deployments import parse
from protocol.chain.exceptions import SenderError
from protocol.chain.intents import IntentStore
from protocol.chain.rpc import RpcPool
from protocol.chain.sender import SenderPolicy, TransactionSender
from protocol.signing import Signer


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def around(owner: type, name: str, *, before: Callable[..., None] | None, after: Callable[..., None] | None) -> None:
    original = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if before is not None:
            before(*args)
        result = original(*args, **kwargs)
        if after is not None:
            after(*args)
        return result

    setattr(owner, name, wrapped)


def die_on_broadcast(_: RpcPool, method: str, *__: Any) -> None:
    if method == "eth_sendRawTransaction":
        die()


def use_up_disk(*_: Any) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))


def main() -> None:
    task = json.loads(sys.argv[1])
    point = task["point"]
    if point == "before-record":
        around(IntentStore, "record", before=lambda *_: die(), after=None)
    elif point == "after-record":
        around(IntentStore, "record", before=None, after=lambda *_: die())
    elif point == "after-broadcast":
        around(RpcPool, "request", before=None, after=die_on_broadcast)
    elif point == "after-replacement-record":
        around(IntentStore, "replace", before=None, after=lambda *_: die())
    elif point == "full-disk":
        around(IntentStore, "record", before=use_up_disk, after=None)
    stuck_s = 0.0 if point == "after-replacement-record" else 1000.0
    with (
        ChainClient([task["url"]], parse(task["deployment"]), abi_folder=Path(task["abi_folder"])) as client,
        TransactionSender(
            client, Signer(bytes.fromhex(task["key"])), Path(task["path"]), SenderPolicy(stuck_s=stuck_s)
        ) as sender,
    ):
        try:
            sender.send(
                "once", client.deployment.address("Probe"), client.encode("Probe", "bump", task["slot"], "hello")
            )
            if point == "after-replacement-record":
                sender.step()
            outcome = sender.wait("once", timeout=20)
        except SenderError as error:
            print(f"{type(error).__name__}: {error}")
        else:
            print(outcome.state)


if __name__ == "__main__":
    main()
