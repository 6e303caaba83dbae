"""Damaged model files, made by a seeded fuzzer, read by the engine's native code.

Whatever such a file does to the engine is taken as a full success: after each, the process that read it acts as if the
file had taken it over, and overwrites a file of the model mount. What stands in the way is the container alone.
"""

import os
import random
import struct
import time
from collections.abc import Callable
from pathlib import Path

from tests.sandbox.escape.attempt import CHANGED, Host, attempt

_FILES = 5
_LOAD_S = 10
_CONTROL = "a writable mount"
_Damage = Callable[[bytearray, random.Random], None]


def _load(path: str) -> None:
    """As the engine does, by llama.cpp itself."""
    import llama_cpp

    settings = llama_cpp.llama_model_default_params()
    settings.vocab_only = False
    settings.use_mmap = True
    model = llama_cpp.llama_model_load_from_file(path.encode(), settings)
    if model:
        llama_cpp.llama_model_free(model)


def _fuzz(host: Host, damage: _Damage) -> str:
    whole = Path("/models/tiny.gguf").read_bytes()
    for seed in range(_FILES):
        dice = random.Random(f"{host['name']} {seed}")
        data = bytearray(whole)
        damage(data, dice)
        Path("/tmp/damaged.gguf").write_bytes(data)
        child = os.fork()
        if child == 0:
            os.dup2(os.open("/dev/null", os.O_WRONLY), 2)
            _load("/tmp/damaged.gguf")
            os._exit(0)
        end = time.monotonic() + _LOAD_S
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            if time.monotonic() > end:
                os.kill(child, 9)
                os.waitpid(child, 0)
                raise TimeoutError(110, "the engine hung")
            time.sleep(0.005)
    handle = os.open(host["file"], os.O_WRONLY)  # as if taken over
    os.write(handle, b"taken over")
    return ""


def _number(data: bytearray, at: int, value: int) -> None:
    struct.pack_into("<Q", data, at, value & 0xFFFFFFFFFFFFFFFF)


@attempt("cuts the file off", CHANGED, _CONTROL)
def cut_off(host: Host) -> str:
    return _fuzz(host, lambda data, dice: data.__delitem__(slice(dice.randrange(len(data)), None)))


@attempt("announces tensors without end", CHANGED, _CONTROL)
def many_tensors(host: Host) -> str:
    return _fuzz(host, lambda data, dice: _number(data, 8, dice.choice([1 << 20, 1 << 31, 1 << 62, (1 << 64) - 1])))


@attempt("announces keys without end", CHANGED, _CONTROL)
def many_keys(host: Host) -> str:
    return _fuzz(host, lambda data, dice: _number(data, 16, dice.choice([1 << 16, 1 << 31, 1 << 62, (1 << 64) - 1])))


@attempt("announces a key's name without end", CHANGED, _CONTROL)
def long_name(host: Host) -> str:
    return _fuzz(host, lambda data, dice: _number(data, 24, dice.choice([1 << 24, 1 << 40, 1 << 63, (1 << 64) - 1])))


def _flip(data: bytearray, dice: random.Random, start: int, end: int, many: int) -> None:
    for _ in range(many):
        data[dice.randrange(start, end)] ^= 1 << dice.randrange(8)


@attempt("flips bits in the header", CHANGED, _CONTROL)
def flipped_header(host: Host) -> str:
    return _fuzz(host, lambda data, dice: _flip(data, dice, 4, 1024, 8))


@attempt("flips bits everywhere", CHANGED, _CONTROL)
def flipped_bits(host: Host) -> str:
    return _fuzz(host, lambda data, dice: _flip(data, dice, 4, len(data), 4000))


@attempt("turns the tensors' sizes and places into others", CHANGED, _CONTROL)
def other_places(host: Host) -> str:
    def damage(data: bytearray, dice: random.Random) -> None:
        at = data.find(b"token_embd.weight") + len(b"token_embd.weight")
        for _ in range(3):
            _number(data, at + 4 + 8 * dice.randrange(60), dice.getrandbits(64))

    return _fuzz(host, damage)


@attempt("gives tokens numbers that do not exist", CHANGED, _CONTROL)
def other_tokens(host: Host) -> str:
    def damage(data: bytearray, dice: random.Random) -> None:
        for name in (b"tokenizer.ggml.bos_token_id", b"tokenizer.ggml.eos_token_id"):
            struct.pack_into("<I", data, data.find(name) + len(name) + 4, dice.getrandbits(32))

    return _fuzz(host, damage)


@attempt("puts parts of the file into other places", CHANGED, _CONTROL)
def shuffled(host: Host) -> str:
    def damage(data: bytearray, dice: random.Random) -> None:
        size, end = 64, min(len(data), 16_384)
        for _ in range(8):
            source, target = dice.randrange(24, end - size), dice.randrange(24, end - size)
            data[target : target + size] = data[source : source + size]

    return _fuzz(host, damage)
