"""Each tier keeps its promises, and the probe sees it when one is broken."""

import dataclasses
import json
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from provider.sandbox import bubblewrap, probe
from provider.sandbox.bait import Bait
from provider.sandbox.errors import ContainerError, NoSandboxError
from provider.sandbox.evidence import Evidence, collect, probe_command
from provider.sandbox.image.interpreter import program
from provider.sandbox.judging import is_mended
from provider.sandbox.listeners import HostListeners
from provider.sandbox.paths import SandboxPaths
from provider.sandbox.policy import container_settings
from provider.sandbox.probe import LIMITS, TierResult, conclude, find_tier, try_bubblewrap, try_tier
from provider.sandbox.tiers import PRODUCTION_TIERS, Tier
from tests.support.sandbox import DIRECT, UNFILTERED, Sandbox

Change = Callable[[dict[str, Any]], None]


def evidence_of(sandbox: Sandbox, tier: Tier, change: Change = lambda _: None) -> Evidence:
    """What a probe finds in a container of the tier's policy after a change to it."""
    with HostListeners() as listeners, Bait(sandbox.paths.share) as bait:
        command = probe_command(str(program()), listeners)
        settings = container_settings(tier, sandbox.image.image_id, command, LIMITS, mounts=(bait.mount,))
        change(settings)
        return collect(sandbox.client, settings, "test-probe", listeners, bait)


def broken(result: TierResult) -> set[str]:
    """Its age is the machine's: that of runc is told and breaks nothing."""
    assert result.fault == ""
    return {check.name for check in result.checks if not check.holds} - {"runc"}


@pytest.mark.parametrize("tier", PRODUCTION_TIERS)
def test_tier_keeps_its_promises(sandbox: Sandbox, tier: Tier) -> None:
    result = try_tier(sandbox.client, sandbox.paths, sandbox.image, tier)
    assert result.reason == ""
    assert result.passed
    assert len(result.checks) >= 22
    assert {check.name for check in result.checks if not check.required} <= {"runc"}


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("1.1.5+ds1", False),
        ("1.2.7", False),
        ("1.2.8", True),
        ("1.3.2", False),
        ("1.3.3-rc.1", False),
        ("1.3.3+ds1-1", True),
        ("1.4.0-rc.2", False),
        ("1.4.0", True),
        ("2.0.0-rc.1", True),
        ("", False),
        ("spec: 1.0", False),
    ],
)
def test_which_runc_is_mended(version: str, *, expected: bool) -> None:
    assert is_mended(version) is expected


def test_the_runc_that_runs_is_told(sandbox: Sandbox) -> None:
    result = try_tier(sandbox.client, sandbox.paths, sandbox.image, Tier.RUNC_SECCOMP)
    (found,) = [check for check in result.checks if check.name == "runc"]
    said = subprocess.run(["runc", "--version"], capture_output=True, text=True, check=True).stdout
    assert f"runc version {found.detail.partition(':')[0]}\n" in said


def test_the_strongest_tier_is_taken(sandbox: Sandbox) -> None:
    found = find_tier(sandbox.paths)
    assert found.tier is Tier.GVISOR_SYSTRAP
    assert [result.tier for result in found.results] == [Tier.GVISOR_SYSTRAP]


def test_a_tier_that_fails_is_passed_over_with_its_reason(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "find_runsc", lambda paths: None)
    found = find_tier(sandbox.paths)
    assert found.tier is Tier.RUNC_SECCOMP
    assert [result.fault for result in found.results[:2]] == [
        "runsc is not installed; as root: clawmarket sandbox setup"
    ] * 2


def test_without_any_tier_nothing_is_served(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "try_tier", lambda client, paths, image, tier: TierResult(tier, fault="broken here"))
    with pytest.raises(NoSandboxError, match=r"gvisor-systrap: broken here; gvisor-ptrace: .*; runc-seccomp: broken"):
        find_tier(sandbox.paths)
    assert find_tier(sandbox.paths, dev=True).tier is Tier.BUBBLEWRAP


