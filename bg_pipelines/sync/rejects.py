"""Rejects: source rows that could not be loaded, stored encrypted with their reason until they load or are deleted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg

from bg_pipelines.database.secrets import Cipher
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
