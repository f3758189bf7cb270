"""Requests: what was asked for of a customer's or a store's data, by when it is due, and what was done, as proof.

    open -> done    an export: when a person says that it was sent; an erasure: when nothing is left

A request is opened before anything is done and knows, encrypted, whom it is about until it is done: whatever is
interrupted is finished by the next attempt. Without personal data otherwise.

Shopify wants each done within 30 days: https://shopify.dev/docs/apps/build/compliance/privacy-law-compliance.
"""

from __future__ import annotations

import socket
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from bg_pipelines.database.engine import Database
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.errors import ErrorType, IntegrationError, Severity
from bg_pipelines.incidents import reporting
from bg_pipelines.incidents.fingerprints import DataRequest
from bg_pipelines.privacy.subjects import Subject, unsealed
from bg_pipelines.work.queue import clock

Connection = psycopg.Connection[Any]

EXPORT, ERASE_CUSTOMER, ERASE_STORE = "export", "erase_customer", "erase_store"
ERASE_BUT_ORDERS = "erase_store_but_orders"
ERASURES = (ERASE_STORE, ERASE_BUT_ORDERS)
"""Of a whole store."""
TIME_LIMIT = timedelta(days=30)
NEAR = timedelta(days=7)
"""So long before its deadline a request is reported again, as more severe."""
SAME_WITHIN = timedelta(days=1)
"""An erasure that is asked for again within this time is the same request, whose answer was lost."""
FOLDER = "data-requests"

# One number for each store's: PostgreSQL's advisory locks are plain integers.
_LOCK = 0x6267_7071 << 32


class Request(NamedTuple):
    """A request as it is listed; `result` counts rows by table, `file` is where an export lies, as machine:path."""

    id: int
    store: str
    domain: str
    kind: str
    customer: str | None
    received_at: datetime
    due_at: datetime
    status: str
    done_at: datetime | None
    done_by: str | None
    result: dict[str, Any]
    file: str | None


class Opened(NamedTuple):
    """A request to be carried out. `is_done`: it was before."""

    id: int
    subject: Subject | None
    is_done: bool
    file: str | None


_REQUESTS = (
    "SELECT r.id, s.name AS store, s.domain, r.kind, r.customer_external_id AS customer, r.received_at, r.due_at, "
    "r.status, r.done_at, r.done_by, r.result, r.file FROM data_requests r JOIN stores s ON s.id = r.store_id"
)


def open_request(
    connection: Connection,
    cipher: Cipher,
    store_id: int,
    kind: str,
    subject: Subject | None,
    *,
    external_id: str | None = None,
) -> Opened:
    """Open a request, or take up the one that is open; one that was asked for twice is the same (`SAME_WITHIN`)."""
    connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK + store_id,))
    customer = subject.customer if subject else None
    row = connection.execute(
        "SELECT id, subject, status = 'done', file FROM data_requests WHERE store_id = %(store)s AND kind = %(kind)s "
        "AND customer_external_id IS NOT DISTINCT FROM %(customer)s "
        "AND external_id IS NOT DISTINCT FROM %(external_id)s "
        "AND (status = 'open' OR external_id IS NOT NULL OR (kind <> %(export)s AND done_at > now() - %(same)s)) "
        "ORDER BY status = 'open' DESC, id DESC LIMIT 1",
        {
            "store": store_id,
            "kind": kind,
            "customer": customer,
            "external_id": external_id,
            "export": EXPORT,
            "same": SAME_WITHIN,
        },
    ).fetchone()
    if row is None:
        sealed = subject.sealed(cipher) if subject else None
        row = connection.execute(
            "INSERT INTO data_requests (store_id, kind, customer_external_id, external_id, due_at, subject) "
            "VALUES (%s, %s, %s, %s, now() + %s, %s) RETURNING id, NULL::bytea, false, NULL::text",
            (store_id, kind, customer, external_id, TIME_LIMIT, sealed),
        ).fetchone()
        assert row is not None
    elif subject and not row[2]:
        # What was known of them when it began may have been erased meanwhile.
        subject = subject.joined(unsealed(cipher, row[1])) if row[1] else subject
        connection.execute(
            "UPDATE data_requests SET subject = %s WHERE id = %s", (subject.sealed(cipher), row[0])
        )
    return Opened(row[0], subject, row[2], row[3])


def add_counts(connection: Connection, request_id: int, counts: Mapping[str, int]) -> None:
    """Add rows by table to what a request has done, in the transaction that did it."""
    for table, rows in counts.items():
        if rows:
            connection.execute(
                "UPDATE data_requests SET result = result || jsonb_build_object(%(table)s::text, "
                "coalesce((result ->> %(table)s::text)::bigint, 0) + %(rows)s) WHERE id = %(id)s",
                {"table": table, "rows": rows, "id": request_id},
            )


def finish(connection: Connection, request_ids: Collection[int], *, by: str) -> None:
    """These are done: whom they were about is forgotten, and nobody is reminded of them any more."""
    connection.execute(
        "UPDATE data_requests SET status = 'done', done_at = coalesce(done_at, now()), "
        "done_by = coalesce(done_by, %s), subject = NULL WHERE id = ANY(%s)",
        (by, list(request_ids)),
    )
    reporting.clear(connection, list(map(DataRequest, request_ids)), f"done by {by}")


