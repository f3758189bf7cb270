"""How long events are kept: what is done goes soon, failures are kept, in batches that hold up nobody.

clean_inbox(database, may_go_on=lambda: True)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import psycopg

from bg_pipelines.database.engine import Database
from bg_pipelines.work.queue import clock

DONE = timedelta(days=3)
"""Handled, passed on or ignored: so long they can be replayed, and tell what was told."""
FAILED = timedelta(days=30)
"""Parked: they wait for a person."""
UNREAD = timedelta(days=1)
"""Not understood."""
COUNTED = timedelta(days=30)
"""Counts of what was told."""
ROWS = 5_000
EVERY = timedelta(hours=1)

_OF_STATUS: Mapping[str, timedelta] = {
    "handled": DONE,
    "passed_on": DONE,
    "ignored": DONE,
    "not_understood": UNREAD,
    "pending": FAILED,
}


def is_overdue(connection: psycopg.Connection[Any]) -> bool:
    """Whether something should have gone an hour ago: whoever cleans then does so about once an hour."""
    found = connection.execute(
        "SELECT FROM webhook_events WHERE status IN ('handled', 'passed_on', 'ignored') AND received_at < %s LIMIT 1",
        (clock(connection) - DONE - EVERY,),
    )
    return found.rowcount > 0


def clean_inbox(
    database: Database, *, may_go_on: Callable[[], bool] = lambda: True, rows: int = ROWS
) -> dict[str, int]:
    """Delete what is older than it is kept, oldest first; returns how many rows, by status, and counts (`coverage`).

    A batch of `rows` is a transaction. Only those pending events go that are parked.
    """
    deleted: dict[str, int] = {}
    for status, kept in _OF_STATUS.items():
        while may_go_on():
            with database.transaction() as connection:
                count = connection.execute(
                    "DELETE FROM webhook_events WHERE id IN (SELECT id FROM webhook_events WHERE status = %s "
                    "AND received_at < clock_timestamp() - %s AND (status <> 'pending' OR next_due_at IS NULL) "
                    "ORDER BY received_at LIMIT %s FOR UPDATE SKIP LOCKED)",
                    (status, kept, rows),
                ).rowcount
            deleted[status] = deleted.get(status, 0) + count
            if count < rows:
                break
    with database.transaction() as connection:
        deleted["coverage"] = connection.execute(
            "DELETE FROM webhook_coverage WHERE hour < clock_timestamp() - %s", (COUNTED,)
        ).rowcount
    return {name: count for name, count in deleted.items() if count}
