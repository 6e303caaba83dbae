"""Whether a probe's evidence is what its tier promises, line by line."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from provider.sandbox.evidence import Evidence
from provider.sandbox.policy import MIN_PIDS_GVISOR, TMP, USER, Limits
from provider.sandbox.tiers import Tier

GVISOR_KERNEL = "4.4.0"
_PLATFORMS = {Tier.GVISOR_SYSTRAP: "systrap", Tier.GVISOR_PTRACE: "ptrace"}
_DEVICES = {"console", "core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin"}
_DEVICES |= {"stdout", "tty", "urandom", "zero"}
_GVISOR_DEVICES = {"fuse", "net"}  # of gVisor's own kernel; the host has no part in them
_MOST_PROCESSES = 4
_MENDED = {(1, 2): 8, (1, 3): 3, (1, 4): 0}
_MENDED_IN_ALL = (1, 4)


@dataclass(frozen=True)
class Check:
    """One promise, and whether it holds. Without those that are not `required` a tier may still be used."""

    name: str
    holds: bool
    detail: str
    required: bool = True


def judge(tier: Tier, evidence: Evidence, limits: Limits) -> list[Check]:
    """Every promise of the tier."""
    return [
        *_kernel(tier, evidence),
        *_rights(tier, evidence),
        *_network(evidence),
        *_files(tier, evidence, limits),
        *_limits(tier, evidence, limits),
    ]


def _kernel(tier: Tier, evidence: Evidence) -> Iterator[Check]:
    kernel, view = str(evidence.facts["kernel"]), evidence.view
    if not tier.is_gvisor:
        yield Check("kernel", kernel == evidence.host_kernel, f"{kernel}, the host's own: only the filter guards it")
        if tier is Tier.RUNC_SECCOMP:
            yield Check("runc", is_mended(evidence.runc), _about(evidence.runc), required=False)
        return
    yield Check("kernel", kernel == GVISOR_KERNEL, f"{kernel} inside, {evidence.host_kernel} on the host")
    wanted = _PLATFORMS[tier]
    yield Check("platform", view.platform == wanted, f"the host sees {view.platform or 'neither systrap nor ptrace'}")
    yield Check(
        "gVisor's own filter", view.is_kernel_filtered, "gVisor's process may make few calls of the host itself"
    )


def is_mended(version: str) -> bool:
    """Whether a runc of this version is known to lack the holes of November 2025 (CVE-2025-31133, 52565, 52881)."""
    found = re.match(r"(\d+)\.(\d+)\.(\d+)(-rc)?", version)
    if found is None:
        return False
    series, patch = (int(found[1]), int(found[2])), int(found[3])
    if series > _MENDED_IN_ALL or series not in _MENDED:
        return series > _MENDED_IN_ALL
    return not found[4] and patch >= _MENDED[series]


def _about(version: str) -> str:
    if is_mended(version):
        return version
    return f"{version or 'of unknown version'}: older than 1.2.8 and 1.3.3, which mend CVE-2025-31133; renew it"


def _rights(tier: Tier, evidence: Evidence) -> Iterator[Check]:
    facts = evidence.facts
    yield Check("user", set(facts["ids"]) == {USER} and set(facts["groups"]) <= {USER}, f"ids {facts['ids']}")
    held = {name: value for name, value in facts["capabilities"].items() if int(value, 16)}
    yield Check("capabilities", bool(facts["capabilities"]) and not held, f"{held or 'none'}")
    yield Check("no new privileges", facts["no_new_privs"] == 1, f"{facts['no_new_privs']}")
    yield Check("seccomp", facts["seccomp"] == 2, f"mode {facts['seccomp']}")
    calls = facts["calls"]
    let_through = sorted(name for name, outcome in calls.items() if outcome != "EPERM")
    refused = f"{len(calls)} forbidden ones are refused"
    yield Check("system calls", bool(calls) and not let_through, _but(refused, let_through))
    seen = facts["processes"]
    yield Check("processes", 0 < len(seen) <= _MOST_PROCESSES, f"sees {len(seen)}")
    if evidence.view.shared is not None:
        # gVisor's own process stays among the host's processes; what runs in it cannot see them.
        shared = [name for name in evidence.view.shared if name != "pid" or not tier.is_gvisor]
        yield Check("namespaces", not shared, f"shared with the host: {', '.join(shared) or 'none'}")


def _network(evidence: Evidence) -> Iterator[Check]:
    facts = evidence.facts
    opened = sorted(name for name, outcome in facts["families"].items() if outcome == "worked")
    yield Check("sockets", bool(facts["families"]) and not opened, f"other than Unix: {', '.join(opened) or 'none'}")
    yield Check("interfaces", set(facts["interfaces"]) <= {"lo"}, f"{', '.join(facts['interfaces']) or 'none'}")
    for protocol in ("tcp", "udp"):
        outcomes = facts[protocol]
        worked = "worked" in outcomes.values()
        yield Check(f"{protocol} to the host", bool(outcomes) and not worked, _list(outcomes))
    yield Check("abstract sockets", facts["abstract"] != "worked", str(facts["abstract"]))
    yield Check("names", facts["name"] != "worked", f"looking one up: {facts['name']}")
    yield Check("heard by the host", not evidence.heard, ", ".join(sorted(set(evidence.heard))) or "nothing")


def _files(tier: Tier, evidence: Evidence, limits: Limits) -> Iterator[Check]:
    facts = evidence.facts
    yield Check("writable", set(facts["writable"]) <= {TMP}, ", ".join(facts["writable"]) or "nothing")
    let_through = sorted(name for name, outcome in facts["mount"].items() if outcome == "worked")
    spoilt = sorted({*let_through, *evidence.changed})
    yield Check("read-only mounts", bool(facts["mount"]) and not spoilt, _but("cannot be changed", spoilt))
    yield Check(
        "programs in /tmp",
        facts["program_in_tmp"] != "worked",
        f"running one: {facts['program_in_tmp']}",
        required=not tier.is_for_development,
    )
    yield Check("size of /tmp", 0 < facts["tmp_bytes"] <= limits.tmp, f"{facts['tmp_bytes'] / 2**20:.0f} MiB")
    known = _DEVICES | (_GVISOR_DEVICES if tier.is_gvisor else set())
    strange = sorted(set(facts["devices"]) - known)
    yield Check("devices", not strange, ", ".join(strange) or "the harmless ones")


def _limits(tier: Tier, evidence: Evidence, limits: Limits) -> Iterator[Check]:
    facts, view, required = evidence.facts, evidence.view, not tier.is_for_development
    most_pids = max(limits.pids, MIN_PIDS_GVISOR) if tier.is_gvisor else limits.pids
    yield Check("memory", _within(view.memory, limits.memory), f"{(view.memory or 0) / 2**20:.0f} MiB", required)
    yield Check("number of processes", _within(view.pids, most_pids), f"{view.pids}", required)
    yield Check("processor", _within(view.cpus, limits.cpus), f"{view.cpus} cores", required)
    yield Check("open files", _within(facts["open_files"][1], limits.open_files), f"{facts['open_files'][1]}")
    yield Check("core dumps", facts["core"] == [0, 0], f"{facts['core'][1]} bytes")


def _within(found: float | None, limit: float) -> bool:
    return found is not None and 0 < found <= limit * 1.001


def _but(text: str, others: list[str]) -> str:
    return f"{text}, except {', '.join(others)}" if others else text


def _list(outcomes: dict[str, str]) -> str:
    return ", ".join(sorted(set(outcomes.values())))
