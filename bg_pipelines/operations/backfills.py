"""Backfills: how long the first read of a store will take, and how far those are that have begun."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from bg_pipelines.database.engine import Database
from bg_pipelines.errors import IntegrationError
from bg_pipelines.wording import about

if TYPE_CHECKING:
    from bg_pipelines.database.secrets import Cipher
    from bg_pipelines.settings import Settings

SHOWN_FROM_ROWS = 5_000
"""A table of fewer is read before one has looked."""


class RunningBackfill(NamedTuple):
    """A table that has never been read to its end. `rows` is how many there are, where the platform says so; `message` why
    it waits, if it does; `seconds_left` is at its pace so far, pauses and all."""

    store: str
    resource: str
    read: int
    rows: int | None
    seconds_left: float | None
    message: str | None

    @property
    def sentence(self) -> str:
        of = f" of {self.rows:,}" if self.rows is not None else ""
        left = f", {about(self.seconds_left)} left" if self.seconds_left is not None else ""
        why = f" ({self.message})" if self.message else ""
        return f"{self.resource} of {self.store}: {self.read:,}{of}{left}{why}"


def running_backfills(session: Session, now: datetime) -> list[RunningBackfill]:
    """The longest first."""
    begun = session.execute(sa.text(_BEGUN)).all()
    if not begun:
        return []
    # Imported here, for it takes as long as all else of `status`.
    from bg_pipelines.sync.state import CursorState

    found = []
    for row in begun:
        current = CursorState.parse(row.cursor).current
        if current is None:
            continue
        read, rows, seconds = current.read, current.source_count, None
        if read and rows and read < rows:
            spent = max(now - current.began_at, timedelta(seconds=1))
            seconds = (rows - read) / read * spent.total_seconds()
        if row.message is not None or (rows or read) >= SHOWN_FROM_ROWS:
            found.append(RunningBackfill(row.store, row.resource, read, rows, seconds, row.message))
    return sorted(found, key=lambda one: (-(one.rows or one.read), one.store, one.resource))


_BEGUN = """
    SELECT s.name AS store, y.resource, y.cursor,
        CASE WHEN y.last_error ->> 'error_type' = 'operation_running' THEN y.last_error ->> 'message' END AS message
    FROM sync_states y JOIN stores s ON s.id = y.store_id
    WHERE y.last_full_at IS NULL AND y.cursor <> '{}' AND s.paused_at IS NULL AND s.deleted_at IS NULL"""


def expected_backfill(database: Database, key: Cipher, settings: Settings, name: str) -> list[str]:
    """What a store has to be read and how long it takes, in sentences, as its platform tells now."""
    # `status`, which only shows what runs, is in a hurry.
    from bg_pipelines.database.models import Store
    from bg_pipelines.operations.store_platform import store_platform

    with database.session() as session:
        store = session.scalars(sa.select(Store).where(Store.name == name)).one()
        session.expunge(store)
    try:
        with store_platform(store, key, settings) as platform:
            expected = platform.backfills()
    except IntegrationError as error:
        return [f"how long its first sync takes is not known: {error.of_store(name).message}"]
    return [
        f"{one.resource}: {one.rows:,} to read"
        + (f", as an export at {store.platform}'s own pace; as pages" if one.by_export else ",")
        + f" {about(one.seconds)} on this store's plan"
        for one in expected
        if one.by_export or one.rows >= SHOWN_FROM_ROWS
    ]
