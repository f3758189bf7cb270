"""The Dagster edge of a sync: config in, one `SyncRun`, metadata out. The sync jobs differ in their resources."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import dagster as dg
from pydantic import Field

from bg_pipelines import alerts
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.incidents import reporting
from bg_pipelines.orchestration.failures import TIER_TAG, as_failure, error_of, with_frames
from bg_pipelines.orchestration.resources import DatabaseResource, PlatformsResource
from bg_pipelines.queues import JOBS, TIERS
from bg_pipelines.records import Resource
from bg_pipelines.retries import Policies
from bg_pipelines.settings import load_settings
from bg_pipelines.sync import Summary, SyncRequest, SyncRun
from bg_pipelines.sync.summary import BACKFILLS
from bg_pipelines.work.queue import all_queues

DATABASE_RETRIES = 3
DATABASE_DELAY_SECONDS = 5
"""While our PostgreSQL is away the op is tried again in its run, after a random part of this delay, doubled each time.
Nothing else is: what failed of a store is kept in its row. It is no RetryPolicy, for that also retries what was stopped.
"""


class SyncConfig(dg.Config):
    """Run config of a sync job. With none, it does all that is due."""

    stores: list[str] = Field(
        default=[], description="names of stores to sync now, due or not; empty: all that are due"
    )
    tiers: list[int] = Field(default=list(TIERS), description="only stores of these tiers")
    force: bool = Field(default=False, description="read everything again, not only what changed")
    backfill: str = Field(
        default="auto",
        description="how full passes of these stores read where the platform has bulk operations: bulk, pages, or auto, "
        "as the number of rows suggests",
    )
    batch_size: int = Field(default=50, ge=1, le=1000, description="how many rows of work to claim at a time")
    max_workers: int = Field(default=8, ge=1, le=64, description="how many stores to work on at once")
    max_minutes: float = Field(
        default=15,
        gt=0,
        le=25,
        description="what is unfinished by then is left to the next run, at the page reached",
    )
    sample: int = Field(
        default=50, ge=1, le=10_000, description="how many rows of each resource drift_audit looks at"
    )


def sync(
    context: dg.OpExecutionContext,
    config: SyncConfig,
    database: DatabaseResource,
    platforms: PlatformsResource,
    resources: tuple[Resource, ...],
    then: Callable[[], object] = lambda: None,
) -> Summary:
    """Run one sync; report progress to the run's log and the outcome as metadata and materializations.

    `then` is what the job does when its stores are done; the run says that it lives until that is done, too. Raises
    dagster.Failure only if the job itself could not work, which Dagster tries again where the database was away; a
    store that failed is in the metadata, in `sync_attempts`, and is tried again as its row says.
    """

    def end(summary: Summary) -> None:
        _report(context, summary)
        then()

    with as_dagster_failures(context):
        summary = _run(context, config, database, platforms, resources, end)
    _tell(context, config, database)
    return summary


@contextmanager
def as_dagster_failures(context: dg.OpExecutionContext) -> Iterator[None]:
    """What keeps a job from working at all becomes a `dagster.Failure` with our sentence, and ends the run.

    While the database is away the op is tried again; see `DATABASE_RETRIES`.
    """
    try:
        yield
    except IntegrationError as error:
        # Its cause is left out of the log: the sentence says it, and a long traceback would bury it.
        failure = as_failure(error)
        if error.error_type is ErrorType.DATABASE:
            most = DATABASE_DELAY_SECONDS * 2**context.retry_number
            raise dg.RetryRequested(DATABASE_RETRIES, random.uniform(0, most)) from failure  # noqa: S311
        raise failure from None
    except Exception as error:  # noqa: BLE001 (a bug: Dagster would quote its text)
        surprise = with_frames(error)
        context.log.error(f"{surprise.message}\n" + "\n".join(surprise.details["traceback"]))
        raise as_failure(surprise) from None


def _run(
    context: dg.OpExecutionContext,
    config: SyncConfig,
    database: DatabaseResource,
    platforms: PlatformsResource,
    resources: tuple[Resource, ...],
    then: Callable[[Summary], object],
) -> Summary:
    wrong = [str(tier) for tier in config.tiers if tier not in TIERS]
    if wrong or not config.tiers:
        raise IntegrationError.of(
            ErrorType.CONFIGURATION,
            f"config `tiers`: {', '.join(wrong) or 'none'}: there are {', '.join(map(str, TIERS))}",
            source="run config",
        )
    if config.backfill not in BACKFILLS:
        raise IntegrationError.of(
            ErrorType.CONFIGURATION,
            f"config `backfill`: {config.backfill!r} is none of {', '.join(BACKFILLS)}",
            source="run config",
        )
    _take_over(context, database)
    return SyncRun(
        database.database,
        database.cipher,
        SyncRequest(
            resources=resources,
            job=context.job_name,
            stores=tuple(config.stores),
            tiers=tuple(config.tiers),
            force=config.force,
            batch_size=config.batch_size,
            max_workers=config.max_workers,
            max_minutes=config.max_minutes,
            backfill=config.backfill,
            sample=config.sample,
        ),
        run_id=context.run_id,
        connect=platforms.connect,
        log=context.log.info,
        policies=Policies(load_settings().retry_policies, jobs=tuple(JOBS)),
    ).run(then)


def _take_over(context: dg.OpExecutionContext, database: DatabaseResource) -> None:
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
    if freed:
        context.log.info(f"taken over from a try that died: {freed} resources of stores")


def _tell(context: dg.OpExecutionContext, config: SyncConfig, database: DatabaseResource) -> None:
    """The job works: what kept earlier runs from it is over. Then people are told, at once, of what this run met."""
    did_all = not config.stores and set(config.tiers) == set(TIERS)
    tier = context.get_tag(TIER_TAG) or (None if did_all else reporting.MANUAL)
    try:
        with database.database.transaction() as connection:
            reporting.clear_job(connection, context.job_name, tier)
        alerts.tell(database.database, load_settings())
    except Exception as error:  # noqa: BLE001 (the work is done; the sensor tells it later)
        context.log.warning(f"nobody was told yet: {error_of(error).message}")


def _report(context: dg.OpExecutionContext, summary: Summary) -> None:
    if summary.failures:
        context.log.error(
            f"{summary.done - summary.complete} of {summary.done} stores failed: see `failed` in this run's metadata, or `bg-pipelines status`"
        )
    for resource, done in summary.resources.items():
        if resource is not Resource.AUDIT and (done.synced or done.failed):
            counts = {key: dg.MetadataValue.int(value) for key, value in vars(done.counts).items()}
            context.log_event(dg.AssetMaterialization(asset_key(resource), metadata=counts))
    context.add_output_metadata(_metadata(summary))


def asset_key(resource: Resource) -> dg.AssetKey:
    """The table a resource is kept in, as Dagster's asset."""
    return dg.AssetKey("stores" if resource is Resource.STORE else resource.value)


