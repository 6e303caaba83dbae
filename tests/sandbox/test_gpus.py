"""GPUs, up to the call to a device: this machine may have none, so that the nodes are made for the test."""

import os
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner

from provider.sandbox import gpus
from provider.sandbox.cli import app
from provider.sandbox.daemon import Daemon
from provider.sandbox.errors import JobError
from provider.sandbox.gpus import Gpus, devices_for, find_gpus
from provider.sandbox.policy import Limits, container_settings
from provider.sandbox.programs import find_runsc
from provider.sandbox.running import Place, Program, run
from provider.sandbox.tiers import PRODUCTION_TIERS, Tier
from tests.support.sandbox import Sandbox

NVIDIA = 195
NAMES = ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm")
tiers = pytest.mark.parametrize("tier", PRODUCTION_TIERS)


@pytest.fixture
def nodes(tmp_path: Path) -> Path:
    folder = tmp_path / "dev"
    folder.mkdir()
    for minor, name in enumerate(NAMES):
        os.mknod(folder / name, stat.S_IFCHR, os.makedev(NVIDIA, minor))
        (folder / name).chmod(0o666)
    return folder


@tiers
def test_whole_nodes_are_found_with_a_gvisor_that_knows_them(sandbox: Sandbox, nodes: Path, tier: Tier) -> None:
    assert find_gpus(tier, find_runsc(sandbox.paths), nodes) == Gpus(tuple(nodes / name for name in NAMES), 2)


def test_why_none_can_be_passed(nodes: Path, tmp_path: Path) -> None:
    runc = Tier.RUNC_SECCOMP
    assert "no NVIDIA GPU" in find_gpus(runc, None, tmp_path).fault
    assert "needed" in find_gpus(Tier.GVISOR_SYSTRAP, None, nodes).fault
    assert "needed" in find_gpus(Tier.GVISOR_SYSTRAP, "/bin/false", nodes).fault
    assert find_gpus(Tier.BUBBLEWRAP, None, nodes).fault
    (nodes / "nvidia1").chmod(0o660)
    assert f"chmod a+rw {nodes / 'nvidia1'}" in find_gpus(runc, None, nodes).fault
    (nodes / "nvidia1").unlink()
    assert find_gpus(runc, None, nodes).count == 1
    (nodes / "nvidia-uvm").unlink()
    assert "nvidia-modprobe" in find_gpus(runc, None, nodes).fault
    (nodes / "nvidia-uvm").touch()
    assert find_gpus(runc, None, nodes).fault == f"{nodes / 'nvidia-uvm'} is no device"


@tiers
def test_what_the_daemon_is_asked_for(nodes: Path, tier: Tier) -> None:
    given = tuple(nodes / name for name in NAMES)
    plain, asked = (container_settings(tier, "i", ["a"], Limits(), gpu=gpu)["HostConfig"] for gpu in ((), given))
    assert asked["Devices"] == [
        {"PathOnHost": str(nodes / name), "PathInContainer": f"/dev/{name}", "CgroupPermissions": "rw"}
        for name in NAMES
    ]
    assert "Devices" not in plain
    assert asked["Runtime"] == (f"{plain['Runtime']}-gpu" if tier.is_gvisor else "runc")
    changed = {name for name in asked if asked[name] != plain.get(name)}
    assert changed <= {"Devices", "Runtime", "SecurityOpt"}
    assert asked["SecurityOpt"][0] == "no-new-privileges:true"


def test_the_daemon_gets_a_gvisor_for_gpus_where_there_are_some(
    sandbox: Sandbox, nodes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = Daemon(sandbox.paths)
    assert not [name for name in daemon.settings()["runtimes"] if name.endswith("-gpu")]
    monkeypatch.setattr(gpus, "DEV", nodes)
    runtimes = daemon.settings()["runtimes"]
    for name in ("runsc", "runsc-ptrace"):
        assert runtimes[f"{name}-gpu"]["runtimeArgs"] == [*runtimes[name]["runtimeArgs"], "--nvproxy=true"]
        assert "--nvproxy=true" not in runtimes[name]["runtimeArgs"]
    assert devices_for(Tier.RUNC_SECCOMP, sandbox.paths) == tuple(nodes / name for name in NAMES)


CALLS = """
import errno, fcntl, os
for name in sorted(os.listdir('/dev')):
    if name.startswith('nvidia'):
        try: os.open(f'/dev/{name}', os.O_RDWR); print(name, 'open')
        except OSError as e: print(name, errno.errorcode[e.errno])
null = os.open('/dev/null', os.O_RDWR)
for request in (0xC0CA46D6, 1, 0x30000001, 0x5412):
    try: fcntl.ioctl(null, request, 0)
    except OSError as e: print(hex(request), errno.errorcode[e.errno])
"""


def printed_by(place: Place, program: Program, into: Path) -> str:
    said: list[bytes] = []
    assert run(place, program, into, printed=lambda _, part: said.append(part)).succeeded
    return b"".join(said).decode()


def test_a_container_reaches_the_device_and_none_without_it(sandbox: Sandbox, nodes: Path, tmp_path: Path) -> None:
    """No driver has registered the number: the kernel then says ENXIO, and EPERM where the control group refuses."""
    node = nodes / "nvidia0"
    driver = f"{NVIDIA} nvidia" in Path("/proc/devices").read_text()
    for gpu, opened, requests in (((node,), [f"nvidia0 {'open' if driver else 'ENXIO'}"], "ENOTTY"), ((), [], "EPERM")):
        place = Place(sandbox.client, sandbox.paths, Tier.RUNC_SECCOMP, sandbox.image.image_id, gpu)
        program = Program(["main.py"], {"main.py": CALLS.encode()})
        assert printed_by(place, program, tmp_path / f"o{len(gpu)}").splitlines() == [
            *opened,
            *(f"{request} {requests}" for request in ("0xc0ca46d6", "0x1", "0x30000001")),
            "0x5412 EPERM",  # TIOCSTI
        ]


def test_without_a_gpu_the_user_is_told(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "DEV", tmp_path)
    with pytest.raises(JobError, match=r"no GPU can be passed: there is no .*/nvidia0"):
        devices_for(Tier.RUNC_SECCOMP, sandbox.paths)


def test_the_probe_says_whether_one_can_be_passed(
    sandbox: Sandbox, nodes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, told in ((tmp_path, "no   gpu: there is no"), (nodes, "yes  gpu: 2 can be passed")):
        monkeypatch.setattr(gpus, "DEV", folder)
        done = CliRunner().invoke(app, ["probe", "--folder", str(sandbox.paths.state.parent)])
        assert done.exit_code == 0
        assert f"    {told}" in done.output
