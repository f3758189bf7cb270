"""Dagster's daemon, its schedules and its sensors: whether they live, when each last ticked and when it should again.

Read from the tables of Dagster's storage, as the watchdog reads them: no Dagster is imported for it. A schedule is known by
its job and its cron (`queues.JOBS`), so one that never ticked is there, too; sensors are those that Dagster knows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import psycopg
from cronsim import CronSim

from bg_pipelines.database.engine import Database, has_home, open_dagster_database
from bg_pipelines.errors import IntegrationError
from bg_pipelines.queues import JOBS
from bg_pipelines.settings import Settings
from bg_pipelines.wording import command, counted, spelled

SILENT_SECONDS = 80.0
"""The daemon says every half minute that it lives. Silent for longer, it is taken for dead."""
LATE_SECONDS = 90.0
"""By so much a tick may be late before its schedule has stopped. The watchdog looks thrice: told within two minutes."""
FORGOTTEN = timedelta(days=2)
"""A sensor that has not ticked for so long is one of an earlier version: the daemon forgets none."""

Connection = psycopg.Connection[Any]


class Tick(NamedTuple):
    """A schedule or a sensor. `last_at` is None where it never ticked, `next_at` where it is turned off; `seconds_late` is by
    how much the next tick is overdue. `error` is of the last tick, where that failed."""

    name: str
    kind: str
    is_on: bool
    last_at: datetime | None
    next_at: datetime | None
    seconds_late: float
    error: str | None

    @property
    def has_stopped(self) -> bool:
        return self.is_on and self.seconds_late > LATE_SECONDS


class Daemon(NamedTuple):
    """`seen_at` is the last heartbeat of what the jobs need of it; None: it never ran. `error`: its storage is away."""

    at: datetime
    seen_at: datetime | None
    ticks: list[Tick]
    error: str | None = None

    @property
    def silent_seconds(self) -> float | None:
        """Since the last heartbeat; None where there never was one."""
        return None if self.seen_at is None else max(0.0, (self.at - self.seen_at).total_seconds())

    @property
    def has_never_run(self) -> bool:
        return self.seen_at is None and self.error is None

    @property
    def is_alive(self) -> bool:
        return self.silent_seconds is not None and self.silent_seconds <= SILENT_SECONDS

    @property
    def stopped(self) -> list[Tick]:
        """What has not ticked although the daemon lives."""
        return [tick for tick in self.ticks if tick.has_stopped] if self.is_alive else []

    @property
    def trouble(self) -> str | None:
        """Why nothing is started, or not everything, since when, and what to do; None while all is well."""
        if self.error is not None:
            return f"Whether anything is running is not known: Dagster's storage cannot be read: {self.error}"
        silent = self.silent_seconds
        if silent is None:
            return f"Nothing is running: the daemon has never run. Start it: {command('up')}"
        if not self.is_alive:
            return f"Nothing is running: no heartbeat of the daemon for {spelled(silent)}. Start it: {command('up')}"
        if not self.stopped:
            return None
        worst = max(self.stopped, key=lambda tick: tick.seconds_late)
        others = f" and {counted(len(self.stopped) - 1, 'other')}" if len(self.stopped) > 1 else ""
        return (
            f"Not everything is running: the {worst.kind} {worst.name}{others} should have ticked {spelled(worst.seconds_late)} "
            f"ago, and starts nothing. Restart {command('up')}, or the daemon's service; its log says why"
        )

    @property
    def turned_off(self) -> list[str]:
        """Schedules and sensors that a person has turned off: they start nothing until turned on again."""
        return [tick.name for tick in self.ticks if not tick.is_on]


@contextmanager
def daemon_reader(settings: Settings) -> Iterator[Callable[[], Daemon]]:
    """What reads the daemon's state, each time anew. Where there is no storage none is made: it has never run."""
    if settings.dagster_database_url is None and not has_home(settings):
        yield lambda: Daemon(datetime.now(UTC), None, list(_ticks([], datetime.now(UTC))))
        return
    try:
        database = open_dagster_database(settings, pool_size=1)
    except IntegrationError as error:
        message = error.message
        yield lambda: Daemon(datetime.now(UTC), None, [], message)
    else:
        with closing(database):
            yield lambda: read_daemon(database)


