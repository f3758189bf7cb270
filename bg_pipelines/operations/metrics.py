"""Metrics: figures per queue of runs, job and store, and per table of claimed work.

docs/monitoring.md explains each figure; `prometheus` and `status` show them. The unit of work is a store of a job: one
visit of a worker. Few queries, whatever the number of stores; all times are the database's.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple, TypeVar

import sqlalchemy as sa
from sqlalchemy.orm import Session

from bg_pipelines.database.engine import Database
from bg_pipelines.queues import JOB_UNITS, JOBS, QUEUES
from bg_pipelines.work import freshness
from bg_pipelines.work.pulse import DEAD_AFTER
from bg_pipelines.work.queue import all_queues

T = TypeVar("T")

WINDOW = timedelta(hours=24)
"""Over which tries and runs are counted and timed."""
MOST_TRIES = 50_000
"""Of the window, the newest: ten thousand stores make millions a day, and the query should cost the same every day."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Of the work of a store in a job; of a job and of a queue all of their stores' together.

    Counts are of stores. `age_seconds` is since the unit that has waited longest last succeeded; None where one never did,
    and those do not count for a job. Durations and the rate are of tries that ended in the window; None where there was none.
    """

    size: int = 0
    oldest_seconds: float = 0.0
    running: int = 0
    retries_waiting: int = 0
    parked: int = 0
    parked_seconds: float = 0.0
    behind_seconds: float = 0.0
    age_seconds: float | None = None
    p50_seconds: float | None = None
    p95_seconds: float | None = None
    success_rate: float | None = None
    open_incidents: int = 0


@dataclass(frozen=True, kw_only=True)
class QueueMetrics(Figures):
    """The work of a queue: that of its jobs together."""

    queue: str


@dataclass(frozen=True, kw_only=True)
class JobMetrics(Figures):
    """The work of a job that works on stores' units."""

    job: str
    queue: str
    stores: int
    current: int


@dataclass(frozen=True, kw_only=True)
class StoreMetrics(Figures):
    """The work of a store in a job; counts are 0 or 1."""

    store: str
    platform: str
    job: str
    queue: str
    current: bool


class TableMetrics(NamedTuple):
    """The rows of a table of claimed work; those of paused stores are left out."""

    table: str
    due: int
    oldest_seconds: float
    running: int
    retrying: int
    parked: int


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
    tables: list[TableMetrics]
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
        [server] = read(session, _Server, _SERVER)
        # Given as values: no index serves a condition on clock_timestamp() itself.
        now = server.now
        since, alive = now - window, now - DEAD_AFTER
        tries = {
            (row.pop("store_id"), row.pop("job"), row.pop("queue")): row
            for row in read(session, dict, _TRIES, since=since, most=MOST_TRIES, **_OWN, **_PLACES)
        }
        incidents = read(session, _OpenIncident, _INCIDENTS)
        states = read(
            session,
            dict[str, Any],
            _STATES,
            now=now,
            **_OWN,
        )
        stores = _stores(states, tries, incidents)
        current: dict[str, bool] = {}
        for line in stores:
            current[line.store] = current.get(line.store, True) and line.current
        runs = read(session, RunMetrics, _RUNS, since=since, alive=alive)
        counts: dict[str, dict[str, int]] = defaultdict(dict)
        for figure, name, number in session.execute(sa.text(_COUNTS), {"since": since}):
            counts[figure][name] = number
        kinds = Counter((incident.severity, incident.needs_attention) for incident in incidents)
        return Metrics(
            at=now,
            queues=_queues(stores, tries, incidents),
            jobs=_jobs(stores, tries, incidents),
            stores=stores,
            stores_total=len(current),
            stores_current=sum(current.values()),
            stores_paused=server.stores_paused,
            tables=read(session, TableMetrics, _TABLES, now=now),
            runs=runs,
            connections=Connections(
                in_use=sum(run.connections_in_use for run in runs),
                size=sum(run.connections_size for run in runs),
                server_in_use=server.in_use,
                server_size=server.size,
            ),
            incidents=[IncidentCount(*kind, open=number) for kind, number in sorted(kinds.items())],
            circuits={"platform": 0, "store": 0} | counts["circuits"],
            deliveries={"pending": 0} | counts["deliveries"],
            corrections={"pending": 0} | counts["corrections"],
            rejected_rows=counts["rejected_rows"],
            audits=read(session, AuditMetrics, _AUDITS, since=since),
        )


