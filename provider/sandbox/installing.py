"""Installs what the sandbox runs on: the container daemon, bubblewrap, gVisor. Costs nothing when all is there."""

import fcntl
import json
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from provider.sandbox.apt_sources import for_release, read_sources
from provider.sandbox.errors import SetupError
from provider.sandbox.paths import SandboxPaths
from provider.sandbox.programs import find_program, find_runsc

Report = Callable[[str], None]

PACKAGES = {"dockerd": "docker.io", "bwrap": "bubblewrap"}
GVISOR_PACKAGE = "runsc"
_OLD_GVISOR = {"bookworm": "trixie"}  # release: the one whose gVisor has systrap and runs on it
_SERVICES = ("docker.socket", "docker.service", "containerd.service")
_POLICY = Path("/usr/sbin/policy-rc.d")
_APT_S = 600
_BY_HAND = "install docker (20.10 or later), runsc (gVisor) and bubblewrap by hand"


def missing(paths: SandboxPaths) -> list[str]:
    """Programs that set-up would install."""
    names = [program for program in PACKAGES if find_program(program) is None]
    if _wants_later_gvisor():
        return names + ([] if paths.runsc.exists() else ["runsc"])
    return names + ([] if find_runsc(paths) else ["runsc"])


def install(paths: SandboxPaths, report: Report) -> None:
    """Installs what is missing. Raises SetupError saying what to do where it cannot."""
    wanted = missing(paths)
    if not wanted:
        return
    _check_machine(wanted)
    paths.cache.mkdir(parents=True, exist_ok=True)
    with (paths.cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        wanted = missing(paths)
        packages = [PACKAGES[program] for program in wanted if program in PACKAGES]
        if packages:
            _install_packages(packages, report)
        if "runsc" in wanted:
            _install_gvisor(paths, report)


def _check_machine(wanted: list[str]) -> None:
    need = f"missing: {', '.join(wanted)}"
    if platform.system() != "Linux":
        raise SetupError(f"{need}; containers need Linux")
    if find_program("apt-get") is None or find_program("dpkg-deb") is None:
        raise SetupError(f"{need}; this is no Debian or Ubuntu: {_BY_HAND}")
    if os.geteuid() != 0:
        raise SetupError(f"{need}; as root: clawmarket sandbox setup")


def _install_packages(packages: list[str], report: Report) -> None:
    report(f"installing {', '.join(packages)}")
    command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300", *packages]
    with _no_services_started():
        fault = _run(command)
        if fault:
            _run(["apt-get", "update", "-qq"])
            fault = _run(command)
    if fault:
        raise SetupError(f"apt cannot install {' '.join(packages)} ({fault}): check the network, or {_BY_HAND}")
    if "docker.io" in packages and find_program("systemctl"):
        # The machine's own daemon would make a bridge and firewall rules. The sandbox has a private one.
        _run(["systemctl", "disable", "--quiet", *_SERVICES])


def _install_gvisor(paths: SandboxPaths, report: Report) -> None:
    faults = []
    if _wants_later_gvisor():
        later = _OLD_GVISOR[_release()["VERSION_CODENAME"]]
        report(f"fetching gVisor of {later}")
        try:
            _fetch_gvisor(paths, later)
        except SetupError as error:
            faults.append(str(error))
        else:
            return
    if find_program("runsc") is None:
        report("installing gVisor")
        fault = _run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", GVISOR_PACKAGE])
        if fault:
            faults.append(fault)
    if find_program("runsc") is None:
        raise SetupError(f"gVisor cannot be installed ({'; '.join(faults)}): check the network, or {_BY_HAND}")
    if faults:
        report(f"only the distribution's older gVisor is here: {'; '.join(faults)}")


def _fetch_gvisor(paths: SandboxPaths, later: str) -> None:
    """Takes the package of a later release and unpacks its one static program; apt checks the signatures."""
    sources = for_release(read_sources(), _release()["VERSION_CODENAME"], later)
    if not sources:
        raise SetupError("no source of the distribution's own is configured for apt")
    paths.runsc.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=paths.cache, prefix="apt-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        for part in ("lists/partial", "archives/partial"):
            (folder / part).mkdir(parents=True)
        (folder / "later.sources").write_text("\n".join(source.text() for source in sources))
        (folder / "status").touch()
        options = [
            f"Dir::Etc::sourcelist={folder / 'later.sources'}",
            "Dir::Etc::sourceparts=/dev/null",
            "Dir::Etc::preferences=/dev/null",
            "Dir::Etc::preferencesparts=/dev/null",
            f"Dir::State={folder}",
            f"Dir::State::lists={folder / 'lists'}",
            f"Dir::State::status={folder / 'status'}",
            f"Dir::Cache={folder}",
            "Acquire::AllowInsecureRepositories=false",
            "APT::Get::AllowUnauthenticated=false",
            "Acquire::Languages=none",
        ]
        apt = ["apt-get", "-qq", *(part for option in options for part in ("-o", option))]
        for command in ([*apt, "update"], [*apt, "download", GVISOR_PACKAGE]):
            fault = _run(command, folder)
            if fault:
                raise SetupError(f"gVisor of {later} cannot be fetched: {fault}")
        package = next(folder.glob(f"{GVISOR_PACKAGE}_*.deb"))
        unpacked = folder / "unpacked"
        fault = _run(["dpkg-deb", "--extract", str(package), str(unpacked)])
        program = unpacked / "usr/bin/runsc"
        fault = fault or _run([str(program), "--version"])
        if fault:
            raise SetupError(f"gVisor of {later} does not run here: {fault}")
        record = {"package": package.name, "release": later, "sha256": sha256(program.read_bytes()).hexdigest()}
        paths.runsc.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n")
        program.chmod(0o755)
        shutil.move(program, paths.runsc)


def _wants_later_gvisor() -> bool:
    return _release().get("VERSION_CODENAME") in _OLD_GVISOR


def _release() -> dict[str, str]:
    try:
        return platform.freedesktop_os_release()
    except OSError:
        return {}


def _run(command: list[str], folder: Path | None = None) -> str:
    """Empty when it went well, else what went wrong in one line."""
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=os.environ | {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=_APT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return ""
    lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("E:")]
    return (errors or lines or [f"exit code {done.returncode}"])[-1]


@contextmanager
def _no_services_started() -> Iterator[None]:
    """Debian starts services when it installs them, unless this file says no."""
    if _POLICY.exists():
        yield
        return
    _POLICY.write_text("#!/bin/sh\nexit 101\n")
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        _POLICY.unlink(missing_ok=True)
