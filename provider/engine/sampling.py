"""Choosing the next token: llama.cpp's samplers, under a grammar where the request has one.

With a grammar the token is first chosen freely and only looked up in the grammar, as llama.cpp's own programs do;
what the grammar refuses is chosen again among the tokens it allows. llama.cpp ends the process when a grammar accepts a
token it does not allow, so no token gets there unchecked.
"""

import codecs
import ctypes
import math
import time
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt

from provider.engine.errors import GenerationError
from provider.engine.llama import Model
from provider.engine.patience import Patience
from provider.engine.request import Request

Logits = npt.NDArray[np.float32]
_CANDIDATE = np.dtype([("id", "<i4"), ("logit", "<f4"), ("p", "<f4")])  # llama_token_data
_MAX_TRIES = 256


class Sampler:
    """One request's samplers: penalties, then greedy at temperature 0, else nucleus, temperature and a seeded draw."""

    def __init__(self, model: Model, request: Request, context: int) -> None:
        """`context` in tokens: how far back penalties look. Raises GenerationError `bad_schema`."""
        self._grammar = _Grammar(model, request.grammar) if request.grammar is not None else None
        self._patience = Patience()
        self._chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
        if request.frequency_penalty or request.presence_penalty:
            self._add(
                llama_cpp.llama_sampler_init_penalties(
                    model.vocabulary_size, context, 1.0, request.frequency_penalty, request.presence_penalty
                )
            )
        if request.temperature <= 0:
            self._add(llama_cpp.llama_sampler_init_greedy())
            return
        if request.top_p < 1:
            self._add(llama_cpp.llama_sampler_init_top_p(request.top_p, 1))
        self._add(llama_cpp.llama_sampler_init_temp(request.temperature))
        self._add(llama_cpp.llama_sampler_init_dist(request.seed & 0xFFFF_FFFF))

    def choose(self, context: Any, index: int, logits: Logits) -> int:
        """The token after batch row `index`. Raises GenerationError `engine_failed` where the grammar is at a loss,
        `bad_schema` where it takes too long.
        """
        if self._grammar is None:
            return int(llama_cpp.llama_sampler_sample(self._chain, context, index))
        started = time.thread_time()
        token = self._select(_candidates(logits))
        if not self._grammar.allows(token):
            token = self._choose_allowed(self._grammar, logits)
        llama_cpp.llama_sampler_accept(self._chain, token)
        self._grammar.accept(token)
        self._patience.spend(time.thread_time() - started)
        return token

    def close(self) -> None:
        """Frees the samplers."""
        if self._chain:
            llama_cpp.llama_sampler_free(self._chain)
            self._chain = None
        if self._grammar:
            self._grammar.close()
            self._grammar = None

    def _choose_allowed(self, grammar: "_Grammar", logits: Logits) -> int:
        allowed = grammar.filter(_candidates(logits))
        for _ in range(min(_MAX_TRIES, len(allowed))):
            token = self._select(allowed.copy())
            if grammar.allows(token):
                return token
            allowed = allowed[allowed["id"] != token]
        raise GenerationError("engine_failed", "the model has no token that goes on with this JSON")

    def _select(self, candidates: npt.NDArray[np.void]) -> int:
        array = _array(candidates)
        llama_cpp.llama_sampler_apply(self._chain, ctypes.byref(array))
        return int(array.data[array.selected].id)

    def _add(self, sampler: Any) -> None:
        llama_cpp.llama_sampler_chain_add(self._chain, sampler)


class _Grammar:
    """A grammar and where it stands. Control tokens, whose text llama.cpp would take for text, are never allowed."""

    def __init__(self, model: Model, text: str) -> None:
        self._model = model
        self._sampler = llama_cpp.llama_sampler_init_grammar(model.vocabulary, text.encode(), b"root")
        if not self._sampler:
            raise GenerationError("bad_schema", "the JSON schema cannot be kept: llama.cpp refuses its grammar")
        self._decoder = codecs.getincrementaldecoder("utf-8")("strict")

    def allows(self, token: int) -> bool:
        """Whether the answer may go on with this token, or end with it."""
        ends = self._model.ends_generation(token)
        if not ends and not self._continues_text(token):
            return False
        single = np.array([(token, 1.0, 0.0)], _CANDIDATE)
        self._apply(single)
        return bool(single["logit"][0] > -math.inf)

    def filter(self, candidates: npt.NDArray[np.void]) -> npt.NDArray[np.void]:
        """The candidates the grammar allows, but for their bytes making characters with what came before."""
        candidates["logit"][self._model.silent_tokens] = -math.inf
        self._apply(candidates)
        return candidates[candidates["logit"] > -math.inf]

    def accept(self, token: int) -> None:
        """Goes on with a token that `allows` has allowed."""
        if self._model.ends_generation(token):
            return
        self._decoder.decode(self._model.piece(token))
        llama_cpp.llama_sampler_accept(self._sampler, token)

    def close(self) -> None:
        """Frees the grammar."""
        llama_cpp.llama_sampler_free(self._sampler)

    def _continues_text(self, token: int) -> bool:
        piece = self._model.piece(token)
        if not piece:
            return False
        state = self._decoder.getstate()
        try:
            self._decoder.decode(piece)
            unfinished = self._decoder.getstate()[0]
        except UnicodeDecodeError:
            return False
        finally:
            self._decoder.setstate(state)
        return not (unfinished.startswith(b"\xed") and unfinished[1:] >= b"\xa0")  # Python waits for half characters

    def _apply(self, candidates: npt.NDArray[np.void]) -> None:
        llama_cpp.llama_sampler_apply(self._sampler, ctypes.byref(_array(candidates)))


def log_sum(logits: Logits) -> float:
    """What to take from a token's logit to get its log-probability in nats."""
    highest = logits.max()
    return float(highest) + math.log(np.exp(logits - highest).sum(dtype=np.float64))


def likeliest(logits: Logits, count: int) -> list[int]:
    """The `count` likeliest tokens, likeliest first."""
    count = min(count, len(logits))
    if count == 0:
        return []
    top = np.argpartition(logits, -count)[-count:]
    return [int(token) for token in top[np.argsort(-logits[top], kind="stable")]]


def _candidates(logits: Logits) -> npt.NDArray[np.void]:
    candidates = np.zeros(len(logits), _CANDIDATE)
    candidates["id"] = np.arange(len(logits), dtype=np.int32)
    candidates["logit"] = logits
    return candidates


def _array(candidates: npt.NDArray[np.void]) -> llama_cpp.llama_token_data_array:
    """llama.cpp's view of the candidates; valid while they are."""
    data = candidates.ctypes.data_as(llama_cpp.llama_token_data_p)
    return llama_cpp.llama_token_data_array(data=data, size=len(candidates), selected=-1, sorted=False)
