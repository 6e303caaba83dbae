"""Holding a provider to its word: everything a receipt says is compared with what was sent, received and agreed."""

from dataclasses import dataclass, field

from consumer.exceptions import ReceiptRejected
from protocol import money
from protocol.exceptions import InvalidSignature
from protocol.headers import MAX_CLOCK_SKEW_S, Signed
from protocol.merkle import ResponseRoot
from protocol.stream import StreamToken
from protocol.typed_data import Domain, Receipt, Terms

# how far the provider's stop-watch may run ahead of ours: rounding and the drift of two clocks
TIME_TOLERANCE_MS = 250


@dataclass(frozen=True)
class Agreement:
    """What one request was agreed to be. `prompt_tokens` is our own count, None when we have no tokenizer."""

    domain: Domain
    node_key: str
    terms: Terms
    fingerprint: bytes
    lease_id: bytes
    seq: int
    request_hash: bytes
    max_cost: int
    prompt_tokens: int | None
    prompt_bound: int


@dataclass
class Answer:
    """What was received so far, counted here. Times in milliseconds since the request was sent."""

    agreement: Agreement
    units_out: int = 0
    ttft_ms: int = 0
    last: Receipt | None = None
    _root: ResponseRoot = field(default_factory=ResponseRoot)

    def add(self, token: StreamToken, elapsed_ms: int) -> None:
        """Counts a token."""
        if self.units_out == 0:
            self.ttft_ms = elapsed_ms
        self._root.append(token.token_id, token.logprob)
        self.units_out += 1

    def check(self, signed: Signed[Receipt], *, elapsed_ms: int, now: int) -> Receipt:
        """The receipt, if every field is right. Raises ReceiptRejected naming the first that is not."""
        receipt, agreed = signed.message, self.agreement
        try:
            signed.verify(agreed.domain, agreed.node_key)
        except InvalidSignature as error:
            raise ReceiptRejected("signature", "not by the provider's node key") from error
        self._equal("lease_id", receipt.lease_id, agreed.lease_id)
        self._equal("seq", receipt.seq, agreed.seq)
        self._equal("part", receipt.part, self.last.part + 1 if self.last else 0)
        self._equal("request_hash", receipt.request_hash, agreed.request_hash)
        self._equal("model_fingerprint", receipt.model_fingerprint, agreed.fingerprint)
        self._equal("units_out", receipt.units_out, self.units_out)
        self._equal("response_hash", receipt.response_hash, self._root.root())
        self._check_input(receipt)
        self._check_times(receipt, elapsed_ms, now)
        self._check_cost(receipt)
        self.last = receipt
        return receipt

    def _check_input(self, receipt: Receipt) -> None:
        agreed, total = self.agreement, receipt.units_in + receipt.units_cached
        if total == 0 and receipt.units_out == 0:
            return
        if agreed.prompt_tokens is not None:
            self._equal("units_in", total, agreed.prompt_tokens)
        elif total > agreed.prompt_bound:
            raise ReceiptRejected("units_in", f"{total} tokens for a prompt that has at most {agreed.prompt_bound}")
        if self.last is not None:
            self._equal("units_cached", receipt.units_cached, self.last.units_cached)

    def _check_times(self, receipt: Receipt, elapsed_ms: int, now: int) -> None:
        if abs(receipt.ended_at - now) > MAX_CLOCK_SKEW_S:
            raise ReceiptRejected("ended_at", f"off by more than {MAX_CLOCK_SKEW_S} s")
        if receipt.duration_ms > elapsed_ms + TIME_TOLERANCE_MS:
            raise ReceiptRejected("duration_ms", "longer than the request took")
        if receipt.ttft_ms > receipt.duration_ms:
            raise ReceiptRejected("ttft_ms", "longer than the whole request")
        if self.units_out and receipt.ttft_ms > self.ttft_ms + TIME_TOLERANCE_MS:
            raise ReceiptRejected("ttft_ms", "later than the first token came")

    def _check_cost(self, receipt: Receipt) -> None:
        most = money.receipt_cost(self.agreement.terms, receipt)
        if receipt.cost > most:
            raise ReceiptRejected("cost", f"{receipt.cost} where the terms allow {most}")
        if receipt.cost > self.agreement.max_cost:
            raise ReceiptRejected("cost", f"{receipt.cost} is above the authorised {self.agreement.max_cost}")
        if self.last is not None and receipt.cost < self.last.cost:
            raise ReceiptRejected("cost", "lower than in the part before")

    @staticmethod
    def _equal(name: str, found: object, wanted: object) -> None:
        if found != wanted:
            shown = (value.hex() if isinstance(value, bytes) else str(value) for value in (found, wanted))
            raise ReceiptRejected(name, "{} instead of {}".format(*shown))


def prompt_bound(messages: list[dict[str, str]]) -> int:
    """The most tokens these messages can have: one a byte, and room for the chat template."""
    text = sum(len(message["role"].encode()) + len(message["content"].encode()) for message in messages)
    return text + 32 * len(messages) + 256


def most_cost(terms: Terms, prompt_tokens: int, max_tokens: int) -> int:
    """The most a request can cost under its terms."""
    dearest = max(terms.price_in, terms.price_cached)
    return -(-(prompt_tokens * dearest + max_tokens * terms.price_out) // terms.unit_scale)


def prompt_cost(terms: Terms, prompt_tokens: int) -> int:
    """The most a prompt alone can cost."""
    return most_cost(terms, prompt_tokens, 0)
