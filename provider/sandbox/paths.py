"""Where the sandbox keeps things.

state/              root's: daemon.json, owner, gvisor-start
state/data/         the daemon's data-root: images, container layers
run/                exec-root, pid file and socket of the daemon, share/ of the worker; gone after a reboot
cache/              what can be made again: bin/runsc, images/
"""

import os
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "CLAWMARKET_SANDBOX"
_SYSTEM_STATE = Path("/var/lib/clawmarket/sandbox")
_SYSTEM_RUN = Path("/run/clawmarket/sandbox")
_LONGEST_SOCKET = 100  # of the 107 bytes a Unix socket's path may have


@dataclass(frozen=True)
class SandboxPaths:
    """The folders of one private daemon."""

    state: Path
    run: Path
    cache: Path

    @classmethod
    def system(cls) -> "SandboxPaths":
        """The machine's own."""
        return cls(_SYSTEM_STATE, _SYSTEM_RUN, _SYSTEM_STATE / "cache")

    @classmethod
    def under(cls, folder: Path, cache: Path | None = None) -> "SandboxPaths":
        """All in one folder. Raises ValueError if sockets in it would have too long a path."""
        paths = cls(folder / "state", folder / "run", cache or folder / "cache")
        if len(os.fsencode(paths.socket)) > _LONGEST_SOCKET:
            raise ValueError(f"{folder} is too long a path for the sandbox: sockets need {_LONGEST_SOCKET} bytes")
        return paths

    @classmethod
    def find(cls, folder: Path | None = None) -> "SandboxPaths":
        """In `folder` if given, else where the environment says, else the machine's own."""
        named = folder or (Path(found) if (found := os.environ.get(VARIABLE)) else None)
        return cls.under(named.resolve()) if named else cls.system()

    @property
    def data(self) -> Path:
        """The daemon's data-root."""
        return self.state / "data"

    @property
    def config(self) -> Path:
        """The daemon's configuration."""
        return self.state / "daemon.json"

    @property
    def owner(self) -> Path:
        """Holds the number of the user that may talk to the daemon."""
        return self.state / "owner"

    @property
    def log(self) -> Path:
        """The daemon's log since its last start."""
        return self.state / "daemon.log"

    @property
    def exec_root(self) -> Path:
        """The daemon's exec-root."""
        return self.run / "exec"

    @property
    def share(self) -> Path:
        """What the worker shows to containers, such as sockets; its own, and seen by the daemon wherever it runs."""
        return self.run / "share"

    @property
    def pid_file(self) -> Path:
        """The daemon's pid file."""
        return self.run / "docker.pid"

    @property
    def socket(self) -> Path:
        """Where the daemon listens."""
        return self.run / "docker.sock"

    @property
    def gvisor_start(self) -> Path:
        """What the daemon starts in gVisor's place, see gvisor_start."""
        return self.state / "gvisor-start"

    @property
    def runsc(self) -> Path:
        """gVisor, where the distribution's own is too old."""
        return self.cache / "bin" / "runsc"

    @property
    def images(self) -> Path:
        """Built images, each with its bill of materials."""
        return self.cache / "images"
