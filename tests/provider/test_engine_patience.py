"""A grammar that takes long for every token ends its own request, and no other."""

import numpy as np
import pytest

from provider.backend import JsonOutput
from provider.engine import patience
from provider.engine.errors import GenerationError
from provider.engine.grammar import gbnf
from provider.engine.llama import Model
from provider.engine.patience import AHEAD_S, PER_TOKEN_S, Patience
from provider.engine.request import Request
from provider.engine.sampling import Sampler
from tests.support.engines import tiny_model


def test_a_usual_grammar_goes_on_for_ever() -> None:
    account = Patience()
    for _ in range(1_000):
        account.spend(PER_TOKEN_S)
    account.spend(AHEAD_S)


def test_one_expensive_token_is_forgiven_and_a_row_of_them_is_not() -> None:
    account = Patience()
    account.spend(AHEAD_S)
    for _ in range(int(AHEAD_S / PER_TOKEN_S)):
        account.spend(0)
    account.spend(AHEAD_S)
    with pytest.raises(GenerationError) as failure:
        account.spend(2 * PER_TOKEN_S)
    assert failure.value.code == "bad_schema"


def test_what_was_not_spent_is_not_saved_up() -> None:
    account = Patience()
    for _ in range(1_000):
        account.spend(0)
    with pytest.raises(GenerationError):
        account.spend(AHEAD_S + 2 * PER_TOKEN_S)


@pytest.mark.parametrize("is_impatient", [False, True])
def test_a_sampler_with_a_grammar_keeps_the_account(monkeypatch: pytest.MonkeyPatch, is_impatient: bool) -> None:
    """Without any patience left the first token is one too many."""
    if is_impatient:
        monkeypatch.setattr(patience, "AHEAD_S", 0.0)
        monkeypatch.setattr(patience, "PER_TOKEN_S", 0.0)
    model = Model(tiny_model(), vocabulary_only=True)
    request = Request(1, [1], 5, 0.0, 1.0, 0, [], "", grammar=gbnf(JsonOutput({"enum": ["a"]})))
    sampler = Sampler(model, request, 64)
    logits = np.zeros(model.vocabulary_size, np.float32)
    if is_impatient:
        with pytest.raises(GenerationError, match="takes too long"):
            sampler.choose(None, 0, logits)
    else:
        assert model.piece(sampler.choose(None, 0, logits)) == b'"'
    sampler.close()
