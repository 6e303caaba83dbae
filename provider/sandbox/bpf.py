"""The system call filter as a program for the kernel, made by libseccomp: bubblewrap takes no profile, but that."""

import ctypes
import errno
import os
import tempfile

from provider.sandbox import seccomp
from provider.sandbox.errors import SetupError

_LIBRARY = "libseccomp.so.2"
_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_EQUAL, _MASKED_EQUAL = 4, 7


class _Comparison(ctypes.Structure):
    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("a", ctypes.c_uint64),
        ("b", ctypes.c_uint64),
    )


def filter_program() -> bytes:
    """For code that runs on the host's kernel. Raises SetupError."""
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError as error:
        raise SetupError(f"{_LIBRARY} is missing: install libseccomp2") from error
    library.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(_ERRNO | errno.EPERM)))
    try:
        for name in seccomp.allowed_names():
            _add(library, context, name, _ALLOW)
        for name, argument in seccomp.CONDITIONAL:
            _add(library, context, name, _ALLOW, argument)
        _add(library, context, "clone3", _ERRNO | errno.ENOSYS)
        with tempfile.TemporaryFile() as file:
            if library.seccomp_export_bpf(context, file.fileno()) != 0:
                raise SetupError(f"{_LIBRARY} cannot make the filter")
            file.seek(0)
            return file.read()
    finally:
        library.seccomp_release(context)


def _add(
    library: ctypes.CDLL, context: ctypes.c_void_p, name: str, action: int, argument: seccomp.Argument | None = None
) -> None:
    number = library.seccomp_syscall_resolve_name(name.encode())
    if number < 0:  # none of this processor's
        return
    comparisons = (_Comparison * 1)()
    if argument is not None and argument.mask is None:
        comparisons[0] = _Comparison(argument.index, _EQUAL, argument.value, 0)
    elif argument is not None:
        comparisons[0] = _Comparison(argument.index, _MASKED_EQUAL, argument.mask or 0, argument.value)
    count = 0 if argument is None else 1
    status = library.seccomp_rule_add_array(context, ctypes.c_uint32(action), number, count, comparisons)
    if status != 0:
        raise SetupError(f"{_LIBRARY} refuses a rule for {name}: {os.strerror(-status)}")
