"""What a person on call looks at first: is anything wrong, what, and does it need me?

The figures are those of `metrics`; what stands beside them here are the things themselves: incidents, circuits,
runs, failing work. What counts as current stands in docs/monitoring.md.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, NamedTuple

import sqlalchemy as sa

from bg_pipelines.database.engine import Database
from bg_pipelines.operations.metrics import WINDOW, Metrics, read_metrics
from bg_pipelines.wording import counted
from bg_pipelines.work.pulse import DEAD_AFTER

NO_STORES = "no stores yet: add one with `bg-pipelines stores add`"


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


class OpenIncident(NamedTuple):
    """A fault that is not over. `needs_attention`: it is not tried again by itself."""

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


class OpenCircuit(NamedTuple):
    """A store or a platform that is left alone but for its probes."""

    subject: str
    opened_at: datetime
    failures: int
    next_probe_at: datetime | None


class RunStatus(NamedTuple):
    """A run at work, or one that died and whose job no later run has done (`alive` is false)."""

    run_id: str
    job: str
    queue: str
    alive: bool
    started_at: datetime
    seen_at: datetime
    stores: int
    stores_failed: int
    peak_rss_mb: float | None
    connections_in_use: int | None
    connections_size: int | None


class FailingStore(NamedTuple):
    """Resources of a store that fail for the same reason. `failures` is since the last success, the most of any.

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
    """Alerts to one target that are not delivered yet, and those of the last day that it refused for good."""

    target: str
    pending: int
    refused: int
    oldest_at: datetime
    error: str | None


