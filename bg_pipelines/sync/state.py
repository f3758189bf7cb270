"""The state of a table's sync: where the last pass ended, the progress of the current one, and what counts have shown.

It is stored as JSON in the unit's `cursor`, in the transaction of the rows it covers, and read and written only here.

    since         where the next incremental pass begins, by the vendor's clock
    current       the current pass; None between passes
    unlisted      how many rows the platform counts but does not list, as two full passes have shown
    awaited       how many rows should be stored by the next pass, if fewer are: the platform's search may lag
    agreed        how many rows the source counted when as many as expected were stored
    searched_for  how many rows a full pass is made for, which were counted and not held
    failed_exports  how often in a row the platform failed at an export: then all is listed, page by page
    seen          what the last pass found: a digest, where it was one page without rows, or of all the rows there are
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from hashlib import blake2b
from typing import Any, NamedTuple

from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.records import Page, StoreProfile
from bg_pipelines.sync.proof import Sum

VERSION = 2
FULL_PASS_EVERY = timedelta(days=1)
"""How often everything is read again, so that deletions at the source are noticed whatever happened."""
CUTOFF = timedelta(minutes=10)
"""What changed later than so long before a pass is volatile: the platform's search may still show what it was."""

_WHOLE = "full_pass"
"""The key of a full pass. Under `current` an older program would go on with it, and not know what it has confirmed."""
# What version 1 called them, which had no number.
_FIRST = {
    "unlisted": "gap",
    "awaited": "missing",
    "agreed": "even",
    "searched_for": "sought",
    "current": "pass",
}


