"""Everything around the gateway that is measured: chain, contracts, the mock provider on it, the gateway, LiteLLM."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import httpx

from consumer.config import ConsumerConfig
from consumer.spending.offline import open_keys
from protocol import keystore
from provider.offers import Offer as ProviderOffer
from tests.consumer.spending.stall import NODE, Stall
from tests.support.anvil import ROOT
from tests.support.engines import tiny_model
from tests.support.live_market import PASSWORD, SCRYPT_N, LiveMarket, live_market, signer_of
from tests.support.tiny_gguf import FIRST_BYTE_TOKEN, prompt_tokens

MESSAGES = [{"role": "user", "content": "Say something about the sea, please."}]
START_S = 120.0
LITELLM_FOLDER = ROOT / ".cache" / "litellm"
LITELLM_LOCK = ROOT / "requirements" / "litellm.txt"


@dataclass(frozen=True)
class Server:
    """Something that answers on OpenAI's path."""

    url: str
    path: str
    key: str
    model: str


@contextmanager
def process(command: list[str], log: Path, ready: str, **environment: str) -> Iterator[str]:
    """Runs a command until the end of the block; gives the first group of the line that matches `ready`."""
    guard = ["setpriv", "--pdeathsig", "KILL", "--"] if shutil.which("setpriv") else []
    running = subprocess.Popen(
        [*guard, *command],
        cwd=ROOT,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    found: list[str] = []
    told = threading.Event()
    assert running.stdout is not None
    reader = threading.Thread(target=_read, args=(running.stdout, log, re.compile(ready), found, told), daemon=True)
    reader.start()
    try:
        told.wait(START_S)
        if not found:
            raise AssertionError(f"{command[0]} did not start: {log.read_text(errors='replace')[-2000:]}")
        yield found[0]
    finally:
        running.terminate()
        try:
            running.wait(30)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()
        reader.join(5)


def _read(output: IO[bytes], log: Path, ready: re.Pattern[str], found: list[str], told: threading.Event) -> None:
    with log.open("wb") as file:
        for line in output:
            file.write(line)
            file.flush()
            match = ready.search(line.decode(errors="replace"))
            if match and not found:
                found.append(match[1])
                told.set()
    told.set()


@contextmanager
def market(folder: Path) -> Iterator[tuple[LiveMarket, Stall]]:
    """A chain with the contracts, money for a consumer, and one registered provider."""
    with live_market(folder) as found:
        yield found, Stall(found)


def settings_of(stall: Stall, text: str, delay_s: float, *, is_trickling: bool) -> dict[str, object]:
    """What the mock provider is told; publishes its offer."""
    wanted = stall.publish()
    offer = wanted.offer
    published = ProviderOffer(offer.offer_id, offer.version, offer.terms, offer.document)
    return {
        "chain_id": stall.market.domain.chain_id,
        "escrow": stall.market.domain.escrow,
        "provider": stall.provider,
        "node_key": NODE.private_key.hex(),
        "offer": json.loads(published.to_json()),
        "fingerprint": offer.fingerprint.hex(),
        "model": offer.model_name,
        "text": text,
        "tokens": [FIRST_BYTE_TOKEN + byte for byte in text.encode()],
        "prompt_tokens": prompt_tokens(MESSAGES),
        "delay_s": delay_s,
        "is_trickling": is_trickling,
    }


@contextmanager
def mock_provider(folder: Path, settings: dict[str, object]) -> Iterator[Server]:
    """The mock provider in its process."""
    path = folder / "mock.json"
    path.write_text(json.dumps(settings))
    command = [sys.executable, "-m", "scripts.bench._mock_provider", str(path)]
    with process(command, folder / "mock.log", r"(http://\S+)") as url:
        yield Server(url, "/v1/chat/completions", "none", str(settings["model"]))


@contextmanager
def gateway(folder: Path, stall: Stall, mock: Server) -> Iterator[Server]:
    """`clawmarket gateway run` on a folder of its own."""
    folder.mkdir()
    keystore.save(folder / "owner.json", signer_of(2), PASSWORD, scrypt_n=SCRYPT_N)
    (folder / "password").write_text(PASSWORD.reveal() + "\n")
    config = folder / "consumer.toml"
    config.write_text(
        f"""rpc = ["{stall.market.node.url}"]
deployment = "{stall.market.deployment_file}"
tokenizers = ["{tiny_model()}"]
providers = ["{mock.url}"]
[gateway]
port = 0
canary_s = 0
[budget]
per_day = ["1000 USDC"]
[leases]
amount = "40 USDC"
max_locked = "40 USDC"
top_up_below = 0
"""
    )
    loaded = ConsumerConfig.load(config)
    loaded.data.mkdir()
    _, key = open_keys(loaded).make("bench")
    command = [sys.executable, "-m", "clawmarket_cli", "gateway", "run", f"--config={config}"]
    command.append(f"--password-file={folder / 'password'}")
    with process(command, folder / "gateway.log", r"serves on (http://[^\s/]+)") as url:
        yield Server(url, "/v1/chat/completions", key, mock.model)


@contextmanager
def litellm(folder: Path, mock: Server) -> Iterator[Server]:
    """LiteLLM's proxy in an environment of its own, in front of the same mock."""
    config = folder / "litellm.yaml"
    config.write_text(
        f"""model_list:
  - model_name: {mock.model}
    litellm_params:
      model: openai/{mock.model}
      api_base: {mock.url}/v1
      api_key: none
litellm_settings:
  telemetry: false
"""
    )
    port, key = _free_port(), f"sk-{secrets.token_hex(32)}"
    command = [str(_litellm()), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    environment = {"LITELLM_MASTER_KEY": key, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    with process(command, folder / "litellm.log", r"(Application startup complete)", **environment):
        server = Server(f"http://127.0.0.1:{port}", "/v1/chat/completions", key, mock.model)
        _wait(server)
        yield server


def _wait(server: Server) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{server.url}/health/liveliness", timeout=5).status_code == httpx.codes.OK:
                return
        except httpx.HTTPError:
            time.sleep(0.2)
    raise AssertionError("LiteLLM did not answer")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def _litellm() -> Path:
    """The proxy's program, installed from its lock the first time."""
    program, stamp = LITELLM_FOLDER / "bin" / "litellm", LITELLM_FOLDER / "lock"
    lock = LITELLM_LOCK.read_text()
    if not stamp.exists() or stamp.read_text() != lock:
        print("installing LiteLLM's proxy into .cache/litellm, once", flush=True)
        uv = ROOT / ".uv" / "bin" / "uv"
        tool = str(uv) if uv.exists() else str(shutil.which("uv"))
        subprocess.run([tool, "venv", "--clear", "--python", sys.executable, str(LITELLM_FOLDER)], check=True)
        python = LITELLM_FOLDER / "bin" / "python"
        install = [tool, "pip", "sync", "--require-hashes", "--python", str(python), str(LITELLM_LOCK)]
        subprocess.run(install, check=True)
        stamp.write_text(lock)
    return program


def stage(
    folder: Path, stack: ExitStack, text: str, *, delay_s: float = 0.0, is_trickling: bool = False
) -> tuple[Stall, Server]:
    """A chain and the mock provider on it."""
    _, stall = stack.enter_context(market(folder))
    settings = settings_of(stall, text, delay_s, is_trickling=is_trickling)
    return stall, stack.enter_context(mock_provider(folder, settings))
