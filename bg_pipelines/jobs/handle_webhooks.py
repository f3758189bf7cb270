"""Handle Webhooks: drain the inbox (docs/webhooks.md): fetch and load what events told of, apply carts, obey commands.

    dagster job execute -m bg_pipelines.definitions -j handle_webhooks

Without config it handles what is due and ends. The sensor starts it as soon as something is, and has it stay warm for a
minute after the last event. What an interruption costs: nothing; an event is settled with what it caused, or still due.
"""

# No `from __future__ import annotations`: Dagster reads those of an op as they are.
import dagster as dg
from pydantic import Field

from bg_pipelines.messaging.desk import answer_rules_of
from bg_pipelines.orchestration.failures import as_dagster_failures, report_op_failure
from bg_pipelines.orchestration.launchpad import RunConfig, shown
from bg_pipelines.orchestration.reports import report_handling
from bg_pipelines.orchestration.resources import DatabaseResource, PlatformsResource
from bg_pipelines.orchestration.sync_job import take_over, tell
from bg_pipelines.orchestration.ticks import INBOX, another_waits, work_sensor
from bg_pipelines.queues import JOBS
from bg_pipelines.retries import Policies
from bg_pipelines.settings import load_settings
from bg_pipelines.webhooks.events import is_due
from bg_pipelines.webhooks.handling import JOB, LOOK_SECONDS, HandlingRequest, HandlingRun
from bg_pipelines.work.runner import Warmth

WARM_SECONDS = 60.0


class HandlingConfig(RunConfig):
    """Run config. With none, the run handles what is due and ends."""

    max_workers: int = Field(
        default=8, ge=1, le=64, description="how many stores to work on at once, 1 to 64"
    )
    max_minutes: float = Field(
        default=15, gt=0, le=25, description="0 to 25: what is left by then is the next run's"
    )
    warm_seconds: float = Field(
        default=0,
        ge=0,
        le=3600,
        description="0 to 3600: how long to stay after the last event, for the next; it ends sooner if another run is queued",
    )


@dg.op(description="Events of the inbox, store by store.", out=dg.Out(dg.Nothing))
def handle_events(
    context: dg.OpExecutionContext,
    config: HandlingConfig,
    database: DatabaseResource,
    platforms: PlatformsResource,
) -> None:
    with as_dagster_failures(context):
        settings = load_settings()
        take_over(context, database)
        summary = HandlingRun(
            database.database,
            database.cipher,
            HandlingRequest(config.max_workers, config.max_minutes, config.warm_seconds, context.job_name),
            run_id=context.run_id,
            home=settings.home,
            connect=platforms.connect,
            log=context.log.info,
            warmth=Warmth(config.warm_seconds, LOOK_SECONDS, another_waits(context.instance)),
            policies=Policies(settings.retry_policies, jobs=tuple(JOBS)),
            texts=answer_rules_of(settings),
        ).run()
        report_handling(context, summary)
    tell(context, database, None)


@dg.job(
    name=JOB,
    description="What webhook events tell of, fetched and loaded within seconds.",
    tags=JOBS[JOB].tags(JOB),
    hooks={report_op_failure},
    config=shown("handle_events", HandlingConfig()),
)
def handle_webhooks() -> None:
    handle_events()


sensors = [
    work_sensor(
        handle_webhooks,
        INBOX,
        is_due,
        "webhook events",
        {"ops": {"handle_events": {"config": {"warm_seconds": WARM_SECONDS}}}},
    )
]
