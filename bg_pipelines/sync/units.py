"""Units: what each unit of a store's work does, by its name in `sync_states`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bg_pipelines.customers.changes import QUEUE as EDITS
from bg_pipelines.queues import Unit
from bg_pipelines.sync.context import Context
from bg_pipelines.sync.customer_edits import CustomerEdits
from bg_pipelines.sync.stock_corrections import QUEUE as CORRECTIONS
from bg_pipelines.sync.stock_corrections import StockCorrections
from bg_pipelines.sync.store_profile import sync_profile
from bg_pipelines.sync.table_sync import TableSync
from bg_pipelines.work.queue import Connection, Queue
from bg_pipelines.work.store_units import make_carrier_due

Process = Callable[[Context], None]
"""Processes its claim and settles it as done; raises what `context` lists where it ends otherwise."""


def _table(context: Context) -> None:
    TableSync(context).run()


def _inventory_levels(context: Context) -> None:
    """Corrections first: what was counted here is written before stock is read."""
    StockCorrections(context).run()
    TableSync(context, then=_stay_due_for(context, CORRECTIONS)).run()


def _customers(context: Context) -> None:
    sync = TableSync(context, then=_stay_due_for(context, EDITS))
    # Not during a full pass: rows that come another way would not be what it has read.
    if sync.state.current is None or not sync.state.current.full:
        CustomerEdits(context).run()
    sync.run()


def _stay_due_for(context: Context, queue: Queue[Any]) -> Callable[[Connection], None]:
    """For what was added to the queue meanwhile: the due time that the unit is given when it ends would hide it."""
    return lambda connection: make_carrier_due(connection, queue, [context.claim.store_id])


def _audit(context: Context) -> None:
    # Imported here, for pandas takes half a second and 40 MB that no other unit has a use for.
    from bg_pipelines.sync.audit.store_audit import StoreAudit

    StoreAudit(context).run()


UNITS: Mapping[Unit, Process] = {
    Unit.STORE: sync_profile,
    Unit.LOCATIONS: _table,
    Unit.PRODUCTS: _table,
    Unit.PRODUCT_VARIANTS: _table,
    Unit.INVENTORY_LEVELS: _inventory_levels,
    Unit.CUSTOMERS: _customers,
    Unit.ORDERS: _table,
    Unit.AUDIT: _audit,
}
