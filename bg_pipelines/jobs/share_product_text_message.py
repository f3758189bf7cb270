"""Share Product Text Message: send the text messages that are due, each once (docs/text-messages.md).

    dagster job execute -m bg_pipelines.definitions -j share_product_text_message

Without config it sends what is due and ends. The sensor starts it as soon as something is, and has it stay warm for a
minute after the last message. What an interruption costs: a message under way is looked up at Twilio by the next run.
"""

# No `from __future__ import annotations`: Dagster reads those of an op as they are.
from typing import Any

import dagster as dg
import psycopg
from pydantic import Field

from bg_pipelines.messaging import reminders, twilio
from bg_pipelines.messaging.desk import rules_of
from bg_pipelines.messaging.outbox import JOB, is_due
from bg_pipelines.messaging.pace import of_settings
from bg_pipelines.messaging.sending import LOOK_SECONDS, Sending
from bg_pipelines.orchestration.failures import as_dagster_failures, report_op_failure
from bg_pipelines.orchestration.launchpad import RunConfig, shown
from bg_pipelines.orchestration.reports import report_sent
from bg_pipelines.orchestration.resources import DatabaseResource
from bg_pipelines.orchestration.sync_job import take_over, tell
from bg_pipelines.orchestration.ticks import OUTBOX, another_waits, work_sensor
from bg_pipelines.queues import JOBS
from bg_pipelines.retries import Policies
from bg_pipelines.settings import load_settings
from bg_pipelines.work.runner import Warmth

WARM_SECONDS = 60.0


class SendingConfig(RunConfig):
    """Run config. With none, the run sends what is due and ends."""

    batch_size: int = Field(
        default=50, ge=1, le=1000, description="how many messages to claim at a time, 1 to 1000"
    )
    max_workers: int = Field(default=8, ge=1, le=64, description="how many messages to send at once, 1 to 64")
    max_minutes: float = Field(
        default=15, gt=0, le=25, description="0 to 25: what is left by then is the next run's"
    )
    warm_seconds: float = Field(
        default=0,
        ge=0,
        le=3600,
        description="0 to 3600: how long to stay after the last message, for the next; it ends sooner if another run is queued",
    )


@dg.op(description="Messages of the outbox, each checked last and sent once.", out=dg.Out(dg.Nothing))
def send_text_messages(
    context: dg.OpExecutionContext, config: SendingConfig, database: DatabaseResource
) -> None:
    with as_dagster_failures(context):
        settings = load_settings()
        take_over(context, database)
        sender = twilio.from_settings(settings)
        try:
            sent = Sending(
                database.database,
                sender,
                rules_of(settings),
                of_settings(settings),
                run_id=context.run_id,
                log=context.log.info,
                batch_size=config.batch_size,
                workers=config.max_workers,
                max_minutes=config.max_minutes,
                warmth=Warmth(config.warm_seconds, LOOK_SECONDS, another_waits(context.instance)),
                status_callback=f"{settings.public_url.rstrip('/')}/webhooks/twilio/status"
                if settings.public_url
                else None,
                policies=Policies(settings.retry_policies, jobs=tuple(JOBS)),
            ).run()
        finally:
            sender.close()
        report_sent(context, sent)
    tell(context, database, None)


@dg.job(
    name=JOB,
    description="Product shares and customer alerts by text message: each sent once, with consent, at a decent hour.",
    tags=JOBS[JOB].tags(JOB),
    hooks={report_op_failure},
    config=shown("send_text_messages", SendingConfig()),
)
def share_product_text_message() -> None:
    send_text_messages()


def _is_due(connection: psycopg.Connection[Any]) -> bool:
    return is_due(connection) or (load_settings().text_cart_reminders and reminders.is_due(connection))


sensors = [
    work_sensor(
        share_product_text_message,
        OUTBOX,
        _is_due,
        "text messages",
        {"ops": {"send_text_messages": {"config": {"warm_seconds": WARM_SECONDS}}}},
    )
]
