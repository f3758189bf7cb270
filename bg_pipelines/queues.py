"""Queue, priority, limits, tiers, cron and units of work of every job: one table.

Run tags and schedules are made from it; a test holds the limits in `dagster.yaml` to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from hashlib import blake2b
from typing import NamedTuple

from bg_pipelines.records import Resource

TICK = timedelta(minutes=5)
"""How often a tier's schedule looks for work that is due."""

TIERS: dict[int, timedelta] = {
    1: timedelta(minutes=5),
    2: timedelta(minutes=15),
    3: timedelta(minutes=60),
}
"""How often a store of each tier is due: whole ticks."""

AUDIT_EVERY = timedelta(days=1)
"""How often a store is audited, whatever its tier: the stores are spread over the day."""

SUBSCRIPTIONS_EVERY = timedelta(hours=1)
"""How often a store's webhook subscriptions are looked at, whatever its tier: all at the hour, by one run a tier."""

HEALTHY_FACTOR = 1
"""By how much less often a table is read whose changes webhooks have told of for a day, every one (docs/webhooks.md):
4 makes of five minutes twenty. 1: never less often."""

EARLY = timedelta(seconds=30)
"""A store is due between this and half of it before the tick that takes it, so that clocks that differ by less never miss
it."""


class Queue(NamedTuple):
    """Runs of one urgency. Higher `priority` is served first; `max_concurrent_runs` leaves the other queue a slot."""

    name: str
    priority: int
    max_concurrent_runs: int


STORES_SYNC = Queue("stores_sync", priority=10, max_concurrent_runs=4)
DEFAULT = Queue("default", priority=0, max_concurrent_runs=3)
QUEUES = (STORES_SYNC, DEFAULT)

MAX_CONCURRENT_RUNS = sum(queue.max_concurrent_runs for queue in QUEUES)
"""Runs at once, of all jobs: `concurrency.runs.max_concurrent_runs` in dagster.yaml. Each queue has slots of its own, so
neither ever waits for the other."""

FIRST_TIER, LOWER_TIERS = "first_tier", "lower_tiers"
STORES_SYNC_GROUPS = {FIRST_TIER: 2, LOWER_TIERS: 2}
"""Runs at once of each concurrency group of `stores_sync`: the first tier has a slot for each job of that queue, which no
other tier can hold."""

CONCURRENCY_GROUP_TAG = "concurrency_group"


class Job(NamedTuple):
    """A job's queue, and its schedules.

    `crons` are its schedules by name (a tier's: "tier_1"); times are UTC. `max_concurrent_runs` is of a job of `default`,
    each of which is a concurrency group; of `stores_sync` the tiers are.
    """

    queue: Queue
    crons: Mapping[str, str]
    max_concurrent_runs: int | None = None

    def tags(self, name: str, tier: int | None = None) -> dict[str, str]:
        """The tags of the job of this name, or of its runs for a tier: the daemon's queue goes by them."""
        group = name
        if self.queue is STORES_SYNC:
            group = FIRST_TIER if tier == min(TIERS) else LOWER_TIERS
        return {
            "queue": self.queue.name,
            CONCURRENCY_GROUP_TAG: group,
            # Tier 1 goes before others of its queue, tier 3 behind them, for it may wait for an hour; a run for no tier
            # stands with tier 2.
            "dagster/priority": str(self.queue.priority + (0 if tier is None else 2 - tier)),
            # A run that died is retried from the start; Dagster's default finds nothing to do where only its end was
            # missing.
            "dagster/retry_strategy": "ALL_STEPS",
        }


_EVERY_TICK = {f"tier_{tier}": f"*/{TICK.seconds // 60} * * * *" for tier in TIERS}
_EVERY_HOUR = {f"tier_{tier}": "0 * * * *" for tier in TIERS}

