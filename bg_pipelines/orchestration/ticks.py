"""When a sync job starts automatically: a schedule a tier, and a sensor for what is due between their ticks.

A tick asks the database one question, by index: is anything due? Only if so, and if the last run it started is no
longer at work, does it start a run. So a fleet with nothing to do costs nothing, a tier never has two runs in line,
and of ticks that were missed only the last is made up for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import psycopg

from bg_pipelines import alerts
from bg_pipelines.errors import IntegrationError
from bg_pipelines.orchestration.failures import TIER_TAG, error_of, interval
from bg_pipelines.orchestration.resources import kept_database
from bg_pipelines.queues import JOBS, TIERS, Unit
from bg_pipelines.settings import Settings, load_settings
from bg_pipelines.work import store_units
from bg_pipelines.work.pulse import since_last_seen
from bg_pipelines.work.runner import LEASE

RETRIES = "retries"
INBOX = "inbox"
RETRIES_SECONDS = 30
OUTBOX = "outbox"
WORK_SECONDS = 5
"""How often is looked for work that is due at any moment."""
AFTER_FAILURE = timedelta(minutes=1)
WANTED_SECONDS = 5.0
"""How often an idle run looks whether another waits for its place in the queue."""
ALIVE = LEASE
"""A run without a heartbeat for one lease has lost its claims and no longer blocks the next run."""

Idle = Callable[[Settings], str | None]
"""Says why a job has nothing to do for any store, as the settings are; None: it has."""


def never_idle(_: Settings) -> str | None:
    return None


_WAITING = (dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING)


def tier_schedules(
    job: dg.JobDefinition, op: str, units: Sequence[Unit], idle: Idle = never_idle
) -> list[dg.ScheduleDefinition]:
    """One schedule for each tier of the job, as the table in `queues` says. `op` is the one that is told the tier."""
    return [_tier_schedule(job, op, units, tier, idle) for tier in TIERS]


def _tier_schedule(
    job: dg.JobDefinition, op: str, units: Sequence[Unit], tier: int, idle: Idle
) -> dg.ScheduleDefinition:
    @dg.schedule(
        name=f"{job.name}_tier_{tier}",
        job=job,
        cron_schedule=JOBS[job.name].crons[f"tier_{tier}"],
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"Starts {job.name} for the stores of tier {tier} that are due.",
    )
    def schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        tick = f"{job.name}_tier_{tier} {context.scheduled_execution_time:%Y-%m-%dT%H:%M}"
        config = {"ops": {op: {"config": {"tiers": [tier]}}}}
        return _look(context.instance, job, units, idle, tier=tier, tick=tick, config=config)

    return schedule


def retries_sensor(
    job: dg.JobDefinition, units: Sequence[Unit], idle: Idle = never_idle
) -> dg.SensorDefinition:
    """Starts the job for what is due off its tier's ticks: what failed before, what is new, what was hinted at."""

    @dg.sensor(
        name=f"{job.name}_{RETRIES}",
        job=job,
        minimum_interval_seconds=interval(RETRIES_SECONDS),
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Starts {job.name} for stores whose retry is due, and for new ones.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        tick = f"{job.name}_{RETRIES} {datetime.now(UTC):%Y-%m-%dT%H:%M:%S}"
        return _look(context.instance, job, units, idle, tier=None, tick=tick)

    return sensor


def work_sensor(
    job: dg.JobDefinition,
    label: str,
    is_due: Callable[[psycopg.Connection[Any]], bool],
    what: str,
    config: Mapping[str, Any],
) -> dg.SensorDefinition:
    """Starts the job for work that is due at any moment (`what`, in plain words), unless one is at work on it.

    After a run that failed the next one waits: what keeps one from working keeps the next from it as well.
    """

    @dg.sensor(
        name=f"{job.name}_{label}",
        job=job,
        minimum_interval_seconds=interval(WORK_SECONDS),
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Starts {job.name} for {what} that are due.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        tick = f"{job.name}_{label} {datetime.now(UTC):%Y-%m-%dT%H:%M:%S}"
        with _reported(job.name, tick, label):
            with kept_database(load_settings()).transaction() as connection:
                if not is_due(connection):
                    return dg.SkipReason(f"no {what} are due")
                busy = at_work(context.instance, connection, job.name, label)
            if busy := busy or _has_just_failed(context.instance, job.name, label):
                return dg.SkipReason(busy)
            tags = {**JOBS[job.name].tags(job.name), TIER_TAG: label}
            return dg.RunRequest(run_config=config, tags=tags)

    return sensor


def _has_just_failed(instance: dg.DagsterInstance, job: str, label: str) -> str | None:
    records = instance.get_run_records(dg.RunsFilter(job_name=job, tags={TIER_TAG: label}), limit=1)
    for record in records:
        since = datetime.now(UTC) - record.update_timestamp.replace(tzinfo=UTC)
        if record.dagster_run.status is dg.DagsterRunStatus.FAILURE and since < AFTER_FAILURE:
            return f"run {record.dagster_run.run_id} has just failed; the next one starts a minute after it"
    return None


def another_waits(instance: dg.DagsterInstance) -> Callable[[], bool]:
    """Whether another run is queued for the place of an idle one, looked up every few seconds."""
    looked_at = time.monotonic()

    def is_wanted() -> bool:
        nonlocal looked_at
        if time.monotonic() - looked_at < WANTED_SECONDS:
            return False
        looked_at = time.monotonic()
        return instance.get_runs_count(dg.RunsFilter(statuses=[dg.DagsterRunStatus.QUEUED])) > 0

    return is_wanted


@contextmanager
def _reported(job: str, tick: str, label: str) -> Iterator[None]:
    """What keeps a tick from looking is reported: no run would tell of it."""
    try:
        yield
    except IntegrationError as error:
        alerts.report_failure(job, error, run_id=tick, tier=label)
        raise error from None
    except Exception as error:  # Dagster's storage is away, or a bug
        alerts.report_failure(job, error_of(error), run_id=tick, tier=label)
        raise


def _look(
    instance: dg.DagsterInstance,
    job: dg.JobDefinition,
    units: Sequence[Unit],
    idle: Idle,
    *,
    tier: int | None,
    tick: str,
    config: Mapping[str, Any] | None = None,
) -> dg.RunRequest | dg.SkipReason:
    """The run to start now, for one tier or for retries, or why none is."""
    label = RETRIES if tier is None else str(tier)
    try:
        settings = load_settings()
        with kept_database(settings).transaction() as connection:
            if tier is None:
                due = store_units.is_due(connection, units, retries=True)
            else:
                due = store_units.is_due(connection, units, tiers=[tier])
            if not due:
                return dg.SkipReason("no retry is due" if tier is None else f"no store of tier {tier} is due")
            if reason := idle(settings):
                store_units.pass_over(connection, units, tuple(TIERS) if tier is None else (tier,))
                return dg.SkipReason(reason)
            busy = at_work(instance, connection, job.name, label)
    except IntegrationError as error:
        alerts.report_failure(job.name, error, run_id=tick, tier=label)
        raise error from None
    except Exception as error:  # Dagster's storage is away, or a bug: no run would tell of it
        alerts.report_failure(job.name, error_of(error), run_id=tick, tier=label)
        raise
    if busy:
        return dg.SkipReason(busy)
    return dg.RunRequest(run_config=config, tags={**JOBS[job.name].tags(job.name, tier), TIER_TAG: label})


def at_work(
    instance: dg.DagsterInstance, connection: psycopg.Connection[Any], job: str, label: str
) -> str | None:
    """The run of this job and tier that is queued or running, as a sentence; None if there is none, or it has died."""
    records = instance.get_run_records(
        dg.RunsFilter(
            job_name=job, tags={TIER_TAG: label}, statuses=[*_WAITING, dg.DagsterRunStatus.STARTED]
        ),
        limit=20,
    )
    for record in records:
        run = record.dagster_run
        since = record.create_timestamp
        if run.status not in _WAITING:
            since = datetime.fromtimestamp(record.start_time, UTC) if record.start_time else since
            if datetime.now(UTC) - since >= ALIVE:
                unseen = since_last_seen(connection, run.run_id)
                if unseen is None or unseen >= ALIVE:
                    continue
        what = "is queued" if run.status in _WAITING else "is running"
        return f"run {run.run_id} of {_named(label)} {what} since {since:%H:%M:%S} UTC"
    return None


def _named(label: str) -> str:
    return f"tier {label}" if label.isdecimal() else label
