"""An answer in one piece: all of it is counted and held against its receipt, before that is paid."""

import json
import struct
from base64 import b64decode
from itertools import islice
from typing import Any

import httpx

from consumer.answer_stream import AnswerStream, number_of, take
from consumer.exceptions import ProviderFailed
from consumer.repeating import CHAT
from protocol.exceptions import InvalidField, InvalidHeader
from protocol.headers import Signed, parse_response_headers
from protocol.merkle import quantise_component
from protocol.stream import StreamToken
from protocol.typed_data import Receipt


def count_whole(stream: AnswerStream, vectors: int, headers: httpx.Headers, content: bytes) -> Signed[Receipt]:
    """Counts a whole answer, or an embedding of so many `vectors`; returns its final receipt, which is not checked yet.

    Raises ReceiptRejected, ProviderFailed.
    """
    answer = stream.answer
    answer.is_whole = True
    try:
        found = json.loads(content)
        signed = parse_response_headers(headers.items()).receipt
        if vectors:
            answer.embed([_millionths(item["embedding"]) for item in found["data"]], vectors)
        else:
            _count_choices(stream, found["choices"], found["clawmarket"])
    except (InvalidHeader, InvalidField, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise ProviderFailed("the provider sent a malformed answer") from error
    if signed is None or not signed.message.final:
        raise ProviderFailed("the answer came without its final receipt")
    return signed


def _count_choices(stream: AnswerStream, choices: list[Any], ours: dict[str, Any]) -> None:
    """Choice by choice. Raises ReceiptRejected, and ValueError and its like."""
    answer, is_chat, elapsed_ms = stream.answer, stream.path == CHAT, stream.elapsed_ms()
    tokens = iter(ours["tokens"])
    for choice, count in zip(choices, ours["counts"], strict=True):
        for token, logprob in islice(tokens, count):
            answer.add(StreamToken(token, logprob), elapsed_ms)
        number = number_of(choice)
        take(answer, number, choice["message"] if is_chat else choice, "content" if is_chat else "text")
        answer.close(number)
    for token, logprob in tokens:
        answer.add(StreamToken(token, logprob), elapsed_ms)


def _millionths(embedding: Any) -> list[int]:
    if isinstance(embedding, str):
        raw = b64decode(embedding)
        embedding = struct.unpack(f"<{len(raw) // 4}f", raw)
    return [quantise_component(float(component)) for component in embedding]
