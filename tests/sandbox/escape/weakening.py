"""Walls that are taken away, one by one, for controls. A control's text names them, separated by commas."""

# ruff: noqa: PTH110

import os
from collections.abc import Callable
from typing import Any

from tests.sandbox.escape.stage import Stage

Settings = dict[str, Any]
Take = Callable[[Settings, Stage], None]


def weaken(settings: Settings, control: str, stage: Stage) -> None:
    """Takes the walls away that `control` names."""
    for part in control.split(", "):
        if part.startswith("root with "):
            _root(settings, stage)
            for what in part.removeprefix("root with ").split(" and "):
                _give(settings, stage, what)
        else:
            _WALLS[part](settings, stage)


def _host(name: str, value: Any) -> Take:
    return lambda settings, stage: settings["HostConfig"].__setitem__(name, value)


def _root(settings: Settings, stage: Stage) -> None:
    settings["User"] = "0:0"


def _give(settings: Settings, stage: Stage, what: str) -> None:
    host = settings["HostConfig"]
    if what == "rules for the devices":
        disk = f"b {os.major(stage.disk.number)}:{os.minor(stage.disk.number)} rwm"
        host["DeviceCgroupRules"] = [disk, "c 1:11 r", "c 1:1 r"]
        host["Tmpfs"] = {"/tmp": "rw,dev,mode=1777,size=16777216"}
    elif what == "the disk in /dev":
        host.setdefault("Devices", []).append(_device(stage.disk.device, "/dev/vda"))
    elif what.startswith("the device "):
        path = what.removeprefix("the device ")
        if os.path.exists(path):  # else the control fails, and the machine is said to have none
            host.setdefault("Devices", []).append(_device(path, path))
    else:
        host.setdefault("CapAdd", []).append(what)


def _device(source: str, target: str) -> dict[str, str]:
    return {"PathOnHost": source, "PathInContainer": target, "CgroupPermissions": "rw"}


def _no_filter(settings: Settings, stage: Stage) -> None:
    options = settings["HostConfig"]["SecurityOpt"]
    settings["HostConfig"]["SecurityOpt"] = [*(each for each in options if "seccomp" not in each), "seccomp=unconfined"]


def _new_privileges(settings: Settings, stage: Stage) -> None:
    settings["HostConfig"]["SecurityOpt"][0] = "no-new-privileges:false"


def _host_network(settings: Settings, stage: Stage) -> None:
    settings["NetworkDisabled"] = False
    settings["HostConfig"]["NetworkMode"] = "host"


def _other_network(settings: Settings, stage: Stage) -> None:
    settings["NetworkDisabled"] = False
    settings["HostConfig"]["NetworkMode"] = f"container:{stage.neighbour_id}"
    settings["Hostname"] = ""


def _other_processes(settings: Settings, stage: Stage) -> None:
    settings["HostConfig"]["PidMode"] = f"container:{stage.neighbour_id}"
    settings["HostConfig"]["Init"] = False


def _host_processes(settings: Settings, stage: Stage) -> None:
    settings["HostConfig"]["PidMode"] = "host"


def _open_proc(settings: Settings, stage: Stage) -> None:
    settings["HostConfig"] |= {"MaskedPaths": [], "ReadonlyPaths": []}


def _host_sys(settings: Settings, stage: Stage) -> None:
    settings["HostConfig"]["Mounts"].append(_bind("/sys/kernel/mm", "/sys/kernel/mm") | {"ReadOnly": False})


def _writable(target: str) -> Take:
    def take(settings: Settings, stage: Stage) -> None:
        (mount,) = [each for each in settings["HostConfig"]["Mounts"] if each["Target"] == target]
        mount["ReadOnly"] = False

    return take


def _at_their_place(settings: Settings, stage: Stage) -> None:
    for folder in (stage.keys, stage.neighbour_share):
        settings["HostConfig"]["Mounts"].append(_bind(str(folder), str(folder)))


def _left_open(settings: Settings, stage: Stage) -> None:
    settings["HostConfig"]["Mounts"].append(_bind(str(stage.keys), "/run/left"))
    settings["Env"].append("ESCAPE_LEFT_OPEN=/run/left")


def _daemon(settings: Settings, stage: Stage) -> None:
    for target in (stage.daemon_socket, "/run/docker.sock"):
        settings["HostConfig"]["Mounts"].append(_bind(stage.daemon_socket, target))


def _bind(source: str, target: str) -> dict[str, Any]:
    return {"Type": "bind", "Source": source, "Target": target, "ReadOnly": True}


def _ulimit(name: str, value: int) -> Take:
    def take(settings: Settings, stage: Stage) -> None:
        others = [each for each in settings["HostConfig"]["Ulimits"] if each["Name"] != name]
        settings["HostConfig"]["Ulimits"] = [*others, {"Name": name, "Soft": value, "Hard": value}]

    return take


def _environment(settings: Settings, stage: Stage) -> None:
    settings["Env"].append(f"CLAW_KEY={stage.secret}")


def _more_memory(settings: Settings, stage: Stage) -> None:
    settings["HostConfig"] |= {"Memory": 1 << 30, "MemorySwap": 1 << 30}


def _nothing(settings: Settings, stage: Stage) -> None:
    """The host itself is weakened, see the stage."""


_WALLS: dict[str, Take] = {
    "no filter": _no_filter,
    "root": _root,
    "new privileges": _new_privileges,
    "the host's network": _host_network,
    "the host's processes": _host_processes,
    "the host's shared memory": _host("IpcMode", "host"),
    "the other container's network": _other_network,
    "the other container's processes": _other_processes,
    "open /proc": _open_proc,
    "the host's /sys": _host_sys,
    "a writable mount": _writable("/models"),
    "writable folder": _writable("/run/host"),
    "the host's files at their place": _at_their_place,
    "a folder of the host left open": _left_open,
    "the worker's environment handed on": _environment,
    "the daemon's socket": _daemon,
    "programs in /tmp": _host("Tmpfs", {"/tmp": "rw,exec,mode=1777,size=16777216"}),
    "a large /tmp": _host("Tmpfs", {"/tmp": "rw,mode=1777,size=67108864"}),
    "any number of files in /tmp": _host("Tmpfs", {"/tmp": "rw,mode=1777,size=16777216"}),
    "no limit on processes": _host("PidsLimit", 0),
    "no limit on the processor": _host("NanoCpus", 0),
    "more memory": _more_memory,
    "more open files": _ulimit("nofile", 4096),
    "core dumps": _ulimit("core", 1 << 26),
    "output without a limit": _host("LogConfig", {"Type": "json-file", "Config": {}}),
    "a host that takes descriptors": _nothing,
    "a host that gives descriptors": _nothing,
    "a host that believes every frame": _nothing,
}
