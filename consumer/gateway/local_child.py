"""The process behind a local model: `llama_cpp.server` on a socket that it inherits. It dies with its parent."""

import ctypes
import os
import signal
import socket
import sys
from typing import Any

SOCKET, KEY, PARENT = "CLAWMARKET_LOCAL_SOCKET", "CLAWMARKET_LOCAL_KEY", "CLAWMARKET_LOCAL_PARENT"
_PR_SET_PDEATHSIG = 1


def main(name: str, path: str, context: int, threads: int | None) -> None:
    """Serves until it is killed. Interrupts are for the parent, which ends this process when it is done with it."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(os.environ[PARENT]):
        sys.exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    import uvicorn
    from llama_cpp.server.app import create_app
    from llama_cpp.server.settings import ModelSettings, ServerSettings

    count: dict[str, Any] = {} if threads is None else {"n_threads": threads, "n_threads_batch": threads}
    model = ModelSettings(model=path, model_alias=name, n_ctx=context, logits_all=False, verbose=False, **count)
    server = ServerSettings(api_key=os.environ[KEY], interrupt_requests=False)
    app = create_app(server_settings=server, model_settings=[model])
    listening = socket.socket(fileno=int(os.environ[SOCKET]))
    uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False)).run(sockets=[listening])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]) or None)
