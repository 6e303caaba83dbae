"""The names of system calls, by their numbers on this machine's processor, as libseccomp knows them."""

import ctypes
import functools

UNKNOWN = "other"
_LIBRARY = "libseccomp.so.2"
_NATIVE = 0
_NUMBERS = 1024
"""Beyond them there are none. The library makes a new string for each answer, so that each is asked for once."""


def name_of(number: int) -> str:
    """Of any number that code in a container has used; UNKNOWN if no call has it, or the library is missing."""
    return _find(number) if number < _NUMBERS else UNKNOWN


@functools.lru_cache(maxsize=_NUMBERS)
def _find(number: int) -> str:
    try:
        resolve = ctypes.CDLL(_LIBRARY).seccomp_syscall_resolve_num_arch
    except OSError:
        return UNKNOWN
    resolve.argtypes, resolve.restype = [ctypes.c_uint32, ctypes.c_int], ctypes.c_char_p
    name: bytes | None = resolve(_NATIVE, number)
    return name.decode() if name else UNKNOWN
