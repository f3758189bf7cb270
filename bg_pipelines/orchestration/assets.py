"""Our tables as Dagster's assets: where their rows come from, their columns, who answers for them, how fresh they are to be.

Descriptions, columns and their meaning are those of `database.models`; what is personal is what erasure empties. To show
another table, give it a line in `_TABLES`.
"""

from __future__ import annotations

import inspect
from datetime import timedelta
from typing import NamedTuple

import dagster as dg
from sqlalchemy.dialects import postgresql

from bg_pipelines.database.models import Base
from bg_pipelines.privacy.tables import ANSWERS
from bg_pipelines.queues import TIERS

OWNERS = ["team:back-office"]
STALE_AFTER = max(TIERS.values()) * 2.5
"""When a store of the lowest tier is no more up to date (work/freshness.py): by then some run has loaded something."""
_READ = dg.FreshnessPolicy.time_window(fail_window=STALE_AFTER, warn_window=STALE_AFTER / 2)
_CLEANED = dg.FreshnessPolicy.time_window(fail_window=timedelta(days=2), warn_window=timedelta(days=1))
_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]


class _Table(NamedTuple):
    """A table's group, what its rows come from, and the jobs that write it. `read` ones are read from every store again and
    again, and stale where they are not."""

    group: str
    sources: tuple[str, ...]
    jobs: tuple[str, ...]
    read: bool = False


_VENDORS = ("shopify", "square")
_TABLES = {
    "stores": _Table("stores", _VENDORS, ("store_sync",), read=True),
    "locations": _Table("stores", (*_VENDORS, "stores"), ("store_sync",), read=True),
    "products": _Table("catalogue", (*_VENDORS, "stores"), ("store_sync", "handle_webhooks"), read=True),
    "product_variants": _Table(
        "catalogue", (*_VENDORS, "products"), ("store_sync", "handle_webhooks"), read=True
    ),
    "inventory_levels": _Table(
        "stock",
        (*_VENDORS, "product_variants", "locations", "inventory_corrections"),
        ("inventory_sync", "handle_webhooks"),
        read=True,
    ),
    "inventory_corrections": _Table("stock", (), ("inventory_sync",)),
    "customers": _Table(
        "customers",
        (*_VENDORS, "stores", "customer_changes"),
        ("customer_sync", "handle_webhooks"),
        read=True,
    ),
    "customer_changes": _Table("customers", (), ("customer_sync",)),
    "people": _Table("customers", ("customers", "orders"), ("customer_sync",), read=True),
    "orders": _Table("sales", (*_VENDORS, "customers"), ("customer_sync", "handle_webhooks"), read=True),
    "order_lines": _Table("sales", ("orders",), ("customer_sync", "handle_webhooks")),
    "refunds": _Table("sales", ("orders",), ("customer_sync", "handle_webhooks")),
    "webhook_subscriptions": _Table("webhooks", (*_VENDORS, "stores"), ("create_shopify_webhook",)),
    "webhook_events": _Table("webhooks", (*_VENDORS, "webhook_subscriptions"), ("handle_webhooks",)),
    "carts": _Table("carts", ("webhook_events",), ("handle_webhooks", "clean_active_carts")),
    "cart_items": _Table("carts", ("carts",), ("handle_webhooks", "clean_active_carts")),
    "text_messages": _Table(
        "messages", ("products", "customers", "carts"), ("share_product_text_message",)
    ),
}  # fmt: skip


_MODELS = {mapper.class_.__tablename__: mapper.class_ for mapper in Base.registry.mappers}


def _columns(table: str) -> dg.TableSchema:
    personal = {*ANSWERS[table].emptied} if table in ANSWERS else set()
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                column.name,
                column.type.compile(_DIALECT),
                column.comment or column.doc,
                dg.TableColumnConstraints(nullable=bool(column.nullable), unique=bool(column.unique)),
                tags={"personal": ""} if column.name in personal else {},
            )
            for column in Base.metadata.tables[table].columns
        ]
    )


def _asset(name: str, table: _Table) -> dg.AssetSpec:
    model = _MODELS[name]
    return dg.AssetSpec(
        name,
        deps=table.sources,
        description=f"{inspect.cleandoc(model.__doc__ or '')}\n\nWritten by {', '.join(f'`{job}`' for job in table.jobs)}.",
        group_name=table.group,
        kinds={"postgres", "table"},
        owners=OWNERS,
        metadata={"dagster/table_name": name, "dagster/column_schema": _columns(name)},
        freshness_policy=_READ if table.read else None,
    )


def _vendor(name: str, group: str, description: str, *deps: str) -> dg.AssetSpec:
    return dg.AssetSpec(name, deps=deps, description=description, group_name=group, kinds={name})


def _cleaning(name: str, description: str, *tables: str) -> dg.AssetSpec:
    return dg.AssetSpec(
        name,
        deps=tables,
        description=f"{description} Rows and bytes that each run freed, over time (docs/cleaning.md).",
        group_name="cleaning",
        kinds={"postgres"},
        owners=OWNERS,
        freshness_policy=_CLEANED,
    )


ASSETS = [
    _vendor("shopify", "vendors", "Shopify's Admin API (GraphQL), and the webhooks that it sends."),
    _vendor("square", "vendors", "Square's API, and the webhooks that it sends."),
    _vendor("twilio", "messages", "Twilio's Messages API: where text messages go.", "text_messages"),
    *(_asset(name, table) for name, table in _TABLES.items()),
    _cleaning("clean_active_carts", "Abandoned and expired carts, and sessions.", "carts", "cart_items"),
    _cleaning("clean_database", "History kept long enough.", "webhook_events", "text_messages"),
]
TABLES = tuple(_TABLES)
