"""Whether this worker keeps what its offers' terms promise of the sandbox: what was found here against what they name.

A stronger sandbox than promised is fine; behind a weaker one nothing of that offer is served.
"""

from collections.abc import Iterable

from protocol.headers import RefusalCode
from protocol.sandboxes import SandboxTier
from provider.exceptions import Refusal
from provider.model_card import ENGINE_NAME
from provider.offers import Offer

REMEDY = (
    "mend the sandbox (`clawmarket sandbox probe --all` says what fails), "
    "or offer anew what is found (`clawmarket provider offers price`)"
)
"""For the provider's owner."""


def sandbox_for(engine: str, found: SandboxTier) -> SandboxTier:
    """What an offer answered by `engine` can name: another server than ours is in no sandbox that was probed."""
    return found if engine == ENGINE_NAME else SandboxTier.NONE


def weakness(offer: Offer, found: SandboxTier) -> str:
    """How an offer promises more than is found, in a line; empty if it does not."""
    kept = sandbox_for(offer.document["model"]["engine"]["name"], found)
    if not kept.is_weaker_than(offer.sandbox):
        return ""
    return f"offer {offer.offer_id} version {offer.version} promises the sandbox {offer.sandbox}, here is only {kept}"


def weaknesses(offers: Iterable[Offer], found: SandboxTier) -> list[str]:
    """Those of all offers."""
    return [told for offer in offers if (told := weakness(offer, found))]


def check_sandbox(offer: Offer, found: SandboxTier) -> None:
    """Raises Refusal for an offer that promises more than is found."""
    if told := weakness(offer, found):
        raise Refusal(
            RefusalCode.TERMS, f"{told}: it is not served until its provider mends the sandbox or offers anew"
        )
