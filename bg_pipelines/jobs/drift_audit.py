"""Drift Audit: once a day, a sample of each store's rows compared with its platform, field by field, and repaired.

    dagster job execute -m bg_pipelines.definitions -j drift_audit

docs/audit.md says what is compared and what counts as drift. An interruption costs nothing: repairs are kept, and the
next run continues with the store's next table.
"""

from bg_pipelines.orchestration.sync_job import AuditConfig, sync_job

drift_audit, schedules, sensors = sync_job(
    "drift_audit",
    op="audit_stores",
    description="A sample of each store's rows, compared with its platform field by field, and repaired.",
    config=AuditConfig,
)
