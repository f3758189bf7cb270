"""Alerts in Dagster: failures of ops and runs are reported, and alerts are delivered.

    as_dagster_failures          an op's own failure is reported before it is raised: Dagster's storage, which its hook
                                 and sensor need, may be what is away, or full
    report_op_failure   hook     an op failed for good: whatever was not reported yet
    run_failures        sensor   a run died (killed, never started): nobody else could report it
    deliver_alerts      sensor   sends alerts that are due
    stale_stores        sensor   reports stores that are not read to the end any more, though nothing failed

An op fails with `as_failure(error)`, so that the UI shows our sentence, and `error_of` reads it back: the hook and the
sensor see the same error, and one run is reported once. Nothing in here stops a run, or another sensor.
"""

import json
import random
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from bg_pipelines import alerts
from bg_pipelines.database.sqlstates import server_code
from bg_pipelines.errors import RUN_CONFIG, ErrorType, IntegrationError, unexpected
from bg_pipelines.incidents import reporting
from bg_pipelines.operations.freshness import report_stale
from bg_pipelines.orchestration.resources import kept_database
from bg_pipelines.privacy import requests
from bg_pipelines.queues import JOBS
from bg_pipelines.settings import load_settings
from bg_pipelines.wording import counted

DELIVER_SECONDS = 15
STALE_SECONDS = 60

WILL_RETRY_TAG = "dagster/will_retry"
FAILURE_REASON_TAG = "dagster/failure_reason"
TIER_TAG = "tier"
"""What a run was started for: the number of a tier, or retries. One that was started manually has none."""

DATABASE_RETRIES = 3
DATABASE_DELAY_SECONDS = 5
"""While our PostgreSQL is away the op is retried in its run, after a random part of this delay, doubled each time.
Nothing else is: what failed of a store is kept in its row. It is no RetryPolicy, for that also retries what was stopped.
"""


STORAGE_SECONDS, STORAGE_PAUSE_SECONDS = 20.0, 1.0
"""How long Dagster's storage may be away with the database, as while a server is started again."""
LACKING = ("53", "58")
"""PostgreSQL's codes of what it has no more of (disk, memory, connections), and of errors of its system."""


def interval(seconds: int) -> int:
    """The minimum interval of a sensor that is to be looked at every so many seconds.

    Dagster's daemon looks every five, and compares with when the sensor's own tick began, which is a moment later: without
    the second less every other look would find it too early, and a sensor of five seconds be looked at every ten.
    """
    return seconds - 1


def as_failure(error: IntegrationError) -> dg.Failure:
    """The error as Dagster shows it: its sentence, and its facts beside it."""
    return dg.Failure(
        description=error.message,
        metadata={
            "error_type": error.error_type.value,
            "severity": error.severity.value,
            "recoverable": dg.MetadataValue.bool(error.recoverable),
            "source": error.source,
            "details": dg.MetadataValue.json(error.details),
        },
        allow_retries=False,
    )


def with_frames(error: BaseException) -> IntegrationError:
    """An unexpected error with the way that led to it, for the run's log."""
    frames = traceback.extract_tb(error.__traceback__)[-8:]
    return unexpected(error, details={"traceback": [f"{f.filename}:{f.lineno} {f.name}" for f in frames]})


@contextmanager
def as_dagster_failures(
    context: dg.OpExecutionContext, *, database_delay_seconds: float = DATABASE_DELAY_SECONDS
) -> Iterator[None]:
    """What keeps a job from working at all becomes a `dagster.Failure` with our sentence, and ends the run.

    While the database is away the op is retried; see `DATABASE_RETRIES`. What ends the run is reported here already.
    """
    try:
        yield
    except IntegrationError as error:
        # Its cause is left out of the log: the sentence says it, and a long traceback would bury it.
        failure = as_failure(error)
        if error.error_type is ErrorType.DATABASE:
            if context.retry_number >= DATABASE_RETRIES or not _can_retry(context, error):
                _report(context, error)
            most = database_delay_seconds * 2**context.retry_number
            raise dg.RetryRequested(DATABASE_RETRIES, random.uniform(0, most)) from failure  # noqa: S311
        _report(context, error)
        raise failure from None
    except Exception as error:  # noqa: BLE001 (a bug: Dagster would quote its text)
        surprise = with_frames(error)
        _report(context, surprise)
        context.log.error(f"{surprise.message}\n" + "\n".join(surprise.details["traceback"]))
        raise as_failure(surprise) from None


