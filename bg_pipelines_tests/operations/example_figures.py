"""Figures with a line of each kind, as text: every metric that there is, with its labels."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from bg_pipelines.database.link import Link
from bg_pipelines.operations.daemon_figures import Daemon
from bg_pipelines.operations.freshness_figures import Freshness
from bg_pipelines.operations.metrics import (
    AuditMetrics,
    Connections,
    IncidentCount,
    Metrics,
    TableMetrics,
)
from bg_pipelines.operations.prometheus import prometheus_text
from bg_pipelines.operations.run_figures import RunMetrics
from bg_pipelines.operations.work_figures import JobMetrics, QueueMetrics, StoreMetrics
from bg_pipelines.webhooks.metrics import Metrics as ReceiverMetrics
from bg_pipelines.work.rollups import LAGS

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
_NO_LAGS = [0] * (len(LAGS) + 1)
_WORK: dict[str, Any] = {
    "size": 1, "oldest_seconds": 60.0, "running": 1, "retries_waiting": 1, "parked": 1, "parked_seconds": 60.0,
    "behind_seconds": 60.0, "age_seconds": 60.0, "open_incidents": 1,
}  # fmt: skip
_RATES: dict[str, Any] = {"p50_seconds": 1.0, "p95_seconds": 2.0, "success_rate": 1.0}
_QUEUE: dict[str, Any] = {"queue": "stores_sync"}
_JOB: dict[str, Any] = {**_QUEUE, "job": "store_sync"}

FIGURES = Metrics(
    at=NOW,
    freshness=[Freshness("orders", 1, 3, 0, 60.0, 120.0, 5, 1.0, 2.0, _NO_LAGS, _NO_LAGS, 0.0)],
    resources=[],
    queues=[QueueMetrics(**_QUEUE, **_WORK, **_RATES, per_minute=6.0, seconds_to_empty=10.0)],
    jobs=[JobMetrics(**_JOB, **_WORK, **_RATES, stores=3, current=3)],
    stores=[StoreMetrics(**_JOB, **_WORK, store="harbor", platform="shopify", current=False)],
    stores_total=3,
    stores_current=3,
    stores_paused=0,
    tables=[TableMetrics("webhook_events", 1, 60.0, 1, 1, 1)],
    runs=[RunMetrics("store_sync", "stores_sync", 1, 0, 1.0, 2.0, 1.0, 2**27, NOW, 9, 68)],
    connections=Connections(9, 68, 20, 200),
    incidents=[IncidentCount("high", True, 1)],
    circuits={"platform": 0, "store": 0},
    deliveries={"pending": 0},
    corrections={"pending": 0},
    rejected_rows={"orders": 1},
    audits=[AuditMetrics("orders", 50, 0, 0, 0)],
    texts={"pending": 0},
    rows_freed={"clean_database": 1},
    bytes_freed={"clean_database": 1},
)
DAEMON = Daemon(NOW, NOW, [])


class Described(NamedTuple):
    """A metric as it is told: its name (of a counter with `_total`), its type, its labels, and what it means."""

    name: str
    type: str
    labels: tuple[str, ...]
    meaning: str


async def _of_receiver() -> str:
    link = Link(
        {"host": "127.0.0.1", "port": "1"}, seconds=1
    )  # no database: the inbox's figures are named all the same
    metrics = ReceiverMetrics(link, lambda: "")
    metrics.note_answer("shopify", "orders/updated", "stored")
    metrics.note_insert(1, 1, 0.01, 0)
    try:
        return (await metrics.text()).decode()
    finally:
        await link.close()


def all_metrics() -> Mapping[str, list[Described]]:
    """What `/metrics` has: the figures, and what the receiver counts."""
    texts = {
        "figures": prometheus_text(FIGURES, daemon=DAEMON),
        "receiver": asyncio.run(_of_receiver()),
    }
    return {part: described(text) for part, text in texts.items()}


def described(text: str) -> list[Described]:
    found = []
    for family in text_string_to_metric_families(text):
        if family.name.endswith("_created"):
            continue
        labels = {label: None for sample in family.samples for label in sample.labels if label != "le"}
        # What the receiver asks its database for has no sample here.
        known = tuple(labels) or (("source",) if "pending" in family.name else ())
        suffix = "_total" if family.type == "counter" else ""
        found.append(Described(f"{family.name}{suffix}", family.type, known, family.documentation))
    return found
