"""The Dagster edge of a sync: config in, one `SyncRun`, metadata out. The sync jobs differ in their resources."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import dagster as dg
from pydantic import Field

from bg_pipelines.platforms.base import Resource
from bg_pipelines.resources import DatabaseResource, PlatformsResource
from bg_pipelines.sync import Summary, SyncRequest, SyncRun


class SyncConfig(dg.Config):
    """Run config of a sync job. With none, it does all that is due."""

    stores: list[str] = Field(
        default=[], description="names of stores to sync now, due or not; empty: all that are due"
    )
    force: bool = Field(default=False, description="read everything again, not only what changed")
    batch_size: int = Field(default=50, ge=1, le=1000, description="how many rows of work to claim at a time")
    max_workers: int = Field(default=8, ge=1, le=64, description="how many stores to work on at once")


def sync(
    context: dg.OpExecutionContext,
    config: SyncConfig,
    database: DatabaseResource,
    platforms: PlatformsResource,
    resources: tuple[Resource, ...],
) -> Summary:
    """Run one sync; report progress to the run's log and the outcome as metadata and materializations.

    Raises IntegrationError only if the job itself could not work; a store that failed is in the metadata, in
    `sync_attempts`, and is due again.
    """
    summary = SyncRun(
        database.database,
        database.cipher,
        SyncRequest(
            resources=resources,
            stores=tuple(config.stores),
            force=config.force,
            batch_size=config.batch_size,
            max_workers=config.max_workers,
        ),
        run_id=context.run_id,
        connect=platforms.connect,
        log=context.log.info,
    ).run()
    if summary.failures:
        context.log.error(
            f"{summary.done - summary.complete} of {summary.done} stores failed: see `failed` in this run's metadata, or `bg-pipelines status`"
        )
    for resource, done in summary.resources.items():
        if done.synced or done.failed:
            counts = {key: dg.MetadataValue.int(value) for key, value in vars(done.counts).items()}
            context.log_event(dg.AssetMaterialization(asset_key(resource), metadata=counts))
    context.add_output_metadata(_metadata(summary))
    return summary


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
                "pages": done.pages,
                **vars(done.counts),
            }
            for resource, done in summary.resources.items()
        ),
    }
    return metadata


def _table(rows: Iterable[Mapping[str, str | int | bool]]) -> dg.MetadataValue:
    return dg.MetadataValue.table([dg.TableRecord(dict(row)) for row in rows])
