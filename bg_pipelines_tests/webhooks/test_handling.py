"""Events become rows: what they name is asked for once and loaded as it is, whatever their order, number or age."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bg_pipelines.database.engine import Database
from bg_pipelines.errors import ErrorType
from bg_pipelines.platforms import StoreAccess
from bg_pipelines.platforms.shopify.bulk import ExportLimits
from bg_pipelines.platforms.shopify.pages import PageSizes
from bg_pipelines.queues import Unit
from bg_pipelines.records import Page, Resource
from bg_pipelines.retries import Policies
from bg_pipelines.sandbox import Fault, Sandbox, Shop, edit
from bg_pipelines.sync import Summary
from bg_pipelines.webhooks.handling import EVENTS_AT_ONCE
from bg_pipelines.webhooks.hints import BY_ID_AT_MOST
from bg_pipelines.work import rollups
from bg_pipelines.work.runner import Warmth
from bg_pipelines_tests.dagster_runs import execute, metadata
from bg_pipelines_tests.support import (
    CATALOGUE,
    PATIENCE,
    SALES,
    assert_equal_to_source,
    assert_sales_equal_to_source,
    connect_by,
    query,
    wait_for,
)
from bg_pipelines_tests.webhooks.conftest import Handle, Tell, outcomes, reasons

Sync = Callable[..., Summary]
EVERYTHING = (*CATALOGUE, *SALES)
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def sandbox(
    make_sandbox: Callable[..., Sandbox],
    add_shops: Callable[..., list[str]],
    sync: Sync,
    request: pytest.FixtureRequest,
) -> Sandbox:
    """A shop that has just been synced; two of them, where a test asks for `other`."""
    shops = 2 if "other" in request.fixturenames else 1
    sandbox = make_sandbox(shops=shops, variants=30 * shops, customers=6 * shops, orders_per_customer=3)
    add_shops(sandbox)
    assert sync(units=EVERYTHING).failures == []
    for shop in sandbox.world.shops.values():
        shop.requests.clear()
    return sandbox


@pytest.fixture
def shop(sandbox: Sandbox) -> Shop:
    return next(iter(sandbox.world.shops.values()))


@pytest.fixture
def other(sandbox: Sandbox) -> Shop:
    return list(sandbox.world.shops.values())[1]


@pytest.fixture
def about(shop: Shop, tell: Tell) -> Callable[..., None]:
    """Tell of a row of the shop: `about("orders/updated", order)`."""

    def of(topic: str, row: dict[str, Any], **more: Any) -> None:
        payload = {"admin_graphql_api_id": row["id"], "updated_at": row.get("updatedAt")}
        tell(name(shop), topic, {**payload, **more})

    return of


def name(shop: Shop) -> str:
    return shop.domain.split(".")[0]


def equal(database: Database, sandbox: Sandbox) -> None:
    assert_equal_to_source(database, sandbox)
    assert_sales_equal_to_source(database, sandbox)


def asked(shop: Shop) -> list[str]:
    return [request.operation for request in shop.requests]


def first(shop: Shop, table: str, number: int = 0) -> dict[str, Any]:
    row: dict[str, Any] = shop.export([table])[table][number]
    return row


def level_of(shop: Shop) -> dict[str, Any]:
    levels = shop.export(["inventory_levels"])["inventory_levels"]
    return next(row for row in levels if row["isActive"])


def ends(level: dict[str, Any]) -> dict[str, Any]:
    return {"inventory_item_id": level["item"]["id"], "location_id": level["location"]["id"]}


def numbers(level: dict[str, Any]) -> dict[str, int]:
    """The ends of a level as a delivery names them."""
    return {key: int(value.rpartition("/")[2]) for key, value in ends(level).items()}


def state(database: Database, shop: Shop, unit: Unit) -> dict[str, Any]:
    [row] = query(
        database,
        "SELECT y.* FROM sync_states y JOIN stores s ON s.id = store_id WHERE s.domain = %s AND resource = %s",
        shop.domain,
        unit.value,
    )
    return row


# What is told becomes rows


def test_what_was_made_and_changed_is_loaded_as_it_is_now(
    shop: Shop, sandbox: Sandbox, database: Database, about: Callable[..., None], handle: Handle
) -> None:
    about("orders/create", edit(shop, "add_order", lines=3))
    about(
        "orders/updated", edit(shop, "update_order", id=first(shop, "orders")["id"], fields={"note": "gift"})
    )
    about("customers/create", edit(shop, "add_customer"))
    about("products/create", edit(shop, "add_product", variants=3))
    held = {row["external_id"] for row in query(database, "SELECT external_id FROM inventory_levels")}
    made = [row for row in shop.export(["inventory_levels"])["inventory_levels"] if row["id"] not in held]
    for level in made:
        about("inventory_levels/connect", level)
    level = level_of(shop)
    edit(shop, "set_quantity", **ends(level), quantity=4711)
    about("inventory_levels/update", level)
    location = first(shop, "locations")
    edit(shop, "rename_location", id=location["id"], name="Pier 9")
    about("locations/update", location)
    summary = handle()
    equal(database, sandbox)
    assert outcomes(database) == summary.events == {"handled": 6 + len(made)}
    assert sorted(asked(shop)) == [
        "CustomersByIds",
        "InventoryLevelsByIds",
        "LocationsByIds",
        "OrdersByIds",
        "ProductsWithVariants",
    ]
    assert summary.seconds_to_row(0.99) is not None
    assert summary.rows["orders"].inserted > 0
    [row] = query(database, "SELECT name FROM locations WHERE external_id = %s", location["id"])
    assert row["name"] == "Pier 9"


def test_what_an_event_brings_is_timed_from_its_source_to_its_row_once(
    shop: Shop, database: Database, about: Callable[..., None], handle: Handle
) -> None:
    shop.clock.offset_seconds = -40  # it changed so long ago
    order = edit(shop, "add_order")
    shop.clock.offset_seconds = 0
    for _ in range(2):  # the second time it is asked for again, and is as it was
        about("orders/create", order)
        handle()
        with database.transaction() as connection:
            [line] = [one for one in rollups.read(connection, LONG_AGO) if one.job == "handle_webhooks"]
        assert (line.resource, sum(line.lags), line.lags[rollups.LAGS.index(60.0)]) == ("orders", 1, 1)
        assert line.lag_seconds == pytest.approx(50, abs=10)
    row = state(database, shop, Unit.ORDERS)
    assert row["last_change_at"].strftime("%Y-%m-%dT%H:%M:%SZ") == order["updatedAt"]
    assert timedelta(seconds=40) <= row["last_change_lag"] < timedelta(seconds=60)


def test_many_events_of_a_row_are_one_ask_and_their_order_does_not_matter(
    shop: Shop, sandbox: Sandbox, database: Database, about: Callable[..., None], handle: Handle
) -> None:
    order = first(shop, "orders")
    versions = [edit(shop, "update_order", id=order["id"], fields={"note": str(n)}) for n in range(5)]
    for version in reversed(versions):
        about("orders/updated", version)
        about("orders/updated", version)
    assert handle().asked == 1
    assert outcomes(database) == {"handled": 10}
    about("orders/create", order)  # hours late, with what was true then
    handle()
    equal(database, sandbox)


def test_what_was_deleted_is_marked_with_all_that_belongs_to_it(
    shop: Shop, sandbox: Sandbox, database: Database, about: Callable[..., None], handle: Handle
) -> None:
    product, customer = first(shop, "products"), edit(shop, "add_customer")
    about("customers/create", customer)
    handle()
    edit(shop, "delete_product", id=product["id"])
    edit(shop, "delete_customer", id=customer["id"])
    about("products/delete", {"id": product["id"]})
    about("customers/delete", {"id": customer["id"]})
    handle()
    equal(database, sandbox)
    shop.requests.clear()
    about("products/delete", {"id": product["id"]})  # told again
    about("customers/delete", {"id": "gid://shopify/Customer/1"})  # never held
    handle()
    assert asked(shop) == []
    assert outcomes(database) == {"handled": 5}


def test_a_deletion_of_what_is_there_loads_it_as_it_is(
    shop: Shop, sandbox: Sandbox, database: Database, about: Callable[..., None], handle: Handle
) -> None:
    order = edit(shop, "update_order", id=first(shop, "orders")["id"], fields={"note": "still here"})
    about("orders/delete", order)
    handle()
    equal(database, sandbox)


def test_a_product_comes_with_the_variants_that_it_has_and_without_those_it_had(
    shop: Shop, sandbox: Sandbox, database: Database, about: Callable[..., None], handle: Handle
) -> None:
    of: dict[str, list[dict[str, Any]]] = {}
    for variant in shop.export(["product_variants"])["product_variants"]:
        of.setdefault(variant["product"]["id"], []).append(variant)
    product, variants = max(of.items(), key=lambda item: len(item[1]))
    assert len(variants) > 2
    edit(shop, "delete_variant", id=variants[0]["id"])
    edit(shop, "update_variant", id=variants[1]["id"], fields={"price": "17.00"})
    about("products/update", {"id": product})
    handle()
    equal(database, sandbox)


def test_of_a_product_with_more_variants_than_are_listed_the_next_pass_reads_the_rest(
    make_sandbox: Callable[..., Sandbox],
    add_shops: Callable[..., list[str]],
    sync: Sync,
    database: Database,
    handle: Handle,
    tell: Tell,
) -> None:
    sandbox = make_sandbox(shops=1, variants=0)
    [store] = add_shops(sandbox)
    [shop] = sandbox.world.shops.values()
    assert sync(units=CATALOGUE).failures == []
    product = edit(shop, "add_product", variants=252)
    tell(store, "products/create", {"admin_graphql_api_id": product["id"]})
    handle()
    held = "SELECT count(*)::int AS rows FROM product_variants"
    assert query(database, held) == [{"rows": 244}]
    assert state(database, shop, Unit.PRODUCT_VARIANTS)["hinted_at"] is not None
    assert sync(units=(Unit.PRODUCT_VARIANTS,), run_id="hinted").failures == []
    assert query(database, held) == [{"rows": 252}]


def test_a_level_that_is_named_by_its_two_ends_is_found(
    shop: Shop, sandbox: Sandbox, database: Database, tell: Tell, handle: Handle
) -> None:
    level = level_of(shop)
    edit(shop, "deactivate_level", **ends(level))
    tell(name(shop), "inventory_levels/disconnect", numbers(level))
    tell(name(shop), "inventory_levels/disconnect", {"inventory_item_id": 1, "location_id": 2})
    tell(name(shop), "inventory_levels/update", {"inventory_item_id": 1, "location_id": 3})
    handle()
    equal(database, sandbox)
    assert asked(shop) == ["InventoryLevelsByIds"]
    assert outcomes(database) == {"handled": 2, "passed_on": 1}, "what is not held is found by the next pass"


def test_a_row_that_cannot_be_loaded_is_kept_with_its_reason_and_fails_no_event(
    shop: Shop, database: Database, about: Callable[..., None], handle: Handle
) -> None:
    orders = [edit(shop, "add_order") for _ in range(2)]
    shop.faults.append(Fault("null_field", field="createdAt", id=orders[0]["id"]))
    for order in orders:
        about("orders/create", order)
    handle()
    assert outcomes(database) == {"handled": 2}
    [rejected] = query(database, "SELECT resource, external_id FROM rejected_rows")
    assert rejected == {"resource": "orders", "external_id": orders[0]["id"]}
    [incident] = query(database, "SELECT fingerprint FROM incidents WHERE status = 'open'")
    assert incident["fingerprint"].startswith("rejects:")


# What is left to a pass


def test_more_rows_than_are_worth_asking_for_are_left_to_a_pass_that_is_due_at_once(
    shop: Shop, sandbox: Sandbox, database: Database, about: Callable[..., None], handle: Handle, sync: Sync
) -> None:
    for _ in range(BY_ID_AT_MOST + 1):
        about("orders/create", edit(shop, "add_order"))
    gone = first(shop, "products")
    edit(shop, "delete_product", id=gone["id"])
    about("products/delete", gone)
    summary = handle(events_at_once=BY_ID_AT_MOST + 1)
    assert summary.events == {"passed_on": BY_ID_AT_MOST + 1, "handled": 1}
    assert reasons(database) == {None, "a pass finds more changes for less"}
    assert "OrdersByIds" not in asked(shop)
    row = state(database, shop, Unit.ORDERS)
    assert row["hinted_at"] is not None
    assert row["next_due_at"] <= row["hinted_at"] + timedelta(seconds=1)
    assert sync(units=SALES, run_id="hinted").failures == []
    assert state(database, shop, Unit.ORDERS)["hinted_at"] is None
    equal(database, sandbox)


def test_what_waits_beside_them_is_left_to_the_pass_with_one_statement(
    shop: Shop, database: Database, about: Callable[..., None], handle: Handle
) -> None:
    for _ in range(BY_ID_AT_MOST * 3):
        about("orders/updated", {"id": f"gid://shopify/Order/{_}"})
    about("orders/delete", {"id": first(shop, "orders")["id"]})
    summary = handle(events_at_once=BY_ID_AT_MOST + 1)
    assert (summary.events, summary.batches) == ({"passed_on": BY_ID_AT_MOST * 3, "handled": 1}, 2)


def test_hints_leave_half_of_the_rate_limit_to_others_and_never_wait_for_it(
    shop: Shop, sandbox: Sandbox, database: Database, about: Callable[..., None], handle: Handle, sync: Sync
) -> None:
    edit(shop, "set_budget", maximum=2000, restore=1)
    gone = [edit(shop, "add_customer") for _ in range(30)]
    for customer in gone:
        about("customers/create", customer)
    handle()
    for _ in range(BY_ID_AT_MOST):
        about("orders/create", edit(shop, "add_order"))
    summary = handle()
    assert shop.bucket.available >= 1000
    assert summary.events["handled"] > 0
    assert summary.events["passed_on"] > 0
    assert reasons(database) == {None, "throttled"}
    for customer in gone:
        edit(shop, "delete_customer", id=customer["id"])
        about("customers/delete", customer)
    shop.bucket.available = 1010
    handle()
    waiting = query(database, "SELECT retry_strategy FROM webhook_events WHERE status = 'pending'")
    assert len(waiting) > 0, "a pass does not find what was deleted: that waits"
    edit(shop, "set_budget", maximum=2000, restore=100)
    query(database, "UPDATE webhook_events SET next_due_at = now() WHERE status = 'pending'")
    handle()
    assert sync(units=SALES, run_id="hinted").failures == []
    equal(database, sandbox)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("unauthorized", "credentials"), ("access_denied", "scopes"), ("locked", "shop_locked")],
)
def test_what_a_pass_runs_into_as_well_is_its_incident_alone(
    shop: Shop,
    database: Database,
    about: Callable[..., None],
    handle: Handle,
    sync: Sync,
    kind: str,
    reason: str,
) -> None:
    shop.faults.append(Fault(kind))
    about("orders/updated", first(shop, "orders"))
    about("customers/update", first(shop, "customers"))
    handle()
    assert outcomes(database) == {"passed_on": 2}
    assert reasons(database) == {reason}
    policies = Policies({"shop_locked": {"max_attempts": 1}})
    for _ in range(2):  # a refusal is believed at the second time
        query(database, "UPDATE sync_states SET next_due_at = now() WHERE next_due_at IS NOT NULL")
        sync(units=SALES, run_id="hinted", policies=policies)
    assert (
        query(
            database,
            "SELECT 1 FROM sync_states WHERE resource IN ('orders', 'customers') AND next_due_at > now()",
        )
        == []
    )
    about("orders/updated", first(shop, "orders"))
    shop.requests.clear()
    handle()
    assert asked(shop) == [], "its pass is parked"
    incidents = query(database, "SELECT DISTINCT error_type FROM incidents")
    assert incidents == [{"error_type": reason}]


def test_a_store_whose_circuit_is_open_is_not_asked(
    shop: Shop, database: Database, about: Callable[..., None], handle: Handle
) -> None:
    query(
        database,
        "INSERT INTO circuits (key, store_id, opened_at) SELECT 'store:' || id, id, now() FROM stores WHERE domain = %s",
        shop.domain,
    )
    about("orders/updated", first(shop, "orders"))
    handle()
    assert (asked(shop), reasons(database)) == ([], {"its circuit is open"})


def test_a_table_that_was_never_synced_is_left_to_its_first_pass(
    make_sandbox: Callable[..., Sandbox],
    add_shops: Callable[..., list[str]],
    database: Database,
    handle: Handle,
    tell: Tell,
) -> None:
    sandbox = make_sandbox(shops=1, variants=10)
    [store] = add_shops(sandbox)
    [shop] = sandbox.world.shops.values()
    tell(store, "orders/updated", {"admin_graphql_api_id": first(shop, "orders")["id"]})
    handle()
    assert (asked(shop), outcomes(database)) == ([], {"passed_on": 1})


def test_hints_of_a_paused_store_are_ignored(
    shop: Shop, database: Database, about: Callable[..., None], handle: Handle
) -> None:
    query(database, "UPDATE stores SET paused_at = now()")
    about("orders/updated", first(shop, "orders"))
    handle()
    assert (asked(shop), outcomes(database)) == ([], {"ignored": 1})


# What fails


def test_a_failed_ask_is_retried_by_its_policy_and_parked_once_for_all_its_events(
    shop: Shop, sandbox: Sandbox, database: Database, about: Callable[..., None], handle: Handle
) -> None:
    shop.faults.append(Fault("server_error", times=9))
    for _ in range(3):
        about("orders/create", edit(shop, "add_order"))
    about("customers/create", edit(shop, "add_customer"))
    policies = Policies({"server_error": {"max_attempts": 2}})
    summary = handle(policies=policies)
    assert summary.events == {"failed": 4}
    assert len(asked(shop)) == 2, (
        "rows, then their ids: a store that does not answer is not asked again in the same batch"
    )
    waiting = query(database, "SELECT DISTINCT attempts, retry_strategy, lease_owner FROM webhook_events")
    assert waiting == [{"attempts": 1, "retry_strategy": "exponential_backoff", "lease_owner": None}]
    query(database, "UPDATE webhook_events SET next_due_at = now()")
    handle(policies=policies)
    [incident] = query(database, "SELECT * FROM incidents")
    assert (incident["error_type"], incident["occurrences"]) == ("server_error", 1)
    assert query(database, "SELECT count(*)::int AS n FROM webhook_events WHERE incident_id IS NOT NULL") == [
        {"n": 4}
    ]
    shop.faults.clear()
    query(database, "UPDATE webhook_events SET next_due_at = now()")
    handle()
    equal(database, sandbox)
    [incident] = query(database, "SELECT status FROM incidents")
    assert incident["status"] == "resolved"


def test_a_surprise_in_one_store_keeps_no_other_from_its_rows(
    shop: Shop,
    other: Shop,
    sandbox: Sandbox,
    database: Database,
    tell: Tell,
    about: Callable[..., None],
    handle: Handle,
    connect_stores: Any,
) -> None:
    def connect(access: Any, sleep: Any) -> Any:
        if access.domain == shop.domain:
            raise RuntimeError("a bug")
        return connect_stores(access, sleep)

    order = edit(other, "add_order")
    tell(name(other), "orders/create", {"admin_graphql_api_id": order["id"]})
    about("orders/updated", first(shop, "orders"))
    assert handle(connect=connect).events == {"handled": 1, "failed": 1}
    [error] = query(database, "SELECT last_error FROM webhook_events WHERE status = 'pending'")
    assert error["last_error"]["error_type"] == ErrorType.UNKNOWN


# Who is served when


def test_a_store_with_many_events_holds_up_no_other(
    shop: Shop, other: Shop, database: Database, tell: Tell, about: Callable[..., None], handle: Handle
) -> None:
    for number in range(40):
        about("orders/updated", first(shop, "orders", number % 5))
    tell(name(other), "orders/updated", {"admin_graphql_api_id": first(other, "orders")["id"]})
    handle(max_workers=1, events_at_once=10)
    order = query(
        database,
        "SELECT s.domain FROM webhook_events JOIN stores s ON s.id = store_id ORDER BY settled_at",
    )
    assert [row["domain"] for row in order].index(other.domain) == 10, "it waited for one batch"
    assert EVENTS_AT_ONCE == 1000


def test_a_warm_run_takes_what_comes_and_ends_once_nothing_does(
    shop: Shop, sandbox: Sandbox, database: Database, about: Callable[..., None], handle: Handle
) -> None:
    lines: list[str] = []
    running = threading.Thread(
        target=lambda: handle(warm_seconds=1.0, progress_seconds=0.1, log=lines.append)
    )
    running.start()
    for number in range(2):
        about("orders/create", edit(shop, "add_order"))
        wait_for(lambda number=number: outcomes(database) == {"handled": number + 1})
        wait_for(lambda number=number: len(lines) == number + 1)  # else one line might tell of both
    running.join(20)
    assert not running.is_alive()
    equal(database, sandbox)
    assert len(lines) == 2, "a run that has nothing to do says nothing"
    assert (
        len(query(database, "SELECT 1 FROM job_runs WHERE job = 'handle_webhooks' AND status = 'succeeded'"))
        == 1
    )


def test_an_idle_run_gives_its_place_to_one_that_waits(database: Database, handle: Handle) -> None:
    handle(warmth=Warmth(1000, 0.01, lambda: True))


def test_a_run_that_is_stopped_leaves_what_it_has_to_the_next(
    shop: Shop, sandbox: Sandbox, database: Database, about: Callable[..., None], handle: Handle
) -> None:
    about("orders/create", edit(shop, "add_order"))

    def stop(line: str) -> None:
        raise KeyboardInterrupt

    shop.faults.append(Fault("slow", seconds=1.0, times=1))
    with pytest.raises(KeyboardInterrupt):
        handle(log=stop, progress_seconds=0.1, policies=None, warm_seconds=5)
    handle()
    equal(database, sandbox)


def test_events_that_another_run_has_claimed_meanwhile_are_settled_by_it(
    shop: Shop,
    sandbox: Sandbox,
    database: Database,
    about: Callable[..., None],
    handle: Handle,
    connect_stores: Any,
) -> None:
    about("orders/create", edit(shop, "add_order"))

    def connect(access: Any, sleep: Any) -> Any:
        query(database, "UPDATE webhook_events SET lease_owner = 'other/1'")
        return connect_stores(access, sleep)

    assert handle(connect=connect).events == {}
    [row] = query(database, "SELECT status, lease_owner FROM webhook_events")
    assert row == {"status": "pending", "lease_owner": "other/1"}
    query(database, "UPDATE webhook_events SET lease_expires_at = now() - %s", timedelta(seconds=1))
    handle()
    equal(database, sandbox)


# Beside passes


class Interrupted:
    """A platform during whose passes something happens: after each page `act` is called."""

    def __init__(self, platform: Any, act: Callable[[Unit, int], None]) -> None:
        self._platform = platform
        self._act = act

    def __getattr__(self, name: str) -> Any:
        return getattr(self._platform, name)

    def pages(self, resource: Resource, **options: Any) -> Iterator[Page]:
        for number, page in enumerate(self._platform.pages(resource, **options)):
            yield page
            self._act(Unit(resource.value), number)


@pytest.mark.parametrize("bulk", ["pages", "bulk"])
def test_events_during_a_full_pass_leave_its_proof_right(
    shop: Shop,
    sandbox: Sandbox,
    database: Database,
    about: Callable[..., None],
    handle: Handle,
    sync: Sync,
    bulk: str,
) -> None:
    """Rows change and go behind the pass and ahead of it, and what told of them is loaded while it is under way."""
    fresh = [edit(shop, "add_order") for _ in range(4)]
    for order in fresh:
        about("orders/create", order)
    handle()
    connect = connect_by(
        shopify={"sizes": PageSizes(rows=5, locations=2, levels=4), "exports": ExportLimits(page_rows=5)}
    )
    orders = shop.export(["orders"])["orders"]
    products = shop.export(["products"])["products"]
    customers = [edit(shop, "add_customer") for _ in range(3)]

    def act(unit: Unit, number: int) -> None:
        if number != 1:
            return
        if unit is Unit.ORDERS:
            for order in (orders[0], orders[-1], fresh[0], fresh[-1]):
                about("orders/updated", edit(shop, "update_order", id=order["id"], fields={"note": "gift"}))
            about("orders/create", edit(shop, "add_order"))
        elif unit is Unit.CUSTOMERS:
            for customer in customers:
                about(
                    "customers/create",
                    edit(shop, "update_customer", id=customer["id"], fields={"note": "new"}),
                )
            handle()
            edit(shop, "delete_customer", id=customers[0]["id"])
            about("customers/delete", customers[0])
        elif unit in (Unit.PRODUCTS, Unit.PRODUCT_VARIANTS):
            place = 0 if unit is Unit.PRODUCTS else 1
            for product in (products[place], products[-1 - place]):
                edit(shop, "delete_product", id=product["id"])
                about("products/delete", product)
            changed = edit(shop, "update_product", id=products[3]["id"], fields={"title": "new"})
            about("products/update", changed)
        elif unit is Unit.INVENTORY_LEVELS:
            level = level_of(shop)
            about("inventory_levels/update", edit(shop, "set_quantity", **ends(level), quantity=99))
        handle()

    def interrupted(access: StoreAccess, sleep: Any) -> Any:
        return Interrupted(connect(access, sleep), act)

    summary = sync(
        units=EVERYTHING, force=True, connect=interrupted, run_id="full", load_rows=5, backfill=bulk
    )
    assert (summary.failures, {done.synced for done in summary.units.values()}) == ([], {1})
    assert outcomes(database).keys() == {"handled"}
    proofs = query(database, "SELECT resource, proof FROM sync_states WHERE proof IS NOT NULL")
    assert {row["resource"] for row in proofs} == {
        unit.value for unit in EVERYTHING if unit is not Unit.STORE
    }
    assert sync(units=EVERYTHING, run_id="next").failures == []
    equal(database, sandbox)


@pytest.mark.usefixtures("environment")
def test_the_job_shows_what_it_did(shop: Shop, database: Database, about: Callable[..., None]) -> None:
    about("orders/create", edit(shop, "add_order"))
    about("orders/delete", {"id": "gid://shopify/Order/1"})
    result = execute("handle_webhooks")
    assert result.success
    shown = metadata(result)
    assert {name: shown[name] for name in ("events_handled", "stores", "asks", "rows_asked")} == {
        "events_handled": 2,
        "stores": 1,
        "asks": 1,
        "rows_asked": 1,
    }
    assert 0 < shown["seconds_to_row_p50"] < PATIENCE
    tables = {
        e.materialization.asset_key.to_user_string() for e in result.all_events if e.is_step_materialization
    }
    assert tables == {"orders", "webhook_events"}
