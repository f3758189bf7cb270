"""What a person on call looks at first: per resource how many stores are current, due and failing, and why."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from bg_pipelines.database.engine import Database


class ResourceStatus(NamedTuple):
    """One resource over all stores. `minutes_behind` is the longest that any store is overdue."""

    resource: str
    stores: int
    current: int
    due: int
    running: int
    failing: int
    minutes_behind: float
    rejected_rows: int


class FailingStore(NamedTuple):
    """Resources of a store that fail for the same reason. `failures` is since the last success, the most of any."""

    store: str
    resources: list[str]
    failures: int
    error_type: str
    severity: str
    recoverable: bool
    message: str
    next_try_at: datetime


class Status(NamedTuple):
    resources: list[ResourceStatus]
    failing: list[FailingStore]
    paused: list[str]
    corrections: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready; times are ISO 8601."""
        return {
            "resources": [row._asdict() for row in self.resources],
            "failing": [
                {**row._asdict(), "next_try_at": row.next_try_at.isoformat()} for row in self.failing
            ],
            "paused": self.paused,
            "corrections": self.corrections,
        }


def read_status(database: Database) -> Status:
    """The state of everything, from `sync_states`. Raises IntegrationError (database)."""
    with database.session() as session:

        def rows(statement: str) -> Any:
            return session.execute(sa.text(statement))

        resources = rows(
            "SELECT y.resource, count(*), "
            "count(*) FILTER (WHERE y.attempts = 0 AND y.last_succeeded_at IS NOT NULL AND y.next_due_at > now()), "
            "count(*) FILTER (WHERE y.next_due_at <= now() AND coalesce(y.lease_expires_at, '-infinity') <= now()), "
            "count(*) FILTER (WHERE y.lease_expires_at > now()), "
            "count(*) FILTER (WHERE y.attempts > 0), "
            "round(greatest(0, extract(epoch FROM now() - min(y.next_due_at)) / 60), 1)::float, "
            "(SELECT count(*) FROM rejected_rows r WHERE r.resource = y.resource) "
            "FROM sync_states y JOIN stores s ON s.id = y.store_id WHERE s.paused_at IS NULL AND s.deleted_at IS NULL "
            "GROUP BY y.resource ORDER BY y.resource"
        )
        failing = rows(
            "SELECT s.name, array_agg(y.resource ORDER BY y.resource), max(y.attempts), "
            "y.last_error ->> 'error_type' AS error_type, y.last_error ->> 'severity' AS severity, "
            "(y.last_error ->> 'recoverable')::boolean AS recoverable, y.last_error ->> 'message' AS message, "
            "min(y.next_due_at) FROM sync_states y JOIN stores s ON s.id = y.store_id WHERE y.attempts > 0 "
            "AND s.paused_at IS NULL AND s.deleted_at IS NULL GROUP BY s.name, error_type, severity, recoverable, message ORDER BY s.name, min(y.resource)"
        )
        paused = rows("SELECT name FROM stores WHERE paused_at IS NOT NULL ORDER BY name")
        corrections = rows(
            "SELECT status, count(*) FROM inventory_corrections GROUP BY status ORDER BY status"
        )
        return Status(
            [ResourceStatus(*row) for row in resources],
            [FailingStore(*row) for row in failing],
            [row[0] for row in paused],
            {row[0]: row[1] for row in corrections},
        )
