"""The queue, in every table that is one: nobody shares a row, none is lost, and each is settled once.

Random events beside a model of what the table should hold; what is special in a table is tested where its room is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bg_pipelines.database.engine import Database
from bg_pipelines.database.models import Claimed
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.retries import Decision, Strategy
from bg_pipelines.work import parked
from bg_pipelines.work.queue import Queue, all_queues
from bg_pipelines_tests.support import DatabaseClock

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
LEASE = timedelta(minutes=2)
ROWS = 7
ERROR = IntegrationError.of(ErrorType.TIMEOUT, "no answer")
Connection = psycopg.Connection[Any]

_STORE = "(SELECT min(id) FROM stores)"
MAKERS = {
    "sync_states": f"INSERT INTO sync_states (store_id, resource, next_due_at) SELECT {_STORE}, 'unit ' || n, due FROM rows",
    "customer_changes": "INSERT INTO customer_changes (store_id, customer_external_id, field, changed_by, next_due_at) "
    f"SELECT {_STORE}, 'c' || n, 'note', 'jane', due FROM rows",
    "inventory_corrections": "INSERT INTO inventory_corrections (store_id, inventory_item_external_id, "
    "location_external_id, change_from_quantity, quantity, next_due_at) "
    f"SELECT {_STORE}, 'i' || n, 'l', 1, 2, due FROM rows",
    "alert_deliveries": "INSERT INTO alert_deliveries (alert_id, target, next_due_at) "
    "SELECT (SELECT min(id) FROM alerts), 'sms:' || n, due FROM rows",
    "webhook_events": "INSERT INTO webhook_events (store_id, source, topic, webhook_id, next_due_at) "
    f"SELECT {_STORE}, 'shopify', 'orders/updated', 'w' || n, due FROM rows",
    "cleaning_tasks": "INSERT INTO cleaning_tasks (name, job, next_due_at) SELECT 'task ' || n, 'clean_database', due FROM rows",
    "text_messages": "INSERT INTO text_messages (idempotency_key, kind, template, store_id, phone, next_due_at) "
    f"SELECT 'k' || n, 'product_share', 'product_share', {_STORE}, '+12125550123', due FROM rows",
}
"""Rows of each queue, from `rows (n, due)`."""


def queue_of(model: type[Claimed]) -> Queue[Any]:
    """The model's queue, with claims that know no more than their key."""
    key = [column.name for column in model.__table__.primary_key]  # type: ignore[attr-defined]
    fields = [*((name, Any) for name in key), ("owner", str), ("attempts", int)]
    return Queue(model, NamedTuple("Row", fields))  # type: ignore[misc]


@pytest.fixture(scope="module")
def clock(own_database: Database) -> Iterator[DatabaseClock]:
    clock = DatabaseClock(own_database.engine.url.render_as_string(hide_password=False), NOON)
    own_database.engine.dispose()  # for connections whose clock is this one
    yield clock
    clock.connection.close()


@pytest.fixture
def connection(own_database: Database, clock: DatabaseClock) -> Iterator[Connection]:
    """A connection that goes by `clock`, whose transaction is rolled back at the end of the test."""
    with own_database.transaction() as connection:
        yield connection
        connection.rollback()


def test_every_queue_is_tested_here() -> None:
    assert {queue.table for queue in all_queues()} == set(MAKERS)


@dataclass
class Expected:
    """What a row should say."""

    due: datetime | None
    owner: str | None = None
    expires: datetime | None = None
    attempts: int = 0
    incident: int | None = None
    reason: str | None = None

    def is_claimable(self, now: datetime) -> bool:
        return self.due is not None and self.due <= now and not self.is_leased(now)

    def is_leased(self, now: datetime) -> bool:
        return self.expires is not None and self.expires > now

    def give_back(self) -> None:
        self.owner = self.expires = None


