"""A code location whose runs do nothing but hold their place in the queue until a test lets them go."""

import os
import time

import dagster as dg
import psycopg

from bg_pipelines.queues import DEFAULT, JOBS, Job

DEFAULTS = {name: Job(DEFAULT, {}) for name in ("errand", "chore")}
"""Jobs of the other queue without a limit of their own, which those of the product there have."""


@dg.op
def hold(context: dg.OpExecutionContext) -> None:
    url = os.environ["BG_DATABASE_URL"].replace("+psycopg", "")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO held (run_id, job, queue, tier) VALUES (%s, %s, %s, %s)",
            (context.run_id, context.job_name, context.run.tags["queue"], context.run.tags.get("tier")),
        )
        while not connection.execute(
            "SELECT 1 FROM held WHERE run_id = %s AND let_go", (context.run_id,)
        ).fetchone():
            time.sleep(0.2)


def _holding(name: str, tags: dict[str, str]) -> dg.JobDefinition:
    @dg.job(name=name, tags=tags)
    def holding() -> None:
        hold()

    return holding


defs = dg.Definitions(
    jobs=[_holding(name, job.tags(name)) for name, job in {**JOBS, **DEFAULTS}.items()],
    executor=dg.in_process_executor,
)
