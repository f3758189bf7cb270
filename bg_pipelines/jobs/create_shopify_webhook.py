"""Create Shopify Webhook: the webhook subscriptions of each store, kept as declared (webhooks/topics.py), hourly.

    dagster job execute -m bg_pipelines.definitions -j create_shopify_webhook

Shopify's and Square's. Without BG_PUBLIC_URL there are no webhooks, and nothing to do. What an interruption costs:
nothing; the next run finds what was made and makes no second one.
"""

from collections.abc import Mapping
from functools import partial

from bg_pipelines.orchestration.sync_job import sync_job
from bg_pipelines.queues import Unit
from bg_pipelines.settings import Settings
from bg_pipelines.sync.units import Process
from bg_pipelines.webhooks.subscriptions import keep_subscriptions


def processes(settings: Settings) -> Mapping[Unit, Process]:
    by_hand = ("square",) if settings.square_webhook_key else ()
    keep = partial(keep_subscriptions, public_url=settings.public_url or "", by_hand=by_hand)
    return {Unit.WEBHOOKS: keep}


def idle(settings: Settings) -> str | None:
    if settings.public_url:
        return None
    return "BG_PUBLIC_URL is not set, so there are no webhooks (docs/webhooks.md)"


create_shopify_webhook, schedules, sensors = sync_job(
    "create_shopify_webhook",
    op="keep_subscriptions",
    description="The webhook subscriptions of each store, kept as declared.",
    processes=processes,
    idle=idle,
)
