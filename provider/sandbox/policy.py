"""The one place where limits become a container's settings.

Nothing of it can be loosened by who asks for a container: it chooses how much, never how strictly.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provider.sandbox import seccomp
from provider.sandbox.gpus import runtime_of
from provider.sandbox.tiers import Tier

USER = 65_534
MIN_PIDS_GVISOR = 256  # gVisor's own threads count too
TMP = "/tmp"  # noqa: S108 - of the container
TMP_OPTIONS = "rw,nosuid,nodev,noexec"
_LOG_BYTES = 1 << 20
_LEAST_FILES = 64


@dataclass(frozen=True)
class Limits:
    """How much a container may take; sizes in bytes. `cores` are those it keeps to, by number; none for any."""

    memory: int = 2 << 30
    cpus: float = 1.0
    cores: tuple[int, ...] = ()
    pids: int = 512
    tmp: int = 64 << 20
    open_files: int = 1024

    def __post_init__(self) -> None:
        """Refuses what would mean "no limit" to the daemon."""
        if min(self.memory, self.cpus, self.pids, self.tmp, self.open_files) <= 0 or not math.isfinite(self.cpus):
            raise ValueError("every limit of a container is a positive number")


@dataclass(frozen=True)
class Mount:
    """A file or folder of the host that a container sees. Writable ones are for sockets and results only."""

    source: Path
    target: str
    read_only: bool = True


@dataclass(frozen=True)
class Scratch:
    """A writable folder in memory, of bounded `size` and number of `files`.

    The daemon mounts it for the first container that shows it and forgets it after the last, so that one container can
    keep what another has left. What is in it counts as memory of the container that wrote it.
    """

    name: str
    target: str
    size: int
    files: int

    def __post_init__(self) -> None:
        """Refuses what would mean "no limit" to the kernel."""
        if min(self.size, self.files) <= 0:
            raise ValueError("the size of a scratch folder and its number of files are positive numbers")


def container_settings(
    tier: Tier,
    image: str,
    command: list[str],
    limits: Limits,
    *,
    mounts: tuple[Mount, ...] = (),
    scratch: Scratch | None = None,
    gpu: tuple[Path, ...] = (),
    takes_input: bool = False,
    environment: dict[str, str] | None = None,
    labels: dict[str, str] | None = None,
) -> dict[str, Any]:
    """The body of the daemon's request to make a container; it works in `scratch`, if there is one.

    `gpu` are the device nodes of GPUs, which it may use.
    """
    host = _host_settings(tier, limits, mounts)
    if gpu:
        host |= {
            "Runtime": runtime_of(tier),
            "SecurityOpt": _security(tier, gpu=True),
            "Devices": [_device(node) for node in gpu],
        }
    if scratch:
        host["Mounts"].append(_scratch_mount(scratch, labels or {}))
        host["Ulimits"].append({"Name": "fsize", "Soft": scratch.size, "Hard": scratch.size})
    return {
        "Image": image,
        "Entrypoint": command[:1],
        "Cmd": command[1:],
        "Env": [f"{name}={value}" for name, value in sorted((environment or {}).items())],
        "Labels": labels or {},
        "User": f"{USER}:{USER}",
        "Hostname": "sandbox",
        "NetworkDisabled": True,
        "WorkingDir": scratch.target if scratch else "",
        "AttachStdin": takes_input,
        "OpenStdin": takes_input,
        "StdinOnce": takes_input,
        "Tty": False,
        "HostConfig": host,
    }


def _host_settings(tier: Tier, limits: Limits, mounts: tuple[Mount, ...]) -> dict[str, Any]:
    return {
        "Runtime": tier.runtime,
        "Init": True,  # reaps children and passes signals on
        "NetworkMode": "none",
        "IpcMode": "none",
        "Privileged": False,
        "CapDrop": ["ALL"],
        "SecurityOpt": _security(tier),
        "ReadonlyRootfs": True,
        "Tmpfs": {TMP: f"{TMP_OPTIONS},mode=1777,size={limits.tmp},nr_inodes={max(_LEAST_FILES, limits.tmp // 4096)}"},
        "Mounts": [_mount(mount) for mount in mounts],
        "Memory": limits.memory,
        "MemorySwap": limits.memory,  # of both together: no swap
        "NanoCpus": round(limits.cpus * 1e9),
        "CpusetCpus": ",".join(str(core) for core in limits.cores),
        "PidsLimit": max(limits.pids, MIN_PIDS_GVISOR) if tier.is_gvisor else limits.pids,
        "Ulimits": [
            {"Name": "nofile", "Soft": limits.open_files, "Hard": limits.open_files},
            {"Name": "core", "Soft": 0, "Hard": 0},
        ],
        "OomScoreAdj": 500,
        "RestartPolicy": {"Name": "no"},
        "LogConfig": {
            "Type": "json-file",
            "Config": {"max-size": str(_LOG_BYTES), "max-file": "1", "mode": "non-blocking"},
        },
    }


def _security(tier: Tier, *, gpu: bool = False) -> list[str]:
    profile = seccomp.profile(gvisor=tier.is_gvisor, gpu=gpu)
    return ["no-new-privileges:true", f"seccomp={json.dumps(profile)}"]


def _device(node: Path) -> dict[str, str]:
    return {"PathOnHost": str(node), "PathInContainer": f"/dev/{node.name}", "CgroupPermissions": "rw"}


def _mount(mount: Mount) -> dict[str, Any]:
    return {
        "Type": "bind",
        "Source": str(mount.source),
        "Target": mount.target,
        "ReadOnly": mount.read_only,
        "BindOptions": {"Propagation": "rprivate", "NonRecursive": True},
    }


def _scratch_mount(scratch: Scratch, labels: dict[str, str]) -> dict[str, Any]:
    options = f"{TMP_OPTIONS},mode=0700,uid={USER},gid={USER},size={scratch.size},nr_inodes={scratch.files}"
    return {
        "Type": "volume",
        "Source": scratch.name,
        "Target": scratch.target,
        "ReadOnly": False,
        "VolumeOptions": {
            "NoCopy": True,
            "Labels": labels,
            "DriverConfig": {"Name": "local", "Options": {"type": "tmpfs", "device": "tmpfs", "o": options}},
        },
    }
