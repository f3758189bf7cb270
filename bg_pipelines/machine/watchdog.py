"""The watchdog: what Dagster cannot tell, being what is broken, or needing it: a full disk, its storage, its daemon, ticks
that do not come.

It is a process of its own (`bg-pipelines watch`, and in `bg-pipelines up`), looks every few seconds, and tells people
at once and when it is over. Once a minute it keeps the figures of that minute, for trends. While all is well it calls `BG_HEARTBEAT_URL` once a minute: an outside monitor there tells of
what a watchdog cannot, its own end and its machine's.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from bg_pipelines import alerts
from bg_pipelines.database.engine import Database, open_dagster_database, open_database
from bg_pipelines.database.sqlstates import server_code
from bg_pipelines.errors import ErrorType, IntegrationError, Severity
from bg_pipelines.incidents import reporting
from bg_pipelines.incidents.fingerprints import DAGSTER, Fingerprint, Installation
from bg_pipelines.incidents.reporting import MANUAL, Fault, run_fault
from bg_pipelines.operations import activity, trends
from bg_pipelines.operations.daemon_figures import SILENT_SECONDS, read_daemon
from bg_pipelines.platforms.http import Transport
from bg_pipelines.settings import Settings

LOOK_SECONDS = 10.0
PATIENCE = 3
"""Looks in a row that find a fault before it is told, so that a server may be started again. A full disk is told at once."""
LEAST_BYTES = 10 * 2**20
"""Of a disk that is not full yet; PostgreSQL takes 16 MB at a time."""
HEARTBEAT_SECONDS = 60.0
NAME = "watchdog"
STORAGE, DAEMON, TICKS = (Installation(DAGSTER, part) for part in ("storage", "daemon", "ticks"))
_NAMES = {STORAGE: "Dagster's storage", DAEMON: "Dagster's daemon", TICKS: "Dagster's schedules"}
"""What is wrong with each is told as the subject, so that who is paged knows the process."""

# Some pages are written, and so that nothing is left of them no one else sees the table.
_WRITE = "CREATE TEMPORARY TABLE bg_watchdog ON COMMIT DROP AS SELECT n FROM generate_series(1, 5000) n"

log = logging.getLogger(__name__)


class Watchdog:
    """Looks at the databases, the disk and Dagster's daemon. `clock` is in seconds and only ever compared with itself."""

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.settings = settings
        self._clock = clock
        self._databases: dict[Callable[..., Database], Database] = {}
        self._seen: dict[Fingerprint, int] = {}
        """How many looks in a row found it."""
        self._told: dict[Fingerprint, str] = {}
        """What people were told of, each with its occurrence."""
        self._is_new = True
        self._alive_since: float | None = None
        """When the daemon was first seen alive, without a look at which it was not."""
        self._beat_at = self._sampled_at = float("-inf")
        self._transport = Transport("heartbeat", "the monitor", address_of="BG_HEARTBEAT_URL")

    def watch(self, sleep: Callable[[float], object] = time.sleep) -> None:
        """Look until KeyboardInterrupt."""
        while True:
            self.look()
            sleep(LOOK_SECONDS)

    def close(self) -> None:
        self._transport.close()
        for database in self._databases.values():
            database.close()

    def look(self) -> list[Fault]:
        """Look once, and tell what there is to tell; returns the faults that there are. Never raises."""
        faults = self._faults()
        found = {fault.fingerprint for fault in faults}
        self._seen = {one: self._seen.get(one, 0) + 1 for one in found}
        for fault in faults:
            one = fault.fingerprint
            if one in self._told or self._seen[one] >= PATIENCE or _is_lacking(fault.error):
                # The same while it lasts: looked at again is no repeat, and a target that was not reached is tried again.
                occurrence = self._told.setdefault(one, f"{NAME} {time.time():.0f}")
                alerts.report(fault, occurrence=occurrence, settings=self.settings)
        if not faults or found <= set(_NAMES):
            self._end([one for one in self._told if one not in found])
        if not faults:
            self._beat()
        if not faults or found <= {DAEMON, TICKS}:
            self._sample()
        return faults

    def _faults(self) -> list[Fault]:
        """What there is to tell, the cause of the others first and alone: people get one message for one cause."""
        places = dict.fromkeys(filter(None, (self.settings.home, _dagster_home())))
        error = next(filter(None, map(_full, places)), None)
        error = error or self._error("the application's database", self._write)
        if error is not None:
            return [run_fault(NAME, MANUAL, error)]
        error = self._error(_NAMES[STORAGE], self._write_in_dagster_s)
        if error is not None:
            return [_fault_of(STORAGE, error)]
        daemon = read_daemon(self._database(open_dagster_database))
        if not daemon.is_alive:
            self._alive_since = None
        elif self._alive_since is None:
            self._alive_since = self._clock()
        if daemon.trouble is None or daemon.has_never_run:
            return []
        if self._alive_since is None:
            return [_fault_of(DAEMON, _not_started(daemon.trouble, Severity.CRITICAL))]
        # One that was just started has ticks to make up for.
        if self._clock() - self._alive_since < SILENT_SECONDS:
            return []
        return [_fault_of(TICKS, _not_started(daemon.trouble, Severity.HIGH))]

    def _error(self, what: str, act: Callable[[], None]) -> IntegrationError | None:
        try:
            act()
        except IntegrationError as error:
            return error
        except Exception as error:  # noqa: BLE001 (the watchdog goes on, and says what it met)
            return IntegrationError.of(
                ErrorType.DATABASE,
                f"{what} cannot be looked at: unexpected {type(error).__name__}",
                source="database",
            )
        return None

    def _write(self) -> None:
        with self._database(open_database).transaction() as connection:
            connection.execute(_WRITE)

    def _write_in_dagster_s(self) -> None:
        with self._database(open_dagster_database).transaction() as connection:
            connection.execute(_WRITE)

    def _database(self, opened: Callable[..., Database]) -> Database:
        if opened not in self._databases:
            self._databases[opened] = opened(self.settings, pool_size=1)
        return self._databases[opened]

    def _end(self, over: list[Fingerprint]) -> None:
        """The database can be written: what was told and is over ends, also what an earlier watchdog told."""
        if not (over or self._is_new):
            return
        try:
            database = self._database(open_database)
            alerts.tell(database, self.settings)  # what could not be recorded is an incident now
            with database.transaction() as connection:
                reporting.clear_database_faults(connection)
                gone = [one for one in _NAMES if one not in self._seen]
                reporting.clear(connection, gone, "it is well again")
            alerts.tell(database, self.settings)
        except IntegrationError as error:
            log.error("watchdog: its end is not told yet: %s", error.message)
            return
        self._is_new = False
        for one in over:
            del self._told[one]

    def _sample(self) -> None:
        """Keep the figures of this minute, for trends."""
        if self._clock() - self._sampled_at < trends.EVERY_SECONDS:
            return
        self._sampled_at = self._clock()
        try:
            database = self._database(open_database)
            trends.sample(database)
            activity.note_deploy(database)
        except IntegrationError as error:
            log.error("watchdog: figures were not kept: %s", error.message)

    def _beat(self) -> None:
        url = self.settings.heartbeat_url
        if url is None or self._clock() - self._beat_at < HEARTBEAT_SECONDS:
            return
        self._beat_at = self._clock()
        try:
            self._transport.request("GET", url.get_secret_value())
        except IntegrationError as error:
            log.error("watchdog: the monitor was not reached: %s", error.error_type)


def _fault_of(fingerprint: Installation, error: IntegrationError) -> Fault:
    return Fault(
        fingerprint, _NAMES[fingerprint], error, needs_attention=True, affected_runs=[f"{NAME}/{MANUAL}"]
    )


def _not_started(message: str, severity: Severity) -> IntegrationError:
    return IntegrationError(message, error_type=ErrorType.RUN_DIED, severity=severity, source="dagster")


def _is_lacking(error: IntegrationError) -> bool:
    return server_code(error).startswith("53")


def _full(place: Path) -> IntegrationError | None:
    try:
        free = shutil.disk_usage(place).free
    except OSError:
        return None
    if free >= LEAST_BYTES:
        return None
    return IntegrationError.of(
        ErrorType.DATABASE,
        f"the disk of {place} is full: nothing can be written there. Free some space, jobs go on by themselves",
        source="disk",
        details={"server": "53100"},
    )


def _dagster_home() -> Path | None:
    home = os.environ.get("DAGSTER_HOME")
    return Path(home) if home else None
