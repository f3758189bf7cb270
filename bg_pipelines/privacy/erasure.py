"""Erasure: everything personal of a customer of a store, or everything of a store, in short transactions.

    erase_customer(database, cipher, home, store_id, customer, by="jane")
    erase_store(database, cipher, home, store_id, by="shopify")

What happens to each table stands in `tables`. Tombstones are set first, so that nothing comes back (`tombstones`); then
each batch is a transaction that also counts what it did (`requests`). All of it can be interrupted anywhere and
repeated: the next attempt finds what is left, and who it is about is in the request until it is done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import psycopg

from bg_pipelines import people
from bg_pipelines.database.engine import Database
from bg_pipelines.database.models import Base
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.errors import IntegrationError, Severity
from bg_pipelines.incidents.fingerprints import DataRequest
from bg_pipelines.incidents.reporting import SYSTEM
from bg_pipelines.privacy import requests, tombstones
from bg_pipelines.privacy.subjects import Search, content_of, find_subject, with_held_orders
from bg_pipelines.privacy.tables import ANSWERS, COMMANDS, OF_STORE, Answer
from bg_pipelines.records import PARTS
from bg_pipelines.wording import command
from bg_pipelines.work.queue import FREE

Connection = psycopg.Connection[Any]
T = TypeVar("T")

BATCH = 5_000
"""Rows of one transaction: a fraction of a second."""
AT_WORK_WITHIN = timedelta(days=2)
"""Shopify asks for a shop's erasure two days after it removed the app: one that has worked since then has come back."""
_TRIES = 5
"""A deadlock with a running sync costs only another attempt."""

ORDERS = ("refunds", "order_lines", "orders")
"""Tables that stay, where a store's orders are kept: what was sold, when and for how much."""

WHY = "the customer was erased"
_ALSO = {
    "customer_changes": "erased_at = coalesce(t.erased_at, now()), settled_at = CASE WHEN t.status = 'pending' THEN now() "
    "ELSE t.settled_at END, status = CASE WHEN t.status = 'pending' THEN 'rejected' ELSE t.status END",
    "text_messages": "reason = CASE WHEN t.status = 'pending' THEN %(why)s ELSE t.reason END, "
    f"status = CASE WHEN t.status = 'pending' THEN 'refused' ELSE t.status END, next_due_at = NULL, {FREE}, "
    "incident_id = NULL",
    "text_subscriptions": "ended_at = coalesce(t.ended_at, now())",
    "text_replies": "settled_at = coalesce(t.settled_at, now()), settled_by = coalesce(t.settled_by, %(why)s)",
}
"""What else is set in rows that are emptied."""
_ALSO_LEFT = {
    "customer_changes": "OR t.erased_at IS NULL OR t.status = 'pending'",
    "text_messages": "OR t.status = 'pending'",
    "text_subscriptions": "OR t.ended_at IS NULL",
    "text_replies": "OR t.settled_at IS NULL",
}
"""Rows that are not done although nothing is in them."""
_EMPTY_PAYLOAD = {
    "rejected_rows": "payload = ''",
    "webhook_events": "payload = NULL, reason = CASE WHEN t.status = 'pending' THEN %(why)s ELSE t.reason END, "
    "status = CASE WHEN t.status = 'pending' THEN 'ignored' ELSE t.status END, settled_at = coalesce(t.settled_at, now()), "
    f"next_due_at = NULL, {FREE}, incident_id = NULL",
}
_HAS_PAYLOAD = {
    "rejected_rows": "t.payload <> ''",
    # What is being carried out; and a text message that came may be a STOP.
    "webhook_events": "t.payload IS NOT NULL "
    "AND NOT (t.status = 'pending' AND (t.topic = ANY(%(commands)s) OR t.source = 'twilio'))",
}


class Erased(NamedTuple):
    """What an erasure did: its request, and how many rows of which table it emptied or deleted, this time alone.

    `files_elsewhere` are exports that a person has to delete on another machine.
    """

    request_id: int
    rows: dict[str, int]
    files_elsewhere: list[str]


