"""One store's claimed events: documents are applied, commands carried out, hints asked for and loaded."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import psycopg

from bg_pipelines.database.load import Counts
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.database.sqlstates import is_outage
from bg_pipelines.errors import ErrorType, IntegrationError, unexpected
from bg_pipelines.platforms.protocol import Platform
from bg_pipelines.records import Resource
from bg_pipelines.sync.rejects import report_rejects
from bg_pipelines.sync.stores import Store, read_store
from bg_pipelines.webhooks import carts, commands, healing, hints, settling
from bg_pipelines.webhooks import events as inbox
from bg_pipelines.webhooks.commands import Order
from bg_pipelines.webhooks.events import HANDLED, IGNORED, NOT_UNDERSTOOD, Event
from bg_pipelines.webhooks.kept_platforms import KeptPlatforms
from bg_pipelines.webhooks.settling import Settling
from bg_pipelines.webhooks.topics import Kind
from bg_pipelines.work import rollups
from bg_pipelines.work.queue import clock
from bg_pipelines.work.runner import Stopped

Connection = psycopg.Connection[Any]
T = TypeVar("T")

LEFT_TO_THE_PASS = {
    ErrorType.THROTTLED,
    ErrorType.SHOP_LOCKED,
    ErrorType.CREDENTIALS,
    ErrorType.SCOPES,
    ErrorType.PAYMENT_REQUIRED,
    ErrorType.SHOP_GONE,
    ErrorType.CONFIGURATION,
}
"""With these errors the pass of the table does what is to be done: it waits, or is parked under the one incident."""
OUT_OF_REACH = {
    ErrorType.TIMEOUT,
    ErrorType.CONNECTION,
    ErrorType.SERVER_ERROR,
    ErrorType.MALFORMED_RESPONSE,
    ErrorType.REFUSED,
} | LEFT_TO_THE_PASS
"""After these the store is not asked again in the same batch."""


class Run(settling.Run, Protocol):
    """What a batch asks of the run that handles it."""

    cipher: Cipher
    home: Path
    platforms: KeptPlatforms

    def check_stopped(self) -> None: ...
    def note_asked(self, rows: int) -> None: ...
    def note_rows(self, table: str, counts: Counts) -> None: ...


class StoreBatch:
    """The claimed events of one store, worked on by one worker. Used once."""

    def __init__(self, run: Run, store_id: int, events: Sequence[Event]) -> None:
        self.run_ = run
        self.store_id = store_id
        self.events = events
        self.settling = Settling(run, store_id)
        self.unreachable: IntegrationError | None = None

    def run(self) -> None:
        """Raises Stopped, and IntegrationError (database) where the run itself cannot work."""
        by_kind: dict[Kind | None, list[Event]] = {}
        erased: list[Event] = []
        for event in self.events:
            kind = event.declared.kind if event.declared else None
            if kind in (Kind.DOCUMENT, Kind.COMMAND) and event.payload is None:
                erased.append(event)
            else:
                by_kind.setdefault(kind, []).append(event)
        self._read_store()
        if erased:
            self.settling.settle(erased, IGNORED, "its content was erased")
        if unknown := by_kind.get(None):
            self.settling.settle(unknown, NOT_UNDERSTOOD, "its topic is not one of this program's")
        if documents := by_kind.get(Kind.DOCUMENT):
            self._guarded(documents, self._apply)
        for command in by_kind.get(Kind.COMMAND, []):
            self.run_.check_stopped()
            self._guarded([command], self._carry_out)
        if Kind.COMMAND in by_kind:
            self._read_store()
        told = sorted(
            by_kind.get(Kind.CHANGED, []) + by_kind.get(Kind.DELETED, []), key=lambda event: event.id
        )
        self._take_hints(told)

    def _read_store(self) -> None:
        def act(connection: Connection) -> tuple[Store, set[str], set[str], Any]:
            store = read_store(connection, self.store_id)
            units = connection.execute(
                "SELECT resource, last_succeeded_at IS NULL, next_due_at IS NULL FROM sync_states WHERE store_id = %s",
                (self.store_id,),
            ).fetchall()
            new = {unit for unit, is_new, _ in units if is_new}
            return store, new, {unit for unit, _, is_parked in units if is_parked}, clock(connection)

        self.store, self.new, self.parked, self.seen_at = self.run_.database.transact(act)

    # Documents and commands

    def _apply(self, left: list[Event]) -> None:
        """Apply carts and checkouts. A paused store's as well: nothing else would ever bring them."""
        if self.store.is_deleted or self.store.is_uninstalled:
            self.settling.settle(left, IGNORED, "its store is no longer synced")
            return
        documents: list[carts.Document] = []
        for event in list(left):
            try:
                documents.append(carts.Document(event, self._payload(event)))
            except IntegrationError as error:
                self.settling.fail(self.store, [event], error)  # alone: of another key, perhaps
                left.remove(event)
        if not documents:
            return

        def act(connection: Connection) -> tuple[dict[str, Counts], list[float]]:
            had_rejects = carts.has_rejects(connection, self.store_id)
            counts = carts.apply_documents(connection, self.run_.cipher, self.store_id, documents)
            if had_rejects or any(count.rejected for count in counts.values()):
                self._report_rejects(connection, carts.TABLES)
            return counts, inbox.settle(connection, left, HANDLED)

        counts, ages = self.run_.database.transact(act)
        for table, count in counts.items():
            self.run_.note_rows(table, count)
        self.settling.note_settled(HANDLED, left, ages)

    def _carry_out(self, left: list[Event]) -> None:
        [event] = left
        order = Order(
            event.topic,
            self._payload(event),
            self.store,
            self.run_.database,
            self.run_.cipher,
            self.run_.home,
            self._with_platform,
        )
        done = commands.carry_out(event.source, order)
        if done is None:
            self.settling.settle(left, NOT_UNDERSTOOD, "no command of this program's")
        elif done.status == HANDLED:
            ages = self.run_.database.transact(
                lambda connection: inbox.settle(connection, left, HANDLED, done.reason)
            )
            self.settling.note_settled(HANDLED, left, ages)
        else:
            self.settling.settle(left, done.status, done.reason)

    def _with_platform(self, call: Callable[[Platform], T]) -> T:
        row, platform = self.run_.platforms.take(self.store)
        try:
            return call(platform)
        finally:
            self.run_.platforms.give_back(row, platform)

    def _payload(self, event: Event) -> Any:
        return self.run_.cipher.decrypt(event.payload or b"")

    # Hints

    def _take_hints(self, events: Sequence[Event]) -> None:
        by_table: dict[str, list[Event]] = {}
        for event in events:
            by_table.setdefault(event.resource or "", []).append(event)
        for table, told in by_table.items():
            self.run_.check_stopped()
            if table not in set(Resource):
                self.settling.settle(told, NOT_UNDERSTOOD, "its table is not one of this program's")
            elif reason := self._why_ignored():
                self.settling.settle(told, IGNORED, reason)
            else:
                self._guarded(told, lambda left, table=table: self._take(Resource(table), left))  # type: ignore[misc]

    def _why_ignored(self) -> str | None:
        if self.store.is_deleted or self.store.is_uninstalled:
            return "its store is no longer synced"
        return "its store is paused: the pass that follows finds the change" if self.store.is_paused else None

    def _why_passed_on(self, resource: Resource) -> str | None:
        """Why a table is not asked for anything now."""
        if self.store.is_shut:
            return "its circuit is open"
        if self.unreachable is not None and self.unreachable.error_type in LEFT_TO_THE_PASS:
            return self.unreachable.error_type
        for unit in hints.UNITS[resource]:
            if unit in self.new:
                return "its table has not been synced yet"
            if unit in self.parked:
                return "its table is parked under an incident"
        return None

    def _take(self, resource: Resource, left: list[Event]) -> None:
        """Ask for the rows of a table that its events tell of; what is settled is taken out of `left`."""
        if reason := self._why_passed_on(resource):
            self.settling.pass_on(hints.UNITS[resource], left, reason)
            return
        if self.unreachable is not None:
            raise self.unreachable
        split = self.run_.database.transact(
            lambda connection: hints.split(connection, self.store_id, resource, left)
        )
        if split.later:
            self.run_.database.transact(lambda connection: inbox.release(connection, split.later))
            _take_out(left, split.later)
        if split.known:
            self.settling.settle(split.known, HANDLED, "it is known to be deleted")
            _take_out(left, split.known)
        if split.passed_on:
            why = (
                "a pass finds more changes for less"
                if any(e.object_id for e in split.passed_on)
                else "it names no row"
            )
            self.settling.pass_on(hints.UNITS[resource], split.passed_on, why)
            _take_out(left, split.passed_on)
        if not split.asked:
            return
        self._with_platform(lambda platform: self._ask(platform, resource, split.asked, left))

    def _ask(
        self, platform: Platform, resource: Resource, asked: dict[str, list[Event]], left: list[Event]
    ) -> None:
        for ids, answer in hints.ask(
            platform, self.run_.database.transact, self.store_id, resource, list(asked)
        ):
            self.run_.note_asked(len(ids))
            done = [event for object_id in ids for event in asked[object_id]]
            self._load(answer, done, platform.undated)
            _take_out(left, done)
            self.run_.check_stopped()

    def _load(self, answer: hints.Answer, done: list[Event], undated: Collection[Resource]) -> None:
        def act(connection: Connection) -> tuple[dict[Resource, Counts], list[float]]:
            counts, changes = hints.load(connection, self.run_.cipher, self.store_id, answer, self.seen_at)
            if rejected := [table.value for table, count in counts.items() if count.rejected]:
                self._report_rejects(connection, rejected)
            for table, count in counts.items():
                changed = count.inserted + count.updated + count.deleted
                # Of rows with parts these are counted, too.
                rows = (
                    changed
                    if table is Resource.PRODUCT_VARIANTS
                    else min(changed, len({event.object_id for event in done}))
                )
                healing.add(connection, self.store_id, table, told=rows)
            ages = inbox.settle(connection, done, HANDLED)
            # Last: other workers count in the same rows.
            for table, written in changes:
                if table not in undated:
                    rollups.note_lags(connection, self.store_id, table, written, self.run_.job)
            return counts, ages

        counts, ages = self.run_.database.transact(act)
        for table, count in counts.items():
            self.run_.note_rows(table.value, count)
        self.settling.note_settled(HANDLED, done, ages)

    def _report_rejects(self, connection: Connection, tables: Sequence[str]) -> None:
        report_rejects(
            connection,
            self.store_id,
            tables,
            store=self.store.name,
            platform=self.store.platform,
            job=self.run_.job,
        )

    # Outcomes

    def _guarded(self, events: Sequence[Event], work: Callable[[list[Event]], None]) -> None:
        """Do this work; those of the events that it leaves, because it failed, are settled as failed."""
        left = list(events)
        try:
            work(left)
            return
        except Stopped:
            raise
        except IntegrationError as failed:
            error = failed.of_store(self.store.name)
        except Exception as surprise:  # noqa: BLE001 (one store's surprise must not stop the others)
            error = unexpected(surprise)
        if is_outage(error):
            raise error
        if error.error_type is ErrorType.LEASE_LOST:
            self.run_.say(f"{self.store.name}: {error.message}")
            self.release()
            return
        self._fail(left, error)

    def _fail(self, events: list[Event], error: IntegrationError) -> None:
        if error.error_type in OUT_OF_REACH:
            self.unreachable = error
        if not events:
            return
        resource = events[0].resource
        if error.error_type in LEFT_TO_THE_PASS and resource in set(Resource):
            # A limit is over soon, and a pass does not find what was deleted.
            waits = [e for e in events if error.error_type is ErrorType.THROTTLED and hints.is_deletion([e])]
            left = [event for event in events if event not in waits]
            if left:
                self.settling.pass_on(hints.UNITS[Resource(resource)], left, error.error_type)
            events = waits
        if events:
            self.settling.fail(self.store, events, error)

    def release(self) -> None:
        """What could not even be settled is for a later claim."""
        self.settling.release(self.events)


def _take_out(left: list[Event], done: Sequence[Event]) -> None:
    ids = {event.id for event in done}
    left[:] = [event for event in left if event.id not in ids]
