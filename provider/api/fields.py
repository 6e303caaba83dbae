"""The parts that several routes' bodies have in common, and how a body is read.

Types are strict: `"5"` is no number. null stands for a field that is left out. Unknown fields are ignored, as
OpenAI-compatible servers do.
"""

import json
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from provider.backend import JsonOutput
from provider.exceptions import Refusal
from provider.work import SEEDS

MAX_STOPS = 4
MAX_STOP_LENGTH = 64
MAX_CHOICES = 8
MAX_SCHEMA_CHARS = 16 * 1024
MAX_SCHEMA_DEPTH = 32

_BRANCHES = frozenset({"str", "int"})
_FAULTS_LOOKED_AT = 50

Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_LENGTH)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
BodyT = TypeVar("BodyT", bound=BaseModel)


class Fields(BaseModel):
    """Base of everything that comes in a body."""

    model_config = ConfigDict(extra="ignore", strict=True)


class StreamOptions(Fields):
    """What a stream carries besides its deltas."""

    include_usage: bool | None = None


class Sampling(Fields):
    """What `/v1/chat/completions` and `/v1/completions` share."""

    model: str = Field(max_length=200)
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: Finite | None = Field(default=None, ge=0, le=2)
    top_p: Finite | None = Field(default=None, gt=0, le=1)
    frequency_penalty: Finite | None = Field(default=None, ge=-2, le=2)
    presence_penalty: Finite | None = Field(default=None, ge=-2, le=2)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS)] | None = None
    n: int | None = Field(default=None, ge=1, le=MAX_CHOICES)
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with its usage."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    def sampling(self) -> dict[str, Any]:
        """The parameters as a `GenerationRequest` takes them."""
        stops = () if self.stop is None else (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        return {
            "temperature": 1.0 if self.temperature is None else self.temperature,
            "top_p": 1.0 if self.top_p is None else self.top_p,
            "seed": None if self.seed is None else self.seed % SEEDS,
            "stop": stops,
            "frequency_penalty": self.frequency_penalty or 0.0,
            "presence_penalty": self.presence_penalty or 0.0,
        }


class JsonSchema(Fields):
    """The schema of `response_format`."""

    json_schema: dict[str, Any] | None = Field(default=None, alias="schema")


class ResponseFormat(Fields):
    """What the answer must be."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    def output(self) -> JsonOutput | None:
        """The forced output. Raises Refusal."""
        if self.type == "text":
            return None
        if self.type == "json_object":
            return JsonOutput({})
        place = "response_format.json_schema.schema"
        if self.json_schema is None or self.json_schema.json_schema is None:
            raise wrong(place, "is missing")
        check_schema(self.json_schema.json_schema, place)
        return JsonOutput(self.json_schema.json_schema)


def parse(kind: type[BodyT], body: bytes) -> BodyT:
    """A route's request in a body. Raises Refusal 400 naming the first field that is wrong."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False, include_context=False)[:_FAULTS_LOOKED_AT]
        deepest = max(faults, key=lambda fault: len(fault["loc"]))  # of a union's branches, the one that was meant
        place = _place(deepest["loc"])
        message = f"{place or 'body'}: {deepest['msg']}"
        raise Refusal("invalid_request", message, status=400, param=place or None) from error


def wrong(param: str, words: str) -> Refusal:
    """A field whose value is not served."""
    return Refusal("invalid_request", f"{param}: {words}", status=400, param=param)


def check_schema(schema: dict[str, Any], place: str) -> str:
    """The schema's text. Raises Refusal for one that is too long or nested too deeply; the engine judges the rest."""
    try:
        text = json.dumps(schema, allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise wrong(place, "is no JSON") from error
    if len(text) > MAX_SCHEMA_CHARS:
        raise wrong(place, f"has more than {MAX_SCHEMA_CHARS} characters")
    level: list[Any] = [schema]
    for _ in range(MAX_SCHEMA_DEPTH):
        level = [item for value in level if isinstance(value, dict | list) for item in _items(value)]
        if not level:
            return text
    raise wrong(place, f"is nested deeper than {MAX_SCHEMA_DEPTH} levels")


def _items(value: dict[str, Any] | list[Any]) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value


def _place(steps: tuple[int | str, ...]) -> str:
    """A field's place in the body, without pydantic's names for the branches of a union."""
    kept = [str(step) for step in steps if isinstance(step, int) or (step.isidentifier() and step not in _BRANCHES)]
    return ".".join(kept)[:200]
