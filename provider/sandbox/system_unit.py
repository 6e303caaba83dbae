"""A systemd unit that keeps the private daemon running, from the machine's start on."""

import shlex
import sys
from pathlib import Path

from provider.exceptions import ConfigError
from provider.sandbox.paths import SandboxPaths

UNIT_NAME = "clawmarket-sandbox.service"
UNIT_PATH = Path("/etc/systemd/system") / UNIT_NAME


def unit(user: str) -> str:
    """The unit's text; `user` runs the worker. Raises ConfigError for what cannot be written into one."""
    if not user or not all(character.isalnum() or character in "_-" for character in user):
        raise ConfigError(f"{user!r} is no user name")
    program = Path(sys.executable).with_name("clawmarket")
    if any(character in str(program) for character in "\n\"'\\$%"):
        raise ConfigError(f"systemd needs a plain path, without quotes, $ or %: {program}")
    command = shlex.join([str(program), "sandbox", "setup", "--yes", "--user", user])
    return f"""[Unit]
Description=OpenClaw Compute Market sandbox
Before=clawmarket-provider.service
StartLimitIntervalSec=600
StartLimitBurst=5

[Service]
Type=forking
ExecStart={command}
PIDFile={SandboxPaths.system().pid_file}
Restart=on-failure
RestartSec=5
TimeoutStartSec=900
TimeoutStopSec=60
KillMode=mixed
Delegate=yes
TasksMax=infinity
LimitNOFILE=1048576
LimitCORE=0

[Install]
WantedBy=multi-user.target
"""
