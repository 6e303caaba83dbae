"""`POST /v1/completions`: what a request may say, and the JSON that answers it."""

from typing import Annotated, Any

from pydantic import Field

from provider.api.choices import Choice, Totals
from provider.api.fields import Sampling, parse, wrong
from provider.api.logprobs import CompletionLogprobs
from provider.backend import GenerationRequest, Prompt
from provider.events import Piece
from provider.work import Generate

MAX_LOGPROBS = 5
MAX_PROMPT_TOKENS = 262_144

TokenId = Annotated[int, Field(ge=0, lt=2**31)]
TokenIds = Annotated[list[TokenId], Field(min_length=1, max_length=MAX_PROMPT_TOKENS)]
Text = Annotated[str, Field(min_length=1)]


class CompletionRequest(Sampling):
    """The body."""

    prompt: (
        Text | TokenIds | Annotated[list[Text], Field(max_length=64)] | Annotated[list[TokenIds], Field(max_length=64)]
    )
    logprobs: int | None = Field(default=None, ge=0, le=MAX_LOGPROBS)
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = Field(default=None, ge=1)

    def work(self) -> Generate:
        """What the service is to do. Raises Refusal."""
        if self.echo:
            raise wrong("echo", "is not served: put the prompt before the answer yourself")
        if self.suffix:
            raise wrong("suffix", "is not served: put what follows into the prompt")
        if self.best_of is not None and self.best_of > 1:
            raise wrong("best_of", "is not served beyond 1: ask for several answers with `n`")
        prompt = self._prompt()
        request = GenerationRequest(prompt=prompt, max_tokens=0, logprobs=self.logprobs, **self.sampling())
        texts = (prompt.text,) if prompt.text is not None else ()
        return Generate(self.model, request, texts, self.max_tokens, self.n or 1)

    def shape(self, answer_id: str, created: int) -> "CompletionShape":
        """What its answer looks like."""
        return CompletionShape(answer_id, created, self.model, has_logprobs=self.logprobs is not None)

    def _prompt(self) -> Prompt:
        prompt = self.prompt
        if isinstance(prompt, list) and not isinstance(prompt[0] if prompt else "", int):
            if len(prompt) != 1:
                raise wrong("prompt", f"holds {len(prompt)} prompts: send one in each request")
            prompt = prompt[0]  # type: ignore[assignment]
        return Prompt(text=prompt) if isinstance(prompt, str) else Prompt(tokens=prompt)  # type: ignore[arg-type]


def parse_completion(body: bytes) -> CompletionRequest:
    """The request in a body. Raises Refusal 400 naming a field that is wrong."""
    return parse(CompletionRequest, body)


class CompletionShape:
    """Builds the objects of one answer, which share id, time and model name; a stream's are like the whole."""

    def __init__(self, answer_id: str, created: int, model: str, *, has_logprobs: bool) -> None:
        common = {"id": f"cmpl-{answer_id}", "created": created, "model": model}
        self._common = {**common, "object": "text_completion"}
        self._has_logprobs = has_logprobs

    def choice(self, index: int) -> "CompletionChoice":
        """A choice that begins."""
        return CompletionChoice(index, CompletionLogprobs() if self._has_logprobs else None)

    def chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        """One object of a stream."""
        return {**self._common, "choices": choices}

    def whole(self, choices: list[dict[str, Any]], totals: Totals) -> dict[str, Any]:
        """The whole answer at once."""
        return {**self._common, "choices": choices, "usage": totals.usage()}


class CompletionChoice(Choice):
    """One choice, piece by piece."""

    def __init__(self, index: int, logprobs: CompletionLogprobs | None) -> None:
        self._index = index
        self._logprobs = logprobs
        self._text: list[str] = []

    def opening(self) -> list[dict[str, Any]]:
        """Completions begin with their first token."""
        return []

    def take(self, piece: Piece) -> list[dict[str, Any]]:
        """The text of one token."""
        self._text.append(piece.text)
        logprobs = self._logprobs.add(piece) if self._logprobs else None
        return [self._entry(piece.text, logprobs)] if piece.text or logprobs else []

    def close(self, finish_reason: str, text: str) -> list[dict[str, Any]]:
        """The text that was held back, and why it ended."""
        self._text.append(text)
        self.finish_reason = finish_reason
        return [self._entry(text, None, finish_reason)]

    def whole(self) -> dict[str, Any]:
        """The choice as it stands."""
        logprobs = self._logprobs.whole() if self._logprobs else None
        return self._entry("".join(self._text), logprobs, self.finish_reason)

    def _entry(self, text: str, logprobs: dict[str, Any] | None, finish_reason: str | None = None) -> dict[str, Any]:
        return {"index": self._index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}
