"""The demo's summary: what the sandbox holds, what the database holds, and what the runs did to it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import psycopg
from rich.console import Console
from rich.table import Table

from bg_pipelines.database.engine import Database
from bg_pipelines.machine.sandbox_http import sandbox_http
from bg_pipelines.wording import counted

TABLES = {
    "stores": "stores",
    "locations": "locations",
    "products": "products",
    "product_variants": "variants",
    "inventory_levels": "stock levels",
    "customers": "customers",
    "orders": "orders",
    "order_lines": "their lines",
}

Rows = dict[str, dict[tuple[str, str], datetime | None]]
"""Of each table the rows by store and id, with the time of their last change where the sandbox tells it."""


def show_summary(console: Console, database: Database, held_there: Rows, ran: list[dict[str, Any]]) -> bool:
    """Print what was loaded and whether it equals the sandbox; returns whether it does."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("", "sandbox", "database", "inserted", "updated", "deleted", "unchanged", "rejected"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    equal = True
    changed = 0
    domains = [domain for domain, _ in held_there["stores"]]
    with database.transaction() as connection:
        for name, title in TABLES.items():
            key = "s.id = t.id" if name == "stores" else "s.id = t.store_id"
            here = {
                (domain, external_id): updated_at
                for domain, external_id, updated_at in connection.execute(
                    f"SELECT s.domain, t.external_id, t.source_updated_at FROM {name} t JOIN stores s ON {key} "  # noqa: S608
                    "WHERE t.deleted_at IS NULL AND t.external_id IS NOT NULL AND s.domain = ANY(%s)",
                    (domains,),
                )
            }
            there = held_there[name]
            untold = {row: None for row, time in there.items() if time is None}
            here |= {row: None for row in untold if row in here}
            counts = (
                connection.execute(
                    "SELECT coalesce(sum(inserted), 0), coalesce(sum(updated), 0), coalesce(sum(deleted), 0), "
                    "coalesce(sum(unchanged), 0), coalesce(sum(rejected), 0) FROM sync_attempts "
                    "WHERE run_id = ANY(%s) AND resource = %s",
                    ([run["run_id"] for run in ran], "store" if name == "stores" else name),
                ).fetchone()
                or (0,) * 5
            )
            same = here == there
            equal = equal and same
            changed += sum(counts[:3])
            # What was done to orders is counted with their parts, in a line of their own.
            if name == "orders":
                of_orders = counts
            cells = [] if name in ("orders", "order_lines") else [f"{count:,}" for count in counts]
            table.add_row(title, f"{len(there):,}", f"{len(here):,}", *cells, style=None if same else "red")
        table.add_row(
            "with refunds",
            "",
            f"{_parts_held(connection, domains):,}",
            *(f"{count:,}" for count in of_orders),
        )
    console.print(table)
    for run in ran:
        if not run["success"]:
            console.print(f"[red]{run['job']} failed[/]: run {run['run_id']}, see the UI")
    verdict = (
        "[green]the database equals the sandbox[/]"
        if equal
        else "[red]the database differs from the sandbox[/]"
    )
    what = f"{counted(changed, 'row')} changed" if changed else "nothing changed since the last run"
    console.print(f"{verdict}; {what}")
    return equal


def held_there(url: str, shops: list[dict[str, Any]], merchants: list[dict[str, Any]]) -> Rows:
    """What the sandbox holds, from the exports that its operator is given."""
    held: Rows = {table: {} for table in TABLES}
    for shop in shops:
        export = sandbox_http().get(f"{url}/sandbox/shops/{shop['domain']}/export", timeout=30).json()
        tables = {name: export[name] for name in TABLES if name in export}
        tables["stores"] = [export["shop"]]
        tables["inventory_levels"] = [level for level in export["inventory_levels"] if level["isActive"]]
        tables["order_lines"] = [
            {"id": line["id"], "updatedAt": order["updatedAt"]}
            for order in export["orders"]
            for line in order["lineItems"]
        ]
        for name, rows in tables.items():
            held[name] |= {(shop["domain"], row["id"]): _time(row["updatedAt"]) for row in rows}
    for merchant in merchants:
        export = sandbox_http().get(f"{url}/sandbox/merchants/{merchant['id']}/export", timeout=30).json()
        objects = [one for one in export["objects"] if not one["is_deleted"]]
        tables = {
            "stores": [export["merchant"]],
            "locations": export["locations"],
            "products": [one for one in objects if one["type"] == "ITEM"],
            "product_variants": [one for one in objects if one["type"] == "ITEM_VARIATION"],
            "inventory_levels": [
                {
                    "id": f"{count['catalog_object_id']}@{count['location_id']}",
                    "updated_at": count["calculated_at"],
                }
                for count in export["counts"]
                if count["state"] == "IN_STOCK"
            ],
            "customers": export["customers"],
            "orders": export["orders"],
            "order_lines": [
                {"id": f"{order['id']}/{line['uid']}", "updated_at": order["updated_at"]}
                for order in export["orders"]
                for line in order.get("line_items", [])
            ],
        }
        for name, rows in tables.items():
            held[name] |= {(merchant["id"].lower(), row["id"]): _time(row.get("updated_at")) for row in rows}
    return held


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _parts_held(connection: psycopg.Connection[Any], domains: list[str]) -> int:
    """How many orders, lines and refunds are held of these stores."""
    query = " UNION ALL ".join(
        f"SELECT count(*) FROM {table} t JOIN stores s ON s.id = t.store_id WHERE t.deleted_at IS NULL AND s.domain = ANY(%(of)s)"  # noqa: S608
        for table in ("orders", "order_lines", "refunds")
    )
    return sum(rows for (rows,) in connection.execute(query, {"of": domains}))
