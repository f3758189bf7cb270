"""The platform protocol: what a vendor's client provides to the jobs.

A new platform is one file, with a `Platform` and a `connect` that makes one from a `StoreAccess`, and one line in
`platforms/__init__.py`. Records are named tuples whose fields are the columns of their table (`database/models.py`);
values are as the vendor writes them, PostgreSQL checks them. Times are ISO 8601 texts, money is decimal text with a
currency.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Protocol

from bg_pipelines.records import Page, Resource, StoreProfile


@dataclass(frozen=True)
class StoreAccess:
    """How to reach a store. `credentials` are decrypted; `save_credentials` keeps them when they were renewed.

    `reserve` is the share of the store's rate limit that these calls leave to others. With one they never wait: a call
    that would take of it, or is refused, raises IntegrationError (throttled) at once. `note_budget` is told, with each
    answer that says so, which share of that limit is used up: 0 to 1.
    """

    name: str
    platform: str
    domain: str
    api_url: str | None
    credentials: Mapping[str, Any] = field(repr=False)
    save_credentials: Callable[[Mapping[str, Any]], None] = field(repr=False, default=lambda _: None)
    reserve: float = 0.0
    note_budget: Callable[[float], None] = field(repr=False, default=lambda _: None)

    @property
    def base_url(self) -> str:
        return self.api_url or f"https://{self.domain}"


class Correction(NamedTuple):
    """A stock correction to be written: `available` of an item at a location, from what to what."""

    inventory_item_external_id: str
    location_external_id: str
    change_from_quantity: int
    quantity: int
    reason: str
    idempotency_key: str

    @property
    def level(self) -> tuple[str, str]:
        """The item and the place whose stock it is."""
        return self.inventory_item_external_id, self.location_external_id


class CorrectionOutcome(NamedTuple):
    """`applied`; `stale` with the quantity found there; or `rejected` with the platform's reason."""

    status: str
    found_quantity: int | None = None
    reason: str | None = None


def batches(corrections: Sequence[Correction], most: int) -> Iterator[list[Correction]]:
    """Corrections as calls can take them, in their order: of one reason, and none of a level that is in the call already."""
    batch: list[Correction] = []
    for correction in corrections:
        begins_anew = len(batch) == most or any(
            one.level == correction.level or one.reason != correction.reason for one in batch
        )
        if begins_anew:
            yield batch
            batch = []
        batch.append(correction)
    if batch:
        yield batch


def batch_key(corrections: Sequence[Correction], attempt: int = 1) -> str:
    """The idempotency key of a call: a correction's own, or one made of those of all. The same call has the same key."""
    keys = [correction.idempotency_key for correction in corrections]
    if len(keys) == 1 and attempt == 1:
        return keys[0]
    return str(uuid.uuid5(_KEYS, "\n".join([*keys, str(attempt)])))


_KEYS = uuid.UUID("6d6f2f0e-4f0c-5f0b-9a55-0d5f6c1b7a10")


class UpdateOutcome(NamedTuple):
    """`applied`, with the row as the platform has it now; `changed` likewise, and nothing was written, for somebody else has
    written meanwhile; or `rejected` with the platform's reason, without values."""

    status: str
    page: Page | None = None
    reason: str | None = None


class Wanted(NamedTuple):
    """A webhook subscription as it should be: what its deliveries of `topics` hold, and where they go.

    `include_fields` are all that is asked of a payload (None: everything); `filter` is the platform's own search syntax.
    """

    topics: tuple[str, ...]
    uri: str
    include_fields: tuple[str, ...] | None = None
    filter: str | None = None


@dataclass(frozen=True)
class Subscription:
    """A webhook subscription as the platform has it; its fields are those of `Wanted`.

    `delivers` is false where it is switched off, or delivers in a form that we do not read. `signature_key` signs its
    deliveries where it has a key of its own, and the platform told it.
    """

    external_id: str
    topics: tuple[str, ...]
    uri: str
    include_fields: tuple[str, ...] | None
    filter: str | None
    source_updated_at: datetime
    delivers: bool = True
    signature_key: str | None = field(repr=False, default=None)


class Webhooks(Protocol):
    """A store's webhook subscriptions at its platform. Every method raises IntegrationError, as `Platform`'s do.

    Where one topic is refused and others may not be, that is `scopes` or `query_rejected`; an address that the platform
    does not deliver to is `configuration`.
    """

    each_topic: bool
    """Whether each topic has a subscription of its own; otherwise one subscription has all topics."""

    own_keys: bool
    """Whether each subscription signs its deliveries with a key of its own."""

    def subscriptions(self) -> list[Subscription]:
        """All that our app has at this store, whoever made them, read to the last page; maybe without their keys."""
        ...

    def signature_key(self, external_id: str) -> str | None:
        """The key of one subscription; None where it has none of its own, or is gone."""
        ...

    def subscribe(self, wanted: Wanted) -> Subscription:
        """Make a subscription; the one that is there already, where the platform refuses a second."""
        ...

    def update(self, external_id: str, wanted: Wanted) -> Subscription | None:
        """Make a subscription as it should be, switched on; None where it is gone."""
        ...

    def unsubscribe(self, external_id: str) -> None:
        """Remove a subscription; one that is gone already is no fault."""
        ...


