"""Match customers to people: what has changed since the last time, in batches, each one transaction.

Triggers queue customers that changed (migration 0003). A batch takes them from the queue, with everybody they are or
were connected to; all others stay as they are. A killed run loses nothing; the next continues.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any

import psycopg

from bg_pipelines.database.engine import Database
from bg_pipelines.people.grouping import CustomerId, Decided, Member, group, settle_ids, unsettled
from bg_pipelines.people.keys import EMAIL, EMAIL_KEY, KNOWN, NAME, PARAMETERS, PHONE_KEY
from bg_pipelines.wording import counted

BATCH = 50_000
"""Queued changes of one transaction; it bounds the memory."""
ANALYZE_FROM = 5_000
"""From this many changes on ANALYZE is worth it before they are joined."""

# One number for all matching: PostgreSQL's advisory locks are plain integers.
_LOCK = 0x6267_7070


@dataclass
class Matched:
    """What became of the customers that were looked at. Counts alone: fit for a log and for metadata."""

    looked_at: int = 0
    """Customers that had changed, or were connected to one that had."""
    linked: int = 0
    """Customers that are somebody for the first time."""
    moved: int = 0
    """Customers that came to another person."""
    left: int = 0
    """Customers that are nobody any more: deleted or redacted."""
    people_gone: int = 0
    """Persons without customers: they have left, or become one with another."""

    def __iadd__(self, other: Matched) -> Matched:
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))
        return self

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


Log = Callable[[str], None]


def match(
    database: Database,
    *,
    log: Log | None = None,
    batch: int = BATCH,
    is_over: Callable[[], bool] = lambda: False,
) -> Matched:
    """Match all customers that changed since the last time, and everybody connected to them.

    `is_over` is checked after each batch; the rest is for the next time. Concurrent matches wait for each other, batch
    by batch. Raises IntegrationError (database).
    """
    total = Matched()
    done = queued = 0
    if log:
        with database.transaction() as connection:
            [queued] = _one(connection, "SELECT count(*) FROM people_queue")
    while True:
        with database.transaction() as connection:
            taken, counts = match_batch(connection, batch)
        total += counts
        done += taken
        if log and counts.looked_at:
            log(
                f"people: {done:,} of {counted(max(done, queued), 'change')} matched, {counted(total.looked_at, 'customer')} looked at, "
                f"{total.linked:,} new, {total.moved:,} moved, {total.left:,} left"
            )
        if taken < batch:
            return total
        if is_over():
            if log:
                log("people: the run's time is over. The next run matches the rest.")
            return total


def rematch(database: Database, *, log: Log | None = None, batch: int = BATCH) -> Matched:
    """Match everybody again. The result is the same as that of `match`."""
    with database.transaction() as connection:
        connection.execute(
            "INSERT INTO people_queue (store_id, customer_external_id) "
            "SELECT store_id, external_id FROM customers UNION SELECT store_id, customer_external_id FROM person_customers"
        )
    return match(database, log=log, batch=batch)


def lock(connection: psycopg.Connection[Any]) -> None:
    """Until the transaction's end nobody else matches or decides."""
    connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))


def match_store(database: Database, store_id: int, customer_external_id: str | None = None) -> Matched:
    """Match what has changed of a store, or of one of its customers, before its turn: who was erased is unlinked now."""
    total = Matched()
    while True:
        with database.transaction() as connection:
            taken, counts = match_batch(connection, only=(store_id, customer_external_id))
        total += counts
        if taken < BATCH:
            return total


def match_batch(
    connection: psycopg.Connection[Any],
    batch: int = BATCH,
    *,
    only: tuple[int | None, str | None] = (None, None),
) -> tuple[int, Matched]:
    """One batch in the caller's transaction; returns how many queued changes it took.

    `only` are changes of this store, or of one of its customers.
    """
    lock(connection)
    connection.execute(_TABLES)
    store_id, customer = only
    taken, stores_changed = _one(connection, _TAKE, {"batch": batch, "store": store_id, "customer": customer})
    if not taken:
        return 0, Matched()
    if stores_changed:
        connection.execute(_TAKE_CHANGED_KEYS, PARAMETERS)
    connection.execute(_CHANGED, PARAMETERS)
    counts = Matched()
    [changed] = _one(connection, "SELECT count(*) FROM match_changed")
    many = changed >= ANALYZE_FROM
    if many:
        connection.execute("ANALYZE match_changed")
    counts.left = connection.execute(_UNLINK).rowcount
    counts.linked = connection.execute(_LINK).rowcount
    connection.execute(_SET_KEYS)
    if many:
        connection.execute("ANALYZE person_customers")
    for kind in ("email", "phone"):
        connection.execute(_JUDGE_KEYS.replace("KIND", kind), PARAMETERS)
    if many:
        connection.execute("ANALYZE match_keys")
    connection.execute(_SEED_CHANGED)
    for kind in ("email", "phone"):
        connection.execute(_SEED_HOLDERS.replace("KIND", kind))
    step = 0
    if many:
        connection.execute("ANALYZE match_members")
    while connection.execute(_REACH, {"step": step, "next": step + 1}).rowcount:
        step += 1
    _settle(connection, counts)
    return taken, counts


