"""A Postgres cluster of a run's own: a temporary folder, a Unix socket, no port, fsync on."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_START_S = 60.0
_POLL_S = 0.05


@contextmanager
def postgres() -> Iterator[str]:
    """The address of an empty database `market`. Raises OSError, subprocess.CalledProcessError.

    The server ends with this process, however that ends.
    """
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    programs = _programs()
    data = folder / "data"
    try:
        if os.getuid() == 0:
            account = pwd.getpwnam("postgres")
            os.chown(folder, account.pw_uid, account.pw_gid)
        initdb = [str(programs / "initdb"), "-D", str(data), "-U", "market", "-A", "trust", "--no-instructions"]
        command = [*_as_user(), "--", *initdb, "-E", "UTF8", "--locale=C"]
        subprocess.run(command, check=True, capture_output=True, cwd=folder)
        with _server(programs, data, folder):
            create = [str(programs / "createdb"), "-h", str(folder), "-U", "market", "market"]
            subprocess.run(create, check=True, capture_output=True)
            yield f"postgresql:///market?host={folder}&user=market"
    finally:
        shutil.rmtree(folder)


@contextmanager
def _server(programs: Path, data: Path, folder: Path) -> Iterator[None]:
    command = [*_as_user(), "--pdeathsig", "KILL", "--", str(programs / "postgres"), "-D", str(data)]
    for setting in ("listen_addresses=", f"unix_socket_directories={folder}", "shared_buffers=64MB"):
        command += ["-c", setting]
    log = folder / "log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    try:
        ready = [str(programs / "pg_isready"), "-q", "-h", str(folder)]
        deadline = time.monotonic() + _START_S
        while subprocess.run(ready, check=False).returncode != 0:
            if server.poll() is not None or time.monotonic() > deadline:
                raise OSError(f"Postgres does not start: {log.read_text(errors='replace')[-2000:]}")
            time.sleep(_POLL_S)
        yield
    finally:
        server.send_signal(signal.SIGQUIT)
        server.wait()


def _programs() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    if not found:
        raise OSError("Postgres is missing: run `make setup`")
    return found[-1].parent


def _as_user() -> list[str]:
    """Postgres refuses to run as root."""
    user = ["--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.getuid() == 0 else []
    return ["setpriv", *user]
