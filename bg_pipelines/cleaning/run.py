"""A cleaning run: the tasks of one job, one after the other, within a time budget.

    summary = CleaningRun(database, "clean_active_carts", tasks, run_id=..., log=print).run()

A task that fails is retried later or parked under an incident, and stops no other.
"""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, NamedTuple

import psycopg
from psycopg.types.json import Jsonb

from bg_pipelines.cleaning import tasks
from bg_pipelines.cleaning.batches import Manners, Outcome, Pass
from bg_pipelines.cleaning.pressure import Limits, Watch, in_words, measure
from bg_pipelines.cleaning.sweeps import RowSweep
from bg_pipelines.cleaning.tasks import ClaimedTask, Connection, Task
from bg_pipelines.database.engine import Database
from bg_pipelines.database.sqlstates import is_outage
from bg_pipelines.errors import ErrorType, IntegrationError, unexpected
from bg_pipelines.incidents import failing, reporting
from bg_pipelines.incidents.fingerprints import Cleaning
from bg_pipelines.incidents.reporting import Fault
from bg_pipelines.retries import Policies
from bg_pipelines.wording import counted
from bg_pipelines.work.queue import clock as database_clock
from bg_pipelines.work.queue import owner_of

LOOK_SECONDS = 1.0
RESULT_SECONDS = 2.0
LOG_SECONDS = 10.0


class Done(NamedTuple):
    """A task and what the run did of it; `failure` is why it failed, `pauses` are seconds by reason."""

    task: str
    outcome: Outcome
    pauses: dict[str, float]
    seconds: float
    failure: IntegrationError | None = None


class Summary(NamedTuple):
    """What a run did; `skipped` are tasks that another run has, or that are paused, parked or not due."""

    done: list[Done]
    skipped: list[str]
    seconds: float

    @property
    def rows(self) -> int:
        return sum(done.outcome.rows for done in self.done)

    @property
    def bytes(self) -> int:
        return sum(done.outcome.bytes for done in self.done)

    @property
    def figures(self) -> Counter[str]:
        total: Counter[str] = Counter()
        for done in self.done:
            total.update(done.outcome.figures)
        return total

    @property
    def pauses(self) -> dict[str, float]:
        total: Counter[str] = Counter()
        for done in self.done:
            total.update(done.pauses)
        return dict(total)


class CleaningRun:
    """One run of `job_tasks`, in their order. `declared` are the names of all tasks of the job, where these are not all.

    `sleep` is called with seconds, and raises what stops the run.
    """

    def __init__(
        self,
        database: Database,
        job: str,
        job_tasks: Sequence[Task],
        *,
        run_id: str,
        declared: Sequence[str] | None = None,
        only_due: bool = False,
        max_minutes: float = 15,
        manners: Manners | None = None,
        limits: Limits | None = None,
        log: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
        rng: random.Random | None = None,
        policies: Policies | None = None,
    ) -> None:
        self.database = database
        self.job = job
        self.tasks = {task.name: task for task in job_tasks}
        self.declared = list(self.tasks) if declared is None else declared
        self.run_id = run_id
        self.only_due = only_due
        self.max_seconds = max_minutes * 60
        self.manners = manners or Manners()
        self.limits = limits or Limits()
        self.log = log
        self.clock = clock
        self.sleep = sleep
        self.rng = rng or random.Random()  # noqa: S311 (jitter)
        self.policies = policies
        self.owner = f"{owner_of(run_id)}/{uuid.uuid4()}"
        self.began = clock()

    def run(self) -> Summary:
        """Raises IntegrationError where the database is away; what tasks have committed stays."""
        with self.database.transaction() as connection:
            tasks.declare(connection, self.job, self.declared)
        left = list(self.tasks)
        done: list[Done] = []
        ended = threading.Event()
        beating = threading.Thread(target=self._beat, args=(ended,), daemon=True, name="cleaning-beat")
        beating.start()
        try:
            while left and self.over() is None:
                with self.database.transaction() as connection:
                    claim = tasks.claim(connection, self.job, left, owner=self.owner, only_due=self.only_due)
                if claim is None:
                    break
                left.remove(claim.name)
                done.append(self._work_on(claim))
        finally:
            ended.set()
            with suppress(IntegrationError), self.database.transaction() as connection:
                tasks.QUEUE.release(connection, [self.owner])
        return Summary(done, left, self.clock() - self.began)

    def over(self) -> str | None:
        return "the run's time is over" if self.clock() - self.began >= self.max_seconds else None

    def _work_on(self, claim: ClaimedTask) -> Done:
        task_run = TaskRun(self, claim)
        began = self.clock()
        failure: IntegrationError | None = None
        try:
            outcome = self.tasks[claim.name].start(task_run)
            self._settle(claim, task_run, outcome)
        except IntegrationError as error:
            if is_outage(error):
                raise
            failure = error
        except psycopg.Error as error:
            failure = unexpected(error, details={"sqlstate": error.sqlstate})
        except Exception as error:  # noqa: BLE001 (one task's surprise must not stop the others)
            failure = unexpected(error)
        if failure is not None:
            outcome = task_run.so_far(failure.message)
            if failure.error_type is not ErrorType.LEASE_LOST:
                self._fail(claim, task_run, outcome, failure)
        return Done(claim.name, outcome, dict(task_run.watch.pauses), self.clock() - began, failure)

    def _settle(self, claim: ClaimedTask, task_run: TaskRun, outcome: Outcome) -> None:
        with self.database.transaction() as connection:
            if outcome.completed:
                now = database_clock(connection)
                tasks.QUEUE.complete(
                    connection,
                    claim,
                    "place = NULL, completed_at = statement_timestamp()",
                    next_due_at=now + self.tasks[claim.name].every,
                )
                reporting.clear(connection, [Cleaning(claim.name)], "it works again")
                connection.execute(
                    "DELETE FROM cleaning_set_aside WHERE task = %s AND last_at < statement_timestamp() - interval '2 days'",
                    (claim.name,),
                )
            else:
                tasks.QUEUE.yield_(connection, claim)
            task_run.write(connection, outcome)
        self.log(f"{claim.name}: {_in_words(outcome, dict(task_run.watch.pauses))}")

    def _fail(self, claim: ClaimedTask, task_run: TaskRun, outcome: Outcome, error: IntegrationError) -> None:
        fault = Fault(
            Cleaning(claim.name), f"cleaning {claim.name}", error, needs_attention=True, job=self.job
        )
        with suppress(IntegrationError), self.database.transaction() as connection:
            decided = failing.fail(
                connection,
                tasks.QUEUE,
                claim,
                fault,
                attempts=1 if outcome.batches else claim.attempts + 1,
                rng=self.rng,
                job=self.job,
                policies=self.policies,
                occurrence=self.run_id,
            )
            task_run.write(connection, outcome)
            self.log(f"{claim.name} failed: {error.message} It is {decided}.")

    def _beat(self, ended: threading.Event) -> None:
        while not ended.wait(tasks.LEASE.total_seconds() / 4):
            # A failure is reported by the work itself; the heartbeat must keep trying.
            with suppress(Exception), self.database.transaction() as connection:
                tasks.QUEUE.renew(connection, [self.owner], tasks.LEASE)