def _settle(connection: psycopg.Connection[Any], counts: Matched) -> None:
    """Group those who were reached, and write what is different from before."""
    reached = list(map(Member._make, connection.execute(_MEMBERS)))
    counts.looked_at = len(reached) + counts.left
    decisions = [
        Decided(kind, (a_store, a), (b_store, b))
        for kind, a_store, a, b_store, b in connection.execute(_DECISIONS)
    ]
    members = unsettled(reached, decisions)
    persons = group(members, decisions)
    settled = settle_ids(members, persons)
    reasons = {customer: why for person in persons for customer, why in person.items()}
    new = {member.number for member in members if member.is_new}
    emptied = {row[0] for row in connection.execute("SELECT person_id FROM match_changed WHERE left_now")}
    with connection.cursor() as cursor, cursor.copy(_COPY_RESULTS) as copy:
        for member in members:
            number, person_id = settled[member.id]
            why = reasons[member.id]
            found = (number, person_id, why.by, *(why.to or (None, None)))
            if found != (member.number, member.person_id, *member[8:11]):
                copy.write_row((*member.id, *found))
            if person_id != member.person_id:
                counts.moved += member.number not in new
                emptied.add(member.person_id)
    connection.execute(_MAKE_PEOPLE)
    connection.execute(_WRITE_RESULTS)
    gone = {row[0] for row in connection.execute(_DROP_PEOPLE, (list(emptied),))}
    counts.people_gone = len(gone - new)


def _one(connection: psycopg.Connection[Any], statement: str, parameters: Any = None) -> tuple[Any, ...]:
    row: tuple[Any, ...] | None = connection.execute(statement, parameters).fetchone()
    assert row is not None
    return row


# Temporary tables are made once a connection and emptied at each commit: one a run would bloat the catalogue.
_TABLES = """
    SET LOCAL client_min_messages = warning;
    SET LOCAL work_mem = '32MB';
    CREATE TEMPORARY TABLE IF NOT EXISTS match_taken (store_id bigint, customer_external_id text) ON COMMIT DELETE ROWS;
    CREATE TEMPORARY TABLE IF NOT EXISTS match_changed (
        store_id bigint, customer_external_id text, number bigint, person_id bigint, is_new boolean, left_now boolean,
        lost_keys boolean, email_key bytea, phone_key bytea, old_email_key bytea, old_phone_key bytea)
        ON COMMIT DELETE ROWS;
    CREATE TEMPORARY TABLE IF NOT EXISTS match_keys (kind text, key bytea, shared boolean) ON COMMIT DELETE ROWS;
    CREATE TEMPORARY TABLE IF NOT EXISTS match_members (
        store_id bigint, customer_external_id text, step int,
        PRIMARY KEY (store_id, customer_external_id)) ON COMMIT DELETE ROWS;
    CREATE TEMPORARY TABLE IF NOT EXISTS match_results (
        store_id bigint, customer_external_id text, number bigint, person_id bigint, matched_by text,
        with_store_id bigint, with_customer_external_id text) ON COMMIT DELETE ROWS;
    DELETE FROM match_taken; DELETE FROM match_changed; DELETE FROM match_keys; DELETE FROM match_members;
    DELETE FROM match_results"""

_TAKE = """
    WITH taken AS (
        DELETE FROM people_queue WHERE id = ANY (ARRAY(SELECT id FROM people_queue
            WHERE (%(store)s::bigint IS NULL OR store_id = %(store)s)
            AND (%(customer)s::text IS NULL OR customer_external_id = %(customer)s) ORDER BY id LIMIT %(batch)s))
        RETURNING store_id, customer_external_id
    ), kept AS (
        INSERT INTO match_taken SELECT DISTINCT store_id, customer_external_id FROM taken
        WHERE customer_external_id IS NOT NULL
    )
    SELECT count(*), count(*) FILTER (WHERE customer_external_id IS NULL) FROM taken"""

# A store's domain makes placeholders of e-mails, anywhere: it seldom changes, and then all are looked through.
_TAKE_CHANGED_KEYS = f"""
    INSERT INTO match_taken
    SELECT c.store_id, c.external_id FROM customers c
    JOIN person_customers p ON p.store_id = c.store_id AND p.customer_external_id = c.external_id
    CROSS JOIN LATERAL (SELECT {EMAIL} AS email OFFSET 0) e
    WHERE {KNOWN} AND p.email_key IS DISTINCT FROM {EMAIL_KEY}"""  # noqa: S608 (of constants)

