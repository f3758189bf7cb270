"""Figures of the work of stores: per queue, per job, and of each store where something is wrong or all are wanted.

The unit of work is a store of a job: one visit of a worker. One statement reads the state of all units and adds it up; what
attempts came to is added up from the rollups. Neither grows with the history.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy.orm import Session

from bg_pipelines.operations.reading import read
from bg_pipelines.queues import JOB_UNITS, JOBS, QUEUES
from bg_pipelines.work import freshness, rollups
from bg_pipelines.work.rollups import DURATIONS, Rollup

LATE_SECONDS = 60
"""A store that is overdue by less is in time, as ticks go."""
SERVED_MINUTES = 5
"""Over which is counted how many stores were served: a tick, within which none is served twice."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Of the work of a store in a job; of a job and of a queue all of their stores' together.

    Counts are of stores. `age_seconds` is since the unit that has waited longest last succeeded; None where one never did,
    and those do not count for a job.
    """

    size: int = 0
    oldest_seconds: float = 0.0
    running: int = 0
    retries_waiting: int = 0
    parked: int = 0
    parked_seconds: float = 0.0
    behind_seconds: float = 0.0
    age_seconds: float | None = None
    open_incidents: int = 0


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What visits came to in the window; None where there was none. Durations are of attempts that succeeded, as the
    buckets of `work.rollups.DURATIONS` tell."""

    p50_seconds: float | None = None
    p95_seconds: float | None = None
    success_rate: float | None = None


@dataclass(frozen=True, kw_only=True)
class QueueMetrics(Figures, Rates):
    """The work of a queue: that of its jobs together.

    `per_minute` is how many stores were served a minute in the last five; `seconds_to_empty` how long what is due takes at
    that pace, None where nothing is served.
    """

    queue: str
    per_minute: float = 0.0
    seconds_to_empty: float | None = None


@dataclass(frozen=True, kw_only=True)
class JobMetrics(Figures, Rates):
    """The work of a job that works on stores' units. `late` are its stores that are not current and overdue."""

    job: str
    queue: str
    stores: int
    current: int
    late: int = 0


@dataclass(frozen=True, kw_only=True)
class StoreMetrics(Figures):
    """The work of a store in a job; counts are 0 or 1."""

    store: str
    platform: str
    job: str
    queue: str
    current: bool


class Incident(NamedTuple):
    """An open incident, as far as figures go."""

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


class Work(NamedTuple):
    """`stores` are the lines of stores that are not current, the most overdue first, or of all."""

    queues: list[QueueMetrics]
    jobs: list[JobMetrics]
    stores: list[StoreMetrics]
    stores_total: int
    stores_current: int


def read_work(
    session: Session,
    now: datetime,
    visits: Sequence[Rollup],
    incidents: Sequence[Incident],
    *,
    most: int | None,
    all_stores: bool,
) -> Work:
    """At `most` so many lines of stores; None: however many there are."""
    # Sorting what fits into memory on disk would take most of the time.
    session.connection().exec_driver_sql("SET LOCAL work_mem = '64MB'")
    parked = {
        (store_id, job): seconds
        for store_id, job, seconds in read(session, _Parked, _PARKED, now=now, **_OWN)
    }
    lines = read(session, dict[str, Any], _WORK, now=now, most=most, all=all_stores, **_OWN)
    of_jobs = {line["job"]: line for line in lines if line["store_id"] is None and line["job"] is not None}
    [whole] = [line for line in lines if line["job"] is None]
    jobs = [
        _job(
            name,
            of_jobs.get(name, {}),
            max((seconds for (_, job), seconds in parked.items() if job == name), default=0.0),
            rates([one for one in visits if one.job == name]),
            sum(incident.concerns(name) for incident in incidents),
        )
        for name in JOB_UNITS
    ]
    return Work(
        queues=_queues(jobs, visits, incidents, {name: line["served"] for name, line in of_jobs.items()}),
        jobs=jobs,
        stores=_stores((line for line in lines if line["store_id"] is not None), parked, incidents),
        stores_total=whole["stores"],
        stores_current=whole["current"],
    )


