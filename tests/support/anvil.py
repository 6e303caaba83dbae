"""A real anvil node as a context manager: one per test module.

    with Anvil() as node:
        node.rpc("eth_blockNumber")
        node.time_travel(3600)

The process listens on a port the kernel chose, is ready when it says so on its stdout, dies with the thread
that started it, and is stopped by its own process id. Time is in seconds, amounts are in wei.
"""

from __future__ import annotations

import http.client
import json
import os
import platform
import re
import select
import shutil
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self
from urllib.parse import urlsplit

from eth_account import Account
from eth_account.signers.local import LocalAccount

ROOT = Path(__file__).resolve().parents[2]
MNEMONIC = "test test test test test test test test test test test junk"
_LISTENING = re.compile(rb"Listening on (\d+\.\d+\.\d+\.\d+:\d+)")
_READY_TIMEOUT_S = 30.0


class AnvilError(Exception):
    """Anvil is missing, did not start, or refused a request."""


class RpcFailure(AnvilError):  # noqa: N818
    """The node answered a request with a JSON-RPC error."""

    def __init__(self, method: str, code: int, message: str, data: Any = None) -> None:
        super().__init__(f"{method}: {message} (code {code})")
        self.method = method
        self.code = code
        self.message = message
        self.data = data


def find_anvil() -> str:
    """Path of the native binary: $ANVIL, then the checkout's node_modules, then PATH.

    The wrapper script npm puts in `.bin` is avoided: killing it would leave its child behind.
    """
    chosen = os.environ.get("ANVIL")
    if chosen:
        if not os.access(chosen, os.X_OK):
            raise AnvilError(f"ANVIL={chosen} is not an executable file")
        return chosen
    machine = {"x86_64": "amd64", "aarch64": "arm64", "arm64": "arm64"}.get(platform.machine(), platform.machine())
    native = ROOT / "node_modules" / "@foundry-rs" / f"anvil-{platform.system().lower()}-{machine}" / "bin" / "anvil"
    if os.access(native, os.X_OK):
        return str(native)
    on_path = shutil.which("anvil")
    if on_path:
        return on_path
    raise AnvilError("anvil not found: run `npm ci --ignore-scripts` in the checkout, or set ANVIL to the binary")


def dev_account(index: int) -> LocalAccount:
    """The index-th account anvil funds at start (10,000 ether each, ten by default)."""
    Account.enable_unaudited_hdwallet_features()
    account: LocalAccount = Account.from_mnemonic(MNEMONIC, account_path=f"m/44'/60'/0'/0/{index}")
    return account


