"""Settling: how a store's claimed events end, many with one statement, each in a transaction of what it caused."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Protocol

import psycopg

from bg_pipelines.database.engine import Database
from bg_pipelines.errors import IntegrationError
from bg_pipelines.incidents import reporting
from bg_pipelines.incidents.failing import fail_together
from bg_pipelines.incidents.fingerprints import StoreUnit
from bg_pipelines.incidents.reporting import Fault
from bg_pipelines.queues import Unit
from bg_pipelines.retries import Policies
from bg_pipelines.sync.stores import Store
from bg_pipelines.webhooks import events as inbox
from bg_pipelines.webhooks.events import PASSED_ON, QUEUE, Event
from bg_pipelines.wording import counted
from bg_pipelines.work import store_units

Connection = psycopg.Connection[Any]


class Run(Protocol):
    """What settling asks of the run that handles the events."""

    database: Database
    job: str
    policies: Policies
    rng: random.Random

    def say(self, message: str) -> None: ...
    def note_settled(self, status: str, events: int, ages: Sequence[float] = ()) -> None: ...
    def note_failed(self, events: int) -> None: ...


class Settling:
    """Settles the events of one store's batch."""

    def __init__(self, run: Run, store_id: int) -> None:
        self.run = run
        self.store_id = store_id

    def settle(self, events: Sequence[Event], status: str, reason: str | None = None) -> None:
        self.run.database.transact(lambda connection: inbox.settle(connection, events, status, reason))
        self.note_settled(status, events)

    def pass_on(self, units: Sequence[Unit], events: Sequence[Event], reason: str) -> None:
        """Leave a table's events, and others of it that wait, to the next passes of these units."""
        _, others = self.run.database.transact(
            lambda connection: inbox.pass_on(connection, events, units, reason)
        )
        self.note_settled(PASSED_ON, events)
        self.run.note_settled(PASSED_ON, others)

    def note_settled(self, status: str, events: Sequence[Event], ages: Sequence[float] = ()) -> None:
        """These were settled: counted, and their incident is over if they were the last under it."""
        self.run.note_settled(status, len(events), ages)
        if any(event.incident_id is not None for event in events):
            # Apart: whoever retries an incident has its lock before those of its events.
            self.run.database.transact(
                lambda connection: reporting.clear_recovered(connection, self.store_id, [QUEUE.table])
            )

    def fail(self, store: Store, events: Sequence[Event], error: IntegrationError) -> None:
        """Retried as the policy of the error says, or parked under one incident for all of them."""
        fault = Fault(
            StoreUnit(self.store_id, QUEUE.table, error.error_type),
            subject=f"store {store.name}",
            error=error,
            needs_attention=True,
            job=self.run.job,
            platform=store.platform,
            store_id=self.store_id,
            units=sorted({event.resource for event in events if event.resource}),
            payload=f"webhook_events of store {self.store_id}",
        )
        failed = self.run.database.transact(
            lambda connection: fail_together(
                connection,
                QUEUE,
                events,
                fault,
                rng=self.run.rng,
                job=self.run.job,
                policies=self.run.policies,
                worked_lately=store_units.worked_lately(connection, self.store_id),
                occurrence=events[0].owner,
            )
        )
        self.run.note_failed(len(failed))
        self.run.say(
            f"{store.name}: {counted(len(failed), 'event')} failed ({error.error_type}): {error.message}; {failed[0]}"
        )

    def release(self, events: Sequence[Event]) -> None:
        with suppress(IntegrationError):
            self.run.database.transact(lambda connection: inbox.release(connection, events))
