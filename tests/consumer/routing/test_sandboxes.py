"""The sandbox as a hard limit: what is refused unasked, what the user may allow, and what no metadata can claim."""

from io import StringIO
from typing import Any

import pytest
from pydantic import ValidationError
from rich.console import Console

from consumer.gateway.explain import explain_table
from consumer.routing.catalogue import Candidate
from consumer.routing.names import parse_model
from consumer.routing.routes import Needs, Plan
from consumer.routing.settings import LimitSettings
from protocol.sandboxes import SandboxTier
from tests.consumer.routing.candidates import candidate, routing

EVERY = [candidate(number, sandbox=tier.value) for number, tier in enumerate(SandboxTier, 1)]


async def planned(*offers: Candidate, **limits: Any) -> Plan:
    made = await routing(*offers, limits=LimitSettings(**limits))
    return made.router.plan(parse_model("small"), Needs())


def usable(plan: Plan) -> set[str]:
    return {route.candidate.sandbox.value for route in plan.routes if route.candidate}


async def test_by_default__only_what_production_uses() -> None:
    plan = await planned(*EVERY)
    assert usable(plan) == {"gvisor-systrap", "gvisor-ptrace", "runc-seccomp"}
    assert {found.route.name: found.reasons for found in plan.excluded} == {
        "provider/4/small": ("sandbox bubblewrap is not allowed",),
        "provider/5/small": ("sandbox none is not allowed",),
    }


@pytest.mark.parametrize("allowed", [["none"], ["gvisor-systrap", "bubblewrap"]])
async def test_allowed__is_used_and_nothing_else(allowed: list[str]) -> None:
    assert usable(await planned(*EVERY, sandboxes=allowed)) == set(allowed)


async def test_empty_list__allows_all() -> None:
    assert usable(await planned(*EVERY, sandboxes=[])) == {tier.value for tier in SandboxTier}


@pytest.mark.parametrize("wrong", ["gvisor", "GVISOR-SYSTRAP", "", "shared"])
def test_unknown_sandbox_in_the_settings__is_refused(wrong: str) -> None:
    with pytest.raises(ValidationError):
        LimitSettings(sandboxes=[wrong])  # type: ignore[arg-type]


def metadata(*claims: tuple[int, str]) -> dict[str, Any]:
    return {"models": [{"offer_id": offer_id, "sandbox": claimed} for offer_id, claimed in claims]}


@pytest.mark.parametrize("claimed", ["gvisor-systrap", "none"])
async def test_metadata_that_disagrees__is_not_trusted__stronger_or_weaker(claimed: str) -> None:
    for listed in (metadata((1, claimed)), metadata((1, "runc-seccomp"), (1, claimed))):
        plan = await planned(candidate(1, sandbox="runc-seccomp", metadata=listed), sandboxes=[])
        assert plan.routes == []
        told = f"its metadata claims the sandbox {claimed}, its terms runc-seccomp: not trusted"
        assert plan.excluded[0].reasons == (told,)


async def test_metadata_of_another_offer__does_not_matter() -> None:
    listed = metadata((2, "none"), (1, "runc-seccomp"))
    assert usable(await planned(candidate(1, sandbox="runc-seccomp", metadata=listed))) == {"runc-seccomp"}


async def test_table_of_explain__shows_the_sandbox_beside_each_route_and_why_it_is_out() -> None:
    console = Console(record=True, width=200, file=StringIO())
    console.print(explain_table({"model": "small", **(await planned(*EVERY)).explain()}))
    lines = [line for line in console.export_text().splitlines() if "provider/" in line]
    assert len(lines) == len(EVERY)
    for number, tier in enumerate(SandboxTier, 1):
        (line,) = (line for line in lines if f"provider/{number}/small" in line)
        assert tier in line.partition("small")[2]
    assert "sandbox none is not allowed" in lines[-1]


async def test_explain__names_the_sandbox_of_every_offer() -> None:
    explained = (await planned(*EVERY)).explain()
    told = {route["name"]: route["sandbox"] for route in explained["routes"] + explained["excluded"]}
    assert told == {f"provider/{number}/small": tier for number, tier in enumerate(SandboxTier, 1)}
