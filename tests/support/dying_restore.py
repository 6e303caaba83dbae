"""A restore for tests that kills itself by SIGKILL once it has recorded one new transaction, before it is sent.

python -m tests.support.dying_restore <archive> <folder> <owner's keystore>
"""

import os
import signal
import sys
from pathlib import Path

from protocol.chain.intents import Attempt, Intent, IntentStore
from protocol.chain.transactions import Transaction
from provider.restoring import restore
from tests.support.live_market import PASSWORD, SCRYPT_N

_record = IntentStore.record


def _record_and_die(self: IntentStore, key: str, transaction: Transaction, gas: int, attempt: Attempt) -> Intent:
    _record(self, key, transaction, gas, attempt)
    print(key.partition(":")[0], flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("not reached")


if __name__ == "__main__":
    IntentStore.record = _record_and_die  # type: ignore[method-assign]
    archive, folder, owner = map(Path, sys.argv[1:])
    restore(archive, folder, owner, PASSWORD, print, SCRYPT_N)
