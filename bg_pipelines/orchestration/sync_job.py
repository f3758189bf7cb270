"""A sync job: config in, one `SyncRun`, metadata out; with its op, its schedules and its sensor.

    store_sync, schedules, sensors = sync_job("store_sync", op="sync_stores", description="...")

What the job does when its stores are done is `then`, an op of its own within the same run's time.
"""

# No `from __future__ import annotations`: Dagster reads those of an op as they are.
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Literal, NamedTuple, cast

import dagster as dg
from pydantic import Field

from bg_pipelines import alerts
from bg_pipelines.database.engine import Database
from bg_pipelines.errors import IntegrationError
from bg_pipelines.incidents import reporting
from bg_pipelines.orchestration.failures import (
    DATABASE_DELAY_SECONDS,
    TIER_TAG,
    as_dagster_failures,
    error_of,
    report_op_failure,
    wrong_config,
)
from bg_pipelines.orchestration.launchpad import RunConfig, shown
from bg_pipelines.orchestration.reports import STORE_TAG, report
from bg_pipelines.orchestration.resources import DatabaseResource, PlatformsResource
from bg_pipelines.orchestration.ticks import Idle, never_idle, retries_sensor, tier_schedules
from bg_pipelines.queues import JOB_UNITS, JOBS, TIERS, Unit
from bg_pipelines.retries import Policies
from bg_pipelines.settings import Settings, load_settings
from bg_pipelines.sync import Summary, SyncRequest, SyncRun
from bg_pipelines.sync.summary import UnitSummary
from bg_pipelines.sync.units import UNITS, Process
from bg_pipelines.webhooks.healing import Healing
from bg_pipelines.work import rollups, store_units, visits
from bg_pipelines.work.pulse import RunRecord, pulse
from bg_pipelines.work.queue import all_queues

THEN_SECONDS = 120.0
"""Stores that use up a run's time again and again would else keep `then` from its turn for days."""


class SyncConfig(RunConfig):
    """Run config of a sync job. With none, it does all that is due."""

    stores: list[str] = Field(
        default=[], description="names of stores to sync now, due or not; empty: all that are due"
    )
    tiers: list[int] = Field(default=list(TIERS), description="only stores of these tiers: 1, 2, 3")
    force: bool = Field(default=False, description="read everything again, not only what changed")
    batch_size: int = Field(
        default=50, ge=1, le=1000, description="how many rows of work to claim at a time, 1 to 1000"
    )
    max_workers: int = Field(
        default=8, ge=1, le=64, description="how many stores to work on at once, 1 to 64"
    )
    max_minutes: float = Field(
        default=SyncRequest.max_minutes,
        gt=0,
        le=25,
        description="0 to 25: what is unfinished by then is left to the next run, at the page reached",
    )


class BackfillConfig(SyncConfig):
    """With how full passes are read, for a job of whose tables platforms make exports."""

    backfill: Literal["auto", "bulk", "pages"] = Field(
        default="auto",
        description="how full passes of these stores read where the platform has bulk operations: bulk, pages, or auto, "
        "as the number of rows suggests",
    )


class AuditConfig(SyncConfig):
    """With the size of an audit."""

    sample: int = Field(
        default=50, ge=1, le=10_000, description="how many rows of each resource to look at, 1 to 10000"
    )


class SyncJob(NamedTuple):
    """What Dagster knows of a sync job."""

    job: dg.JobDefinition
    schedules: list[dg.ScheduleDefinition]
    sensors: list[dg.SensorDefinition]


IsOver = Callable[[], bool]
Then = Callable[[dg.OpExecutionContext, Database, IsOver], None]
"""What a job does when its stores are done; the last argument tells whether the run's time is over."""


def _units_of_sync(_: Settings) -> Mapping[Unit, Process]:
    return UNITS


