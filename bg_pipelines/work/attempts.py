"""Attempts at one unit of a store, kept as history in `sync_attempts`; their counts grow while they run.

An attempt is written with the first that it keeps, in that transaction: one that finds nothing new leaves no row. Its id
comes with its claim.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

import psycopg
from psycopg.types.json import Jsonb

from bg_pipelines.database.load import Counts
from bg_pipelines.errors import IntegrationError
from bg_pipelines.work import rollups

Connection = psycopg.Connection[Any]

NEXT_ID = "nextval(pg_get_serial_sequence('sync_attempts', 'id'))"
"""The SQL of a new attempt's id."""


class Attempt(NamedTuple):
    """An attempt of a run at a unit of a store; `began_at` by the database's clock."""

    id: int
    run_id: str
    store_id: int
    unit: str
    began_at: datetime


# One of the same unit that is still running was abandoned by a dead worker.
_COUNT = f"""
    WITH abandoned AS (
        UPDATE sync_attempts SET status = 'abandoned', finished_at = clock_timestamp()
        WHERE store_id = %(store)s AND resource = %(unit)s AND status = 'running' AND id <> %(id)s
    )
    INSERT INTO sync_attempts AS a (id, run_id, store_id, resource, started_at, pages, rows_read, inserted, updated, unchanged,
        deleted, rejected, lags, lag_seconds) OVERRIDING SYSTEM VALUE
    VALUES (%(id)s, %(run)s, %(store)s, %(unit)s, %(began)s, %(pages)s, %(read)s, %(inserted)s, %(updated)s, %(unchanged)s,
        %(deleted)s, %(rejected)s, %(lags)s, %(lag_seconds)s)
    ON CONFLICT (id) DO UPDATE SET pages = a.pages + excluded.pages, rows_read = a.rows_read + excluded.rows_read,
        inserted = a.inserted + excluded.inserted, updated = a.updated + excluded.updated,
        unchanged = a.unchanged + excluded.unchanged, deleted = a.deleted + excluded.deleted,
        rejected = a.rejected + excluded.rejected, lags = {rollups.added_lags("a.lags", "excluded.lags")},
        lag_seconds = coalesce(a.lag_seconds + excluded.lag_seconds, a.lag_seconds, excluded.lag_seconds)"""  # noqa: S608 (constants)


def count(
    connection: Connection, attempt: Attempt, pages: int, counts: Counts, lags: Sequence[float] = ()
) -> None:
    """Add pages and rows to an attempt, and how many seconds its changes were late, in the transaction that keeps them."""
    connection.execute(
        _COUNT,
        {
            **_key(attempt),
            "pages": pages,
            "read": counts.read,
            "inserted": counts.inserted,
            "updated": counts.updated,
            "unchanged": counts.unchanged,
            "deleted": counts.deleted,
            "rejected": counts.rejected,
            "lags": rollups.buckets(lags, rollups.LAGS) if lags else None,
            "lag_seconds": sum(lags) if lags else None,
        },
    )


def end(
    connection: Connection,
    attempt: Attempt,
    status: str,
    *,
    error: IntegrationError | None = None,
    full_pass: bool = False,
    budget_used: float | None = None,
) -> None:
    """End an attempt: succeeded, failed or released (unfinished). `budget_used`: of the vendor's rate limit, where told."""
    connection.execute(
        "INSERT INTO sync_attempts AS a (id, run_id, store_id, resource, started_at, status, finished_at, error, full_pass, budget_used) "
        "OVERRIDING SYSTEM VALUE VALUES (%(id)s, %(run)s, %(store)s, %(unit)s, %(began)s, %(status)s, clock_timestamp(), "
        "%(error)s, %(full)s, %(budget)s) ON CONFLICT (id) DO UPDATE SET status = excluded.status, finished_at = excluded.finished_at, "
        "error = excluded.error, full_pass = a.full_pass OR excluded.full_pass, budget_used = excluded.budget_used",
        {
            **_key(attempt),
            "status": status,
            "error": None if error is None else Jsonb(error.as_dict()),
            "full": full_pass,
            "budget": budget_used,
        },
    )


def release(connection: Connection, run_id: str, store_id: int | None = None) -> None:
    """End a run's unfinished attempts, of one store or of all, as released."""
    connection.execute(
        "UPDATE sync_attempts SET status = 'released', finished_at = clock_timestamp() "
        "WHERE run_id = %(run)s AND status = 'running' AND (%(store)s::bigint IS NULL OR store_id = %(store)s)",
        {"run": run_id, "store": store_id},
    )


def _key(attempt: Attempt) -> dict[str, Any]:
    return {
        "id": attempt.id,
        "run": attempt.run_id,
        "store": attempt.store_id,
        "unit": attempt.unit,
        "began": attempt.began_at,
    }