def _report(context: dg.OpExecutionContext, error: IntegrationError) -> None:
    _tell(context.job_name, error, context.run_id, context.get_tag(TIER_TAG))


def wrong_config(name: str, why: str) -> IntegrationError:
    """A value of a run's config that cannot be: a fault of whoever typed it, told by the failed run and to nobody else."""
    return IntegrationError.of(
        ErrorType.CONFIGURATION,
        f"config `{name}`: {why}. Nothing was done: correct it and launch again",
        source=RUN_CONFIG,
    )


def _tell(job: str, error: IntegrationError, run_id: str, tier: str | None) -> None:
    """Report why a run failed, but for a typo of a person who looks at the run: a run that a tick starts has a tier."""
    if error.source != RUN_CONFIG or tier is not None:
        alerts.report_failure(job, error, run_id=run_id, tier=tier)


def _can_retry(context: dg.OpExecutionContext, error: IntegrationError) -> bool:
    """Whether Dagster can note that the op is retried, which it writes into its storage; after a moment of patience."""
    if server_code(error).startswith(LACKING):
        return False  # a full disk is Dagster's as well, and reading works there
    end = time.monotonic() + STORAGE_SECONDS
    while True:
        try:
            context.instance.get_run_by_id(context.run_id)
        except Exception:  # noqa: BLE001 (whatever keeps it from being read)
            if time.monotonic() >= end:
                return False
            time.sleep(STORAGE_PAUSE_SECONDS)
        else:
            return True


def error_of(exception: BaseException) -> IntegrationError:
    """The error an op failed with."""
    if isinstance(exception, IntegrationError):
        return exception
    if isinstance(exception, dg.RetryRequested) and exception.__cause__ is not None:
        return error_of(exception.__cause__)  # its last try
    if isinstance(exception, dg.Failure):
        return _from_failure(exception.description or "", exception.metadata) or with_frames(exception)
    return with_frames(exception)


def _from_failure(message: str, metadata: Mapping[str, dg.MetadataValue[Any]]) -> IntegrationError | None:
    facts = {key: value.value for key, value in metadata.items()}
    if "error_type" not in facts:
        return None
    details = facts["details"]
    return IntegrationError(
        message,
        error_type=facts["error_type"],
        severity=facts["severity"],
        recoverable=facts["recoverable"],
        source=facts["source"],
        details=json.loads(details) if isinstance(details, str) else details,
    )


@dg.failure_hook(name="report_op_failure")
def report_op_failure(context: dg.HookContext) -> None:
    """Report why an op failed for good; a run that was stopped has not failed."""
    exception = context.op_exception
    if isinstance(exception, Exception):
        # From the step's context, not from Dagster's storage, which may be what is away.
        tier = context._step_execution_context.get_tag(TIER_TAG)
        _tell(context.job_name, error_of(exception), context.run_id, tier)


@dg.run_failure_sensor(
    name="run_failures",
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=interval(DELIVER_SECONDS),
    # Those started manually belong to no code location.
    monitor_all_code_locations=True,
)
def run_failures(context: dg.RunFailureSensorContext) -> None:
    """Report runs that died before they could report themselves; where their history cannot be read, report that."""
    run = context.dagster_run
    if run.job_name not in JOBS:
        return  # another code location's
    try:
        report_dead_run(context.instance, run, context.failure_event)
    except Exception as error:  # noqa: BLE001 (one run's surprise must not hide the next run's)
        unread = error_of(error).message
        context.log.error(f"run {run.run_id}: its history cannot be read: {unread}")
        if not _is_reported(run):
            died = IntegrationError.of(
                ErrorType.UNKNOWN,
                f"run {run.run_id} of {run.job_name} failed, and why cannot be read: {unread}",
                source="dagster",
            )
            alerts.report_failure(run.job_name, died, run_id=run.run_id, tier=run.tags.get(TIER_TAG))


def _is_reported(run: dg.DagsterRun) -> bool:
    """Whether an incident tells of this run already; in doubt not."""
    try:
        with kept_database(load_settings()).transaction() as connection:
            return reporting.is_reported(connection, run.run_id)
    except IntegrationError:
        return False


