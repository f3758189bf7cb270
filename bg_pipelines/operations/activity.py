"""The audit trail: who did what, on what, when, and how it went; and which version of the program was first seen when.

    with recorded(database, Actor("ada", BOARD), "retry incidents", "1, 2") as done:
        done.outcome = "2 incidents retried"

It is written before the act and completed after it: what was begun and never ended shows as that.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from typing import NamedTuple

from psycopg.rows import class_row

from bg_pipelines.database.engine import Database
from bg_pipelines.errors import IntegrationError
from bg_pipelines.wording import visible

BOARD, COMMAND, DEPLOY = "board", "command", "deploy"
LONGEST = 2_000
"""Characters of a subject or an outcome: ten thousand numbers may be given at once."""


class Actor(NamedTuple):
    """Who acts: a user of the board, or whoever types a command on the machine."""

    name: str
    via: str


class Entry(NamedTuple):
    """`succeeded` is None where it was begun and never ended."""

    id: int
    at: datetime
    who: str
    via: str
    action: str
    subject: str
    succeeded: bool | None
    outcome: str | None


@dataclass
class Done:
    """What came of it, to be said by whoever acts; `count`: on how many it did anything. `id` is its entry's."""

    id: int
    outcome: str = ""
    count: int = 0


@contextmanager
def recorded(database: Database, actor: Actor, action: str, subject: str) -> Iterator[Done]:
    """An entry for what is done meanwhile, with its outcome or with the error that it raises."""
    with database.transaction() as connection:
        row = connection.execute(
            "INSERT INTO activity (who, via, action, subject) VALUES (%s, %s, %s, %s) RETURNING id",
            (_kept(actor.name), actor.via, action, _kept(subject)),
        ).fetchone()
    assert row is not None
    done = Done(row[0])
    try:
        yield done
    except IntegrationError as error:
        _complete(database, done.id, False, error.message)
        raise
    except Exception as error:
        _complete(database, done.id, False, f"unexpected {type(error).__name__}")
        raise
    _complete(database, done.id, True, done.outcome)


def _complete(database: Database, entry: int, succeeded: bool, outcome: str) -> None:
    with database.transaction() as connection:
        connection.execute(
            "UPDATE activity SET succeeded = %s, outcome = %s WHERE id = %s",
            (succeeded, _kept(outcome), entry),
        )


def note(database: Database, actor: Actor, action: str, subject: str, outcome: str) -> None:
    """An entry for what is done already."""
    with recorded(database, actor, action, subject) as done:
        done.outcome = outcome


def find(database: Database, entry: int, who: str) -> Entry | None:
    """An entry of this person's."""
    [*found] = list_activity(database, limit=1, before=entry + 1)
    return found[0] if found and found[0].id == entry and found[0].who == _kept(who) else None


def list_activity(database: Database, *, limit: int, before: int | None = None) -> list[Entry]:
    """The latest, the newest first; `before` is the entry that they are older than."""
    with (
        database.transaction() as connection,
        connection.cursor(row_factory=class_row(Entry)) as cursor,
    ):
        cursor.execute(
            "SELECT id, at, who, via, action, subject, succeeded, outcome FROM activity "
            "WHERE %(before)s::bigint IS NULL OR id < %(before)s ORDER BY id DESC LIMIT %(limit)s",
            {"before": before, "limit": limit},
        )
        return cursor.fetchall()


def note_deploy(database: Database) -> None:
    """Say of this program and these tables that they were seen now, if they are seen for the first time."""
    from bg_pipelines.database import revisions

    with database.engine.connect() as reading:
        revision = revisions.current(reading)
    subject = f"bg-pipelines {version('bg-pipelines')}, tables {revision}"
    with database.transaction() as connection:
        connection.execute(
            "INSERT INTO activity (who, via, action, subject, succeeded) "
            "SELECT '', %(via)s, 'deploy', %(subject)s, true WHERE NOT EXISTS "
            "(SELECT FROM activity WHERE via = %(via)s AND subject = %(subject)s) "
            "ON CONFLICT (subject) WHERE via = 'deploy' DO NOTHING",
            {"via": DEPLOY, "subject": subject},
        )


def _kept(text: str) -> str:
    """What PostgreSQL can hold of it, and people can read."""
    shown = visible(text)
    return shown if len(shown) <= LONGEST else f"{shown[:LONGEST]}…"
