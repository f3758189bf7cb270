"""The bare limit of a sync of customers and orders: raw fetch, orjson, COPY and merge, fetch overlapped with load. With
`executemany` in place of COPY and merge it is what most write first, and the shortest way for a few rows.

What a careful engineer would write for this one shop and nothing else: a thread fetches, parses and makes rows, the
other copies them into a temporary table, merges and commits. It trusts every answer, so it does without all that the
product does for a vendor that is not to be trusted: no errors, no rejects, no cursor, no older and newer rows, no
parts that are gone, no proof.
"""

from __future__ import annotations

import gc
import queue
import threading
import time
from typing import Any

import orjson
import requests

from benchmarks.harness.page_server import TOKEN
from benchmarks.harness.sales_pages import SIZES
from bg_pipelines.database.engine import Database
from bg_pipelines.records import ADDRESS, Customer, Order, OrderLine, Refund

TABLES: dict[str, tuple[str, ...]] = {
    "customers": Customer._fields,
    "orders": Order._fields,
    "order_lines": OrderLine._fields,
    "refunds": Refund._fields,
}
COMMIT_ROWS = 5_000
Rows = dict[str, list[tuple[Any, ...]]]


def load(
    database: Database, store_id: int, api_url: str, *, changed: bool, executemany: bool = False
) -> float:
    """All customers and orders, or those that changed, into their tables; returns the seconds it took."""
    gc.disable()
    began = time.perf_counter()
    try:
        ready: queue.Queue[Rows | None] = queue.Queue(maxsize=20)
        threading.Thread(target=_fetch, args=(api_url, changed, ready), daemon=True).start()
        statements = {table: _statements(table, columns) for table, columns in TABLES.items()}
        put = _load_row_by_row if executemany else _load
        with database.engine.connect() as pooled:
            connection = pooled.connection.driver_connection
            assert connection is not None
            for stage, *_ in statements.values() if not executemany else ():
                connection.execute(stage)
            connection.commit()
            buffered: Rows = {table: [] for table in TABLES}
            held = 0
            while (page := ready.get()) is not None:
                for table, rows in page.items():
                    buffered[table] += rows
                held += len(page.get("customers", ())) + len(page.get("orders", ()))
                if held >= COMMIT_ROWS:
                    put(connection, statements, buffered, store_id)
                    buffered, held = {table: [] for table in TABLES}, 0
            put(connection, statements, buffered, store_id)
            if not executemany:
                connection.execute("DROP TABLE " + ", ".join(f"limit_{table}" for table in TABLES))
            connection.commit()
        return time.perf_counter() - began
    finally:
        gc.enable()


def _statements(table: str, columns: tuple[str, ...]) -> tuple[str, str, str, str]:
    names = ", ".join(columns)
    assignments = ", ".join(f"{c} = excluded.{c}" for c in columns if c != "external_id")
    conflict = f"ON CONFLICT (store_id, external_id) DO UPDATE SET {assignments}, synced_at = now()"
    return (
        f"CREATE TEMPORARY TABLE IF NOT EXISTS limit_{table} ON COMMIT DELETE ROWS AS SELECT {names} FROM {table} WITH NO DATA",
        f"COPY limit_{table} ({names}) FROM STDIN",
        f"INSERT INTO {table} (store_id, {names}) SELECT %s, {names} FROM limit_{table} {conflict}",
        f"INSERT INTO {table} (store_id, {names}) VALUES (%s{', %s' * len(columns)}) {conflict}",
    )


Statements = dict[str, tuple[str, str, str, str]]


def _load_row_by_row(connection: Any, statements: Statements, buffered: Rows, store_id: int) -> None:
    for table, (*_, insert) in statements.items():
        with connection.cursor() as cursor:
            cursor.executemany(insert, [(store_id, *row) for row in buffered[table]])
    connection.commit()


def _load(connection: Any, statements: Statements, buffered: Rows, store_id: int) -> None:
    for table, (_, copy_in, merge, _) in statements.items():
        if rows := buffered[table]:
            with connection.cursor() as cursor:
                with cursor.copy(copy_in) as copy:
                    for row in rows:
                        copy.write_row(row)
                cursor.execute(merge, (store_id,))
    connection.commit()


def _fetch(api_url: str, changed: bool, ready: queue.Queue[Rows | None]) -> None:
    try:
        _fetch_all(api_url, changed, ready)
    finally:
        ready.put(None)