def rates(visits: Sequence[Rollup]) -> dict[str, Any]:
    """Success and durations of these visits together."""
    good = sum(one.succeeded + one.idle for one in visits)
    ended = good + sum(one.failed for one in visits)
    durations = rollups.added([one.durations for one in visits], DURATIONS)
    return {
        "p50_seconds": rollups.quantile(durations, DURATIONS, 0.5),
        "p95_seconds": rollups.quantile(durations, DURATIONS, 0.95),
        "success_rate": good / ended if ended else None,
    }


_COUNTED = ("size", "running", "retries_waiting", "parked")
_WORST = ("oldest_seconds", "parked_seconds", "behind_seconds")


def _job(
    name: str,
    line: Mapping[str, Any],
    parked_seconds: float,
    visits: Mapping[str, Any],
    open_incidents: int,
) -> JobMetrics:
    figures = {
        key: line[key] for key in (*_COUNTED, "oldest_seconds", "behind_seconds", "age_seconds") if line
    }
    return JobMetrics(
        job=name,
        queue=JOBS[name].queue.name,
        stores=line.get("stores", 0),
        current=line.get("current", 0),
        late=line.get("late", 0),
        parked_seconds=parked_seconds,
        open_incidents=open_incidents,
        **figures,
        **visits,
    )


def _queues(
    jobs: Sequence[JobMetrics],
    visits: Sequence[Rollup],
    incidents: Sequence[Incident],
    served: Mapping[str, int],
) -> list[QueueMetrics]:
    """Counts of their jobs are added up, of durations the worst counts. `served` is by job."""
    lines = []
    for queue in QUEUES:
        own = [job for job in jobs if job.queue == queue.name]
        names = [name for name, job in JOBS.items() if job.queue is queue]
        figures: dict[str, Any] = {name: sum(getattr(job, name) for job in own) for name in _COUNTED}
        figures |= {name: max((getattr(job, name) for job in own), default=0.0) for name in _WORST}
        per_minute = sum(served.get(name, 0) for name in names) / SERVED_MINUTES
        size = figures["size"]
        lines.append(
            QueueMetrics(
                queue=queue.name,
                **figures,
                per_minute=per_minute,
                seconds_to_empty=60 * size / per_minute if per_minute else None if size else 0.0,
                age_seconds=max(
                    (job.age_seconds for job in own if job.age_seconds is not None), default=None
                ),
                open_incidents=sum(any(map(incident.concerns, names)) for incident in incidents),
                **rates([one for one in visits if one.job in names]),
            )
        )
    return lines


def _stores(
    lines: Iterable[Mapping[str, Any]],
    parked: Mapping[tuple[int, str], float],
    incidents: Sequence[Incident],
) -> list[StoreMetrics]:
    by_store: dict[int, list[Incident]] = defaultdict(list)
    for incident in incidents:
        if incident.store_id is not None:
            by_store[incident.store_id].append(incident)
    return [
        StoreMetrics(
            store=line["store"],
            platform=line["platform"],
            job=line["job"],
            queue=JOBS[line["job"]].queue.name,
            current=bool(line["current"]),
            parked_seconds=parked.get((line["store_id"], line["job"]), 0.0),
            open_incidents=sum(one.concerns(line["job"]) for one in by_store.get(line["store_id"], ())),
            **{name: line[name] for name in (*_COUNTED, "oldest_seconds", "behind_seconds", "age_seconds")},
        )
        for line in lines
    ]


class _Parked(NamedTuple):
    store_id: int
    job: str
    seconds: float


_PARKED = """
    SELECT y.store_id, own.job, greatest(0, extract(epoch FROM :now - min(i.opened_at)))::float AS seconds
    FROM sync_states y JOIN incidents i ON i.id = y.incident_id JOIN stores s ON s.id = y.store_id
    JOIN unnest(CAST(:units AS text[]), CAST(:jobs AS text[])) own(unit, job) ON own.unit = y.resource
    WHERE y.next_due_at IS NULL AND s.paused_at IS NULL AND s.deleted_at IS NULL GROUP BY 1, 2"""

# By this a query knows the job of a unit.
_OWN = {"units": rollups.PLACES["units"], "jobs": rollups.PLACES["own_jobs"]}

