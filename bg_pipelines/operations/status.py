"""Status: what a person on call looks at first. Is anything wrong, what is it, does it need attention?

The figures are those of `metrics`; beside them stand the things themselves: incidents, circuits, runs, failing work.
What counts as current (in words: up to date) stands in docs/monitoring.md.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from bg_pipelines.database.engine import Database
from bg_pipelines.operations.backfills import RunningBackfill, running_backfills
from bg_pipelines.operations.daemon_figures import Daemon
from bg_pipelines.operations.metrics import WINDOW, Metrics, read_metrics
from bg_pipelines.operations.reading import read
from bg_pipelines.wording import ADD_A_STORE, counted, plain
from bg_pipelines.work.parked import WAITING
from bg_pipelines.work.pulse import DEAD_AFTER
from bg_pipelines.work.queue import owner_of

NO_STORES = f"no stores yet: add one with {ADD_A_STORE}"


class OpenIncident(NamedTuple):
    """A fault that is not over. `needs_attention`: it is not retried automatically.

    `waiting` counts the rows of work that are under it, parked or to be retried, `waiting_stores` their stores.
    """

    id: int
    severity: str
    subject: str
    error_type: str
    opened_at: datetime
    last_seen_at: datetime
    occurrences: int
    needs_attention: bool
    owner: str | None
    job: str | None
    resources: list[str]
    message: str
    waiting: int
    waiting_stores: int


class OpenCircuit(NamedTuple):
    """An open circuit: a store or a platform that only probes call."""

    subject: str
    opened_at: datetime
    failures: int
    next_probe_at: datetime | None


class Visit(NamedTuple):
    """A store's unit that a run has in hand. `since` and `rows` are of its first page; None: it has kept none yet."""

    store: str
    resource: str
    since: datetime | None
    rows: int | None


class RunStatus(NamedTuple):
    """A run at work, or one that died and whose job no later run has done (`alive` is false).

    `host` is where it works, `units` how many units of stores it has in hand, `visits` the longest of them.
    """

    run_id: str
    job: str
    queue: str
    host: str | None
    alive: bool
    started_at: datetime
    seen_at: datetime
    stores: int
    stores_failed: int
    peak_rss_mb: float | None
    connections_in_use: int | None
    connections_size: int | None
    units: int = 0
    visits: Sequence[Visit] = ()


class FailingStore(NamedTuple):
    """Units of a store that fail for the same reason. `failures` is since the last success, the most of any.

    `next_try_at` is None where the work is parked under the incident.
    """

    store: str
    resources: list[str]
    failures: int
    error_type: str
    severity: str
    recoverable: bool
    message: str
    next_try_at: datetime | None
    running: bool
    strategy: str | None
    reason: str | None
    incident: int | None


class UndeliveredAlerts(NamedTuple):
    """Alerts to one target that are not delivered yet, and those of the last day that it permanently refused."""

    target: str
    pending: int
    refused: int
    oldest_at: datetime
    error: str | None


