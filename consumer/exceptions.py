"""What the consumer's side can raise.

ConsumerError
├── ConfigUnusable    the configuration is missing or wrong
├── OfferMismatch     a provider's offer is not what the registry says
├── StoreError        the local records cannot be used or belong to another deployment
│   └── StoreInUse    another process uses them
├── TokenizerUnusable a model file cannot be used for counting tokens, or none is given
├── AccountTooLow     the account or the wallet does not cover a lease, deposit or withdrawal
├── LeaseExhausted    the deposit does not cover the request any more
├── ProviderRefused   the provider refused a request; `code` says why
├── ProviderFailed    the provider could not be reached, or broke off
│   └── NotProved     it has no proof of a receipt; `code` says why
├── PrepayRejected    the provider asks for a prepayment that nobody can check
└── ReceiptRejected   a receipt or answer is not what was agreed; nothing more is signed for it
"""


class ConsumerError(Exception):
    """Base of the consumer's errors."""


class ConfigUnusable(ConsumerError):  # noqa: N818 - named for what is wrong
    """The configuration cannot be used."""


class OfferMismatch(ConsumerError):  # noqa: N818 - named for what is wrong
    """An offer's terms or document do not have the digest on chain."""


class StoreError(ConsumerError):
    """The local records cannot be used."""


class StoreInUse(StoreError):  # noqa: N818 - named for what is wrong
    """Another process, most likely a running gateway, uses the local records."""


class TokenizerUnusable(ConsumerError):  # noqa: N818
    """Tokens cannot be counted here: no model file, or an unusable one."""


class AccountTooLow(ConsumerError):  # noqa: N818
    """The account or the wallet holds too little; nothing was sent."""


class LeaseExhausted(ConsumerError):  # noqa: N818
    """The lease's deposit is too low for a request."""


class ProviderRefused(ConsumerError):  # noqa: N818
    """The provider refused; `code` is its machine-readable reason. With `is_charged` it gave up after it had begun.

    `retry_after_s` is when it may be asked again, if it said so.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        details: dict[str, object] | None = None,
        *,
        is_charged: bool = False,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(f"the provider refused ({code}): {message}")
        self.is_charged = is_charged
        self.retry_after_s = retry_after_s
        self.status = status
        self.code = code
        self.details = details or {}


class ProviderFailed(ConsumerError):  # noqa: N818
    """No answer, or half of one."""


class NotProved(ProviderFailed):
    """The provider says that it cannot prove a receipt: `code` is "not_anchored" or "unknown_receipt"."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"the provider has no proof ({code}): {message}")
        self.code = code


class PrepayRejected(ConsumerError):  # noqa: N818
    """A prompt is paid in advance only by our own count, and only above a credit cap that the provider names."""


class ReceiptRejected(ConsumerError):  # noqa: N818
    """The provider's word does not match what was received; `field` names the first difference."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"receipt rejected: {field}: {reason}")
        self.field = field
