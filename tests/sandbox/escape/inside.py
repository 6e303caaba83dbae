"""Runs inside a container: makes the attempts one after another, each in a process of its own, and prints a line each.

Its arguments are the folder's facts as JSON: what an attacker might know of the host, and which attempts to make.
"""

import errno
import importlib
import json
import os
import pkgutil
import select
import signal
import sys
import time
import traceback

from tests.sandbox.escape import classes
from tests.sandbox.escape.attempt import ATTEMPTS, Host

_ATTEMPT_S = 20


def main(host: Host) -> None:
    """Makes the attempts."""
    if folder := os.environ.get("ESCAPE_LEFT_OPEN"):  # a control: as if the runtime had left it open
        os.open(folder, os.O_RDONLY)
    for module in pkgutil.iter_modules(classes.__path__):
        importlib.import_module(f"{classes.__name__}.{module.name}")
    for name in host["attempts"]:
        print(json.dumps({"name": name} | _apart(name, host)), flush=True)
    print(json.dumps({"name": "end"}), flush=True)


def _apart(name: str, host: Host) -> dict[str, str]:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        signal.alarm(_ATTEMPT_S)
        os.write(writer, json.dumps(_outcome(name, host)).encode())
        os._exit(0)
    os.close(writer)
    said = b""
    end = time.monotonic() + _ATTEMPT_S + 1
    while select.select([reader], [], [], max(0.0, end - time.monotonic()))[0] and (data := os.read(reader, 65_536)):
        said += data
    os.close(reader)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return {"loot": "", "error": f"signal {os.WTERMSIG(status)}"}
    found: dict[str, str] = json.loads(said) if said else {"loot": "", "error": "said nothing"}
    return found


def _outcome(name: str, host: Host) -> dict[str, str]:
    try:
        return {"loot": ATTEMPTS[name].run(host | {"name": name, "file": f"/models/{name}"})[:4000], "error": ""}
    except OSError as error:
        return {"loot": "", "error": errno.errorcode.get(error.errno or 0, type(error).__name__)}
    except Exception as error:  # noqa: BLE001 - a fault of the attempt itself is shown
        return {"loot": "", "error": f"fault: {error!r}: {traceback.format_exc(limit=-2)}"}


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
