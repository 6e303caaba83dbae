"""Model files of strangers: refused with the reason before native code sees them, whatever their bytes."""

import os
import random
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import llama_cpp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provider.engine.bare import BareHost
from provider.engine.client import EngineClient, EngineSettings
from provider.engine.errors import EngineStartError
from provider.engine.gguf_check import MAX_KEYS, MAX_TENSORS, MAX_VOCABULARY, check_model
from provider.engine.gguf_reader import BadModelError
from provider.engine.gguf_types import BLOCKS
from scripts.default_model import default_model
from tests.support.engine_slots import hold_engine_slots
from tests.support.engines import tiny_model
from tests.support.generating import run

SOAK_FILES = 100_000
MEMORY = 16 << 20
WHOLE = tiny_model().read_bytes()
_TENSOR = b"token_embd.weight"
_HEADER = WHOLE.rfind(b"blk.", 0, 60_000) + 256
Damage = Callable[[bytearray], object]


def value(key: str) -> int:
    """Where the value of a key begins, at its type."""
    return WHOLE.index(key.encode()) + len(key)


def number(at: int, code: str, *content: float) -> Damage:
    return lambda data: struct.pack_into("<" + code, data, at, *content)


def scalar(key: str, content: int) -> Damage:
    return number(value(key) + 4, "I", content)


def tensor(field: int, content: int) -> Damage:
    """Changes one of the numbers of a tensor with two dimensions: its lengths (1, 2), its offset (4)."""
    return number(WHOLE.index(_TENSOR) + len(_TENSOR) + (0, 4, 12, 20, 24)[field], "IQQIQ"[field], content)


_TOKENS = value("tokenizer.ggml.tokens")
DAMAGES: dict[str, tuple[Damage, str]] = {
    "cut off": (lambda data: data.__delitem__(slice(len(data) - 64, None)), "it was cut off"),
    "cut in its header": (lambda data: data.__delitem__(slice(500, None)), "the file ends inside"),
    "longer": (lambda data: data.extend(bytes(64)), "after its last tensor belong to nothing"),
    "another version": (number(4, "I", 9), "version 9"),
    "tensors without end": (number(8, "Q", 2**64 - 1), f"not 1 to {MAX_TENSORS:,}"),
    "keys without end": (number(16, "Q", 2**63), f"not 0 to {MAX_KEYS:,}"),
    "a name without end": (number(24, "Q", 2**62), "the name of key 0 has"),
    "a text without end": (number(value("general.name") + 4, "Q", 2**40), "general.name has"),
    "a list of lists": (number(_TOKENS + 4, "I", 9), "lists hold texts or numbers only"),
    "tokens without end": (number(_TOKENS + 8, "Q", 2**50), f"not 1 to {MAX_VOCABULARY:,}"),
    "scores without end": (number(value("tokenizer.ggml.scores") + 8, "Q", 2**61), "ends inside"),
    "a score that is none": (number(value("tokenizer.ggml.scores") + 16, "f", float("nan")), "no number"),
    "a token twice": (lambda data: data.replace(b"<0x41>", b"<0x42>"), "the text of another one"),
    "a byte without token": (lambda data: data.replace(b"<0x41>", b"<0xzz>"), "for the byte 65"),
    "a token that is not there": (scalar("tokenizer.ggml.bos_token_id", 70_000), "bos_token_id is 70000"),
    "no layers": (scalar("llama.block_count", 0), "block_count is 0"),
    "more layers than llama.cpp knows": (scalar("llama.block_count", 513), "block_count is 513"),
    "heads without end": (scalar("llama.attention.head_count", 2**31), "head_count is"),
    "an unknown value type": (number(value("llama.block_count"), "I", 77), "unknown type 77"),
    "too many dimensions": (tensor(0, 5), "5 dimensions"),
    "an empty tensor": (tensor(1, 0), "no numbers"),
    "a length that overflows": (tensor(2, 2**62), "too many numbers"),
    "an unknown tensor type": (tensor(3, 5), "unknown type 5"),
    "out of line": (tensor(4, 7), "no multiple of 32"),
    "outside": (tensor(4, 2**63), "belong to nothing"),
}


def damaged(name: str, path: Path) -> Path:
    data = bytearray(WHOLE)
    changed = DAMAGES[name][0](data)
    path.write_bytes(changed if isinstance(changed, bytearray) else data)
    return path


@pytest.mark.parametrize("name", DAMAGES)
def test_what_is_wrong_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(BadModelError) as failure:
        check_model(damaged(name, tmp_path / "damaged.gguf"))
    assert DAMAGES[name][1] in str(failure.value)


def test_whole_models_pass() -> None:
    check_model(tiny_model())
    check_model(default_model())


def test_blocks_are_those_of_llama_cpp() -> None:
    assert {kind: (llama_cpp.llama_cpp._lib.ggml_blck_size(kind), ggml_type_size(kind)) for kind in BLOCKS} == BLOCKS


def ggml_type_size(kind: int) -> int:
    import ctypes

    size = llama_cpp.llama_cpp._lib.ggml_type_size
    size.restype = ctypes.c_size_t
    return int(size(kind))


