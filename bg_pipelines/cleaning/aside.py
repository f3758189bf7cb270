"""What cannot be deleted: set aside with its reason (`cleaning_set_aside`), and tried again after a day."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg

from bg_pipelines.cleaning.relations import Connection

TRIED_AGAIN = "interval '1 day'"


def set_aside(connection: Connection, task: str, key: Sequence[str], reason: str) -> None:
    """Remember that this task cannot delete what has this key."""
    connection.execute(
        "INSERT INTO cleaning_set_aside (task, key, reason, first_at, last_at) "
        "VALUES (%s, %s, %s, statement_timestamp(), statement_timestamp()) "
        "ON CONFLICT (task, key) DO UPDATE SET reason = excluded.reason, last_at = excluded.last_at",
        (task, "/".join(key), reason),
    )


def reason_of(error: psycopg.Error) -> str:
    """Why it could not be deleted: who refused it, without the row's own values."""
    diagnosis = error.diag
    if diagnosis.constraint_name:
        return f"the constraint {diagnosis.constraint_name} of {diagnosis.table_name} ({error.sqlstate})"
    if diagnosis.context:
        # Where it was raised; what was said there may be anything.
        place = diagnosis.context.splitlines()[0]
        return f"{place} ({error.sqlstate})" if place.startswith("PL/") else f"a trigger ({error.sqlstate})"
    return f"{type(error).__name__} ({error.sqlstate})"
