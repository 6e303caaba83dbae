"""Finds the strongest tier that keeps its promises here: by trying, with exactly the policy of production."""

import secrets
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from provider.sandbox import bubblewrap, containers, processes
from provider.sandbox.bait import Bait
from provider.sandbox.daemon import Client, Daemon
from provider.sandbox.errors import NoSandboxError, SandboxError
from provider.sandbox.evidence import Evidence, collect, probe_command
from provider.sandbox.image.build import BuiltImage, load
from provider.sandbox.image.contents import ENGINE
from provider.sandbox.image.interpreter import program
from provider.sandbox.image.known import current
from provider.sandbox.judging import Check, judge
from provider.sandbox.listeners import HostListeners
from provider.sandbox.paths import SandboxPaths
from provider.sandbox.policy import Limits, container_settings
from provider.sandbox.programs import find_runsc
from provider.sandbox.tiers import PRODUCTION_TIERS, Tier

LIMITS = Limits(memory=512 << 20, cpus=1.0, pids=256, tmp=32 << 20)


@dataclass(frozen=True)
class TierResult:
    """How one tier did; `fault` says why it could not be tried."""

    tier: Tier
    checks: list[Check] = field(default_factory=list)
    fault: str = ""
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether everything it needs holds."""
        return not self.fault and bool(self.checks) and not self.failures

    @property
    def failures(self) -> list[Check]:
        """What does not hold."""
        return [check for check in self.checks if check.required and not check.holds]

    @property
    def reason(self) -> str:
        """Why it cannot be used, in one line; empty if it can."""
        return self.fault or "; ".join(f"{check.name}: {check.detail}" for check in self.failures)


@dataclass(frozen=True)
class Found:
    """The tier to use, the image it was tried with, and how all that were tried did."""

    tier: Tier
    image: BuiltImage
    results: list[TierResult]


def find_tier(paths: SandboxPaths, *, dev: bool = False) -> Found:
    """The first tier that passes; bubblewrap only with `dev`. Raises NoSandboxError saying what failed, ImageError."""
    image = current(paths, ENGINE)
    results: list[TierResult] = []
    for result in _results(paths, image, dev=dev):
        results.append(result)
        if result.passed:
            return Found(result.tier, image, results)
    raise NoSandboxError("; ".join(["no sandbox works here", *(f"{each.tier}: {each.reason}" for each in results)]))


def try_tiers(paths: SandboxPaths, *, dev: bool = False) -> Iterator[TierResult]:
    """How every tier does, the strongest first. Raises ImageError."""
    yield from _results(paths, current(paths, ENGINE), dev=dev)


def first_passing(results: list[TierResult]) -> TierResult | None:
    """The one to use."""
    return next((result for result in results if result.passed), None)


def try_tier(client: Client, paths: SandboxPaths, image: BuiltImage, tier: Tier) -> TierResult:
    """Runs the probe in a container of this tier."""
    if tier.is_gvisor and find_runsc(paths) is None:
        return TierResult(tier, fault="runsc is not installed; as root: clawmarket sandbox setup")
    try:
        load(client, image)
        with HostListeners() as listeners, Bait(paths.share) as bait:
            settings = container_settings(
                tier,
                image.image_id,
                probe_command(str(program()), listeners),
                LIMITS,
                mounts=(bait.mount,),
                labels={
                    containers.OWNER: processes.identity(),
                    containers.ROLE: "probe",
                    containers.TIER: tier.value,
                },
            )
            evidence = collect(client, settings, f"clawmarket-probe-{secrets.token_hex(6)}", listeners, bait)
    except SandboxError as error:
        return TierResult(tier, fault=str(error))
    return conclude(tier, evidence)


def conclude(tier: Tier, evidence: Evidence) -> TierResult:
    """Judges evidence; what a probe left out or spoilt counts against it."""
    try:
        return TierResult(tier, judge(tier, evidence, LIMITS), seconds=evidence.seconds)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        return TierResult(tier, fault=f"the probe's answer makes no sense: {error!r}")


def _results(paths: SandboxPaths, image: BuiltImage, *, dev: bool) -> Iterator[TierResult]:
    try:
        client = Daemon(paths).ensure()
    except SandboxError as error:
        yield from (TierResult(tier, fault=str(error)) for tier in PRODUCTION_TIERS)
    else:
        try:
            for tier in PRODUCTION_TIERS:
                yield try_tier(client, paths, image, tier)
        finally:
            client.close()
    if dev:
        yield try_bubblewrap(image)


def try_bubblewrap(image: BuiltImage) -> TierResult:
    """Runs the probe under bubblewrap."""
    try:
        with HostListeners() as listeners, Bait(Path(tempfile.gettempdir())) as bait:
            evidence = bubblewrap.collect(image, probe_command(str(program()), listeners), LIMITS, listeners, bait)
    except SandboxError as error:
        return TierResult(Tier.BUBBLEWRAP, fault=str(error))
    return conclude(Tier.BUBBLEWRAP, evidence)
