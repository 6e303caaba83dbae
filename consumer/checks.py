"""Holding a provider to its word: everything a receipt says is compared with what was sent, received and agreed.

Who signed it is `node_keys`' question.
"""

from dataclasses import dataclass, field, replace

from consumer.exceptions import ReceiptRejected
from consumer.records import Limits
from consumer.shown_choices import ShownChoices
from protocol import money
from protocol.headers import MAX_CLOCK_SKEW_S, RequestContext
from protocol.merkle import ResponseRoot
from protocol.stream import StreamToken
from protocol.typed_data import Receipt, Terms

# how far the provider's stop-watch may run ahead of ours: rounding and the drift of two clocks
TIME_TOLERANCE_MS = 250
SLA_SLACK_MS = 1_000
"""How much slower than its receipt says a provider must be, by our own stop-watch, before that counts: networks are."""
MAX_COMPONENTS = 16_384
"""Of a vector: several times what any model has."""
NO_PROBABILITY = -(1 << 31)
"""What a log-probability of minus infinity is quantised to: "not stated", which no sampled token has."""


@dataclass(frozen=True)
class Agreement:
    """What one request was agreed to be; `states_probabilities` if the terms' engine gives every token's."""

    lease_id: bytes
    terms: Terms
    fingerprint: bytes
    request: RequestContext
    limits: Limits
    states_probabilities: bool = True