class ProductPages(NamedTuple):
    """Products with the variants that they have now; `cut` are those with more variants than were listed."""

    products: Page
    variants: Page
    cut: list[str]


class Look(NamedTuple):
    """What a look at resources tells: `changed` are those of which rows have changed, or may have; `counts` how many rows
    there are of each, where the platform says so.

    `profile` is the shop's, if it was asked for. `listed` are pages of resources that are always listed whole.
    """

    changed: frozenset[Resource]
    counts: Mapping[Resource, int]
    listed: Mapping[Resource, Page]
    profile: StoreProfile | None = None


class Backfill(NamedTuple):
    """What reading all of a resource takes: how many rows there are, or may be; whether they come as an export, which has
    a pace of the platform's own; and how long a listing takes at the pace that the platform allows this store."""

    resource: Resource
    rows: int
    by_export: bool
    seconds: float


class Platform(Protocol):
    """One store on its platform. Every method raises IntegrationError, classified, and nothing else.

    An instance serves one worker at a time.
    """

    def profile(self) -> StoreProfile: ...

    def pages(
        self, resource: Resource, *, since: datetime | None, resume: str | None, bulk: bool | None = None
    ) -> Iterator[Page]:
        """The rows of a resource: those changed at or after `since`, all where it is None, in a stable order.

        `resume` is the token of the last page that was saved. Always yields at least one page. `bulk` says whether all
        rows are exported as one file or listed, on a platform with exports; None: chosen by their number. Raises
        IntegrationError (operation_running) while such an export is not ready: to be retried later with the token of
        the last page; (operation_failed) if it failed, or (count_mismatch) if it was incomplete: then the tokens are
        void.
        """
        ...

    def look(self, since: Mapping[Resource, datetime], *, profile: bool) -> Look:
        """Whether anything of these resources has changed since then, in as few calls as the platform can.

        Cheaper than a page of each, and right where it says that nothing has: what has changed is read by `pages`. It fails
        as a whole, also where one of the resources alone is at fault.
        """
        ...

    def backfills(self) -> list[Backfill]:
        """What there is to read, the longest first; nothing where the platform does not tell."""
        ...

    def lookback(self, resource: Resource) -> timedelta:
        """How late a change may show in `pages(since=)`: a pass begins so long before the last one's start."""
        ...

    def rows(self, resource: Resource, external_ids: Sequence[str]) -> Page:
        """These rows, 100 at most, as they are now; those that no longer exist are in `gone`."""
        ...

    def products_with_variants(self, external_ids: Sequence[str]) -> ProductPages:
        """These products, 100 at most, as they are now, each with its variants."""
        ...

    late_arrivals: Mapping[Resource, timedelta]
    """Resources whose rows may arrive later than that, with a change time so old: `pages` reads back so far now and
    then."""

    undated: frozenset[Resource]
    """Resources whose rows have no change time."""

    editable: frozenset[str]
    """The columns of `customers` that can be changed there; none: it accepts no edits."""

    def update_customer(
        self, external_id: str, values: Mapping[str, Any], if_still: Callable[[Any], bool] | None = None
    ) -> UpdateOutcome:
        """Set columns of `customers` (from `editable`) to these values; None takes a value away.

        `if_still` is asked of the customer's record as it is right before it is written, a few seconds at most whatever
        the platform makes us wait; where it says no nothing is written, and the outcome is `changed`. Doing it again
        changes nothing.
        """
        ...

    corrections_a_call: int
    """How many stock corrections one call takes."""

    def correct_stock(self, corrections: Sequence[Correction]) -> list[CorrectionOutcome]:
        """Write corrections, each by compare-and-swap and under its idempotency key; returns one outcome for each.

        A fault of one is that one's outcome. If an error is raised, some may have been written: the same corrections
        given again, in the same order, are written once.
        """
        ...

    @property
    def webhooks(self) -> Webhooks | None:
        """Its webhook subscriptions; None where it has no webhooks, or they are not made by API."""
        ...

    def faults(self) -> list[str]:
        """What prevents this store from being synced (credentials, missing scopes), one sentence each."""
        ...

    def close(self) -> None: ...
