"""The engine's threads: never more than the cores given to it, and last in line for them."""

import ctypes
import os

import llama_cpp.llama_cpp as native

NICENESS = 10
_POLL = 50
_MAX_THREADS = 512


class _PoolParams(ctypes.Structure):
    """`struct ggml_threadpool_params` of ggml.h."""

    _fields_ = (
        ("cpumask", ctypes.c_bool * _MAX_THREADS),
        ("n_threads", ctypes.c_int),
        ("prio", ctypes.c_int),
        ("poll", ctypes.c_uint32),
        ("strict_cpu", ctypes.c_bool),
        ("paused", ctypes.c_bool),
    )


def usable(wanted: int) -> int:
    """`wanted` threads, at least 1 and at most the cores this process may run on."""
    return max(1, min(wanted, len(os.sched_getaffinity(0)), _MAX_THREADS))


def give_way() -> None:
    """Lets the machine's owner go first: the process's niceness becomes at least NICENESS."""
    os.nice(max(0, NICENESS - os.nice(0)))


class ThreadPool:
    """Threads that stay between decodes; without one, ggml starts and ends its threads with every decode.

    llama_cpp binds no thread pools, so this reaches into the library; the check after the initialisation fails when its
    structure is another one.
    """

    def __init__(self, threads: int) -> None:
        self.threads = usable(threads)
        params = _PoolParams()
        library = native._lib  # noqa: SLF001
        library.ggml_threadpool_params_init.argtypes = [ctypes.POINTER(_PoolParams), ctypes.c_int]
        library.ggml_threadpool_params_init.restype = None
        library.ggml_threadpool_params_init(ctypes.byref(params), self.threads)
        if (params.n_threads, params.poll, params.paused) != (self.threads, _POLL, False):
            raise RuntimeError("this build of ggml has another ggml_threadpool_params than the engine knows")
        library.ggml_threadpool_new.argtypes = [ctypes.POINTER(_PoolParams)]
        library.ggml_threadpool_new.restype = ctypes.c_void_p
        self._pool = library.ggml_threadpool_new(ctypes.byref(params))
        library.llama_attach_threadpool.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
        library.llama_attach_threadpool.restype = None

    def attach(self, context: int) -> None:
        """Makes a llama.cpp context compute with this pool. Contexts that share it compute one after another."""
        native._lib.llama_attach_threadpool(context, self._pool, self._pool)  # noqa: SLF001
