"""Figures of the work of stores: per queue, per job, and of each store where something is wrong or all are wanted.

The unit of work is a store of a job: one visit of a worker. What units are in is counted by `units`; what attempts came to is
added up from the rollups. Neither grows with the history.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy.orm import Session

from bg_pipelines.operations.reading import read
from bg_pipelines.operations.units import (
    OF_JOBS,
    SERVED_MINUTES,
    Flag,
    Line,
    Units,
    read_lines,
    seconds_since,
)
from bg_pipelines.queues import JOB_UNITS, JOBS, QUEUES
from bg_pipelines.work import rollups
from bg_pipelines.work.rollups import DURATIONS, Rollup


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Of the work of a store in a job; of a job and of a queue all of their stores' together.

    Counts are of stores. `age_seconds` is since the unit that has waited longest last succeeded. One that never did does not
    count for a job; of a store in which one never did it is None.
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
    units: Units,
    visits: Sequence[Rollup],
    incidents: Sequence[Incident],
    *,
    most: int | None,
    all_stores: bool,
) -> Work:
    """At `most` so many lines of stores; None: however many there are."""
    parked = {
        (store_id, job): seconds
        for store_id, job, seconds in read(session, _Parked, _PARKED, now=now, **OF_JOBS)
    }
    lines = read_lines(session, now, stores=None if all_stores else units.not_current, most=most)
    jobs = [
        _job(
            name,
            now,
            units,
            max((seconds for (_, job), seconds in parked.items() if job == name), default=0.0),
            rates([one for one in visits if one.job == name]),
            sum(incident.concerns(name) for incident in incidents),
        )
        for name in JOB_UNITS
    ]
    return Work(
        queues=_queues(jobs, visits, incidents, units),
        jobs=jobs,
        stores=_stores(now, lines, parked, incidents),
        stores_total=units.stores_total,
        stores_current=units.stores_current,
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


_COUNTED = {
    "size": Flag.DUE,
    "running": Flag.CLAIMED,
    "retries_waiting": Flag.WAITING,
    "parked": Flag.PARKED,
}
_WORST = ("oldest_seconds", "parked_seconds", "behind_seconds")


def _job(
    name: str,
    now: datetime,
    units: Units,
    parked_seconds: float,
    visits: Mapping[str, Any],
    open_incidents: int,
) -> JobMetrics:
    own = [group for group in units.groups if group.resource in JOB_UNITS[name]]
    stores = units.stores_in(name, Flag.PRESENT)
    return JobMetrics(
        job=name,
        queue=JOBS[name].queue.name,
        stores=stores,
        current=stores - units.stores_in(name, Flag.NOT_CURRENT),
        late=units.stores_in(name, Flag.NOT_CURRENT | Flag.OVERDUE),
        oldest_seconds=seconds_since(now, (one.first_due_at for one in own if one.flags & Flag.DUE)) or 0.0,
        behind_seconds=seconds_since(now, (one.first_due_at for one in own)) or 0.0,
        age_seconds=seconds_since(now, (one.succeeded_at for one in own)),
        parked_seconds=parked_seconds,
        open_incidents=open_incidents,
        **{figure: units.stores_in(name, flag) for figure, flag in _COUNTED.items()},
        **visits,
    )


def _queues(
    jobs: Sequence[JobMetrics],
    visits: Sequence[Rollup],
    incidents: Sequence[Incident],
    units: Units,
) -> list[QueueMetrics]:
    """Counts of their jobs are added up, of durations the worst counts."""
    lines = []
    for queue in QUEUES:
        own = [job for job in jobs if job.queue == queue.name]
        names = [name for name, job in JOBS.items() if job.queue is queue]
        figures: dict[str, Any] = {name: sum(getattr(job, name) for job in own) for name in _COUNTED}
        figures |= {name: max((getattr(job, name) for job in own), default=0.0) for name in _WORST}
        per_minute = sum(units.stores_in(job.job, Flag.SERVED) for job in own) / SERVED_MINUTES
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
    now: datetime,
    lines: Iterable[Line],
    parked: Mapping[tuple[int, str], float],
    incidents: Sequence[Incident],
) -> list[StoreMetrics]:
    by_store: dict[int, list[Incident]] = defaultdict(list)
    for incident in incidents:
        if incident.store_id is not None:
            by_store[incident.store_id].append(incident)
    return [
        StoreMetrics(
            store=line.store,
            platform=line.platform,
            job=line.job,
            queue=JOBS[line.job].queue.name,
            current=not line.flags & Flag.NOT_CURRENT,
            oldest_seconds=seconds_since(now, (line.oldest_at,)) or 0.0,
            behind_seconds=seconds_since(now, (line.first_due_at,)) or 0.0,
            age_seconds=None
            if line.flags & Flag.NEVER_SUCCEEDED
            else seconds_since(now, (line.succeeded_at,)),
            parked_seconds=parked.get((line.store_id, line.job), 0.0),
            open_incidents=sum(one.concerns(line.job) for one in by_store.get(line.store_id, ())),
            **{figure: int(bool(line.flags & flag)) for figure, flag in _COUNTED.items()},
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
