"""Sends forged vouchers as fast as they are refused: `python -m scripts.bench._flood port seconds`.

Prints how many were refused, and in how many seconds.
"""

import json
import socket
import sys
import time

from protocol.headers import VERSION, VERSION_HEADER, VOUCHER_HEADER, encode_signed
from protocol.signing import Signer
from protocol.typed_data import Domain, Voucher

CONNECTIONS = 8
VARIANTS = 400


def _requests() -> list[bytes]:
    signer, domain = Signer.generate(), Domain(31337, "0x5FC8d32690cc91D4c39d9d3abcBD16989F875707")
    made = []
    for number in range(VARIANTS):
        voucher = Voucher(number.to_bytes(32, "big"), number)
        text = encode_signed(voucher, signer.sign(domain, voucher))
        path = f"/v1/leases/0x{voucher.lease_id.hex()}/vouchers"
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\n{VERSION_HEADER}: {VERSION}\r\n{VOUCHER_HEADER}: {text}\r\n"
        made.append(f"{head}Content-Length: 0\r\n\r\n".encode())
    return made


def _refusal(stream: socket.socket) -> None:
    """Reads one answer, which must be a refusal."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += stream.recv(65_536)
    head, _, body = received.partition(b"\r\n\r\n")
    if head[9:12] not in (b"401", b"403", b"429"):
        raise AssertionError(f"a forged voucher got the answer {head[:40]!r}")
    length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    while len(body) < length:
        body += stream.recv(65_536)


def main(port: int, seconds: float) -> None:
    requests = _requests()
    streams = [socket.create_connection(("127.0.0.1", port)) for _ in range(CONNECTIONS)]
    started, refused = time.monotonic(), 0
    while time.monotonic() - started < seconds:
        for offset, stream in enumerate(streams):
            stream.sendall(requests[(refused + offset) % VARIANTS])
        for stream in streams:
            _refusal(stream)
            refused += 1
    print(json.dumps({"refused": refused, "seconds": time.monotonic() - started}))


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