def mutated(chance: random.Random) -> bytes:
    """The model's file with some of its header changed."""
    data = bytearray(WHOLE)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(_HEADER)
        match chance.randrange(6):
            case 0:
                data[at] ^= 1 << chance.randrange(8)
            case 1:
                struct.pack_into("<I", data, at, chance.choice((0, 1, 8, 9, 255, 2**31, 2**32 - 1)))
            case 2:
                struct.pack_into("<Q", data, at, chance.choice((0, 1, 2**20, 2**40, 2**63, 2**64 - 1)))
            case 3:
                source = chance.randrange(_HEADER)
                data[at : at + 32] = data[source : source + 32]
            case 4:
                del data[at : at + chance.randint(1, 64)]
            case _:
                data[at:at] = data[at : at + chance.randint(1, 64)]
    return bytes(data)


def check(data: bytes, path: Path) -> bool:
    """Whether the file passes; any other error than its own fails the test."""
    path.write_bytes(data)
    try:
        check_model(path)
    except BadModelError:
        return False
    return True


@pytest.fixture(scope="module")
def scratch() -> Path:
    return tiny_model().with_name("fuzzed.gguf")


@settings(max_examples=300)
@given(st.integers(0, 2**64 - 1))
def test_mutations_are_read_or_refused(scratch: Path, seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(3):
        check(mutated(chance), scratch)


@given(st.binary(max_size=300))
def test_random_bytes_are_refused(scratch: Path, data: bytes) -> None:
    assert not check(b"GGUF\x03\x00\x00\x00" + data, scratch)


@pytest.mark.soak
@pytest.mark.timeout(3_600)
def test_many_mutations(scratch: Path) -> None:
    chance = random.Random(20_261_126)
    for _ in range(SOAK_FILES):
        check(mutated(chance), scratch)


def test_memory_does_not_follow_what_a_file_announces(tmp_path: Path) -> None:
    """A sparse file of a gigabyte whose header is one list of empty texts."""
    path = tmp_path / "bomb.gguf"
    key = b"tokenizer.ggml.merges"
    head = b"GGUF" + struct.pack("<IQQQ", 3, 1, 1, len(key)) + key + struct.pack("<IIQ", 9, 8, 2**27)
    with path.open("wb") as file:
        file.write(head)
        file.truncate(1 << 30)
    tracemalloc.start()
    try:
        with pytest.raises(BadModelError, match="all lists together"):
            check_model(path)
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()


_LOAD = """
import sys, llama_cpp
model = llama_cpp.llama_model_load_from_file(sys.argv[1].encode(), llama_cpp.llama_model_default_params())
if not model:
    sys.exit(4)
tokens = (llama_cpp.llama_token * 16)()
llama_cpp.llama_tokenize(llama_cpp.llama_model_get_vocab(model), b"A", 1, tokens, 16, True, True)
"""


def load_unchecked(path: Path) -> int:
    """How a process ends that loads the file without the check and tokenizes; negative for a signal."""
    environment = {**os.environ, "GGML_NO_BACKTRACE": "1"}
    line = [sys.executable, "-c", _LOAD, str(path)]
    return subprocess.run(line, env=environment, capture_output=True, check=False, timeout=120).returncode


@pytest.mark.parametrize("name", ["a token twice", "a byte without token", "more layers than llama.cpp knows"])
def test_a_file_that_ends_the_loader_by_a_signal_is_refused_in_words(name: str, tmp_path: Path) -> None:
    path = damaged(name, tmp_path / "damaged.gguf")
    assert load_unchecked(path) < 0
    with pytest.raises(BadModelError):
        check_model(path)


@pytest.mark.parametrize("name", ["longer"])
def test_a_file_that_the_loader_takes_though_it_is_damaged_is_refused(name: str, tmp_path: Path) -> None:
    path = damaged(name, tmp_path / "damaged.gguf")
    assert load_unchecked(path) == 0
    with pytest.raises(BadModelError):
        check_model(path)


async def test_an_engine_refuses_it_before_loading(tmp_path: Path) -> None:
    client = EngineClient(EngineSettings(damaged("a token twice", tmp_path / "twice.gguf")), BareHost())
    with hold_engine_slots(1), pytest.raises(EngineStartError, match="the text of another one") as failure:
        await client.start()
    assert failure.value.code == "model_damaged"
    await client.stop()


@pytest.mark.slow
async def test_files_that_pass_are_loaded_or_refused_in_words(tmp_path: Path) -> None:
    """A sample of mutations; a process that ends by a signal would be the code `exited`."""
    chance, found = random.Random(5), 0
    with hold_engine_slots(1):
        while found < 12:
            path = tmp_path / f"{found}.gguf"
            if not check(mutated(chance), path):
                continue
            found += 1
            assert await outcome(path) in ("answers", "model_damaged")


async def outcome(path: Path) -> str:
    """What becomes of an engine with this file."""
    client = EngineClient(EngineSettings(path), BareHost())
    try:
        await client.start()
        await run(client, "hello", 4)
    except EngineStartError as error:
        return error.code
    finally:
        await client.stop()
    return "answers"
