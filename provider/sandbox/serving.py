"""The sandbox of a running worker: the tier found for it, and where its engines run."""

from dataclasses import dataclass

from protocol.sandboxes import SandboxTier
from provider.engine.host import EngineHost
from provider.sandbox.bubblewrap_engines import BubblewrapHost
from provider.sandbox.daemon import Daemon
from provider.sandbox.engines import ContainerHost
from provider.sandbox.errors import DaemonError, NoSandboxError
from provider.sandbox.image.build import BuiltImage
from provider.sandbox.image.contents import ENGINE
from provider.sandbox.image.known import current
from provider.sandbox.paths import SandboxPaths
from provider.sandbox.remembering import tier_of
from provider.sandbox.tiers import Tier
from provider.sandbox.watching import Watchdog


@dataclass(frozen=True)
class Sandbox:
    """How strongly engines are kept from this machine, what starts them so, and what watches their containers."""

    tier: Tier
    engines: EngineHost
    watchdog: Watchdog | None = None


def open_sandbox(paths: SandboxPaths | None = None, *, dev: bool = False) -> Sandbox:
    """The strongest sandbox that works here, cleared of what dead workers left; bubblewrap only with `dev`.

    Raises NoSandboxError saying what to do, ImageError.
    """
    paths = paths or SandboxPaths.find()
    image = current(paths, ENGINE)
    tier = _tier(paths, image, dev=dev)
    if tier is Tier.BUBBLEWRAP:
        return Sandbox(tier, BubblewrapHost(image))
    containers = ContainerHost(paths, tier, image)
    containers.sweep()
    return Sandbox(tier, containers, Watchdog(paths))


def find_sandbox(paths: SandboxPaths | None = None, *, dev: bool = False) -> SandboxTier:
    """What an offer made now can promise: the tier that a worker started here would use.

    Raises NoSandboxError saying what to do, ImageError.
    """
    paths = paths or SandboxPaths.find()
    return _tier(paths, current(paths, ENGINE), dev=dev).promised


def _tier(paths: SandboxPaths, image: BuiltImage, *, dev: bool) -> Tier:
    try:
        Daemon(paths).ensure().close()
    except DaemonError as error:
        if not dev:
            raise NoSandboxError(f"{error}; without a sandbox nothing is served") from error
    return tier_of(paths, image, dev=dev)
