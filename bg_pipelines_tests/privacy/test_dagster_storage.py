"""Nothing personal gets into Dagster's tables or into the server's log: looked for, not erased."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import dagster as dg
import psycopg
import pytest

from bg_pipelines.customers import editing
from bg_pipelines.database.engine import Database
from bg_pipelines.sandbox import Fault, Sandbox, edit
from bg_pipelines_tests.dagster_runs import execute
from bg_pipelines_tests.privacy.planted import find
from bg_pipelines_tests.support import query

MARKER = "Quillfeather"


@pytest.mark.usefixtures("environment")
def test_customers_who_are_loaded_rejected_edited_and_audited_leave_nothing_in_dagster_s_tables(
    database: Database,
    instance: dg.DagsterInstance,
    dagster_url: str,
    server_home: Path,
    make_sandbox: Callable[..., Sandbox],
    add_shops: Callable[..., list[str]],
) -> None:
    sandbox = make_sandbox(shops=1, variants=10, customers=12)
    [name] = add_shops(sandbox)
    shop = next(iter(sandbox.world.shops.values()))
    ids = [row["id"] for row in shop.export(["customers"])["customers"]]
    for customer in ids:
        fields = {"lastName": MARKER, "email": f"{MARKER}{customer[-4:]}@example.com", "note": MARKER}
        edit(shop, "update_customer", id=customer, fields=fields)
    spoiled = {"amountSpent.amount": "NaN", "createdAt": MARKER}
    for customer, (field, value) in zip(ids, spoiled.items(), strict=False):
        # PostgreSQL quotes a row that breaks a constraint in its details, and a value that is no time in its message.
        shop.faults[:] = [Fault("bad_value", field=field, value=value, id=customer)]
        edit(shop, "update_customer", id=customer, fields={"note": MARKER * 2})
        assert execute("customer_sync", instance, stores=[name]).success
        assert query(database, "SELECT external_id FROM rejected_rows") == [{"external_id": customer}]
    editing.edit(database, name, ids[2], {"company": MARKER, "note": f"{MARKER}2"}, by="jane")
    assert execute("customer_sync", instance, stores=[name]).success
    assert execute("drift_audit", instance, stores=[name]).success
    statuses = query(database, "SELECT DISTINCT status FROM customer_changes WHERE changed_by = 'jane'")
    assert {row["status"] for row in statuses} == {"applied", "rejected"}
    tables = {table for table, _ in find(database, MARKER.lower())}
    assert tables <= {"customers", "customer_changes", "rejected_rows", "orders"}
    assert query(database, "SELECT count(*) > 0 AS some FROM incidents") == [{"some": True}]

    with psycopg.connect(dagster_url.replace("+psycopg", "")) as connection:
        names = [
            table
            for (table,) in connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        ]
        rows = {
            table: [str(row) for row in connection.execute(f'SELECT t::text FROM "{table}" t')]
            for table in names
        }
    assert len(rows["runs"]) == 4
    assert len(rows["event_logs"]) > 30
    assert name in "".join(rows["event_logs"])
    found = [table for table, held in rows.items() if any(MARKER.lower() in row.lower() for row in held)]
    assert found == []
    assert MARKER.lower() not in (server_home / "postgres.log").read_text(errors="replace").lower()
