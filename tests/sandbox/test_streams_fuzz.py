"""What the host reads of a container is hostile: output frames, the answer to attaching, archives of results."""

import io
import random
import socket
import struct
import tarfile
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provider.sandbox.attaching import Attached
from provider.sandbox.collecting import ResultLimits, collect
from provider.sandbox.errors import ContainerError
from provider.sandbox.streaming import Stop, Stream, _Frames, pump

SOAK_INPUTS = 1_000_000
SOAK_ARCHIVES = 20_000
LIMITS = ResultLimits(file=4_096, total=8_192, count=16)
_NAMES = (
    "out/a",
    "out/b",
    "out/b/c",
    "out/e",
    "out/f",
    "out/../../x",
    "/etc/passwd",
    "out/" + "d/" * 20 + "e",
    "out/\n",
    "out",
    "out/.",
    "x" * 300,
)
_KINDS = (tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE)


def check_frames(chance: random.Random) -> None:
    """However the bytes come, nothing is invented, and what is not handed on stays below one header."""
    frames, fed, given_out = _Frames(), 0, 0
    for _ in range(chance.randint(1, 6)):
        kind = chance.choice((1, 2, 1, 2, 0, 3, 255))
        content = chance.randbytes(chance.randrange(64))
        length = chance.choice((len(content), len(content), 0, 2**32 - 1))
        data = struct.pack(">BxxxI", kind, length) + content
        data = data[: chance.randint(0, len(data))] if chance.random() < 0.2 else data
        fed += len(data)
        try:
            for stream, part in frames.feed(data):
                assert stream in Stream
                given_out += len(part)
        except ContainerError:
            return
        assert len(frames._buffer) < 8
    assert given_out <= fed


@settings(max_examples=300)
@given(st.integers(0, 2**64 - 1))
def test_output_frames(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(10):
        check_frames(chance)


def test_no_more_output_than_asked_for_is_handed_on() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(struct.pack(">BxxxI", 1, 2**32 - 1) + b"x" * 50_000)
        seen: list[bytes] = []
        stop = pump(ours, b"", lambda _, data: seen.append(data), 1_000, time.monotonic() + 30, lambda: None)
    assert stop is Stop.OUTPUT
    assert sum(map(len, seen)) == 1_000


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 404 Not Found\r\n\r\n",
        b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"\xff" * 40_000,
        b"HTTP/1.1 101" + b"x" * 40_000,
        b"HTTP/1.1 101 UPGRADED\r\n",
    ],
)
def test_an_answer_to_attaching_that_is_none(answer: bytes, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        server.listen()

        def serve() -> None:
            link, _ = server.accept()
            with link:
                link.recv(4_096)
                try:
                    link.sendall(answer)
                except OSError:
                    return

        thread = threading.Thread(target=serve)
        thread.start()
        client = cast("Any", SimpleNamespace(api=SimpleNamespace(api_version="1.41")))
        paths = cast("Any", SimpleNamespace(socket=tmp_path / "socket"))
        with pytest.raises(ContainerError), Attached(client, paths, "x", takes_input=False):
            pass
        thread.join()


def archive(chance: random.Random) -> bytes:
    """Some entries of all kinds, and some of the bytes changed."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=chance.choice((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT))) as tar:
        for _ in range(chance.randint(0, 8)):
            entry = tarfile.TarInfo(chance.choice(_NAMES))
            entry.type = chance.choice(_KINDS)
            entry.linkname = chance.choice(_NAMES)
            content = bytes(chance.choice((0, 3_000, 5_000)) if entry.type == tarfile.REGTYPE else 0)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    data = bytearray(file.getvalue())
    for _ in range(chance.choice((0, 0, 1, 5))):
        at = chance.randrange(len(data))
        data[at : at + 1] = chance.choice((b"", b"\0", b"9", b"\xff", chance.randbytes(12)))
    return bytes(data[: chance.randint(0, len(data))] if chance.random() < 0.1 else data)


def check_archive(data: bytes) -> None:
    """Only plain files inside the folder come out, within the limits; else a ContainerError."""
    with TemporaryDirectory() as folder:
        into = Path(folder, "above", "beside", "results")
        into.mkdir(parents=True)
        try:
            found = collect(lambda: nullcontext(io.BytesIO(data)), into, LIMITS)
        except ContainerError:
            pass
        else:
            assert len(found.files) <= LIMITS.count
        made = list(into.rglob("*"))
        assert all(path.is_dir() or path.is_file() for path in made)
        assert not any(path.is_symlink() for path in made)
        assert sum(path.stat().st_size for path in made if path.is_file()) <= LIMITS.total
        assert {path for path in Path(folder).rglob("*") if path not in made} == {into, *list(into.parents)[:2]}


@settings(max_examples=300)
@given(st.integers(0, 2**64 - 1))
def test_archives(seed: int) -> None:
    check_archive(archive(random.Random(seed)))


@given(st.binary(max_size=2_048))
def test_bytes_that_are_no_archive(data: bytes) -> None:
    check_archive(data)


@pytest.mark.soak
@pytest.mark.timeout(3_600)
def test_a_million_output_streams_and_many_archives() -> None:
    chance = random.Random(20_261_126)
    for _ in range(SOAK_INPUTS):
        check_frames(chance)
    for _ in range(SOAK_ARCHIVES):
        check_archive(archive(chance))
