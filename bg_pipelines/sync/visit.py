"""One store's claimed resources, one after the other, each settled by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg.rows import dict_row, scalar_row
from psycopg.types.json import Jsonb

from bg_pipelines.database.sqlstates import is_expected, is_outage
from bg_pipelines.errors import ErrorType, IntegrationError, unexpected
from bg_pipelines.incidents import fingerprints, reporting
from bg_pipelines.incidents.fingerprints import Fingerprint
from bg_pipelines.platforms import StoreAccess
from bg_pipelines.platforms.protocol import Platform
from bg_pipelines.records import Resource
from bg_pipelines.retries import Decision, Strategy, decide, vendor_delay
from bg_pipelines.sync.completeness import PutBack
from bg_pipelines.sync.summary import Failure
from bg_pipelines.sync.table_sync import ResourceSync
from bg_pipelines.work import circuits, store_units
from bg_pipelines.work.circuits import OF_A_STORE, Change, Outcome
from bg_pipelines.work.queue import clock
from bg_pipelines.work.store_units import Claim

if TYPE_CHECKING:
    from bg_pipelines.sync.audit.store_audit import StoreAudit
    from bg_pipelines.sync.run import SyncRun

T = TypeVar("T")

OUT_OF_REACH = {
    ErrorType.TIMEOUT,
    ErrorType.CONNECTION,
    ErrorType.SERVER_ERROR,
    ErrorType.THROTTLED,
    ErrorType.MALFORMED_RESPONSE,
    ErrorType.SHOP_LOCKED,
    ErrorType.CREDENTIALS,
    ErrorType.PAYMENT_REQUIRED,
    ErrorType.SHOP_GONE,
    ErrorType.CONFIGURATION,
}
"""A store out of reach for one resource is so for the next; anything else is the one resource's own."""


class Stopped(Exception):  # noqa: N818 (not an error: the work was asked to stop)
    """The run is being stopped; what is unfinished is given back."""


