"""Settling: how a unit of a store's work ends. The outcomes are a closed set, each written to its row at once.

    Done      the unit settled itself, in the transaction of its last rows
    Yielded   its turn was over: due again, behind all others
    Waiting   the platform is not ready yet: checked again later; nothing failed
    Retried   it failed: retried automatically at a given time
    Parked    it failed and requires attention: parked under an incident
    Lost      another worker has claimed it and settles it

`decide_failure` only decides; `Settling` writes row, attempt, circuits and incident in one transaction, and remembers
only what was committed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

import psycopg

from bg_pipelines.database.engine import Database
from bg_pipelines.database.sqlstates import is_expected, is_outage
from bg_pipelines.errors import ErrorType, IntegrationError, Severity
from bg_pipelines.incidents import reporting
from bg_pipelines.incidents.failing import fail
from bg_pipelines.incidents.fingerprints import Circuit, Fingerprint, Platform, StoreUnit
from bg_pipelines.queues import Unit, next_turn
from bg_pipelines.retries import Decision, Policies, Strategy, decide, vendor_delay
from bg_pipelines.sync.context import Coverage, NotReady, StoreRef
from bg_pipelines.sync.rejects import report_rejects
from bg_pipelines.work import attempts, circuits, rollups, store_units
from bg_pipelines.work.attempts import Attempt
from bg_pipelines.work.circuits import OF_A_PLATFORM, OF_A_STORE, Transition
from bg_pipelines.work.queue import all_queues, clock
from bg_pipelines.work.store_units import QUEUE, Claim, save

Connection = psycopg.Connection[Any]
T = TypeVar("T")

OUT_OF_REACH = {
    ErrorType.TIMEOUT,
    ErrorType.CONNECTION,
    ErrorType.SERVER_ERROR,
    ErrorType.THROTTLED,
    ErrorType.MALFORMED_RESPONSE,
    ErrorType.REFUSED,
    ErrorType.SHOP_LOCKED,
    ErrorType.CREDENTIALS,
    ErrorType.PAYMENT_REQUIRED,
    ErrorType.SHOP_GONE,
    ErrorType.CONFIGURATION,
}
"""Errors that put the whole store out of reach; any other is its unit's own."""


class Done(NamedTuple):
    pass


class Yielded(NamedTuple):
    pass


class Waiting(NamedTuple):
    until: datetime


class Retried(NamedTuple):
    at: datetime
    reason: str

    def __str__(self) -> str:
        return f"retrying at {self.at:%H:%M:%S} UTC ({self.reason})"


class Parked(NamedTuple):
    incident: int
    reason: str

    def __str__(self) -> str:
        return f"{self.reason}: parked until somebody deals with incident {self.incident}"


class Lost(NamedTuple):
    def __str__(self) -> str:
        return "another worker has claimed it and settles it"


Outcome = Done | Yielded | Waiting | Retried | Parked | Lost


class Failure(NamedTuple):
    """Why a unit failed, and what is known of it.

    `progressed`: it committed progress, and the next attempt continues after it. `tries`: how often it failed in a
    row, where the row does not count that.
    """

    error: IntegrationError
    progressed: bool = False
    tries: int | None = None


def decide_failure(
    failure: Failure,
    attempts_before: int,
    now: datetime,
    rng: random.Random,
    *,
    vendors_fault: bool,
    new_credentials: bool,
    worked_lately: bool,
    job: str,
    policies: Policies,
) -> tuple[int, Decision]:
    """What happens next to a unit that failed: its count of failures from now on, and the decision.

    A vendor's fault uses up no store's attempts, however long it lasts. Work that failed with credentials that were
    replaced meanwhile is retried at once.
    """
    count = 1 if failure.progressed else attempts_before + 1
    if vendors_fault:
        count = max(1, count - 1)
    if failure.error.error_type is ErrorType.CREDENTIALS and new_credentials:
        return count, Decision(Strategy.EXPONENTIAL_BACKOFF, now, "new credentials were set meanwhile")
    tries = failure.tries or count
    return count, decide(
        failure.error, tries, now, rng, job=job, policies=policies, worked_lately=worked_lately
    )


