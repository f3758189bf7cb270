"""The queue: rows of a table are claimed in batches, kept by a heartbeat, and settled one by one.

    QUEUE = Queue(AlertDelivery, Delivery)

    claims = QUEUE.claim(connection, owner="run/1", limit=100, lease=LEASE)
    QUEUE.complete(connection, claim, "status = 'sent'")            done
    QUEUE.retry(connection, claim, error, decision, attempts=1)     failed: due again when the decision says
    QUEUE.park(connection, claim, error, decision, attempts=1, incident_id=7)    failed: requires attention
    QUEUE.yield_(connection, claim)                                 unfinished: the rest is for the next turn

Every table whose model has the columns of `Claimed` is a queue. Several runs, on several machines, share a table
without coordination. A worker whose lease has ended has lost its claim: whatever it still writes with it raises
IntegrationError (lease_lost), and its transaction is rolled back. All times are the database's: one clock for all
machines.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import Any, Generic, LiteralString, NamedTuple, Protocol, TypeVar

import psycopg
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from bg_pipelines.database.models import Claimed
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.retries import Decision

Connection = psycopg.Connection[Any]

# statement_timestamp() for clock_timestamp(), which may change from row to row and so is never looked up in an index.
NOW = "coalesce(%(now)s::timestamptz, statement_timestamp())"
UNCLAIMED = f"(t.lease_expires_at IS NULL OR t.lease_expires_at <= {NOW})"
DUE = f"t.next_due_at <= coalesce(%(due_before)s::timestamptz, {NOW}) AND {UNCLAIMED}"
"""A row of a table `t` that may be claimed: due and unclaimed."""


def owner_of(run_id: str) -> str:
    """What the owners of a run's claims begin with, before a slash: an owner is written to every row that is claimed, so of
    a run's id in the manner of Dagster's, which is random, it has the beginning."""
    return run_id[:8] if len(run_id) == 36 else run_id


class Claim(Protocol):
    """A claimed row: its key's columns, the claim that has it, and how often it failed since it last succeeded."""

    @property
    def owner(self) -> str: ...

    @property
    def attempts(self) -> int: ...


C = TypeVar("C", bound=Claim)


