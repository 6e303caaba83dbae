"""What limits become."""

import json
from pathlib import Path
from typing import Any

import pytest

from provider.sandbox.policy import Limits, Mount, container_settings
from provider.sandbox.tiers import PRODUCTION_TIERS, Tier


@pytest.mark.parametrize("tier", PRODUCTION_TIERS)
def test_every_tier_is_equally_strict(tier: Tier) -> None:
    settings = container_settings(tier, "image", ["a", "b"], Limits())
    host = settings["HostConfig"]
    assert settings["User"] == "65534:65534"
    assert (settings["Entrypoint"], settings["Cmd"]) == (["a"], ["b"])
    assert settings["NetworkDisabled"] is True
    assert not settings["OpenStdin"]
    assert host["NetworkMode"] == host["IpcMode"] == "none"
    assert host["CapDrop"] == ["ALL"]
    assert "CapAdd" not in host
    assert host["ReadonlyRootfs"] is True
    assert host["Privileged"] is False
    assert host["Runtime"] == tier.runtime
    assert host["RestartPolicy"] == {"Name": "no"}
    assert host["LogConfig"]["Config"]["max-size"] == str(1 << 20)
    new_privileges, filter_ = host["SecurityOpt"]
    assert new_privileges == "no-new-privileges:true"
    assert json.loads(filter_.removeprefix("seccomp="))["defaultAction"] == "SCMP_ACT_ERRNO"


def test_limits_are_the_containers() -> None:
    limits = Limits(memory=64 << 20, cpus=0.5, pids=300, tmp=1 << 20, open_files=99)
    host = container_settings(Tier.RUNC_SECCOMP, "image", ["a"], limits)["HostConfig"]
    assert host["Memory"] == host["MemorySwap"] == 64 << 20
    assert host["NanoCpus"] == 500_000_000
    assert host["PidsLimit"] == 300
    assert host["Tmpfs"] == {"/tmp": "rw,nosuid,nodev,noexec,mode=1777,size=1048576,nr_inodes=256"}
    assert {each["Name"]: (each["Soft"], each["Hard"]) for each in host["Ulimits"]} == {
        "nofile": (99, 99),
        "core": (0, 0),
    }


def test_gvisor_gets_room_for_its_own_threads() -> None:
    limits = Limits(pids=10)
    assert container_settings(Tier.GVISOR_SYSTRAP, "i", ["a"], limits)["HostConfig"]["PidsLimit"] == 256
    assert container_settings(Tier.RUNC_SECCOMP, "i", ["a"], limits)["HostConfig"]["PidsLimit"] == 10


@pytest.mark.parametrize("name", ["memory", "cpus", "pids", "tmp", "open_files"])
@pytest.mark.parametrize("value", [0, -1])
def test_what_would_mean_no_limit_is_refused(name: str, value: int) -> None:
    wrong: dict[str, Any] = {name: value}
    with pytest.raises(ValueError, match="positive"):
        Limits(**wrong)


@pytest.mark.parametrize("cpus", [float("inf"), float("nan")])
def test_endless_processors_are_refused(cpus: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        Limits(cpus=cpus)


def test_mounts_are_read_only_unless_asked_for() -> None:
    mounts = (Mount(Path("/a"), "/models"), Mount(Path("/b"), "/run/host", read_only=False))
    host = container_settings(Tier.RUNC_SECCOMP, "image", ["a"], Limits(), mounts=mounts)["HostConfig"]
    assert [(each["Target"], each["ReadOnly"]) for each in host["Mounts"]] == [("/models", True), ("/run/host", False)]
    assert all(each["BindOptions"]["Propagation"] == "rprivate" for each in host["Mounts"])