@dataclass
class Workers:
    """Three runs on one table, beside a model of what the table should hold."""

    connection: Connection
    queue: Queue[Any]
    now: datetime = NOON
    claims: int = 0
    believed: dict[int, list[Any]] = field(default_factory=lambda: {run: [] for run in range(3)})
    """What each run believes it has: it is not told when it has lost a claim."""

    def __post_init__(self) -> None:
        self.connection.execute("UPDATE clock.hands SET time = %s", (NOON,))
        self.connection.execute(
            "INSERT INTO stores (name, platform, domain, credentials) VALUES ('harbor', 'shopify', 'harbor.example', '')"
        )
        self.incidents = [
            row[0]
            for row in self.connection.execute(
                "INSERT INTO incidents (fingerprint, needs_attention, error_type, severity, source, subject, message) "
                "SELECT 'edits:' || n, true, 'bad_data', 'low', 'test', 'x', 'x' FROM generate_series(1, 2) n RETURNING id"
            )
        ]
        self.connection.execute(
            "INSERT INTO alerts (incident_id, kind, severity, title, body) VALUES (%s, 'opened', 'low', 'x', 'x')",
            (self.incidents[0],),
        )
        self.connection.execute(
            "WITH rows AS (SELECT n, %(noon)s::timestamptz + (n * 3 %% %(rows)s) * interval '5 seconds' AS due "
            "FROM generate_series(1, %(rows)s) n) " + MAKERS[self.queue.table],
            {"noon": NOON, "rows": ROWS},
        )
        # One is parked, and one was, and is started again.
        for due in (None, NOON):
            self.connection.execute(
                f"UPDATE {self.queue.table} t SET next_due_at = %s, incident_id = %s, attempts = 1 "
                f"WHERE ctid = (SELECT max(ctid) FROM {self.queue.table} WHERE incident_id IS NULL)",
                (due, self.incidents[0]),
            )
        self.model = self.held()
        assert len(self.model) == ROWS

    def held(self) -> dict[tuple[Any, ...], Expected]:
        keys = len(self.queue.key)
        return {
            row[:keys]: Expected(*row[keys:])
            for row in self.connection.execute(
                f"SELECT {', '.join(self.queue.key)}, next_due_at, lease_owner, lease_expires_at, attempts, incident_id, "
                f"retry_reason FROM {self.queue.table}"
            ).fetchall()
        }

    def key(self, claim: Any) -> tuple[Any, ...]:
        return tuple(getattr(claim, name) for name in self.queue.key)

    def of(self, run: int) -> tuple[set[str], list[Expected]]:
        """The owners a run goes by, and the rows they have."""
        owners = {claim.owner for claim in self.believed[run]}
        return owners, [row for row in self.model.values() if row.owner in owners]

    # The events

    def claim(self, run: int, limit: int) -> None:
        self.claims += 1
        owner = f"run {run}/{self.claims}"
        claimed = self.queue.claim(self.connection, owner=owner, limit=limit, lease=LEASE)
        keys = {self.key(claim) for claim in claimed}
        claimable = {key: row.due for key, row in self.model.items() if row.is_claimable(self.now)}
        assert keys <= set(claimable)
        assert len(keys) == len(claimed) == min(limit, len(claimable))
        taken = [due for key, due in claimable.items() if key in keys and due]
        left = [due for key, due in claimable.items() if key not in keys and due]
        assert not taken or not left or max(taken) <= min(left), "the longest due goes first"
        for claim in claimed:
            row = self.model[self.key(claim)]
            assert (claim.owner, claim.attempts) == (owner, row.attempts)
            row.owner, row.expires = owner, self.now + LEASE
        self.believed[run] += claimed

    def settle(self, run: int, how: str) -> None:
        """Settle the oldest row that this run believes it has."""
        if not self.believed[run]:
            return
        claim = self.believed[run].pop(0)
        row = self.model[self.key(claim)]
        due = self.now + timedelta(minutes=1)
        verbs: dict[str, Callable[[], object]] = {
            "complete": lambda: self.queue.complete(self.connection, claim),
            "complete, due again": lambda: self.queue.complete(self.connection, claim, next_due_at=due),
            "retry": lambda: self.queue.retry(
                self.connection,
                claim,
                ERROR,
                Decision(Strategy.EXPONENTIAL_BACKOFF, due, "attempt"),
                attempts=claim.attempts + 1,
            ),
            "park": lambda: self.queue.park(
                self.connection,
                claim,
                ERROR,
                Decision(Strategy.MANUAL_INTERVENTION, None, "no attempts left"),
                attempts=claim.attempts + 1,
                incident_id=self.incidents[run % 2],
            ),
            "yield": lambda: self.queue.yield_(self.connection, claim),
            "yield in place": lambda: self.queue.yield_(self.connection, claim, behind_others=False),
        }
        if row.owner != claim.owner:
            assert_lost(verbs[how])
            return
        verbs[how]()
        row.give_back()
        if how.startswith("complete"):
            row.due = due if how.endswith("again") else None
            row.attempts, row.incident, row.reason = 0, None, None
        elif how == "retry":
            row.due, row.attempts, row.reason = due, row.attempts + 1, "attempt"
        elif how == "park":
            row.due, row.attempts, row.reason = None, row.attempts + 1, "no attempts left"
            row.incident = self.incidents[run % 2]
        elif how == "yield":
            row.due = self.now

    def save(self, run: int) -> None:
        for claim in self.believed[run]:
            row = self.model[self.key(claim)]

            def save(claim: Any = claim) -> None:
                self.queue.save(self.connection, claim, "retry_reason = %(text)s", {"text": claim.owner})

            if row.owner == claim.owner:
                save()
                row.reason = claim.owner
            else:
                assert_lost(save)

    def renew(self, run: int) -> None:
        owners, rows = self.of(run)
        assert self.queue.renew(self.connection, owners, LEASE) == len(rows)
        for row in rows:
            row.expires = self.now + LEASE

    def release(self, run: int) -> None:
        owners, rows = self.of(run)
        assert self.queue.release(self.connection, owners) == len(rows)
        for row in rows:
            row.give_back()

    def die(self, run: int) -> None:
        """Somebody has seen that the run is dead; the run itself may not know."""
        rows = [row for row in self.model.values() if row.owner and row.owner.startswith(f"run {run}/")]
        assert self.queue.release_runs(self.connection, [f"run {run}"]) == len(rows)
        for row in rows:
            row.give_back()

    def start_again(self, incident: int, release: bool) -> None:
        """A person retries an incident, or resolves it."""
        number = self.incidents[incident]
        under = [row for row in self.model.values() if row.incident == number]
        started = parked.start_again(self.connection, [number], "started again by jane", release=release)
        free = [row for row in under if not row.is_leased(self.now)]
        assert started.rows == len(free)
        assert started.in_hand == ({number} if len(free) < len(under) else set())
        for row in free:
            row.give_back()
            row.due = min(row.due or self.now, self.now)
            row.attempts, row.reason = 0, "started again by jane"
        for row in under:
            row.incident = None if release else row.incident

    def wait(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)
        self.connection.execute("UPDATE clock.hands SET time = %s", (self.now,))


