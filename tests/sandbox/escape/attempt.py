"""What an attempt to escape is, and the table of all of them. Runs on the host and inside a container.

An attempt is one function that runs inside. It returns what it got hold of, or raises OSError. Its `effect` says how
the host judges it; its `control` names the wall that is taken away in the container in which it must succeed.
"""

import ctypes
import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Host = dict[str, Any]
Run = Callable[[Host], str]

# How the host judges an attempt:
SECRET = "the host's secret comes out"
LOOT = "something comes out that only success gives"  # such as the kernel's answer behind the filter
CHANGED = "the host's file is no longer as it was"
NOTED = "the host notices it"

# Users that namespaces of attempts map to, by which the host sees them.
MAPPED = {"unshare-user": 4201, "clone-user": 4202, "clone3-user": 4203}
LOADER_MARK = "loader-ran-mark"

_ARM = "aarch64"
# name: number on x86-64, number on ARM; None where the kernel has no such call there
NUMBERS: dict[str, tuple[int, int | None]] = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "bpf": (321, 280),
    "capset": (126, 91),
    "chroot": (161, 51),
    "clone": (56, 220),
    "clone3": (435, 435),
    "fallocate": (285, 47),
    "fanotify_init": (300, 262),
    "fsopen": (430, 430),
    "init_module": (175, 105),
    "io_uring_setup": (425, 425),
    "ioperm": (173, None),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "linkat": (265, 37),
    "memfd_create": (319, 279),
    "mknodat": (259, 33),
    "modify_ldt": (154, None),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "msgget": (68, 186),
    "msgrcv": (70, 188),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "personality": (135, 92),
    "pidfd_getfd": (438, 438),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "pivot_root": (155, 41),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "reboot": (169, 142),
    "renameat2": (316, 276),
    "sched_setscheduler": (144, 119),
    "setdomainname": (171, 162),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "setresuid": (117, 147),
    "settimeofday": (164, 170),
    "setxattr": (188, 5),
    "shmat": (30, 196),
    "shmget": (29, 194),
    "splice": (275, 76),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "tgkill": (234, 131),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
    "vmsplice": (278, 75),
}


@dataclass(frozen=True)
class Attempt:
    """One way out. `alone`: it takes what others need, and gets a container for itself."""

    name: str
    kind: str
    tries: str
    effect: str
    control: str
    run: Run
    alone: bool
    absent: str


ATTEMPTS: dict[str, Attempt] = {}


def attempt(tries: str, effect: str, control: str, *, alone: bool = False, absent: str = "") -> Callable[[Run], Run]:
    """Puts a function into the table. The class is its module.

    `absent`: a call that kernels may lack, or a file. Only where the host itself lacks it the control may fail.
    """

    def enter(run: Run) -> Run:
        name = run.__name__.replace("_", "-")
        kind = run.__module__.rpartition(".")[2].replace("_", " ")
        if name in ATTEMPTS:
            raise ValueError(f"two attempts are called {name}")
        ATTEMPTS[name] = Attempt(name, kind, tries, effect, control, run, alone, absent)
        return run

    return enter


def library() -> ctypes.CDLL:
    """The C library."""
    return ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: Any) -> int:
    """A system call by its name. Raises OSError."""
    number = NUMBERS[name][1 if os.uname().machine == _ARM else 0]
    if number is None:
        raise OSError(errno.ENOSYS, "not on this processor")
    function = library().syscall
    function.restype = ctypes.c_long
    ctypes.set_errno(0)
    converted = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    result = function(ctypes.c_long(number), *converted)
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(result)


def address(buffer: Any) -> int:
    """Where a ctypes object lies."""
    return ctypes.addressof(buffer)
