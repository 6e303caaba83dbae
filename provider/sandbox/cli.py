"""`clawmarket sandbox …`"""

import pwd
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from provider.commands.common import YesOption, confirm, errors
from provider.sandbox.run_command import run

if TYPE_CHECKING:
    from provider.sandbox.probe import TierResult

app = typer.Typer(help="What other people's work runs in: set it up, try it, look after it.", no_args_is_help=True)
app.command("run")(run)

FolderOption = Annotated[
    Path | None,
    typer.Option("--folder", envvar="CLAWMARKET_SANDBOX", help="All of it in this folder; by default the machine's."),
]
DevOption = Annotated[
    bool, typer.Option("--dev-sandbox", help="Also bubblewrap, which limits nothing: for development only.")
]


@app.command()
def setup(
    folder: FolderOption = None,
    user: Annotated[
        str | None, typer.Option(help="Account the worker runs as; it may talk to the daemon. By default you.")
    ] = None,
    yes: YesOption = False,  # noqa: FBT002
) -> None:
    """Install what is missing (docker.io, bubblewrap, gVisor) and start the private daemon. Needs root.

    Run it again after a fault: it does what is left to do.
    """
    from provider.exceptions import ConfigError
    from provider.sandbox import installing
    from provider.sandbox.daemon import Daemon
    from provider.sandbox.paths import SandboxPaths

    with errors():
        paths = SandboxPaths.find(folder)
        wanted = installing.missing(paths)
        daemon = Daemon(paths)
        answers = daemon.answers()
        if wanted or not answers or not daemon.is_current():
            restarts = "\nThe daemon that runs now is started anew: this ends its containers." if answers else ""
            confirm(
                f"This installs {', '.join(wanted) if wanted else 'nothing new'}, and starts a container daemon of its"
                f" own:\n  data in {paths.state}, socket {paths.socket}, no network, no firewall rules."
                f"\nWhoever may use that socket is root on this machine in effect: it is open to {user or 'you'} only."
                f"{restarts}",
                yes=yes,
            )
            installing.install(paths, typer.echo)
            daemon.stop()
        if user is not None:
            try:
                daemon.allow(pwd.getpwnam(user).pw_uid)
            except KeyError as error:
                raise ConfigError(f"there is no user {user}") from error
            except PermissionError as error:
                raise ConfigError(f"only root may hand the daemon over to {user}") from error
        daemon.ensure().close()
    typer.echo(f"the daemon answers on {paths.socket}")
    typer.echo("next: clawmarket sandbox probe")


@app.command()
def unit(
    user: Annotated[str, typer.Option(help="Account the worker runs as; it may talk to the daemon.")],
    install: Annotated[bool, typer.Option("--install", help="Write it to /etc/systemd/system.")] = False,  # noqa: FBT002
    yes: YesOption = False,  # noqa: FBT002
) -> None:
    """Print a systemd unit that starts the daemon with the machine, or install it."""
    from provider import systemd
    from provider.sandbox import system_unit

    with errors():
        text = system_unit.unit(user)
        if not install:
            typer.echo(text, nl=False)
            return
        confirm(f"{text}\nThis is written to {system_unit.UNIT_PATH}.", yes=yes)
        systemd.install(text, system_unit.UNIT_PATH)
    typer.echo(f"wrote {system_unit.UNIT_PATH}")
    typer.echo(f"next: systemctl daemon-reload && systemctl enable --now {system_unit.UNIT_NAME}")


