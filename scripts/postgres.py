"""A Postgres cluster of a run's own: a temporary folder, a Unix socket, no port, fsync on."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def _programs() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    assert found, "Postgres is missing: run scripts/setup.sh"
    return found[-1].parent


def _as_user() -> list[str]:
    """Postgres refuses to run as root."""
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.getuid() == 0 else []


@contextmanager
def postgres() -> Iterator[str]:
    """The address of an empty database `market`."""
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    programs, user = _programs(), _as_user()
    data = folder / "data"
    try:
        if user:
            account = pwd.getpwnam("postgres")
            os.chown(folder, account.pw_uid, account.pw_gid)
        initdb = [*user, str(programs / "initdb"), "-D", str(data), "-U", "market", "-A", "trust", "--no-instructions"]
        subprocess.run([*initdb, "-E", "UTF8", "--locale=C"], check=True, capture_output=True, cwd=folder)
        control = [*user, str(programs / "pg_ctl"), "-D", str(data), "-w"]
        options = f"-c listen_addresses='' -c unix_socket_directories={folder} -c shared_buffers=64MB"
        subprocess.run(
            [*control, "-l", str(folder / "log"), "-o", options, "start"], check=True, cwd=folder, capture_output=True
        )
        try:
            create = [str(programs / "createdb"), "-h", str(folder), "-U", "market", "market"]
            subprocess.run(create, check=True, capture_output=True)
            yield f"postgresql:///market?host={folder}&user=market"
        finally:
            subprocess.run([*control, "-m", "immediate", "stop"], check=True, cwd=folder, capture_output=True)
    finally:
        shutil.rmtree(folder)