def erase_customer(
    database: Database,
    cipher: Cipher,
    home: Path,
    store_id: int,
    customer: str | None,
    *,
    orders: Iterable[str] = (),
    email: str | None = None,
    phone: str | None = None,
    by: str,
    batch: int = BATCH,
) -> Erased:
    """Erase everything personal of a customer of a store, here and for good; the platform is not asked to.

    `orders` are ids of orders that are theirs whatever we know of them; `email` and `phone` are what the request says
    beside what is held. Raises IntegrationError (database): what was erased until then is, and the same again goes on.
    """

    def begin(connection: Connection) -> requests.Opened:
        subject = find_subject(connection, store_id, customer, orders=orders, email=email, phone=phone)
        return requests.open_request(connection, cipher, store_id, requests.ERASE_CUSTOMER, subject)

    opened = _transact(database, begin)
    subject = opened.subject
    assert subject is not None
    _transact(database, lambda connection: tombstones.bury(connection, store_id, subject))
    work = _Work(database, store_id, opened.id, subject.parameters(store_id), batch)
    with database.transaction() as connection:
        search = Search(with_held_orders(connection, store_id, subject))
    for table, answer in ANSWERS.items():
        if answer.searched is not None:
            work.empty_what_names(table, answer, search, cipher)
        elif answer.emptied:
            work.empty(table, answer)
    if customer is not None:
        work.count("person_customers", people.match_store(database, store_id, customer).left)
    return work.end(home, by, "customer_external_id = %(customer)s")


def erase_store(
    database: Database,
    cipher: Cipher,
    home: Path,
    store_id: int,
    *,
    by: str,
    keep_orders: bool = False,
    batch: int = BATCH,
) -> Erased:
    """Delete everything of a store but a bare row that says so; nothing runs for it from the first transaction on.

    With `keep_orders` its orders, their lines and refunds stay, emptied of what is personal. Until all is done the store
    keeps its name, by which the same can be asked for again. Raises IntegrationError: (bad_data) for a store that is at
    work, which a person has to confirm by pausing it, and for orders to be kept that are being deleted; (database), like
    `erase_customer`.
    """
    kept = ORDERS if keep_orders else ()

    def begin(connection: Connection) -> int:
        _require_not_at_work(connection, store_id)
        if keep_orders and _is_open(connection, store_id, requests.ERASE_STORE):
            raise requests.bad_data("everything of the store, its orders too, is being deleted already")
        # Its request, like those of its customers, is kept: as proof.
        kind = requests.ERASE_BUT_ORDERS if keep_orders else requests.ERASE_STORE
        opened = requests.open_request(connection, cipher, store_id, kind, None)
        # Alone: whoever is loading has committed, and whoever loads later has lost its claim.
        tombstones.lock_alone(connection, store_id)
        connection.execute(_BARE, {"store": store_id, "credentials": cipher.encrypt({})})
        connection.execute("DELETE FROM sync_states WHERE store_id = %s", (store_id,))
        return opened.id

    request_id = _transact(database, begin)
    work = _Work(database, store_id, request_id, {"store": store_id}, batch)
    work.each_batch("incidents", _END_INCIDENTS)
    for table, answer in ANSWERS.items():
        if table not in kept and answer.of_store is not None:
            work.delete(table, answer.of_store)
        elif table in kept and answer.emptied:
            work.empty(table, answer, OF_STORE)
    with database.transaction() as connection:
        connection.execute(
            "INSERT INTO people_queue (store_id, customer_external_id) "
            "SELECT store_id, customer_external_id FROM person_customers WHERE store_id = %s",
            (store_id,),
        )
    work.count("person_customers", people.match_store(database, store_id).left)

    def end(connection: Connection) -> None:
        connection.execute("UPDATE stores SET name = 'erased-' || id WHERE id = %s", (store_id,))
        others = connection.execute(
            "SELECT id FROM data_requests WHERE store_id = %s AND kind = ANY(%s) AND status = 'open' AND id <> %s",
            (store_id, list(requests.ERASURES), request_id),
        ).fetchall()
        if not keep_orders:  # what was to be kept is gone as well
            requests.finish(connection, [id_ for (id_,) in others], by=by)

    return work.end(home, by, "true", end)


def count_rows(database: Database, store_id: int, *, keep_orders: bool = False) -> dict[str, int]:
    """How many rows of each table `erase_store` would delete now. Reads all of them."""
    with database.transaction() as connection:
        return {
            table: rows
            for table, answer in ANSWERS.items()
            if answer.of_store is not None and not (keep_orders and table in ORDERS)
            if (
                rows := connection.execute(
                    f"SELECT count(*) FROM {table} t WHERE {answer.of_store}",  # noqa: S608 (of constants)
                    {"store": store_id},
                ).fetchall()[0][0]
            )
        }


