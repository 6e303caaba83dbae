"""The ways in which a provider of tests may be dishonest or break down, each a switch of its own."""

from dataclasses import dataclass, field, fields, replace

from protocol import money
from protocol.headers import Signed
from protocol.signing import Signer
from protocol.typed_data import Domain, Receipt, Terms


@dataclass(frozen=True)
class ReceiptLies:
    """What is wrong with its receipts. `other_key` signs them where it is given; `is_quick` tells no time at all."""

    percent_in: int = 0
    percent_out: int = 0
    price_in: int = 0
    price_out: int = 0
    clock_s: int = 0
    part_gap: int = 0
    falls_by: int = 0
    is_other_model: bool = False
    is_other_request: bool = False
    is_other_answer: bool = False
    other_key: Signer | None = None
    is_missing: bool = False
    is_quick: bool = False

    def falsify(self, honest: Receipt, terms: Terms, last: Receipt | None) -> Receipt:
        """The receipt as it is sent; `last` is the one sent before. False counts and prices show in its cost."""
        counted = replace(
            honest,
            part=honest.part * (1 + self.part_gap),
            units_in=_more(honest.units_in, self.percent_in),
            units_out=_more(honest.units_out, self.percent_out),
            ended_at=honest.ended_at + self.clock_s,
            ttft_ms=honest.ttft_ms * (not self.is_quick),
            duration_ms=honest.duration_ms * (not self.is_quick),
            model_fingerprint=_other(honest.model_fingerprint, self.is_other_model),
            request_hash=_other(honest.request_hash, self.is_other_request),
            response_hash=_other(honest.response_hash, self.is_other_answer),
        )
        dearer = replace(terms, price_in=terms.price_in + self.price_in, price_out=terms.price_out + self.price_out)
        cost = last.cost - self.falls_by if last and self.falls_by else money.receipt_cost(dearer, counted)
        return replace(counted, cost=cost)

    def sign(self, receipt: Receipt, domain: Domain, node: Signer) -> Signed[Receipt]:
        """With the node key, unless another is used."""
        return Signed(receipt, (self.other_key or node).sign(domain, receipt))


@dataclass(frozen=True)
class Lies:
    """As it stands, none. Numbers of tokens are counted from 0: `stalls_after=0` is before the first.

    `text` and `logprob` (added to every token's, in thousandths of a nat) are another model's answer. `is_silent` never
    answers at all, and neither hears that the client hangs up; each token takes `token_s`; `stalls_after` stops within
    the answer, and after `murmurs_after` tokens there are only comments; after `half_closes_after` tokens nothing more
    will come, and the connection stays; both cuts reset it. `calls_invalid` refuses good requests as malformed.
    """

    receipts: ReceiptLies = field(default_factory=ReceiptLies)
    text: str | None = None
    logprob: int = 0
    unsigned_text_at: int | None = None
    silent_token_at: int | None = None
    first_token_s: float = 0.0
    token_s: float = 0.0
    is_silent: bool = False
    stalls_after: int | None = None
    murmurs_after: int | None = None
    half_closes_after: int | None = None
    cut_after_tokens: int | None = None
    cut_after_bytes: int | None = None
    retry_after_s: int | None = None
    is_busy: bool = False
    calls_invalid: bool = False


def name_of(lies: Lies) -> str:
    """The switches that are on, to tell tests apart."""
    receipts = [f"receipts.{switch}" for switch in _switched(lies.receipts, ReceiptLies())]
    return ",".join(receipts + [each for each in _switched(lies, Lies()) if not each.startswith("receipts=")]) or "none"


def _switched(lies: Lies | ReceiptLies, none: Lies | ReceiptLies) -> list[str]:
    values = {each.name: getattr(lies, each.name) for each in fields(lies)}
    return [f"{name}={value}" for name, value in values.items() if value != getattr(none, name)]


def _more(count: int, percent: int) -> int:
    """Rounded up, so that a lie is never nothing."""
    return count + -(-count * percent // 100)


def _other(digest: bytes, is_other: bool) -> bytes:
    return bytes([digest[0] ^ is_other]) + digest[1:]
