"""The tier found last, so that a restart of the worker costs no probe: believed only while nothing it rests on changed.

That is: this start of the machine and of the daemon, its configuration, every program that makes containers, the
image, and this project's own sandbox. bubblewrap is never remembered.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from provider.files import write_whole
from provider.models.files import FileDigests
from provider.sandbox import processes
from provider.sandbox.daemon import Daemon
from provider.sandbox.image.build import BuiltImage
from provider.sandbox.paths import SandboxPaths
from provider.sandbox.probe import find_tier
from provider.sandbox.programs import find_program, find_runsc
from provider.sandbox.tiers import PRODUCTION_TIERS, Tier

_RECORD, _DIGESTS = "tier.json", "programs.json"
_PROGRAMS = (
    "dockerd",
    "containerd",
    "containerd-shim",
    "containerd-shim-runc-v2",
    "docker-init",
    "tini-static",
    "runc",
)


def tier_of(paths: SandboxPaths, image: BuiltImage, *, dev: bool = False) -> Tier:
    """The tier that is remembered, else the one that is found now; bubblewrap only with `dev`.

    Raises NoSandboxError saying what failed, ImageError.
    """
    if (tier := _recall(paths, image)) is None:
        tier = find_tier(paths, dev=dev).tier
        _remember(paths, image, tier)
    return tier


def _recall(paths: SandboxPaths, image: BuiltImage) -> Tier | None:
    """The tier that passed its probe under the same circumstances."""
    try:
        record = json.loads((paths.share / _RECORD).read_bytes())
        tier = Tier(record["tier"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    now = _circumstances(paths, image)
    return tier if now is not None and record.get("of") == now and tier in PRODUCTION_TIERS else None


def _remember(paths: SandboxPaths, image: BuiltImage, tier: Tier) -> None:
    """Notes a tier that has just passed."""
    now = _circumstances(paths, image)
    if now is not None and tier in PRODUCTION_TIERS:
        write_whole(paths.share / _RECORD, json.dumps({"tier": tier.value, "of": now}, indent=1).encode())


def _circumstances(paths: SandboxPaths, image: BuiltImage) -> dict[str, Any] | None:
    """None where they cannot be known: then nothing is remembered."""
    daemon = Daemon(paths).pid()
    if daemon is None:
        return None
    digests = FileDigests(paths.share / _DIGESTS)
    programs = [Path(found) for name in _PROGRAMS if (found := find_program(name))]
    if runsc := find_runsc(paths):
        programs.append(Path(runsc))
    try:
        config = hashlib.sha256(paths.config.read_bytes()).hexdigest()
    except OSError:
        return None
    return {
        "daemon": processes.identity(daemon),
        "config": config,
        "programs": {str(program): digests.get(program) for program in programs},
        "image": image.image_id,
        "sandbox": _own_code(),
    }


def _own_code() -> str:
    state = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        state.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return state.hexdigest()
