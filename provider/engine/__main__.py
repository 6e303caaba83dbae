"""`python -m provider.engine --model PATH --socket PATH`: connects to the host's socket and serves until told to stop.

Exit codes: 0 after `shutdown` or when the host goes away, 3 model missing, 4 model damaged, 5 out of memory, 6 no host.
"""

import argparse
import contextlib
import math
import os
import queue
import random
import socket
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from provider.backend import JsonOutput, Prompt
from provider.engine import frames
from provider.engine.errors import EngineStartError, GenerationError
from provider.engine.host import EXIT_CODES

if TYPE_CHECKING:
    from provider.engine.request import Request

EXIT_NO_HOST = 6
MAX_LOGPROBS = 20

Inbox = queue.SimpleQueue[frames.Frame | None]


class HostLink:
    """The connection to the host; frames go out from one thread and come in on another."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(str(path))
        self._outgoing = bytearray()

    def put(self, frame: frames.Frame) -> None:
        """Takes one frame for the next `flush`."""
        self._outgoing += frames.encode(frame)

    def flush(self) -> None:
        """Sends all frames taken. Raises OSError when the host is gone."""
        if self._outgoing:
            self._socket.sendall(self._outgoing)
            self._outgoing = bytearray()

    def read_into(self, inbox: Inbox) -> None:
        """Puts every frame into `inbox` and None at the end of the stream."""
        try:
            while True:
                inbox.put(frames.decode(self._read(frames.body_length(self._read(frames.HEADER.size)))))
        except (OSError, EOFError, frames.FrameError):
            inbox.put(None)

    def _read(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            chunk = self._socket.recv(count - len(data))
            if not chunk:
                raise EOFError
            data += chunk
        return bytes(data)


class Engine:
    """Loads the model and turns the host's frames into work; with the vocabulary only, it counts and tokenizes."""

    def __init__(self, arguments: argparse.Namespace, link: HostLink) -> None:
        from provider.engine.embedding import Embedder
        from provider.engine.llama import Batcher, Model
        from provider.engine.scheduler import PROMPT_PIECE, Scheduler
        from provider.engine.template import Prompts
        from provider.engine.threads import ThreadPool

        self._link = link
        self._model = Model(arguments.model, vocabulary_only=arguments.vocabulary_only)
        self._prompts = Prompts(self._model)
        self._context = arguments.context or min(self._model.trained_context, 4096)
        self._scheduler: Scheduler | None = None
        if arguments.vocabulary_only:
            return
        pool = ThreadPool(arguments.threads)

        def open_context(sequences: int, *, embeds: bool) -> Batcher:
            return Batcher(
                self._model,
                context=self._context,
                sequences=sequences,
                pool=pool,
                batch=max(PROMPT_PIECE, sequences),
                embeds=embeds,
            )

        batcher = open_context(arguments.parallel, embeds=False)
        self._context = batcher.context_per_sequence
        embedder = Embedder(lambda: open_context(1, embeds=True), link.put)
        self._scheduler = Scheduler(self._model, batcher, arguments.parallel, embedder, link.put)

    def description(self) -> dict[str, Any]:
        """What the host needs to know about the model that runs."""
        import llama_cpp

        return {
            "name": self._model.metadata("general.name") or "",
            "architecture": self._model.metadata("general.architecture") or "",
            "vocabulary_size": self._model.vocabulary_size,
            "context": self._context,
            "chat_template": self._prompts.template,
            "has_tools": self._prompts.has_tools,
            "dimensions": self._model.dimensions,
            "build": f"llama-cpp-python {llama_cpp.__version__}",
        }

    def serve(self, inbox: Inbox) -> None:
        """Works until `shutdown` or the end of the host's stream."""
        scheduler = self._scheduler
        while True:
            while not (scheduler and scheduler.has_work and inbox.empty()):
                frame = inbox.get()
                if frame is None or frame.get("op") == "shutdown":
                    return
                self._handle(frame)
                self._link.flush()
            scheduler.step()
            self._link.flush()

    def _handle(self, frame: frames.Frame) -> None:
        if frame.get("op") == "ping":
            self._link.put({"ev": "pong"})
            return
        request_id = frame.get("id")
        if not isinstance(request_id, int):
            return
        try:
            self._dispatch(frame, request_id)
        except GenerationError as error:
            self._link.put({"ev": "error", "id": request_id, "code": error.code, "message": str(error)})
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            self._link.put({"ev": "error", "id": request_id, "code": "bad_request", "message": repr(error)})

    def _dispatch(self, frame: frames.Frame, request_id: int) -> None:
        match frame["op"]:
            case "count":
                tokens = len(self._prompts.tokens(_prompt(frame["prompt"])))
                self._link.put({"ev": "counted", "id": request_id, "tokens": tokens})
            case "render":
                self._link.put(
                    {"ev": "rendered", "id": request_id, "text": self._prompts.text(_prompt(frame["prompt"]))}
                )
            case "tokenize":
                ids = self._model.tokenize(str(frame["text"]), add_special=False, parse_special=False)
                pieces = [self._model.piece(token).decode("latin-1") for token in ids]
                self._link.put({"ev": "tokenized", "id": request_id, "tokens": ids, "pieces": pieces})
            case _ if self._scheduler is None:
                raise GenerationError("bad_request", "this engine has the vocabulary only")
            case "embed":
                self._scheduler.embed(request_id, [self._prompts.tokens(_prompt(each)) for each in frame["prompts"]])
            case "generate":
                self._scheduler.submit(_request(frame, self._prompts.tokens(_prompt(frame["prompt"]))))
            case "cancel":
                self._scheduler.cancel(request_id)
            case "pause":
                self._scheduler.pause(request_id)
            case "resume":
                self._scheduler.resume(request_id)
            case unknown:
                raise GenerationError("bad_request", f"unknown operation {unknown!r}")


