"""The table of system calls and what is made from it."""

import ctypes
import errno
import itertools
import json

import pytest

from provider.sandbox import bpf, inside, seccomp

DANGEROUS = {"acct", "add_key", "bpf", "chroot", "clock_settime", "delete_module", "fsopen", "init_module"}
DANGEROUS |= {"io_uring_enter", "io_uring_setup", "ioperm", "iopl", "kexec_load", "keyctl", "mknod", "mknodat", "mount"}
DANGEROUS |= {"open_by_handle_at", "perf_event_open", "personality", "pivot_root", "process_vm_readv", "ptrace"}
DANGEROUS |= {"process_vm_writev", "quotactl", "reboot", "request_key", "setns", "settimeofday", "swapon", "syslog"}
DANGEROUS |= {"umount2", "unshare", "userfaultfd", "vmsplice", "bind", "listen", "accept", "accept4", "shmget"}


def test_no_call_is_listed_twice_or_both_with_and_without_conditions() -> None:
    names = list(itertools.chain.from_iterable(group.split() for group in seccomp.ALLOWED.values()))
    assert sorted(names) == seccomp.allowed_names()
    assert not {name for name, _ in seccomp.CONDITIONAL} & set(names)


def test_nothing_dangerous_is_allowed() -> None:
    named = set(seccomp.allowed_names()) | {name for name, _ in seccomp.CONDITIONAL}
    assert not named & (DANGEROUS | set(inside.CALLS))


def test_every_name_is_one_that_the_kernel_has() -> None:
    library = ctypes.CDLL("libseccomp.so.2")
    unknown = [name for name in seccomp.allowed_names() if library.seccomp_syscall_resolve_name(name.encode()) == -1]
    assert unknown == []


@pytest.mark.parametrize("gvisor", [True, False])
def test_profile_refuses_by_default_and_says_what_clone3_does(gvisor: bool) -> None:
    profile = json.loads(json.dumps(seccomp.profile(gvisor=gvisor)))
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
    rules = [rule for rule in profile["syscalls"] if "clone3" in rule["names"]]
    refused = {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOSYS}
    assert rules == [{"names": ["clone3"], "action": "SCMP_ACT_ALLOW"} if gvisor else refused]


def test_sockets_are_unix_sockets_only() -> None:
    rules = [rule for rule in seccomp.profile(gvisor=True)["syscalls"] if "socket" in rule["names"]]
    assert [rule["args"] for rule in rules] == [[{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]]


def test_clone_makes_no_namespaces() -> None:
    (rule,) = [rule for rule in seccomp.profile(gvisor=False)["syscalls"] if "clone" in rule["names"]]
    (argument,) = rule["args"]
    assert argument["op"] == "SCMP_CMP_MASKED_EQ"
    assert argument["valueTwo"] == 0
    for flag in (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000):
        assert argument["value"] & flag


def test_filter_program_is_one_for_the_kernel() -> None:
    program = bpf.filter_program()
    assert len(program) % 8 == 0
    assert len(program) // 8 > len(seccomp.allowed_names())
    assert bpf.filter_program() == program