@dataclass(frozen=True, slots=True)
class PassState:
    """The current pass: what was read and stored so far. Times are the database's, except `vendor_began_at`.

    `into_empty`: the table held no row of the store when the pass began. `listed`: all pages were kept, what follows
    is the end of a full pass. `gone` counts rows that the source said are deleted, `moved` tells whether rows came or
    went here. `source_count` and `last_count` are how many rows the source had at the first and at the last page,
    `listed_since` how old the oldest rows are that it lists. `sums` are of what a full pass has read, by table.
    `backfill` is how a person wanted it read. `waits` counts how often the platform was not ready yet. `commits` are the
    times of the transactions that kept what a full pass has read: its rows are stamped with them.
    """

    full: bool
    began_at: datetime
    into_empty: bool = False
    backfill: str | None = None
    vendor_began_at: datetime | None = None
    resume: str | None = None
    listed: bool = False
    read: int = 0
    gone: int = 0
    moved: bool = False
    source_count: int | None = None
    last_count: int | None = None
    listed_since: datetime | None = None
    waits: int = 0
    sums: Mapping[str, Sum] = field(default_factory=dict)
    commits: tuple[datetime, ...] = ()

    @property
    def cutoff(self) -> datetime:
        """What changed at the source since then is volatile: it is counted and not summed."""
        assert self.vendor_began_at is not None
        return self.vendor_began_at.replace(microsecond=0) - CUTOFF

    @property
    def least_count(self) -> int | None:
        """How many rows the source has had all the while; what came meanwhile may not be listed yet."""
        return min((n for n in (self.source_count, self.last_count) if n is not None), default=None)

    @classmethod
    def parse(cls, kept: Mapping[str, Any]) -> PassState:
        began_at = datetime.fromisoformat(kept["began_at"])
        return cls(
            full=kept["full"],
            began_at=began_at,
            into_empty=kept["into_empty"],
            backfill=kept.get("backfill"),
            vendor_began_at=_moment(kept["vendor_began_at"]),
            resume=kept["resume"],
            listed=kept["listed"],
            read=kept["read"],
            gone=kept["gone"],
            moved=kept["moved"],
            source_count=kept["source_count"],
            last_count=kept["last_count"],
            listed_since=_moment(kept["listed_since"]),
            waits=kept.get("waits", 0),
            sums={table: Sum(*summed) for table, summed in kept["sums"].items()},
            commits=tuple(began_at + timedelta(microseconds=after) for after in kept.get("commits", ())),
        )

    def dump(self) -> dict[str, Any]:
        return {
            "full": self.full,
            "began_at": self.began_at.isoformat(),
            "into_empty": self.into_empty,
            "backfill": self.backfill,
            "vendor_began_at": _text(self.vendor_began_at),
            "resume": self.resume,
            "listed": self.listed,
            "read": self.read,
            "gone": self.gone,
            "moved": self.moved,
            "source_count": self.source_count,
            "last_count": self.last_count,
            "listed_since": _text(self.listed_since),
            "waits": self.waits,
            "sums": {table: list(summed) for table, summed in self.sums.items()},
            "commits": [(at - self.began_at) // timedelta(microseconds=1) for at in self.commits],
        }


@dataclass(frozen=True, slots=True)
class CursorState:
    """The whole state of a table's sync; see the module."""

    since: datetime | None = None
    current: PassState | None = None
    unlisted: int = 0
    awaited: int | None = None
    agreed: int | None = None
    searched_for: int = 0
    failed_exports: int = 0
    seen: str | None = None

    @classmethod
    def parse(cls, kept: Mapping[str, Any]) -> CursorState:
        """From a unit's cursor; an empty one was never synced.

        Raises IntegrationError (configuration) where a newer program wrote it.
        """
        version = kept.get("version", 1)
        if version > VERSION:
            raise IntegrationError.of(
                ErrorType.CONFIGURATION,
                f"a newer bg-pipelines has synced this: its state is of version {version}, this program knows {VERSION}. "
                "Run the newer program everywhere",
                source="database",
            )
        name = {new: old if version == 1 else new for new, old in _FIRST.items()}
        current = kept.get(_WHOLE) or kept.get(name["current"])
        state = cls(
            since=_moment(kept.get("since")),
            current=None if current is None else PassState.parse(current),
            unlisted=kept.get(name["unlisted"], 0),
            awaited=kept.get(name["awaited"]),
            agreed=kept.get(name["agreed"]),
            searched_for=kept.get(name["searched_for"], 0),
            failed_exports=kept.get("failed_exports", 0),
            seen=kept.get("seen"),
        )
        # A full pass of an older program, which has noted otherwise what it has listed.
        return state.without_pass() if _WHOLE not in kept and state.current and state.current.full else state

    def dump(self) -> dict[str, Any]:
        """JSON-ready; what is nothing is left out."""
        kept = {
            "since": _text(self.since),
            _WHOLE if self.current and self.current.full else "current": self.current and self.current.dump(),
            "unlisted": self.unlisted or None,
            "awaited": self.awaited,
            "agreed": self.agreed,
            "searched_for": self.searched_for or None,
            "failed_exports": self.failed_exports or None,
            "seen": self.seen,
        }
        kept = {name: value for name, value in kept.items() if value is not None}
        return {"version": VERSION, **kept} if kept else {}

    def settled(self, since: datetime) -> CursorState:
        """No pass is left, and the next begins there."""
        return replace(self, current=None, since=since, failed_exports=0)

    def without_pass(self) -> CursorState:
        """The current pass starts again; a full pass stays one."""
        if self.current is None:
            return self
        return replace(self, current=None, since=None if self.current.full else self.since)


def full_pass_due(last_full_at: datetime | None, now: datetime) -> bool:
    """Whether it is time for a full pass. `now` by the database's clock, as `last_full_at` is."""
    return last_full_at is None or now - last_full_at >= FULL_PASS_EVERY


def digest(found: Page | StoreProfile) -> str | None:
    """Of what a page or a profile holds: the same means that nothing has changed. None where that cannot be told: a page that
    is one of several, or lists some of the rows, or has rows that cannot be loaded."""
    if isinstance(found, Page):
        if found.resume is not None or found.rejects or (found.read and not found.lists_all):
            return None
        found_rows: Any = (found.records, found.gone)
    else:
        found_rows = found
    return blake2b(repr(found_rows).encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


class Comparison(NamedTuple):
    """What comparing counts has shown: the new state, whether a full pass is needed, and how many rows are unlisted
    where these are more than were known."""

    state: CursorState
    needs_full: bool = False
    newly_unlisted: int = 0


def is_worth_counting(state: CursorState) -> bool:
    """Whether the rows that are held must be counted: there may be millions.

    Not where the source does not say how many it has, nor where nothing came or went on either side.
    """
    current = state.current
    assert current is not None
    if current.last_count is None:
        return False
    return current.full or current.moved or state.agreed != current.last_count


def compare_counts(state: CursorState, held: int, *, may_read_whole: bool = True) -> Comparison:
    """Compare how many rows the source has with how many are held, at the end of the pass `state.current`.

    Fewer there than here means that something was deleted: a full pass finds out what, if it `may_read_whole` so
    soon. More there than here may be rows that its search does not show yet: if some are still not held at the next
    pass, all is read. What two full passes in a row do not find is `unlisted`, and expected from then on.
    """
    current, known, awaited = state.current, state.unlisted, state.awaited
    assert current is not None
    assert current.last_count is not None
    state = replace(state, agreed=None, awaited=None)
    if current.full:
        # Where rows came or went while all was read, the difference that stands lies between these.
        least = (current.least_count or 0) - held
        most = max(current.source_count or 0, current.last_count) - held
        if least > known and awaited is None:
            return Comparison(replace(state, searched_for=0, awaited=held + least - known))
        unlisted = min(most, max(known, least, state.searched_for))
        learnt = unlisted if unlisted > known else 0
        return Comparison(replace(state, searched_for=0, unlisted=unlisted), newly_unlisted=learnt)
    there = current.last_count - known
    if there == held:
        return Comparison(replace(state, agreed=current.last_count))
    if there > held and (awaited is None or held >= min(awaited, there)):
        return Comparison(replace(state, awaited=there))
    if there > held:
        state = replace(state, awaited=awaited, searched_for=current.last_count - held)
    return Comparison(state, needs_full=may_read_whole)


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
