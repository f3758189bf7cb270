"""Drift Audit: once a day, a sample of each store's rows compared with its platform, field by field, and repaired.

    dagster job execute -m bg_pipelines.definitions -j drift_audit

What is looked at, and what counts as drift, stands in docs/audit.md. An interruption costs nothing: what was repaired
stays so, and the next run audits the store from its first resource on.
"""

import dagster as dg

from bg_pipelines.orchestration.failures import report_op_failure
from bg_pipelines.orchestration.resources import DatabaseResource, PlatformsResource
from bg_pipelines.orchestration.sync_job import SyncConfig, sync
from bg_pipelines.orchestration.ticks import retries_sensor, tier_schedules
from bg_pipelines.queues import JOB_RESOURCES, JOBS

RESOURCES = JOB_RESOURCES["drift_audit"]


@dg.op(out=dg.Out(dg.Nothing))
def audit_stores(
    context: dg.OpExecutionContext,
    config: SyncConfig,
    database: DatabaseResource,
    platforms: PlatformsResource,
) -> None:
    """Compare a sample of every store that is due with its platform, repair what has drifted, and report it."""
    sync(context, config, database, platforms, RESOURCES)


@dg.job(tags=JOBS["drift_audit"].tags("drift_audit"), hooks={report_op_failure})
def drift_audit() -> None:
    """A sample of each store's rows, compared with its platform field by field, and repaired."""
    audit_stores()


schedules = tier_schedules(drift_audit, RESOURCES)
sensors = [retries_sensor(drift_audit, RESOURCES)]
