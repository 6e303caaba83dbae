"""An indexer that kills itself with SIGKILL at a call of its database: `<config> <method> <which call>`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from indexer.config import IndexerConfig
from indexer.session import Session


def dying(method: Callable[..., Any], at: int) -> Callable[..., Any]:
    """The method, which ends this process right after its `at`-th call, inside of the transaction if there is one."""
    left = [at]

    def call(*arguments: Any, **named: Any) -> Any:
        result = method(*arguments, **named)
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return call


def main() -> None:
    """Steps to the head, if it lives."""
    config, method, at = sys.argv[1:]
    with Session(IndexerConfig.load(Path(config))) as session:
        follower = session.follower(lambda _: None)
        setattr(session.database, method, dying(getattr(session.database, method), int(at)))
        follower.step()


if __name__ == "__main__":
    main()