def _is_open(connection: Connection, store_id: int, kind: str) -> bool:
    row = connection.execute(
        "SELECT EXISTS (SELECT FROM data_requests WHERE store_id = %s AND kind = %s AND status = 'open')",
        (store_id, kind),
    ).fetchone()
    return bool(row and row[0])


def _require_not_at_work(connection: Connection, store_id: int) -> None:
    row = connection.execute(
        "SELECT name, paused_at IS NULL AND uninstalled_at IS NULL AND deleted_at IS NULL AND EXISTS ("
        "SELECT FROM sync_states WHERE store_id = stores.id AND last_succeeded_at > now() - %s) "
        "FROM stores WHERE id = %s FOR UPDATE",
        (AT_WORK_WITHIN, store_id),
    ).fetchone()
    if row is not None and row[1]:
        raise requests.bad_data(
            f"store {row[0]} is at work, so nothing of it was erased. If all of it is to be erased, pause it "
            f"({command('stores', 'pause', row[0])}) and try again; if its shop came back, resolve this"
        )


_BARE = """
    UPDATE stores SET deleted_at = coalesce(deleted_at, now()),
        paused_at = coalesce(paused_at, now()), credentials = %(credentials)s, api_url = NULL, interval_minutes = NULL,
        external_id = NULL, shop_name = NULL, currency = NULL, timezone = NULL, plan = NULL, source_updated_at = NULL,
        synced_at = NULL
    WHERE id = %(store)s"""

# They stay, so that whoever was told of one hears that it is over.
_END_INCIDENTS = """
    UPDATE incidents t SET status = 'resolved', resolved_at = coalesce(t.resolved_at, clock_timestamp()),
        resolved_by = coalesce(t.resolved_by, %(system)s), resolution = 'the store was erased', owner = NULL,
        subject = 'store erased-' || t.store_id, message = 'the store was erased', details = '{}', payload = NULL,
        last_occurrence = NULL
    WHERE t.id IN (SELECT i.id FROM incidents i WHERE i.store_id = %(store)s AND i.message <> 'the store was erased'
        AND i.fingerprint <> %(own)s ORDER BY i.id LIMIT %(batch)s FOR NO KEY UPDATE)"""