def note_file(connection: Connection, request_id: int, file: str | None, counts: Mapping[str, int]) -> None:
    """The export of a request is written: where, and how many rows of which table."""
    connection.execute(
        "UPDATE data_requests SET file = %s, result = %s WHERE id = %s",
        (file, Jsonb({table: rows for table, rows in counts.items() if rows}), request_id),
    )


def list_requests(database: Database, *, done: bool = False) -> list[Request]:
    """Open requests, the most urgent first; with those that are `done`, the latest of them first."""
    with database.transaction() as connection, connection.cursor(row_factory=class_row(Request)) as cursor:
        cursor.execute(
            f"{_REQUESTS} WHERE r.status = 'open' OR %s ORDER BY r.status <> 'open', "
            "CASE WHEN r.status = 'open' THEN r.due_at END, r.done_at DESC, r.id",
            (done,),
        )
        return cursor.fetchall()


def mark_done(database: Database, home: Path, request_id: int, *, by: str) -> list[str]:
    """A person says that an export was sent, and its file is deleted; returns files that have to be deleted by hand.

    Those are on another machine. Raises IntegrationError (bad_data).
    """
    with database.transaction() as connection:
        row = connection.execute(
            "SELECT kind, file FROM data_requests WHERE id = %s AND status = 'open' FOR UPDATE", (request_id,)
        ).fetchone()
        if row is None:
            raise bad_data(
                f"request {request_id}: none that is open has this number; `bg-pipelines customers requests` lists them"
            )
        if row[0] != EXPORT and row[1] is None:
            raise bad_data(
                f"request {request_id}: an erasure is done when nothing is left: retry its incident, or erase by hand"
            )
        left = delete_files(connection, home, [request_id])
        finish(connection, [request_id], by=by)
    return left


# Files


def file_of(home: Path, request_id: int) -> Path:
    """Where the export of a request is written on this machine."""
    return home / FOLDER / f"request-{request_id}.json"


def place(path: Path) -> str:
    """A path as a request has it: with the machine."""
    return f"{socket.gethostname()}:{path}"


def delete_files(connection: Connection, home: Path, request_ids: Collection[int]) -> list[str]:
    """Delete the files of these exports; returns those that are on another machine, of which no more is known then."""
    left = []
    for request_id in request_ids:
        unfinished(file_of(home, request_id)).unlink(missing_ok=True)
    for (file,) in connection.execute(
        "SELECT file FROM data_requests WHERE id = ANY(%s) AND file IS NOT NULL ORDER BY id FOR UPDATE",
        (list(request_ids),),
    ).fetchall():
        machine, _, path = file.partition(":")
        if machine == socket.gethostname():
            Path(path).unlink(missing_ok=True)
        else:
            left.append(file)
    connection.execute("UPDATE data_requests SET file = NULL WHERE id = ANY(%s)", (list(request_ids),))
    return left


def unfinished(path: Path) -> Path:
    """What a file is called until all of it is written."""
    return path.with_name(f"{path.name}.part")


# Reminders


def remind(database: Database) -> int:
    """Report what is due within `NEAR`, or overdue, as more severe; returns how many. Does nothing the second time."""
    with database.transaction() as connection:
        now = clock(connection)
        near = connection.execute(
            "SELECT id, due_at FROM data_requests WHERE status = 'open' AND due_at < %s ORDER BY id",
            (now + NEAR,),
        ).fetchall()
        news = []
        for request_id, due_at in near:
            severity = Severity.HIGH if due_at < now else Severity.MEDIUM
            known = connection.execute(
                "SELECT FROM incidents WHERE fingerprint = %s AND status = 'open' AND severity = %s",
                (str(DataRequest(request_id)), severity),
            ).rowcount
            if not known:
                news.append((request_id, severity))
        for request_id, severity in news:
            report(connection, request_id, severity)
    return len(news)


def report(connection: Connection, request_id: int, severity: Severity = Severity.LOW) -> None:
    """Open the incident of a request, which says what a person has to do and until when."""
    row = connection.execute(
        "SELECT r.kind, r.due_at, r.file, r.store_id, s.name, s.platform FROM data_requests r "
        "JOIN stores s ON s.id = r.store_id WHERE r.id = %s",
        (request_id,),
    ).fetchone()
    assert row is not None
    kind, due_at, file, store_id, store, platform = row
    done = f"`bg-pipelines customers requests done {request_id}`"
    if kind == EXPORT and file is not None:
        message = (
            f"A customer of store {store} asked for their data. Send {file} to the store's owner by {due_at:%Y-%m-%d}, "
            f"then {done}"
        )
    elif file is not None:
        message = f"Data of a customer of store {store} who was erased lies on another machine: delete {file} there, then {done}"
    else:
        message = (
            f"Request {request_id} of store {store} ({kind}) is not carried out yet and is due {due_at:%Y-%m-%d}: look at "
            "its event, or do it by hand with `bg-pipelines customers`"
        )
    error = IntegrationError(
        message,
        error_type=ErrorType.DATA_REQUEST,
        severity=severity,
        recoverable=False,
        source=platform,
        details={"request": request_id, "due_at": due_at.isoformat()},
    )
    fault = reporting.Fault(
        DataRequest(request_id),
        subject=f"store {store}",
        error=error,
        needs_attention=True,
        platform=platform,
        store_id=store_id,
        payload=f"data_requests {request_id}",
    )
    reporting.report_fault(connection, fault, occurrence=f"{severity} {file}")


def bad_data(message: str) -> IntegrationError:
    return IntegrationError.of(ErrorType.BAD_DATA, message, source="customers")
