"""What the consumer's side can raise.

ConsumerError
├── OfferMismatch     a provider's offer is not what the registry says
├── StoreError        the local records cannot be used or belong to another deployment
├── TokenizerUnusable a model file cannot be used for counting tokens
├── LeaseExhausted    the deposit does not cover the request any more
├── ProviderRefused   the provider refused a request; `code` says why
├── ProviderFailed    the provider could not be reached, or broke off
└── ReceiptRejected   a receipt or answer is not what was agreed; nothing more is signed for it
"""


class ConsumerError(Exception):
    """Base of the consumer's errors."""


class OfferMismatch(ConsumerError):  # noqa: N818 - named for what is wrong
    """An offer's terms or document do not have the digest on chain."""


class StoreError(ConsumerError):
    """The local records cannot be used."""


class TokenizerUnusable(ConsumerError):  # noqa: N818
    """A model file cannot be used for counting tokens."""


class LeaseExhausted(ConsumerError):  # noqa: N818
    """The lease's deposit is too low for a request."""


class ProviderRefused(ConsumerError):  # noqa: N818
    """The provider refused; `code` is its machine-readable reason."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"the provider refused ({code}): {message}")
        self.status = status
        self.code = code


class ProviderFailed(ConsumerError):  # noqa: N818
    """No answer, or half of one."""


class ReceiptRejected(ConsumerError):  # noqa: N818
    """The provider's word does not match what was received; `field` names the first difference."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"receipt rejected: {field}: {reason}")
        self.field = field