def _fetch_all(api_url: str, changed: bool, ready: queue.Queue[Rows | None]) -> None:
    session = requests.Session()
    session.headers.update({"X-Shopify-Access-Token": TOKEN, "Content-Type": "application/json"})
    url = f"{api_url}/admin/api/2026-07/graphql.json"
    for operation, convert in (("Customers", _customers), ("Orders", _orders)):
        after = None
        while True:
            variables = {**SIZES[operation], "after": after, "query": "updated_at:>=…" if changed else None}
            body = orjson.dumps({"query": f"query {operation}()", "variables": variables})
            page = orjson.loads(session.post(url, data=body).content)["data"]["rows"]
            ready.put(convert(page["nodes"]))
            if not page["pageInfo"]["hasNextPage"]:
                break
            after = page["pageInfo"]["endCursor"]
    session.close()


def _customers(nodes: list[dict[str, Any]]) -> Rows:
    rows = []
    for node in nodes:
        default, email, phone = (
            node["defaultAddress"],
            node["defaultEmailAddress"],
            node["defaultPhoneNumber"],
        )
        addresses = [
            {name: address[name] for name in ADDRESS if address[name] is not None}
            for address in node["addressesV2"]["nodes"]
        ]
        spent = node["amountSpent"]
        rows.append((
            node["id"],
            node["updatedAt"],
            node["firstName"],
            node["lastName"],
            default["company"] if default else None,
            email["emailAddress"] if email else None,
            node["verifiedEmail"],
            phone["phoneNumber"] if phone else None,
            None,
            orjson.dumps(addresses).decode(),
            _array(node["tags"]),
            node["locale"],
            node["note"],
            email["marketingState"].lower() if email else None,
            email["marketingUpdatedAt"] if email else None,
            email["sourceLocation"]["id"] if email and email["sourceLocation"] else None,
            phone["marketingState"].lower() if phone else None,
            phone["marketingUpdatedAt"] if phone else None,
            phone["marketingCollectedFrom"] and phone["marketingCollectedFrom"].lower() if phone else None,
            node["numberOfOrders"],
            spent["amount"],
            spent["currencyCode"],
            node["createdAt"],
        ))  # fmt: skip
    return {"customers": rows}


def _orders(nodes: list[dict[str, Any]]) -> Rows:
    orders, lines, refunds = [], [], []
    for node in nodes:
        order_id, updated_at, currency = node["id"], node["updatedAt"], node["currencyCode"]
        buyer, location, reason = node["customer"], node["retailLocation"], node["cancelReason"]
        orders.append((
            order_id,
            updated_at,
            node["name"],
            buyer["id"] if buyer else None,
            location["id"] if location else None,
            node["sourceName"],
            "cancelled" if node["cancelledAt"] else "closed" if node["closedAt"] else "open",
            node["displayFinancialStatus"].lower(),
            node["displayFulfillmentStatus"].lower(),
            False,
            node["test"],
            currency,
            node["subtotalPriceSet"]["shopMoney"]["amount"],
            node["totalDiscountsSet"]["shopMoney"]["amount"],
            node["totalTaxSet"]["shopMoney"]["amount"],
            node["totalPriceSet"]["shopMoney"]["amount"],
            node["currentTotalPriceSet"]["shopMoney"]["amount"],
            node["email"],
            node["phone"],
            node["note"],
            _array(node["tags"]),
            node["processedAt"],
            node["cancelledAt"],
            reason.lower() if reason else None,
            node["closedAt"],
            node["createdAt"],
        ))  # fmt: skip
        for line in node["lineItems"]["nodes"]:
            product, variant = line["product"], line["variant"]
            lines.append((
                line["id"],
                updated_at,
                order_id,
                product["id"] if product else None,
                variant["id"] if variant else None,
                line["title"],
                line["variantTitle"],
                line["sku"],
                line["quantity"],
                line["currentQuantity"],
                line["originalUnitPriceSet"]["shopMoney"]["amount"],
                line["totalDiscountSet"]["shopMoney"]["amount"],
                line["discountedTotalSet"]["shopMoney"]["amount"],
                currency,
            ))  # fmt: skip
        for refund in node["refunds"]:
            amount = refund["totalRefundedSet"]["shopMoney"]["amount"]
            refunds.append((
                refund["id"], updated_at, order_id, order_id, amount, currency, refund["note"], refund["processedAt"]
            ))  # fmt: skip
    return {"orders": orders, "order_lines": lines, "refunds": refunds}


def _array(tags: list[str]) -> str:
    """PostgreSQL's literal; these tags have no quotation marks."""
    return '{"' + '","'.join(tags) + '"}' if tags else "{}"
