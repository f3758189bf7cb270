"""Pressure: how busy the database is with the shop's own work, and whether cleaning should wait for it.

    watch = Watch(lambda: measure(database, [oid]), Limits(), clock=time.monotonic)
    watch.look() -> "sessions waiting for locks", or None

Figures that the role may not see count as none: `pg_monitor` shows them all (docs/cleaning.md).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from bg_pipelines.database.engine import Database

LOOK_SECONDS = 1.0
REST_SECONDS = 0.5


class Pressure(NamedTuple):
    """What the server is at, this moment. None: it has no replicas, or archives no WAL."""

    active_sessions: int
    lock_waits: int
    replica_lag_seconds: float | None
    replica_lag_bytes: int | None
    wal_files_to_archive: int | None
    vacuuming: bool


class Limits(NamedTuple):
    """Above these cleaning waits."""

    active_sessions: int = 50
    lock_waits: int = 4
    replica_lag_seconds: float = 10.0
    replica_lag_bytes: int = 256 * 1024 * 1024
    wal_files_to_archive: int = 64


_SESSIONS = """
    SELECT (SELECT count(*) FROM pg_stat_activity
            WHERE state = 'active' AND backend_type = 'client backend' AND pid <> pg_backend_pid()),
        (SELECT count(*) FROM pg_locks WHERE NOT granted),
        (SELECT max(extract(epoch FROM replay_lag))::float FROM pg_stat_replication),
        -- A replica that replays nothing at all has no lag in seconds.
        CASE WHEN NOT pg_is_in_recovery() THEN
            (SELECT max(pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn))::bigint FROM pg_stat_replication) END,
        -- The number of the segment that is written now, less that of the last one that was archived, or could never be.
        CASE WHEN current_setting('archive_mode') <> 'off' AND NOT pg_is_in_recovery() THEN (
            SELECT (pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0') / size)::bigint
                - (('x' || substr(wal, 9, 8))::bit(32)::bigint * (4294967296 / size)
                    + ('x' || substr(wal, 17, 8))::bit(32)::bigint) - 1
            FROM pg_stat_archiver, pg_size_bytes(current_setting('wal_segment_size')) size,
                coalesce(last_archived_wal, last_failed_wal) wal
            WHERE wal ~ '^[0-9A-F]{24}$') END,
        EXISTS (SELECT FROM pg_stat_progress_vacuum WHERE relid = ANY(%s::oid[]) AND datname = current_database())"""


def measure(database: Database, tables: Sequence[int]) -> Pressure:
    """The pressure now; `tables` are the oids of those that a vacuum would be in the way of. Raises IntegrationError."""
    with database.transaction() as connection:
        row = connection.execute(_SESSIONS, (list(tables),)).fetchone()
    assert row is not None
    return Pressure(*row)


def reason_to_wait(pressure: Pressure, limits: Limits) -> str | None:
    """Why cleaning should wait, in a few words that stay the same while it is so; None: it need not."""
    if pressure.vacuuming:
        return "a vacuum of the same table"
    if pressure.lock_waits > limits.lock_waits:
        return "sessions waiting for locks"
    if pressure.active_sessions > limits.active_sessions:
        return "many active sessions"
    if (pressure.replica_lag_seconds or 0) > limits.replica_lag_seconds or (
        pressure.replica_lag_bytes or 0
    ) > limits.replica_lag_bytes:
        return "replica lag"
    if (pressure.wal_files_to_archive or 0) > limits.wal_files_to_archive:
        return "WAL waiting to be archived"
    return None


class Watch:
    """Looks at the pressure now and then, and counts how long cleaning waited for what.

    `measure` is what is looked at; `clock` counts seconds.
    """

    def __init__(
        self,
        measure: Callable[[], Pressure],
        limits: Limits,
        *,
        clock: Callable[[], float],
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        self.measure = measure
        self.limits = limits
        self.clock = clock
        self.look_seconds = look_seconds
        self.pauses: Counter[str] = Counter()
        self._looked_at = float("-inf")
        self._reason: str | None = None

    def look(self) -> str | None:
        """Why to wait now; looked up at most once in `look_seconds`."""
        now = self.clock()
        if now - self._looked_at >= self.look_seconds:
            self._reason = reason_to_wait(self.measure(), self.limits)
            self._looked_at = self.clock()
        return self._reason

    def waited(self, reason: str, seconds: float) -> None:
        self.pauses[reason] += seconds  # type: ignore[assignment]


def in_words(pauses: dict[str, float]) -> str:
    """How long cleaning waited, and for what."""
    return ", ".join(f"{seconds:.1f} s for {reason}" for reason, seconds in pauses.items()) or "none"