def _metadata(summary: Summary) -> Mapping[str, dg.MetadataValue]:
    """What failed comes first: the UI folds what is long."""
    metadata: dict[str, dg.MetadataValue] = {
        "stores": dg.MetadataValue.int(summary.done),
        "stores_failed": dg.MetadataValue.int(summary.done - summary.complete),
    }
    if summary.failures:
        metadata["failed"] = _table(
            {
                "store": failure.store,
                "resources": ", ".join(failure.resources),
                "error_type": failure.error.error_type.value,
                "severity": failure.error.severity.value,
                "recoverable": failure.error.recoverable,
                "message": failure.error.message,
            }
            for failure in summary.failures
        )
    if summary.audits:
        metadata["rows_audited"] = dg.MetadataValue.int(sum(found.sampled for found in summary.audits))
        metadata["rows_drifted"] = dg.MetadataValue.int(sum(found.drifted for found in summary.audits))
    if drift := [found for found in summary.audits if found.drifted or found.short]:
        metadata["drift"] = _table(
            {
                **vars(found),
                "fields": ", ".join(f"{name}: {rows}" for name, rows in sorted(found.fields.items())),
                "external_ids": ", ".join(found.external_ids),
            }
            for found in drift
        )
    if summary.corrections_left:
        metadata["corrections_left"] = _table(
            {
                "store": left.store,
                "correction": left.correction_id,
                "status": left.status,
                "message": left.message,
            }
            for left in summary.corrections_left
        )
    if summary.corrections_applied:
        metadata["corrections_applied"] = dg.MetadataValue.int(summary.corrections_applied)
    if summary.changes_left:
        metadata["profile_edits_left"] = _table(
            {
                "store": left.store,
                "edit": left.change_id,
                "customer": left.customer_external_id,
                "field": left.field,
                "status": left.status,
                "message": left.message,
            }
            for left in summary.changes_left
        )
    if summary.changes_applied:
        metadata["profile_edits_applied"] = dg.MetadataValue.int(summary.changes_applied)
    rejected = sum(done.counts.rejected for done in summary.resources.values())
    metadata |= {
        "rows_read": dg.MetadataValue.int(summary.rows),
        "rows_changed": dg.MetadataValue.int(summary.changed),
        "rows_rejected": dg.MetadataValue.int(rejected),
        "seconds": dg.MetadataValue.float(round(summary.seconds, 2)),
        "resources": _table(
            {
                "resource": resource.value,
                "stores": done.synced,
                "failed": done.failed,
                "waiting": done.waiting,
                "pages": done.pages,
                **vars(done.counts),
            }
            for resource, done in summary.resources.items()
        ),
    }
    return metadata


def _table(rows: Iterable[Mapping[str, str | int | bool]]) -> dg.MetadataValue:
    return dg.MetadataValue.table([dg.TableRecord(dict(row)) for row in rows])
