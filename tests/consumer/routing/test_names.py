"""Model names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.gateway.events import FailureClass, RouteFailed
from consumer.routing.names import Preference, RouteKind, Wanted, parse_model

GOOD = {
    "auto": Wanted(RouteKind.MARKET),
    "auto:cheap": Wanted(RouteKind.MARKET, preference=Preference.CHEAP),
    "auto:fast": Wanted(RouteKind.MARKET, preference=Preference.FAST),
    "smollm2": Wanted(RouteKind.MARKET, "smollm2"),
    "meta/llama-3": Wanted(RouteKind.MARKET, "meta/llama-3"),
    "provider/7/smollm2": Wanted(RouteKind.MARKET, "smollm2", provider=7),
    "local/small": Wanted(RouteKind.LOCAL, name="small"),
    "upstream/work/gpt-4": Wanted(RouteKind.UPSTREAM, "gpt-4", name="work"),
    "upstream/work/meta/llama": Wanted(RouteKind.UPSTREAM, "meta/llama", name="work"),
}
BAD = [
    "",
    "auto:",
    "auto:slow",
    "auto:balanced",
    "provider",
    "provider/",
    "provider/7",
    "provider/7/",
    "provider/0/a",
    "provider/-1/a",
    "provider/٧/a",
    "provider/4294967296/a",
    "local/",
    "local",
    "upstream/a",
    "upstream/a/",
    "upstream//a",
    "a\nb",
    "a" * 257,
]


@pytest.mark.parametrize(("text", "wanted"), GOOD.items())
def test_name__means(text: str, wanted: Wanted) -> None:
    assert parse_model(text) == wanted


@pytest.mark.parametrize("text", BAD)
def test_name__means_nothing(text: str) -> None:
    with pytest.raises(RouteFailed) as caught:
        parse_model(text)
    assert (caught.value.failure, caught.value.status) == (FailureClass.BAD_REQUEST, 404)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


@given(text=st.text(max_size=300))
def test_any_text__a_meaning_or_the_one_error(text: str) -> None:
    error: RouteFailed | None = None
    try:
        parse_model(text)
    except RouteFailed as raised:
        error = raised
    assert error is None or (error.code == "model_not_found" and len(str(error)) < 500 and str(error).isprintable())