def test_without_a_daemon_nothing_is_served(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = SandboxPaths(sandbox.paths.state / "none", sandbox.paths.run / "none", sandbox.paths.cache)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(NoSandboxError, match=r"it does not run .* as root: clawmarket sandbox setup"):
        find_tier(nowhere)


def test_bubblewrap_isolates_but_does_not_limit(sandbox: Sandbox) -> None:
    result = try_bubblewrap(sandbox.image)
    assert result.passed
    assert broken(result) == {"memory", "number of processes", "processor", "programs in /tmp"}
    assert Tier.BUBBLEWRAP not in PRODUCTION_TIERS


def test_bubblewrap_without_its_filter_fails(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = bubblewrap.command_line

    def without_filter(*arguments: Any, **named: Any) -> list[str]:
        line = whole(*arguments, **named)
        at = line.index("--seccomp")
        return line[:at] + line[at + 2 :]

    monkeypatch.setattr(bubblewrap, "command_line", without_filter)
    assert {"seccomp", "system calls", "sockets"} <= broken(try_bubblewrap(sandbox.image))


def host(name: str, value: Any) -> Change:
    return lambda settings: settings["HostConfig"].__setitem__(name, value)


def top(name: str, value: Any) -> Change:
    return lambda settings: settings.__setitem__(name, value)


def together(*changes: Change) -> Change:
    def change(settings: dict[str, Any]) -> None:
        for each in changes:
            each(settings)

    return change


NO_FILTER = host("SecurityOpt", ["no-new-privileges:true", "seccomp=unconfined"])
HOST_NETWORK = together(top("NetworkDisabled", False), host("NetworkMode", "host"))
WEAKENED: dict[str, tuple[Change, set[str]]] = {
    "no filter": (NO_FILTER, {"seccomp", "system calls", "sockets"}),
    "new privileges": (
        host("SecurityOpt", ["no-new-privileges:false", "seccomp=unconfined"]),
        {"no new privileges"},
    ),
    "root": (top("User", "0:0"), {"user"}),
    "root with capabilities": (
        together(top("User", "0:0"), host("CapDrop", [])),
        {"user", "capabilities"},
    ),
    "the host's network": (together(HOST_NETWORK, NO_FILTER), {"interfaces", "tcp to the host", "udp to the host"}),
    "the host's abstract sockets": (HOST_NETWORK, {"abstract sockets", "heard by the host", "namespaces"}),
    "the host's processes": (host("PidMode", "host"), {"processes", "namespaces"}),
    "shared memory": (host("IpcMode", "private"), {"writable"}),
    "a writable disk": (
        together(host("ReadonlyRootfs", False), top("User", "0:0"), host("CapDrop", [])),
        {"writable", "user", "capabilities"},
    ),
    "programs in /tmp": (host("Tmpfs", {"/tmp": "rw,exec,size=33554432"}), {"programs in /tmp"}),
    "a writable mount": (
        lambda settings: settings["HostConfig"]["Mounts"][0].__setitem__("ReadOnly", False),
        {"read-only mounts"},
    ),
    "a large /tmp": (host("Tmpfs", {"/tmp": "rw,noexec,size=1073741824"}), {"size of /tmp"}),
    "devices": (
        host("Devices", [{"PathOnHost": "/dev/null", "PathInContainer": "/dev/disk", "CgroupPermissions": "r"}]),
        {"devices"},
    ),
    "no memory limit": (together(host("Memory", 0), host("MemorySwap", 0)), {"memory"}),
    "more memory": (together(host("Memory", 1 << 30), host("MemorySwap", 1 << 30)), {"memory"}),
    "no limit on processes": (host("PidsLimit", 0), {"number of processes"}),
    "no limit on the processor": (host("NanoCpus", 0), {"processor"}),
    "no limits on files and core dumps": (
        host("Ulimits", [{"Name": "core", "Soft": 1, "Hard": 1}, {"Name": "nofile", "Soft": 4096, "Hard": 4096}]),
        {"open files", "core dumps"},
    ),
}


@pytest.mark.parametrize("name", WEAKENED)
def test_probe_sees_a_weakened_container(sandbox: Sandbox, name: str) -> None:
    change, wanted = WEAKENED[name]
    result = conclude(Tier.RUNC_SECCOMP, evidence_of(sandbox, Tier.RUNC_SECCOMP, change))
    assert not result.passed
    assert wanted <= broken(result)


def test_without_the_filter_the_network_is_still_not_there(sandbox: Sandbox) -> None:
    """Two walls: without one the other holds."""
    for tier in PRODUCTION_TIERS:
        evidence = evidence_of(sandbox, tier, NO_FILTER)
        assert evidence.facts["families"]["inet"] == "worked"
        result = conclude(tier, evidence)
        assert not {"tcp to the host", "udp to the host", "names", "heard by the host", "interfaces"} & broken(result)
        assert set(evidence.facts["tcp"].values()) <= {"ENETUNREACH", "ECONNREFUSED", "EHOSTUNREACH"}


@pytest.mark.parametrize("tier", [Tier.GVISOR_SYSTRAP, Tier.GVISOR_PTRACE])
def test_the_platform_is_seen_and_not_believed(sandbox: Sandbox, tier: Tier) -> None:
    other = {Tier.GVISOR_SYSTRAP: Tier.GVISOR_PTRACE, Tier.GVISOR_PTRACE: Tier.GVISOR_SYSTRAP}[tier]
    evidence = evidence_of(sandbox, tier, host("Runtime", other.runtime))
    assert broken(conclude(tier, evidence)) == {"platform"}
    assert broken(conclude(other, evidence)) == set()


def test_a_container_on_the_hosts_kernel_is_no_gvisor(sandbox: Sandbox) -> None:
    evidence = evidence_of(sandbox, Tier.RUNC_SECCOMP)
    assert {"kernel", "platform"} <= broken(conclude(Tier.GVISOR_SYSTRAP, evidence))
    evidence = evidence_of(sandbox, Tier.GVISOR_SYSTRAP)
    assert "kernel" in broken(conclude(Tier.RUNC_SECCOMP, evidence))


def test_gvisor_that_ignores_the_filter_fails(sandbox: Sandbox) -> None:
    evidence = evidence_of(sandbox, Tier.GVISOR_SYSTRAP, host("Runtime", UNFILTERED))
    assert {"seccomp", "system calls", "sockets"} <= broken(conclude(Tier.GVISOR_SYSTRAP, evidence))


def test_gvisor_that_opens_files_itself_fails(sandbox: Sandbox) -> None:
    """It says that the mount is read-only, and truncates the host's file all the same."""
    evidence = evidence_of(sandbox, Tier.GVISOR_SYSTRAP, host("Runtime", DIRECT))
    assert evidence.facts["mount"]["write-truncate"] == "EROFS"
    assert set(evidence.changed) == {"write-truncate", "read-truncate"}
    assert broken(conclude(Tier.GVISOR_SYSTRAP, evidence)) == {"read-only mounts"}


def test_what_a_probe_leaves_out_counts_against_it(sandbox: Sandbox) -> None:
    evidence = evidence_of(sandbox, Tier.RUNC_SECCOMP)
    assert conclude(Tier.RUNC_SECCOMP, evidence).passed
    for name in evidence.facts:
        rest = {key: value for key, value in evidence.facts.items() if key != name}
        assert not conclude(Tier.RUNC_SECCOMP, dataclasses.replace(evidence, facts=rest)).passed, name
        if isinstance(evidence.facts[name], dict | list) and name not in (
            "interfaces",
            "groups",
            "writable",
            "devices",
        ):
            empty = evidence.facts | {name: type(evidence.facts[name])()}
            assert not conclude(Tier.RUNC_SECCOMP, dataclasses.replace(evidence, facts=empty)).passed, name


def test_a_probe_that_ends_early_says_why(sandbox: Sandbox) -> None:
    settings = container_settings(
        Tier.RUNC_SECCOMP, sandbox.image.image_id, [str(program()), "-c", "raise SystemExit('oh no')"], LIMITS
    )
    with HostListeners() as listeners, Bait(sandbox.paths.share) as bait:
        with pytest.raises(ContainerError, match="ended with code 1: oh no"):
            collect(sandbox.client, settings, "test-early", listeners, bait)
        settings["Cmd"] = ["-c", "print('no facts')"]
        with pytest.raises(ContainerError, match="cannot be read"):
            collect(sandbox.client, settings, "test-early", listeners, bait)


def test_no_probe_is_left_behind(sandbox: Sandbox) -> None:
    for tier in PRODUCTION_TIERS:
        try_tier(sandbox.client, sandbox.paths, sandbox.image, tier)
    assert [each.name for each in sandbox.client.containers.list(all=True)] == []


def test_results_can_be_told(sandbox: Sandbox) -> None:
    result = try_tier(sandbox.client, sandbox.paths, sandbox.image, Tier.RUNC_SECCOMP)
    told = json.dumps(dataclasses.asdict(result))
    assert "the host's own: only the filter guards it" in told
