"""The visit: the due units of one store. One look tells which of them are idle; the others are claimed, worked on one after the
other, and each settled separately."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Protocol

import psycopg

from bg_pipelines.database.engine import Database
from bg_pipelines.database.load import Counts
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.errors import IntegrationError, unexpected
from bg_pipelines.platforms.protocol import Platform
from bg_pipelines.queues import Unit
from bg_pipelines.retries import Policies
from bg_pipelines.sync import summary
from bg_pipelines.sync.context import Coverage, NotReady, StoreRef, TurnOver
from bg_pipelines.sync.idle import find_idle
from bg_pipelines.sync.settling import (
    OUT_OF_REACH,
    Done,
    Failure,
    IdleVisit,
    Outcome,
    Settling,
    Waiting,
    Yielded,
)
from bg_pipelines.sync.stores import Connect, Store, connect_store, read_store
from bg_pipelines.sync.units import Process
from bg_pipelines.work import attempts, store_units
from bg_pipelines.work.runner import Stopped
from bg_pipelines.work.store_units import Claim


class Run(Protocol):
    """What a visit asks of the run that makes it."""

    database: Database
    cipher: Cipher
    run_id: str
    limits: summary.Limits
    policies: Policies
    rng: random.Random
    request: summary.SyncRequest
    lease: timedelta
    coverage: Coverage
    processes: Mapping[Unit, Process]
    connect: Connect

    @property
    def is_over(self) -> bool:
        """Whether the run's time is over: no more visits."""

    def is_fresh(self, batch: Batch) -> bool:
        """Whether its store is still as it was read."""

    def settle_later(self, visit: IdleVisit) -> None:
        """Settle it together with others."""

    def settle_alone(self, visit: IdleVisit) -> None:
        """Settle it at once."""

    def sleep(self, seconds: float) -> None:
        """Wait, as a platform asks for; raises Stopped as soon as the run is stopped."""

    def check_stopped(self) -> None: ...
    def turn_is_over(self, began: float) -> bool: ...
    def clock(self) -> float: ...
    def look_again(self) -> None: ...
    def say(self, message: str) -> None: ...
    def note_rows(self, unit: Unit, pages: int, counts: Counts) -> None: ...
    def note_synced(self, unit: Unit) -> None: ...
    def note_waiting(self, unit: Unit) -> None: ...
    def note_failed(self, unit: Unit, failure: summary.Failure) -> None: ...
    def note_correction(self, left: summary.CorrectionReport | None) -> None: ...
    def note_change(self, left: summary.ChangeReport | None) -> None: ...
    def note_audit(self, found: summary.ResourceAudit) -> None: ...
    def note_store(self, store_id: int, complete: bool) -> None: ...
    def note_locked(self, store_id: int) -> None: ...
    def note_given_back(self, *, turn_is_over: bool) -> None: ...


class Batch(NamedTuple):
    """The due units of one store, for one visit, and the store as it was then; by the run's clock."""

    due: Sequence[Claim]
    store: Store
    claimed_at: float


