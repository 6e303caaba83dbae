"""`clawmarket provider …`"""

import typer

from provider.commands import earning, life, offers, status

app = typer.Typer(help="Rent out this machine's models.", no_args_is_help=True)
for part in (life.app, status.app, earning.app):
    app.add_typer(part)
app.add_typer(earning.stake_app, name="stake")
app.add_typer(offers.app, name="offers")