_CHANGED = f"""
    INSERT INTO match_changed (store_id, customer_external_id, number, person_id, is_new, left_now, lost_keys,
        email_key, phone_key, old_email_key, old_phone_key)
    SELECT store_id, customer_external_id,
        CASE WHEN number IS NULL THEN nextval('people_id_seq') ELSE number END, person_id,
        number IS NULL, NOT known,
        email_key IS NULL AND phone_key IS NULL AND coalesce(old_email_key, old_phone_key) IS NOT NULL,
        email_key, phone_key, old_email_key, old_phone_key
    FROM (
        SELECT t.store_id, t.customer_external_id, p.number, p.person_id, known,
            CASE WHEN known THEN {EMAIL_KEY} END AS email_key, CASE WHEN known THEN {PHONE_KEY} END AS phone_key,
            p.email_key AS old_email_key, p.phone_key AS old_phone_key
        FROM (SELECT DISTINCT store_id, customer_external_id FROM match_taken) t
        LEFT JOIN customers c ON c.store_id = t.store_id AND c.external_id = t.customer_external_id
        LEFT JOIN person_customers p ON p.store_id = t.store_id AND p.customer_external_id = t.customer_external_id
        CROSS JOIN LATERAL (SELECT c.external_id IS NOT NULL AND {KNOWN} AS known) k
        CROSS JOIN LATERAL (SELECT {EMAIL} AS email OFFSET 0) e
        WHERE known OR p.number IS NOT NULL
        ORDER BY t.store_id, t.customer_external_id COLLATE "C"
    ) AS changed"""  # noqa: S608

_UNLINK = """
    DELETE FROM person_customers p USING match_changed c WHERE c.left_now
    AND p.store_id = c.store_id AND p.customer_external_id = c.customer_external_id"""

# Each is a person of its own until it is matched.
_LINK = """
    WITH made AS (
        INSERT INTO people (id) SELECT number FROM match_changed WHERE is_new
    )
    INSERT INTO person_customers (store_id, customer_external_id, number, person_id, email_key, phone_key)
    SELECT store_id, customer_external_id, number, number, email_key, phone_key FROM match_changed WHERE is_new"""

_SET_KEYS = """
    UPDATE person_customers p SET email_key = c.email_key, phone_key = c.phone_key,
        email_shared = p.email_shared AND p.email_key IS NOT DISTINCT FROM c.email_key,
        phone_shared = p.phone_shared AND p.phone_key IS NOT DISTINCT FROM c.phone_key
    FROM match_changed c WHERE NOT c.is_new AND NOT c.left_now
    AND p.store_id = c.store_id AND p.customer_external_id = c.customer_external_id
    AND (p.email_key, p.phone_key) IS DISTINCT FROM (c.email_key, c.phone_key)"""

# Shared: held by too many, or by two of one store who do not have the same name.
_JUDGE_KEYS = f"""
    INSERT INTO match_keys (kind, key, shared)
    WITH touched AS (
        SELECT KIND_key AS key FROM match_changed WHERE KIND_key IS NOT NULL
        UNION SELECT old_KIND_key FROM match_changed WHERE old_KIND_key IS NOT NULL
    ), held AS (
        SELECT t.key, p.store_id, count(*) AS customers FROM touched t JOIN person_customers p ON p.KIND_key = t.key
        GROUP BY t.key, p.store_id
    ), several AS (
        SELECT h.key FROM held h
        JOIN person_customers p ON p.KIND_key = h.key AND p.store_id = h.store_id
        JOIN customers c ON c.store_id = p.store_id AND c.external_id = p.customer_external_id
        CROSS JOIN LATERAL (SELECT {NAME} AS name OFFSET 0) n
        WHERE h.customers > 1
        GROUP BY h.key, h.store_id HAVING min(n.name) <> max(n.name) OR count(n.name) < count(*)
    )
    SELECT 'KIND', key, sum(customers) > %(most)s OR key IN (SELECT key FROM several) FROM held GROUP BY key"""  # noqa: S608

# Whom people joined with whom, both ways.
_JOINED = """(
    SELECT d.* FROM (
        SELECT store_id, customer_external_id, other_store_id AS to_store_id,
            other_customer_external_id AS to_external_id
        FROM person_decisions WHERE kind = 'together' AND undone_at IS NULL
        UNION ALL
        SELECT other_store_id, other_customer_external_id, store_id, customer_external_id
        FROM person_decisions WHERE kind = 'together' AND undone_at IS NULL) d
    JOIN person_customers p ON p.store_id = to_store_id AND p.customer_external_id = to_external_id)"""

