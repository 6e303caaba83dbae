"""Canaries on real models: the honest one passes, another one behind its name is caught."""

import random
from collections.abc import Iterator, Sequence

import pytest

from consumer.routing.canary import Canaries, Compared, Known, Verdict, judge
from consumer.routing.catalogue import Candidate
from consumer.routing.health import Health
from consumer.routing.reference import Forced, LocalReference
from consumer.routing.router import LEAST_TRUST
from protocol.stream import StreamToken
from tests.consumer.routing.candidates import Clock, candidate
from tests.support.tiny_gguf import write_tiny_gguf

PROMPTS = ["What is two and two?", "Name a river.", "abc", "The sky is", "1 2 3 4", "Hello", "x = ", "Once upon"]
TOKENS = 24


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LocalReference, LocalReference]]:
    folder = tmp_path_factory.mktemp("models")
    found = [LocalReference(write_tiny_gguf(folder / f"{seed}.gguf", seed=seed)) for seed in (1, 2)]
    yield found[0], found[1]
    for each in found:
        each.close()


def canaries(health: Health, served: LocalReference, sold: LocalReference, how: str) -> Canaries:
    async def ask(_: Candidate, prompt: str, max_tokens: int) -> Sequence[StreamToken]:
        return served.record(prompt, max_tokens).tokens

    probes = [sold.record(each, TOKENS) if how == "known" else Forced(sold, each, TOKENS) for each in PROMPTS]
    return Canaries(health, ask, lambda sha256: probes if sha256 == "ab" * 32 else [])


@pytest.mark.parametrize("how", ["known", "forced"])
async def test_honest__the_same_model_and_full_trust(models: tuple[LocalReference, LocalReference], how: str) -> None:
    health = Health(now=Clock())
    assert await canaries(health, models[0], models[0], how).probe(candidate(1)) is Verdict.SAME
    assert health.of("provider/1/small").trust(health.now()) == 1.0


@pytest.mark.parametrize("how", ["known", "forced"])
async def test_swapped__caught_and_not_used_any_more(models: tuple[LocalReference, LocalReference], how: str) -> None:
    health = Health(now=Clock())
    assert await canaries(health, models[1], models[0], how).probe(candidate(1)) is Verdict.SWAPPED
    assert health.of("provider/1/small").expected(health.now()).trust < LEAST_TRUST


async def test_right_tokens_with_made_up_probabilities__caught(models: tuple[LocalReference, LocalReference]) -> None:
    known = models[0].record(PROMPTS[0], TOKENS)
    made_up = [StreamToken(token.token_id, token.logprob - 2_000) for token in known.tokens]
    for probe in (known, Forced(models[0], PROMPTS[0], TOKENS)):
        assert judge(await probe.compare(made_up)) is Verdict.SWAPPED


@pytest.mark.parametrize("tokens", [[], [StreamToken(-1, 0)], [StreamToken(2**31, 0)], [StreamToken(10**9, 0)] * 5_000])
async def test_nonsense__is_a_difference_not_a_crash(
    models: tuple[LocalReference, LocalReference], tokens: list[StreamToken]
) -> None:
    for probe in (models[0].record("abc", TOKENS), Forced(models[0], "abc", TOKENS)):
        assert await probe.compare(tokens) == [Compared(agrees=False)]


async def test_model_that_nobody_knows__undecided() -> None:
    health = Health(now=Clock())

    async def ask(*_: object) -> Sequence[StreamToken]:
        raise AssertionError("nothing to ask")

    assert await Canaries(health, ask, lambda _: []).probe(candidate(1)) is Verdict.UNDECIDED
    assert health.shown() == {}


def test_noise_of_honest_machines__acquitted() -> None:
    """97 % the same, differences of 0.04 on average and 0.5 at most: over many draws never convicted."""
    drawn = random.Random(1)
    for _ in range(500):
        compared = [
            Compared(drawn.random() < 0.97, min(500, round(drawn.expovariate(1 / 40))))
            for _ in range(len(PROMPTS) * 24)
        ]
        assert judge(compared) is Verdict.SAME


async def test_known_answer__compared_up_to_the_first_difference() -> None:
    known = Known("p", tuple(StreamToken(at, -100) for at in range(5)))
    assert await known.compare(
        [StreamToken(0, -100), StreamToken(1, -130), StreamToken(9, -1), StreamToken(3, -1)]
    ) == [
        Compared(agrees=True, difference=0),
        Compared(agrees=True, difference=30),
        Compared(agrees=False),
    ]
    assert (await known.compare(known.tokens[:4]))[-1] == Compared(agrees=False)