def _dying_with_parent() -> list[str]:
    """Prefix that has the kernel kill the node when the thread that started it ends."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []


class Anvil:
    """One anvil process.

    `args` are further command-line options, for example ["--no-mining"] or ["--slots-in-an-epoch", "1"].
    `port` 0 lets the kernel choose; a fixed one is for restarting a node where another one was.
    """

    def __init__(
        self, args: Sequence[str] = (), *, chain_id: int = 31337, port: int = 0, hardfork: str = "prague"
    ) -> None:
        self._args = list(args)
        self._port = port
        self._hardfork = hardfork
        self._process: subprocess.Popen[bytes] | None = None
        self._log: deque[bytes] = deque(maxlen=200)
        self._draining = False
        self._next_id = 0
        self._id_lock = threading.Lock()
        self.chain_id = chain_id
        self.url = ""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        if self._process is None:
            raise AnvilError("anvil is not running")
        return self._process.pid

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or 0

    @property
    def log(self) -> str:
        """The last lines the node wrote."""
        return b"".join(self._log).decode(errors="replace")

    def start(self) -> None:
        if self._process is not None:
            raise AnvilError("anvil is already running")
        self._draining = False
        self._process = subprocess.Popen(
            [
                *_dying_with_parent(),
                find_anvil(),
                *("--host", "127.0.0.1", "--port", str(self._port)),
                *("--chain-id", str(self.chain_id), "--hardfork", self._hardfork, "--threads", "1"),
                *self._args,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        try:
            self.url = "http://" + self._wait_until_listening()
            self.rpc("eth_chainId")
        except BaseException:
            stream = self._process.stdout
            self.stop()
            if stream is not None and not self._draining:
                stream.close()
            raise

    def stop(self) -> None:
        """Stop this process; a second call does nothing."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def kill(self) -> None:
        """SIGKILL: the node loses everything it held in memory."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def rpc(self, method: str, params: Sequence[Any] = (), *, timeout: float = 60) -> Any:
        """One JSON-RPC call; raises RpcFailure when the node answers with an error."""
        with self._id_lock:
            self._next_id += 1
            number = self._next_id
        body = json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": list(params)})
        address = urlsplit(self.url)
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=timeout)
        try:
            connection.request("POST", "/", body, {"Content-Type": "application/json"})
            answer = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        if "error" in answer:
            error = answer["error"]
            raise RpcFailure(method, error.get("code", 0), error.get("message", ""), error.get("data"))
        return answer["result"]

    def block_number(self) -> int:
        return int(self.rpc("eth_blockNumber"), 16)

    def timestamp(self) -> int:
        """Timestamp of the head block, seconds."""
        return int(self.rpc("eth_getBlockByNumber", ["latest", False])["timestamp"], 16)

    def balance(self, address: str) -> int:
        return int(self.rpc("eth_getBalance", [address, "latest"]), 16)

    def set_balance(self, address: str, wei: int) -> None:
        self.rpc("anvil_setBalance", [address, hex(wei)])

    def mine(self, blocks: int = 1) -> None:
        self.rpc("anvil_mine", [hex(blocks)])

    def automine(self, enabled: bool) -> None:
        self.rpc("evm_setAutomine", [enabled])

    def time_travel(self, seconds: int) -> int:
        """Move the clock forward and mine one block there; returns the new head's timestamp."""
        self.rpc("evm_increaseTime", [seconds])
        self.mine()
        return self.timestamp()

    def time_travel_to(self, timestamp: int) -> int:
        """Mine one block at exactly this timestamp, which must be later than the head's."""
        self.rpc("evm_setNextBlockTimestamp", [timestamp])
        self.mine()
        return self.timestamp()

    def snapshot(self) -> str:
        identifier: str = self.rpc("evm_snapshot")
        return identifier

    def revert(self, snapshot: str) -> None:
        """Back to a snapshot, which is used up by this."""
        if not self.rpc("evm_revert", [snapshot]):
            raise AnvilError(f"snapshot {snapshot} is unknown")

    def wait_receipt(self, tx_hash: str, timeout: float = 30) -> dict[str, Any]:
        """The receipt of a transaction, once it is mined."""
        receipt: dict[str, Any] = wait_for(lambda: self.rpc("eth_getTransactionReceipt", [tx_hash]), timeout=timeout)
        return receipt

    def deploy(self, bytecode: bytes, sender: str | None = None) -> str:
        """Deploy from an unlocked dev account (the first by default); returns the contract's address."""
        transaction = {"from": sender or dev_account(0).address, "data": "0x" + bytecode.hex()}
        receipt = self.wait_receipt(self.rpc("eth_sendTransaction", [transaction]))
        if int(receipt["status"], 16) != 1:
            raise AnvilError(f"deployment failed: {receipt['transactionHash']}")
        address: str = receipt["contractAddress"]
        return address

    def _wait_until_listening(self) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        stream = self._process.stdout
        deadline = time.monotonic() + _READY_TIMEOUT_S
        seen = b""
        while True:
            if not select.select([stream], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise AnvilError(
                    f"anvil was not ready within {_READY_TIMEOUT_S:.0f} s: {seen.decode(errors='replace')}"
                )
            chunk = os.read(stream.fileno(), 65536)
            if not chunk:
                code = self._process.wait()
                raise AnvilError(f"anvil ended with code {code}: {seen.decode(errors='replace').strip()}")
            seen += chunk
            found = _LISTENING.search(seen)
            if found:
                self._draining = True
                threading.Thread(target=self._drain, args=(stream,), daemon=True).start()
                return found.group(1).decode()

    def _drain(self, stream: IO[bytes]) -> None:
        """Keep the pipe empty, else the node blocks once it is full."""
        with stream:
            while chunk := os.read(stream.fileno(), 65536):
                self._log.append(chunk)


def wait_for(condition: Callable[[], Any], *, timeout: float = 30, interval: float = 0.05) -> Any:
    """Poll until `condition` gives something true and return that; AnvilError after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AnvilError(f"condition not met within {timeout:.0f} s")
        time.sleep(interval)
