"""A cleaning job: config in, one `CleaningRun`, metadata out; with its op and its schedule.

clean_active_carts, schedules = cleaning_job("clean_active_carts", op="clean_carts", description="...", work=...)
"""

# No `from __future__ import annotations`: Dagster reads those of an op as they are.
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import dagster as dg
from pydantic import Field

from bg_pipelines import alerts
from bg_pipelines.cleaning import tasks
from bg_pipelines.cleaning.batches import Manners
from bg_pipelines.cleaning.preview import Preview
from bg_pipelines.cleaning.run import CleaningRun, Summary
from bg_pipelines.cleaning.tasks import Task
from bg_pipelines.database.engine import Database
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.errors import IntegrationError
from bg_pipelines.orchestration.failures import (
    TIER_TAG,
    as_dagster_failures,
    error_of,
    report_op_failure,
    wrong_config,
)
from bg_pipelines.orchestration.launchpad import RunConfig, shown
from bg_pipelines.orchestration.reports import Failed, show_failed, table_of
from bg_pipelines.orchestration.resources import DatabaseResource, kept_database
from bg_pipelines.orchestration.sync_job import take_over, tell
from bg_pipelines.orchestration.ticks import at_work
from bg_pipelines.queues import JOBS
from bg_pipelines.retries import Policies
from bg_pipelines.settings import load_settings
from bg_pipelines.wording import did_you_mean
from bg_pipelines.work.pulse import RunRecord, pulse

CRON = "cron"
"""The tier of runs that the schedule starts."""


class CleaningConfig(RunConfig):
    """Run config of a cleaning job. With none, it does all of its tasks."""

    tasks: list[str] = Field(default=[], description="only these tasks; empty: all")
    only_due: bool = Field(default=False, description="only tasks that are due; the schedule says so")
    dry_run: bool = Field(default=False, description="count exactly what would go, and delete nothing")
    max_minutes: float = Field(
        default=15,
        gt=0,
        le=25,
        description="0 to 25: what is unfinished by then is the next run's, at the place reached",
    )
    batch_milliseconds: float = Field(
        default=50, ge=1, le=5_000, description="how long a batch should take, 1 to 5000"
    )


class Work(NamedTuple):
    """What a job does: its tasks, the dry run of each that deletes rows, and what else it reports."""

    tasks: Sequence[Task]
    preview: Callable[[Sequence[str]], Sequence[Preview]]
    report: Callable[[], Mapping[str, dg.MetadataValue]] = dict


class CleaningJob(NamedTuple):
    """What Dagster knows of a cleaning job."""

    job: dg.JobDefinition
    schedules: list[dg.ScheduleDefinition]


def cleaning_job(
    name: str,
    *,
    op: str,
    description: str,
    task_names: Callable[[], Sequence[str]],
    work: Callable[[dg.DagsterInstance, Database, Cipher], Work],
) -> CleaningJob:
    """The job of this name in `queues`, with an op named `op`."""

    def clean(context: dg.OpExecutionContext, config: CleaningConfig, database: DatabaseResource) -> None:
        with as_dagster_failures(context):
            known = task_names()
            for wrong in (task for task in config.tasks if task not in known):
                raise wrong_config("tasks", f"{name} has no task {wrong!r}{did_you_mean(wrong, known)}")
            take_over(context, database)
            given = work(context.instance, database.database, database.cipher)
            if config.dry_run:
                _show_preview(context, given.preview(config.tasks))
                return
            with pulse(RunRecord(database.database, context.run_id, name)):
                summary = CleaningRun(
                    database.database,
                    name,
                    [task for task in given.tasks if not config.tasks or task.name in config.tasks],
                    run_id=context.run_id,
                    declared=[task.name for task in given.tasks],
                    only_due=config.only_due,
                    max_minutes=config.max_minutes,
                    manners=Manners(batch_seconds=config.batch_milliseconds / 1000),
                    log=context.log.info,
                    policies=Policies(load_settings().retry_policies, jobs=tuple(JOBS)),
                ).run()
            _report(context, summary, given.report())
        tell(context, database, None)

    clean_op = dg.op(name=op, description=description, out=dg.Out(dg.Nothing))(clean)

    @dg.job(
        name=name,
        description=description,
        tags=JOBS[name].tags(name),
        hooks={report_op_failure},
        config=shown(op, CleaningConfig()),
    )
    def job() -> None:
        clean_op()

    @dg.schedule(
        name=f"{name}_{CRON}",
        job=job,
        cron_schedule=JOBS[name].crons[CRON],
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"Starts {name} if a task of it is due.",
    )
    def schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        tick = f"{name} {context.scheduled_execution_time:%Y-%m-%dT%H:%M}"
        try:
            with kept_database(load_settings()).transaction() as connection:
                if not tasks.is_due(connection, task_names()):
                    return dg.SkipReason("no task is due")
                busy = at_work(context.instance, connection, name, CRON)
        except IntegrationError as error:
            alerts.report_failure(name, error, run_id=tick, tier=CRON)
            raise error from None
        except Exception as error:  # Dagster's storage is away, or a bug: no run would tell of it
            alerts.report_failure(name, error_of(error), run_id=tick, tier=CRON)
            raise
        if busy:
            return dg.SkipReason(busy)
        config = {"ops": {op: {"config": {"only_due": True}}}}
        return dg.RunRequest(run_config=config, tags={**JOBS[name].tags(name), TIER_TAG: CRON})

    return CleaningJob(job, [schedule])