class StoreSync:
    """The claimed resources of one store, one after the other, each settled by itself: one visit."""

    def __init__(self, run: SyncRun, works: Sequence[Claim]) -> None:
        self.run_ = run
        self.database = run.database
        self.works = works
        self.store_id = works[0].store_id
        self.platform_name = works[0].platform
        self.began = run.clock()
        self._outcome: Outcome | None = None
        self._reported: set[Fingerprint] = set()
        self._is_probe = self._reopened = False

    def run(self) -> None:
        row = self._row()
        self.name = row["name"]
        self._is_probe = any(work.owner.endswith("/probe") for work in self.works)
        if (row.pop("is_shut") and not self._is_probe) or self.run_.is_over:
            # A circuit has opened since these were claimed, or the run's time is over: no more calls.
            self._put_back(self.works, turn_is_over=False)
            return
        platform: Platform | None = None
        failure: Failure | None = None
        synced: list[Resource] = []
        answered = False
        try:
            for number, work in enumerate(self.works):
                self.run_.check_stopped()
                attempt = self._begin(work)
                if failure is not None and failure.error.error_type in OUT_OF_REACH:
                    self._settle_failed(work, attempt, failure, progressed=False)
                    continue
                resource: ResourceSync | StoreAudit | None = None
                try:
                    if platform is None:
                        platform = self._connect(row)
                    resource = self._unit(platform, work, attempt)
                    resource.run()
                    self.run_.note_synced(Resource(work.resource))
                    synced.append(Resource(work.resource))
                    continue
                except IntegrationError as error:
                    waits = None
                    if error.error_type is ErrorType.OPERATION_RUNNING and isinstance(resource, ResourceSync):
                        waits = self._wait(work, attempt, resource.cursor, error)
                        if waits is None:
                            answered = True
                            continue
                    failure = Failure(self.name, [], error, tries=waits)
                except PutBack:
                    self._put_back(self.works[number:], turn_is_over=True)
                    if synced or answered:
                        self._note_success(synced)
                    elif resource is not None and resource.progressed:
                        self.note_progress()
                    return
                except Stopped:
                    raise
                except Exception as error:  # noqa: BLE001 (one store's surprise must not stop the others)
                    failure = Failure(self.name, [], unexpected(error))
                self._settle_failed(
                    work, attempt, failure, progressed=resource is not None and resource.progressed
                )
            if synced or answered:
                self._note_success(synced)
        finally:
            if platform is not None:
                platform.close()
        self.run_.note_store(self.store_id, complete=failure is None)

    def _unit(self, platform: Platform, work: Claim, attempt: int) -> ResourceSync | StoreAudit:
        if work.resource != Resource.AUDIT:
            return ResourceSync(self, platform, work, attempt)
        # Here, for pandas takes half a second and 40 MB that no other job has a use for.
        from bg_pipelines.sync.audit.store_audit import StoreAudit

        return StoreAudit(self, platform, work, attempt)

    def note_progress(self) -> None:
        """Pages were kept. If this is a probe, its vendor answers, and nobody need wait until all is read."""
        if not self._is_probe:
            return
        self._is_probe = False
        self._retried(
            lambda connection: self._note_closed(
                connection, circuits.note_answer(connection, self.platform_name)
            )
        )

    def turn_is_over(self) -> bool:
        return self.run_.turn_is_over(self.began)

    def _connect(self, row: dict[str, Any]) -> Platform:
        self.held = row["credentials"]
        credentials = self.run_.cipher.decrypt(self.held)
        access = StoreAccess(**{**row, "credentials": credentials}, save_credentials=self._save_credentials)
        return self.run_.connect(access, self.run_.sleep)

    def _row(self) -> dict[str, Any]:
        with self.database.transaction() as connection, connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute(
                "SELECT name, platform, domain, api_url, credentials, EXISTS (SELECT FROM circuits c "
                "WHERE c.opened_at IS NOT NULL AND (c.store_id = stores.id OR c.platform = stores.platform)) AS is_shut "
                "FROM stores WHERE id = %s",
                (self.store_id,),
            )
            row = cursor.fetchone()
        assert row is not None
        return row

    def _save_credentials(self, credentials: Any) -> None:
        renewed = self.run_.cipher.encrypt(credentials)
        with self.database.transaction() as connection:
            # Only over what was read: a person, or another run, may have given others meanwhile.
            kept = connection.execute(
                "UPDATE stores SET credentials = %s WHERE id = %s AND credentials = %s",
                (renewed, self.store_id, self.held),
            ).rowcount
        if kept:
            self.held = renewed

    def _begin(self, work: Claim) -> int:
        with self.database.transaction() as connection:
            connection.execute(
                "UPDATE sync_attempts SET status = 'abandoned', finished_at = clock_timestamp() "
                "WHERE store_id = %s AND resource = %s AND status = 'running'",
                (work.store_id, work.resource),
            )
            with connection.cursor(row_factory=scalar_row) as cursor:
                cursor.execute(
                    "INSERT INTO sync_attempts (run_id, store_id, resource) VALUES (%s, %s, %s) RETURNING id",
                    (self.run_.run_id, work.store_id, work.resource),
                )
                return int(cursor.fetchone() or 0)

    def _settle_failed(self, work: Claim, attempt: int, failure: Failure, *, progressed: bool) -> None:
        error = failure.error
        if is_outage(error):
            raise error  # nothing can be settled, for any store: the run itself cannot work
        self.run_.check_stopped()
        if error.error_type is ErrorType.LEASE_LOST:
            failure.next = "the other worker settles it"
        else:
            try:
                failure.next = self._retried(
                    lambda connection: self._decide(connection, work, attempt, failure, progressed)
                )
            except IntegrationError as lost:
                if lost.error_type is not ErrorType.LEASE_LOST:
                    raise
                failure.next = "another worker has it now"
        self.run_.note_failed(Resource(work.resource), failure)
        with self.database.transaction() as connection:
            connection.execute(
                "UPDATE sync_attempts SET status = 'failed', finished_at = clock_timestamp(), error = %s WHERE id = %s",
                (Jsonb(error.as_dict()), attempt),
            )

    def _wait(self, work: Claim, attempt: int, cursor: dict[str, Any], error: IntegrationError) -> int | None:
        """Settle a row whose platform is still at work for it: no failure, it is looked at again when it is due.

        How often it was is counted in its pass. Returns None, or that count once it has used up its tries.
        """
        waits = int(cursor["pass"].get("waits", 0)) + 1
        self.run_.check_stopped()

        def settle(connection: psycopg.Connection[Any]) -> Decision:
            decision = decide(
                error,
                waits,
                clock(connection),
                self.run_.rng,
                job=self.run_.request.job,
                policies=self.run_.policies,
            )
            # A person who has it tried again has it waited for as long once more.
            cursor["pass"]["waits"] = 0 if decision.retry_at is None else waits
            store_units.save(connection, work, cursor)
            if decision.retry_at is not None:
                store_units.QUEUE.retry(connection, work, error, decision, attempts=work.attempts)
                connection.execute(
                    "UPDATE sync_attempts SET status = 'released', finished_at = clock_timestamp(), error = %s WHERE id = %s",
                    (Jsonb(error.as_dict()), attempt),
                )
            return decision

        try:
            decision = self._retried(settle)
        except IntegrationError as lost:
            if lost.error_type is not ErrorType.LEASE_LOST:
                raise
            return None  # another worker has it now
        if decision.retry_at is None:
            return waits
        again = f"it is looked at again at {decision.retry_at:%H:%M:%S} UTC"
        self.run_.note_waiting(
            Resource(work.resource), f"{self.name}: {work.resource} waits: {error.message}; {again}"
        )
        return None

    def _retried(self, act: Callable[[psycopg.Connection[Any]], T]) -> T:
        """A transaction, once more where PostgreSQL ended it as happens in a database in use: what lost did nothing."""
        counted, reported = self._outcome, set(self._reported)
        for last in (False, False, True):
            try:
                with self.database.transaction() as connection:
                    outcome = act(connection)
                if self._reopened:
                    self._reopened = False
                    self.run_.look_again()
                return outcome
            except IntegrationError as error:
                self._outcome, self._reported = counted, set(reported)
                if last or not is_expected(error):
                    raise
        raise AssertionError

    def _decide(
        self,
        connection: psycopg.Connection[Any],
        work: Claim,
        attempt: int,
        failure: Failure,
        progressed: bool,
    ) -> str:
        """Settle a failed row: when it is tried again, or the incident it waits under; returns that in words."""
        error = failure.error
        outcome = self._count_failure(connection, work, error)
        attempts = 1 if progressed else work.attempts + 1
        if outcome.platform in (Change.OPENED, Change.STILL_OPEN, Change.PROBE_FAILED, Change.AILING):
            attempts = max(1, attempts - 1)  # the vendor's fault uses up no store's tries
        decision = decide(
            error,
            failure.tries or attempts,
            clock(connection),
            self.run_.rng,
            job=self.run_.request.job,
            policies=self.run_.policies,
        )
        if error.error_type is ErrorType.CREDENTIALS and self._has_new_credentials(connection):
            now = clock(connection)
            decision = Decision(
                Strategy.EXPONENTIAL_BACKOFF, now, "its credentials were given anew meanwhile"
            )
        incident = None
        if decision.retry_at is None:
            out_of_reach = error.error_type in OUT_OF_REACH
            fingerprint: Fingerprint = fingerprints.StoreUnit(
                self.store_id, None if out_of_reach else work.resource, error.error_type
            )
            if error.error_type in OF_A_STORE:  # then its circuit's incident is the same fault
                fingerprint = fingerprints.Circuit(f"store:{self.store_id}")
            incident = reporting.report(
                connection,
                reporting.Fault(
                    fingerprint,
                    subject=f"store {self.name}",
                    error=error,
                    needs_attention=True,
                    job=self.run_.request.job,
                    platform=self.platform_name,
                    store_id=self.store_id,
                    resources=[work.resource],
                    payload=f"sync_attempts {attempt}",
                ),
                repeat=fingerprint not in self._reported,  # once a visit, however many resources it reaches
            )
            self._reported.add(fingerprint)
        if incident is None:
            store_units.QUEUE.retry(connection, work, error, decision, attempts=attempts)
        else:
            store_units.QUEUE.park(connection, work, error, decision, attempts=attempts, incident_id=incident)
        if decision.retry_at is None:
            return f"{decision.reason}: it waits for a person as incident {incident}"
        return f"tried again at {decision.retry_at:%H:%M:%S} UTC ({decision.reason})"

    def _count_failure(
        self, connection: psycopg.Connection[Any], work: Claim, error: IntegrationError
    ) -> Outcome:
        """Tell the circuits, once a visit, and report the one that opened, or whose probe failed."""
        if self._outcome is not None:
            return self._outcome
        outcome = circuits.note_failure(
            connection,
            self.store_id,
            self.platform_name,
            error.error_type,
            owner=work.owner,
            wait=vendor_delay(error),
            first=work.attempts == 0,
        )
        if error.error_type in OF_A_STORE:
            self._outcome = outcome
        self._note_closed(connection, outcome)
        store, platform = f"store {self.name}", f"platform {self.platform_name}"
        for subject, change in ((platform, outcome.platform), (store, outcome.store)):
            if change is Change.OPENED:
                self.run_.note_message(
                    f"{subject} failed too often ({error.error_type}): it is left alone and probed until it answers"
                )
            if change not in (Change.OPENED, Change.PROBE_FAILED):
                continue
            of_store = subject is store and outcome.platform is not Change.AILING
            key = f"store:{self.store_id}" if of_store else f"platform:{self.platform_name}"
            fault = reporting.Fault(
                fingerprints.Circuit(key),
                subject=store if of_store else platform,
                error=self._of_many(error) if outcome.platform is Change.AILING else error,
                needs_attention=False,
                platform=self.platform_name,
                store_id=self.store_id if of_store else None,
            )
            reporting.report(connection, fault, occurrence=work.owner)
        return outcome

    def _of_many(self, error: IntegrationError) -> IntegrationError:
        """The error as one of many stores of the platform that fail now and then."""
        return IntegrationError.of(
            error.error_type,
            f"many of its stores fail again and again; the last, {self.name}: {error.message}",
            source=error.source,
            details=error.details,
        )

    def _note_success(self, synced: Sequence[Resource]) -> None:
        """Close circuits and incidents of what has worked; report rows that could not be loaded."""

        def note(connection: psycopg.Connection[Any]) -> None:
            # A visit that was answered in part is no sign that store or vendor are well again.
            if self._outcome is None:
                outcome = circuits.note_success(connection, self.store_id, self.platform_name)
                self._note_closed(connection, outcome)
            reporting.clear_recovered(connection, self.store_id, synced)
            self._report_rejects(connection, synced)

        self._retried(note)

    def _note_closed(self, connection: psycopg.Connection[Any], outcome: Outcome) -> None:
        """Tell of circuits that closed; the platform's incident is over unless many of its stores still fail."""
        if Change.CLOSED not in outcome:
            return
        if outcome.store is Change.CLOSED:
            self.run_.note_message(f"store {self.name} answers again")
        if outcome.platform is Change.CLOSED:
            self.run_.note_message(f"platform {self.platform_name} answers again")
            self._reopened = True
        if not circuits.is_ailing(connection, self.platform_name):
            key = fingerprints.Circuit(f"platform:{self.platform_name}")
            reporting.clear(connection, [key], "it answers again")

    def _has_new_credentials(self, connection: psycopg.Connection[Any]) -> bool:
        """Whether somebody gave the store others since this visit read them."""
        row = connection.execute("SELECT credentials FROM stores WHERE id = %s", (self.store_id,)).fetchone()
        return row is not None and bytes(row[0]) != bytes(self.held)

    def _report_rejects(self, connection: psycopg.Connection[Any], synced: Sequence[Resource]) -> None:
        held = {
            resource: (rows, external_id, reason)
            for resource, rows, external_id, reason in connection.execute(
                "SELECT resource, count(*), (array_agg(external_id ORDER BY id))[1], (array_agg(reason ORDER BY id))[1] "
                "FROM rejected_rows WHERE store_id = %s AND resource = ANY(%s) GROUP BY resource",
                (self.store_id, list(synced)),
            )
        }
        fine = [
            fingerprints.RejectedRows(self.store_id, resource) for resource in synced if resource not in held
        ]
        reporting.clear(connection, fine, "every row loads again, or is gone at the source")
        for resource, (rows, external_id, reason) in held.items():
            error = IntegrationError.of(
                ErrorType.BAD_DATA,
                f"{rows} row{'s' * (rows != 1)} of {resource} could not be loaded; the first, {external_id}: {reason}",
                source=self.platform_name,
                details={"rows": rows},
            )
            fault = reporting.Fault(
                fingerprints.RejectedRows(self.store_id, resource),
                subject=f"store {self.name}",
                error=error,
                needs_attention=True,
                job=self.run_.request.job,
                platform=self.platform_name,
                store_id=self.store_id,
                resources=[resource],
                payload=f"rejected_rows of store {self.store_id}, {resource}",
            )
            # A pass that does not read them again says nothing new of them.
            reporting.report(connection, fault, occurrence=f"{rows} rows")

    def _put_back(self, works: Sequence[Claim], *, turn_is_over: bool) -> None:
        with self.database.transaction() as connection:
            for work in works:
                with suppress(IntegrationError):  # lost meanwhile: whoever has it now goes on with it
                    store_units.QUEUE.yield_(connection, work, behind_others=turn_is_over)
            connection.execute(
                "UPDATE sync_attempts SET status = 'released', finished_at = clock_timestamp() "
                "WHERE store_id = %s AND run_id = %s AND status = 'running'",
                (self.store_id, self.run_.run_id),
            )
        self.run_.note_given_back(turn_is_over=turn_is_over)
