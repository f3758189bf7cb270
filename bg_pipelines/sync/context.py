"""The context: what a unit of a store's work may ask of its visit, whichever run that is.

A unit raises what ends it early: `IntegrationError` (it failed), `NotReady` (the platform is still at work for it),
`TurnOver` (others wait), `work.runner.Stopped` (the run ends).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Protocol

import psycopg

from bg_pipelines.database.engine import Database
from bg_pipelines.database.load import Counts
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.incidents.fingerprints import Fingerprint
from bg_pipelines.incidents.reporting import Fault
from bg_pipelines.platforms.protocol import Platform
from bg_pipelines.queues import Unit
from bg_pipelines.records import Resource
from bg_pipelines.retries import Policies
from bg_pipelines.sync.summary import ChangeReport, CorrectionReport, Limits, ResourceAudit
from bg_pipelines.work.attempts import Attempt
from bg_pipelines.work.store_units import Claim


class StoreRef(NamedTuple):
    """The store that is visited: its id, its name and its platform's."""

    id: int
    name: str
    platform: str


class Coverage(Protocol):
    """Whoever follows how much of what changes is told by webhooks, before a pass finds it."""

    def note_changed(
        self, connection: psycopg.Connection[Any], store: StoreRef, resource: Resource, ids: Sequence[str]
    ) -> None:
        """An incremental pass has written some of these rows, in this transaction."""

    def interval(
        self, connection: psycopg.Connection[Any], store: StoreRef, resource: Resource, usual: timedelta
    ) -> timedelta:
        """How often the table is to be read, of a store that is `usual`ly read so often."""


class NoCoverage:
    """Nobody follows it."""

    def note_changed(
        self, connection: psycopg.Connection[Any], store: StoreRef, resource: Resource, ids: Sequence[str]
    ) -> None:
        pass

    def interval(
        self,
        connection: psycopg.Connection[Any],  # noqa: ARG002
        store: StoreRef,  # noqa: ARG002
        resource: Resource,  # noqa: ARG002
        usual: timedelta,
    ) -> timedelta:
        return usual


class TurnOver(Exception):  # noqa: N818 (not an error: others wait)
    """The store's turn is over; the rest is for the next."""


class NotReady(Exception):  # noqa: N818 (not an error: nothing failed)
    """The platform is not ready for this unit yet, for the `waits`-th time in a row.

    `cursor` makes what is to be kept, with this count of waits.
    """

    def __init__(self, error: IntegrationError, waits: int, cursor: Callable[[int], dict[str, Any]]) -> None:
        super().__init__(error.message)
        self.error = error
        self.waits = waits
        self.cursor = cursor


class Context(Protocol):
    """One unit's claim, and the store, platform and run that it is worked on with."""

    claim: Claim
    unit: Unit
    attempt: Attempt
    store_name: str
    platform: Platform
    database: Database
    cipher: Cipher
    run_id: str
    job: str
    limits: Limits
    sample: int
    policies: Policies
    rng: random.Random
    coverage: Coverage

    def now(self) -> datetime:
        """The time by the database's clock, or a little earlier, without asking it."""

    def check_stopped(self) -> None:
        """Raises Stopped as soon as the run is being stopped."""

    def turn_is_over(self) -> bool:
        """Whether the unit should raise TurnOver at the next point from which it can go on."""

    def note_progress(self) -> None:
        """Progress was committed and the next attempt continues after it: earlier failures no longer count."""

    def void_progress(self) -> None:
        """The progress so far is void: the next attempt starts from the beginning."""

    def complete(
        self,
        connection: psycopg.Connection[Any],
        cursor: dict[str, Any],
        *,
        next_due_at: datetime,
        full_pass_since: datetime | None = None,
        changed_at: datetime | None = None,
    ) -> None:
        """Settle the unit as done, in the transaction of its last rows: see `store_units.complete`. Raises IntegrationError
        (lease_lost)."""

    def say(self, message: str) -> None:
        """Write a line to the run's log."""

    def note_rows(self, pages: int, counts: Counts) -> None: ...
    def note_correction(self, left: CorrectionReport | None) -> None: ...
    def note_change(self, left: ChangeReport | None) -> None: ...
    def note_audit(self, found: ResourceAudit) -> None: ...


def fault_of(
    context: Context,
    fingerprint: Fingerprint,
    error: IntegrationError,
    *,
    payload: str,
    needs_attention: bool = True,
    unit: str | None = None,
) -> Fault:
    """A fault of the store that is visited, in the context's unit or another one. `payload` says where it is stored."""
    return Fault(
        fingerprint,
        subject=f"store {context.store_name}",
        error=error,
        needs_attention=needs_attention,
        job=context.job,
        platform=context.claim.platform,
        store_id=context.claim.store_id,
        units=[unit or context.unit.value],
        payload=payload,
    )


# What a vendor may answer to a write because of what is written. To a read it would answer; a connection that never came
# about, or a throttle, says nothing of either.
_OF_A_WRITE = {
    ErrorType.SERVER_ERROR,
    ErrorType.TIMEOUT,
    ErrorType.MALFORMED_RESPONSE,
    ErrorType.REFUSED,
    ErrorType.QUERY_TOO_COSTLY,
}


def is_of_the_write(context: Context, error: IntegrationError) -> bool:
    """Whether a write failed by what it writes, or because there is no right to write, and no fault of the platform's.

    Where it could be either, the platform is asked for a small thing: if it answers, it is the write, which is then counted
    and tried again by itself, and holds up neither the others nor what is read.
    """
    if error.error_type in (ErrorType.SCOPES, ErrorType.QUERY_REJECTED):
        return True
    if error.error_type not in _OF_A_WRITE:
        return False
    try:
        context.platform.profile()
    except IntegrationError:
        return False
    return True
