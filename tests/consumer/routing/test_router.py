"""Plans: their order, what is left out, and that nothing is lost on the way."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.gateway.events import FailureClass, Leg, RouteFailed
from consumer.routing.breaker import RULES
from consumer.routing.catalogue import Candidate
from consumer.routing.names import Preference, RouteKind, Wanted, parse_model
from consumer.routing.router import Fallbacks, Needs, Plan
from consumer.routing.settings import LimitSettings
from protocol.ids import OfferKind
from protocol.money import USDC, Price, parse_price
from protocol.sandboxes import SandboxTier
from tests.consumer.routing.candidates import CLAW, Routing, candidate, routing

BOTH = Fallbacks(local=("mini", "small"), upstream=(("work", "gpt"), ("work", "small"), ("home", "gpt")))


def names(plan: Plan) -> list[str]:
    return [route.name for route in plan.routes]


def providers(plan: Plan) -> list[int]:
    return [route.candidate.provider for route in plan.routes if route.candidate]


def finished(ttft_ms: int, tokens: int = 100, duration_ms: int = 2_000) -> Leg:
    return Leg("r", "finished", completion_tokens=tokens, ttft_ms=ttft_ms, duration_ms=duration_ms)


async def test_fallbacks__after_the_market_local_then_upstream__same_name_first() -> None:
    made = await routing(candidate(1), candidate(2, "other"), fallbacks=BOTH)
    assert names(made.router.plan(parse_model("small"), Needs())) == [
        "provider/1/small",
        "local/small",
        "local/mini",
        "upstream/work/small",
        "upstream/work/gpt",
        "upstream/home/gpt",
    ]


async def test_embedding__falls_back_only_to_the_same_model() -> None:
    made = await routing(candidate(1, offer_kind=OfferKind.EMBEDDING), candidate(2), fallbacks=BOTH)
    plan = made.router.plan(parse_model("small"), Needs(OfferKind.EMBEDDING))
    assert names(plan) == ["provider/1/small", "local/small", "upstream/work/small"]
    assert [(each.route.name, each.reasons) for each in plan.excluded] == [
        ("provider/2/small", ("it is offered for inference, not for embedding",))
    ]
    assert providers(made.router.plan(parse_model("auto"), Needs(OfferKind.EMBEDDING))) == [1]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("provider/2/small", ["provider/2/small"]),
        ("local/mini", ["local/mini"]),
        ("upstream/home/gpt", ["upstream/home/gpt"]),
    ],
)
async def test_pinned__that_route_alone(text: str, found: list[str]) -> None:
    made = await routing(candidate(1), candidate(2), fallbacks=BOTH)
    assert names(made.router.plan(parse_model(text), Needs())) == found


@pytest.mark.parametrize("text", ["nothing", "provider/9/small", "provider/1/gpt", "local/gpt", "upstream/work/mini"])
async def test_name_that_nobody_serves__not_found(text: str) -> None:
    made = await routing(candidate(1), fallbacks=BOTH)
    with pytest.raises(RouteFailed, match=text) as caught:
        made.router.plan(parse_model(text), Needs())
    assert (caught.value.status, caught.value.code) == (404, "model_not_found")


async def test_name_unknown_while_the_market_is_not_seen__fallbacks_answer() -> None:
    made = await routing(fallbacks=BOTH)
    made.source.is_complete = False
    assert names(made.router.plan(parse_model("nothing"), Needs())) == [
        "local/mini",
        "local/small",
        "upstream/work/gpt",
        "upstream/work/small",
        "upstream/home/gpt",
    ]


async def test_prices__compared_exactly_where_floats_are_equal() -> None:
    dear = candidate(1, price_in=2**120 + 1, unit_scale=1)
    cheap = candidate(2, price_in=2**120, unit_scale=1)
    assert float(dear.offer.terms.price_in) == float(cheap.offer.terms.price_in)
    limits = LimitSettings(max_price_in=Price(USDC, 2**120, 1, "token"))
    made = await routing(dear, cheap, limits=limits)
    plan = made.router.plan(parse_model("small"), Needs())
    assert providers(plan) == [2]
    assert plan.excluded[0].reasons == ("the price of input is above the limit",)


async def test_preference__cheap_takes_the_cheapest_and_fast_the_fastest() -> None:
    made = await routing(candidate(1, price_out=10_000), candidate(2, price_out=60_000))
    slow, quick = (made.router.plan(parse_model(f"provider/{number}/small"), Needs()).routes[0] for number in (1, 2))
    for _ in range(10):
        made.router.record(slow, finished(3_000, duration_ms=20_000))
        made.router.record(quick, finished(100, duration_ms=1_000))
    assert providers(made.router.plan(parse_model("auto:cheap"), Needs())) == [1, 2]
    assert providers(made.router.plan(parse_model("auto:fast"), Needs())) == [2, 1]


async def test_other_token__is_the_cheapest_of_its_own() -> None:
    made = await routing(candidate(1), candidate(2, price_in=20_000), candidate(3, token=CLAW, price_in=10**18))
    plan = made.router.plan(Wanted(RouteKind.MARKET, "small"), Needs())
    prices = {route.name: route.why["price"] for route in plan.routes}
    assert prices["provider/1/small"] == prices["provider/3/small"] == 1_000 > prices["provider/2/small"]


CHANGES: list[dict[str, Any]] = [{"stake": 10**23}, {"price_in": 9_000}, {"price_out": 29_000}]


@pytest.mark.parametrize("better", CHANGES)
async def test_better_offer__comes_first(better: dict[str, Any]) -> None:
    made = await routing(candidate(1), candidate(2, **better))
    assert providers(made.router.plan(parse_model("small"), Needs())) == [2, 1]


async def test_open_lease_and_exposure__move_a_provider() -> None:
    made = await routing(candidate(1), candidate(2))
    made.leased.add(2)
    assert providers(made.router.plan(parse_model("small"), Needs())) == [2, 1]
    made.leased.add(1)
    made.exposed[1] = 1_000
    assert providers(made.router.plan(parse_model("small"), Needs())) == [2, 1]
    made.exposed[2], made.exposed[1] = 1_000, 0
    assert providers(made.router.plan(parse_model("small"), Needs())) == [1, 2]


async def test_unexplored__gets_its_try_before_a_mediocre_one__and_a_slow_one_again_later() -> None:
    made = await routing(candidate(1), candidate(2))
    first = made.router.plan(parse_model("small"), Needs()).routes[0]
    made.router.record(first, finished(2_000, duration_ms=10_000))
    plan = made.router.plan(parse_model("small"), Needs())
    assert providers(plan) == [2, 1]
    made.router.record(plan.routes[0], finished(1_500, duration_ms=10_000))
    assert providers(made.router.plan(parse_model("small"), Needs())) == [2, 1]
    made.router.record(plan.routes[0], finished(1_500, duration_ms=10_000))
    made.clock.at += 86_400
    made.router.record(plan.routes[0], finished(1_500, duration_ms=10_000))
    assert providers(made.router.plan(parse_model("small"), Needs())) == [1, 2]


async def test_failures__lower_the_rank_once_the_cooldown_is_over() -> None:
    made = await routing(candidate(1), candidate(2))
    route = made.router.plan(parse_model("small"), Needs()).routes[0]
    made.router.record(route, RouteFailed(FailureClass.OVERLOAD, "busy"))
    plan = made.router.plan(parse_model("small"), Needs())
    assert providers(plan) == [2]
    assert plan.excluded[0].ready_in_s == plan.retry_after_s == RULES[FailureClass.OVERLOAD].first_s
    made.clock.at += RULES[FailureClass.OVERLOAD].first_s
    assert providers(made.router.plan(parse_model("small"), Needs())) == [2, 1]


async def test_lies__leave_a_route_out__until_trust_has_come_back() -> None:
    made = await routing(candidate(1), candidate(2))
    route = made.router.plan(parse_model("provider/1/small"), Needs()).routes[0]
    for _ in range(3):
        made.health.failed(route.name, FailureClass.BAD_OUTPUT, "cost")
    plan = made.router.plan(parse_model("small"), Needs())
    assert providers(plan) == [2]
    assert (plan.excluded[0].reasons, plan.retry_after_s) == (("it was caught giving false answers",), None)
    made.clock.at += 30 * 86_400
    assert providers(made.router.plan(parse_model("small"), Needs())) == [2, 1]
    made.health.swapped(route.name)
    told = made.router.plan(parse_model("small"), Needs()).excluded[0].reasons
    assert told == ("another model than the one that is sold was found behind it",)


async def test_half_open__one_trial_until_its_outcome() -> None:
    made = await routing(candidate(1))
    route = made.router.plan(parse_model("small"), Needs()).routes[0]
    assert made.router.begin(route)
    made.router.record(route, RouteFailed(FailureClass.UNREACHABLE, "gone"))
    assert not made.router.begin(route)
    made.clock.at += RULES[FailureClass.UNREACHABLE].first_s
    assert [made.router.begin(route) for _ in range(3)] == [True, False, False]
    made.router.record(route, Leg(route.name, "cancelled"))
    assert [made.router.begin(route) for _ in range(2)] == [True, False]
    made.router.record(route, finished(100))
    assert [made.router.begin(route) for _ in range(3)] == [True] * 3


async def test_changed_catalogue__changes_plans() -> None:
    made = await routing(candidate(1))
    assert providers(made.router.plan(parse_model("small"), Needs())) == [1]
    made.source.found = [candidate(2)]
    await made.catalogue.refresh()
    assert providers(made.router.plan(parse_model("small"), Needs())) == [2]


async def test_explain__names_every_route_once_with_its_parts() -> None:
    made = await routing(candidate(1), candidate(2), limits=LimitSettings(deny=(2,)), fallbacks=BOTH)
    found = made.router.plan(parse_model("small"), Needs()).explain()
    assert found["routes"][0] == {
        "name": "provider/1/small",
        "kind": "market",
        "offer": 1,
        "sandbox": "gvisor-systrap",
        "score": 732_700,
        "why": {
            "price": 1_000,
            "ttft": 714,
            "throughput": 769,
            "stake": 500,
            "exposure": 1_000,
            "success": 1_000,
            "trust": 1_000,
            "has_lease": False,
        },
    } | {"score": found["routes"][0]["score"]}
    assert found["routes"][0]["score"] == 10 * (40 * 1_000 + 20 * 714 + 20 * 769 + 10 * 500 + 10 * 1_000)
    assert found["excluded"][0]["reasons"] == ["the provider is denied"]


OFFERS = st.lists(
    st.builds(
        candidate,
        st.integers(1, 6),
        st.sampled_from(["small", "other"]),
        offer_id=st.integers(1, 3),
        price_in=st.integers(0, 2**128 - 1),
        price_out=st.integers(0, 100_000),
        unit_scale=st.integers(1, 2**64 - 1),
        stake=st.integers(0, 2**96),
        region=st.sampled_from(["DE", "DE-BE", "FR"]),
        sandbox=st.sampled_from([*SandboxTier]),
        tier=st.sampled_from(["shared", "dedicated"]),
        refuses=st.lists(st.sampled_from(["medical", "legal"]), unique=True),
        context_length=st.integers(1, 8_192),
    ),
    max_size=10,
)
LIMITS = st.builds(
    LimitSettings,
    max_price_in=st.none() | st.just(parse_price("0.02 USDC per 1K tokens")),
    max_price_out=st.none() | st.just(parse_price("0.03 USDC per 1K tokens")),
    allow=st.just(()) | st.sets(st.integers(1, 6)).map(tuple),
    deny=st.sets(st.integers(1, 6), max_size=3).map(tuple),
    regions=st.sampled_from([(), ("DE",), ("FR", "DE-BE")]),
    sandboxes=st.sets(st.sampled_from(SandboxTier)).map(tuple),
    tiers=st.sampled_from([(), ("shared",)]),
    refuses_none_of=st.sampled_from([(), ("medical",)]),
    min_context=st.sampled_from([0, 1_000]),
)
NEEDS = st.builds(Needs, prompt_tokens=st.none() | st.integers(0, 5_000), max_tokens=st.integers(0, 3_000))


def is_allowed(found: Candidate, limits: LimitSettings, needs: Needs) -> bool:
    """The limits once more, said another way."""
    terms, document = found.offer.terms, found.offer.document
    whole = (needs.prompt_tokens or 0) + needs.max_tokens
    return (
        found.provider not in limits.deny
        and (not limits.allow or found.provider in limits.allow)
        and (not limits.max_price_in or max(terms.price_in, terms.price_cached) <= 20 * terms.unit_scale)
        and (not limits.max_price_out or terms.price_out <= 30 * terms.unit_scale)
        and (not limits.regions or any(document["region"][: len(each)] == each for each in limits.regions))
        and (not limits.tiers or document["tier"] in limits.tiers)
        and (not limits.sandboxes or document["sandbox"] in limits.sandboxes)
        and not set(limits.refuses_none_of) & set(document["content_policy"]["refuses"])
        and found.context_length >= max(limits.min_context, whole)
        and (needs.prompt_tokens or 0) <= 4_096
        and needs.max_tokens <= 2_048
    )


@given(offers=OFFERS, limits=LIMITS, needs=NEEDS, preference=st.sampled_from(Preference), data=st.data())
def test_any_market__every_route_once__none_that_is_not_allowed__same_order_again(
    offers: list[Candidate], limits: LimitSettings, needs: Needs, preference: Preference, data: st.DataObject
) -> None:
    wanted = Wanted(RouteKind.MARKET, data.draw(st.sampled_from([None, "small"])), preference=preference)

    async def planned(listed: list[Candidate]) -> tuple[Routing, Plan]:
        made = await routing(*listed, limits=limits, fallbacks=BOTH)
        return made, made.router.plan(wanted, needs)

    unique = list({(each.provider, each.offer.offer_id): each for each in offers}.values())
    made, plan = asyncio.run(planned(unique))
    fitting = {(each.provider, each.offer.offer_id) for each in unique if wanted.model in (None, each.model)}
    allowed = {
        (each.provider, each.offer.offer_id)
        for each in unique
        if wanted.model in (None, each.model) and is_allowed(each, limits, needs)
    }
    market = [(route.candidate.provider, route.candidate.offer.offer_id) for route in plan.routes if route.candidate]
    out = [each.route.candidate for each in plan.excluded if each.route.candidate]
    assert sorted(market) == sorted(allowed)
    assert sorted((each.provider, each.offer.offer_id) for each in out) == sorted(fitting - allowed)
    rest = [route for route in plan.routes if not route.candidate]
    assert plan.routes[len(market) :] == rest
    assert sorted(route.name for route in rest) == sorted(
        ["local/mini", "local/small", "upstream/work/gpt", "upstream/work/small", "upstream/home/gpt"]
    )
    scores = [route.score for route in plan.routes[: len(market)]]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1_000_000 for score in scores)
    _, shuffled = asyncio.run(planned(data.draw(st.permutations(unique))))
    assert shuffled == plan == made.router.plan(wanted, needs)
