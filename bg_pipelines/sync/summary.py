"""The request for a sync, and the summary of what it did."""

from __future__ import annotations

from dataclasses import dataclass, field

from bg_pipelines.database.load import Counts
from bg_pipelines.errors import IntegrationError
from bg_pipelines.queues import TIERS, Unit


@dataclass(frozen=True)
class Limits:
    """Limits of a sync.

    `load_rows` are committed together: enough to make COPY worth it, few enough to lose little and hold little in
    memory; of an incremental pass `changed_load_rows`, for these are mostly so few that they would all be fetched before
    the first was loaded. Up to `asked_anyway` rows that a full pass did not list are asked for by id, even where the
    source's count agrees. A table of more than `large_rows` is not read whole twice in an hour because counts differ.
    `edits_together` customers are read in one call before their edits are sent one by one: what was read should not be
    old when it is written over.
    """

    load_rows: int = 5_000
    changed_load_rows: int = 1_000
    asked_anyway: int = 1_000
    large_rows: int = 5_000
    edits_together: int = 25


BACKFILLS: dict[str, bool | None] = {"auto": None, "bulk": True, "pages": False}
"""How a full pass may read, as passed to `Platform.pages`."""


@dataclass(frozen=True)
class SyncRequest:
    """The request for a run.

    `job` names it in what is recorded. `stores` are names, due now; empty means all due stores of these `tiers`.
    `force` makes all of them due and reads everything, not only changes. `batch_size` is how many rows of work a claim
    takes, `max_workers` how many stores are worked on at once. What is unfinished after `max_minutes` is released at
    the page reached, for the next run. `backfill` is how a full pass reads its rows where the platform can export them
    all at once: "bulk", "pages", or as their number suggests. `sample` is how many rows of each resource an audit
    looks at.
    """

    units: tuple[Unit, ...]
    job: str = "sync"
    stores: tuple[str, ...] = ()
    tiers: tuple[int, ...] = tuple(TIERS)
    force: bool = False
    batch_size: int = 50
    max_workers: int = 8
    max_minutes: float = 14  # a run ends before the third tick after it began, which finds its place free
    backfill: str = "auto"
    sample: int = 50


@dataclass
class UnitSummary:
    """What a run did for one unit, over all stores; `waiting` counts those whose platform is not ready yet."""

    synced: int = 0
    failed: int = 0
    waiting: int = 0
    pages: int = 0
    counts: Counts = field(default_factory=Counts)


@dataclass
class Failure:
    """Units of a store that could not be synced for one reason; `next` says what happens to them."""

    store: str
    units: list[str]
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
class ChangeReport:
    """An edit of a customer's profile that was not applied; says whose and which field, never a value."""

    store: str
    change_id: int
    customer_external_id: str
    field: str
    status: str
    message: str


@dataclass
class ResourceAudit:
    """What an audit found of one resource of a store: rows, by what is wrong with them; ids and columns, no values.

    `different` have another content here, `missing` are not held, `ahead` are held with a later time than the source
    has, `gone` are held and no more there; of all these `repaired` are as at the source now. `lag` are not synced yet,
    which is no drift. `short` is by how many rows the source has more, where that has outlasted a pass: everything is
    then read again. `fields` counts the rows in which a column differs, `external_ids` are the first that drifted.
    """

    store: str
    resource: str
    sampled: int = 0
    different: int = 0
    missing: int = 0
    ahead: int = 0
    gone: int = 0
    lag: int = 0
    short: int = 0
    repaired: int = 0
    fields: dict[str, int] = field(default_factory=dict)
    external_ids: list[str] = field(default_factory=list)

    @property
    def drifted(self) -> int:
        return self.different + self.missing + self.ahead + self.gone

    @property
    def left(self) -> int:
        """Rows that could not be repaired."""
        return self.drifted - self.repaired

    @property
    def alarming(self) -> bool:
        """Whether it is an incident. Rows deleted at the source alone are not: no platform reports every deletion, so
        many are only found by the next full pass."""
        return self.different + self.missing + self.ahead + self.short + self.left > 0

    def sentence(self) -> str:
        """What was found, in words."""
        kinds = [
            (self.different, "differ"),
            (self.missing, "are missing here"),
            (self.ahead, "have a later time here"),
            (self.gone, "are deleted there"),
        ]
        findings = [f"{number} {what}" for number, what in kinds if number]
        if self.fields:
            findings[-1:] = [f"{findings[-1]} ({', '.join(sorted(self.fields))})"]
        if self.drifted:
            findings.append("all repaired" if not self.left else f"{self.left} of them could not be repaired")
        if self.short:
            findings.append(f"{self.short} more at the source than here, a full pass follows")
        return (
            f"{self.resource}: of {self.sampled} sampled rows {'; '.join(findings) or 'all match the source'}"
        )


@dataclass
class Summary:
    """What a run did. `total`, `done` and `complete` count stores; `given_back` those whose turn was over unfinished.

    `idle` is why there was nothing to do for any store.
    """

    idle: str | None = None
    total: int = 0
    done: int = 0
    complete: int = 0
    given_back: int = 0
    units: dict[Unit, UnitSummary] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    audits: list[ResourceAudit] = field(default_factory=list)
    corrections_applied: int = 0
    corrections_left: list[CorrectionReport] = field(default_factory=list)
    changes_applied: int = 0
    changes_left: list[ChangeReport] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def rows(self) -> int:
        return sum(summary.counts.read for summary in self.units.values())

    @property
    def changed(self) -> int:
        """Rows inserted, updated or marked deleted."""
        return sum(s.counts.inserted + s.counts.updated + s.counts.deleted for s in self.units.values())
