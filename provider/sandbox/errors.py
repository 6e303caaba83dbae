"""What the sandbox can raise.

ProviderError
└── SandboxError
    ├── SetupError       a program is missing and cannot be installed here
    ├── DaemonError      the private container daemon does not run or does not answer
    ├── ImageError       an image cannot be built or loaded
    ├── ContainerError   a container could not be made or started, or ended before it should
    ├── JobError         a run was asked for that cannot be
    └── NoSandboxError   no tier passed its probe: nothing may be served
"""

from provider.exceptions import ProviderError


class SandboxError(ProviderError):
    """Base of the sandbox's errors."""


class SetupError(SandboxError):
    """Something has to be installed, and the message says how."""


class DaemonError(SandboxError):
    """The private daemon is not there."""


class ImageError(SandboxError):
    """There is no image to run."""


class ContainerError(SandboxError):
    """A container did not do what it was started for."""


class JobError(SandboxError):
    """What was asked to run cannot be run as asked."""


class NoSandboxError(SandboxError):
    """Refusing to run anything: no tier keeps its promises on this machine."""