class Status(NamedTuple):
    metrics: Metrics
    incidents: list[OpenIncident]
    resources: list[ResourceStatus]
    circuits: list[OpenCircuit]
    runs: list[RunStatus]
    alerts: list[UndeliveredAlerts]
    failing: list[FailingStore]
    paused: list[str]

    @property
    def verdict(self) -> str:
        """All of it in one line."""
        metrics = self.metrics
        parts = []
        if self.incidents:
            waiting = sum(incident.needs_attention for incident in self.incidents)
            mending = len(self.incidents) - waiting
            halves = [f"{waiting} wait{'s' * (waiting == 1)} for a person"] if waiting else []
            halves += (
                [f"{mending} {'is' if mending == 1 else 'are'} tried again by itself"] if mending else []
            )
            parts.append(f"{counted(len(self.incidents), 'fault')}: {', '.join(halves)}")
        total, current = metrics.stores_total, metrics.stores_current
        if total:
            whole = f"all {total} stores are current" if total > 1 else "the one store is current"
            parts.append(whole if current == total else f"{current} of {counted(total, 'store')} current")
        else:
            parts.append("every store is paused" if self.paused else NO_STORES)
        if retried := len({failing.store for failing in self.retrying}):
            parts.append(f"{counted(retried, 'store')} tried again")
        dead = sum(not run.alive for run in self.runs)
        if dead:
            parts.append(f"{counted(dead, 'run')} died")
        if refused := sum(alert.refused for alert in self.alerts):
            parts.append(f"{counted(refused, 'alert')} refused")
        return "; ".join(parts)

    @property
    def retrying(self) -> list[FailingStore]:
        """What fails and is tried again by itself, the worst first."""
        return [failing for failing in self.failing if failing.next_try_at is not None]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready; times are ISO 8601."""
        content: dict[str, Any] = _plain({"verdict": self.verdict, **self._asdict()})
        return content


def read_status(database: Database, *, window: timedelta = WINDOW) -> Status:
    """The state of everything. Raises IntegrationError (database)."""
    metrics = read_metrics(database, window=window)
    now = metrics.at
    with database.session() as session:

        def rows(statement: str) -> Any:
            values = {"now": now, "since": now - window, "alive": now - DEAD_AFTER}
            named = {name: value for name, value in values.items() if f":{name}" in statement}
            return session.execute(sa.text(statement), named).all()

        return Status(
            metrics,
            [OpenIncident(*row) for row in rows(_INCIDENTS)],
            [ResourceStatus(*row) for row in rows(_RESOURCES)],
            [OpenCircuit(*row) for row in rows(_CIRCUITS)],
            [RunStatus(*row) for row in rows(_RUNS)],
            [UndeliveredAlerts(*row) for row in rows(_ALERTS)],
            [FailingStore(*row) for row in rows(_FAILING)],
            [row[0] for row in rows(_PAUSED)],
        )


_INCIDENTS = """
    SELECT id, severity, subject, error_type, opened_at, last_seen_at, occurrences, needs_attention, owner, job, resources,
        message
    FROM incidents WHERE status = 'open'
    ORDER BY needs_attention DESC, array_position(ARRAY['critical', 'high', 'medium', 'low'], severity), opened_at, id"""

_RESOURCES = """
    SELECT y.resource, count(*),
        count(*) FILTER (WHERE y.attempts = 0 AND y.last_succeeded_at IS NOT NULL AND y.next_due_at > :now),
        count(*) FILTER (WHERE y.next_due_at <= :now AND coalesce(y.lease_expires_at, '-infinity') <= :now),
        count(*) FILTER (WHERE y.lease_expires_at > :now),
        count(*) FILTER (WHERE y.attempts > 0),
        coalesce(round(greatest(0, extract(epoch FROM :now - min(y.next_due_at)) / 60), 1), 0)::float,
        (SELECT count(*) FROM rejected_rows r WHERE r.resource = y.resource)
    FROM sync_states y JOIN stores s ON s.id = y.store_id WHERE s.paused_at IS NULL AND s.deleted_at IS NULL
    GROUP BY y.resource ORDER BY y.resource"""

_CIRCUITS = """
    SELECT CASE WHEN c.platform IS NULL THEN 'store ' || s.name ELSE 'platform ' || c.platform END,
        c.opened_at, c.failures, c.probe_at
    FROM circuits c LEFT JOIN stores s ON s.id = c.store_id
    WHERE c.opened_at IS NOT NULL ORDER BY c.platform IS NULL, c.opened_at, c.key"""

_RUNS = """
    SELECT run_id, job, queue, seen_at > :alive, started_at, seen_at, stores, stores_failed, peak_rss_mb,
        connections_in_use, connections_size
    FROM job_runs r WHERE started_at > :since AND status = 'running' AND (seen_at > :alive OR NOT EXISTS (
        SELECT FROM job_runs later WHERE later.job = r.job AND later.started_at >= r.seen_at AND later.status = 'succeeded'))
    ORDER BY seen_at > :alive, started_at, run_id"""

_ALERTS = """
    SELECT d.target, count(*) FILTER (WHERE d.status <> 'refused'), count(*) FILTER (WHERE d.status = 'refused'),
        min(a.created_at), (array_agg(d.last_error ->> 'message' ORDER BY a.id DESC) FILTER (WHERE d.last_error IS NOT NULL))[1]
    FROM alert_deliveries d JOIN alerts a ON a.id = d.alert_id
    WHERE d.status = 'pending' OR (d.status = 'refused' AND a.created_at > :since)
    GROUP BY d.target ORDER BY d.target"""

_FAILING = """
    SELECT s.name, array_agg(y.resource ORDER BY y.resource), max(y.attempts),
        coalesce(y.last_error ->> 'error_type', 'unknown') AS error_type,
        coalesce(y.last_error ->> 'severity', 'medium') AS severity,
        coalesce((y.last_error ->> 'recoverable')::boolean, true) AS recoverable,
        coalesce(y.last_error ->> 'message', '') AS message,
        min(y.next_due_at), bool_or(coalesce(y.lease_expires_at > :now, false)), max(y.retry_strategy),
        max(y.retry_reason), y.incident_id
    FROM sync_states y JOIN stores s ON s.id = y.store_id
    WHERE y.attempts > 0 AND s.paused_at IS NULL AND s.deleted_at IS NULL
    GROUP BY s.name, error_type, severity, recoverable, message, y.incident_id, y.next_due_at IS NULL
    ORDER BY max(y.attempts) DESC, s.name, min(y.resource)"""

_PAUSED = "SELECT name FROM stores WHERE paused_at IS NOT NULL AND deleted_at IS NULL ORDER BY name"


def _plain(value: Any) -> Any:
    """Named tuples as objects, times as text."""
    if isinstance(value, datetime):
        return value.isoformat()
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return value