def read(session: Session, row: type[T], statement: str, **values: Any) -> list[T]:
    """A query's rows as instances of `row`, whose fields are its columns, by name."""
    found = session.execute(sa.text(statement), values)
    names = tuple(found.keys())
    return [row(**dict(zip(names, line, strict=True))) for line in found]


_SERVER = """
    SELECT clock_timestamp() AS now,
        (SELECT count(*) FROM pg_stat_activity
            WHERE datname IS NOT NULL AND coalesce(backend_type, 'client backend') = 'client backend') AS in_use,
        current_setting('max_connections')::int AS size,
        (SELECT count(*) FROM stores WHERE paused_at IS NOT NULL AND deleted_at IS NULL) AS stores_paused"""

_STATES = f"""
    SELECT s.id AS store_id, s.name AS store, s.platform, own.job,
        bool_and({freshness.is_current(":now")}) AS current,
        CASE WHEN bool_and(y.last_succeeded_at IS NOT NULL)
            THEN greatest(0, extract(epoch FROM :now - min(y.last_succeeded_at)))::float END AS age_seconds,
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
    JOIN unnest(CAST(:units AS text[]), CAST(:jobs AS text[])) own(unit, job) ON own.unit = y.resource
    LEFT JOIN incidents i ON i.id = y.incident_id
    CROSS JOIN LATERAL (SELECT coalesce(y.lease_expires_at > :now, false) AS leased) held
    WHERE s.paused_at IS NULL AND s.deleted_at IS NULL
    GROUP BY s.id, own.job"""  # noqa: S608 (made of constants)

# The job of a try is its run's; where that is none of ours, the one that its unit belongs to. Durations are of
# attempts that succeeded: a wrong token fails in no time. Stopped ones do not count.
_TRIES = """
    SELECT store_id, job, queue, success_rate, seconds[1] AS p50_seconds, seconds[2] AS p95_seconds FROM (
    SELECT store_id, job, queue, count(*) FILTER (WHERE status = 'succeeded')::float / count(*) AS success_rate,
        percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY seconds) FILTER (WHERE status = 'succeeded') AS seconds
    FROM (
        SELECT t.store_id, place.job, place.queue, t.status, t.seconds FROM (
            SELECT store_id, resource, run_id, status, extract(epoch FROM finished_at - started_at)::float AS seconds
            FROM sync_attempts WHERE started_at > :since ORDER BY started_at DESC LIMIT :most
        ) t
        JOIN unnest(CAST(:units AS text[]), CAST(:jobs AS text[])) own(unit, job) ON own.unit = t.resource
        LEFT JOIN job_runs r ON r.run_id = t.run_id
        JOIN unnest(CAST(:all_jobs AS text[]), CAST(:queues AS text[])) place(job, queue)
            ON place.job = CASE WHEN r.job = ANY(:all_jobs) THEN r.job ELSE own.job END
        WHERE t.status IN ('succeeded', 'failed', 'abandoned')
    ) ended
    GROUP BY GROUPING SETS ((store_id, job), (job), (queue))) counted"""

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

_INCIDENTS = (
    "SELECT severity, needs_attention, job, store_id, resources AS units FROM incidents WHERE status = 'open'"
)
_COUNTS = """
    SELECT 'circuits' AS figure, CASE WHEN platform IS NULL THEN 'store' ELSE 'platform' END AS name, count(*) AS number
        FROM circuits WHERE opened_at IS NOT NULL GROUP BY 1, 2
    UNION ALL SELECT 'deliveries', 'pending', count(*) FROM alert_deliveries WHERE status = 'pending'
    UNION ALL SELECT 'deliveries', 'refused', count(*) FROM alerts a JOIN alert_deliveries d ON d.alert_id = a.id
        WHERE a.created_at > :since AND d.status = 'refused'
    UNION ALL SELECT 'corrections', status, count(*) FROM inventory_corrections GROUP BY status
    UNION ALL SELECT 'rejected_rows', resource, count(*) FROM rejected_rows GROUP BY resource
    ORDER BY 1, 2"""

_TABLE = """
    SELECT '{table}' AS table, count(*) FILTER (WHERE t.next_due_at <= :now AND NOT leased) AS due,
        coalesce(extract(epoch FROM :now - min(t.next_due_at) FILTER (WHERE t.next_due_at <= :now AND NOT leased)), 0)::float
            AS oldest_seconds,
        count(*) FILTER (WHERE leased) AS running,
        count(*) FILTER (WHERE t.attempts > 0 AND t.next_due_at IS NOT NULL AND NOT leased) AS retrying,
        count(*) FILTER (WHERE t.next_due_at IS NULL AND t.incident_id IS NOT NULL) AS parked
    FROM {table} t {stores} CROSS JOIN LATERAL (SELECT coalesce(t.lease_expires_at > :now, false) AS leased) held
    WHERE {open}"""