class Visit:
    """The due units of one store, worked on by one worker. Used once."""

    def __init__(self, run: Run, batch: Batch) -> None:
        self.run_ = run
        self.database = run.database
        self.batch = batch
        self.due = batch.due
        self.store = batch.store
        self.store_id = batch.store.id
        self.began = run.clock()
        self.is_probe = any(unit.owner.endswith("/probe") for unit in self.due)
        self.claims = self.due if self.is_probe else []
        """Those that are claimed; a probe comes so."""
        self._platform: Platform | None = None

    def run(self) -> None:
        """Raises Stopped, and IntegrationError (database) where the run itself cannot work."""
        if not self.run_.is_fresh(self.batch):
            with self.database.transaction() as connection:
                self.store = read_store(connection, self.store_id)
        self.settling = Settling(
            self.database,
            StoreRef(self.store_id, self.store.name, self.store.platform),
            run_id=self.run_.run_id,
            job=self.run_.request.job,
            policies=self.run_.policies,
            rng=self.run_.rng,
            held_credentials=lambda: self.store.credentials,
            say=self.run_.say,
            reopened=self.run_.look_again,
        )
        if (self.store.is_shut and not self.is_probe) or self.run_.is_over:
            # A circuit has opened since these were claimed, or the run's time is over: no more calls.
            self._give_back(self.claims, turn_is_over=False)
            return
        done: list[str] = []
        answered = False
        idle: set[str] = set()
        failure: summary.Failure | None = None
        try:
            try:
                idle = self._look()
            except Stopped:
                raise
            except Exception as surprise:  # noqa: BLE001 (each unit says itself what it meets)
                if isinstance(surprise, IntegrationError) and surprise.error_type in OUT_OF_REACH:
                    failure = summary.Failure(self.store.name, [], surprise.of_store(self.store.name))
            if idle:
                visit = IdleVisit(self.settling, [unit for unit in self.due if unit.unit in idle])
                for unit in visit.units:
                    self._note_idle(unit)
                if len(idle) == len(self.due):
                    self.run_.settle_later(visit)
                    self.run_.note_store(self.store_id, complete=True)
                    return
                self.run_.settle_alone(visit)
                done += [unit.unit for unit in visit.units]
            if not self.is_probe:
                self._claim([unit for unit in self.due if unit.unit not in idle])
            for number, claim in enumerate(self.claims):
                self.run_.check_stopped()
                context = UnitContext(self, claim)
                outcome, error = self._work_on(context, failure)
                if isinstance(outcome, Yielded):
                    self._give_back(self.claims[number:], turn_is_over=True)
                    if done or answered:
                        self.settling.note_success(done)
                    return
                if isinstance(outcome, Done):
                    done.append(claim.unit)
                    self.run_.note_synced(context.unit)
                elif isinstance(outcome, Waiting) or error is None:
                    answered = True
                    if isinstance(outcome, Waiting):
                        self.run_.note_waiting(context.unit)
                else:
                    if failure is None or failure.error is not error:
                        failure = summary.Failure(self.store.name, [], error)
                    failure.next = str(outcome)
                    self.run_.note_failed(context.unit, failure)
            if done or answered:
                self.settling.note_success(done)
        finally:
            if self._platform is not None:
                self._platform.close()
        self.run_.note_store(self.store_id, complete=failure is None)

    def now(self) -> datetime:
        """The time by the database's clock, or a little earlier: claims have it, and ours tells how long ago that was."""
        return self.due[0].claimed_at + timedelta(seconds=self.run_.clock() - self.batch.claimed_at)

    def _look(self) -> set[str]:
        """The units at whose source nothing has changed. Raises like `find_idle`."""
        if self.is_probe:
            return set()
        return find_idle(self._connect, self.store, self.due, self.now())

    def _claim(self, units: Sequence[Claim]) -> None:
        with self.database.transaction() as connection:
            claimed = store_units.claim(connection, units, lease=self.run_.lease)
        order = [unit.unit for unit in units]
        self.claims = sorted(claimed, key=lambda claim: order.index(claim.unit))
        if len(claimed) < len(units):
            # Somebody else has the others, or holds their rows: this run does not look at them again and again.
            self.run_.note_locked(self.store_id)

    def _note_idle(self, claim: Claim) -> None:
        unit = Unit(claim.unit)
        self.run_.note_synced(unit)
        self.run_.note_rows(unit, 1, Counts())

    def _work_on(
        self, context: UnitContext, earlier: summary.Failure | None
    ) -> tuple[Outcome, IntegrationError | None]:
        """Work on one unit and settle it; returns how it ended, and the error where it failed."""
        claim, attempt = context.claim, context.attempt
        if earlier is not None and earlier.error.error_type in OUT_OF_REACH:
            return self.settling.failed(claim, attempt, Failure(earlier.error)), earlier.error
        tries = None
        try:
            context.platform = self._connect()
            self.run_.processes[context.unit](context)
            return Done(), None
        except TurnOver:
            return Yielded(), None
        except Stopped:
            raise
        except NotReady as not_ready:
            self.run_.check_stopped()
            waiting = self.settling.not_ready(claim, attempt, not_ready)
            if waiting is not None:
                return waiting, None
            error, tries = not_ready.error, not_ready.waits
        except IntegrationError as failed:
            error = failed.of_store(self.store.name)
        except Exception as surprise:  # noqa: BLE001 (one store's surprise must not stop the others)
            error = unexpected(surprise)
        self.run_.check_stopped()
        return self.settling.failed(claim, attempt, Failure(error, context.has_progressed, tries)), error

    def _give_back(self, claims: Sequence[Claim], *, turn_is_over: bool) -> None:
        if claims:
            self.settling.give_back(claims, behind_others=turn_is_over)
        self.run_.note_given_back(turn_is_over=turn_is_over)

    def note_progress(self) -> None:
        """Pages were committed. If this is a probe, its vendor answers, and nobody needs to wait until everything is
        read."""
        if self.is_probe:
            self.is_probe = False
            self.settling.note_answer()

    def _connect(self) -> Platform:
        if self._platform is None:
            run = self.run_
            self._platform = connect_store(self.store, self.database, run.cipher, run.connect, run.sleep)
        return self._platform


class UnitContext:
    """One unit of a visit: the `Context` that it is worked on with."""

    platform: Platform

    def __init__(self, visit: Visit, claim: Claim) -> None:
        run = visit.run_
        self.visit = visit
        self.claim = claim
        self.attempt = attempts.Attempt(claim.attempt_id, run.run_id, claim.store_id, claim.unit, visit.now())
        self.unit = Unit(claim.unit)
        self.store_name = visit.store.name
        self.database = visit.database
        self.cipher = run.cipher
        self.run_id = run.run_id
        self.job = run.request.job
        self.limits = run.limits
        self.sample = run.request.sample
        self.policies = run.policies
        self.rng = run.rng
        self.coverage = run.coverage
        self.has_progressed = False
        self.check_stopped = run.check_stopped
        self.now = visit.now
        self.say = run.say
        self.note_correction = run.note_correction
        self.note_change = run.note_change
        self.note_audit = run.note_audit

    def turn_is_over(self) -> bool:
        return self.visit.run_.turn_is_over(self.visit.began)

    def note_progress(self) -> None:
        self.has_progressed = True
        self.visit.note_progress()

    def void_progress(self) -> None:
        self.has_progressed = False

    def complete(
        self,
        connection: psycopg.Connection[Any],
        cursor: dict[str, Any],
        *,
        next_due_at: Any,
        full_pass_since: Any = None,
        changed_at: datetime | None = None,
    ) -> None:
        store_units.complete(
            connection,
            self.claim,
            cursor,
            next_due_at=next_due_at,
            full_pass_since=full_pass_since,
            changed_at=changed_at,
        )
        attempts.end(
            connection,
            self.attempt,
            "succeeded",
            full_pass=full_pass_since is not None,
            budget_used=self.visit.store.budget_used,
        )

    def note_rows(self, pages: int, counts: Counts) -> None:
        self.visit.run_.note_rows(self.unit, pages, counts)