def report_dead_run(instance: dg.DagsterInstance, run: dg.DagsterRun, failure: dg.DagsterEvent) -> None:
    """Report a failed run, unless its own hook has done so, or it was stopped and is retried automatically."""
    tags = {**run.tags, **getattr(instance.get_run_by_id(run.run_id), "tags", {})}
    stopped = tags.get(FAILURE_REASON_TAG) == "UNEXPECTED_TERMINATION"
    if stopped and tags.get(WILL_RETRY_TAG) == "true":
        return
    entries = instance.all_logs(
        run.run_id,
        of_type={
            dg.DagsterEventType.STEP_FAILURE,
            dg.DagsterEventType.HOOK_COMPLETED,
            dg.DagsterEventType.ENGINE_EVENT,
            dg.DagsterEventType.RUN_FAILURE,
        },
    )
    # What comes behind its end is about the run that follows it.
    end = max(
        (n for n, entry in enumerate(entries) if _type(entry) is dg.DagsterEventType.RUN_FAILURE), default=0
    )
    if any(_type(entry) is dg.DagsterEventType.HOOK_COMPLETED for entry in entries) and not stopped:
        return
    tier = run.tags.get(TIER_TAG)
    _tell(run.job_name, _why(run, failure, entries[:end]), run.run_id, tier)
    died_at = datetime.fromtimestamp(entries[end].timestamp, UTC) if entries else datetime.now(UTC)
    worked = dg.RunsFilter(
        job_name=run.job_name,
        tags={TIER_TAG: tier} if tier else {},
        statuses=[dg.DagsterRunStatus.SUCCESS],
        updated_after=died_at,
    )
    if instance.get_runs_count(worked):
        # By now it is over; else it would stay open until the job's next run.
        with kept_database(load_settings()).transaction() as connection:
            reporting.clear_job(connection, run.job_name, tier or reporting.MANUAL)


def _why(
    run: dg.DagsterRun, failure: dg.DagsterEvent, entries: Sequence[dg.EventLogEntry]
) -> IntegrationError:
    """The error its op failed with, if it came so far; else Dagster's reason, in one line."""
    for entry in entries:
        if _type(entry) is dg.DagsterEventType.STEP_FAILURE:
            user_failure = entry.get_dagster_event().step_failure_data.user_failure_data
            error = (
                _from_failure(user_failure.description or "", user_failure.metadata) if user_failure else None
            )
            if error is not None:
                return error
    reason = failure.message or "no reason is known"
    if "from outside the execution context" in reason:
        said = [entry for entry in entries if _type(entry) is dg.DagsterEventType.ENGINE_EVENT]
        reason = (said[-1].get_dagster_event().message if said else None) or reason
    return IntegrationError.of(
        ErrorType.RUN_DIED,
        f"run {run.run_id} of {run.job_name} died: {reason.strip().splitlines()[0]}",
        source="dagster",
    )


def _type(entry: dg.EventLogEntry) -> dg.DagsterEventType | None:
    return entry.dagster_event.event_type if entry.dagster_event else None


@dg.sensor(
    name="deliver_alerts",
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=interval(DELIVER_SECONDS),
)
def deliver_alerts() -> Iterator[dg.SkipReason]:
    """Announce what has changed of incidents, deliver what is due of alerts, report data requests that are nearly due."""
    try:
        settings = load_settings()
        database = kept_database(settings)
        with database.transaction() as connection:
            reporting.clear_database_outages(connection)
        counts = alerts.tell(database, settings)
        requests.remind(database)  # told at the next tick
    except IntegrationError as error:
        yield dg.SkipReason(f"No alert was sent: {error.message}")
    else:
        yield dg.SkipReason(f"told: {counts}")


@dg.sensor(
    name="stale_stores",
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=interval(STALE_SECONDS),
)
def stale_stores() -> Iterator[dg.SkipReason]:
    """Report stores that are not read to the end any more."""
    try:
        units = report_stale(kept_database(load_settings()))
    except IntegrationError as error:
        yield dg.SkipReason(f"Not looked: {error.message}")
    else:
        yield dg.SkipReason(f"not succeeded for too long: {counted(units, 'unit')} of stores")