_AT_WORK = "JOIN stores s ON s.id = t.store_id AND s.paused_at IS NULL AND s.deleted_at IS NULL"
_TABLES = " UNION ALL ".join(
    _TABLE.format(table=queue.table, stores=_AT_WORK if queue.has_stores else "", open=queue.open)
    for queue in all_queues()
)

_AUDITS = """
    SELECT resource, sum(sampled)::bigint AS sampled, sum(different + missing + ahead + gone)::bigint AS drifted,
        sum(repaired)::bigint AS repaired, sum(lag)::bigint AS lag
    FROM audits WHERE audited_at > :since GROUP BY resource ORDER BY resource"""

# By these a query knows the job of a unit, and the queue of a job.
_OWN = {
    "units": [unit.value for units in JOB_UNITS.values() for unit in units],
    "jobs": [job for job, units in JOB_UNITS.items() for _ in units],
}
_PLACES = {"all_jobs": list(JOBS), "queues": [job.queue.name for job in JOBS.values()]}

_Tries = Mapping[tuple[int | None, str | None, str | None], Mapping[str, float | None]]
"""`p50_seconds`, `p95_seconds`, `success_rate` by (store, job), (job) and (queue); what is not in a key is None."""


class _Server(NamedTuple):
    now: datetime
    in_use: int
    size: int
    stores_paused: int


class _OpenIncident(NamedTuple):
    severity: str
    needs_attention: bool
    job: str | None
    store_id: int | None
    units: list[str]

    def concerns(self, job: str) -> bool:
        """Whether it is about this job. One that names neither a job nor units is about all that sync."""
        own = JOB_UNITS.get(job, ())
        if not self.job and not self.units:
            return bool(own)
        return self.job == job or not set(own).isdisjoint(self.units)


def _stores(
    states: Iterable[dict[str, Any]], tries: _Tries, incidents: Sequence[_OpenIncident]
) -> list[StoreMetrics]:
    by_store: dict[int, list[_OpenIncident]] = defaultdict(list)
    for incident in incidents:
        if incident.store_id is not None:
            by_store[incident.store_id].append(incident)
    lines = []
    for state in states:
        store_id, job = state.pop("store_id"), state["job"]
        state |= tries.get((store_id, job, None), {})
        state["open_incidents"] = sum(incident.concerns(job) for incident in by_store.get(store_id, ()))
        lines.append(StoreMetrics(**state, queue=JOBS[job].queue.name))
    return sorted(lines, key=lambda line: (line.store, line.job))


def _queues(
    stores: Sequence[StoreMetrics], tries: _Tries, incidents: Sequence[_OpenIncident]
) -> list[QueueMetrics]:
    lines = []
    for queue in QUEUES:
        jobs = [name for name, job in JOBS.items() if job.queue is queue]
        figures = _together(
            [line for line in stores if line.queue == queue.name],
            tries.get((None, None, queue.name), {}),
            sum(any(map(incident.concerns, jobs)) for incident in incidents),
        )
        lines.append(QueueMetrics(queue=queue.name, **figures))
    return lines


def _jobs(
    stores: Sequence[StoreMetrics], tries: _Tries, incidents: Sequence[_OpenIncident]
) -> list[JobMetrics]:
    lines = []
    for name in JOB_UNITS:
        own = [line for line in stores if line.job == name]
        figures = _together(
            own, tries.get((None, name, None), {}), sum(incident.concerns(name) for incident in incidents)
        )
        current = sum(line.current for line in own)
        queue = JOBS[name].queue.name
        lines.append(JobMetrics(job=name, queue=queue, stores=len(own), current=current, **figures))
    return lines


_ADDED = ("size", "running", "retries_waiting", "parked")
_WORST = ("oldest_seconds", "parked_seconds", "behind_seconds")


def _together(
    lines: Sequence[Figures], tries: Mapping[str, float | None], open_incidents: int
) -> dict[str, Any]:
    """The figures of several lines: counts are added up, of durations the worst counts."""
    return {
        **{name: sum(getattr(line, name) for line in lines) for name in _ADDED},
        **{name: max((getattr(line, name) for line in lines), default=0.0) for name in _WORST},
        "age_seconds": max(
            (line.age_seconds for line in lines if line.age_seconds is not None), default=None
        ),
        **tries,
        "open_incidents": open_incidents,
    }
