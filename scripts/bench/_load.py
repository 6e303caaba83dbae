"""Asks an OpenAI-compatible server over kept connections: `python -m scripts.bench._load JOB.json`.

A job is {url, path, key, body, connections, requests}. Prints {"p50_ms", "p95_ms", "per_s"} of the whole
answers, each of which must be a 200 with the expected text in it; anything else ends the run.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvloop


async def _answer(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    lower = head.lower()
    if not head.startswith(b"HTTP/1.1 200"):
        raise AssertionError(f"{head!r} {await reader.read(2000)!r}")
    if b"transfer-encoding: chunked" not in lower:
        length = next(int(line[15:]) for line in lower.split(b"\r\n") if line.startswith(b"content-length:"))
        return await reader.readexactly(length)
    body = b""
    while size := int(await reader.readline(), 16):
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    await reader.readexactly(2)
    return body


async def _client(job: dict[str, Any], left: list[int], times: list[float]) -> None:
    url = urlsplit(job["url"])
    body = json.dumps(job["body"]).encode()
    head = f"POST {job['path']} HTTP/1.1\r\nHost: {url.netloc}\r\nAuthorization: Bearer {job['key']}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    reader, writer = await asyncio.open_connection(url.hostname, url.port, limit=1 << 20)
    expected = job["expected"].encode()
    while left[0] > 0:
        left[0] -= 1
        started = time.perf_counter()
        writer.write(head.encode() + body)
        content = await _answer(reader)
        times.append((time.perf_counter() - started) * 1000)
        if expected not in content:
            raise AssertionError(f"an answer without its text: {content[:400]!r}")
    writer.close()


async def _run(job: dict[str, Any]) -> dict[str, float]:
    times: list[float] = []
    left = [job["requests"]]
    started = time.perf_counter()
    await asyncio.gather(*(_client(job, left, times) for _ in range(job["connections"])))
    seconds = time.perf_counter() - started
    ordered = sorted(times)
    return {
        "p50_ms": statistics.median(ordered),
        "p95_ms": ordered[int(len(ordered) * 0.95)],
        "per_s": len(times) / seconds,
    }


if __name__ == "__main__":
    print(json.dumps(uvloop.run(_run(json.loads(Path(sys.argv[1]).read_text())))))
