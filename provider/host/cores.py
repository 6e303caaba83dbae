"""Keeps the worker, and every process it starts, on some of the machine's cores."""

import os

from provider.exceptions import ConfigError


def keep_to_cores(count: int) -> None:
    """Takes the last `count` of the cores there are; processes started later inherit it. Raises ConfigError."""
    if not hasattr(os, "sched_setaffinity"):
        raise ConfigError("host.cores: this operating system cannot keep a process to some cores; remove the setting")
    there = sorted(os.sched_getaffinity(0))
    if count > len(there):
        raise ConfigError(f"host.cores: there are {len(there)} cores, not {count}")
    os.sched_setaffinity(0, there[-count:])
