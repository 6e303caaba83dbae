"""More than is given: each is bounded, and ends a little above the limit. Each has a container for itself."""

# ruff: noqa: PERF401, PTH208

import os
import resource
import shutil
import signal
import sys
import time
from pathlib import Path

from tests.sandbox.escape.attempt import LOOT, NOTED, Host, attempt

_MIB = 1 << 20


@attempt("starts more processes than are given", LOOT, "no limit on processes", alone=True)
def fork_bomb(host: Host) -> str:
    children = []
    reader, writer = os.pipe()
    try:
        for _ in range(host["bomb"]["processes"]):
            child = os.fork()
            if child == 0:
                os.close(writer)
                os.read(reader, 1)
                os._exit(0)
            children.append(child)
        return f"{len(children)} processes"
    finally:
        os.close(writer)
        for child in children:
            os.waitpid(child, 0)


@attempt("takes more memory than is given", LOOT, "more memory", alone=True)
def memory_bomb(host: Host) -> str:
    size = host["bomb"]["memory"]
    block = bytearray(size)
    for at in range(0, size, 4096):
        block[at] = 1
    return f"{len(block) // _MIB} MiB"


@attempt("takes memory through files in /tmp", LOOT, "a large /tmp")
def tmp_bomb(host: Host) -> str:
    size = host["bomb"]["tmp"]
    path = Path("/tmp/x")
    with path.open("wb", buffering=0) as file:
        path.unlink()
        for _ in range(size // _MIB):
            file.write(bytes(_MIB))
        return f"{size // _MIB} MiB"


@attempt("makes more files than are given", NOTED, "any number of files in /tmp")
def inode_bomb(host: Host) -> str:
    folder = Path("/tmp/many")
    folder.mkdir()
    try:
        for number in range(host["bomb"]["files"]):
            os.close(os.open(f"/tmp/many/{number}", os.O_CREAT | os.O_WRONLY))
        time.sleep(0.6)  # the host counts
        return f"{len(os.listdir(folder))} files"
    finally:
        shutil.rmtree(folder)


@attempt("fills the host's disk with output", NOTED, "output without a limit", alone=True)
def log_bomb(host: Host) -> str:
    for _ in range(host["bomb"]["output"] // 65_536):
        sys.stderr.write("x" * 65_535 + "\n")
    return ""


@attempt("takes all processors", NOTED, "no limit on the processor", alone=True)
def processor_bomb(host: Host) -> str:
    end = time.monotonic() + 1.5
    children = []
    for _ in range(2):
        child = os.fork()
        if child == 0:
            while time.monotonic() < end:
                pass
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    time.sleep(1)  # the host reads the counters of a container that runs
    return ""


@attempt("opens more files than are given", LOOT, "more open files")
def descriptor_bomb(host: Host) -> str:
    hard = host["bomb"]["descriptors"]
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    opened = []
    try:
        for _ in range(hard):
            opened.append(os.open("/dev/null", os.O_RDONLY))
        return f"{len(opened)} files"
    finally:
        for each in opened:
            os.close(each)


@attempt("leaves a core dump", LOOT, "core dumps")
def core_dump(host: Host) -> str:
    child = os.fork()
    if child == 0:
        os.chdir("/tmp")
        _, most = resource.getrlimit(resource.RLIMIT_CORE)
        resource.setrlimit(resource.RLIMIT_CORE, (most, most))
        os.kill(os.getpid(), signal.SIGSEGV)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return "dumped" if os.WCOREDUMP(status) and list(Path("/tmp").glob("core*")) else ""
