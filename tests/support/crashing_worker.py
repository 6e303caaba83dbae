"""The worker, killed by SIGKILL after a final receipt is committed and before it is sent."""

import os
import signal

from protocol.headers import Signed
from protocol.typed_data import Receipt
from provider.cli import run
from provider.service import InferenceService

_sign = InferenceService.sign_receipt


async def _sign_and_die(self: InferenceService, receipt: Receipt) -> Signed[Receipt]:
    signed = await _sign(self, receipt)
    if receipt.final:
        os.kill(os.getpid(), signal.SIGKILL)
    return signed


if __name__ == "__main__":
    import typer

    InferenceService.sign_receipt = _sign_and_die  # type: ignore[method-assign]
    typer.run(run)
