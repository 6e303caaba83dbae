"""How strongly a container is kept from the host."""

from enum import StrEnum

from protocol.sandboxes import SandboxTier


class Tier(StrEnum):
    """Ways to run a container, the strongest first."""

    GVISOR_SYSTRAP = "gvisor-systrap"
    GVISOR_PTRACE = "gvisor-ptrace"
    RUNC_SECCOMP = "runc-seccomp"
    BUBBLEWRAP = "bubblewrap"

    @property
    def is_gvisor(self) -> bool:
        """Whether system calls go to gVisor's kernel and not to the host's."""
        return self in (Tier.GVISOR_SYSTRAP, Tier.GVISOR_PTRACE)

    @property
    def is_for_development(self) -> bool:
        """Whether it lacks limits that a provider needs, and must be asked for."""
        return self is Tier.BUBBLEWRAP

    @property
    def runtime(self) -> str:
        """The daemon's name for what runs it."""
        return _RUNTIMES[self]

    @property
    def promised(self) -> SandboxTier:
        """The `sandbox` of offers and metadata."""
        return SandboxTier(self.value)


_RUNTIMES = {
    Tier.GVISOR_SYSTRAP: "runsc",
    Tier.GVISOR_PTRACE: "runsc-ptrace",
    Tier.RUNC_SECCOMP: "runc",
    Tier.BUBBLEWRAP: "bwrap",
}

PRODUCTION_TIERS = tuple(tier for tier in Tier if not tier.is_for_development)