class _Work:
    """The batches of one request. Each is one transaction, with its count."""

    def __init__(
        self, database: Database, store_id: int, request_id: int, parameters: dict[str, Any], batch: int
    ) -> None:
        self.database = database
        self.store_id = store_id
        self.request_id = request_id
        self.parameters = {
            **parameters,
            "batch": batch,
            "why": WHY,
            "commands": list(COMMANDS),
            "system": SYSTEM,
            "own": str(DataRequest(request_id)),
        }
        self.batch = batch
        self.rows: dict[str, int] = {}

    def count(self, table: str, rows: int) -> None:
        _transact(self.database, lambda connection: self._note(connection, table, rows))
        self.rows[table] = self.rows.get(table, 0) + rows

    def each_batch(self, table: str, statement: str, parameters: dict[str, Any] | None = None) -> None:
        """Execute a statement that changes up to a batch of rows, until there are none."""
        while self._change(table, statement, parameters or {}):
            pass

    def delete(self, table: str, condition: str) -> None:
        picked, same = _picked(table, condition), _same(table)
        self.each_batch(table, f"{picked} DELETE FROM {table} t USING picked WHERE {same}")  # noqa: S608

    def empty(self, table: str, answer: Answer, condition: str | None = None) -> None:
        """Empty the columns of the customer's rows, or of those of this condition."""
        values = {f"empty_{name}": value for name, value in answer.emptied.items()}
        left = " OR ".join(f"t.{name} IS DISTINCT FROM %(empty_{name})s" for name in answer.emptied)
        assignments = ", ".join(f"{name} = %(empty_{name})s" for name in answer.emptied)
        if table in _ALSO:
            left, assignments = f"{left} {_ALSO_LEFT[table]}", f"{assignments}, {_ALSO[table]}"
        self.each_batch(
            table,
            f"{_picked(table, f'{condition or answer.of_customer} AND ({left})')} "  # noqa: S608 (names of the models)
            f"UPDATE {table} t SET {assignments} FROM picked WHERE {_same(table)}",
            values,
        )

    def empty_what_names(self, table: str, answer: Answer, search: Search, cipher: Cipher) -> None:
        """Empty the encrypted payloads in which a customer is named, and those of which nobody can tell."""
        found = []
        with self.database.transaction() as connection, connection.cursor(name="searched") as held:
            held.execute(
                f"SELECT t.id, t.{answer.searched}, {_KNOWN_BY[table]} FROM {table} t "  # noqa: S608 (names of the models)
                f"WHERE {answer.of_customer} AND {_HAS_PAYLOAD[table]}",
                self.parameters,
            )
            for id_, payload, resource, external_id in held:
                if search.finds(external_id) or _may_name(search, cipher, payload, resource):
                    found.append(id_)
        ids = f"t.id = ANY(%(ids)s) AND {_HAS_PAYLOAD[table]}"
        update = f"UPDATE {table} t SET {_EMPTY_PAYLOAD[table]} WHERE {ids}"  # noqa: S608
        for start in range(0, len(found), self.batch):
            self._change(table, update, {"ids": found[start : start + self.batch]})

    def end(
        self, home: Path, by: str, whose: str, also: Callable[[Connection], None] = lambda _: None
    ) -> Erased:
        """Delete the files of the exports that `whose` is a condition of, end those that are open, do what is `also` to be
        done, and finish the request."""

        def act(connection: Connection) -> list[str]:
            exports = connection.execute(
                f"SELECT id, status = 'open' FROM data_requests WHERE store_id = %(store)s AND kind = 'export' AND {whose} "  # noqa: S608
                "ORDER BY id FOR UPDATE",
                self.parameters,
            ).fetchall()
            left = requests.delete_files(connection, home, [id_ for id_, _ in exports])
            requests.finish(connection, [id_ for id_, is_open in exports if is_open], by="erasure")
            also(connection)
            if left:
                connection.execute(
                    "UPDATE data_requests SET file = %s WHERE id = %s", (", ".join(left), self.request_id)
                )
                requests.report(connection, self.request_id, Severity.MEDIUM)
            else:
                requests.finish(connection, [self.request_id], by=by)
            return left

        return Erased(self.request_id, self.rows, _transact(self.database, act))

    def _change(self, table: str, statement: str, parameters: dict[str, Any]) -> int:
        def act(connection: Connection) -> int:
            rows = connection.execute(statement, {**self.parameters, **parameters}).rowcount
            self._note(connection, table, rows)
            return rows

        rows = _transact(self.database, act)
        self.rows[table] = self.rows.get(table, 0) + rows
        return rows

    def _note(self, connection: Connection, table: str, rows: int) -> None:
        if rows:
            requests.add_counts(connection, self.request_id, {table: rows})


_KNOWN_BY = {"rejected_rows": "t.resource, t.external_id", "webhook_events": "t.resource, t.object_id"}
"""What a row is about: its table and its id."""


def _may_name(search: Search, cipher: Cipher, payload: bytes, resource: str | None) -> bool:
    try:
        content = content_of(cipher, payload)
    except IntegrationError:
        return True  # no key of ours reads it
    # Of a part that never was a row it is not known whose it is.
    is_orphan = resource in _PARTS and not (isinstance(content, dict) and content.get("order_external_id"))
    return is_orphan or search.finds(content)


_PARTS = {part for parts in PARTS.values() for part in parts}


def _key(table: str) -> list[str]:
    return [column.name for column in Base.metadata.tables[table].primary_key]


def _picked(table: str, condition: str) -> str:
    """A batch of rows, by key: one that is changed meanwhile is looked at again."""
    key = ", ".join(f"t.{name}" for name in _key(table))
    return f"WITH picked AS MATERIALIZED (SELECT {key} FROM {table} t WHERE {condition} LIMIT %(batch)s FOR UPDATE OF t)"  # noqa: S608


def _same(table: str) -> str:
    return " AND ".join(f"t.{name} = picked.{name}" for name in _key(table))


def _transact(database: Database, act: Callable[[Connection], T]) -> T:
    return database.transact(act, tries=_TRIES)
