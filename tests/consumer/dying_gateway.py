"""A gateway process for tests: asks once under a lease, and kills itself at a transaction a test names.

    python -m tests.consumer.dying_gateway <folder> <time shift in s> <number of the transaction, 0 for none> <moment>

`moment` is `before` the transaction's commit or `after` it. Every voucher is noted in `sent` before it leaves.
The last line of the output is the number of transactions.
"""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path

from consumer.exceptions import ConsumerError
from consumer.lease_client import LeaseClient, Question
from consumer.records import LeaseRecord
from consumer.store import Store
from consumer.tokenizer import PromptCounter
from consumer.transport import Response
from protocol.headers import VOUCHER_HEADER, parse_voucher
from protocol.typed_data import Domain
from tests.support.provider_stack import DOMAIN, SESSION

QUESTION = Question([{"role": "user", "content": "hello"}], max_tokens=20, temperature=0)


class DyingStore(Store):
    """Ends its process with SIGKILL at the chosen transaction."""

    def __init__(self, path: Path, domain: Domain, last: int, moment: str) -> None:
        self.count = 0
        self._last = 0
        super().__init__(path, domain)
        self.count = 0
        self._last = last
        self._moment = moment

    @contextmanager
    def _changing(self) -> Iterator[None]:
        self.count += 1
        is_last = self.count == self._last
        with super()._changing():
            yield
            if is_last and self._moment == "before":
                os.kill(os.getpid(), signal.SIGKILL)
        if is_last:
            os.kill(os.getpid(), signal.SIGKILL)


async def _run(folder: Path, shift: int, store: DyingStore, record: LeaseRecord) -> None:
    counter = PromptCounter(Path((folder / "model").read_text()))
    client = LeaseClient(
        domain=DOMAIN,
        store=store,
        record=record,
        signer=SESSION,
        now=lambda: int(time.time()) + shift,
        counter=counter,
    )

    post = client._http.post

    def note(path: str, headers: Mapping[str, str], body: bytes = b"") -> AbstractAsyncContextManager[Response]:
        message = parse_voucher(headers[VOUCHER_HEADER]).message
        with (folder / "sent").open("a") as file:
            file.write(json.dumps({"cumulative": message.cumulative, "context": message.context.hex()}) + "\n")
            file.flush()
            os.fsync(file.fileno())

        return post(path, headers, body)

    client._http.post = note  # type: ignore[method-assign,assignment]
    try:
        async for _ in client.ask(QUESTION):
            pass
    except ConsumerError as error:
        print(error)
    finally:
        await client.close()
        counter.close()


def main() -> None:
    """One question."""
    folder, shift, last, moment = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    store = DyingStore(folder / "consumer.sqlite", DOMAIN, last, moment)
    asyncio.run(_run(folder, shift, store, LeaseRecord.from_json((folder / "lease").read_text())))
    store.close()
    print(store.count)


if __name__ == "__main__":
    main()
