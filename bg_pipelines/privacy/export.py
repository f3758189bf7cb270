"""Export: everything that is held of a customer of a store, as one JSON file for the operator to send.

    {"store": {...}, "customer": "gid://...", "made_at": "...",
     "customers": [{...}], "orders": [{...}], "order_lines": [{...}], ...}

A list for each table that holds something of a customer (`tables`), row by row as it is held, so that an order's lines
name it by `order_external_id`; what is encrypted here is not there. The file is written below `BG_HOME_DIR/data-requests`
for its owner alone (0600), and takes its name when all of it is written.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import psycopg

from bg_pipelines.database.engine import Database
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.folders import private_folder
from bg_pipelines.privacy import requests
from bg_pipelines.privacy.subjects import Search, Subject, content_of, find_subject, with_held_orders
from bg_pipelines.privacy.tables import ANSWERS, Answer
from bg_pipelines.work.queue import clock

Connection = psycopg.Connection[Any]

HIDDEN = (
    "store_id", "lease_owner", "lease_expires_at", "next_due_at", "attempts", "last_error", "retry_strategy",
    "retry_reason", "incident_id", "email_key", "phone_key", "subject", "file", "payload",
)  # fmt: skip
"""Columns that say how work is done, and no more of the person than the others."""


class Exported(NamedTuple):
    """An export: its request, where the file is, and how many rows of which table are in it.

    `path` is None where the same request was done before.
    """

    request_id: int
    path: Path | None
    rows: dict[str, int]


def export_customer(
    database: Database,
    cipher: Cipher,
    home: Path,
    store_id: int,
    customer: str | None,
    *,
    orders: Iterable[str] = (),
    email: str | None = None,
    phone: str | None = None,
    external_id: str | None = None,
    to_be_sent: bool = False,
) -> Exported:
    """Write what is held of a customer of a store; the request stays open until a person says that it was sent.

    `external_id` is the platform's id of the request: the same is not exported twice. `to_be_sent` tells people of it at
    once, and not only near its deadline. Raises IntegrationError: (configuration) where the file cannot be written.
    """
    with database.transaction() as connection:
        subject = find_subject(connection, store_id, customer, orders=orders, email=email, phone=phone)
        opened = requests.open_request(
            connection, cipher, store_id, requests.EXPORT, subject, external_id=external_id
        )
    if opened.is_done:
        return Exported(opened.id, None, {})
    assert opened.subject is not None
    path = requests.file_of(home, opened.id)
    unfinished = requests.unfinished(path)
    try:
        private_folder(home)
        private_folder(path.parent)
        unfinished.unlink(missing_ok=True)
        with open(
            os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8"
        ) as file:
            with database.transaction() as connection:
                rows = _write(connection, cipher, store_id, opened.subject, file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        raise IntegrationError.of(
            ErrorType.CONFIGURATION,
            f"the export of request {opened.id} cannot be written to {path}: {error.strerror or type(error).__name__}",
            source="settings",
        ) from None
    with database.transaction() as connection:
        requests.note_file(connection, opened.id, requests.place(path), rows)
        if to_be_sent:
            requests.report(connection, opened.id)
    return Exported(opened.id, path, rows)


def _write(
    connection: Connection, cipher: Cipher, store_id: int, subject: Subject, file: TextIO
) -> dict[str, int]:
    """Row by row, so that no more of them are in memory than are on their way; returns how many, by table."""
    store = connection.execute(
        "SELECT jsonb_build_object('name', name, 'platform', platform, 'domain', domain, 'shop_name', shop_name) "
        "FROM stores WHERE id = %s",
        (store_id,),
    ).fetchone()
    head = {
        "store": store and store[0],
        "customer": subject.customer,
        "made_at": clock(connection).isoformat(timespec="seconds"),
    }
    file.write(json.dumps(head, ensure_ascii=False, indent=1).removesuffix("\n}"))
    search = Search(with_held_orders(connection, store_id, subject))
    parameters = {**subject.parameters(store_id), "hidden": list(HIDDEN)}
    counts = {}
    for table, answer in ANSWERS.items():
        if answer.of_customer is None:
            continue
        file.write(f",\n {json.dumps(table)}: [")
        count = 0
        for count, row in enumerate(_rows(connection, cipher, table, answer, parameters, search), start=1):
            file.write(f"{',' if count > 1 else ''}\n  {row}")
        file.write("\n ]" if count else "]")
        counts[table] = count
    file.write("\n}\n")
    return counts


def _rows(
    connection: Connection,
    cipher: Cipher,
    table: str,
    answer: Answer,
    parameters: dict[str, Any],
    search: Search,
) -> Iterator[str]:
    """The rows of a table that are of the customer, as JSON: PostgreSQL's, which keeps amounts as they are."""
    payload = f"t.{answer.searched}" if answer.searched else "NULL"
    with connection.cursor(name="export") as cursor:
        cursor.execute(
            f"SELECT (to_jsonb(t) - %(hidden)s::text[])::text, {payload} FROM {table} t WHERE {answer.of_customer}",  # noqa: S608
            parameters,
        )
        for text, encrypted in cursor:
            if answer.searched is None:
                yield text
            elif encrypted:
                content = _readable(cipher, encrypted)
                row = json.loads(text)
                if search.finds(content) or search.finds(row.get("external_id")):
                    yield json.dumps({**row, "content": content}, ensure_ascii=False)


def _readable(cipher: Cipher, encrypted: bytes) -> Any:
    try:
        return content_of(cipher, encrypted)
    except IntegrationError:
        return None
