"""Holds a GGUF file's list of tensors against its length: each lies inside, behind the last, and no byte is over."""

from typing import NamedTuple

from provider.engine.gguf_reader import BadModelError, Reader
from provider.engine.gguf_types import BLOCKS

MAX_NAME_BYTES = 63
MAX_DIMENSIONS = 4
_MOST_NUMBERS = 1 << 48


class _Tensor(NamedTuple):
    offset: int
    size: int
    name: str


def check_tensors(reader: Reader, count: int, alignment: int, file_size: int) -> None:
    """Reads the list, which ends the header. `alignment` and `file_size` are in bytes. Raises BadModelError."""
    found: list[_Tensor] = []
    names: set[str] = set()
    for number in range(count):
        tensor = _tensor(reader, number, alignment)
        if tensor.name in names:
            raise BadModelError(f"the tensor {tensor.name} is there twice")
        names.add(tensor.name)
        found.append(tensor)
    start = _padded(reader.place, alignment)
    end = 0
    for tensor in sorted(found):
        if tensor.offset < end:
            raise BadModelError(f"the tensor {tensor.name} overlaps another one")
        if tensor.offset != _padded(end, alignment):
            raise BadModelError(f"{tensor.offset - end:,} bytes before the tensor {tensor.name} belong to nothing")
        end = tensor.offset + tensor.size
        if start + end > file_size:
            raise BadModelError(
                f"the tensor {tensor.name} ends at byte {start + end:,}, and the file has {file_size:,}: it was cut off"
            )
    if file_size > start + _padded(end, alignment):
        raise BadModelError(f"{file_size - start - end:,} bytes after its last tensor belong to nothing")


def _tensor(reader: Reader, number: int, alignment: int) -> _Tensor:
    text = reader.text(MAX_NAME_BYTES, f"the name of tensor {number}").decode()
    if not text or not text.isprintable():
        raise BadModelError(f"the name of tensor {number} is no plain word")
    name = f"the tensor {text}"
    dimensions = reader.number("I", name)
    if not 1 <= dimensions <= MAX_DIMENSIONS:
        raise BadModelError(f"{name} has {dimensions} dimensions, not 1 to {MAX_DIMENSIONS}")
    lengths = [reader.number("Q", name) for _ in range(dimensions)]
    kind = reader.number("I", name)
    offset = reader.number("Q", name)
    if kind not in BLOCKS:
        raise BadModelError(f"{name} has the unknown type {kind}")
    numbers = 1
    for length in lengths:
        numbers *= length
        if not 0 < numbers <= _MOST_NUMBERS:
            raise BadModelError(f"{name} has {'no' if numbers == 0 else 'too many'} numbers: {lengths}")
    block, width = BLOCKS[kind]
    if lengths[0] % block:
        raise BadModelError(f"{name} has rows of {lengths[0]:,} numbers, which do not fill blocks of {block}")
    if offset % alignment:
        raise BadModelError(f"{name} is at {offset:,}, no multiple of {alignment}")
    return _Tensor(offset, numbers // block * width, text)


def _padded(place: int, alignment: int) -> int:
    return -(-place // alignment) * alignment
