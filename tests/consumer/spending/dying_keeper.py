"""A gateway's keeper for tests: wants a lease with some room, and kills itself at the moment that a test names.

python -m tests.consumer.spending.dying_keeper <folder> <needed> <moment>

The folder has the configuration as `config.json` and what is wanted as `wanted.json`.
"""

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

from consumer.config import ConsumerConfig
from consumer.lease import Leases
from consumer.store import Store
from protocol.chain.sender import TransactionSender
from tests.consumer.spending.stall import Wanted, running

MOMENTS = {
    "before sending": (Leases, "open", False),
    "after sending": (TransactionSender, "send", True),
    "before the note of the opening": (Store, "mark_open", False),
    "after the note of the opening": (Store, "mark_open", True),
    "before topping up": (TransactionSender, "retry", False),
    "after topping up": (TransactionSender, "retry", True),
}


def arm(moment: str) -> None:
    """From now on the process ends at this moment."""
    kind, name, is_after = MOMENTS[moment]
    original = getattr(kind, name)

    def deadly(*arguments: Any, **options: Any) -> None:
        if is_after:
            original(*arguments, **options)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(kind, name, deadly)


async def _run(folder: Path, needed: int, moment: str) -> None:
    config = ConsumerConfig.model_validate_json((folder / "config.json").read_text())
    wanted = Wanted.from_json((folder / "wanted.json").read_text())
    async with running(config) as spending:
        arm(moment)
        await spending.keeper.client_for(wanted, needed)


if __name__ == "__main__":
    asyncio.run(_run(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
