"""What an offer promises of the sandbox, against what is found where it is served."""

import itertools
from dataclasses import replace

import pytest

from protocol.headers import RefusalCode
from protocol.sandboxes import SandboxTier
from provider.exceptions import Refusal
from provider.isolation import check_sandbox, sandbox_for, weaknesses
from provider.model_card import ENGINE_NAME, FOREIGN_ENGINE
from provider.offers import Offer
from provider.sandbox.tiers import Tier
from tests.support.provider_stack import make_offer

STRENGTHS = ("gvisor-systrap", "gvisor-ptrace", "runc-seccomp", "bubblewrap", "none")
"""Said once more, so that no change of the enumeration goes unseen."""


def offer(promised: str, engine: str = ENGINE_NAME) -> Offer:
    made = make_offer()
    model = {**made.document["model"], "engine": {"name": engine, "build": "1"}}
    return replace(made, document={**made.document, "model": model, "sandbox": promised})


@pytest.mark.parametrize(("promised", "found"), itertools.product(STRENGTHS, STRENGTHS))
def test_offer__is_served_from_what_it_promises_or_stronger(promised: str, found: str) -> None:
    made = offer(promised)
    if STRENGTHS.index(found) <= STRENGTHS.index(promised):
        check_sandbox(made, SandboxTier(found))
        assert weaknesses([made], SandboxTier(found)) == []
        return
    with pytest.raises(Refusal) as caught:
        check_sandbox(made, SandboxTier(found))
    assert caught.value.code is RefusalCode.TERMS
    told = f"offer 1 version 1 promises the sandbox {promised}, here is only {found}"
    assert str(caught.value).startswith(told)
    assert weaknesses([made, offer("none")], SandboxTier(found)) == [told]


def test_offer_of_another_server__promises_no_sandbox_and_can_keep_none() -> None:
    strongest = SandboxTier.GVISOR_SYSTRAP
    assert sandbox_for(FOREIGN_ENGINE, strongest) is SandboxTier.NONE
    assert sandbox_for(ENGINE_NAME, strongest) is strongest
    check_sandbox(offer("none", FOREIGN_ENGINE), SandboxTier.BUBBLEWRAP)
    with pytest.raises(Refusal, match="promises the sandbox bubblewrap, here is only none"):
        check_sandbox(offer("bubblewrap", FOREIGN_ENGINE), strongest)


def test_every_tier_of_the_probe__has_its_name_in_terms() -> None:
    assert [tier.promised for tier in Tier] == [tier for tier in SandboxTier if tier is not SandboxTier.NONE]