class Status(NamedTuple):
    metrics: Metrics
    incidents: list[OpenIncident]
    circuits: list[OpenCircuit]
    runs: list[RunStatus]
    alerts: list[UndeliveredAlerts]
    failing: list[FailingStore]
    paused: list[str]
    backfills: list[RunningBackfill]
    daemon: Daemon | None = None

    @property
    def trouble(self) -> str | None:
        """Why nothing, or not everything, is started: the first thing to know. None where that was not asked."""
        if self.daemon is None or (
            self.daemon.has_never_run and not (self.metrics.stores_total or self.paused)
        ):
            return None  # there is nothing to be run
        return self.daemon.trouble

    @property
    def is_well(self) -> bool:
        """No incident is open, and all stores are up to date; of the daemon `trouble` tells."""
        return not self.incidents and self.metrics.stores_current == self.metrics.stores_total

    @property
    def verdict(self) -> str:
        """All of it in one line."""
        metrics = self.metrics
        parts = []
        waiting = sum(incident.needs_attention for incident in self.incidents)
        if waiting:
            parts.append(f"{counted(waiting, 'incident')} need{'s' * (waiting == 1)} attention")
        if mending := len(self.incidents) - waiting:
            parts.append(f"{counted(mending, 'incident')} retried automatically")
        total, current = metrics.stores_total, metrics.stores_current
        if total:
            whole = f"all {total:,} stores" if total > 1 else "the one store"
            up_to_date = whole if current == total else f"{current:,} of {counted(total, 'store')}"
            parts.append(f"{up_to_date} up to date")
        else:
            parts.append("every store is paused" if self.paused else NO_STORES)
        if retried := len({failing.store for failing in self.retrying}):
            parts.append(f"{counted(retried, 'store')} retrying")
        dead = sum(not run.alive for run in self.runs)
        if dead:
            parts.append(f"{counted(dead, 'run')} died")
        if refused := sum(alert.refused for alert in self.alerts):
            parts.append(f"{counted(refused, 'alert')} refused")
        return " · ".join(parts)

    @property
    def retrying(self) -> list[FailingStore]:
        """What fails and is retried automatically, the worst first."""
        return [failing for failing in self.failing if failing.next_try_at is not None]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready; times are ISO 8601."""
        content: dict[str, Any] = plain({"trouble": self.trouble, "verdict": self.verdict, **self._asdict()})
        return content


def read_status(
    database: Database,
    *,
    window: timedelta = WINDOW,
    all_stores: bool = False,
    most_stores: int | None = None,
    daemon: Daemon | None = None,
) -> Status:
    """The state of everything, of Dagster's daemon where it is given; of stores, see `read_metrics`. Raises IntegrationError (database)."""
    metrics = read_metrics(database, window=window, all_stores=all_stores, most_stores=most_stores)
    return read_beside(database, metrics, window=window, daemon=daemon)


def read_beside(
    database: Database, metrics: Metrics, *, window: timedelta = WINDOW, daemon: Daemon | None = None
) -> Status:
    """The things themselves, read now, beside figures that may be of a moment ago. Raises IntegrationError (database)."""
    now = metrics.at
    with database.session() as session:
        return Status(
            metrics,
            read(session, OpenIncident, _INCIDENTS),
            read(session, OpenCircuit, _CIRCUITS),
            _runs(session, now, since=now - window),
            read(session, UndeliveredAlerts, _ALERTS, since=now - window),
            read(session, FailingStore, _FAILING, now=now),
            list(session.scalars(sa.text(_PAUSED))),
            running_backfills(session, now),
            daemon,
        )


def _runs(session: Session, now: datetime, since: datetime) -> list[RunStatus]:
    runs = read(session, RunStatus, _RUNS, since=since, alive=now - DEAD_AFTER)
    in_hand: dict[str, list[Visit]] = defaultdict(list)
    units: dict[str, int] = {}
    for owner, number, *visit in session.execute(sa.text(_VISITS), {"now": now}):
        units[owner] = number
        in_hand[owner].append(Visit(*visit))
    owners = [owner_of(run.run_id) for run in runs]
    return [
        run._replace(units=units.get(owner, 0), visits=in_hand.get(owner, ()))
        for run, owner in zip(runs, owners, strict=True)
    ]


_INCIDENTS = f"""
    SELECT id, severity, subject, error_type, opened_at, last_seen_at, occurrences, needs_attention, owner, job, resources,
        message, coalesce(w.waiting, 0) AS waiting, coalesce(w.stores, 0) AS waiting_stores
    FROM incidents i LEFT JOIN ({WAITING}) w ON w.incident_id = i.id WHERE status = 'open'
    ORDER BY needs_attention DESC, array_position(ARRAY['critical', 'high', 'medium', 'low'], severity), opened_at, id"""  # noqa: S608 (made of constants)

