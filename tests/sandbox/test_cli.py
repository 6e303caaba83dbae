"""`clawmarket sandbox …`, as a user meets it."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from provider.sandbox import containers, processes, system_unit
from provider.sandbox.cli import app
from provider.sandbox.daemon import Daemon
from provider.sandbox.image.build import build
from provider.sandbox.image.contents import ENGINE
from provider.sandbox.image.interpreter import program
from provider.sandbox.paths import SandboxPaths
from provider.sandbox.tiers import Tier
from tests.support.sandbox import Sandbox, new_paths

SLEEP = [str(program()), "-S", "-c", "import time; time.sleep(300)"]


def run(sandbox: Sandbox, *arguments: str, answer: str = "") -> Result:
    return run_in(sandbox.paths, *arguments, answer=answer)


def run_in(paths: SandboxPaths, *arguments: str, answer: str = "") -> Result:
    folder = str(paths.state.parent)
    return CliRunner().invoke(app, list(arguments), input=answer, env={"CLAWMARKET_SANDBOX": folder, "COLUMNS": "200"})


def test_set_up_starts_the_daemon_once_and_anew_when_its_settings_changed() -> None:
    with new_paths() as paths:
        daemon = Daemon(SandboxPaths.under(paths.state.parent))
        done = run_in(paths, "setup", answer="y\n")
        assert done.exit_code == 0
        assert done.output.endswith(
            f"the daemon answers on {paths.socket}\nnext: clawmarket sandbox probe\n",
        )
        first = daemon.pid()
        again = run_in(paths, "setup")
        assert (again.exit_code, again.output.count("\n"), daemon.pid()) == (0, 2, first)

        settings = json.loads(paths.config.read_text())
        settings["runtimes"].popitem()
        paths.config.write_text(json.dumps(settings))
        refused = run_in(paths, "setup", answer="n\n")
        assert "is started anew: this ends its containers" in refused.output
        assert daemon.pid() == first
        assert run_in(paths, "setup", "--yes").exit_code == 0
        assert daemon.pid() not in (None, first)
        assert daemon.is_current()


def test_set_up_says_what_it_does_and_takes_no_for_an_answer(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    asked = CliRunner().invoke(app, ["setup", "--folder", str(folder)], input="n\n")
    assert asked.exit_code == 1
    assert "a container daemon of its own" in asked.output
    assert "is root on this machine in effect" in asked.output
    assert "nothing was done" in asked.output
    assert not folder.exists()


def test_set_up_for_nobody_known() -> None:
    with new_paths() as paths:
        done = run_in(paths, "setup", "--user", "no-such-user", "--yes")
        assert done.exit_code == 1
        assert "error: there is no user no-such-user" in done.output
        assert not Daemon(paths).answers()


def test_unit_starts_the_daemon_for_the_workers_user() -> None:
    done = CliRunner().invoke(app, ["unit", "--user", "worker"])
    assert done.exit_code == 0
    assert "clawmarket sandbox setup --yes --user worker\n" in done.output
    assert "PIDFile=/run/clawmarket/sandbox/docker.pid\n" in done.output
    refused = CliRunner().invoke(app, ["unit", "--user", "a b\nExecStartPre=x"])
    assert refused.exit_code == 1
    assert "is no user name" in refused.output


def test_unit_is_installed_after_asking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "sandbox.service"
    monkeypatch.setattr(system_unit, "UNIT_PATH", target)
    assert CliRunner().invoke(app, ["unit", "--user", "worker", "--install"], input="n\n").exit_code == 1
    assert not target.exists()
    done = CliRunner().invoke(app, ["unit", "--user", "worker", "--install", "--yes"])
    assert target.read_text() == system_unit.unit("worker")
    assert "systemctl enable --now clawmarket-sandbox.service" in done.output


def test_probe_explains_line_by_line(sandbox: Sandbox) -> None:
    done = run(sandbox, "probe")
    assert done.exit_code == 0
    lines = done.output.splitlines()
    assert lines[0] == "gvisor-systrap: passes"
    assert f"    yes  kernel: 4.4.0 inside, {os.uname().release} on the host" in lines
    assert "    yes  platform: the host sees systrap" in lines
    assert lines[-1] == "tier gvisor-systrap: what offers made here name as their sandbox"
    assert not [line for line in lines if line.startswith("    NO")]


def test_probe_all_tries_the_weaker_ones_too(sandbox: Sandbox) -> None:
    lines = run(sandbox, "probe", "--all", "--dev-sandbox").output.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == [
        "gvisor-systrap: passes",
        "gvisor-ptrace: passes",
        "runc-seccomp: passes",
        "bubblewrap: passes",
        "tier gvisor-systrap: what offers made here name as their sandbox",
    ]
    assert "    no   memory: 0 MiB" in lines


def test_probe_where_nothing_passes_refuses(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    from provider.sandbox import probe

    broken = probe.TierResult(Tier.RUNC_SECCOMP, fault="broken here")
    monkeypatch.setattr(probe, "try_tier", lambda *_: broken)
    done = run(sandbox, "probe")
    assert done.exit_code == 1
    assert "cannot be used\n    broken here" in done.output
    assert "error: no tier keeps its promises here" in done.output


def test_build_names_the_image_and_its_bill(sandbox: Sandbox) -> None:
    done = run(sandbox, "build")
    assert done.exit_code == 0
    assert f"image  {sandbox.image.image_id}\nlayer  {sandbox.image.layer}\n" in done.output
    bill = re.search(r"bill of materials  (\S+)", done.output)
    assert bill is not None
    assert json.loads(Path(bill[1]).read_text())["bomFormat"] == "CycloneDX"


def test_ps_and_clean(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(sandbox, "ps").output == "no containers\n"
    own = containers.Job("engine", sandbox.image.image_id, SLEEP)
    with containers.running(sandbox.client, Tier.RUNC_SECCOMP, own) as running:
        with monkeypatch.context() as patch:
            patch.setattr(processes, "identity", lambda: "another-boot.1.1")
            orphan = containers.start(sandbox.client, Tier.GVISOR_SYSTRAP, replace(own, role="job"))
        shown = run(sandbox, "ps").output
        assert re.search(rf"{running.name} +engine +runc-seccomp +running +\d+ s +\d+ MiB", shown)
        assert re.search(rf"{orphan.name} +job +gvisor-systrap +running, orphan +\d+ s +\d+ MiB", shown)
        assert "clawmarket sandbox clean" in shown

        refused = run(sandbox, "clean", answer="n\n")
        assert refused.exit_code == 1
        assert f"container {orphan.name}" in refused.output
        assert len(containers.ours(sandbox.client)) == 2
        assert run(sandbox, "clean", "--yes").exit_code == 0
        assert [containers.name_of(each) for each in containers.ours(sandbox.client)] == [running.name]
    assert build(sandbox.paths, ENGINE).archive.exists()


def test_without_a_daemon_commands_say_what_to_do(tmp_path: Path) -> None:
    for command in ("ps", "clean"):
        done = CliRunner().invoke(app, [command, "--folder", str(tmp_path)])
        assert done.exit_code == 1
        assert "error: the sandbox's daemon does not answer: it does not run" in done.output
        assert "clawmarket sandbox setup" in done.output


@pytest.mark.parametrize("command", ["setup", "probe", "build", "run", "ps", "clean"])
def test_every_command_has_help(sandbox: Sandbox, command: str) -> None:
    done = run(sandbox, command, "--help")
    assert done.exit_code == 0
    assert "--folder" in done.output