def assert_lost(act: Callable[[], object]) -> None:
    with pytest.raises(IntegrationError) as raised:
        act()
    assert raised.value.error_type is ErrorType.LEASE_LOST


RUNS = st.integers(0, 2)
ENDS = ["complete", "complete, due again", "retry", "park", "yield", "yield in place"]
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("claim"), RUNS, st.integers(1, 5)),
        st.tuples(st.just("settle"), RUNS, st.sampled_from(ENDS)),
        st.tuples(st.just("save"), RUNS),
        st.tuples(st.just("renew"), RUNS),
        st.tuples(st.just("release"), RUNS),
        st.tuples(st.just("die"), RUNS),
        st.tuples(st.just("start_again"), st.integers(0, 1), st.booleans()),
        st.tuples(st.just("wait"), st.integers(10, 150)),
    ),
    max_size=30,
)


@pytest.mark.parametrize("model", Claimed.__subclasses__(), ids=lambda model: model.__tablename__)
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=EVENTS)
@example(events=[("claim", 0, 1), ("wait", 120), ("start_again", 0, False), ("settle", 0, "retry")])
def test_whatever_happens_no_row_has_two_owners_and_none_is_lost(
    connection: Connection, model: type[Claimed], events: list[tuple[Any, ...]]
) -> None:
    with connection.transaction(force_rollback=True):
        workers = Workers(connection, queue_of(model))
        for name, *arguments in events:
            getattr(workers, name)(*arguments)
            assert workers.held() == workers.model
