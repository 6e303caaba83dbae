"""`POST /v1/embeddings`: what a request may say, and the JSON that answers it.

Components are sent as the millionths that the receipt's root commits to: decimal as they are, base64 as the nearest
32-bit floats, from which rounding gives the same millionths back.
"""

import base64
import struct
from typing import Annotated, Any, Literal

from pydantic import Field

from provider.api.completions import Text, TokenIds
from provider.api.fields import Fields, parse
from provider.backend import Prompt
from provider.work import Embed

MAX_INPUTS = 64
MILLION = 1_000_000


class EmbeddingRequest(Fields):
    """The body."""

    model: str = Field(max_length=200)
    input: (
        Text
        | TokenIds
        | Annotated[list[Text], Field(min_length=1, max_length=MAX_INPUTS)]
        | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_INPUTS)]
    )
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(default=None, ge=1)

    def work(self) -> Embed:
        """What the service is to do."""
        given: Any = self.input
        inputs = given if isinstance(given, list) and not isinstance(given[0], int) else [given]
        prompts = tuple(Prompt(text=one) if isinstance(one, str) else Prompt(tokens=one) for one in inputs)
        texts = tuple(prompt.text for prompt in prompts if prompt.text is not None)
        return Embed(self.model, prompts, texts, self.dimensions)

    def answer(self, vectors: list[list[int]], prompt_tokens: int) -> dict[str, Any]:
        """The answer; `vectors` in millionths."""
        encode = _base64 if self.encoding_format == "base64" else _floats
        return {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": encode(vector)}
                for index, vector in enumerate(vectors)
            ],
            "model": self.model,
            "usage": {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens},
        }


def parse_embedding(body: bytes) -> EmbeddingRequest:
    """The request in a body. Raises Refusal 400 naming a field that is wrong."""
    return parse(EmbeddingRequest, body)


def _floats(vector: list[int]) -> list[float]:
    return [component / MILLION for component in vector]


def _base64(vector: list[int]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *_floats(vector))).decode()
