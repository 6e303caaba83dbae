"""What happens to a running request, in the words of the HTTP surface."""

from dataclasses import dataclass

from protocol.headers import Exposure, Signed
from protocol.typed_data import Receipt
from provider.backend import TopToken
from provider.exceptions import Refusal


@dataclass(frozen=True)
class Piece:
    """A generated token on its way out; `logprob` in thousandths of a nat, `text` what may be shown by now.

    `piece` and `top` are there only where the client asked for log-probabilities.
    """

    choice: int
    token: int
    logprob: int
    text: str
    piece: bytes = b""
    top: tuple[TopToken, ...] = ()


@dataclass(frozen=True)
class ChoiceEnded:
    """One answer is complete; `text` was held back until now."""

    choice: int
    finish_reason: str
    text: str


@dataclass(frozen=True)
class Embedded:
    """All vectors of a request, in millionths."""

    vectors: list[list[int]]


@dataclass(frozen=True)
class ReceiptIssued:
    """A receipt, already in the ledger."""

    signed: Signed[Receipt]


@dataclass(frozen=True)
class Paused:
    """The answer waits for a voucher."""

    exposure: Exposure


@dataclass(frozen=True)
class Finished:
    """The end of a request, after its final receipt. `failure` says why the answer is incomplete."""

    failure: Refusal | None = None


Event = Piece | ChoiceEnded | Embedded | ReceiptIssued | Paused | Finished