@dataclass
class _Known:
    """What a visit has reported so far: a failure counts once for the circuits, and once as a repeat of an
    incident."""

    circuits: circuits.Outcome | None = None
    reported: set[Fingerprint] = field(default_factory=set)
    messages: list[str] = field(default_factory=list)
    reopened: bool = False


class Settling:
    """Settles the units of one visit to a store, one by one.

    `held_credentials` are those that the visit has, encrypted; `say` takes a line for whoever watches the run; `reopened`
    is called when a platform answers again: there is more to claim than there was.
    """

    def __init__(
        self,
        database: Database,
        store: StoreRef,
        *,
        run_id: str,
        job: str,
        policies: Policies,
        rng: random.Random,
        held_credentials: Callable[[], bytes],
        say: Callable[[str], None],
        reopened: Callable[[], None],
    ) -> None:
        self.database = database
        self.store = store
        self.run_id = run_id
        self.job = job
        self.policies = policies
        self.rng = rng
        self.held_credentials = held_credentials
        self.say = say
        self.reopened = reopened
        self._known = _Known()

    # Outcomes

    def failed(self, claim: Claim, attempt: Attempt, failure: Failure) -> Retried | Parked | Lost:
        """Settle a unit that failed. Raises IntegrationError (database) during an outage: nothing can be settled."""
        if is_outage(failure.error):
            raise failure.error
        outcome: Retried | Parked | Lost
        try:
            if failure.error.error_type is ErrorType.LEASE_LOST:
                raise failure.error
            outcome = self._transact(
                lambda connection, known: self._fail(connection, known, claim, attempt, failure)
            )
        except IntegrationError as error:
            if error.error_type is not ErrorType.LEASE_LOST:
                raise
            outcome = Lost()
        with self.database.transaction() as connection:
            attempts.end(connection, attempt, "failed", error=failure.error)
        return outcome

    def not_ready(self, claim: Claim, attempt: Attempt, waits: NotReady) -> Waiting | Lost | None:
        """Settle a unit whose platform is not ready yet; None once its attempts are used up: then it failed."""

        def act(connection: Connection, known: _Known) -> Decision:
            now = clock(connection)
            decision = decide(waits.error, waits.waits, now, self.rng, job=self.job, policies=self.policies)
            # A person who retries it grants the same time again.
            save(connection, claim, waits.cursor(0 if decision.retry_at is None else waits.waits))
            if decision.retry_at is not None:
                QUEUE.retry(connection, claim, waits.error, decision, attempts=claim.attempts)
                attempts.end(connection, attempt, "released", error=waits.error)
                known.messages.append(
                    f"{self.store.name}: {claim.unit} waits: {waits.error.message}. "
                    f"Checked again at {decision.retry_at:%H:%M:%S} UTC"
                )
            return decision

        try:
            decision = self._transact(act)
        except IntegrationError as lost:
            if lost.error_type is not ErrorType.LEASE_LOST:
                raise
            return Lost()
        return None if decision.retry_at is None else Waiting(decision.retry_at)

    def give_back(self, claims: Sequence[Claim], *, behind_others: bool) -> None:
        """Release units unfinished; a claim that was lost meanwhile is left to its new owner."""
        with self.database.transaction() as connection:
            for claim in claims:
                with suppress(IntegrationError):
                    QUEUE.yield_(connection, claim, behind_others=behind_others)
            attempts.release(connection, self.run_id, self.store.id)

    def note_answer(self) -> None:
        """Pages were committed: the vendor answers, and nobody needs to wait until everything is read."""
        self._transact(
            lambda connection, known: self._note_closed(
                connection, known, circuits.note_answer(connection, self.store.platform)
            )
        )

    def note_success(self, done: Sequence[str]) -> None:
        """Close circuits and incidents of what succeeded; report rows that could not be loaded."""

        def act(connection: Connection, known: _Known) -> None:
            if not may_be_over(connection, [self.store.id]):
                return  # as nearly always
            # A partly successful visit does not show that store or vendor have recovered.
            if known.circuits is None:
                outcome = circuits.note_success(connection, self.store.id, self.store.platform)
                self._note_closed(connection, known, outcome)
            carried = [queue.table for queue in all_queues() if queue.carrier in done]
            reporting.clear_recovered(connection, self.store.id, [*done, *carried])
            store = self.store
            report_rejects(
                connection, store.id, done, store=store.name, platform=store.platform, job=self.job
            )

        self._transact(act)

    # Writing

    def _transact(self, act: Callable[[Connection, _Known], T]) -> T:
        """A transaction, retried on conflict; what it learnt counts once it is committed."""

        def learning(connection: Connection) -> tuple[T, _Known]:
            known = replace(self._known, reported=set(self._known.reported), messages=[], reopened=False)
            return act(connection, known), known

        result, self._known = self.database.transact(learning, again_if=is_expected)
        for message in self._known.messages:
            self.say(message)
        if self._known.reopened:
            self.reopened()
        return result

    def _fail(
        self, connection: Connection, known: _Known, claim: Claim, attempt: Attempt, failure: Failure
    ) -> Retried | Parked:
        error = failure.error
        outcome = self._count_failure(connection, known, claim, error)
        count, decision = decide_failure(
            failure,
            claim.attempts,
            clock(connection),
            self.rng,
            vendors_fault=outcome.platform
            in (Transition.OPENED, Transition.STILL_OPEN, Transition.PROBE_FAILED, Transition.AILING),
            new_credentials=self._has_new_credentials(connection),
            # A scope may be of one unit alone; what puts the store out of reach is of all.
            worked_lately=store_units.worked_lately(
                connection, self.store.id, None if error.error_type in OUT_OF_REACH else claim.unit
            ),
            job=self.job,
            policies=self.policies,
        )
        unit = None if error.error_type in OUT_OF_REACH else claim.unit
        fingerprint: Fingerprint = StoreUnit(self.store.id, unit, error.error_type)
        if error.error_type in OF_A_STORE:  # then its circuit's incident is the same fault
            fingerprint = Circuit(f"store:{self.store.id}")
        fault = reporting.Fault(
            fingerprint,
            subject=f"store {self.store.name}",
            error=error,
            needs_attention=True,
            job=self.job,
            platform=self.store.platform,
            store_id=self.store.id,
            units=[claim.unit],
            payload=f"sync_attempts {attempt.id}",
        )
        # A failure counts as repeated once per visit, however many units it affects.
        repeat = fingerprint not in known.reported
        settled = fail(
            connection, QUEUE, claim, fault, attempts=count, rng=self.rng, decision=decision, repeat=repeat
        )
        if settled.incident_id is None:
            assert decision.retry_at is not None
            return Retried(decision.retry_at, decision.reason)
        known.reported.add(fingerprint)
        return Parked(settled.incident_id, decision.reason)

    def _has_new_credentials(self, connection: Connection) -> bool:
        """Whether somebody gave the store others since this visit read them."""
        row = connection.execute("SELECT credentials FROM stores WHERE id = %s", (self.store.id,)).fetchone()
        return row is not None and bytes(row[0]) != bytes(self.held_credentials())

    # Circuits

    def _count_failure(
        self, connection: Connection, known: _Known, claim: Claim, error: IntegrationError
    ) -> circuits.Outcome:
        """Count the failure for the circuits, once per visit, and report one that opened, or whose probe failed."""
        if known.circuits is not None:
            return known.circuits
        outcome = circuits.note_failure(
            connection,
            self.store.id,
            self.store.platform,
            error.error_type,
            owner=claim.owner,
            wait=vendor_delay(error),
            first=claim.attempts == 0,
        )
        if error.error_type in OF_A_STORE:
            known.circuits = outcome
        self._note_closed(connection, known, outcome)
        store, platform = f"store {self.store.name}", f"platform {self.store.platform}"
        for subject, change in ((platform, outcome.platform), (store, outcome.store)):
            if change is Transition.OPENED:
                known.messages.append(
                    f"{subject} failed too often ({error.error_type}): its circuit is open, only probes call it until it answers"
                )
            if change not in (Transition.OPENED, Transition.PROBE_FAILED):
                continue
            of_store = subject is store and outcome.platform is not Transition.AILING
            key = f"store:{self.store.id}" if of_store else f"platform:{self.store.platform}"
            fault = reporting.Fault(
                Circuit(key),
                subject=store if of_store else platform,
                error=self._as_severe(error, outcome, of_store=of_store),
                needs_attention=False,
                platform=self.store.platform,
                store_id=self.store.id if of_store else None,
            )
            incident = reporting.report_fault(connection, fault, occurrence=claim.owner)
            if outcome.platform is Transition.AILING:
                reporting.merge(connection, self.store.platform, OF_A_PLATFORM, incident)
        return outcome

    def _as_severe(
        self, error: IntegrationError, outcome: circuits.Outcome, *, of_store: bool
    ) -> IntegrationError:
        """A platform that is away is more than any store that is; one whose stores fail now and then is between."""
        if of_store:
            return error
        if outcome.platform is Transition.AILING:
            return self._of_many(error).at_least(Severity.HIGH)
        return error.at_least(Severity.CRITICAL)

    def _of_many(self, error: IntegrationError) -> IntegrationError:
        """The error as one of many stores of the platform that fail now and then."""
        return IntegrationError.of(
            error.error_type,
            f"many of its stores fail again and again; the last, {self.store.name}: {error.message}",
            source=error.source,
            details=error.details,
        )

    def _note_closed(self, connection: Connection, known: _Known, outcome: circuits.Outcome) -> None:
        """Tell of circuits that closed; the platform's incident is over unless many of its stores still fail."""
        if Transition.CLOSED not in outcome:
            return
        if outcome.store is Transition.CLOSED:
            known.messages.append(f"store {self.store.name} answers again")
        if outcome.platform is Transition.CLOSED:
            known.messages.append(f"platform {self.store.platform} answers again")
            known.reopened = True
        if not circuits.is_ailing(connection, self.store.platform):
            over = Circuit(f"platform:{self.store.platform}")
            reporting.clear(connection, [over], "it answers again")


