"""The programs that the sandbox is made of: where they are, what they know."""

import shutil
import subprocess

from provider.sandbox.paths import SandboxPaths

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def find_program(name: str) -> str | None:
    """Where a program is, also one that only root's PATH has."""
    return shutil.which(name, path=PATH)


def find_runsc(paths: SandboxPaths) -> str | None:
    """gVisor: the one fetched for this sandbox, else the machine's own."""
    return str(paths.runsc) if paths.runsc.exists() else find_program("runsc")


def knows(program: str, flag: str) -> bool:
    """Whether a program takes this flag."""
    return subprocess.run([program, flag, "--version"], capture_output=True, check=False).returncode == 0
