"""Revisions of the application's tables, by Alembic. Imported when one is asked for: it takes a tenth of a second.

A revision is a number of four digits, one more than the last, and from 0005 on it only adds: a program works with
tables at its own revision and at every newer one, so tables are migrated before the programs are updated.
"""

from __future__ import annotations

import re
from pathlib import Path

import alembic.command
import alembic.config
import sqlalchemy as sa
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from bg_pipelines.errors import ErrorType, IntegrationError


def current(connection: sa.Connection) -> str | None:
    """The revision that the tables are at; None before the first."""
    heads = MigrationContext.configure(connection).get_current_heads()
    return ", ".join(sorted(heads)) or None


def newest() -> str:
    """The revision that this program was written for."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    assert revision is not None
    return revision


def is_enough(revision: str | None) -> bool:
    """Whether this program works with tables at this revision: its own or a newer one.

    Raises IntegrationError (configuration) for tables of another program.
    """
    known = {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}
    if revision is None or revision in known:
        return revision == newest()
    if re.fullmatch(r"[0-9]{4}", revision) and revision > newest():
        return True
    raise IntegrationError.of(
        ErrorType.CONFIGURATION,
        f"the database holds tables of another program (revision {revision!r} in alembic_version; this program has "
        f"0001 to {newest()}). Nothing was changed. Give bg-pipelines a database of its own in BG_DATABASE_URL.",
        source="database",
    )


def upgrade(connection: sa.Connection) -> None:
    """Bring the tables to the newest revision, in the transaction of the connection; newer ones stay as they are."""
    if is_enough(current(connection)):
        return
    config = _config()
    config.attributes["connection"] = connection
    alembic.command.upgrade(config, "head")


def _config() -> alembic.config.Config:
    config = alembic.config.Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config