_CIRCUITS = """
    SELECT CASE WHEN c.platform IS NULL THEN 'store ' || s.name ELSE 'platform ' || c.platform END AS subject,
        c.opened_at, c.failures, c.probe_at AS next_probe_at
    FROM circuits c LEFT JOIN stores s ON s.id = c.store_id
    WHERE c.opened_at IS NOT NULL ORDER BY c.platform IS NULL, c.opened_at, c.key"""

_RUNS = """
    SELECT run_id, job, queue, host, seen_at > :alive AS alive, started_at, seen_at, stores, stores_failed, peak_rss_mb,
        connections_in_use, connections_size
    FROM job_runs r WHERE started_at > :since AND status = 'running' AND (seen_at > :alive OR NOT EXISTS (
        SELECT FROM job_runs later WHERE later.job = r.job AND later.started_at >= r.seen_at AND later.status = 'succeeded'))
    ORDER BY seen_at > :alive, started_at, run_id"""

# What is claimed is due, which an index tells. An owner begins with what `owner_of` takes of its run's id.
_VISITS = """
    SELECT owner, units, store, resource, started_at, rows_read FROM (
        SELECT h.owner, s.name AS store, h.resource, a.started_at, a.rows_read, count(*) OVER (PARTITION BY h.owner) AS units,
            row_number() OVER (PARTITION BY h.owner ORDER BY a.started_at, s.name, h.resource) AS place
        FROM (
            SELECT split_part(lease_owner, '/', 1) AS owner, store_id, resource FROM sync_states
            WHERE next_due_at <= :now AND lease_expires_at > :now
            UNION SELECT split_part(owner, '/', 1), store_id, resource FROM visited_units WHERE expires_at > :now
        ) h JOIN stores s ON s.id = h.store_id
        LEFT JOIN sync_attempts a ON a.store_id = h.store_id AND a.resource = h.resource
            AND starts_with(a.run_id, h.owner) AND a.status = 'running'
    ) held WHERE place <= 5 ORDER BY owner, place"""

_ALERTS = """
    SELECT d.target, count(*) FILTER (WHERE d.status <> 'refused') AS pending,
        count(*) FILTER (WHERE d.status = 'refused') AS refused, min(a.created_at) AS oldest_at,
        (array_agg(d.last_error ->> 'message' ORDER BY a.id DESC) FILTER (WHERE d.last_error IS NOT NULL))[1] AS error
    FROM alert_deliveries d JOIN alerts a ON a.id = d.alert_id
    WHERE d.status = 'pending' OR (d.status = 'refused' AND a.created_at > :since)
    GROUP BY d.target ORDER BY d.target"""

_FAILING = """
    SELECT s.name AS store, array_agg(y.resource ORDER BY y.resource) AS resources, max(y.attempts) AS failures,
        coalesce(y.last_error ->> 'error_type', 'unknown') AS error_type,
        coalesce(y.last_error ->> 'severity', 'medium') AS severity,
        coalesce((y.last_error ->> 'recoverable')::boolean, true) AS recoverable,
        coalesce(y.last_error ->> 'message', '') AS message,
        min(y.next_due_at) AS next_try_at, bool_or(coalesce(y.lease_expires_at > :now, false)) AS running,
        max(y.retry_strategy) AS strategy, max(y.retry_reason) AS reason, y.incident_id AS incident
    FROM sync_states y JOIN stores s ON s.id = y.store_id
    WHERE y.attempts > 0 AND s.paused_at IS NULL AND s.deleted_at IS NULL
    GROUP BY s.name, error_type, severity, recoverable, message, y.incident_id, y.next_due_at IS NULL
    ORDER BY max(y.attempts) DESC, s.name, min(y.resource)"""

_PAUSED = "SELECT name FROM stores WHERE paused_at IS NOT NULL AND deleted_at IS NULL ORDER BY name"
