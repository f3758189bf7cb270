"""Sending: claims what is due in the outbox, checks each message last, sends it once, and settles it.

    claim -> [looked up, if a call of it has no known outcome] -> checked and recorded as begun (one commit) -> the call
          -> settled (one commit; `settling`)

A message whose call has no known outcome (the answer was lost, the process was killed) is looked up at Twilio before
anything else is done, and not before a request still on its way has arrived. It is sent again only if Twilio provably has
none; where that cannot be known it is parked. A worker that was held up between the commit and the call calls no more.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol

import psycopg

from bg_pipelines.database.engine import Database
from bg_pipelines.database.sqlstates import is_expected
from bg_pipelines.errors import ErrorType, IntegrationError, unexpected
from bg_pipelines.messaging import checks, reminders, spikes
from bg_pipelines.messaging.checks import Hold, Refuse, Rules, Send
from bg_pipelines.messaging.outbox import JOB, QUEUE, SENDABLE, UNREAD, TextClaim
from bg_pipelines.messaging.pace import Pace
from bg_pipelines.messaging.settling import ACCOUNT_ERRORS, UNCLEAR_WAIT, Settling
from bg_pipelines.retries import Policies
from bg_pipelines.work.queue import clock as database_clock
from bg_pipelines.work.runner import COLD, LEASE, PROGRESS_SECONDS, Log, Runner, Warmth

Connection = psycopg.Connection[Any]

CALL_WITHIN_SECONDS = 10.0
LOOK_AROUND_SECONDS = 30.0
LOOK_SECONDS = 0.15
"""How often a warm run looks into the outbox: half of this is what a message waits on average."""


class Sender(Protocol):
    """What sending needs of Twilio; see `twilio.TextMessages`."""

    def send(
        self, to: str, body: str, *, status_callback: str | None = None, validity_seconds: int | None = None
    ) -> str: ...

    def look_up(self, to: str, body: str, reference: str, since: datetime) -> str | None: ...


@dataclass
class Sent:
    """What a run did with how many messages, by outcome; `reasons` counts why some were refused or held."""

    outcomes: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    segments: int = 0
    seconds: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def count(self, outcome: str, reason: str | None = None) -> None:
        with self.lock:
            self.outcomes[outcome] += 1
            if reason is not None:
                self.reasons[reason] += 1

    def __str__(self) -> str:
        names = ("sent", "found", "refused", "held", "retrying", "parked", "left")
        counts = ", ".join(f"{self.outcomes[name]:,} {name}" for name in names if self.outcomes[name])
        return counts or "nothing to send"


class Sending:
    """One run's workload: a batch is one message. Used once."""

    def __init__(
        self,
        database: Database,
        sender: Sender,
        rules: Rules,
        pace: Pace,
        *,
        run_id: str,
        log: Log,
        batch_size: int = 50,
        workers: int = 8,
        max_minutes: float = 15,
        status_callback: str | None = None,
        policies: Policies | None = None,
        rng: random.Random | None = None,
        unclear_wait: timedelta = UNCLEAR_WAIT,
        call_within_seconds: float = CALL_WITHIN_SECONDS,
        lease: timedelta = LEASE,
        progress_seconds: float = PROGRESS_SECONDS,
        warmth: Warmth = COLD,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.database = database
        self.sender = sender
        self.rules = rules
        self.pace = pace
        self.batch_size = batch_size
        self.status_callback = status_callback
        self.settling = Settling(database, policies=policies, rng=rng, unclear_wait=unclear_wait, lease=lease)
        self.call_within_seconds = call_within_seconds
        self.lease = lease
        self.clock = clock
        self.sent = Sent()
        self._lock = threading.Lock()
        self._segments_left = 0
        self._uncommitted = 0
        """Segments of messages that are decided to be sent, and not yet recorded as begun."""
        self._looked_around_at = -math.inf
        self._stopped = threading.Event()
        """The account's fault was met: what is claimed and not begun is given back."""
        self.runner: Runner[TextClaim] = Runner(
            database,
            self,
            run_id=run_id,
            job=JOB,
            workers=workers,
            max_minutes=max_minutes,
            log=log,
            lease=lease,
            progress_seconds=progress_seconds,
            warmth=warmth,
            clock=clock,
        )
        self._told = ""

    def run(self) -> Sent:
        """Send what is due. Raises IntegrationError only where the run itself could not work."""
        began = self.clock()
        self._look_around()
        with self.database.transaction() as connection:
            self.runner.record.begin(connection)
            due_before = database_clock(connection)
        self.runner.run(due_before, began)
        self.sent.seconds = self.clock() - began
        return self.sent

    # What the runner asks of a workload

    def owners(self, owner: str) -> set[str]:
        return {owner}

    def claim(self, owner: str, due_before: datetime | None, crowded: Sequence[str]) -> list[TextClaim]:
        if crowded:
            return []
        self._look_around()
        with self.database.transaction() as connection:
            claims = QUEUE.claim(
                connection,
                owner=owner,
                limit=self.batch_size,
                lease=self.lease,
                among=SENDABLE,
                parameters={"unread": UNREAD},
                due_before=due_before,
            )
            if claims:
                self._count_segments(connection)
        return claims

    def _look_around(self) -> None:
        """What is neither claimed nor told by anybody, every half a minute: carts that were left, and pumping."""
        if self.clock() - self._looked_around_at < LOOK_AROUND_SECONDS:
            return
        self._looked_around_at = self.clock()
        with self.database.transaction() as connection:
            spikes.watch_prefixes(connection, self.rules.home)
        considered = reminders.AT_ONCE if self.rules.cart_reminders else 0
        while considered >= reminders.AT_ONCE:
            with self.database.transaction() as connection:
                considered = reminders.put_due(connection, self.rules.countries)

    def group(self, batch: TextClaim) -> str:  # noqa: ARG002 (there is one)
        return "twilio"

    def renew(self, connection: Connection, owners: Sequence[str], lease: timedelta) -> None:
        QUEUE.renew(connection, owners, lease)

    def give_back(self, owners: Sequence[str]) -> None:
        with self.database.transaction() as connection:
            QUEUE.release(connection, owners)

    def progress(self, seconds: float) -> str:
        if str(self.sent) == self._told:
            return ""
        self._told = str(self.sent)
        return f"{self._told} after {seconds:.0f} s"

    def counts(self) -> tuple[int, int]:
        with self.sent.lock:
            failed = self.sent.outcomes["parked"] + self.sent.outcomes["retrying"]
            return sum(self.sent.outcomes.values()), failed

    def claimed(self, batches: int) -> None: ...

    def work_on(self, batch: TextClaim) -> None:
        """One message. Its own failures are settled in its row; raises what keeps the run from working, and Stopped."""
        try:
            self._work_on(batch)
        except IntegrationError as error:
            if error.error_type is not ErrorType.LEASE_LOST and not is_expected(error):
                raise
            self._leave(batch)

    # One message

    def _work_on(self, claim: TextClaim) -> None:
        if claim.called_at is not None and not self._is_absent(claim, claim.called_at):
            return
        wait = self.pace.reserve()
        if wait > 0:
            self.runner.sleep(wait)
        self.runner.check_stopped()
        if self.runner.is_over or (self._stopped.is_set() and claim.incident_id is None):
            self._leave(claim)
            return
        begun, at = self.clock(), time.time()
        checked = self._check_and_record(claim)
        if not isinstance(checked, Send):
            return
        if checked.text.segments > 1:
            self.pace.reserve(checked.text.segments - 1)
        # By both clocks: the one that counts seconds may stand still while a machine sleeps.
        if max(self.clock() - begun, time.time() - at) > self.call_within_seconds:
            # By now somebody else may have looked for it. It is looked up.
            self._leave(claim)
            return
        try:
            sid = self.sender.send(
                claim.phone,
                checked.text.body,
                status_callback=self.status_callback,
                validity_seconds=checked.valid_seconds,
            )
        except IntegrationError as error:
            self._failed(claim, error)
            return
        except Exception as error:  # noqa: BLE001 (its text may hold anything)
            self._failed(claim, unexpected(error, details={"maybe_sent": True}))
            return
        self.pace.went_through()
        self.settling.sent(claim, sid)
        self.sent.count("sent")

    def _failed(self, claim: TextClaim, error: IntegrationError, *, looked_up: bool = False) -> None:
        if error.error_type is ErrorType.THROTTLED:
            self.pace.slow_down(error.details.get("retry_after_seconds"))
        if error.error_type in ACCOUNT_ERRORS:
            self._stopped.set()
        self.sent.count(*self.settling.failed(claim, error, looked_up=looked_up))

    def _leave(self, claim: TextClaim) -> None:
        """Give a message back as it is: whoever claims it next looks up what was begun."""
        with suppress(IntegrationError), self.database.transaction() as connection:
            QUEUE.yield_(connection, claim, behind_others=False)
        self.sent.count("left")

    def _is_absent(self, claim: TextClaim, called_at: datetime) -> bool:
        """Whether a call without a known outcome was provably not executed; what else there is to it is settled."""
        with self.database.transaction() as connection:
            earliest = called_at + self.settling.unclear_wait
            if database_clock(connection) < earliest:
                self.settling.hold(connection, claim, Hold(earliest, "a call of it may still be on its way"))
                self.sent.count("held")
                return False
        try:
            sid = self.sender.look_up(claim.phone, claim.body or "", claim.reference, called_at)
        except IntegrationError as error:
            self._failed(claim, error, looked_up=True)
            return False
        if sid is None:
            return True
        self.settling.sent(claim, sid)
        self.sent.count("found")
        return False

    def _check_and_record(self, claim: TextClaim) -> checks.Decision:
        """Decide about a message and, if it is to be sent, record that its call begins: one transaction."""
        segments = 0
        try:
            with self.database.transaction() as connection:
                facts = checks.read_facts(connection, claim)
                with self._lock:
                    decision = checks.decide(claim, facts, self.rules, self._segments_left)
                    if isinstance(decision, Send) and claim.kind != "service":
                        segments = decision.text.segments
                        self._segments_left -= segments
                        self._uncommitted += segments
                self.settling.decided(connection, claim, facts, decision)
        finally:
            with self._lock:
                self._uncommitted -= segments
        if isinstance(decision, Hold):
            self.sent.count("held", decision.reason)
        elif isinstance(decision, Refuse):
            self.sent.count("refused", decision.reason)
        else:
            with self.sent.lock:
                self.sent.segments += decision.text.segments
        return decision

    def _count_segments(self, connection: Connection) -> None:
        """How many segments are left for today; what is being decided meanwhile waits."""
        with self._lock:
            row = connection.execute(
                "SELECT (SELECT coalesce(sum(segments), 0) FROM text_messages WHERE kind <> 'service' "
                "AND sent_at > clock_timestamp() - interval '24 hours') + (SELECT coalesce(sum(segments), 0) "
                "FROM text_messages WHERE kind <> 'service' AND status = 'pending' AND called_at IS NOT NULL)"
            ).fetchone()
            assert row is not None
            self._segments_left = self.rules.daily_segments - int(row[0]) - self._uncommitted