@dataclass
class Answer:
    """What was received so far, counted here. Times in milliseconds since the request was sent.

    `is_false` says that the answer itself, not only a receipt, is not what was agreed: no later receipt mends that.
    Without `shown` the provider's token counts are believed up to the request's limits. `is_whole` says that the answer
    came at once: of its receipts only the last was sent.
    """

    agreement: Agreement
    shown: ShownChoices | None = None
    units_out: int = 0
    ttft_ms: int = 0
    last: Receipt | None = None
    is_false: bool = False
    is_whole: bool = False
    _root: ResponseRoot | None = field(default_factory=ResponseRoot)

    def __post_init__(self) -> None:
        self._unmendable = _Unmendable(self)

    @classmethod
    def resumed(cls, agreement: Agreement, last: Receipt | None) -> "Answer":
        """An answer of which only the last checked receipt is known any more."""
        if last is None:
            return cls(agreement)
        return cls(agreement, units_out=last.units_out, last=last, _root=None)

    def add(self, token: StreamToken, elapsed_ms: int) -> None:
        """Counts a token. Raises ReceiptRejected on one that nobody has to pay for."""
        limit = self.agreement.limits.max_tokens
        with self._unmendable:
            if self.last is not None and self.last.final:
                raise ReceiptRejected("final", "tokens after the final receipt")
            if self.units_out >= limit:
                raise ReceiptRejected("tokens", f"more than the {limit} tokens asked for")
            is_unstated = token.logprob == NO_PROBABILITY and not self.agreement.states_probabilities
            if not NO_PROBABILITY < token.logprob <= 0 and not is_unstated:
                raise ReceiptRejected("tokens", f"{token.logprob} is no log-probability of a sampled token")
            if self.shown is not None:
                self.shown.token(token.token_id)
        if self.units_out == 0:
            self.ttft_ms = elapsed_ms
        if self._root is not None:
            self._root.append(token.token_id, token.logprob)
        self.units_out += 1

    def embed(self, vectors: list[list[int]], wanted: int) -> None:
        """Takes an embedding's vectors, in millionths; they are no units of output.

        Raises ReceiptRejected unless there is one for each of the `wanted` inputs, all of one length.
        """
        with self._unmendable:
            _equal("vectors", len(vectors), wanted)
            if not all(vectors) or len({len(vector) for vector in vectors}) > 1:
                raise ReceiptRejected("vectors", "empty, or of different lengths")
            if len(vectors[0]) > MAX_COMPONENTS:
                raise ReceiptRejected("vectors", f"more than {MAX_COMPONENTS} components")
        if self._root is not None:
            for index, component in enumerate(component for vector in vectors for component in vector):
                self._root.append(index, component)

    def deliver(self, text: str, choice: int = 0) -> None:
        """Takes a piece of text. Raises ReceiptRejected if it is not what the tokens read as."""
        if self.shown is not None:
            with self._unmendable:
                self.shown.delivered(choice, text)

    def call(self, choice: int, number: int, name: str, arguments: str) -> None:
        """Takes a piece of a tool call. Raises ReceiptRejected where none can be."""
        if self.shown is not None:
            with self._unmendable:
                self.shown.called(choice, number, name, arguments)

    def close(self, choice: int) -> None:
        """Takes the end of a choice. Raises ReceiptRejected unless all that its tokens read as was delivered."""
        if self.shown is not None:
            with self._unmendable:
                self.shown.close(choice)

    def check(self, receipt: Receipt, *, elapsed_ms: int, now: int) -> Receipt:
        """A receipt of the stream, if every field is right. Raises ReceiptRejected naming the first that is not."""
        self._check_identity(receipt)
        if not self.is_whole:
            _equal("part", receipt.part, self.last.part + 1 if self.last else 0)
        _equal("units_out", receipt.units_out, self.units_out)
        self._check_root(receipt)
        if self.shown is not None:
            with self._unmendable:
                self.shown.settle()
        self._check_input(receipt)
        if abs(receipt.ended_at - now) > MAX_CLOCK_SKEW_S:
            raise ReceiptRejected("ended_at", f"off by more than {MAX_CLOCK_SKEW_S} s")
        if receipt.duration_ms > elapsed_ms + TIME_TOLERANCE_MS:
            raise ReceiptRejected("duration_ms", "longer than the request took")
        self._check_times(receipt)
        self._check_cost(receipt)
        self.last = receipt
        return receipt

    def due(self, receipt: Receipt, waited_ms: int) -> int:
        """What is paid for a checked receipt: its cost, or less where our own times imply an SLA credit.

        `waited_ms` is how long we waited for the provider after the first token.
        """
        terms = self.agreement.terms
        if terms.sla_milli_tokens_per_s and not receipt.final:  # it may fall due until the end
            gross = money.cost(terms, receipt.units_in, receipt.units_cached, receipt.units_out)
            return min(receipt.cost, gross - money.credit(terms, gross))
        ttft_ms = max(receipt.ttft_ms, self.ttft_ms - SLA_SLACK_MS)
        span_ms = max(receipt.duration_ms - receipt.ttft_ms, waited_ms - SLA_SLACK_MS)
        ours = replace(receipt, ttft_ms=ttft_ms, duration_ms=ttft_ms + span_ms)
        return min(receipt.cost, money.receipt_cost(terms, ours))

    def check_stored(self, receipt: Receipt, *, unseen: int, now: int) -> int:
        """What to pay on the final receipt of a stream that broke; `unseen` tokens beyond those shown at most.

        Raises ReceiptRejected naming the first field that is not right.
        """
        if receipt.final and receipt == self.last:  # it was checked, and could not be recorded
            return self.due(receipt, 0)
        self._check_identity(receipt)
        _equal("final", receipt.final, True)
        if self.last is not None and receipt.part <= self.last.part:
            raise ReceiptRejected("part", f"{receipt.part} after {self.last.part}")
        if receipt.units_out > self.agreement.limits.max_tokens:
            raise ReceiptRejected("units_out", f"more than the {self.agreement.limits.max_tokens} tokens asked for")
        if self.last is not None and receipt.units_out < self.last.units_out:
            raise ReceiptRejected("units_out", "lower than in the part before")
        has_lost_vectors = self.agreement.limits.max_tokens == 0 and self._root is not None and self._root.count == 0
        if receipt.units_out == self.units_out and not has_lost_vectors:
            self._check_root(receipt)
        self._check_input(receipt)
        sent_at = self.agreement.request.sent_at
        if not sent_at - MAX_CLOCK_SKEW_S <= receipt.ended_at <= now + MAX_CLOCK_SKEW_S:
            raise ReceiptRejected("ended_at", "before the request was sent, or in the future")
        self._check_times(receipt)
        self._check_cost(receipt)
        self.last = receipt
        paid = unseen + (self.units_out if self.shown is None else self.shown.shown)
        counted = min(receipt.units_out, paid)
        return min(receipt.cost, self.due(replace(receipt, units_out=counted), 0))

    def _check_identity(self, receipt: Receipt) -> None:
        agreed = self.agreement
        _equal("lease_id", receipt.lease_id, agreed.lease_id)
        _equal("seq", receipt.seq, agreed.request.seq)
        _equal("request_hash", receipt.request_hash, agreed.request.request_hash)
        _equal("model_fingerprint", receipt.model_fingerprint, agreed.fingerprint)

    def _check_root(self, receipt: Receipt) -> None:
        if self._root is not None:
            _equal("response_hash", receipt.response_hash, self._root.root())
        elif self.last is not None:
            _equal("response_hash", receipt.response_hash, self.last.response_hash)

    def _check_input(self, receipt: Receipt) -> None:
        limits, total = self.agreement.limits, receipt.units_in + receipt.units_cached
        if total == 0 and receipt.units_out == 0:
            return
        if limits.prompt_tokens is not None:
            _equal("units_in", total, limits.prompt_tokens)
        elif total > limits.prompt_bound:
            raise ReceiptRejected("units_in", f"{total} tokens for a prompt that has at most {limits.prompt_bound}")
        if self.last is not None and self.last.units_in + self.last.units_cached:
            _equal("units_cached", receipt.units_cached, self.last.units_cached)

    def _check_times(self, receipt: Receipt) -> None:
        if receipt.ttft_ms > receipt.duration_ms:
            raise ReceiptRejected("ttft_ms", "longer than the whole request")
        if self._root is not None and self.units_out and receipt.ttft_ms > self.ttft_ms + TIME_TOLERANCE_MS:
            raise ReceiptRejected("ttft_ms", "later than the first token came")

    def _check_cost(self, receipt: Receipt) -> None:
        most = money.receipt_cost(self.agreement.terms, receipt)
        if receipt.cost > most:
            raise ReceiptRejected("cost", f"{receipt.cost} where the terms allow {most}")
        if receipt.cost > self.agreement.request.max_cost:
            raise ReceiptRejected("cost", f"{receipt.cost} is above the authorised {self.agreement.request.max_cost}")
        if self.last is not None and receipt.cost < self.last.cost:
            raise ReceiptRejected("cost", "lower than in the part before")


class _Unmendable:
    """Around what no later receipt can mend."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, _: object, __: object) -> None:
        if kind is not None and issubclass(kind, ReceiptRejected):
            self._answer.is_false = True


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
