"""One connection for a server's event loop: made when it is needed, given up when it fails or does not answer.

`Database` and its pool are for threads, which may wait; whoever answers a vendor within five seconds may not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, LiteralString, NamedTuple

import psycopg

from bg_pipelines.database.connecting import settle_async
from bg_pipelines.database.sqlstates import classified, is_conflict, unavailable

ATTEMPTS = 3
_Connection = psycopg.AsyncConnection[tuple[Any, ...]]


class Answer(NamedTuple):
    rows: list[tuple[Any, ...]]
    affected: int


class Link:
    """A connection to the database whose every statement is a transaction of its own, on disk when it has ended.

    `parameters` are `Database.parameters`; no statement takes longer than `seconds`. For one task at a time.
    """

    def __init__(self, parameters: Mapping[str, Any], *, seconds: float) -> None:
        limit = f"-c statement_timeout={int(seconds * 1000)}"
        self._parameters = {**parameters, "options": f"{parameters.get('options', '')} {limit}".strip()}
        self._seconds = seconds
        self._connection: _Connection | None = None

    async def execute(self, statement: LiteralString, parameters: Sequence[Any] = ()) -> Answer:
        """One statement that can be repeated: where the connection is lost meanwhile, it may have been carried out.

        Raises IntegrationError (database) where the server is away, does not answer in time or ended this statement as
        happens in a database in use, and what psycopg raises for a wrong statement or value.
        """
        kept, self._connection = self._connection, None
        task = asyncio.ensure_future(self._execute(kept, statement, parameters))
        try:
            await asyncio.wait({task}, timeout=self._seconds)
        finally:
            if not task.done():
                # Nobody waits for it any longer, and the next statement makes another connection.
                task.add_done_callback(_close_late)
        if not task.done():
            raise unavailable(TimeoutError(f"no answer within {self._seconds:g} s"))
        answer, self._connection = task.result()
        return answer

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _execute(
        self, connection: _Connection | None, statement: LiteralString, parameters: Sequence[Any]
    ) -> tuple[Answer, _Connection]:
        for attempt in range(1, ATTEMPTS + 1):
            was_kept = connection is not None
            connection = connection or await self._connect()
            try:
                cursor = await connection.execute(statement, parameters)
                rows = await cursor.fetchall() if cursor.description else []
                return Answer(rows, cursor.rowcount), connection
            except psycopg.Error as error:
                found = classified(error)
                # What was lost while nobody used it, and of two that wrote the same rows the one that was ended.
                again = found is not None and ((was_kept and connection.broken) or is_conflict(found))
                if not again or attempt == ATTEMPTS:
                    await connection.close()
                    raise (found or error) from (error if found else None)
                if connection.broken:
                    await connection.close()
                    connection = None
        raise AssertionError

    async def _connect(self) -> _Connection:
        try:
            # Nothing is prepared: where a pooler stands in between, the next statement may meet another session.
            connection = await psycopg.AsyncConnection.connect(
                **self._parameters, autocommit=True, prepare_threshold=None
            )
            await settle_async(connection)
        except psycopg.Error as error:
            raise classified(error) or unavailable(error) from error
        return connection


def _close_late(task: asyncio.Task[tuple[Answer, _Connection]]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result()[1].pgconn.finish()