JOBS: dict[str, Job] = {
    "store_sync": Job(STORES_SYNC, _EVERY_TICK),
    "inventory_sync": Job(STORES_SYNC, _EVERY_TICK),
    "customer_sync": Job(DEFAULT, _EVERY_TICK, max_concurrent_runs=2),
    "drift_audit": Job(DEFAULT, _EVERY_HOUR, max_concurrent_runs=1),
    "create_shopify_webhook": Job(DEFAULT, _EVERY_HOUR, max_concurrent_runs=1),
    "handle_webhooks": Job(DEFAULT, {}, max_concurrent_runs=1),
    # One at a time: a run keeps the rate of the sender and the limit of the day.
    "share_product_text_message": Job(DEFAULT, {}, max_concurrent_runs=1),
    "clean_active_carts": Job(DEFAULT, {"cron": "*/15 * * * *"}, max_concurrent_runs=1),
    "clean_database": Job(DEFAULT, {"cron": "17 * * * *"}, max_concurrent_runs=1),
}


def next_turn(after: datetime, interval: timedelta, store_id: int) -> datetime:
    """When a store that was served at `after` is due again: just before one of its ticks.

    The stores of an interval are spread over its ticks by a hash of their id, for ids may follow the tiers (every third
    store is of tier 1), and a store keeps its ticks however late it was served: being late once delays nothing that
    follows. Of longer intervals a tick that is near, less than half of what the interval has beyond `TICK`, is skipped; of
    the shortest none is, for a round of many stores serves the last of them shortly before the next tick. Who was served
    earlier is due earlier, by seconds, so that each has the same place in the next round: else one that a slow round served
    last, after its next turn had begun, would wait for the one after that and be its last again.
    """
    spread = int.from_bytes(blake2b(str(store_id).encode(), digest_size=8).digest())
    phase = TICK * (spread % (interval // TICK)) - EARLY
    epoch = datetime(1970, 1, 1, tzinfo=UTC) + phase
    turns, served_at = divmod(after + (interval - TICK) / 2 - epoch, interval)
    return epoch + (turns + 1) * interval + EARLY / 2 * (served_at / interval)


def next_hour(after: datetime) -> datetime:
    """When what is done at each full hour (UTC) is due again, after `after`: just before the schedules of that hour."""
    hour = (after.astimezone(UTC) + EARLY).replace(minute=0, second=0, microsecond=0)
    return hour + SUBSCRIPTIONS_EVERY - EARLY


class Unit(StrEnum):
    """The units of a store's work, as `sync_states.resource` names them.

    `STORE` syncs its profile, `AUDIT` is the drift audit, `WEBHOOKS` keeps its webhook subscriptions; each other one
    syncs the resource of its name.
    """

    STORE = "store"
    LOCATIONS = "locations"
    PRODUCTS = "products"
    PRODUCT_VARIANTS = "product_variants"
    INVENTORY_LEVELS = "inventory_levels"
    CUSTOMERS = "customers"
    ORDERS = "orders"
    AUDIT = "audit"
    WEBHOOKS = "webhooks"

    @property
    def resource(self) -> Resource | None:
        """The resource that it syncs, if it syncs one."""
        return next((resource for resource in Resource if resource.value == self.value), None)


JOB_UNITS: dict[str, tuple[Unit, ...]] = {
    # The profile first: a store that cannot be reached shows in the cheapest call.
    "store_sync": (Unit.STORE, Unit.LOCATIONS, Unit.PRODUCTS, Unit.PRODUCT_VARIANTS),
    "inventory_sync": (Unit.INVENTORY_LEVELS,),
    "customer_sync": (Unit.CUSTOMERS, Unit.ORDERS),
    "drift_audit": (Unit.AUDIT,),
    "create_shopify_webhook": (Unit.WEBHOOKS,),
}
"""The units of a store that each job works on, in this order."""

OWN_INTERVALS: dict[Unit, timedelta] = {Unit.AUDIT: AUDIT_EVERY, Unit.WEBHOOKS: SUBSCRIPTIONS_EVERY}
"""Units that are due as often as this, whatever their store's tier or its own interval."""
