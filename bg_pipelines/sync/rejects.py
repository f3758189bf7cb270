"""Rejects: source rows that could not be loaded, stored encrypted with their reason until they load or are deleted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg

from bg_pipelines.database.secrets import Cipher
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.incidents import reporting
from bg_pipelines.incidents.fingerprints import RejectedRows
from bg_pipelines.records import Reject


def keep_rejects(
    connection: psycopg.Connection[Any],
    cipher: Cipher,
    table: str,
    store_id: int,
    rejects: Sequence[Reject],
) -> None:
    """Store rows of a table that could not be loaded, with their reason; a repeated one is counted, not stored
    twice."""
    if not rejects:
        return
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO rejected_rows (store_id, resource, external_id, reason, payload) "
            "VALUES (%s, %s, %s, %s, %s) ON CONFLICT (store_id, resource, external_id) DO UPDATE SET "
            "reason = excluded.reason, payload = excluded.payload, last_seen_at = now(), "
            "times_seen = rejected_rows.times_seen + 1",
            [(store_id, table, r.key(), r.reason, cipher.encrypt(r.payload)) for r in rejects],
        )


def report_rejects(
    connection: psycopg.Connection[Any],
    store_id: int,
    done: Sequence[str],
    *,
    store: str,
    platform: str,
    job: str,
) -> None:
    """Open an incident of each unit that has rows which could not be loaded; close those of units that have none.

    `store` and `platform` are names.
    """
    held = {
        unit: (rows, external_id, reason)
        for unit, rows, external_id, reason in connection.execute(
            "SELECT resource, count(*), (array_agg(external_id ORDER BY id))[1], (array_agg(reason ORDER BY id))[1] "
            "FROM rejected_rows WHERE store_id = %s AND resource = ANY(%s) GROUP BY resource",
            (store_id, list(done)),
        )
    }
    fine = [RejectedRows(store_id, unit) for unit in done if unit not in held]
    reporting.clear(connection, fine, "every row loads again, or was deleted at the source")
    for unit, (rows, external_id, reason) in held.items():
        error = IntegrationError.of(
            ErrorType.BAD_DATA,
            f"{rows} row{'s' * (rows != 1)} of {unit} could not be loaded; the first, {external_id}: {reason}",
            source=platform,
            details={"rows": rows},
        )
        fault = reporting.Fault(
            RejectedRows(store_id, unit),
            subject=f"store {store}",
            error=error,
            needs_attention=True,
            job=job,
            platform=platform,
            store_id=store_id,
            units=[unit],
            payload=f"rejected_rows of store {store_id}, {unit}",
        )
        # A pass that does not read them again is no repeat.
        reporting.report_fault(connection, fault, occurrence=f"{rows} rejected")