class Queue(Generic[C]):
    """The claimed rows of one table.

    `row` is what a claim is returned as: a class whose fields are columns of the table `t`, or of `columns`, which has
    the SQL of those that are not, or have another name. `joins` are tables that a claim's condition and order may use;
    what of them `columns` needs is listed in `joined` and is then found in `picked`.
    """

    def __init__(
        self,
        model: type[Claimed],
        row: type[C],
        *,
        joins: str = "",
        joined: str = "",
        columns: Mapping[str, str] | None = None,
    ) -> None:
        self.table: str = model.__table__.name  # type: ignore[attr-defined]
        self.key: tuple[str, ...] = tuple(column.name for column in model.__table__.primary_key)  # type: ignore[attr-defined]
        self.label = model.label
        self.carrier = model.carrier
        self.has_stores = "store_id" in model.__table__.columns  # type: ignore[attr-defined]
        self.open = "t.status = 'pending'" if "status" in model.__table__.columns else "true"  # type: ignore[attr-defined]
        """Which rows are work at all: a table may keep what is done beside what is to be done."""
        self.row = row
        own = {"owner": "t.lease_owner", "claimed_at": NOW, **(columns or {})}
        sources = {name: own.get(name, f"t.{name}") for name in row.__annotations__}
        returning = ", ".join(f"{source} AS {name}" for name, source in sources.items())
        self._key_fields = {
            column: name for column in self.key for name, source in sources.items() if source == f"t.{column}"
        }
        """The row's field of each column of the key."""
        keys = ", ".join(f"t.{name}" for name in self.key)
        same = " AND ".join(f"t.{name} = picked.{name}" for name in self.key)
        # MATERIALIZED: picked once, whatever plan the join gets, so the limit is kept.
        self._claim = f"""
            WITH picked AS MATERIALIZED (
                SELECT {keys}{f", {joined}" if joined else ""} FROM {self.table} t {joins}
                WHERE {self.open} AND {DUE} AND {{among}} ORDER BY {{order}} LIMIT %(limit)s FOR UPDATE OF t SKIP LOCKED
            )
            UPDATE {self.table} t SET lease_owner = %(owner)s, lease_expires_at = {NOW} + %(lease)s{{also}}
            FROM picked WHERE {same} RETURNING {returning}"""  # noqa: S608 (names of the models)

    def claim(
        self,
        connection: Connection,
        *,
        owner: str,
        limit: int,
        lease: timedelta,
        among: str = "true",
        order: str | None = None,
        also: str = "",
        parameters: Mapping[str, Any] | None = None,
        due_before: datetime | None = None,
        now: datetime | None = None,
    ) -> list[C]:
        """Take up to `limit` due rows for `lease` from now, those first that have been due for longest.

        `among` is a condition on the table `t` and its joins, `also` what else is set in the claimed rows. Rows that
        are locked at this moment are skipped.
        """
        statement = self._claim.format(
            among=among,
            order=order or f"t.next_due_at, {', '.join(f't.{name}' for name in self.key)}",
            also=f", {also}" if also else "",
        )
        values = {
            **(parameters or {}),
            "owner": owner,
            "limit": limit,
            "lease": lease,
            "due_before": due_before,
            "now": now,
        }
        with connection.cursor(row_factory=class_row(self.row)) as cursor:
            cursor.execute(statement, values)
            return cursor.fetchall()

    def renew(
        self, connection: Connection, owners: Collection[str], lease: timedelta, now: datetime | None = None
    ) -> int:
        """Extend the leases of all rows that these owners hold; returns how many they still hold."""
        return connection.execute(
            f"UPDATE {self.table} t SET lease_expires_at = coalesce(%s, clock_timestamp()) + %s "  # noqa: S608
            f"WHERE t.lease_owner = ANY(%s) AND {self.open}",
            (now, lease, list(owners)),
        ).rowcount

    def save(
        self, connection: Connection, claim: C, assignments: str, parameters: Mapping[str, Any] | None = None
    ) -> None:
        """Write to a claimed row, in the transaction of whatever belongs to it.

        Raises IntegrationError (lease_lost) if somebody else has claimed the row meanwhile: then nothing of this
        transaction may be kept.
        """
        key = {column: getattr(claim, field) for column, field in self._key_fields.items()}
        mine = " AND ".join(f"{column} = %(key_{column})s" for column in self.key)
        updated = connection.execute(
            f"UPDATE {self.table} SET {assignments} WHERE {mine} AND lease_owner = %(key_owner)s",  # noqa: S608
            {
                **(parameters or {}),
                **{f"key_{column}": value for column, value in key.items()},
                "key_owner": claim.owner,
            },
        ).rowcount
        if updated != 1:
            named = ", ".join(f"{column} {value}" for column, value in key.items())
            raise IntegrationError.of(
                ErrorType.LEASE_LOST,
                f"{self.table} ({named}) was claimed by another worker, because this one had no heartbeat for a whole "
                "lease; the other worker finishes it",
                source="database",
            )

    def complete(
        self,
        connection: Connection,
        claim: C,
        assignments: str = "",
        parameters: Mapping[str, Any] | None = None,
        *,
        next_due_at: datetime | None = None,
        due_now_if: str = "false",
    ) -> None:
        """Succeeded: reset the failures; due again at `next_due_at`, or never. Raises like `save`.

        `due_now_if` is a condition on the row under which it is due at once instead.
        """
        self.save(
            connection,
            claim,
            f"next_due_at = CASE WHEN {due_now_if} THEN clock_timestamp() ELSE %(next_due_at)s::timestamptz END, "
            f"{RESET}, {FREE}{f', {assignments}' if assignments else ''}",
            {**(parameters or {}), "next_due_at": next_due_at},
        )

    def retry(
        self,
        connection: Connection,
        claim: C,
        error: IntegrationError,
        decision: Decision,
        *,
        attempts: int,
        assignments: str = "",
        parameters: Mapping[str, Any] | None = None,
    ) -> None:
        """Failed for the `attempts`-th time: due again when the decision says. Raises like `save`.

        A row that was parked and is retried stays under its incident until it succeeds.
        """
        self._fail(connection, claim, error, decision, attempts, None, assignments, parameters)

    def park(
        self,
        connection: Connection,
        claim: C,
        error: IntegrationError,
        decision: Decision,
        *,
        attempts: int,
        incident_id: int,
        assignments: str = "",
        parameters: Mapping[str, Any] | None = None,
    ) -> None:
        """Failed and requires attention: parked under an incident. Raises like `save`."""
        self._fail(connection, claim, error, decision, attempts, incident_id, assignments, parameters)

    def yield_(self, connection: Connection, claim: C, *, behind_others: bool = True) -> None:
        """Unfinished: release the row, in its place or behind all that are due. Raises like `save`."""
        self.save(connection, claim, f"{'next_due_at = clock_timestamp(), ' if behind_others else ''}{FREE}")

    def release(self, connection: Connection, owners: Collection[str]) -> int:
        """Release all that these owners hold, unfinished and still due; returns how many rows."""
        return connection.execute(
            f"UPDATE {self.table} t SET {FREE} WHERE t.lease_owner = ANY(%s) AND {self.open}",  # noqa: S608
            (list(owners),),
        ).rowcount

    def release_runs(self, connection: Connection, runs: Collection[str]) -> int:
        """Release all that dead runs hold, before their leases end; returns how many rows.

        Should such a run be alive after all, it has lost its claims and can write nothing more.
        """
        return connection.execute(
            f"UPDATE {self.table} t SET {FREE} "  # noqa: S608
            f"WHERE t.lease_owner IS NOT NULL AND split_part(t.lease_owner, '/', 1) = ANY(%s) AND {self.open}",
            # With its whole id, as programs before 0.1.0 wrote it.
            ([*runs, *map(owner_of, runs)],),
        ).rowcount

    def _fail(
        self,
        connection: Connection,
        claim: C,
        error: IntegrationError,
        decision: Decision,
        attempts: int,
        incident_id: int | None,
        assignments: str,
        parameters: Mapping[str, Any] | None,
    ) -> None:
        self.save(
            connection,
            claim,
            "attempts = %(attempts)s, last_error = %(error)s, next_due_at = %(retry_at)s, retry_strategy = %(strategy)s, "
            f"retry_reason = %(reason)s, incident_id = coalesce(%(incident)s, incident_id), {FREE}"
            f"{f', {assignments}' if assignments else ''}",
            {
                **(parameters or {}),
                "attempts": attempts,
                "error": Jsonb(error.as_dict()),
                "retry_at": decision.retry_at,
                "strategy": decision.strategy.value,
                "reason": decision.reason,
                "incident": incident_id,
            },
        )


FREE = "lease_owner = NULL, lease_expires_at = NULL"
"""What sets a row free."""
RESET = "attempts = 0, last_error = NULL, retry_strategy = NULL, retry_reason = NULL, incident_id = NULL"
"""What a success leaves of earlier failures."""


class _Row(NamedTuple):
    owner: str
    attempts: int


def all_queues() -> list[Queue[Any]]:
    """Every table of claimed work, for what is the same for all of them: incidents, figures, dead runs."""
    return [Queue(model, _Row) for model in Claimed.__subclasses__()]


def clock(connection: Connection) -> datetime:
    """The database's clock."""
    return _time(connection, "clock_timestamp()")


def transaction_time(connection: Connection) -> datetime:
    """The time that this transaction stamps rows with, by the database's clock."""
    return _time(connection, "now()")


def _time(connection: Connection, which: LiteralString) -> datetime:
    row = connection.execute(f"SELECT {which}").fetchone()
    assert row is not None
    now: datetime = row[0]
    return now
