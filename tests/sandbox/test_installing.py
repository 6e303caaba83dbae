"""What set-up does where it can, and says where it cannot."""

from collections.abc import Callable
from pathlib import Path

import pytest

from provider.sandbox import installing
from provider.sandbox.errors import SetupError
from provider.sandbox.paths import SandboxPaths
from provider.sandbox.temporary import CACHE
from tests.support.sandbox import Sandbox


def programs(*found: str) -> Callable[[str], str | None]:
    return lambda name: f"/usr/bin/{name}" if name in found else None


def paths(folder: Path) -> SandboxPaths:
    return SandboxPaths.under(folder)


def no_command(command: list[str], folder: Path | None = None) -> str:
    raise AssertionError(command)


def test_nothing_is_run_when_all_is_there(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installing, "_run", no_command)
    assert installing.missing(sandbox.paths) == []
    installing.install(sandbox.paths, pytest.fail)


def test_other_users_are_told_to_become_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installing, "find_program", programs("apt-get", "dpkg-deb", "bwrap", "runsc"))
    monkeypatch.setattr(installing, "_run", no_command)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(SetupError, match=r"missing: dockerd.*as root: clawmarket sandbox setup"):
        installing.install(paths(tmp_path), print)


def test_other_distributions_are_told_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installing, "find_program", programs())
    with pytest.raises(SetupError, match=r"missing: dockerd, bwrap, runsc; .*install docker .* by hand"):
        installing.install(paths(tmp_path), print)


def test_a_machine_without_network_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installing, "find_program", programs("apt-get", "dpkg-deb", "runsc"))
    monkeypatch.setattr(installing, "_run", lambda command, folder=None: "E: Unable to fetch some archives")
    monkeypatch.setattr(installing, "_POLICY", tmp_path / "policy")
    with pytest.raises(SetupError, match=r"docker\.io bubblewrap \(E: Unable to fetch.*check the network"):
        installing.install(paths(tmp_path), print)
    assert not (tmp_path / "policy").exists()


def test_no_service_is_started_while_packages_are_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tmp_path / "policy"
    seen: list[tuple[str, bool]] = []
    there = ["apt-get", "dpkg-deb", "bwrap", "runsc", "systemctl"]

    def run(command: list[str], folder: Path | None = None) -> str:
        seen.append((" ".join(command[:2]), policy.exists()))
        return ""

    monkeypatch.setattr(installing, "find_program", programs(*there))
    monkeypatch.setattr(installing, "_run", run)
    monkeypatch.setattr(installing, "_POLICY", policy)
    monkeypatch.setattr(installing, "_wants_later_gvisor", lambda: False)
    installing.install(paths(tmp_path), print)
    assert seen == [("apt-get install", True), ("systemctl disable", False)]


def test_the_old_gvisor_serves_where_the_later_one_cannot_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(installing, "find_program", programs("apt-get", "dpkg-deb", "bwrap", "dockerd", "runsc"))
    monkeypatch.setattr(installing, "_release", lambda: {"VERSION_CODENAME": "bookworm"})
    monkeypatch.setattr(installing, "_run", lambda command, folder=None: "E: no network")
    installing.install(paths(tmp_path), said.append)
    assert "E: no network" in said[-1] or "no source" in said[-1]


def test_gvisor_is_fetched_by_apt_into_a_private_place(sandbox: Sandbox, tmp_path: Path) -> None:
    fresh = SandboxPaths.under(tmp_path)
    if not installing._wants_later_gvisor():
        assert installing.missing(fresh) == []
        return
    assert installing.missing(fresh) == ["runsc"]
    installing.install(fresh, print)
    assert fresh.runsc.read_bytes() == (CACHE / "bin/runsc").read_bytes()
    assert installing.missing(fresh) == []
    assert sorted(path.name for path in fresh.cache.iterdir()) == ["bin", "lock"]
