"""The tasks of the two cleaning jobs, and what they need."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from bg_pipelines.cleaning import carts
from bg_pipelines.cleaning.batches import Outcome
from bg_pipelines.cleaning.carts import CartKeep
from bg_pipelines.cleaning.preview import Preview, preview
from bg_pipelines.cleaning.run import TaskRun
from bg_pipelines.cleaning.tasks import Task
from bg_pipelines.database.engine import Database
from bg_pipelines.database.secrets import Cipher

_CARTS_EVERY = {
    "carts": timedelta(minutes=15),
    "inventory_reservations": timedelta(minutes=15),
    "sessions": timedelta(hours=1),
    "cart_items": timedelta(days=1),
}


def cart_tasks(keep: CartKeep, cipher: Cipher) -> Sequence[Task]:
    """The sweeps of `clean_active_carts`, in their order."""

    def start(table: str) -> Task:
        def work(run: TaskRun) -> Outcome:
            with run.database.transaction() as connection:
                sweep = carts.sweep(connection, table, keep, cipher)
            return run.sweep(sweep)

        return Task(table, _CARTS_EVERY[table], work)

    return [start(table) for table in _CARTS_EVERY]


def preview_carts(database: Database, keep: CartKeep, cipher: Cipher, tables: Sequence[str]) -> list[Preview]:
    """The dry run of `clean_active_carts`."""
    with database.transaction() as connection:
        sweeps = [carts.sweep(connection, table, keep, cipher) for table in tables]
    return preview(database, sweeps)
