"""`python -m provider.engine --model PATH --socket PATH`: connects to the host's socket and serves until told to stop.

Exit codes: 0 after `shutdown` or when the host goes away, 3 model missing, 4 model damaged, 5 out of memory, 6 no host.
"""

import argparse
import contextlib
import queue
import random
import socket
import sys
import threading
from pathlib import Path
from typing import Any

from provider.engine import frames
from provider.engine.errors import EngineStartError, GenerationError

EXIT_CODES = {"model_missing": 3, "model_damaged": 4, "out_of_memory": 5}
EXIT_NO_HOST = 6

Inbox = queue.SimpleQueue[frames.Frame | None]


class HostLink:
    """The connection to the host; frames go out from one thread and come in on another."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(str(path))

    def send(self, frame: frames.Frame) -> None:
        """Sends one frame. Raises OSError when the host is gone."""
        self._socket.sendall(frames.encode(frame))

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
    """Loads the model and turns the host's frames into work for the scheduler."""

    def __init__(self, arguments: argparse.Namespace, link: HostLink) -> None:
        from provider.engine.llama import Batcher, Model
        from provider.engine.scheduler import Scheduler
        from provider.engine.template import Prompts

        self._link = link
        self._model = Model(arguments.model)
        self._batcher = Batcher(
            self._model,
            context=arguments.context or min(self._model.trained_context, 4096),
            sequences=arguments.parallel,
            threads=arguments.threads,
            batch=arguments.batch,
        )
        self._prompts = Prompts(self._model)
        self._scheduler = Scheduler(self._model, self._batcher, arguments.parallel, link.send)

    def description(self) -> dict[str, Any]:
        """What the host needs to know about the model that runs."""
        import llama_cpp

        return {
            "name": self._model.metadata("general.name") or "",
            "architecture": self._model.metadata("general.architecture") or "",
            "vocabulary_size": self._model.vocabulary_size,
            "context": self._batcher.context_per_sequence,
            "chat_template": self._prompts.template,
            "build": f"llama-cpp-python {llama_cpp.__version__}",
        }

    def serve(self, inbox: Inbox) -> None:
        """Works until `shutdown` or the end of the host's stream."""
        while True:
            while not (self._scheduler.has_work and inbox.empty()):
                frame = inbox.get()
                if frame is None or frame.get("op") == "shutdown":
                    return
                self._handle(frame)
            self._scheduler.step()

    def _handle(self, frame: frames.Frame) -> None:
        request_id = frame.get("id")
        if not isinstance(request_id, int):
            return
        try:
            self._dispatch(frame, request_id)
        except GenerationError as error:
            self._link.send({"ev": "error", "id": request_id, "code": error.code, "message": str(error)})
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            self._link.send({"ev": "error", "id": request_id, "code": "bad_request", "message": repr(error)})

    def _dispatch(self, frame: frames.Frame, request_id: int) -> None:
        from provider.engine.scheduler import Request

        match frame["op"]:
            case "count":
                tokens = len(self._prompts.tokens(frame["messages"]))
                self._link.send({"ev": "counted", "id": request_id, "tokens": tokens})
            case "generate":
                self._scheduler.submit(
                    Request(
                        id=request_id,
                        prompt=self._prompts.tokens(frame["messages"]),
                        max_tokens=int(frame["max_tokens"]),
                        temperature=float(frame.get("temperature", 1.0)),
                        top_p=float(frame.get("top_p", 1.0)),
                        seed=int(frame["seed"]) if frame.get("seed") is not None else random.getrandbits(32),
                        stop=[str(stop) for stop in frame.get("stop", [])],
                        cache_key=str(frame.get("cache_key", "")),
                    )
                )
            case "cancel":
                self._scheduler.cancel(request_id)
            case "pause":
                self._scheduler.pause(request_id)
            case "resume":
                self._scheduler.resume(request_id)
            case unknown:
                raise GenerationError("bad_request", f"unknown operation {unknown!r}")


def main() -> int:
    """Runs the engine; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m provider.engine", description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="GGUF file")
    parser.add_argument("--socket", type=Path, required=True, help="Unix socket on which the host listens")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--parallel", type=int, default=4, help="sequences decoded at once")
    parser.add_argument("--context", type=int, default=0, help="tokens per sequence; 0: the model's own, at most 4096")
    parser.add_argument("--batch", type=int, default=512, help="tokens per decode")
    arguments = parser.parse_args()
    try:
        link = HostLink(arguments.socket)
    except OSError as error:
        sys.stderr.write(f"engine: no host on {arguments.socket}: {error.strerror}" + "\n")
        return EXIT_NO_HOST
    inbox: Inbox = queue.SimpleQueue()
    threading.Thread(target=link.read_into, args=(inbox,), daemon=True).start()
    try:
        engine = Engine(arguments, link)
        link.send({"ev": "ready", "model": engine.description()})
        engine.serve(inbox)
    except EngineStartError as error:
        sys.stderr.write(f"engine: {error}" + "\n")
        with contextlib.suppress(OSError):
            link.send({"ev": "fatal", "code": error.code, "message": str(error)})
        return EXIT_CODES[error.code]
    except OSError as error:
        sys.stderr.write(f"engine: the host went away: {error}" + "\n")
        return EXIT_NO_HOST
    return 0


if __name__ == "__main__":
    sys.exit(main())
