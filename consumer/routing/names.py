"""What an application may write as `model`, and what it means.

smollm2-135m-instruct       the best offer of this model, then fallbacks
auto, auto:cheap, auto:fast the best offer of any model, then fallbacks
provider/7/smollm2          this provider's offer, and nothing else
local/small                 this local model, and nothing else
upstream/work/gpt-4         this model of a configured upstream, and nothing else
"""

from dataclasses import dataclass
from enum import StrEnum

from consumer.gateway.events import FailureClass, RouteFailed

MAX_NAME = 256
MAX_PROVIDER = 2**32 - 1


class RouteKind(StrEnum):
    """Where an answer comes from."""

    MARKET = "market"
    LOCAL = "local"
    UPSTREAM = "upstream"


class Preference(StrEnum):
    """What a ranking cares about most."""

    BALANCED = "balanced"
    CHEAP = "cheap"
    FAST = "fast"


@dataclass(frozen=True)
class Wanted:
    """A parsed model name. `model` is None for any; `provider` or `name` pin the one route that may answer."""

    kind: RouteKind
    model: str | None = None
    provider: int | None = None
    name: str | None = None
    preference: Preference = Preference.BALANCED

    @property
    def is_pinned(self) -> bool:
        """Whether there are no fallbacks."""
        return self.provider is not None or self.name is not None


def parse_model(text: str) -> Wanted:
    """Raises RouteFailed(BAD_REQUEST)."""
    if not text or len(text) > MAX_NAME or not text.isprintable():
        raise unknown_model(text)
    if text == "auto":
        return Wanted(RouteKind.MARKET)
    head, _, rest = text.partition(":")
    if head == "auto":
        if rest not in (Preference.CHEAP, Preference.FAST):
            raise unknown_model(text)
        return Wanted(RouteKind.MARKET, preference=Preference(rest))
    first, _, rest = text.partition("/")
    middle, _, last = rest.partition("/")
    if first == "provider":
        if not _is_provider(middle) or not last:
            raise unknown_model(text)
        return Wanted(RouteKind.MARKET, last, provider=int(middle))
    if first == "local":
        if not rest:
            raise unknown_model(text)
        return Wanted(RouteKind.LOCAL, name=rest)
    if first == "upstream":
        if not middle or not last:
            raise unknown_model(text)
        return Wanted(RouteKind.UPSTREAM, last, name=middle)
    return Wanted(RouteKind.MARKET, text)


def unknown_model(text: str) -> RouteFailed:
    """The error for a name that means nothing here."""
    shown = text if text.isprintable() and len(text) <= MAX_NAME else "of this form"
    return RouteFailed(
        FailureClass.BAD_REQUEST,
        f"no model {shown}: see /v1/models, or use auto, auto:cheap, auto:fast, provider/<id>/<model>, local/<name>, "
        "upstream/<name>/<model>",
        status=404,
        code="model_not_found",
        param="model",
    )


def _is_provider(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 10 and 0 < int(text) <= MAX_PROVIDER
