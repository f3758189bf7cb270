"""A run's own row in `job_runs`, by which others see that it lives, how it does and what it takes."""

from __future__ import annotations

import resource
import sys
from datetime import timedelta
from typing import Any

import psycopg

from bg_pipelines.database.engine import Database
from bg_pipelines.queues import JOBS

DEAD_AFTER = timedelta(minutes=2, seconds=30)
"""A run says every half minute that it lives. One that has been silent for so long is dead: its leases have ended."""

Connection = psycopg.Connection[Any]


def since_last_seen(connection: Connection, run_id: str) -> timedelta | None:
    """How long ago a run was last heard of; None if it never was."""
    row = connection.execute(
        "SELECT clock_timestamp() - seen_at FROM job_runs WHERE run_id = %s", (run_id,)
    ).fetchone()
    return row[0] if row else None


class RunRecord:
    """Begun once, kept up to date while the run works, ended with how it went.

    Peak memory is the process's; connections in use are the most that were seen at any `look`.
    """

    def __init__(self, database: Database, run_id: str, job: str) -> None:
        self.database = database
        self.run_id = run_id
        self.job = job
        self._most_in_use = 0

    def begin(self, connection: Connection) -> None:
        queue = JOBS[self.job].queue.name if self.job in JOBS else ""
        connection.execute(
            "INSERT INTO job_runs (run_id, job, queue, started_at, seen_at) "
            "VALUES (%s, %s, %s, clock_timestamp(), clock_timestamp()) "
            "ON CONFLICT (run_id) DO UPDATE SET status = 'running', seen_at = excluded.seen_at, finished_at = NULL",
            (self.run_id, self.job, queue),
        )

    def look(self) -> None:
        self._most_in_use = max(self._most_in_use, self.database.connections()[0])

    def save(self, connection: Connection, status: str, *, stores: int = 0, stores_failed: int = 0) -> None:
        """`status` is running, succeeded, failed or stopped."""
        self.look()
        unit = 2**20 if sys.platform == "darwin" else 2**10  # ru_maxrss: bytes there, KiB elsewhere
        connection.execute(
            "UPDATE job_runs SET status = %(status)s, seen_at = clock_timestamp(), "
            "finished_at = CASE WHEN %(status)s <> 'running' THEN clock_timestamp() END, stores = %(stores)s, "
            "stores_failed = %(failed)s, peak_rss_mb = %(peak)s, connections_in_use = %(in_use)s, connections_size = %(size)s "
            "WHERE run_id = %(run)s",
            {
                "run": self.run_id,
                "status": status,
                "stores": stores,
                "failed": stores_failed,
                "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit,
                "in_use": self._most_in_use,
                "size": self.database.connections()[1],
            },
        )
