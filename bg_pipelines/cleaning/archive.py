"""The archive: deleted rows of a batch as JSON lines, compressed and encrypted, until they expire.

keep(connection, cipher, "carts", rows, keep=timedelta(days=365))
for row in read(connection, cipher, "carts"): ...
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import psycopg

from bg_pipelines.database.secrets import Cipher
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.wording import did_you_mean

Connection = psycopg.Connection[Any]


def keep(connection: Connection, cipher: Cipher, task: str, rows: Sequence[Any], keep: timedelta) -> None:
    """Archive these rows (JSON objects) for so long, in the transaction that deletes them."""
    lines = "\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
    content = cipher.encrypt(base64.b85encode(zlib.compress(lines.encode(), 6)).decode())
    connection.execute(
        "INSERT INTO archived_rows (task, expires_at, row_count, content) VALUES (%s, statement_timestamp() + %s, %s, %s)",
        (task, keep, len(rows), content),
    )


def read(
    connection: Connection, cipher: Cipher, task: str, since: datetime | None = None
) -> Iterator[dict[str, Any]]:
    """The archived rows of a task, the oldest first. Raises IntegrationError (bad_data) where there are none of it."""
    tasks = [name for (name,) in connection.execute("SELECT DISTINCT task FROM archived_rows ORDER BY 1")]
    if task not in tasks:
        raise IntegrationError.of(
            ErrorType.BAD_DATA,
            f"nothing is archived of {task!r}{did_you_mean(task, tasks)}; archived is: {', '.join(tasks) or 'nothing'}",
            source="archive",
        )
    with connection.cursor("archived_rows") as cursor:
        cursor.itersize = 10
        cursor.execute(
            "SELECT content FROM archived_rows WHERE task = %s AND archived_at >= coalesce(%s::timestamptz, '-infinity') "
            "ORDER BY archived_at, id",
            (task, since),
        )
        for (content,) in cursor:
            lines = zlib.decompress(base64.b85decode(cipher.decrypt(content))).decode()
            yield from map(json.loads, lines.splitlines())
