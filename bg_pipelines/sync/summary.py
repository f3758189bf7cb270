"""What a sync is asked for, and what it did."""

from __future__ import annotations

from dataclasses import dataclass, field

from bg_pipelines.database.load import Counts
from bg_pipelines.errors import IntegrationError
from bg_pipelines.platforms.base import Resource
from bg_pipelines.queues import TIERS


@dataclass(frozen=True)
class SyncRequest:
    """What a run is asked for.

    `job` names it in what is recorded. `stores` are names; empty means all that are due of these `tiers`, and a
    store that is named is due now. `force` makes all of them due and reads them whole, not only what changed.
    `batch_size` is how many rows of work a claim takes, `max_workers` how many stores are worked on at once. What is
    unfinished after `max_minutes` is given back at the page reached, for the next run.
    """

    resources: tuple[Resource, ...]
    job: str = "sync"
    stores: tuple[str, ...] = ()
    tiers: tuple[int, ...] = tuple(TIERS)
    force: bool = False
    batch_size: int = 50
    max_workers: int = 8
    max_minutes: float = 15


@dataclass
class ResourceSummary:
    """What a run did for one resource, over all stores."""

    synced: int = 0
    failed: int = 0
    pages: int = 0
    counts: Counts = field(default_factory=Counts)


@dataclass
class Failure:
    """Resources of a store that could not be synced for one reason; `next` says what happens to them."""

    store: str
    resources: list[str]
    error: IntegrationError
    next: str = ""


@dataclass
class CorrectionReport:
    """A stock correction that was not applied."""

    store: str
    correction_id: int
    status: str
    message: str


@dataclass
class Summary:
    """What a run did. `total`, `done` and `complete` count stores; `given_back` those whose turn was over unfinished."""

    total: int = 0
    done: int = 0
    complete: int = 0
    given_back: int = 0
    resources: dict[Resource, ResourceSummary] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    corrections_applied: int = 0
    corrections_left: list[CorrectionReport] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def rows(self) -> int:
        return sum(summary.counts.read for summary in self.resources.values())

    @property
    def changed(self) -> int:
        """Rows inserted, updated or marked deleted."""
        return sum(s.counts.inserted + s.counts.updated + s.counts.deleted for s in self.resources.values())
