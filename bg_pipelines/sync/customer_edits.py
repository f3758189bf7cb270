"""Edits of customers' profiles, sent to the platform before its customers are read.

Each customer is read again, each field decided separately, and what is left to change is sent in one call:

    the platform has        then
    our new value           applied: somebody else did it, or we did and the answer was lost
    the value we changed    sent
    another value           sent if the edit is newer, else superseded: the platform's value stands

The edit is in its row before anything is sent, and is settled with the row that the platform answers with, in one
transaction. So after a crash in between the next run finds our value there and never sends it twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

import psycopg

from bg_pipelines.customers import changes
from bg_pipelines.customers.changes import QUEUE, Change, same
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.incidents.failing import fail
from bg_pipelines.incidents.fingerprints import RejectedEdits, StoreUnit
from bg_pipelines.incidents.reporting import report_fault
from bg_pipelines.records import Page, Resource
from bg_pipelines.retries import Decision, Strategy, is_by_status
from bg_pipelines.sync.context import Context, fault_of, is_of_the_write
from bg_pipelines.sync.loader import Loader
from bg_pipelines.sync.summary import ChangeReport
from bg_pipelines.values import read_time
from bg_pipelines.work import store_units
from bg_pipelines.work.queue import DUE, clock

LEASE = timedelta(minutes=1)
"""Only the visit that has the store's unit claims its edits. After a crash they are free before that unit is."""
UNREADABLE_PAUSE = timedelta(minutes=4)
"""How long an edit is postponed if its customer cannot be read: until the store's next visit, whatever its tier."""

_NEXT = f"""
    t.store_id = %(store)s AND t.customer_external_id IN (SELECT t.customer_external_id FROM customer_changes t
        WHERE t.store_id = %(store)s AND t.status = 'pending' AND {DUE}
        GROUP BY t.customer_external_id ORDER BY min(t.id) LIMIT %(customers)s)"""  # noqa: S608 (made of constants)

LOOKS = 3
"""How often an edit is decided on again because the customer changed meanwhile; then it waits for the next run."""

GONE = "the customer no longer exists"
FORGOTTEN = "the customer was deleted or redacted: nothing is sent"
KEPT_ITS_OWN = "the platform accepted the update and kept its own value"
LATER_EDIT = "a later edit of the same field took its place"


class Edit(NamedTuple):
    """One field: its pending changes, oldest first, and what the platform has.

    The last change is what is wanted; it is based on the earlier ones.
    """

    changes: Sequence[Change]
    found: Any

    @property
    def last(self) -> Change:
        return self.changes[-1]

    @property
    def is_done(self) -> bool:
        return same(self.last.field, self.found, self.last.to_value)

    @property
    def is_expected(self) -> bool:
        """Whether the platform has what one of the changes began with or, its answer lost, ended with."""
        values = [value for change in self.changes for value in (change.from_value, change.to_value)]
        return any(same(self.last.field, self.found, value) for value in values)

    def is_newer_than(self, source_updated_at: datetime, skew: timedelta) -> bool:
        """Whether it was made after the platform's row was changed, whose clock is ahead of ours by `skew`.

        Rows carry whole seconds. Within one second the platform wins: an edit can be made again, a value that was
        overwritten cannot.
        """
        return (self.last.changed_at + skew).replace(microsecond=0) > source_updated_at


