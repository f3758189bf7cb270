"""Code location of the latency benchmark: a job that does nothing, started by hand, by a sensor and by a schedule."""

from __future__ import annotations

import os
from pathlib import Path

import dagster as dg

from bg_pipelines.queues import JOBS

ASKED = Path(os.environ.get("BENCH_ASKED", "/nonexistent"))
"""A file: the sensor starts a run for its content, which is then a tag of the run."""


@dg.op
def nothing() -> None:
    pass


@dg.job(tags=JOBS["store_sync"].tags("latency", 1))
def latency() -> None:
    nothing()


@dg.sensor(job=latency, minimum_interval_seconds=4, default_status=dg.DefaultSensorStatus.RUNNING)
def asked(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    text = ASKED.read_text() if ASKED.exists() else ""
    if not text or text == context.cursor:
        return dg.SkipReason("nothing was asked for")
    context.update_cursor(text)
    return dg.RunRequest(tags={"asked": text})


every_minute = dg.ScheduleDefinition(
    name="every_minute",
    job=latency,
    cron_schedule="* * * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)

defs = dg.Definitions(
    jobs=[latency], sensors=[asked], schedules=[every_minute], executor=dg.in_process_executor
)
