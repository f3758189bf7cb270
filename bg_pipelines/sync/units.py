"""Units: what each unit of a store's work does, by its name in `sync_states`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bg_pipelines.customers import changes
from bg_pipelines.queues import Unit
from bg_pipelines.sync.context import Context
from bg_pipelines.sync.customer_edits import CustomerEdits
from bg_pipelines.sync.stock_corrections import StockCorrections, make_due
from bg_pipelines.sync.store_profile import sync_profile
from bg_pipelines.sync.table_sync import TableSync

Process = Callable[[Context], None]
"""Processes its claim and settles it as done; raises what `context` lists where it ends otherwise."""


def _table(context: Context) -> None:
    TableSync(context).run()


def _inventory_levels(context: Context) -> None:
    """Corrections first: what was counted here is written before stock is read."""
    StockCorrections(context).run()
    TableSync(
        context,
        # A correction that came meanwhile would be hidden behind the due time that is set now.
        then=lambda connection: make_due(connection, [context.claim.store_id]),
    ).run()


def _customers(context: Context) -> None:
    sync = TableSync(
        context,
        # An edit that came meanwhile would be hidden behind the due time that is set now.
        then=lambda connection: changes.make_due(connection, context.claim.store_id),
    )
    # Not during a full pass: rows that come another way would not be what it has read.
    if sync.state.current is None or not sync.state.current.full:
        CustomerEdits(context).run()
    sync.run()


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