class CustomerEdits:
    """Sends the pending edits of one store's customers. Used once."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.database = context.database
        self.platform = context.platform
        self.claim = context.claim
        self.store_name = context.store_name
        self.loader = Loader(self.claim.store_id, Resource.CUSTOMERS, context.cipher)
        self._reports: list[ChangeReport | None] = []
        self._refused: IntegrationError | None = None
        """Why the platform accepts no edit at all: then no more are sent."""

    def run(self) -> None:
        """Send what is due, a few customers at a time, until the store's turn is over.

        Raises IntegrationError where the platform is out of reach, and Stopped; what was not sent stays due. An edit
        that the platform does not accept, or fails at, is parked or tried again by itself, and delays no other.
        """
        sent = False
        while not (sent and self.context.turn_is_over()):
            self.context.check_stopped()
            claims = self._claims()
            if not claims:
                return
            try:
                by_customer: dict[str, list[Change]] = {}
                for change in self._reject_what_it_does_not_take(claims):
                    by_customer.setdefault(change.customer_external_id, []).append(change)
                if by_customer:
                    self._push(by_customer)
            except BaseException:
                with self.database.transaction() as connection:
                    QUEUE.release(connection, [self.claim.owner])
                raise
            sent = True

    def _claims(self) -> list[Change]:
        with self.database.transaction() as connection:
            return QUEUE.claim(
                connection,
                owner=self.claim.owner,
                limit=10_000,
                lease=LEASE,
                among=_NEXT,
                order="t.id",
                parameters={"store": self.claim.store_id, "customers": self.context.limits.edits_together},
            )

    def _reject_what_it_does_not_take(self, pending: Sequence[Change]) -> list[Change]:
        """Those that are left."""
        refused = [change for change in pending if change.field not in self.platform.editable]
        if refused:
            with self.database.transaction() as connection:
                for change in refused:
                    reason = f"{self.claim.platform} does not accept changes of {change.field}"
                    self._settle(connection, [change], "rejected", reason=reason)
                self._require_lease(connection)
            self._tell()
        return [change for change in pending if change.field in self.platform.editable]

    def _require_lease(self, connection: psycopg.Connection[Any]) -> None:
        """Raises IntegrationError (lease_lost): a worker that has lost the store leaves it to the other one.

        Last in each transaction, as in a pass: customers are locked first, then the unit of work.
        """
        store_units.QUEUE.save(connection, self.claim, "lease_owner = lease_owner")

    def _push(self, pending: Mapping[str, list[Change]]) -> None:
        self.context.check_stopped()
        with self.database.transaction() as connection:
            asked_at = clock(connection)
        page = self.platform.rows(Resource.CUSTOMERS, list(pending))
        # One whose time is none cannot be compared, nor loaded.
        found = {record.external_id: record for record in page.records if _changed_at(record) is not None}
        to_send: dict[str, list[Edit]] = {}
        with self.database.transaction() as connection:
            skew = _skew(page, asked_at, clock(connection))
            for customer_id, made in pending.items():
                if customer_id in page.gone:
                    self._settle(connection, made, "rejected", reason=GONE)
                elif customer_id not in found:
                    self._put_off(connection, made)
                else:
                    to_send[customer_id] = self._decide(connection, made, found[customer_id], skew)
            self._load(connection, page, asked_at)
            changes.forget_nobody(connection, self.claim.store_id, list(pending))
            made_all = [change for edits in to_send.values() for edit in edits for change in edit.changes]
            left = changes.still_pending(connection, made_all)
            for change in (edit.last for edits in to_send.values() for edit in edits):
                if change.id not in left:
                    self._report(change, "rejected", FORGOTTEN)
            self._require_lease(connection)  # before anything is sent
        self._tell()
        for customer_id, edits in to_send.items():
            wanted = [edit for edit in edits if edit.last.id in left]
            if wanted:
                self._send(customer_id, wanted, asked_at)

    def _decide(
        self, connection: psycopg.Connection[Any], made: list[Change], record: Any, skew: timedelta
    ) -> list[Edit]:
        """Settle the fields of a customer that need no call; returns the others."""
        to_send = []
        updated_at = _changed_at(record)
        assert updated_at is not None
        for field, of_field in groupby(sorted(made, key=lambda change: change.field), _field):
            edit = Edit(list(of_field), changes.value_of(record._asdict(), field))
            if edit.is_done:
                self._settle(connection, edit.changes, "applied")
            elif edit.is_expected or edit.is_newer_than(updated_at, skew):
                to_send.append(edit)
            else:
                self._settle(connection, edit.changes, "superseded", found=edit.found)
        return to_send

    def _send(self, customer_id: str, edits: Sequence[Edit], asked_at: datetime, looks: int = LOOKS) -> None:
        self.context.check_stopped()
        values = {edit.last.field: edit.last.to_value for edit in edits}
        if self._refused is not None:
            self._fail(edits, self._refused)
            return
        try:
            outcome = self.platform.update_customer(customer_id, values, partial(_is_as_found, edits))
        except IntegrationError as error:
            if not is_of_the_write(self.context, error):
                raise
            # Others are sent, and customers are read anyway. Without the right to write none is sent.
            if error.error_type is ErrorType.SCOPES:
                self._refused = error
            self._fail(edits, error)
            return
        if outcome.status == "changed" and outcome.page is not None:
            self._send_changed(customer_id, edits, outcome.page, looks)
            return
        if outcome.status == "rejected" and len(edits) > 1:
            # A rejected value does not affect the others; sending accepted ones again changes nothing.
            for edit in edits:
                self._send(customer_id, [edit], asked_at)
            return
        with self.database.transaction() as connection:
            for edit in edits:
                found = None if edit.is_expected else edit.found
                if outcome.status != "applied":
                    reason = outcome.reason or "the platform gives no reason"
                    self._settle(connection, edit.changes, "rejected", found=found, reason=reason)
                elif _kept_its_own(edit, outcome.page):
                    self._settle(connection, edit.changes, "rejected", found=edit.found, reason=KEPT_ITS_OWN)
                else:
                    self._settle(connection, edit.changes, "applied", found=found)
            if outcome.page is not None:
                self._load(connection, outcome.page, asked_at)
            self._require_lease(connection)
        self._tell()

    def _send_changed(self, customer_id: str, edits: Sequence[Edit], page: Page, looks: int) -> None:
        """Somebody has written to the customer since they were read: whose values count is decided again."""
        made = [change for edit in edits for change in edit.changes]
        with self.database.transaction() as connection:
            asked_at = clock(connection)
            skew = _skew(page, asked_at, asked_at)
            record = next((record for record in page.records if _changed_at(record) is not None), None)
            again: list[Edit] = []
            if record is None or not looks:
                self._put_off(connection, made)
            else:
                again = self._decide(connection, made, record, skew)
            self._load(connection, page, asked_at)
            self._require_lease(connection)
        self._tell()
        if again:
            self._send(customer_id, again, asked_at, looks - 1)

    def _load(self, connection: psycopg.Connection[Any], page: Page, asked_at: datetime) -> None:
        """The rows as the platform has them, so that both sides are equal at once."""
        self.loader.load(connection, [page], seen_at=asked_at)

    def _put_off(self, connection: psycopg.Connection[Any], made: Sequence[Change]) -> None:
        """Edits of a customer whose row cannot be read, which is an incident of its own: retried later."""
        decision = Decision(
            Strategy.SCHEDULED_RETRY,
            clock(connection) + UNREADABLE_PAUSE,
            "the platform's row cannot be read",
        )
        error = IntegrationError.of(
            ErrorType.BAD_DATA,
            "the platform's row cannot be read; see rejected_rows",
            source=self.claim.platform,
        )
        for change in made:
            QUEUE.retry(connection, change, error, decision, attempts=change.attempts)
        self._report(made[-1], "pending", error.message)

    def _fail(self, edits: Sequence[Edit], error: IntegrationError) -> None:
        """The edits are tried again later, or parked, all of a store's under one incident per error type."""
        unit = StoreUnit(self.claim.store_id, QUEUE.table, error.error_type)
        fault = fault_of(
            self.context, unit, error, payload=f"customer_changes of store {self.claim.store_id}"
        )
        with self.database.transaction() as connection:
            worked_lately = is_by_status(error) and store_units.worked_lately(connection, self.claim.store_id)
            for change in (change for edit in edits for change in edit.changes):
                fail(
                    connection,
                    QUEUE,
                    change,
                    fault,
                    attempts=change.attempts + 1,
                    policies=self.context.policies,
                    rng=self.context.rng,
                    job=self.context.job,
                    worked_lately=worked_lately,
                )
            self._require_lease(connection)
        for edit in edits:
            self._report(edit.last, "pending", error.message)
        self._tell()

    def _settle(
        self,
        connection: psycopg.Connection[Any],
        made: Sequence[Change],
        status: str,
        *,
        found: Any = None,
        reason: str | None = None,
    ) -> None:
        """End the changes of one field, or all of a customer that is gone: the last one so, earlier ones as superseded."""
        last = {change.field: change for change in made}
        for change in made:
            if change is not last[change.field]:
                changes.settle(connection, change, "superseded", reason=LATER_EDIT)
                continue
            changes.settle(connection, change, status, found=found, reason=reason)
            if status == "applied":
                self._reports.append(None)
            else:
                why = reason or "the platform has a newer value; look at it, and edit again if need be"
                self._report(change, status, why)
            if status == "rejected" and reason != GONE:
                self._open_incident(connection, change, reason or "")

    def _open_incident(self, connection: psycopg.Connection[Any], change: Change, reason: str) -> None:
        """A rejected edit is lost unless a person acts: one incident per store, until it is resolved."""
        error = IntegrationError(
            f"an edit of {change.field} of customer {change.customer_external_id} was rejected: {reason}; see "
            f"`bg-pipelines customers changes {self.store_name} --status rejected`, edit again, then resolve this",
            error_type=ErrorType.BAD_DATA,
            severity="low",
            recoverable=False,
            source=self.claim.platform,
        )
        rejected = RejectedEdits(self.claim.store_id)
        fault = fault_of(self.context, rejected, error, payload=f"customer_changes {change.id}")
        report_fault(connection, fault, occurrence=f"change {change.id}")

    def _report(self, change: Change, status: str, message: str) -> None:
        self._reports.append(
            ChangeReport(
                self.store_name, change.id, change.customer_external_id, change.field, status, message
            )
        )

    def _tell(self) -> None:
        """Of what was committed, to the run's summary."""
        for left in self._reports:
            self.context.note_change(left)
        self._reports.clear()


def _changed_at(record: Any) -> datetime | None:
    try:
        return read_time(record.source_updated_at)
    except ValueError:
        return None


def _field(change: Change) -> str:
    return change.field


def _is_as_found(edits: Sequence[Edit], record: Any) -> bool:
    """Whether the platform has what was decided on; or, where half of it is written already, what is wanted."""
    for edit in edits:
        field = edit.last.field
        held = changes.value_of(record._asdict(), field)
        if not same(field, held, edit.found) and not same(field, held, edit.last.to_value):
            return False
    return True


def _kept_its_own(edit: Edit, page: Page | None) -> bool:
    """Whether the platform says yes and its row is as it was."""
    for record in page.records if page else ():
        held = changes.value_of(record._asdict(), edit.last.field)
        return same(edit.last.field, held, edit.found) and not same(edit.last.field, held, edit.last.to_value)
    return False


def _skew(page: Page, asked_at: datetime, answered_at: datetime) -> timedelta:
    """By how much the platform's clock, which tells whole seconds, is ahead of ours."""
    if page.vendor_time is None:
        return timedelta(0)
    if page.vendor_time > answered_at:
        return page.vendor_time - answered_at
    return min(timedelta(0), page.vendor_time - asked_at.replace(microsecond=0))
