"""The request for a run that drains the inbox, and the summary of what it did."""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass, field

from bg_pipelines.database.load import Counts

JOB = "handle_webhooks"


@dataclass(frozen=True)
class HandlingRequest:
    """The request for a run.

    `max_workers` is how many stores are worked on at once. It ends once nothing is due, with `warm_seconds` so long after
    that, and after `max_minutes` in any case.
    """

    max_workers: int = 8
    max_minutes: float = 15
    warm_seconds: float = 0
    job: str = JOB


@dataclass
class HandlingSummary:
    """What a run did: events by outcome, rows by table, how many were asked for in how many calls.

    `batches` of how many stores; `seconds_to_row` are what it took from an event's receipt to its row, at p50 and p99.
    """

    events: Counter[str] = field(default_factory=Counter)
    rows: dict[str, Counts] = field(default_factory=dict)
    asked: int = 0
    asks: int = 0
    batches: int = 0
    batches_failed: int = 0
    stores: int = 0
    seconds: float = 0.0
    ages: array[float] = field(default_factory=lambda: array("d"))

    @property
    def changed(self) -> int:
        """Rows inserted, updated or marked deleted."""
        return sum(c.inserted + c.updated + c.deleted for c in self.rows.values())

    def seconds_to_row(self, share: float) -> float | None:
        """So long, or less, it took for this share of the events; None where there was none."""
        ages = sorted(self.ages)
        return ages[min(len(ages) - 1, int(share * len(ages)))] if ages else None