def _report(context: dg.OpExecutionContext, summary: Summary, more: Mapping[str, dg.MetadataValue]) -> None:
    """What the run freed, as metadata; and as a materialization, of which the UI draws its numbers over time."""
    freed = {table: (rows, size) for table, rows, size in _by_table(summary.figures)}
    batches = sum(done.outcome.batches for done in summary.done)
    set_aside = sum(done.outcome.set_aside for done in summary.done)
    numbers: dict[str, dg.MetadataValue] = {
        "rows_freed": dg.MetadataValue.int(summary.rows),
        "bytes_freed": dg.MetadataValue.int(summary.bytes),
        "batches": dg.MetadataValue.int(batches),
        "seconds": dg.MetadataValue.float(round(summary.seconds, 2)),
        "seconds_waited": dg.MetadataValue.float(round(float(sum(summary.pauses.values())), 2)),
        "rows_set_aside": dg.MetadataValue.int(set_aside),
    }
    if "carts.abandoned" in summary.figures:
        numbers["carts_abandoned"] = dg.MetadataValue.int(summary.figures["carts.abandoned"])
    by_table = {f"rows_{table}": dg.MetadataValue.int(rows) for table, (rows, _) in freed.items()}
    context.log_event(dg.AssetMaterialization(context.job_name, metadata={**numbers, **by_table}))
    failed = [(done.task, done.failure) for done in summary.done if done.failure is not None]
    show_failed(
        context,
        "task",
        len(failed),
        len(summary.done),
        [Failed(task, failure.error_type.value, failure.message) for task, failure in failed],
    )
    advice = [line for done in summary.done for line in done.outcome.advice]
    metadata: dict[str, dg.MetadataValue] = {
        **(
            {"failed": table_of({"task": task, "message": failure.message} for task, failure in failed)}
            if failed
            else {}
        ),
        **numbers,
        **more,
    }
    # Dagster takes no table without rows.
    if summary.done:
        metadata["tasks"] = table_of(
            {
                "task": done.task,
                "rows": done.outcome.rows,
                "bytes": done.outcome.bytes,
                "batches": done.outcome.batches,
                "set_aside": done.outcome.set_aside,
                "waited": ", ".join(f"{s:.0f} s for {why}" for why, s in done.pauses.items()),
                "seconds": f"{done.seconds:.1f}",
                "unfinished": done.outcome.why or "",
            }
            for done in summary.done
        )
    if freed:
        metadata["tables"] = table_of(
            {"table": table, "rows": rows, "bytes": size} for table, (rows, size) in freed.items()
        )
    if summary.skipped:
        metadata["skipped"] = dg.MetadataValue.text(
            f"{', '.join(summary.skipped)}: not due, paused, parked, claimed by another run, or no time left"
        )
    if advice:
        metadata["advice"] = table_of({key: str(value) for key, value in line.items()} for line in advice)
    context.add_output_metadata(metadata)


def _show_preview(context: dg.OpExecutionContext, previews: Sequence[Preview]) -> None:
    context.add_output_metadata(
        {
            "rows_to_free": dg.MetadataValue.int(sum(preview.rows for preview in previews)),
            "dry_run": table_of(
                {"task": p.task, "rows": p.rows, "bytes": p.bytes, "what": p.what} for p in previews
            ),
        }
    )


def _by_table(figures: Mapping[str, int]) -> Iterator[tuple[str, int, int]]:
    for name in figures:
        table, _, figure = name.rpartition(".")
        if figure == "rows":
            yield table, figures[name], figures.get(f"{table}.bytes", 0)
