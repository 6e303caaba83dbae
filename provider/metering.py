"""What one request has used so far, and the receipts that say so."""

from dataclasses import dataclass, field

from protocol import money
from protocol.merkle import ResponseRoot, quantise_logprob
from protocol.typed_data import Receipt, Terms


@dataclass
class Meter:
    """Counts one request. Costs in token base units, times in milliseconds from the request's arrival."""

    terms: Terms
    lease_id: bytes
    seq: int
    request_hash: bytes
    model_fingerprint: bytes
    max_cost: int
    units_in: int = 0
    units_cached: int = 0
    units_out: int = 0
    ttft_ms: int = 0
    duration_ms: int = 0
    cost: int = 0
    parts: int = 0
    _root: ResponseRoot = field(default_factory=ResponseRoot)

    def start(self, prompt_tokens: int, cached_tokens: int) -> None:
        """The prompt is being read: from now on it is owed."""
        self.units_in = prompt_tokens - cached_tokens
        self.units_cached = cached_tokens
        self._charge()

    def add(self, token: int, logprob: float, elapsed_ms: int) -> int:
        """Counts a generated token; returns its quantised log-probability, which goes out with it."""
        if self.units_out == 0:
            self.ttft_ms = elapsed_ms
        quantised = quantise_logprob(logprob)
        self._root.append(token, quantised)
        self.units_out += 1
        self._charge()
        return quantised

    def add_vectors(self, vectors: list[list[int]]) -> None:
        """Commits to an embedding's vectors, in millionths; they are no units of output."""
        for index, component in enumerate(component for vector in vectors for component in vector):
            self._root.append(index, component)

    @property
    def gross(self) -> int:
        """The price of everything so far, before any SLA credit: the most the final receipt can charge for it."""
        return self._gross(self.units_out)

    def gross_with_next(self) -> int:
        """The gross price after one more token."""
        return self._gross(self.units_out + 1)

    def receipt(self, *, final: bool, duration_ms: int, ended_at: int) -> Receipt:
        """The next receipt of this request.

        A part charges as if every SLA credit that is still possible fell due; the final receipt charges exactly what
        its own times imply.
        """
        self.duration_ms = duration_ms = max(duration_ms, self.ttft_ms)
        ttft_ms = self.ttft_ms if self.units_out else duration_ms
        if final:
            self.cost = money.cost_after_sla(
                self.terms, self.units_in, self.units_cached, self.units_out, ttft_ms, duration_ms
            )
        receipt = Receipt(
            lease_id=self.lease_id,
            seq=self.seq,
            part=self.parts,
            final=final,
            cost=self.cost,
            units_in=self.units_in,
            units_out=self.units_out,
            units_cached=self.units_cached,
            request_hash=self.request_hash,
            response_hash=self._root.root(),
            ttft_ms=ttft_ms,
            duration_ms=duration_ms,
            ended_at=ended_at,
            model_fingerprint=self.model_fingerprint,
        )
        self.parts += 1
        return receipt

    def _charge(self) -> None:
        """While an SLA credit may still fall due it is taken off, because a later receipt may not cost less."""
        gross = self.gross
        is_open = self.terms.sla_milli_tokens_per_s > 0 or (
            self.terms.sla_ttft_ms > 0 and (self.units_out == 0 or self.ttft_ms > self.terms.sla_ttft_ms)
        )
        self.cost = gross - money.credit(self.terms, gross) if is_open else gross

    def _gross(self, units_out: int) -> int:
        return money.cost(self.terms, self.units_in, self.units_cached, units_out)


def most_output(terms: Terms, prompt_tokens: int, max_cost: int) -> int:
    """How many output tokens `max_cost` certainly pays for after such a prompt; negative if not even the prompt."""
    dearest = max(terms.price_in, terms.price_cached)
    rest = max_cost * terms.unit_scale - prompt_tokens * dearest
    if rest < 0:
        return -1
    return rest // terms.price_out if terms.price_out else 2**31 - 1


def prompt_cost(terms: Terms, prompt_tokens: int) -> int:
    """The most that a prompt of this length alone can cost."""
    dearest = max(terms.price_in, terms.price_cached)
    return -(-prompt_tokens * dearest // terms.unit_scale)


def closing_receipt(
    last: Receipt | None, lease_id: bytes, seq: int, request_hash: bytes, fingerprint: bytes, now: int
) -> Receipt:
    """The final receipt of a request that a crash interrupted: what its last part said, or nothing at all."""
    if last is None:
        return Receipt(lease_id, seq, 0, True, 0, 0, 0, 0, request_hash, bytes(32), 0, 0, now, fingerprint)
    values = {member.attribute: getattr(last, member.attribute) for member in Receipt.MEMBERS}
    return Receipt(**{**values, "part": last.part + 1, "final": True, "ended_at": now})
