"""Which system calls code in a container may make: everything else fails with EPERM.

One table for all. The rules that libseccomp and the daemon read are made from it, in two variants: under runc `clone3`
says ENOSYS, since its flags lie in memory where a filter cannot see them and C libraries then fall back to `clone`;
gVisor's kernel has no such fallback and gets `clone3`.
"""

import errno
from dataclasses import dataclass
from typing import Any

_AF_UNIX = 1
_CLONE_NEW_ANY = 0x7E020000
_IOCTLS = {
    "TCGETS": 0x5401,
    "TIOCSPGRP": 0x5410,  # the init process asks for the terminal that it has not
    "TIOCGWINSZ": 0x5413,
    "FIONREAD": 0x541B,
    "FIONBIO": 0x5421,
    "FIONCLEX": 0x5450,
    "FIOCLEX": 0x5451,
}

ALLOWED = {
    "start and end": "execve exit exit_group arch_prctl prctl rseq set_tid_address set_robust_list get_robust_list",
    "memory": "brk mmap munmap mremap mprotect madvise msync mincore membarrier",
    "reading and writing": "read readv pread64 preadv preadv2 write writev pwrite64 pwritev pwritev2 lseek sendfile"
    " copy_file_range fsync fdatasync ftruncate truncate fallocate fadvise64",
    "files": "open openat openat2 creat close close_range dup dup2 dup3 fcntl umask access faccessat faccessat2"
    " stat fstat lstat newfstatat statx statfs fstatfs readlink readlinkat getcwd chdir fchdir getdents getdents64"
    " mkdir mkdirat rmdir unlink unlinkat rename renameat renameat2 link linkat symlink symlinkat"
    " chmod fchmod fchmodat utime utimes utimensat futimesat",
    "waiting": "poll ppoll select pselect6 epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2"
    " eventfd eventfd2 pipe pipe2 restart_syscall pause",
    "threads": "futex sched_yield sched_getaffinity sched_setaffinity sched_getparam sched_getscheduler"
    " sched_get_priority_max sched_get_priority_min getpriority setpriority gettid getcpu",
    "processes": "fork vfork wait4 waitid kill tkill tgkill getpid getppid getpgid getpgrp getsid setsid setpgid",
    "signals": "rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigsuspend rt_sigtimedwait sigaltstack",
    "time": "clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday time times getitimer setitimer alarm",
    "who and how much": "getuid geteuid getgid getegid getresuid getresgid getgroups capget uname sysinfo getrlimit"
    " setrlimit prlimit64 getrusage getrandom",
    "sockets to the host": "connect sendto sendmsg recvfrom recvmsg shutdown getsockname getpeername getsockopt"
    " setsockopt",
}


@dataclass(frozen=True)
class Argument:
    """A condition on one argument of a system call: `value` itself, or under `mask`."""

    index: int
    value: int
    mask: int | None = None


# Each pair is enough to allow the call.
CONDITIONAL: tuple[tuple[str, Argument], ...] = (
    ("socket", Argument(0, _AF_UNIX)),
    ("socketpair", Argument(0, _AF_UNIX)),
    ("clone", Argument(0, 0, mask=_CLONE_NEW_ANY)),  # no new namespaces
    *(("ioctl", Argument(1, request)) for request in _IOCTLS.values()),
)

_NO_TYPE, _TYPE = 0xFFFFFF00, 0xFF00
# The driver's requests bear its letter, those of its memory have numbers alone.
FOR_GPUS: tuple[tuple[str, Argument], ...] = (
    ("ioctl", Argument(1, ord("F") << 8, mask=_TYPE)),
    ("ioctl", Argument(1, 0, mask=_NO_TYPE)),
    ("ioctl", Argument(1, 0x30000001)),
    ("ioctl", Argument(1, 0x30000002)),
)


def allowed_names() -> list[str]:
    """Calls that are allowed whatever their arguments."""
    return sorted({name for names in ALLOWED.values() for name in names.split()})


def profile(*, gvisor: bool, gpu: bool = False) -> dict[str, Any]:
    """The profile as the daemon reads it; with `gpu` it also lets requests to NVIDIA's driver pass."""
    clone3: dict[str, Any] = {"names": ["clone3"], "action": "SCMP_ACT_ALLOW"}
    if not gvisor:
        clone3 = {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOSYS}
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [
            {"names": allowed_names(), "action": "SCMP_ACT_ALLOW"},
            *(
                {"names": [name], "action": "SCMP_ACT_ALLOW", "args": [_argument(argument)]}
                for name, argument in CONDITIONAL + (FOR_GPUS if gpu else ())
            ),
            clone3,
        ],
    }


def _argument(argument: Argument) -> dict[str, Any]:
    if argument.mask is None:
        return {"index": argument.index, "value": argument.value, "op": "SCMP_CMP_EQ"}
    return {
        "index": argument.index,
        "value": argument.mask,
        "valueTwo": argument.value,
        "op": "SCMP_CMP_MASKED_EQ",
    }
