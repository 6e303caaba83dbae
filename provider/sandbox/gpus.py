"""NVIDIA's GPUs: their device nodes, and whether they can be passed to a container.

Under runc the host's driver gets the calls of the code inside. gVisor takes them itself (nvproxy), knows some drivers
only, and hands on what it knows.
"""

import stat
from dataclasses import dataclass
from pathlib import Path

from provider.sandbox.errors import JobError
from provider.sandbox.paths import SandboxPaths
from provider.sandbox.programs import find_runsc, knows
from provider.sandbox.tiers import Tier

DEV = Path("/dev")
NVPROXY = "--nvproxy=true"
_NEEDED = ("nvidiactl", "nvidia-uvm")
_OPEN_TO_ALL = 0o006


@dataclass(frozen=True)
class Gpus:
    """`nodes` to pass, of `count` GPUs; or the `fault` for which none can be."""

    nodes: tuple[Path, ...] = ()
    count: int = 0
    fault: str = ""


def find_gpus(tier: Tier, runsc: str | None, folder: Path | None = None) -> Gpus:
    """What containers of this tier can get, of the nodes in `folder`, by default /dev."""
    folder = folder or DEV
    cards = sorted(each for each in folder.glob("nvidia[0-9]*") if each.name[6:].isdigit())
    nodes = (*cards, *(folder / name for name in _NEEDED))
    if not cards:
        return Gpus(fault=f"there is no {folder}/nvidia0: no NVIDIA GPU, or its driver is not loaded")
    for node in nodes:
        try:
            mode = node.stat().st_mode
        except OSError:
            return Gpus(fault=f"there is no {node}: load the driver's modules (nvidia-modprobe -u -c 0)")
        if not stat.S_ISCHR(mode):
            return Gpus(fault=f"{node} is no device")
        if mode & _OPEN_TO_ALL != _OPEN_TO_ALL:
            return Gpus(fault=f"{node} is not open to all, and who runs inside is nobody: chmod a+rw {node}")
    if tier is Tier.BUBBLEWRAP:
        return Gpus(fault="bubblewrap gets none")
    if tier.is_gvisor and not (runsc and knows(runsc, NVPROXY)):
        return Gpus(fault="this gVisor has no nvproxy: a newer runsc is needed")
    return Gpus(nodes, len(cards))


def devices_for(tier: Tier, paths: SandboxPaths) -> tuple[Path, ...]:
    """The nodes to pass. Raises JobError saying why there are none."""
    found = find_gpus(tier, find_runsc(paths))
    if found.fault:
        raise JobError(f"no GPU can be passed: {found.fault}")
    return found.nodes


def runtime_of(tier: Tier) -> str:
    """The daemon's name for what runs containers with a GPU: a gVisor that has nvproxy on."""
    return f"{tier.runtime}-gpu" if tier.is_gvisor else tier.runtime