class TaskRun:
    """What a run offers to one of its tasks: its place, when to stop, and passes that behave."""

    def __init__(self, run: CleaningRun, claim: ClaimedTask) -> None:
        self.run = run
        self.claim = claim
        self.database = run.database
        self.log = run.log
        self.watch = Watch(lambda: measure(run.database, ()), run.limits, clock=run.clock)
        self.started_at = self._now()
        self.passing: Pass | None = None
        self._looked_at = self._wrote_at = self._logged_at = run.clock()

    def sweep(self, sweep: RowSweep) -> Outcome:
        """Go on with the pass of this sweep."""
        run, oids = self.run, sweep.relation.tables
        self.watch.measure = lambda: measure(run.database, oids)
        self.passing = Pass(
            run.database,
            sweep,
            keep=self.keep,
            watch=self.watch,
            clock=run.clock,
            sleep=run.sleep,
            manners=run.manners,
        )
        return self.passing.run(self.claim.place, self.stop)

    def finished(
        self,
        figures: Counter[str],
        why: str | None = None,
        *,
        batches: int = 0,
        set_aside: int = 0,
        advice: Sequence[Any] = (),
    ) -> Outcome:
        """The outcome of a task that is no pass through a table."""
        return Outcome(why is None, figures, batches, set_aside, 0, why, tuple(advice))

    def keep(self, connection: Connection, place: dict[str, Any]) -> None:
        """Write the place reached, in the transaction of what was done until there."""
        tasks.QUEUE.save(
            connection,
            self.claim,
            "place = %(place)s, lease_expires_at = statement_timestamp() + %(lease)s",
            {"place": Jsonb(place), "lease": tasks.LEASE},
        )
        now = self.run.clock()
        if now - self._wrote_at >= RESULT_SECONDS:
            self._wrote_at = now
            self.write(connection, self.so_far("at work"))
        if now - self._logged_at >= LOG_SECONDS and self.passing is not None:
            self._logged_at = now
            share = place["seen"] / place["end"] if place["end"] else 1
            self.log(f"{self.claim.name}: {min(share, 1):.0%}, {counted(self.so_far('').rows, 'row')} freed")

    def stop(self) -> str | None:
        """Why to stop now, if there is a reason."""
        if (why := self.run.over()) is not None:
            return why
        now = self.run.clock()
        if now - self._looked_at < LOOK_SECONDS:
            return None
        self._looked_at = now
        with self.database.transaction() as connection:
            by = tasks.paused_by(connection, self.claim.name)
        return f"paused by {by}" if by else None

    def so_far(self, why: str) -> Outcome:
        passing = self.passing
        if passing is None:
            return Outcome(False, Counter(), 0, 0, 0, why)
        return Outcome(False, passing.figures, passing.batches, passing.aside, passing.left_over, why)

    def write(self, connection: Connection, outcome: Outcome) -> None:
        run = self.run
        tasks.write_result(
            connection,
            run.run_id,
            run.job,
            self.claim.name,
            self.started_at,
            outcome,
            dict(self.watch.pauses),
        )

    def _now(self) -> datetime:
        with self.database.transaction() as connection:
            return database_clock(connection)


def _in_words(outcome: Outcome, pauses: dict[str, float]) -> str:
    parts = [f"{counted(outcome.rows, 'row')} freed ({outcome.bytes / 1e6:,.1f} MB)"]
    if outcome.set_aside:
        parts.append(f"{counted(outcome.set_aside, 'row')} set aside: see `bg-pipelines cleaning set-aside`")
    if outcome.left_over:
        parts.append(f"{counted(outcome.left_over, 'batch', 'batches')} of locked rows left to the next pass")
    if pauses:
        parts.append(f"waited {in_words(pauses)}")
    if outcome.why:
        parts.append(f"unfinished: {outcome.why}")
    return "; ".join(parts)
