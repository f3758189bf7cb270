"""The run that drains the inbox: which stores' events are claimed, and the summary of what became of them.

    summary = HandlingRun(database, cipher, HandlingRequest(), run_id="…", home=home, connect=connect, log=print).run()

A batch is the due events of one store, so that what one ask of its platform answers is settled together. Stores take
turns: one with ten thousand events waiting has one worker, and of two that wait the one that was served the longest ago
goes first.
"""

from __future__ import annotations

import random
import threading
import time
from array import array
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import psycopg

from bg_pipelines.database.engine import Database
from bg_pipelines.database.load import Counts
from bg_pipelines.database.secrets import Cipher, verify_key
from bg_pipelines.database.sqlstates import is_expected
from bg_pipelines.errors import IntegrationError
from bg_pipelines.messaging.answers import AnswerRules
from bg_pipelines.platforms.protocol import Platform
from bg_pipelines.retries import Policies
from bg_pipelines.sync.stores import Connect, Store, connect_store
from bg_pipelines.webhooks import events as inbox
from bg_pipelines.webhooks import text_batch
from bg_pipelines.webhooks.events import QUEUE, Event
from bg_pipelines.webhooks.healing import clear_if_well
from bg_pipelines.webhooks.kept_platforms import KeptPlatforms
from bg_pipelines.webhooks.store_batch import StoreBatch
from bg_pipelines.webhooks.text_batch import TextEvent
from bg_pipelines.wording import counted
from bg_pipelines.work.queue import clock as database_clock
from bg_pipelines.work.runner import LEASE, PROGRESS_SECONDS, Log, Runner, Warmth

JOB = "handle_webhooks"
EVENTS_AT_ONCE = 1_000
"""Of a store, claimed together."""
RESERVE = 0.5
"""The share of a store's rate limit that hints leave to its passes."""
LOOK_SECONDS = 0.15
"""How often a warm run looks into the inbox: half of this is what an event waits on average."""
WELL_SECONDS = 600.0
"""How often a store that is told of changes is looked at, whether that was its fault."""
MOST_AGES = 100_000
"""From receipt to settled row: of more events in a run the first count."""


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


class Batch(NamedTuple):
    """Events of one store, or (TWILIO, `texts`) what Twilio told."""

    store_id: int
    platform: str
    events: list[Event]
    texts: Sequence[TextEvent] = ()


TWILIO = 0
"""The number of no store: under it what Twilio tells is at work."""


