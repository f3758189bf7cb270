"""What one writes first: a Dagster run for each store. Its work is the product's own visit.

`NAIVE_JOB` names the job whose units are visited, `NAIVE_STORES` the stores, with spaces between.
"""

# No `from __future__ import annotations`: Dagster reads those of an op as they are.
import os
from collections.abc import Iterator

import dagster as dg

from benchmarks.harness.store import visit


class VisitConfig(dg.Config):
    job: str
    store: str


@dg.op
def visit_store(config: VisitConfig) -> None:
    visit(os.environ["BG_DATABASE_URL"], config.job, config.store)


@dg.job(executor_def=dg.in_process_executor)
def one_store() -> None:
    visit_store()


@dg.sensor(job=one_store, default_status=dg.DefaultSensorStatus.RUNNING, minimum_interval_seconds=5)
def stores() -> Iterator[dg.RunRequest]:
    for store in os.environ["NAIVE_STORES"].split():
        config = {"ops": {"visit_store": {"config": {"job": os.environ["NAIVE_JOB"], "store": store}}}}
        yield dg.RunRequest(run_key=store, run_config=config)


defs = dg.Definitions(jobs=[one_store], sensors=[stores])
