"""How the work goes, in figures: per queue, job and store; and the same figures as Prometheus text.

What each figure means stands in docs/monitoring.md. The unit of work is a store of a job: one visit of a worker.
Few queries, whatever the number of stores; all times are the database's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import sqlalchemy as sa
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from bg_pipelines.database.engine import Database
from bg_pipelines.queues import AUDIT_EVERY, JOB_RESOURCES, JOBS, QUEUES, TIERS
from bg_pipelines.records import Resource
from bg_pipelines.work.pulse import DEAD_AFTER

WINDOW = timedelta(hours=24)
"""Over which tries and runs are counted and timed."""
MOST_TRIES = 50_000
"""Of the window, the newest: ten thousand stores make millions a day, and a look should cost the same every day."""


class QueueMetrics(NamedTuple):
    """The work of a queue: that of its jobs together."""

    queue: str
    size: int
    oldest_seconds: float
    running: int
    retries_waiting: int
    parked: int
    parked_seconds: float
    behind_seconds: float
    p50_seconds: float | None
    p95_seconds: float | None
    success_rate: float | None
    open_incidents: int


class JobMetrics(NamedTuple):
    """The work of a job; what is counted are stores."""

    job: str
    queue: str
    stores: int
    current: int
    size: int
    oldest_seconds: float
    running: int
    retries_waiting: int
    parked: int
    parked_seconds: float
    behind_seconds: float
    p50_seconds: float | None
    p95_seconds: float | None
    success_rate: float | None
    open_incidents: int


class StoreMetrics(NamedTuple):
    """The work of a store in a job; counts are 0 or 1."""

    store: str
    platform: str
    job: str
    queue: str
    current: bool
    size: int
    oldest_seconds: float
    running: int
    retries_waiting: int
    parked: int
    parked_seconds: float
    behind_seconds: float
    p50_seconds: float | None
    p95_seconds: float | None
    success_rate: float | None
    open_incidents: int


class RunMetrics(NamedTuple):
    """The runs of a job in the window, and how many are at work or have died.

    A dead run counts until a later run of its job has succeeded. `connections_*` are of the runs at work.
    """

    job: str
    queue: str
    at_work: int
    dead: int
    p50_seconds: float | None
    p95_seconds: float | None
    success_rate: float | None
    peak_memory_bytes: int | None
    last_succeeded_at: datetime | None
    connections_in_use: int
    connections_size: int


class Connections(NamedTuple):
    """Of the runs at work, against the sizes of their pools; of everybody, against what the server allows."""

    in_use: int
    size: int
    server_in_use: int
    server_size: int


class AuditMetrics(NamedTuple):
    """What the audits of the window found of a resource, over all stores."""

    resource: str
    sampled: int
    drifted: int
    repaired: int
    lag: int


class IncidentCount(NamedTuple):
    severity: str
    needs_attention: bool
    open: int


class Metrics(NamedTuple):
    """`stores` has a line for each store of each job; `stores_total` and `stores_current` count a store once."""

    at: datetime
    queues: list[QueueMetrics]
    jobs: list[JobMetrics]
    stores: list[StoreMetrics]
    stores_total: int
    stores_current: int
    stores_paused: int
    runs: list[RunMetrics]
    connections: Connections
    incidents: list[IncidentCount]
    circuits: dict[str, int]
    deliveries: dict[str, int]
    corrections: dict[str, int]
    rejected_rows: dict[str, int]
    audits: list[AuditMetrics]


def read_metrics(database: Database, *, window: timedelta = WINDOW) -> Metrics:
    """All figures as they are now; tries and runs of the last `window`. Raises IntegrationError (database)."""
    with database.session() as session:

        def rows(statement: str, **values: Any) -> Any:
            return session.execute(sa.text(statement), values).all()

        def counts(statement: str, **values: Any) -> dict[str, int]:
            return dict(rows(statement, **values))

        [(now, server_in_use, server_size, paused)] = rows(_SERVER)
        # Given as values: no index serves a condition on clock_timestamp() itself.
        since, alive = now - window, now - DEAD_AFTER
        intervals = [TIERS.get(tier) for tier in range(1, max(TIERS) + 1)]
        tries = {
            (store_id, job, queue): (*(seconds or (None, None)), rate)
            for store_id, job, queue, rate, seconds in rows(
                _TRIES, since=since, most=MOST_TRIES, **_OWN, **_PLACES
            )
        }
        incidents = [_OpenIncident(*row) for row in rows(_INCIDENTS)]
        stores, current = _stores(
            rows(
                _STATES, now=now, intervals=intervals, audit=Resource.AUDIT, audit_every=AUDIT_EVERY, **_OWN
            ),
            tries,
            incidents,
        )
        runs = [RunMetrics(*row) for row in rows(_RUNS, since=since, alive=alive)]
        kinds = Counter((incident.severity, incident.needs_attention) for incident in incidents)
        return Metrics(
            at=now,
            queues=_queues(stores, tries, incidents),
            jobs=_jobs(stores, tries, incidents),
            stores=stores,
            stores_total=len(current),
            stores_current=sum(current.values()),
            stores_paused=paused,
            runs=runs,
            connections=Connections(
                in_use=sum(run.connections_in_use for run in runs),
                size=sum(run.connections_size for run in runs),
                server_in_use=server_in_use,
                server_size=server_size,
            ),
            incidents=[IncidentCount(*kind, open=number) for kind, number in sorted(kinds.items())],
            circuits={"platform": 0, "store": 0} | counts(_CIRCUITS),
            deliveries=counts(_DELIVERIES, since=since),
            corrections={"pending": 0} | counts(_CORRECTIONS),
            rejected_rows=counts(_REJECTED),
            audits=[AuditMetrics(*row) for row in rows(_AUDITS, since=since)],
        )


_SERVER = """
    SELECT clock_timestamp(),
        (SELECT count(*) FROM pg_stat_activity
            WHERE datname IS NOT NULL AND coalesce(backend_type, 'client backend') = 'client backend'),
        current_setting('max_connections')::int,
        (SELECT count(*) FROM stores WHERE paused_at IS NOT NULL AND deleted_at IS NULL)"""

# In the order of StoreMetrics.
_STATES = """
    SELECT s.id, s.name, s.platform, own.job,
        bool_and(y.attempts = 0 AND y.last_succeeded_at IS NOT NULL AND y.next_due_at IS NOT NULL AND y.next_due_at > :now
            - CASE WHEN y.resource = :audit THEN CAST(:audit_every AS interval)
                ELSE coalesce(make_interval(mins => s.interval_minutes), (CAST(:intervals AS interval[]))[s.tier]) END) AS current,
        coalesce(bool_or(y.next_due_at <= :now AND NOT leased), false)::int AS size,
        coalesce(extract(epoch FROM :now - min(y.next_due_at) FILTER (WHERE y.next_due_at <= :now AND NOT leased)), 0)::float
            AS oldest_seconds,
        bool_or(leased)::int AS running,
        bool_or(y.attempts > 0 AND y.next_due_at IS NOT NULL AND NOT leased)::int AS retries_waiting,
        bool_or(y.next_due_at IS NULL)::int AS parked,
        coalesce(greatest(0, extract(epoch FROM :now - min(i.opened_at) FILTER (WHERE y.next_due_at IS NULL))), 0)::float
            AS parked_seconds,
        coalesce(greatest(0, extract(epoch FROM :now - min(y.next_due_at))), 0)::float AS behind_seconds
    FROM sync_states y JOIN stores s ON s.id = y.store_id
    JOIN unnest(CAST(:resources AS text[]), CAST(:jobs AS text[])) own(resource, job) ON own.resource = y.resource
    LEFT JOIN incidents i ON i.id = y.incident_id
    CROSS JOIN LATERAL (SELECT coalesce(y.lease_expires_at > :now, false) AS leased) held
    WHERE s.paused_at IS NULL AND s.deleted_at IS NULL
    GROUP BY s.id, own.job"""

# The job of a try is its run's; where that is none of ours, the one that its resource belongs to. How long a try
# takes is told by those that succeeded: a wrong token fails in no time. One that was stopped tells nothing.
_TRIES = """
    SELECT store_id, job, queue, count(*) FILTER (WHERE status = 'succeeded')::float / count(*) AS success_rate,
        percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY seconds) FILTER (WHERE status = 'succeeded') AS seconds
    FROM (
        SELECT t.store_id, place.job, place.queue, t.status, t.seconds FROM (
            SELECT store_id, resource, run_id, status, extract(epoch FROM finished_at - started_at)::float AS seconds
            FROM sync_attempts WHERE started_at > :since ORDER BY started_at DESC LIMIT :most
        ) t
        JOIN unnest(CAST(:resources AS text[]), CAST(:jobs AS text[])) own(resource, job) ON own.resource = t.resource
        LEFT JOIN job_runs r ON r.run_id = t.run_id
        JOIN unnest(CAST(:all_jobs AS text[]), CAST(:queues AS text[])) place(job, queue)
            ON place.job = CASE WHEN r.job = ANY(:all_jobs) THEN r.job ELSE own.job END
        WHERE t.status IN ('succeeded', 'failed', 'abandoned')
    ) ended
    GROUP BY GROUPING SETS ((store_id, job), (job), (queue))"""

_RUNS = """
    SELECT job, (array_agg(queue ORDER BY started_at DESC))[1] AS queue,
        count(*) FILTER (WHERE at_work) AS at_work,
        count(*) FILTER (WHERE dead AND coalesce(seen_at > last_success, true)) AS dead,
        (percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds) FILTER (WHERE status = 'succeeded'))::float AS p50_seconds,
        (percentile_cont(0.95) WITHIN GROUP (ORDER BY seconds) FILTER (WHERE status = 'succeeded'))::float AS p95_seconds,
        count(*) FILTER (WHERE status = 'succeeded')::float
            / nullif(count(*) FILTER (WHERE status IN ('succeeded', 'failed') OR dead), 0) AS success_rate,
        (max(peak_rss_mb) * 1048576)::bigint AS peak_memory_bytes,
        max(finished_at) FILTER (WHERE status = 'succeeded') AS last_succeeded_at,
        coalesce(sum(connections_in_use) FILTER (WHERE at_work), 0)::int AS connections_in_use,
        coalesce(sum(connections_size) FILTER (WHERE at_work), 0)::int AS connections_size
    FROM (
        SELECT *, status = 'running' AND seen_at > :alive AS at_work, status = 'running' AND seen_at <= :alive AS dead,
            extract(epoch FROM finished_at - started_at) AS seconds,
            max(started_at) FILTER (WHERE status = 'succeeded') OVER (PARTITION BY job) AS last_success
        FROM job_runs WHERE started_at > :since
    ) runs GROUP BY job ORDER BY job"""

_INCIDENTS = "SELECT severity, needs_attention, job, store_id, resources FROM incidents WHERE status = 'open'"
_CIRCUITS = """
    SELECT CASE WHEN platform IS NULL THEN 'store' ELSE 'platform' END AS name, count(*) AS number
    FROM circuits WHERE opened_at IS NOT NULL GROUP BY 1"""
_DELIVERIES = """
    SELECT 'pending' AS name, count(*) AS number FROM alert_deliveries WHERE status = 'pending'
    UNION ALL SELECT 'refused', count(*) FROM alerts a JOIN alert_deliveries d ON d.alert_id = a.id
        WHERE a.created_at > :since AND d.status = 'refused'"""
_CORRECTIONS = (
    "SELECT status AS name, count(*) AS number FROM inventory_corrections GROUP BY status ORDER BY status"
)
_REJECTED = (
    "SELECT resource AS name, count(*) AS number FROM rejected_rows GROUP BY resource ORDER BY resource"
)

_AUDITS = """
    SELECT resource, sum(sampled)::bigint, sum(different + missing + ahead + gone)::bigint, sum(repaired)::bigint,
        sum(lag)::bigint
    FROM audits WHERE audited_at > :since GROUP BY resource ORDER BY resource"""

# By these a query knows the job of a resource, and the queue of a job.
_OWN = {
    "resources": [resource.value for resources in JOB_RESOURCES.values() for resource in resources],
    "jobs": [job for job, resources in JOB_RESOURCES.items() for _ in resources],
}
_PLACES = {"all_jobs": list(JOBS), "queues": [job.queue.name for job in JOBS.values()]}

_NO_TRIES = (None, None, None)
_Tries = dict[tuple[int | None, str | None, str | None], tuple[float | None, float | None, float | None]]
"""p50, p95 and success rate by (store, job), (job) and (queue); what is not in a key is None."""


class _OpenIncident(NamedTuple):
    severity: str
    needs_attention: bool
    job: str | None
    store_id: int | None
    resources: list[str]

    def concerns(self, job: str) -> bool:
        """Whether it is about this job. One that names neither a job nor resources is about all that sync."""
        own = JOB_RESOURCES.get(job, ())
        if not self.job and not self.resources:
            return bool(own)
        return self.job == job or not set(own).isdisjoint(self.resources)


def _stores(
    states: Iterable[Any], tries: _Tries, incidents: Sequence[_OpenIncident]
) -> tuple[list[StoreMetrics], dict[int, bool]]:
    """A line for each store of each job, and which stores are current in all of theirs."""
    by_store: dict[int, list[_OpenIncident]] = {}
    for incident in incidents:
        if incident.store_id is not None:
            by_store.setdefault(incident.store_id, []).append(incident)
    lines = []
    all_current: dict[int, bool] = {}
    for row in states:
        store_id, store, platform, job, current = row[:5]
        own = by_store.get(store_id)
        number = sum(incident.concerns(job) for incident in own) if own else 0
        of_tries = tries.get((store_id, job, None), _NO_TRIES)
        queue = JOBS[job].queue.name
        lines.append(StoreMetrics._make((store, platform, job, queue, current, *row[5:], *of_tries, number)))
        all_current[store_id] = current and all_current.get(store_id, True)
    return sorted(lines, key=lambda line: (line.store, line.job)), all_current


def _queues(
    stores: Sequence[StoreMetrics], tries: _Tries, incidents: Sequence[_OpenIncident]
) -> list[QueueMetrics]:
    metrics = []
    for queue in QUEUES:
        jobs = [name for name, job in JOBS.items() if job.queue is queue]
        number = sum(any(map(incident.concerns, jobs)) for incident in incidents)
        of_tries = tries.get((None, None, queue.name), _NO_TRIES)
        work = _together([line for line in stores if line.queue == queue.name])
        metrics.append(QueueMetrics(queue.name, *work, *of_tries, number))
    return metrics


def _jobs(
    stores: Sequence[StoreMetrics], tries: _Tries, incidents: Sequence[_OpenIncident]
) -> list[JobMetrics]:
    metrics = []
    for name, job in JOBS.items():
        own = [line for line in stores if line.job == name]
        current = sum(line.current for line in own)
        number = sum(incident.concerns(name) for incident in incidents)
        of_tries = tries.get((None, name, None), _NO_TRIES)
        metrics.append(
            JobMetrics(name, job.queue.name, len(own), current, *_together(own), *of_tries, number)
        )
    return metrics


def _together(lines: Sequence[StoreMetrics]) -> tuple[int, float, int, int, int, float, float]:
    """Their work from `size` to `behind_seconds`: counts are added up, of durations the worst counts."""
    return (
        sum(line.size for line in lines),
        max((line.oldest_seconds for line in lines), default=0.0),
        sum(line.running for line in lines),
        sum(line.retries_waiting for line in lines),
        sum(line.parked for line in lines),
        max((line.parked_seconds for line in lines), default=0.0),
        max((line.behind_seconds for line in lines), default=0.0),
    )


# Prometheus


def prometheus_text(metrics: Metrics, *, stores: bool = True) -> str:
    """The same figures in Prometheus' text format; without `stores`, none that has a store's label."""
    registry = CollectorRegistry()
    registry.register(_Families(list(_families(metrics, stores))))
    return generate_latest(registry).decode()


class _Families(Collector):
    def __init__(self, families: Sequence[Metric]) -> None:
        self.families = families

    def collect(self) -> Sequence[Metric]:
        return self.families


_WORK = {
    "size": ("due", "Stores of a job that are due and in nobody's hands."),
    "oldest_seconds": ("oldest_due_seconds", "Since when the first of these is due."),
    "running": ("running", "Stores of a job that a run has in hand."),
    "retries_waiting": (
        "retries_waiting",
        "Stores of a job that failed and will be tried again by themselves.",
    ),
    "parked": ("parked", "Stores of a job that wait for a person."),
    "parked_seconds": ("parked_seconds", "Since when the first of these waits."),
    "behind_seconds": ("behind_seconds", "How long the store that is most overdue is so, in hand or not."),
    "open_incidents": ("open_incidents", "Open incidents that are about it."),
    "p50_seconds": ("duration_p50_seconds", "How long half of the tries that succeeded took at most."),
    "p95_seconds": ("duration_p95_seconds", "How long 95 of 100 tries that succeeded took at most."),
    "success_rate": ("success_ratio", "Share of the tries of the window that succeeded."),
}
_MOSTLY_ZERO = {
    "size",
    "oldest_seconds",
    "running",
    "retries_waiting",
    "parked",
    "parked_seconds",
    "open_incidents",
}
"""Of a store these are left out where they are zero: of thousands of stores nearly all are."""


def _families(metrics: Metrics, stores: bool) -> Iterator[Metric]:
    for level, labels, lines in (
        ("queue", ("queue",), metrics.queues),
        ("job", ("job", "queue"), metrics.jobs),
        ("store", ("store", "platform", "job"), metrics.stores if stores else ()),
    ):
        for field, (name, meaning) in _WORK.items():
            sparse = level == "store" and field in _MOSTLY_ZERO
            told = [line for line in lines if getattr(line, field)] if sparse else lines
            yield _gauge(f"{level}_{name}", meaning, labels, told, field)
    per_job = ("job", "queue")
    yield _gauge("job_stores", "Stores of the job, paused ones left out.", per_job, metrics.jobs, "stores")
    yield _gauge("job_stores_current", "Stores that are current in it.", per_job, metrics.jobs, "current")
    for field, name, meaning in (
        ("at_work", "run_at_work", "Runs at work."),
        ("dead", "run_dead", "Runs that died, and no later run of the job has succeeded yet."),
        ("p50_seconds", "run_duration_p50_seconds", "How long half of the runs that succeeded took at most."),
        ("p95_seconds", "run_duration_p95_seconds", "How long 95 of 100 runs that succeeded took at most."),
        ("success_rate", "run_success_ratio", "Share of the runs of the window that succeeded."),
        ("peak_memory_bytes", "run_peak_memory_bytes", "The most memory that a run of the window took."),
        ("connections_in_use", "run_connections_in_use", "The most connections of runs at work."),
        (
            "connections_size",
            "run_connections_size",
            "How many connections the pools of runs at work may open.",
        ),
    ):
        yield _gauge(name, meaning, per_job, metrics.runs, field)
    ended = [run for run in metrics.runs if run.last_succeeded_at]
    family = GaugeMetricFamily(
        "bg_pipelines_run_last_success_timestamp_seconds", "When a run last succeeded.", labels=per_job
    )
    for run in ended:
        assert run.last_succeeded_at is not None
        family.add_metric([run.job, run.queue], run.last_succeeded_at.timestamp())
    yield family
    for name, meaning, value in (
        ("stores", "Stores, paused ones left out.", metrics.stores_total),
        ("stores_current", "Stores that are current in every job.", metrics.stores_current),
        ("stores_paused", "Stores that a person has paused.", metrics.stores_paused),
        ("database_connections_in_use", "The server's connections.", metrics.connections.server_in_use),
        ("database_connections_size", "How many it allows.", metrics.connections.server_size),
    ):
        yield GaugeMetricFamily(f"bg_pipelines_{name}", meaning, value=value)
    for field, meaning in (
        ("sampled", "Rows that were compared with their source."),
        ("drifted", "Of these, rows that were otherwise, missing or gone there."),
        ("repaired", "Of those, rows that are as at the source now."),
        ("lag", "Of the compared rows, those that had not been synced yet."),
    ):
        yield _gauge(f"audit_rows_{field}", meaning, ("resource",), metrics.audits, field)
    incidents = GaugeMetricFamily(
        "bg_pipelines_incidents_open", "Open incidents.", labels=("severity", "needs_attention")
    )
    for kind in metrics.incidents:
        incidents.add_metric([kind.severity, str(kind.needs_attention).lower()], kind.open)
    yield incidents
    for name, label, meaning, counts in (
        ("circuits_open", "scope", "Open circuits.", metrics.circuits),
        (
            "alert_deliveries",
            "status",
            "Alerts not delivered, and those refused for good.",
            metrics.deliveries,
        ),
        ("stock_corrections", "status", "Stock corrections.", metrics.corrections),
        ("rejected_rows", "resource", "Rows that could not be loaded.", metrics.rejected_rows),
    ):
        family = GaugeMetricFamily(f"bg_pipelines_{name}", meaning, labels=(label,))
        for key, number in counts.items():
            family.add_metric([key], number)
        yield family


def _gauge(name: str, meaning: str, labels: Sequence[str], lines: Sequence[Any], field: str) -> Metric:
    """A figure of each line; where there is none (nothing succeeded yet), no sample."""
    family = GaugeMetricFamily(f"bg_pipelines_{name}", meaning, labels=labels)
    for line in lines:
        value = getattr(line, field)
        if value is not None:
            family.add_metric([getattr(line, label) for label in labels], value)
    return family
