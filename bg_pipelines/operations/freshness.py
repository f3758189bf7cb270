"""Stores that are not read to the end any more, although nothing has failed: one incident, by the age of the last success.

What fails has an incident, or is retried, and says so itself. This tells of passes and exports that never end, and of
runs that are never started.
"""

from __future__ import annotations

from datetime import timedelta

from bg_pipelines.database.engine import Database
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.incidents import reporting
from bg_pipelines.incidents.fingerprints import Stale
from bg_pipelines.incidents.reporting import Fault
from bg_pipelines.wording import counted, span
from bg_pipelines.work import freshness

AT_LEAST = timedelta(hours=1)
"""Younger than this nobody is woken for it."""
FIRST_PASS = timedelta(days=1)
"""So long a store's first pass may take."""

_STALE = f"""
    SELECT y.resource, count(*), extract(epoch FROM max(n.now - coalesce(y.last_succeeded_at, s.created_at)))::float,
        (array_agg(s.name ORDER BY coalesce(y.last_succeeded_at, s.created_at)))[1]
    FROM sync_states y JOIN stores s ON s.id = y.store_id CROSS JOIN (SELECT clock_timestamp() AS now) n
    WHERE s.paused_at IS NULL AND s.deleted_at IS NULL AND y.attempts = 0 AND y.next_due_at IS NOT NULL
    AND CASE WHEN y.last_succeeded_at IS NULL THEN s.created_at < n.now - %s
        ELSE y.last_succeeded_at < n.now - greatest({freshness.MOST_AGE}, %s) END
    AND NOT EXISTS (SELECT FROM circuits c WHERE c.opened_at IS NOT NULL AND (c.store_id = s.id OR c.platform = s.platform))
    GROUP BY y.resource ORDER BY 3 DESC"""  # noqa: S608 (made of constants)


def report_stale(database: Database) -> int:
    """Report what is stale now, or that nothing is any more; returns how many units are. Raises IntegrationError."""
    with database.transaction() as connection:
        rows = connection.execute(_STALE, (FIRST_PASS, AT_LEAST)).fetchall()
        if not rows:
            reporting.clear(connection, [Stale()], "all are read again")
            return 0
        named = ", ".join(f"{resource} of {counted(stores, 'store')}" for resource, stores, _, _ in rows)
        _, _, seconds, name = rows[0]
        error = IntegrationError.of(
            ErrorType.STALE,
            f"not read to the end for too long: {named}; the longest ago is {name}, {span(seconds)}",
            source="bg-pipelines",
            details={
                resource: {"stores": stores, "seconds": round(age)} for resource, stores, age, _ in rows
            },
        )
        fault = Fault(
            Stale(), "freshness", error, needs_attention=False, units=[resource for resource, *_ in rows]
        )
        # The same at each look is no repeat.
        reporting.report_fault(connection, fault, occurrence="stale")
    return sum(stores for _, stores, _, _ in rows)
