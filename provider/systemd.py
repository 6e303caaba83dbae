"""A systemd unit that runs the worker with as few rights as it can do with.

It sees other users' processes: those in its containers are theirs.
"""

import shlex
import sys
from pathlib import Path

from provider.config import Config
from provider.exceptions import ConfigError
from provider.sandbox import system_unit
from provider.sandbox.paths import SandboxPaths

UNIT_NAME = "clawmarket-provider.service"
UNIT_PATH = Path("/etc/systemd/system") / UNIT_NAME
STOP_S = 120
"""Longer than running answers and their receipts take to end."""
CREDENTIAL = "keystore-password"


def unit(config_path: Path, config: Config, password_file: Path, user: str) -> str:
    """The unit's text. Raises ConfigError for what cannot be written into one."""
    for path in (config_path, password_file, config.provider.data, Path(sys.executable)):
        if any(character in str(path) for character in "\n\"'\\$%"):
            raise ConfigError(f"systemd needs a plain path, without quotes, $ or %: {path}")
    if not user or not all(character.isalnum() or character in "_-" for character in user):
        raise ConfigError(f"{user!r} is no user name")
    program = Path(sys.executable).with_name("clawmarket")
    command = [str(program), "provider", "run", "--config", str(config_path)]
    folders = [config.provider.data, config.provider.node_key.parent, config.backup.folder]
    sandbox = SandboxPaths.system()
    writable = sorted({str(folder) for folder in folders if folder})
    writable += [f"-{folder}" for folder in (sandbox.share, sandbox.images)]  # not there where no engine runs
    return f"""[Unit]
Description=OpenClaw Compute Market provider {config.provider.id}
Wants=network-online.target {system_unit.UNIT_NAME}
After=network-online.target {system_unit.UNIT_NAME}
StartLimitIntervalSec=600
StartLimitBurst=5

[Service]
Type=exec
User={user}
ExecStart={shlex.join(command)} --password-file ${{CREDENTIALS_DIRECTORY}}/{CREDENTIAL}
LoadCredential={CREDENTIAL}:{password_file}
Restart=on-failure
RestartSec=5
TimeoutStopSec={STOP_S}
KillSignal=SIGTERM
KillMode=mixed
UMask=0077
ProtectSystem=strict
ReadWritePaths={" ".join(f'"{path}"' for path in writable)}
ProtectHome=read-only
PrivateTmp=yes
PrivateDevices=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
RestrictSUIDSGID=yes
RestrictNamespaces=yes
RestrictRealtime=yes
LockPersonality=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
LimitNOFILE=65536
LimitCORE=0

[Install]
WantedBy=multi-user.target
"""


def install(text: str, path: Path) -> None:
    """Writes a unit. Raises ConfigError, most often for want of rights."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error.strerror}): run this as root") from error