class IdleVisit(NamedTuple):
    """A visit's units at whose source nothing has changed; none of them is claimed."""

    settling: Settling
    units: list[Claim]


_MAY_BE_OVER = f"""
    SELECT s.id FROM stores s WHERE s.id = ANY(%s) AND (
        EXISTS (SELECT FROM circuits c WHERE c.failures > 0 AND (c.store_id = s.id OR c.platform = s.platform))
        OR EXISTS (SELECT FROM incidents i WHERE i.status = 'open' AND (i.store_id = s.id
            OR (i.kind = '{Platform.kind}' AND i.platform = s.platform)))
        OR EXISTS (SELECT FROM rejected_rows r WHERE r.store_id = s.id))"""  # noqa: S608 (made of constants)


def may_be_over(connection: Connection, stores: Sequence[int]) -> set[int]:
    """Of these stores those at which a success has something to close or to report: see `Settling.note_success`."""
    rows = connection.execute(_MAY_BE_OVER, (list(stores),))
    return {store_id for (store_id,) in rows}


LOCK_SECONDS = 1
"""How long idle units wait for whoever holds their rows. They were not claimed, so one of them may be held for long."""


def settle_idle(database: Database, coverage: Coverage, visits: Sequence[IdleVisit]) -> None:
    """Settle visits of one run as done, all in one transaction. Raises IntegrationError (database)."""

    def act(connection: Connection) -> set[int]:
        connection.execute("SELECT set_config('lock_timeout', %s, true)", (f"{LOCK_SECONDS}s",))
        idle: list[tuple[Claim, datetime]] = []
        for visit in visits:
            for unit in visit.units:
                every = unit.interval
                if (resource := Unit(unit.unit).resource) is not None:
                    every = coverage.interval(connection, visit.settling.store, resource, every)
                idle.append((unit, next_turn(unit.claimed_at, every, unit.store_id)))
        store_units.complete_idle(connection, idle)
        rollups.note_idle(
            connection, visits[0].settling.job, [(unit.store_id, unit.unit) for unit, _ in idle]
        )
        stores = [visit.settling.store.id for visit in visits]
        units = {unit.unit for unit, _ in idle}
        for queue in all_queues():
            if queue.carrier in units:
                # For what was added to it meanwhile: the new due time would hide it.
                store_units.make_carrier_due(connection, queue, stores)
        return may_be_over(connection, stores)

    noted = database.transact(act)
    for visit in visits:
        if visit.settling.store.id in noted:
            visit.settling.note_success([unit.unit for unit in visit.units])