def read_daemon(dagster: Database) -> Daemon:
    """From Dagster's database. Never raises IntegrationError: a storage that is away is an answer, too."""
    try:
        with dagster.transaction() as connection:
            return _read(connection)
    except IntegrationError as error:
        return Daemon(datetime.now(UTC), None, [], error.message)


def _read(connection: Connection) -> Daemon:
    now, has_tables = _one(
        connection, "SELECT clock_timestamp(), to_regclass('daemon_heartbeats') IS NOT NULL AND "
        "to_regclass('instigators') IS NOT NULL AND to_regclass('job_ticks') IS NOT NULL"
    )  # fmt: skip
    if not has_tables:
        return Daemon(now, None, list(_ticks([], now)))
    (seen_at,) = _one(
        connection,
        "SELECT min(timestamp) AT TIME ZONE 'UTC' FROM daemon_heartbeats "
        "WHERE daemon_type IN ('SENSOR', 'SCHEDULER', 'QUEUED_RUN_COORDINATOR')",
    )
    rows = connection.execute(_TICKS).fetchall()
    return Daemon(now, seen_at, list(_ticks([_Row(*row) for row in rows], now)))


# The newest first, for a schedule may be known by several places of the code.
_TICKS = """
    SELECT i.instigator_body, i.status, t.timestamp AT TIME ZONE 'UTC', t.status, t.tick_body, i.create_timestamp AT TIME ZONE 'UTC'
    FROM instigators i LEFT JOIN LATERAL (
        SELECT timestamp, status, CASE WHEN status = 'FAILURE' THEN tick_body END AS tick_body FROM job_ticks
        WHERE selector_id = i.selector_id ORDER BY timestamp DESC LIMIT 1
    ) t ON true
    ORDER BY t.timestamp DESC NULLS LAST, i.id"""


class _Row(NamedTuple):
    body: str
    status: str
    last_at: datetime | None
    tick_status: str | None
    tick_body: str | None
    known_since: datetime


def _ticks(rows: Iterable[_Row], now: datetime) -> Iterator[Tick]:
    known: dict[tuple[str, str], tuple[_Row, dict[str, Any]]] = {}
    for row in rows:
        body = json.loads(row.body)
        origin = body["origin"]
        kind = "sensor" if "sensor" in str(body["job_type"]).lower() else "schedule"
        known.setdefault((kind, origin.get("job_name") or origin["instigator_name"]), (row, body))
    for job, of_job in JOBS.items():
        for key, cron in of_job.crons.items():
            name = f"{job}_{key}"
            held = known.get(("schedule", name))
            since = now if held is None else held[0].last_at or held[0].known_since
            yield _tick(name, "schedule", held and held[0], next(CronSim(cron, since.astimezone(UTC))), now)
    for (kind, name), (row, body) in sorted(known.items()):
        if kind == "sensor" and row.last_at is not None and now - row.last_at < FORGOTTEN:
            seconds = (body.get("job_specific_data") or {}).get("min_interval") or 0
            yield _tick(name, kind, row, row.last_at + timedelta(seconds=seconds), now)


def _tick(name: str, kind: str, row: _Row | None, next_at: datetime, now: datetime) -> Tick:
    is_on = row is None or row.status != "STOPPED"
    return Tick(
        name,
        kind,
        is_on,
        row and row.last_at,
        next_at if is_on else None,
        max(0.0, (now - next_at).total_seconds()) if is_on else 0.0,
        _error(row) if row is not None and row.tick_status == "FAILURE" else None,
    )


def _error(row: _Row) -> str:
    """The first line of what a tick failed with."""
    message = (json.loads(row.tick_body or "{}").get("error") or {}).get("message") or "it failed"
    return str(message).strip().partition("\n")[0][:300]


def _one(connection: Connection, statement: Any) -> tuple[Any, ...]:
    row = connection.execute(statement).fetchone()
    assert row is not None
    return tuple(row)
