"""Attempts at one unit of a store, kept as history in `sync_attempts`; their counts grow while they run."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from bg_pipelines.database.load import Counts
from bg_pipelines.errors import IntegrationError

Connection = psycopg.Connection[Any]


def begin(connection: Connection, run_id: str, store_id: int, unit: str) -> int:
    """Begin an attempt; returns its id. One of the same unit that is still running was abandoned by a dead worker."""
    connection.execute(
        "UPDATE sync_attempts SET status = 'abandoned', finished_at = clock_timestamp() "
        "WHERE store_id = %s AND resource = %s AND status = 'running'",
        (store_id, unit),
    )
    row = connection.execute(
        "INSERT INTO sync_attempts (run_id, store_id, resource) VALUES (%s, %s, %s) RETURNING id",
        (run_id, store_id, unit),
    ).fetchone()
    assert row is not None
    return int(row[0])


def count(connection: Connection, attempt: int, pages: int, counts: Counts) -> None:
    """Add pages and rows to a running attempt, in the transaction that keeps them."""
    connection.execute(
        "UPDATE sync_attempts SET pages = pages + %s, rows_read = rows_read + %s, inserted = inserted + %s, "
        "updated = updated + %s, unchanged = unchanged + %s, deleted = deleted + %s, rejected = rejected + %s "
        "WHERE id = %s",
        (
            pages,
            counts.read,
            counts.inserted,
            counts.updated,
            counts.unchanged,
            counts.deleted,
            counts.rejected,
            attempt,
        ),
    )


def end(
    connection: Connection,
    attempt: int,
    status: str,
    *,
    error: IntegrationError | None = None,
    full_pass: bool = False,
) -> None:
    """End an attempt: succeeded, failed or released (unfinished)."""
    connection.execute(
        "UPDATE sync_attempts SET status = %s, finished_at = clock_timestamp(), error = %s, "
        "full_pass = full_pass OR %s WHERE id = %s",
        (status, None if error is None else Jsonb(error.as_dict()), full_pass, attempt),
    )


def release(connection: Connection, run_id: str, store_id: int | None = None) -> None:
    """End a run's unfinished attempts, of one store or of all, as released."""
    connection.execute(
        "UPDATE sync_attempts SET status = 'released', finished_at = clock_timestamp() "
        "WHERE run_id = %(run)s AND status = 'running' AND (%(store)s::bigint IS NULL OR store_id = %(store)s)",
        {"run": run_id, "store": store_id},
    )
