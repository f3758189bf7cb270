"""The heartbeat of a run: its row in `job_runs` shows that it is alive, its progress and the resources it uses."""

from __future__ import annotations

import resource
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import psycopg

from bg_pipelines.database.engine import Database
from bg_pipelines.errors import IntegrationError
from bg_pipelines.queues import JOBS

BEAT_SECONDS = 10.0
DEAD_AFTER = timedelta(seconds=35)
"""A run has a heartbeat every ten seconds, of some 300 bytes of WAL. One without three of them is dead: whoever is
started for it takes over what it had claimed, before the leases end. Should it be alive after all, it can write nothing more."""

Connection = psycopg.Connection[Any]


def since_last_seen(connection: Connection, run_id: str) -> timedelta | None:
    """How long ago a run's last heartbeat was; None if it never had one."""
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

    def begin(self, connection: Connection) -> timedelta:
        """The run is at work, perhaps once more; returns how long ago it first was."""
        queue = JOBS[self.job].queue.name if self.job in JOBS else ""
        row = connection.execute(
            "INSERT INTO job_runs (run_id, job, queue, host, started_at, seen_at) "
            "VALUES (%s, %s, %s, %s, clock_timestamp(), clock_timestamp()) "
            "ON CONFLICT (run_id) DO UPDATE SET status = 'running', host = excluded.host, seen_at = excluded.seen_at, "
            "finished_at = NULL RETURNING clock_timestamp() - started_at",
            (self.run_id, self.job, queue, socket.gethostname()),
        ).fetchone()
        return row[0] if row else timedelta(0)

    def look(self) -> None:
        self._most_in_use = max(self._most_in_use, self.database.connections()[0])

    def save(
        self,
        connection: Connection,
        status: str,
        *,
        stores: int | None = None,
        stores_failed: int | None = None,
    ) -> None:
        """`status` is running, succeeded, failed or stopped. Counts that are not given stay."""
        self.look()
        unit = 2**20 if sys.platform == "darwin" else 2**10  # ru_maxrss: bytes there, KiB elsewhere
        connection.execute(
            "UPDATE job_runs SET status = %(status)s, seen_at = clock_timestamp(), "
            "finished_at = CASE WHEN %(status)s <> 'running' THEN clock_timestamp() END, "
            "stores = coalesce(%(stores)s, stores), stores_failed = coalesce(%(failed)s, stores_failed), "
            "peak_rss_mb = %(peak)s, connections_in_use = %(in_use)s, connections_size = %(size)s "
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


@contextmanager
def pulse(record: RunRecord, beat_seconds: float = BEAT_SECONDS) -> Iterator[timedelta]:
    """The heartbeat of a run that holds no claims. Yields how long ago the run began."""
    with record.database.transaction() as connection:
        elapsed = record.begin(connection)
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(beat_seconds):
            # A database failure is reported by the work itself; the heartbeat must keep trying.
            with suppress(Exception), record.database.transaction() as connection:
                record.save(connection, "running")

    beating = threading.Thread(target=beat, daemon=True, name="pulse")
    beating.start()
    status = "stopped"
    try:
        yield elapsed
        status = "succeeded"
    except Exception:
        status = "failed"
        raise
    finally:
        ended.set()
        beating.join(5)
        with suppress(IntegrationError), record.database.transaction() as connection:
            record.save(connection, status)
