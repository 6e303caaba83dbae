"""Alembic's migrations, run from here; `migrations/versions/` holds them."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Engine

_FOLDER = Path(__file__).resolve().parent / "migrations"


def upgrade(engine: Engine) -> None:
    """Bring a database's tables to the newest version, in one transaction."""
    with engine.begin() as connection:
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", str(_FOLDER))
        command.upgrade(config, "head")


def newest_version() -> str:
    """The version `upgrade` brings tables to."""
    config = Config()
    config.set_main_option("script_location", str(_FOLDER))
    return str(ScriptDirectory.from_config(config).get_current_head())
