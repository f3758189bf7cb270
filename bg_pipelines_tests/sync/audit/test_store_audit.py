"""The drift audit: what was changed here by other hands is found by its column and repaired; what is late is not drift."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from psycopg import sql

from bg_pipelines import platforms
from bg_pipelines.database.engine import Database
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.errors import ErrorType
from bg_pipelines.incidents import handling, reading
from bg_pipelines.operations.metrics import read_metrics
from bg_pipelines.operations.prometheus import prometheus_text
from bg_pipelines.queues import AUDIT_EVERY, JOB_UNITS, Unit
from bg_pipelines.sandbox import Fault, Sandbox, Shop, edit
from bg_pipelines.sync import Summary, SyncRequest, SyncRun
from bg_pipelines.sync.audit.sample import AROUND, made_up_id, random_ids
from bg_pipelines.sync.summary import ResourceAudit
from bg_pipelines.work import store_units
from bg_pipelines_tests.dagster_runs import execute, metadata
from bg_pipelines_tests.support import CATALOGUE, SALES, as_store, query
from bg_pipelines_tests.typed import words

MakeSandbox = Callable[..., Sandbox]
AddShops = Callable[[Sandbox], list[str]]
Sync = Callable[..., Summary]
AUDIT = JOB_UNITS["drift_audit"]
Audit = Callable[..., dict[str, ResourceAudit]]


@pytest.fixture
def shop(make_sandbox: MakeSandbox, add_shops: AddShops) -> Shop:
    """A small shop that is a store."""
    sandbox = make_sandbox(shops=1, variants=24, customers=12)
    add_shops(sandbox)
    [shop] = sandbox.world.shops.values()
    edit(shop, "set_budget", maximum=20_000, restore=20_000)
    return shop


@pytest.fixture
def audit(sync: Sync, database: Database) -> Audit:
    """Audit now, whether it is due or not; returns what was found, by resource."""

    def audit(**options: Any) -> dict[str, ResourceAudit]:
        query(database, "UPDATE sync_states SET next_due_at = clock_timestamp() WHERE resource = 'audit'")
        options = {"job": "drift_audit", "rng": random.Random(7), "sample": 500, **options}
        summary = sync(units=AUDIT, **options)
        assert [failure.error.message for failure in summary.failures] == []
        return {found.resource: found for found in summary.audits}

    return audit


@pytest.fixture
def synced(shop: Shop, sync: Sync, database: Database) -> Shop:
    """The shop, synced long enough ago that what changed before is not late any more."""
    assert sync(units=(*CATALOGUE, *SALES)).failures == []
    query(
        database,
        "UPDATE sync_states SET cursor = jsonb_set(cursor, '{since}', to_jsonb((clock_timestamp() + '1 hour')::text)) "
        "WHERE cursor ? 'since'",
    )
    for table in (*SALES, "order_lines", "refunds", *CATALOGUE[1:]):
        query(database, f"UPDATE {table} SET synced_at = synced_at - interval '1 hour'")
    return shop


def drifted(found: dict[str, ResourceAudit]) -> dict[str, dict[str, int]]:
    """The columns of each resource that differed, and in how many rows."""
    return {resource: audit.fields for resource, audit in found.items() if audit.fields}


def left(found: dict[str, ResourceAudit]) -> dict[str, int]:
    return {resource: audit.left for resource, audit in found.items() if audit.left}


def is_clean(found: dict[str, ResourceAudit]) -> bool:
    return not any(audit.drifted or audit.short for audit in found.values())


# What is found


def test_of_what_was_just_synced_everything_is_as_at_the_source(
    synced: Shop, audit: Audit, database: Database
) -> None:
    found = audit()
    assert {resource: (a.drifted, a.lag, a.short) for resource, a in found.items()} == {
        resource.value: (0, 0, 0) for resource in (*CATALOGUE[1:], *SALES)
    }
    export = synced.export()
    assert {resource: a.sampled for resource, a in found.items()} == {
        **{name: len(export[name]) for name in ("locations", "products", "product_variants", *SALES)},
        "inventory_levels": sum(level["isActive"] for level in export["inventory_levels"]),
    }
    assert query(database, "SELECT 1 FROM incidents") == []


DAMAGE = [
    ("UPDATE product_variants SET price = price + 1", "product_variants", "price"),
    ("UPDATE products SET tags = array_append(tags, 'wrong')", "products", "tags"),
    ("UPDATE products SET deleted_at = now() - interval '1 minute'", "products", "deleted_at"),
    ("UPDATE locations SET active = NOT active", "locations", "active"),
    ("UPDATE inventory_levels SET available = available - 3", "inventory_levels", "available"),
    ("UPDATE customers SET sms_consent = 'pending'", "customers", "sms_consent"),
    ("UPDATE customers SET addresses = '[{}]'", "customers", "addresses"),
    ("UPDATE orders SET total = total + 0.01", "orders", "total"),
    (
        "UPDATE orders SET source_updated_at = source_updated_at - interval '1 day'",
        "orders",
        "source_updated_at",
    ),
    ("UPDATE order_lines SET quantity = quantity + 1", "orders", "order_lines.quantity"),
    ("UPDATE order_lines SET deleted_at = now()", "orders", "order_lines.missing"),
    ("DELETE FROM order_lines", "orders", "order_lines.missing"),
]


def test_damage_is_found_by_its_columns_and_repaired(synced: Shop, audit: Audit, database: Database) -> None:
    expected: dict[str, set[str]] = {}
    for place, (statement, resource, field) in enumerate(DAMAGE):
        table = re.findall(r"(?:UPDATE|FROM) (\w+)", statement)[0]
        [row] = query(
            database, f"SELECT external_id FROM {table} ORDER BY external_id LIMIT 1 OFFSET %s", place
        )
        query(database, f"{statement} WHERE external_id = %s", row["external_id"])
        expected.setdefault(resource, set()).add(field)
    found = audit()
    assert {resource: set(fields) for resource, fields in drifted(found).items()} == expected
    assert left(found) == {}
    assert is_clean(audit())


def test_a_row_of_which_everything_is_wrong_is_repaired(
    synced: Shop, audit: Audit, database: Database
) -> None:
    query(
        database, "UPDATE orders SET name = '', status = '', currency = '', tags = '{a}', ordered_at = now()"
    )
    query(database, "DELETE FROM order_lines")
    found = audit()["orders"]
    assert set(found.fields) == {"name", "status", "currency", "tags", "ordered_at", "order_lines.missing"}
    assert found.different == found.repaired == found.sampled == len(synced.export()["orders"])
    assert is_clean(audit())


def test_a_line_that_the_order_does_not_have_is_found_and_marked(
    synced: Shop, audit: Audit, database: Database
) -> None:
    [line] = query(database, "SELECT * FROM order_lines ORDER BY external_id LIMIT 1")
    line["external_id"] = "gid://shopify/LineItem/1"
    names = sql.SQL(", ").join(map(sql.Identifier, line))
    values = sql.SQL(", ").join(sql.Placeholder() * len(line))
    with database.transaction() as connection:
        connection.execute(
            sql.SQL("INSERT INTO order_lines ({}) VALUES ({})").format(names, values), list(line.values())
        )
    found = audit()["orders"]
    assert (found.fields, found.different, found.repaired) == ({"order_lines.extra": 1}, 1, 1)
    assert found.external_ids == [line["order_external_id"]]
    assert query(database, "SELECT external_id FROM order_lines WHERE deleted_at IS NOT NULL") == [
        {"external_id": "gid://shopify/LineItem/1"}
    ]
    assert is_clean(audit())


def test_a_row_that_is_gone_there_is_marked_so_here_and_alarms_nobody(
    synced: Shop, audit: Audit, database: Database
) -> None:
    unsold = synced.export()["products"][0]["id"]
    [sold] = query(
        database,
        "SELECT count(DISTINCT order_external_id) FROM order_lines WHERE product_external_id = %s",
        unsold,
    )
    edit(synced, "delete_product", id=unsold)
    found = audit()
    assert (found["products"].gone, found["products"].repaired) == (1, 1)
    assert query(database, "SELECT external_id FROM products WHERE deleted_at IS NOT NULL") == [
        {"external_id": unsold}
    ]
    assert query(database, "SELECT 1 FROM incidents") == []
    assert (found["orders"].lag, found["orders"].drifted) == (sold["count"], 0), (
        "they refer to what is no more"
    )
    assert sold["count"] > 0


def test_a_row_that_was_deleted_here_by_hand_comes_back_from_what_changed_lately_there(
    synced: Shop, audit: Audit, database: Database
) -> None:
    lately = synced.export()["products"][2]["id"]
    edit(synced, "update_product", id=lately, fields={"title": "Changed"})
    query(database, "DELETE FROM products WHERE external_id = %s", lately)
    found = audit()["products"]
    assert (found.missing, found.repaired, found.external_ids) == (1, 1, [lately])
    assert query(database, "SELECT title FROM products WHERE external_id = %s", lately) == [
        {"title": "Changed"}
    ]


def test_who_was_redacted_is_no_drift_nor_are_their_orders(
    synced: Shop, audit: Audit, sync: Sync, database: Database
) -> None:
    [one] = query(
        database,
        "SELECT customer_external_id AS customer FROM orders o JOIN customers c ON c.external_id = o.customer_external_id "
        "WHERE c.email IS NOT NULL AND o.email IS NOT NULL LIMIT 1",
    )
    edit(synced, "redact_customer", id=one["customer"])
    assert sync(units=SALES, force=True).failures == []
    assert is_clean(audit())


def test_what_is_emptied_here_and_not_there_is_drift_once(
    synced: Shop, audit: Audit, database: Database
) -> None:
    """Whether somebody's orders, redacted by hand, or somebody marked deleted: the platform's word stands."""
    redacted, deleted = query(
        database, "SELECT * FROM customers WHERE email IS NOT NULL ORDER BY external_id LIMIT 2"
    )
    ids = "external_id = %s"
    query(database, f"UPDATE customers SET email_consent = 'redacted' WHERE {ids}", redacted["external_id"])
    query(
        database,
        f"UPDATE customers SET deleted_at = now() - interval '1 minute' WHERE {ids}",
        deleted["external_id"],
    )
    found = audit()["customers"]
    assert (found.different, found.repaired) == (2, 2)
    assert is_clean(audit())
    for row in (redacted, deleted):
        [held] = query(database, f"SELECT * FROM customers WHERE {ids}", row["external_id"])
        assert {**held, "synced_at": None} == {**row, "synced_at": None}


def test_a_row_held_with_a_later_time_than_the_source_has_is_set_back(
    synced: Shop, audit: Audit, database: Database
) -> None:
    query(
        database,
        "UPDATE orders SET source_updated_at = source_updated_at + interval '30 days', note = 'ours' "
        "WHERE external_id = (SELECT min(external_id) FROM orders)",
    )
    found = audit()["orders"]
    assert (found.ahead, found.different, found.repaired) == (1, 0, 1)
    assert set(found.fields) == {"note", "source_updated_at"}
    assert is_clean(audit())


def test_rows_that_no_pass_has_brought_make_everything_be_read_again(
    synced: Shop, sync: Sync, audit: Audit, database: Database
) -> None:
    # What changed a while ago is not among what changed lately: only the count tells that it is missing.
    with synced.lock:
        for product in list(synced.store.products):
            product["updatedAt"] = "2020-01-01T00:00:00Z"
    query(database, "UPDATE products SET source_updated_at = '2020-01-01T00:00:00Z'")
    query(database, "DELETE FROM products WHERE external_id = (SELECT max(external_id) FROM products)")
    assert audit()["products"].short == 0, "it may be a row that no pass could have brought yet"
    assert audit()["products"].short == 0, "no pass has gone by since"
    query(
        database, "UPDATE sync_states SET last_succeeded_at = clock_timestamp() WHERE resource = 'products'"
    )
    found = audit()["products"]
    assert (found.short, found.drifted) == (1, 0)
    [incident] = query(database, "SELECT error_type, needs_attention, message FROM incidents")
    assert (incident["error_type"], incident["needs_attention"]) == ("drift", False)
    assert "1 more at the source than here" in incident["message"]
    assert sync(units=(Unit.PRODUCTS,)).units[Unit.PRODUCTS].counts.inserted == 1
    assert is_clean(audit())
    assert query(database, "SELECT status FROM incidents") == [{"status": "resolved"}]


# What is no drift


def test_what_the_next_pass_will_bring_is_late_and_no_drift(
    shop: Shop, sync: Sync, audit: Audit, database: Database
) -> None:
    sync()
    product, *others = shop.export()["products"]
    edit(shop, "update_product", id=product["id"], fields={"title": "Newer there"})
    edit(shop, "add_product", variants=1)
    found = audit()["products"]
    assert (found.lag, found.drifted, found.short, found.fields) == (2, 0, 0, {})
    assert found.sampled == len(others) + 2
    assert query(database, "SELECT title FROM products WHERE external_id = %s", product["id"]) == [
        {"title": product["title"]}
    ], "it is left to the pass"
    assert query(database, "SELECT 1 FROM incidents") == []
    sync(stores=(as_store(shop).name,))
    assert audit()["products"].lag == 0


def test_a_row_that_changed_twice_within_a_second_with_a_sync_between_is_late_and_no_drift(
    shop: Shop, sync: Sync, audit: Audit, database: Database
) -> None:
    row = {"external_id": shop.export(["products"])["products"][3]["id"]}
    edit(shop, "update_product", id=row["external_id"], fields={"title": "whole"})
    assert sync(units=CATALOGUE).failures == []
    # What a sync between the two has held: the row as the first change left it.
    query(database, "UPDATE products SET title = 'half way' WHERE external_id = %s", row["external_id"])
    found = audit()
    assert (is_clean(found), found["products"].lag) == (True, 1)
    assert sync(units=CATALOGUE, force=True, run_id="next").failures == []
    assert query(database, "SELECT 1 FROM products WHERE title = 'half way'") == []
    found = audit()
    assert (is_clean(found), found["products"].lag) == (True, 0)


def test_a_row_that_could_not_be_loaded_is_an_incident_already(
    synced: Shop, audit: Audit, database: Database
) -> None:
    query(
        database,
        "INSERT INTO rejected_rows (store_id, resource, external_id, reason, payload) "
        "SELECT store_id, 'products', external_id, 'title: too long', '' FROM products LIMIT 1",
    )
    query(
        database,
        "UPDATE products p SET title = 'older' FROM rejected_rows r WHERE r.external_id = p.external_id",
    )
    found = audit()["products"]
    assert (found.sampled, found.drifted) == (len(synced.export()["products"]) - 1, 0)


def test_a_store_of_which_nothing_was_synced_is_skipped_and_looked_at_soon(
    shop: Shop, audit: Audit, database: Database
) -> None:
    told: list[str] = []
    assert audit(log=told.append) == {}
    assert any("not audited, nothing of it was ever synced" in line for line in told)
    [row] = query(
        database,
        "SELECT next_due_at - clock_timestamp() AS wait, attempts FROM sync_states WHERE resource = 'audit'",
    )
    assert row["wait"] < timedelta(hours=2)
    assert row["attempts"] == 0


# What comes of it


def test_an_audit_is_due_once_a_day_whatever_the_tier_and_sooner_after_drift(
    synced: Shop, audit: Audit, sync: Sync, database: Database
) -> None:
    def wait() -> timedelta:
        [row] = query(
            database,
            "SELECT next_due_at - clock_timestamp() AS wait FROM sync_states WHERE resource = 'audit'",
        )
        assert isinstance(row["wait"], timedelta)
        return row["wait"]

    audit()
    assert AUDIT_EVERY / 2 <= wait() <= AUDIT_EVERY * 3 / 2
    assert sync(units=AUDIT).total == 0
    query(database, "UPDATE products SET title = 'ours'")
    audit()
    assert wait() <= timedelta(hours=2)


def test_drift_is_an_incident_until_an_audit_finds_none(
    synced: Shop, audit: Audit, database: Database
) -> None:
    query(database, "UPDATE product_variants SET price = price + 1")
    count = len(synced.export()["product_variants"])
    audit(run_id="first")
    [incident] = reading.list_incidents(database)
    assert (incident.error_type, incident.severity, incident.needs_attention) == ("drift", "medium", False)
    assert incident.message.startswith(
        f"product_variants: of {count} sampled rows {count} differ (price); all repaired; the first: gid://"
    )
    audit(run_id="second")
    [incident] = reading.list_incidents(database, status=None)
    assert (incident.status, incident.resolved_by) == ("resolved", "bg-pipelines")


def test_drift_that_cannot_be_repaired_waits_for_a_person_whose_retry_looks_again(
    synced: Shop, audit: Audit, database: Database
) -> None:
    query(database, "UPDATE products SET title = 'ours'")
    query(database, "ALTER TABLE products ADD CONSTRAINT ours CHECK (title = 'ours') NOT VALID")
    found = audit()["products"]
    assert found.left == found.different > 0
    [incident] = reading.list_incidents(database, error_type="drift")
    assert (incident.severity, incident.needs_attention) == ("high", True)
    query(database, "ALTER TABLE products DROP CONSTRAINT ours")
    query(database, "DELETE FROM rejected_rows")
    assert handling.retry(database, [incident.id], by="jane").rows == 1
    with database.transaction() as connection:
        assert store_units.is_due(connection, AUDIT)
    assert left(audit()) == {}
    assert is_clean(audit())
    assert reading.list_incidents(database, error_type="drift") == []


def test_a_store_that_refuses_its_token_fails_like_any_sync(
    synced: Shop, sync: Sync, database: Database
) -> None:
    synced.faults.append(Fault("unauthorized"))
    for _ in range(2):  # it is believed at the second time
        query(database, "UPDATE sync_states SET next_due_at = clock_timestamp() WHERE resource = 'audit'")
        [failure] = sync(units=AUDIT).failures
        assert (failure.error.error_type, failure.units) == (ErrorType.CREDENTIALS, ["audit"])
    [row] = query(database, "SELECT next_due_at, incident_id FROM sync_states WHERE resource = 'audit'")
    assert row["next_due_at"] is None
    assert row["incident_id"] is not None
    assert query(database, "SELECT 1 FROM audits") == []


class Meanwhile:
    """A platform while whose answer to `rows` something happens here."""

    def __init__(self, platform: Any, happens: Callable[[], Any]) -> None:
        self.platform = platform
        self.happens = happens

    def __getattr__(self, name: str) -> Any:
        return getattr(self.platform, name)

    def rows(self, *asked: Any) -> Any:
        answer = self.platform.rows(*asked)
        self.happens()
        return answer


def audit_while(database: Database, cipher: Cipher, statement: str) -> Summary:
    return SyncRun(
        database,
        cipher,
        SyncRequest(AUDIT, job="drift_audit"),
        run_id="while",
        connect=lambda access, sleep: Meanwhile(
            platforms.connect(access, api_version="2026-07", sleep=sleep), lambda: query(database, statement)
        ),
        log=lambda _: None,
    ).run()


def test_an_audit_that_loses_its_lease_writes_nothing(
    synced: Shop, database: Database, cipher: Cipher
) -> None:
    query(database, "UPDATE locations SET name = 'ours'")
    summary = audit_while(
        database, cipher, "UPDATE sync_states SET lease_owner = 'x' WHERE resource = 'audit'"
    )
    assert [failure.error.error_type for failure in summary.failures] == [ErrorType.LEASE_LOST]
    assert query(database, "SELECT DISTINCT name FROM locations") == [{"name": "ours"}]
    assert query(database, "SELECT 1 FROM audits") == []


def test_what_a_pass_writes_while_the_audit_asks_is_no_drift(
    synced: Shop, database: Database, cipher: Cipher
) -> None:
    summary = audit_while(
        database,
        cipher,
        "UPDATE locations SET name = 'newer', source_updated_at = now(), synced_at = now()",
    )
    [found] = [audit for audit in summary.audits if audit.resource == "locations"]
    assert (found.lag, found.drifted) == (found.sampled, 0)
    assert query(database, "SELECT DISTINCT name FROM locations") == [{"name": "newer"}]


# The sample


def test_a_sample_of_a_large_table_is_taken_by_its_key(database: Database) -> None:
    query(
        database,
        "INSERT INTO products (store_id, external_id, source_updated_at, title, handle, status, vendor, product_type, "
        "tags, source_created_at) SELECT store, 'gid://shopify/Product/' || 7000000000 + n * 37, now(), '', '', '', '', "
        "'', '{}', now() FROM generate_series(1, 10000) n, unnest(ARRAY[1, 2]) store",
    )
    query(database, "ANALYZE products")
    with database.transaction() as connection:
        seen: set[str] = set()
        for seed in range(40):
            ids = random_ids(connection, "products", 1, 50, random.Random(seed))
            assert len(set(ids)) == 50
            seen |= set(ids)
        assert len(seen) > 1000, "other rows each time"
        thirds = [
            sum(int(one[22:]) - 7_000_000_000 < 37 * 10_000 * part / 3 for one in seen) for part in (1, 2)
        ]
        assert len(seen) * 0.25 < thirds[0] < len(seen) * 0.42
        assert len(seen) * 0.58 < thirds[1] < len(seen) * 0.75
        statement = sql.SQL("EXPLAIN ") + AROUND.format(table=sql.Identifier("products"))
        places = [
            made_up_id(
                "gid://shopify/Product/7000000037", "gid://shopify/Product/7000370000", random.Random(1)
            )
        ]
        plan = "\n".join(row[0] for row in connection.execute(statement, (places, 1, 5)))
    assert "pk_products" in plan
    assert "Seq Scan" not in plan


@pytest.mark.parametrize("listed", [5_000, 50])
def test_over_time_every_row_has_its_turn_also_where_ids_have_several_parts(
    database: Database, listed: int
) -> None:
    query(
        database,
        "INSERT INTO inventory_levels (store_id, external_id, source_updated_at, inventory_item_external_id, "
        "location_external_id, available, on_hand, committed, incoming) SELECT 1, 'gid://shopify/InventoryLevel/' || "
        "80016000000 + place * 32 || '?inventory_item_id=' || 80014000000 + n * 32, now(), '', '', 1, 1, 0, 0 "
        "FROM generate_series(1, 300) n, generate_series(1, 3) place",
    )
    drawn: Counter[str] = Counter()
    with database.transaction() as connection:
        for seed in range(150):
            drawn.update(
                random_ids(connection, "inventory_levels", 1, 50, random.Random(seed), listed=listed)
            )
    assert len(drawn) > 800, "of 900"
    by_place = Counter(external_id.partition("?")[0] for external_id in drawn.elements())
    assert min(by_place.values()) > max(by_place.values()) / 4


def test_a_store_with_fewer_rows_than_the_sample_is_audited_whole(database: Database) -> None:
    query(
        database,
        "INSERT INTO locations (store_id, external_id, source_updated_at, name, active, fulfills_online_orders) "
        "SELECT 1, 'L' || n, now(), '', true, true FROM generate_series(1, 9) n",
    )
    with database.transaction() as connection:
        for wanted, expected in ((9, 9), (20, 9), (4, 4), (0, 0)):
            assert len(random_ids(connection, "locations", 1, wanted, random.Random(1))) == expected
        assert random_ids(connection, "locations", 2, 5, random.Random(1)) == []


def test_a_sample_asks_for_as_many_rows_as_it_says(synced: Shop, audit: Audit) -> None:
    assert {a.sampled for a in audit(sample=10).values()} <= set(range(11))


# The job, the command, the figures


@pytest.mark.usefixtures("environment")
def test_the_job_shows_what_has_drifted_and_no_personal_data(
    synced: Shop, database: Database, capfd: pytest.CaptureFixture[str]
) -> None:
    query(
        database,
        "UPDATE customers SET email = 'changed-' || external_id || '@example.com', phone = '+15550100001'",
    )
    people = query(database, "SELECT first_name, last_name, email FROM customers")
    result = execute("drift_audit")
    assert result.success
    shown = metadata(result)
    assert shown["stores"] == 1
    assert shown["rows_drifted"] == len(people)
    [drift] = [record.data for record in shown["drift"].records]
    assert (drift["resource"], drift["repaired"]) == ("customers", len(people))
    assert "email: " in drift["fields"]
    kept = json.dumps(
        [
            query(database, f"SELECT to_jsonb(t) AS row FROM {table} t")
            for table in ("audits", "incidents", "sync_attempts", "sync_states")
        ]
    )
    told = kept + str(result.all_events) + "".join(capfd.readouterr())
    values = {value for customer in [*people, *synced.export()["customers"]] for value in personal(customer)}
    assert len(values) > 10
    assert [value for value in values if value in told] == []


def personal(customer: dict[str, Any]) -> set[str]:
    found = (customer.get(name) for name in ("email", "lastName", "last_name", "phone"))
    return {value for value in found if isinstance(value, str) and len(value) > 6}


def test_the_command_repairs_and_says_what_was_proved(
    synced: Shop, run: Callable[..., Any], database: Database
) -> None:
    name = as_store(synced).name
    query(
        database,
        "UPDATE product_variants SET price = price + 1 WHERE external_id = (SELECT min(external_id) FROM product_variants)",
    )
    told = run("audit", name)
    assert told.exit_code == 0, told.output
    text = words(told.output)
    variants = len(synced.export()["product_variants"])
    assert f"all rows match the source: {variants} product_variants (checksum " in text
    assert "1 differ (price); all repaired" in text
    shown = json.loads(run("audit", name, "--json").stdout)
    assert (shown["well"], shown["audited"]) == (True, True)
    assert shown["resources"]["product_variants"]["audit"]["different"] == 0
    assert shown["resources"]["orders"]["proof"]["tables"].keys() == {"orders", "order_lines", "refunds"}


def test_the_command_fails_where_drift_is_left_or_the_store_cannot_be_asked(
    synced: Shop, run: Callable[..., Any], database: Database
) -> None:
    name = as_store(synced).name
    query(database, "UPDATE products SET title = 'ours'")
    query(database, "ALTER TABLE products ADD CONSTRAINT ours CHECK (title = 'ours') NOT VALID")
    told = run("audit", name)
    assert told.exit_code == 1
    assert "of them could not be repaired" in words(told.output)
    synced.faults.append(Fault("unauthorized"))
    told = run("audit", name)
    assert told.exit_code == 1
    assert "failed: Shopify does not accept the access token" in words(told.output)


def test_the_figures_count_what_audits_found(synced: Shop, audit: Audit, database: Database) -> None:
    query(database, "UPDATE product_variants SET price = price + 1")
    found = audit()["product_variants"]
    text = prometheus_text(read_metrics(database))
    for figure, value in (
        ("sampled", found.sampled),
        ("drifted", found.different),
        ("repaired", found.different),
        ("lag", 0),
    ):
        assert f'bg_pipelines_audit_rows_{figure}{{resource="product_variants"}} {float(value)}' in text


def test_an_audit_that_fails_at_a_later_table_goes_on_there_and_is_parked_in_the_end(
    synced: Shop, sync: Sync, database: Database
) -> None:
    """It would begin anew at each try, count the tables before as progress, and be tried for ever."""
    synced.faults.append(Fault("server_error", operation="query Orders("))
    attempts = []
    for number in range(30):
        query(
            database,
            "UPDATE sync_states SET next_due_at = clock_timestamp() WHERE resource = 'audit' AND next_due_at IS NOT NULL",
        )
        query(database, "DELETE FROM circuits")
        summary = sync(units=AUDIT, job="drift_audit", sample=20, rng=random.Random(number))
        if not summary.done:
            break
        [row] = query(database, "SELECT attempts, cursor FROM sync_states WHERE resource = 'audit'")
        attempts.append(row["attempts"])
    assert attempts == list(range(1, 11)), "ten tries, as any unit has"
    assert "customers" in row["cursor"]["audited"], "the tables before are not audited again"
    [incident] = reading.list_incidents(database, error_type="server_error", needs_attention=True)
    assert incident.resources == ["audit"]
    synced.faults.clear()
    handling.retry(database, [incident.id], by="Grace")
    found = {audit.resource for audit in sync(units=AUDIT, job="drift_audit", sample=20).audits}
    assert found == {"orders"}, "only what is left is audited"
    [row] = query(
        database,
        "SELECT cursor, next_due_at > clock_timestamp() AS done FROM sync_states WHERE resource = 'audit'",
    )
    assert (row["cursor"]["audited"], row["done"]) == ([], True)
