"""A visit that finds nothing new costs one call and writes next to nothing; whatever is new, it finds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from bg_pipelines import platforms
from bg_pipelines.database.engine import Database
from bg_pipelines.errors import ErrorType
from bg_pipelines.platforms.shopify.platform import ShopifyPlatform
from bg_pipelines.queues import JOB_UNITS, Unit
from bg_pipelines.sandbox import Fault, Sandbox, edit
from bg_pipelines.sandbox.shopify.shop import Shop
from bg_pipelines.sync import Summary
from bg_pipelines_tests.support import CATALOGUE, Scripted, assert_equal_to_source, page, query

Sync = Callable[..., Summary]
UNITS = (*CATALOGUE, *JOB_UNITS["customer_sync"])


class Quiet:
    """A store of which everything is held, and the last pass found nothing new."""

    def __init__(self, sandbox: Sandbox, name: str, database: Database, sync: Sync) -> None:
        self.sandbox = sandbox
        self.database = database
        [self.shop] = sandbox.world.shops.values()
        self._visit = lambda **options: sync(units=UNITS, stores=(name,), **options)
        self._visit()
        self._visit()
        assert self.visit() == ["Look"]

    def visit(self, **options: Any) -> list[str]:
        """What a visit calls, which fails nowhere."""
        assert self.summary(**options).failures == []
        return self.calls()

    def calls(self) -> list[str]:
        """Of what kinds the last calls were; all looks are one."""
        operations = [str(request.operation) for request in self.sandbox.world.requests()]
        return ["Look" if operation.startswith("LookAt") else operation for operation in operations]

    def summary(self, **options: Any) -> Summary:
        self.sandbox.world.forget_requests()
        return self._visit(**options)


@pytest.fixture
def quiet(
    make_sandbox: Callable[..., Sandbox],
    add_shops: Callable[[Sandbox], list[str]],
    sync: Sync,
    database: Database,
) -> Quiet:
    sandbox = make_sandbox(shops=1, variants=12, customers=5)
    [name] = add_shops(sandbox)
    return Quiet(sandbox, name, database, sync)


def test_it_is_one_call_and_leaves_neither_an_attempt_nor_a_claim(quiet: Quiet) -> None:
    attempts = "SELECT count(*) AS n FROM sync_attempts"
    [before] = query(quiet.database, attempts)
    [began] = query(quiet.database, "SELECT clock_timestamp() AS at")
    summary = quiet.summary()
    assert quiet.calls() == ["Look"]
    assert {unit: found.synced for unit, found in summary.units.items()} == dict.fromkeys(UNITS, 1)
    assert query(quiet.database, attempts) == [before]
    states = query(
        quiet.database, "SELECT * FROM sync_states WHERE resource = ANY(%s)", [unit.value for unit in UNITS]
    )
    assert all(state["last_succeeded_at"] > began["at"] < state["next_due_at"] for state in states)
    assert {state["lease_owner"] for state in states} == {None}


def first(shop: Shop, table: str) -> str:
    return str(shop.export()[table][0]["id"])


CHANGES: dict[str, Callable[[Shop], Any]] = {
    "a product": lambda shop: edit(
        shop, "update_product", id=first(shop, "products"), fields={"title": "New"}
    ),
    "a product more": lambda shop: edit(shop, "add_product"),
    "a product less": lambda shop: edit(shop, "delete_product", id=first(shop, "products")),
    "a variant": lambda shop: edit(
        shop, "update_variant", id=first(shop, "product_variants"), fields={"price": "7.00"}
    ),
    "a location": lambda shop: edit(
        shop, "rename_location", id=first(shop, "locations"), name="Harbour street"
    ),
    "a location more": lambda shop: edit(shop, "add_location", name="Pier"),
    "the shop": lambda shop: edit(shop, "update_shop", fields={"name": "Harbour"}),
    "a stock level": lambda shop: edit(
        shop,
        "set_quantity",
        inventory_item_id=shop.export()["inventory_levels"][0]["item"]["id"],
        location_id=shop.export()["inventory_levels"][0]["location"]["id"],
        name="available",
        quantity=77,
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_has_changed_is_found_by_the_next_visit(quiet: Quiet, what: str) -> None:
    CHANGES[what](quiet.shop)
    called = quiet.visit()
    assert called[0] == "Look"
    assert len(called) > 1
    assert_equal_to_source(quiet.database, quiet.sandbox)
    shop = quiet.shop.export()["shop"]
    assert query(quiet.database, "SELECT shop_name FROM stores") == [{"shop_name": shop["name"]}]


@pytest.mark.parametrize("kind", ["access_denied", "internal_error", "half_json", "missing_page_info"])
def test_a_look_that_fails_for_what_may_be_one_of_its_parts_hides_nothing(quiet: Quiet, kind: str) -> None:
    quiet.shop.faults.append(Fault(kind, operation="Look"))
    CHANGES["a product"](quiet.shop)
    assert set(quiet.visit()) > {"Look", "Products", "Customers", "Orders"}
    assert_equal_to_source(quiet.database, quiet.sandbox)


@pytest.mark.parametrize(
    ("kind", "error"),
    [("unauthorized", ErrorType.CREDENTIALS), ("locked", ErrorType.SHOP_LOCKED)],
)
def test_a_store_that_is_out_of_reach_is_asked_once(quiet: Quiet, kind: str, error: ErrorType) -> None:
    quiet.shop.faults.append(Fault(kind))
    summary = quiet.summary()
    assert quiet.calls() == ["Look"]
    [failure] = summary.failures
    assert (failure.error.error_type, failure.units) == (error, list(UNITS))
    # And as soon as it answers, everything is looked at again.
    quiet.shop.faults.clear()
    query(quiet.database, "UPDATE circuits SET probe_at = clock_timestamp() WHERE opened_at IS NOT NULL")
    quiet.visit()
    states = query(quiet.database, "SELECT DISTINCT attempts, lease_owner FROM sync_states")
    assert states == [{"attempts": 0, "lease_owner": None}]


def test_a_look_that_fails_as_nobody_expected_is_no_fault_of_the_run(
    quiet: Quiet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def surprise(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(ShopifyPlatform, "look", surprise)
    CHANGES["a product"](quiet.shop)
    assert "Products" in quiet.visit()
    assert_equal_to_source(quiet.database, quiet.sandbox)


def test_a_unit_whose_state_a_newer_program_wrote_fails_alone(quiet: Quiet) -> None:
    query(quiet.database, "UPDATE sync_states SET cursor = '{\"version\": 9}' WHERE resource = 'orders'")
    summary = quiet.summary()
    [failure] = summary.failures
    assert (failure.error.error_type, failure.units) == (ErrorType.CONFIGURATION, ["orders"])
    assert summary.units[Unit.CUSTOMERS].synced == 1


@pytest.mark.parametrize(
    ("held", "change"), [("products", None), ("products", "a product"), ("orders", "a product")]
)
def test_a_unit_whose_row_somebody_holds_is_looked_at_once_and_left(
    quiet: Quiet, database_url: str, held: str, change: str | None
) -> None:
    said: list[str] = []
    if change:
        CHANGES[change](quiet.shop)
    with psycopg.connect(database_url.replace("+psycopg", "")) as somebody:

        def hold(access: Any, sleep: Any) -> Any:
            somebody.execute("SELECT FROM sync_states WHERE resource = %s FOR UPDATE", (held,))
            return platforms.connect(access, api_version="2026-07", sleep=sleep)

        summary = quiet.summary(connect=hold, log=said.append)
        somebody.rollback()
    assert summary.failures == []
    assert quiet.calls()[0] == "Look"
    assert quiet.calls().count("Look") == 1
    assert any("could not be settled" in line or "1 due store was not taken" in line for line in said)
    due = {
        row["resource"]
        for row in query(quiet.database, "SELECT resource FROM sync_states WHERE next_due_at < now()")
    }
    assert held in due
    if change and held == "orders":
        assert "Products" in quiet.calls(), "what others hold keeps no other unit from being read"
        assert_equal_to_source(quiet.database, quiet.sandbox)
    assert quiet.visit()[0] == "Look"
    assert_equal_to_source(quiet.database, quiet.sandbox)


def test_a_look_that_finds_nothing_writes_each_unit_s_row_once(quiet: Quiet) -> None:
    query(quiet.database, "CREATE TABLE written (resource text)")
    query(
        quiet.database,
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN INSERT INTO written VALUES (new.resource); RETURN new; END $$",
    )
    query(
        quiet.database,
        "CREATE TRIGGER note BEFORE UPDATE ON sync_states FOR EACH ROW EXECUTE FUNCTION note()",
    )
    quiet.visit()
    written = [row["resource"] for row in query(quiet.database, "SELECT resource FROM written")]
    # The first makes what is asked for due.
    assert sorted(written) == sorted([*UNITS, *UNITS])


def test_what_happened_to_a_unit_during_the_look_at_it_is_not_undone(quiet: Quiet) -> None:
    later = "2099-01-01 00:00:00+00"

    def meanwhile(access: Any, sleep: Any) -> Any:
        query(quiet.database, f"UPDATE sync_states SET next_due_at = '{later}' WHERE resource = 'orders'")
        query(
            quiet.database,
            "UPDATE sync_states SET lease_owner = 'x', lease_expires_at = now() + interval '1 minute' "
            "WHERE resource = 'products'",
        )
        query(quiet.database, "TRUNCATE visited_units")  # as PostgreSQL does when it recovers from a crash
        return platforms.connect(access, api_version="2026-07", sleep=sleep)

    assert quiet.summary(connect=meanwhile).failures == []
    states = {
        row["resource"]: row
        for row in query(
            quiet.database,
            f"SELECT resource, lease_owner, next_due_at = '{later}' AS later, next_due_at < clock_timestamp() AS due "
            "FROM sync_states",
        )
    }
    assert states["orders"]["later"]
    assert (states["products"]["lease_owner"], states["products"]["due"]) == ("x", True)
    assert not states["product_variants"]["due"]


def test_everything_is_read_again_once_a_day_and_when_a_person_wants_it(quiet: Quiet) -> None:
    assert len(quiet.visit(force=True)) > len(UNITS) - 1
    quiet.visit()
    assert quiet.visit() == ["Look"]
    query(quiet.database, "UPDATE sync_states SET last_full_at = last_full_at - interval '1 day'")
    assert {"Products", "ProductVariants", "Customers", "Orders", "InventoryLevels"} <= set(quiet.visit())


def test_a_full_pass_in_which_nothing_changed_writes_to_no_row(quiet: Quiet) -> None:
    def versions() -> list[Any]:
        return [
            query(quiet.database, f"SELECT ctid::text, xmin::text, xmax::text FROM {table} ORDER BY ctid")
            for table in ("products", "product_variants", "inventory_levels", "customers", "orders")
        ]

    before = versions()
    quiet.visit(force=True)
    assert versions() == before
    assert query(quiet.database, "SELECT * FROM confirmed_rows") == []


def test_a_full_pass_whose_notes_are_lost_deletes_nothing_and_begins_again(
    make_sandbox: Callable[..., Sandbox],
    add_shops: Callable[[Sandbox], list[str]],
    database: Database,
    sync: Sync,
) -> None:
    """PostgreSQL empties an unlogged table when it recovers from a crash."""
    [name] = add_shops(make_sandbox(shops=1, variants=1))

    def run(*steps: Any) -> Summary:
        return sync(
            units=(Unit.PRODUCTS,),
            stores=(name,),
            force=True,
            load_rows=2,
            connect=lambda *_: Scripted(list(steps)),
        )

    everything = (page(0, 1, resume="a", source_count=6), page(2, 3, resume="b"), page(4, 5, source_count=6))
    run(*everything)

    def crash() -> None:
        query(database, "TRUNCATE confirmed_rows")

    [failure] = run(everything[0], everything[1], crash, everything[2]).failures
    assert failure.error.error_type is ErrorType.COUNT_MISMATCH
    assert "recovers from a crash" in failure.error.message
    alive = "SELECT count(*) AS n FROM products WHERE deleted_at IS NULL"
    assert query(database, alive) == [{"n": 6}]
    assert run(*everything).failures == []
    assert query(database, alive) == [{"n": 6}]
