"""The dry run: exactly what a sweep would free now, counted without deleting anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from bg_pipelines.cleaning.batches import Manners, polite_transaction
from bg_pipelines.cleaning.sweeps import RowSweep
from bg_pipelines.database.engine import Database

_PATIENT = Manners(lock_timeout_ms=0, statement_timeout_ms=0)


class Preview(NamedTuple):
    """What a task would free: rows and bytes of all its tables; `what` has them one by one."""

    task: str
    rows: int
    bytes: int
    what: str


def preview(database: Database, sweeps: Iterable[RowSweep]) -> list[Preview]:
    """Count what each of these would do, one after the other. Reads the tables whole: not for every minute."""
    found = []
    for sweep in sweeps:
        with polite_transaction(database, _PATIENT) as connection:
            end = sweep.axis.end(connection)
            figures = sweep.count(connection, sweep.axis.span(None, None, end))
        found.append(in_words(sweep.rows.task, figures))
    return found


def in_words(task: str, figures: Counter[str]) -> Preview:
    """What these figures of a task come to."""
    return Preview(
        task,
        sum(number for name, number in figures.items() if name.endswith(".rows")),
        sum(number for name, number in figures.items() if name.endswith(".bytes")),
        ", ".join(f"{name} {number:,}" for name, number in figures.items() if not name.endswith(".bytes")),
    )
