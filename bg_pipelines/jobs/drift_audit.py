"""Drift Audit: once a day, a sample of each store's rows compared with its platform, field by field, and repaired.

    dagster job execute -m bg_pipelines.definitions -j drift_audit

What is looked at, and what counts as drift, stands in docs/audit.md. An interruption costs nothing: what was repaired
stays so, and the next run audits the store from its first resource on.
"""

from bg_pipelines.orchestration.sync_job import AuditConfig, sync_job

drift_audit, schedules, sensors = sync_job(
    "drift_audit",
    op="audit_stores",
    description="A sample of each store's rows, compared with its platform field by field, and repaired.",
    config=AuditConfig,
)
