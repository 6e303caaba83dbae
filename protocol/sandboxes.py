"""What keeps the engine that answers for an offer from the provider's machine; terms and metadata name it."""

from enum import StrEnum


class SandboxTier(StrEnum):
    """The strongest first. NONE: another server answers, and the provider's worker only forwards to it."""

    GVISOR_SYSTRAP = "gvisor-systrap"
    GVISOR_PTRACE = "gvisor-ptrace"
    RUNC_SECCOMP = "runc-seccomp"
    BUBBLEWRAP = "bubblewrap"
    NONE = "none"

    def is_weaker_than(self, other: "SandboxTier") -> bool:
        """Whether it keeps less than `other` promises."""
        return _STRENGTHS.index(self) > _STRENGTHS.index(other)


_STRENGTHS = tuple(SandboxTier)