# Flags: 1 is not current, 2 due and unclaimed, 4 claimed, 8 waits for a retry, 16 parked, 32 never succeeded, 64 was served
# lately. Made a number, they are added up in one step, of which there are ninety thousand.
_WORK = f"""
    WITH units AS (
        SELECT y.store_id, own.job, y.next_due_at, y.last_succeeded_at,
            CASE WHEN {freshness.is_current_at_work(":now")} THEN 0 ELSE 1 END
            + CASE WHEN y.lease_expires_at > :now THEN 4 WHEN y.next_due_at <= :now THEN 2 ELSE 0 END
            + CASE WHEN y.attempts > 0 AND y.next_due_at IS NOT NULL AND (y.lease_expires_at > :now) IS NOT TRUE THEN 8 ELSE 0 END
            + CASE WHEN y.next_due_at IS NULL THEN 16 ELSE 0 END
            + CASE WHEN y.last_succeeded_at IS NULL THEN 32
                WHEN y.last_succeeded_at > :now - interval '{SERVED_MINUTES} min' THEN 64 ELSE 0 END AS flags
        FROM sync_states y JOIN {freshness.stores_at_work(":now")} ON s.id = y.store_id
        JOIN unnest(CAST(:units AS text[]), CAST(:jobs AS text[])) own(unit, job) ON own.unit = y.resource
    ), lines AS MATERIALIZED (
        SELECT store_id, job, bit_or(flags) AS flags, min(next_due_at) AS first_due_at, min(last_succeeded_at) AS succeeded_at,
            min(next_due_at) FILTER (WHERE flags & 2 > 0) AS oldest_at
        FROM units GROUP BY store_id, job
    ), counted AS (
        SELECT NULL::bigint AS store_id, job, count(*) AS stores, count(*) FILTER (WHERE flags & 1 = 0) AS current,
            count(*) FILTER (WHERE flags & 1 > 0 AND first_due_at <= :now - interval '{LATE_SECONDS} s') AS late,
            count(*) FILTER (WHERE flags & 2 > 0) AS size, count(*) FILTER (WHERE flags & 4 > 0) AS running,
            count(*) FILTER (WHERE flags & 8 > 0) AS retries_waiting, count(*) FILTER (WHERE flags & 16 > 0) AS parked,
            min(oldest_at) AS oldest_at, min(first_due_at) AS first_due_at,
            min(succeeded_at) FILTER (WHERE flags & 32 = 0) AS succeeded_at, count(*) FILTER (WHERE flags & 64 > 0) AS served
        FROM lines GROUP BY job
    ), wrong AS (
        SELECT store_id, job, 1 AS stores, 1 - (flags & 1) AS current, 0 AS late, flags >> 1 & 1 AS size,
            flags >> 2 & 1 AS running, flags >> 3 & 1 AS retries_waiting, flags >> 4 & 1 AS parked, oldest_at, first_due_at,
            CASE WHEN flags & 32 = 0 THEN succeeded_at END AS succeeded_at, 0 AS served
        FROM lines WHERE :all OR flags & 1 > 0 ORDER BY first_due_at, store_id, job LIMIT :most
    ), whole AS (
        SELECT NULL::bigint AS store_id, NULL AS job, count(*) AS stores, count(*) FILTER (WHERE wrong = 0) AS current, 0 AS late,
            0 AS size, 0 AS running, 0 AS retries_waiting, 0 AS parked, NULL::timestamptz AS oldest_at,
            NULL::timestamptz AS first_due_at, NULL::timestamptz AS succeeded_at, 0 AS served
        FROM (SELECT max(flags & 1) AS wrong FROM lines GROUP BY store_id) each
    )
    SELECT shown.store_id, s.name AS store, s.platform, shown.job, stores, current, late, size, running, retries_waiting,
        parked, served, coalesce(extract(epoch FROM :now - oldest_at), 0)::float AS oldest_seconds,
        coalesce(greatest(0, extract(epoch FROM :now - first_due_at)), 0)::float AS behind_seconds,
        CASE WHEN shown.succeeded_at IS NOT NULL
            THEN greatest(0, extract(epoch FROM :now - shown.succeeded_at))::float END AS age_seconds
    FROM (TABLE counted UNION ALL TABLE wrong UNION ALL TABLE whole) shown LEFT JOIN stores s ON s.id = shown.store_id
    ORDER BY shown.first_due_at, s.name, shown.job"""  # noqa: S608 (made of constants)