@app.command()
def probe(
    folder: FolderOption = None,
    every: Annotated[bool, typer.Option("--all", help="Try every tier, also after one has passed.")] = False,  # noqa: FBT002
    dev: DevOption = False,  # noqa: FBT002
) -> None:
    """Try from inside a container what must not work, tier by tier, and say which tier is used.

    Exit code 0 when a tier passes, 1 when none does: then a worker refuses to serve.
    """
    from provider.sandbox.errors import NoSandboxError
    from provider.sandbox.gpus import find_gpus
    from provider.sandbox.paths import SandboxPaths
    from provider.sandbox.probe import first_passing, try_tiers
    from provider.sandbox.programs import find_runsc

    with errors():
        results = []
        paths = SandboxPaths.find(folder)
        for result in try_tiers(paths, dev=dev):
            _show(result)
            gpus = find_gpus(result.tier, find_runsc(paths))
            typer.echo(f"    {'no ' if gpus.fault else 'yes'}  gpu: {gpus.fault or f'{gpus.count} can be passed'}")
            results.append(result)
            if result.passed and not every:
                break
        found = first_passing(results)
        if found is None:
            raise NoSandboxError("no tier keeps its promises here, so nothing may be served; docs/sandbox.md says why")
    typer.echo(f"tier {found.tier}: what offers made here name as their sandbox")


@app.command()
def build(folder: FolderOption = None) -> None:
    """Build the engine's image from this machine's own Python, unless nothing has changed."""
    from provider.sandbox.image import build as building
    from provider.sandbox.image.contents import ENGINE
    from provider.sandbox.paths import SandboxPaths

    with errors():
        built = building.build(SandboxPaths.find(folder), ENGINE)
    typer.echo(f"{built.tag}  {built.size / 2**20:.0f} MiB  built in {built.seconds:.1f} s")
    typer.echo(f"image  {built.image_id}")
    typer.echo(f"layer  {built.layer}")
    typer.echo(f"bill of materials  {built.bill}")


@app.command("ps")
def list_containers(folder: FolderOption = None) -> None:
    """List the containers of this machine's workers."""
    from rich.console import Console
    from rich.table import Table

    from provider.commands.shown import show_span
    from provider.sandbox import containers
    from provider.sandbox.daemon import Daemon
    from provider.sandbox.paths import SandboxPaths

    with errors():
        client = Daemon(SandboxPaths.find(folder)).client()
        try:
            found = containers.listed(client)
        finally:
            client.close()
    if not found:
        typer.echo("no containers")
        return
    shown = Table(box=None, pad_edge=False)
    for name in ("container", "for", "tier", "state", "age", "memory"):
        shown.add_column(name, justify="right" if name in ("age", "memory") else "left")
    for each in found:
        memory = "–" if each.memory is None else f"{each.memory / 2**20:.0f} MiB"
        state = f"{each.state}, orphan" if each.is_orphan else each.state
        shown.add_row(each.name, each.role, each.tier, state, show_span(int(each.age_s)), memory)
    Console(soft_wrap=True).print(shown)
    if any(each.is_orphan for each in found):
        typer.echo("orphans belong to workers that have ended; remove them with: clawmarket sandbox clean")


@app.command()
def clean(folder: FolderOption = None, yes: YesOption = False) -> None:  # noqa: FBT002
    """Remove containers whose worker has ended, and images that no recipe makes any more."""
    from provider.sandbox import containers
    from provider.sandbox.daemon import Daemon
    from provider.sandbox.image import build as building
    from provider.sandbox.image.contents import ENGINE
    from provider.sandbox.paths import SandboxPaths

    with errors():
        paths = SandboxPaths.find(folder)
        client = Daemon(paths).client()
        try:
            orphans = [container for container in containers.ours(client) if containers.is_orphan(container)]
            current = building.build(paths, ENGINE)
            stale = building.stale(client, paths, current)
            if not orphans and not stale:
                typer.echo("nothing to remove")
                return
            lines = [f"  container {containers.name_of(each)}" for each in orphans]
            lines += [f"  image {each}" for each in sorted(stale)]
            confirm("\n".join(["This removes", *lines]), yes=yes)
            for container in orphans:
                containers.remove(container)
            building.remove(client, paths, stale)
        finally:
            client.close()
    typer.echo(f"removed {len(orphans)} containers and {len(stale)} images")


def _show(result: "TierResult") -> None:
    typer.echo(f"{result.tier}: {'passes' if result.passed else 'cannot be used'}")
    if result.fault:
        typer.echo(f"    {result.fault}")
    for check in result.checks:
        mark = "yes" if check.holds else "NO " if check.required else "no "
        typer.echo(f"    {mark}  {check.name}: {check.detail}")