# With them, whom people joined with one who has left.
_SEED_CHANGED = f"""
    INSERT INTO match_members (store_id, customer_external_id, step)
    SELECT store_id, customer_external_id, 0 FROM match_changed WHERE NOT left_now
    UNION
    SELECT d.to_store_id, d.to_external_id, 0 FROM match_changed c
    JOIN {_JOINED} d ON d.store_id = c.store_id AND d.customer_external_id = c.customer_external_id"""  # noqa: S608

# Who holds a key that joins no more, or does now; and those whom somebody had a key in common with and has no more.
# Holders of a shop's phone that goes on being one are left alone.
_SEED_HOLDERS = """
    WITH judged AS (
        UPDATE person_customers p SET KIND_shared = k.shared FROM match_keys k
        WHERE k.kind = 'KIND' AND p.KIND_key = k.key AND p.KIND_shared <> k.shared
        RETURNING p.store_id, p.customer_external_id
    )
    INSERT INTO match_members (store_id, customer_external_id, step)
    SELECT store_id, customer_external_id, 0 FROM judged
    UNION
    SELECT p.store_id, p.customer_external_id, 0 FROM match_changed c JOIN person_customers p ON p.KIND_key = c.old_KIND_key
    WHERE c.old_KIND_key IS DISTINCT FROM c.KIND_key AND NOT p.KIND_shared
    ON CONFLICT DO NOTHING"""

# One step further along the keys that join, and along what people joined.
_REACH = f"""
    INSERT INTO match_members (store_id, customer_external_id, step)
    WITH reached AS (
        SELECT p.* FROM match_members m JOIN person_customers p USING (store_id, customer_external_id)
        WHERE m.step = %(step)s
    )
    SELECT p.store_id, p.customer_external_id, %(next)s FROM reached r
    JOIN person_customers p ON p.email_key = r.email_key AND NOT r.email_shared AND p.number <> r.number
    UNION
    SELECT p.store_id, p.customer_external_id, %(next)s FROM reached r
    JOIN person_customers p ON p.phone_key = r.phone_key AND NOT r.phone_shared AND p.number <> r.number
    UNION
    SELECT d.to_store_id, d.to_external_id, %(next)s FROM reached r
    JOIN {_JOINED} d ON d.store_id = r.store_id AND d.customer_external_id = r.customer_external_id
    ON CONFLICT DO NOTHING"""  # noqa: S608

_MEMBERS = """
    SELECT p.store_id, p.customer_external_id, p.number, p.person_id, p.email_key, p.email_shared, p.phone_key,
        p.phone_shared, p.matched_by, p.with_store_id, p.with_customer_external_id, coalesce(c.lost_keys, false), coalesce(c.is_new, false)
    FROM match_members m JOIN person_customers p USING (store_id, customer_external_id)
    LEFT JOIN match_changed c USING (store_id, customer_external_id)"""

_DECISIONS = """
    SELECT kind, store_id, d.customer_external_id, other_store_id, other_customer_external_id
    FROM person_decisions d JOIN match_members m USING (store_id, customer_external_id) WHERE undone_at IS NULL"""

_COPY_RESULTS = (
    "COPY match_results (store_id, customer_external_id, number, person_id, matched_by, with_store_id, "
    "with_customer_external_id) FROM STDIN"
)

# A person who is there again, because something was undone, is as old as before.
_MAKE_PEOPLE = """
    INSERT INTO people (id, created_at)
    SELECT r.person_id, min(p.linked_at) FROM match_results r
    JOIN person_customers p USING (store_id, customer_external_id)
    WHERE NOT EXISTS (SELECT FROM people WHERE id = r.person_id) GROUP BY r.person_id"""

_WRITE_RESULTS = """
    UPDATE person_customers p SET number = r.number, person_id = r.person_id, matched_by = r.matched_by,
        with_store_id = r.with_store_id, with_customer_external_id = r.with_customer_external_id, matched_at = now()
    FROM match_results r WHERE p.store_id = r.store_id AND p.customer_external_id = r.customer_external_id"""

_DROP_PEOPLE = """
    DELETE FROM people WHERE id = ANY (%s) AND NOT EXISTS (SELECT FROM person_customers WHERE person_id = people.id)
    RETURNING id"""


def person_of(connection: psycopg.Connection[Any], customer: CustomerId) -> int | None:
    """Whom a customer is; None for one that is nobody."""
    row = connection.execute(
        "SELECT person_id FROM person_customers WHERE store_id = %s AND customer_external_id = %s", customer
    ).fetchone()
    return None if row is None else int(row[0])
