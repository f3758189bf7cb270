"""Revisions of the application's tables, by Alembic, which is imported only to make one: it takes as long as all of `status`.

A revision is a number of four digits, one more than the last, and from 0005 on it only adds: a program works with
tables at its own revision and at every newer one, so tables are migrated before the programs are updated.
"""

from __future__ import annotations

import re
from pathlib import Path

import sqlalchemy as sa

from bg_pipelines.errors import ErrorType, IntegrationError

MIGRATIONS = Path(__file__).parent / "migrations"


def current(connection: sa.Connection) -> str | None:
    """The revision that the tables are at; None before the first."""
    if connection.scalar(sa.text("SELECT to_regclass('alembic_version')")) is None:
        return None
    heads = connection.scalars(sa.text("SELECT version_num FROM alembic_version ORDER BY 1"))
    return ", ".join(heads) or None


def known() -> list[str]:
    """All revisions of this program, the oldest first: a file is named by its own."""
    return sorted(file.name[:4] for file in MIGRATIONS.joinpath("versions").glob("[0-9]*_*.py"))


def newest() -> str:
    """The revision that this program was written for."""
    return known()[-1]


def is_enough(revision: str | None) -> bool:
    """Whether this program works with tables at this revision: its own or a newer one.

    Raises IntegrationError (configuration) for tables of another program.
    """
    if revision is None or revision in known():
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
    import alembic.command
    import alembic.config

    config = alembic.config.Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    alembic.command.upgrade(config, "head")