class HandlingRun:
    """One run. Used once.

    `home` is where exports for data requests are written; `connect` makes a platform out of a store's access and a sleep; `log` takes progress lines; `is_wanted` tells whether
    another run waits for this one's place; `clock` counts seconds; `policies` and `rng` decide about retries. Raises
    IntegrationError only if the run itself cannot work: what failed of a store is settled in its events.
    """

    def __init__(
        self,
        database: Database,
        cipher: Cipher,
        request: HandlingRequest,
        *,
        run_id: str,
        home: Path,
        connect: Connect,
        log: Log,
        warmth: Warmth | None = None,
        lease: timedelta = LEASE,
        progress_seconds: float = PROGRESS_SECONDS,
        clock: Any = time.monotonic,
        policies: Policies | None = None,
        rng: random.Random | None = None,
        events_at_once: int = EVENTS_AT_ONCE,
        texts: AnswerRules | None = None,
    ) -> None:
        self.database = database
        self.cipher = cipher
        self.request = request
        self.run_id = run_id
        self.home = home
        self.job = request.job
        self.connect = connect
        self.clock = clock
        self.policies = policies or Policies()
        self.rng = rng or random.Random()  # noqa: S311 (jitter, not a secret)
        self.events_at_once = events_at_once
        self.texts = texts or AnswerRules()
        self.summary = HandlingSummary()
        self.platforms = KeptPlatforms(self._connect)
        self.runner: Runner[Batch] = Runner(
            database,
            self,
            run_id=run_id,
            job=request.job,
            workers=request.max_workers,
            max_minutes=request.max_minutes,
            log=log,
            lease=lease,
            progress_seconds=progress_seconds,
            warmth=warmth or Warmth(request.warm_seconds, LOOK_SECONDS),
            clock=clock,
        )
        self._lock = threading.Lock()
        self._at_work: set[int] = set()
        self._turn = 0
        self._turns: dict[int, int] = {}
        self._looked: dict[int, float] = {}
        self._told = 0

    def run(self) -> HandlingSummary:
        began = self.clock()
        with self.database.transaction() as connection:
            verify_key(connection, self.cipher)
            due_before = database_clock(connection)
            platforms = connection.execute("SELECT DISTINCT platform FROM stores").rowcount
            self.runner.record.begin(connection)
        if platforms > 1:
            self.runner.shares.share_among_groups()

        def end() -> None:
            self.summary.seconds = self.clock() - began
            self.summary.stores = len(self._turns)

        try:
            self.runner.run(due_before, began, end)
        finally:
            self.platforms.close()
        return self.summary

    def _connect(self, store: Store) -> Platform:
        return connect_store(
            store, self.database, self.cipher, self.connect, self.runner.sleep, reserve=RESERVE
        )

    # The workload

    def owners(self, owner: str) -> set[str]:
        return {owner}

    def claim(self, owner: str, due_before: datetime | None, crowded: Sequence[str]) -> list[Batch]:
        """The due events of up to as many stores as there are workers, one batch each."""
        with self._lock:
            at_work = list(self._at_work)
        batches: list[Batch] = []
        with self.database.transaction() as connection:
            if TWILIO not in at_work and text_batch.SOURCE not in crowded:
                # First: a STOP may be among them.
                texts = text_batch.claim(
                    connection,
                    owner=owner,
                    limit=self.events_at_once,
                    lease=self.runner.lease,
                    due_before=due_before,
                )
                if texts:
                    batches.append(Batch(TWILIO, text_batch.SOURCE, [], texts))
            waiting = inbox.waiting_stores(
                connection, due_before=due_before, not_stores=at_work, not_platforms=crowded
            )
            for store in sorted(waiting, key=lambda store: self._turns.get(store.store_id, 0)):
                if len(batches) == self.request.max_workers:
                    break
                events = inbox.claim(
                    connection,
                    store.store_id,
                    owner=owner,
                    limit=self.events_at_once,
                    lease=self.runner.lease,
                    due_before=due_before,
                )
                if events:
                    batches.append(Batch(store.store_id, store.platform, events))
        with self._lock:
            for batch in batches:
                self._at_work.add(batch.store_id)
                if batch.store_id != TWILIO:
                    self._turn += 1
                    self._turns[batch.store_id] = self._turn
        return batches

    def group(self, batch: Batch) -> str:
        return batch.platform

    def work_on(self, batch: Batch) -> None:
        if batch.texts:
            self._take_texts(batch.texts)
            return
        work = StoreBatch(self, batch.store_id, batch.events)
        failed = True
        try:
            work.run()
            failed = False
            self._look_whether_well(batch)
        except IntegrationError as error:
            work.release()
            if not is_expected(error):
                raise
            self.say(f"store {batch.store_id}: its events could not be settled: {error.message}")
        finally:
            with self._lock:
                self._at_work.discard(batch.store_id)
                self.summary.batches += 1
                self.summary.batches_failed += failed

    def _look_whether_well(self, batch: Batch) -> None:
        now = self.clock()
        with self._lock:
            if now - self._looked.get(batch.store_id, -WELL_SECONDS) < WELL_SECONDS:
                return
            self._looked[batch.store_id] = now
        with self.database.transaction() as connection:
            clear_if_well(connection, batch.store_id, batch.platform)

    def _take_texts(self, texts: Sequence[TextEvent]) -> None:
        try:
            text_batch.handle(
                self.database,
                self.cipher,
                self.texts,
                texts,
                job=self.job,
                policies=self.policies,
                rng=self.rng,
                note=lambda status, age: self.note_settled(status, 1, [age] if age else []),
            )
        finally:
            with self._lock:
                self._at_work.discard(TWILIO)
                self.summary.batches += 1

    def renew(self, connection: psycopg.Connection[Any], owners: Sequence[str], lease: timedelta) -> None:
        QUEUE.renew(connection, owners, lease)

    def give_back(self, owners: Sequence[str]) -> None:
        with suppress(IntegrationError), self.database.transaction() as connection:
            QUEUE.release(connection, owners)

    def claimed(self, batches: int) -> None:
        pass

    def counts(self) -> tuple[int, int]:
        with self._lock:
            return self.summary.batches, self.summary.batches_failed

    def progress(self, seconds: float) -> str:
        with self._lock:
            total = sum(self.summary.events.values())
            if total == self._told:
                return ""
            self._told = total
            outcomes = ", ".join(
                f"{number:,} {status.replace('_', ' ')}"
                for status, number in self.summary.events.most_common()
            )
        return f"{outcomes} of {counted(len(self._turns), 'store')} in {seconds:.0f} s"

    # What batches ask for, and report

    def check_stopped(self) -> None:
        self.runner.check_stopped()

    def say(self, message: str) -> None:
        self.runner.say(message)

    def note_settled(self, status: str, events: int, ages: Sequence[float] = ()) -> None:
        with self._lock:
            self.summary.events[status] += events
            room = MOST_AGES - len(self.summary.ages)
            self.summary.ages.extend(ages[: max(0, room)])

    def note_failed(self, events: int) -> None:
        with self._lock:
            self.summary.events["failed"] += events

    def note_asked(self, rows: int) -> None:
        with self._lock:
            self.summary.asks += 1
            self.summary.asked += rows

    def note_rows(self, table: str, counts: Counts) -> None:
        with self._lock:
            self.summary.rows.setdefault(table, Counts())
            self.summary.rows[table] += counts