def _prompt(value: Any) -> Prompt:
    return Prompt(value.get("messages"), value.get("text"), value.get("tokens"), value.get("tools"))


def _request(frame: frames.Frame, prompt: list[int]) -> "Request":
    from provider.engine.grammar import gbnf
    from provider.engine.request import Request

    seed, logprobs, output = frame.get("seed"), frame.get("logprobs"), frame.get("output")
    return Request(
        id=frame["id"],
        prompt=prompt,
        max_tokens=int(frame["max_tokens"]),
        temperature=_finite(frame.get("temperature", 1.0)),
        top_p=_finite(frame.get("top_p", 1.0)),
        seed=int(seed) if seed is not None else random.getrandbits(32),
        stop=[str(stop) for stop in frame.get("stop", [])],
        cache_key=str(frame.get("cache_key", "")),
        frequency_penalty=_finite(frame.get("frequency_penalty", 0.0)),
        presence_penalty=_finite(frame.get("presence_penalty", 0.0)),
        logprobs=None if logprobs is None else max(0, min(int(logprobs), MAX_LOGPROBS)),
        grammar=None if output is None else gbnf(JsonOutput(output["schema"], output["before"], output["after"])),
    )


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is not a finite number")
    return number


def main() -> int:
    """Runs the engine; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m provider.engine", description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="GGUF file")
    parser.add_argument("--socket", type=Path, required=True, help="Unix socket on which the host listens")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--parallel", type=int, default=4, help="sequences decoded at once")
    parser.add_argument("--context", type=int, default=0, help="tokens per sequence; 0: the model's own, at most 4096")
    parser.add_argument("--vocabulary-only", action="store_true", help="count and tokenize, load no weights")
    arguments = parser.parse_args()
    # NumPy's threads would come on top of the model's
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    from provider.engine.threads import give_way

    give_way()
    try:
        link = HostLink(arguments.socket)
    except OSError as error:
        sys.stderr.write(f"engine: no host on {arguments.socket}: {error.strerror}" + "\n")
        return EXIT_NO_HOST
    inbox: Inbox = queue.SimpleQueue()
    threading.Thread(target=link.read_into, args=(inbox,), daemon=True).start()
    try:
        engine = Engine(arguments, link)
        link.put({"ev": "ready", "model": engine.description()})
        link.flush()
        engine.serve(inbox)
    except EngineStartError as error:
        sys.stderr.write(f"engine: {error}" + "\n")
        with contextlib.suppress(OSError):
            link.put({"ev": "fatal", "code": error.code, "message": str(error)})
            link.flush()
        return EXIT_CODES[error.code]
    except OSError as error:
        sys.stderr.write(f"engine: the host went away: {error}" + "\n")
        return EXIT_NO_HOST
    return 0


if __name__ == "__main__":
    sys.exit(main())