def sync_job(
    name: str,
    *,
    op: str,
    description: str,
    config: type[SyncConfig] = SyncConfig,
    then: Then | None = None,
    then_seconds: float = THEN_SECONDS,
    processes: Callable[[Settings], Mapping[Unit, Process]] = _units_of_sync,
    idle: Idle = never_idle,
    database_delay_seconds: float = DATABASE_DELAY_SECONDS,
) -> SyncJob:
    """The job of this name in `queues`, with an op named `op`, and one for `then`, named and described as that is.

    `then` has what is left of `max_minutes`, and `then_seconds` at least. `processes` makes what each unit does from the
    settings that the run begins with; where `idle` has a reason, no run is started. `database_delay_seconds`: see
    `failures.DATABASE_RETRIES`.
    """
    units = JOB_UNITS[name]

    def sync(
        context: dg.OpExecutionContext,
        config: Any,
        database: DatabaseResource,
        platforms: PlatformsResource,
    ) -> None:
        with as_dagster_failures(context, database_delay_seconds=database_delay_seconds):
            settings = load_settings()
            if len(config.stores) == 1:
                context.instance.add_run_tags(context.run_id, {STORE_TAG: config.stores[0]})
            reason = idle(settings)
            if reason is None:
                summary = _run(context, config, database, platforms, units, settings, processes(settings))
            else:
                summary = _pass_over(context, config, database, units, reason)
            report(context, summary, database.database, settings.board_url)
        if then is None:
            _tell(context, config, database)

    def after(context: dg.OpExecutionContext, database: DatabaseResource) -> None:
        assert then is not None
        ops = cast("Mapping[str, Any]", context.run_config).get("ops", {})
        given = config(**ops.get(op, {}).get("config", {}))
        with as_dagster_failures(context, database_delay_seconds=database_delay_seconds):
            record = RunRecord(database.database, context.run_id, context.job_name)
            with pulse(record) as elapsed:
                end = time.monotonic() + max(given.max_minutes * 60 - elapsed.total_seconds(), then_seconds)
                then(context, database.database, lambda: time.monotonic() >= end)
        _tell(context, given, database)

    sync.__annotations__["config"] = config
    sync_op = dg.op(name=op, description=description, out=dg.Out(dg.Nothing))(sync)

    @dg.job(
        name=name,
        description=description,
        tags=JOBS[name].tags(name),
        hooks={report_op_failure},
        config=shown(op, config()),
    )
    def job() -> None:
        synced = sync_op()
        if then is not None:
            then_op = dg.op(
                name=then.__name__,
                description=then.__doc__,
                ins={"synced": dg.In(dg.Nothing)},
                out=dg.Out(dg.Nothing),
            )(after)
            then_op(synced)

    return SyncJob(job, tier_schedules(job, op, units, idle), [retries_sensor(job, units, idle)])


def _run(
    context: dg.OpExecutionContext,
    config: SyncConfig,
    database: DatabaseResource,
    platforms: PlatformsResource,
    units: tuple[Unit, ...],
    settings: Settings,
    processes: Mapping[Unit, Process],
) -> Summary:
    """Run one sync. Raises only if the job itself could not work.

    A store that failed is in the summary and in `sync_attempts`, and is retried as its row says.
    """
    wrong = [str(tier) for tier in config.tiers if tier not in TIERS]
    if wrong or not config.tiers:
        raise wrong_config("tiers", f"{', '.join(wrong) or 'none'}: there are {', '.join(map(str, TIERS))}")
    take_over(context, database)
    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in config
    }
    summary = SyncRun(
        database.database,
        database.cipher,
        SyncRequest(units, job=context.job_name, **given),
        run_id=context.run_id,
        connect=platforms.connect,
        log=context.log.info,
        policies=Policies(settings.retry_policies, jobs=tuple(JOBS)),
        coverage=Healing(context.job_name),
        processes=processes,
    ).run()
    with suppress(IntegrationError):  # figures: the next run makes up for it
        rollups.roll_up(database.database)
    return summary


def _pass_over(
    context: dg.OpExecutionContext,
    config: SyncConfig,
    database: DatabaseResource,
    units: tuple[Unit, ...],
    reason: str,
) -> Summary:
    with database.database.transaction() as connection:
        store_units.pass_over(connection, units, config.tiers)
    context.log.info(f"Nothing to do: {reason}.")
    return Summary(idle=reason, units={unit: UnitSummary() for unit in units})


def take_over(context: dg.OpExecutionContext, database: DatabaseResource) -> None:
    """Free what a dead predecessor holds: this run's own last try, or the run that this one was started for.

    Without it the work would wait until the leases end.
    """
    dead = [context.run_id] if context.retry_number else []
    parent = context.run.parent_run_id and context.instance.get_run_by_id(context.run.parent_run_id)
    if parent and parent.is_finished:
        dead.append(parent.run_id)
    if not dead:
        return
    with database.database.transaction() as connection:
        freed = sum(queue.release_runs(connection, dead) for queue in all_queues())
        visits.release_runs(connection, dead)
    if freed:
        context.log.info(f"Claims taken over from an attempt that died: {freed}.")


def _tell(context: dg.OpExecutionContext, config: SyncConfig, database: DatabaseResource) -> None:
    did_all = not config.stores and set(config.tiers) == set(TIERS)
    tell(context, database, context.get_tag(TIER_TAG) or (None if did_all else reporting.MANUAL))


def tell(context: dg.OpExecutionContext, database: DatabaseResource, tier: str | None) -> None:
    """The job works, for this tier or (None) for all: resolve what stopped earlier runs. Then send alerts for what this run
    reported."""
    try:
        with database.database.transaction() as connection:
            reporting.clear_job(connection, context.job_name, tier)
        alerts.tell(database.database, load_settings())
    except Exception as error:  # noqa: BLE001 (the work is done; the sensor tells it later)
        context.log.warning(f"No alert was sent yet; the sensor sends what is due: {error_of(error).message}")
