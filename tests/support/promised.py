"""What offers of tests promise of their sandbox."""

from protocol.sandboxes import SandboxTier

PROMISED = SandboxTier.RUNC_SECCOMP
"""The least of production, so that whatever a worker's probe finds here keeps it, and gateways accept it."""
