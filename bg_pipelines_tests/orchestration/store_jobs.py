"""The product's code location with the jobs of stores alone: a daemon that is being killed has the two cores for them."""

import dagster as dg

from bg_pipelines import definitions
from bg_pipelines.jobs import inventory_sync, store_sync
from bg_pipelines.orchestration.failures import deliver_alerts, run_failures

JOBS = (store_sync, inventory_sync)

defs = dg.Definitions(
    jobs=[store_sync.store_sync, inventory_sync.inventory_sync],
    schedules=[schedule for job in JOBS for schedule in job.schedules],
    sensors=[*(sensor for job in JOBS for sensor in job.sensors), run_failures, deliver_alerts],
    resources=definitions.defs.resources,
    executor=definitions.defs.executor,
)
