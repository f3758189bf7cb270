"""What the receiver counts, for Prometheus: of all its worker processes together, whichever of them is asked.

With it go all other figures (`operations.prometheus`), so that one address has everything.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from bg_pipelines.database.link import Link
from bg_pipelines.errors import IntegrationError
from bg_pipelines.webhooks.topics import TOPICS

SHARED_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""The variable of prometheus-client that names the folder where several processes count together."""
OTHER = "other"
LATER_SECONDS = 0.5
KEPT_SECONDS = 10.0
"""All figures are read once in so long, however many ask for them."""
READ_SECONDS = 8.0
"""Within what Prometheus waits for an answer, which is ten seconds unless told otherwise."""
_TOPICS = {
    **{source: frozenset(topics) for source, topics in TOPICS.items()},
    "twilio": frozenset({"status", "inbound"}),
}
_PENDING = """
SELECT source, count(*), extract(epoch FROM clock_timestamp() - min(received_at))::float8
FROM webhook_events WHERE status = 'pending' GROUP BY source
"""


def forget_process(process_id: int, folder: str) -> None:
    """What a process that has ended had waiting no longer counts; what it counted does."""
    mark_process_dead(process_id, folder)  # type: ignore[no-untyped-call]


class Metrics:
    """`link` is asked for the inbox's figures; `figures` reads all others, as text, in a thread."""

    def __init__(self, link: Link, figures: Callable[[], str] | None = None) -> None:
        self._link = link
        self._figures = figures
        self._read_at = -KEPT_SECONDS
        self._read = ""
        self._reading = asyncio.Lock()
        self.registry = CollectorRegistry()
        self._received = Counter(
            "bg_pipelines_webhooks_received",
            "Deliveries by how they were answered.",
            ("source", "topic", "outcome"),
            registry=self.registry,
        )
        self._rows = Histogram(
            "bg_pipelines_webhooks_statement_rows",
            "Rows that were stored with one commit.",
            buckets=(1, 2, 5, 10, 25, 50, 100, 250, 500, 1000),
            registry=self.registry,
        )
        self._statement_seconds = Histogram(
            "bg_pipelines_webhooks_statement_seconds",
            "Duration of a statement that stores rows, with its commit.",
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
            registry=self.registry,
        )
        self._duplicates = Counter(
            "bg_pipelines_webhooks_duplicate_rows",
            "Rows of the inbox that were there already.",
            registry=self.registry,
        )
        self._waiting = Gauge(
            "bg_pipelines_webhooks_waiting_rows",
            "Rows that wait to be stored.",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self._counters: dict[tuple[str, str, str], Counter] = {}
        self._answers: dict[tuple[str, str, str], int] = {}

    def note_answer(self, source: str, topic: str, outcome: str) -> None:
        """Counted here, and for all processes a moment later: to count there costs as much as half a delivery."""
        if not self._answers:
            asyncio.get_running_loop().call_later(LATER_SECONDS, self._count_answers)
        key = (source, topic if topic in _TOPICS[source] else OTHER, outcome)
        self._answers[key] = self._answers.get(key, 0) + 1

    def _count_answers(self) -> None:
        answers, self._answers = self._answers, {}
        for key, number in answers.items():
            counter = self._counters.get(key)
            if counter is None:
                counter = self._counters[key] = self._received.labels(*key)
            counter.inc(number)

    def note_insert(self, rows: int, stored: int, seconds: float, still_waiting: int) -> None:
        self._waiting.set(still_waiting)
        if not rows:
            return  # only asked whether it could
        self._rows.observe(rows)
        self._statement_seconds.observe(seconds)
        if rows > stored:
            self._duplicates.inc(rows - stored)

    async def text(self) -> bytes:
        """Everything as Prometheus text; without the inbox's figures where the database does not answer."""
        self._count_answers()
        registry = self.registry
        if SHARED_FOLDER in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        try:
            rows = (await self._link.execute(_PENDING)).rows
        except IntegrationError:
            rows = []
        text = generate_latest(registry) + generate_latest(_pending(rows))
        return text + (await self._all_figures()).encode() if self._figures else text

    async def _all_figures(self) -> str:
        """As they were a few seconds ago at most; without them where the database does not answer."""
        assert self._figures is not None
        async with self._reading:
            if time.monotonic() - self._read_at >= KEPT_SECONDS:
                try:
                    self._read = await asyncio.wait_for(asyncio.to_thread(self._figures), READ_SECONDS)
                except (IntegrationError, TimeoutError):
                    self._read = ""
                self._read_at = time.monotonic()
            up = GaugeMetricFamily(
                "bg_pipelines_database_up",
                "Whether the figures could be read: 1 or 0.",
                value=bool(self._read),
            )
            return self._read + generate_latest(_Families(up)).decode()


class _Families:
    def __init__(self, *families: Metric) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        yield from self._families


def _pending(rows: list[tuple[Any, ...]]) -> _Families:
    """The inbox, as the database has it."""
    number = GaugeMetricFamily(
        "bg_pipelines_webhooks_pending", "Events that are not handled yet.", labels=("source",)
    )
    oldest = GaugeMetricFamily(
        "bg_pipelines_webhooks_oldest_pending_seconds",
        "How long ago the first of these was received.",
        labels=("source",),
    )
    for source, count, seconds in rows:
        number.add_metric([source], count)
        oldest.add_metric([source], seconds)
    return _Families(number, oldest)
