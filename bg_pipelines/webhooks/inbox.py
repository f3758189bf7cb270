"""The inbox: deliveries are on disk before their sender is answered, many of them with one commit.

A process has one writer. What arrives while it writes goes into its next statement, so that under load a commit is
shared by as many as came meanwhile, and a single delivery waits for nobody.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter

import orjson
import psycopg

from bg_pipelines.database.link import Link
from bg_pipelines.errors import IntegrationError, unexpected
from bg_pipelines.webhooks.deliveries import Delivery, NotUnderstoodError

ROWS_A_STATEMENT = 1_000
BYTES_A_STATEMENT = 4 * 1024 * 1024
ROWS_WAITING = 10_000
PAUSE_SECONDS = 0.1
"""After a failure, before the next attempt: whoever came meanwhile shares it."""

log = logging.getLogger(__name__)

# Rows come in the order of their keys, so that two processes with the same ones wait for each other in one order.
# One text is a tenth of the work of twelve parameters a row.
_INSERT = """
INSERT INTO webhook_events (store_id, source, topic, webhook_id, event_id, resource, object_id, source_updated_at,
    triggered_at, payload, status, reason, next_due_at)
SELECT store_id, source, topic, webhook_id, event_id, resource, object_id, source_updated_at, triggered_at,
    convert_to(payload, 'UTF8'), status, reason, CASE status WHEN 'pending' THEN now() END
FROM json_to_recordset(%s::json) AS d (store_id bigint, source text, topic text, webhook_id text, event_id text,
    resource text, object_id text, source_updated_at timestamptz, triggered_at timestamptz, payload text, status text,
    reason text)
ON CONFLICT (store_id, topic, webhook_id) DO NOTHING
"""


class UnavailableError(Exception):
    """Nothing can be stored at the moment: the sender is to send again. The text says why, for our own log."""


@dataclass(slots=True, eq=False)
class _Waiting:
    deliveries: Sequence[Delivery]
    stored: asyncio.Future[None]


class Inbox:
    """The writer of this process. `on_insert` is told of each statement its rows, how many of them were new, its seconds
    and how many rows wait for the next."""

    def __init__(
        self, link: Link, *, on_insert: Callable[[int, int, float, int], None] = lambda *_: None
    ) -> None:
        self._link = link
        self._on_insert = on_insert
        self._queue: deque[_Waiting] = deque()
        self._arrived = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None
        self._is_well = True
        self.rows_waiting = 0

    def start(self) -> None:
        self._writer = asyncio.create_task(self._write_forever())

    async def close(self) -> None:
        """Stop writing; whoever still waits is told that nothing was stored."""
        assert self._writer is not None
        self._writer.cancel()
        await asyncio.gather(self._writer, return_exceptions=True)
        for waiting in self._queue:
            _settle(waiting, UnavailableError("the receiver is stopping"))
        await self._link.close()

    async def store(self, deliveries: Sequence[Delivery]) -> None:
        """Return once these are on disk, or were there before; all or none. With none it shows whether it could.

        Raises UnavailableError, and NotUnderstoodError for values that no row can have. Whoever waits no longer
        cancels it: then it may be stored or not.
        """
        if self.rows_waiting > ROWS_WAITING:
            raise UnavailableError(f"{self.rows_waiting} deliveries are waiting to be stored")
        waiting = _Waiting(deliveries, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self.rows_waiting += len(deliveries)
        self._arrived.set()
        await waiting.stored

    async def _write_forever(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while batch := self._take():
                if not await self._write(batch):
                    await asyncio.sleep(PAUSE_SECONDS)

    def _take(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        rows = size = 0
        while self._queue and rows < ROWS_A_STATEMENT and size < BYTES_A_STATEMENT:
            waiting = self._queue.popleft()
            self.rows_waiting -= len(waiting.deliveries)
            if not waiting.stored.done():  # else its sender has been told already
                batch.append(waiting)
                rows += len(waiting.deliveries)
                size += sum(len(delivery.payload or "") for delivery in waiting.deliveries)
        return batch

    async def _write(self, batch: list[_Waiting]) -> bool:
        """Store a batch and tell whoever waits for it; returns whether the database could."""
        outcome: Exception | None = None
        try:
            await self._insert(batch)
        except (psycopg.DataError, psycopg.errors.ProgramLimitExceeded):
            if len(batch) > 1:
                # One bad value must not keep the others out.
                half = len(batch) // 2
                return await self._write(batch[:half]) and await self._write(batch[half:])
            outcome = NotUnderstoodError("it holds a value that PostgreSQL cannot store")
        except IntegrationError as error:
            outcome = UnavailableError(error.message)
        except Exception as error:  # noqa: BLE001  the writer must go on, and its senders must be answered
            outcome = UnavailableError(unexpected(error).message)
        is_well = not isinstance(outcome, UnavailableError)
        if is_well != self._is_well:
            log.warning("deliveries are stored again" if is_well else f"no delivery can be stored: {outcome}")
            self._is_well = is_well
        for waiting in batch:
            _settle(waiting, outcome)
        return is_well

    async def _insert(self, batch: list[_Waiting]) -> None:
        rows = sorted((row for waiting in batch for row in waiting.deliveries), key=attrgetter("key"))
        began = time.perf_counter()
        answer = await self._link.execute(_INSERT, (orjson.dumps(rows).decode(),))
        self._on_insert(len(rows), answer.affected, time.perf_counter() - began, self.rows_waiting)


def _settle(waiting: _Waiting, outcome: Exception | None) -> None:
    if waiting.stored.done():
        return
    if outcome is None:
        waiting.stored.set_result(None)
    else:
        waiting.stored.set_exception(outcome)
