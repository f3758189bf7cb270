"""Revisions of the application's tables, by Alembic. Imported when one is asked for: it takes a tenth of a second."""

from __future__ import annotations

from pathlib import Path

import alembic.command
import alembic.config
import sqlalchemy as sa
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory


def current(connection: sa.Connection) -> str | None:
    """The revision that the tables are at; None before the first."""
    return MigrationContext.configure(connection).get_current_revision()


def newest() -> str:
    """The revision that this program was written for."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    assert revision is not None
    return revision


def upgrade(connection: sa.Connection) -> None:
    """Bring the tables to the newest revision, in the transaction of the connection."""
    config = _config()
    config.attributes["connection"] = connection
    alembic.command.upgrade(config, "head")


def _config() -> alembic.config.Config:
    config = alembic.config.Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config
