"""Stock corrections: written once, many in a call, and none holds up another, whatever the platform makes of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bg_pipelines import platforms
from bg_pipelines.database.engine import Database
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.errors import ErrorType
from bg_pipelines.incidents.handling import retry
from bg_pipelines.incidents.reading import list_incidents
from bg_pipelines.queues import Unit
from bg_pipelines.sandbox import Fault, Sandbox, Shop, edit
from bg_pipelines.sync import Summary, SyncRequest, SyncRun
from bg_pipelines_tests.support import assert_equal_to_source, query

MakeSandbox = Callable[..., Sandbox]
AddShops = Callable[[Sandbox], list[str]]
Sync = Callable[..., Summary]
LEVELS = (Unit.INVENTORY_LEVELS,)


def correct(database: Database, item: str, location: str, change_from: int, to: int) -> int:
    return int(
        query(
            database,
            "INSERT INTO inventory_corrections (store_id, inventory_item_external_id, location_external_id, "
            "change_from_quantity, quantity) SELECT id, %s, %s, %s, %s FROM stores RETURNING id",
            item,
            location,
            change_from,
            to,
        )[0]["id"]
    )


def test_stock_corrections_are_applied_once_and_a_stale_one_is_reported_not_forced(
    make_sandbox: MakeSandbox, add_shops: AddShops, sync: Sync, database: Database
) -> None:
    sandbox = make_sandbox(shops=1, variants=20)
    names = add_shops(sandbox)
    sync()
    [shop] = sandbox.world.shops.values()
    levels = query(database, "SELECT * FROM inventory_levels ORDER BY external_id LIMIT 2")
    item, location = "inventory_item_external_id", "location_external_id"
    good, stale = levels
    applied = correct(database, good[item], good[location], good["available"], good["available"] + 5)
    left = correct(database, stale[item], stale[location], stale["available"] + 1, 3)
    unknown = correct(database, "gid://shopify/InventoryItem/1", good[location], 1, 3)
    # The vendor applies the first and the answer is lost: what comes back is a store that failed.
    shop.faults.append(Fault("apply_then_cut", operation="SetQuantities", times=1))
    assert [failure.error.error_type for failure in sync(stores=names).failures] == [ErrorType.CONNECTION]
    summary = sync(stores=names)
    settled = {row["id"]: row for row in query(database, "SELECT * FROM inventory_corrections")}
    assert settled[applied]["status"] == "applied"
    assert (settled[left]["status"], settled[left]["found_quantity"]) == ("stale", stale["available"])
    assert settled[unknown]["status"] == "rejected"
    assert "INVALID_INVENTORY_ITEM" in str(settled[unknown]["error"])
    assert summary.corrections_applied == 1
    assert [report.correction_id for report in summary.corrections_left] == [left, unknown]
    [row] = query(
        database, "SELECT available FROM inventory_levels WHERE external_id = %s", good["external_id"]
    )
    assert row["available"] == good["available"] + 5
    sandbox.world.forget_requests()
    sync(stores=names)
    assert all(request.operation != "SetQuantities" for request in sandbox.world.requests())


def test_a_correction_that_may_not_be_written_waits_and_stock_is_read_all_the_same(
    make_sandbox: MakeSandbox, add_shops: AddShops, sync: Sync, database: Database
) -> None:
    sandbox = make_sandbox(shops=1, variants=20)
    names = add_shops(sandbox)
    [shop] = sandbox.world.shops.values()
    edit(shop, "set_scopes", scopes=["read_inventory", "read_locations", "read_products"])
    waiting = correct(database, "gid://shopify/InventoryItem/1", "gid://shopify/Location/1", 1, 3)
    summary = sync(stores=names)
    assert summary.failures == []
    [left] = summary.corrections_left
    assert (left.correction_id, left.status) == (waiting, "pending")
    assert "write_inventory" in left.message
    assert_equal_to_source(database, sandbox)


@pytest.fixture
def sandbox(make_sandbox: MakeSandbox, add_shops: AddShops) -> Sandbox:
    sandbox = make_sandbox(shops=1, variants=90)
    add_shops(sandbox)
    return sandbox


@pytest.fixture
def shop(sandbox: Sandbox, sync: Sync) -> Shop:
    [shop] = sandbox.world.shops.values()
    edit(shop, "set_budget", maximum=1_000_000, restore=1_000_000)
    assert sync().failures == []
    sandbox.world.forget_requests()
    return shop


def count_everything(database: Database, by: int = 5) -> int:
    """Correct every level that is held by so many pieces; returns how many those are."""
    return len(
        query(
            database,
            "INSERT INTO inventory_corrections (store_id, inventory_item_external_id, location_external_id, "
            "change_from_quantity, quantity) SELECT store_id, inventory_item_external_id, location_external_id, available, "
            "available + %s FROM inventory_levels WHERE deleted_at IS NULL AND available + %s >= 0 RETURNING id",
            by,
            by,
        )
    )


def statuses(database: Database) -> dict[str, int]:
    rows = query(database, "SELECT status, count(*) AS n FROM inventory_corrections GROUP BY status")
    return {row["status"]: row["n"] for row in rows}


def calls(sandbox: Sandbox) -> int:
    return len([request for request in sandbox.world.requests() if request.operation == "SetQuantities"])


def test_one_that_the_platform_refuses_with_a_400_is_rejected_and_holds_up_none_behind_it(
    shop: Shop, sandbox: Sandbox, sync: Sync, database: Database
) -> None:
    refused = correct(database, "nonsense", "gid://shopify/Location/1", 1, 2)
    count = count_everything(database)
    summary = sync(units=LEVELS, stores=[shop.domain.split(".")[0]])
    assert summary.failures == []
    assert statuses(database) == {"rejected": 1, "applied": count}
    [incident] = list_incidents(database)
    assert (incident.error_type, incident.needs_attention) == ("bad_data", True)
    assert f"stock correction {refused}" in incident.message
    assert "INVALID_VARIABLE" in incident.message
    sync(units=LEVELS, stores=[shop.domain.split(".")[0]])
    assert list_incidents(database) != [], "a person resolves it"
    assert_equal_to_source(database, sandbox)


def test_without_the_right_to_write_they_are_parked_under_one_incident_and_retried_from_there(
    shop: Shop, sandbox: Sandbox, sync: Sync, database: Database
) -> None:
    name = shop.domain.split(".")[0]
    count = count_everything(database)
    edit(shop, "set_scopes", scopes=["read_inventory", "read_locations", "read_products"])
    assert sync(units=LEVELS, stores=[name]).failures == []
    [incident] = list_incidents(database)
    assert (incident.error_type, incident.parked) == ("scopes", count)
    assert "write_inventory" in incident.message
    assert calls(sandbox) == 1, "one call tells"
    sync(units=LEVELS, stores=[name])
    assert calls(sandbox) == 1, "what is parked is not sent"
    edit(shop, "set_scopes", scopes=["read_inventory", "read_locations", "read_products", "write_inventory"])
    assert retry(database, [incident.id], by="Grace").rows == count
    assert sync(units=LEVELS).changed >= count, "the store is due"
    assert statuses(database) == {"applied": count}
    assert list_incidents(database) == []


def test_two_hundred_and_fifty_go_in_one_call(
    shop: Shop, sandbox: Sandbox, sync: Sync, database: Database
) -> None:
    count = count_everything(database)
    assert 250 < count <= 500
    sync(units=LEVELS, stores=[shop.domain.split(".")[0]])
    assert (statuses(database), calls(sandbox)) == ({"applied": count}, 2)
    assert_equal_to_source(database, sandbox)


def test_a_store_with_many_gives_its_worker_back_after_a_call(
    shop: Shop, sandbox: Sandbox, database: Database, cipher: Cipher, sync: Sync
) -> None:
    class Hurried(SyncRun):
        def turn_is_over(self, began: float) -> bool:
            return True

    count = count_everything(database)
    query(database, "UPDATE sync_states SET next_due_at = clock_timestamp() - interval '1 minute'")
    summary = Hurried(
        database,
        cipher,
        SyncRequest(LEVELS, max_minutes=0.02),
        run_id="hurried",
        connect=lambda access, sleep: platforms.connect(access, api_version="2026-07", sleep=sleep),
        log=lambda _: None,
    ).run()
    assert summary.given_back >= 1
    assert summary.corrections_applied in (250, count)
    sync(units=LEVELS)
    assert statuses(database) == {"applied": count}


def test_of_one_level_an_earlier_correction_goes_first(
    shop: Shop, sandbox: Sandbox, sync: Sync, database: Database
) -> None:
    [level] = query(
        database, "SELECT * FROM inventory_levels WHERE deleted_at IS NULL ORDER BY external_id LIMIT 1"
    )
    place = level["inventory_item_external_id"], level["location_external_id"]
    had = level["available"]
    correct(database, *place, had, had + 3)
    correct(database, *place, had + 3, had + 1)
    sync(units=LEVELS, stores=[shop.domain.split(".")[0]])
    assert statuses(database) == {"applied": 2}
    [after] = query(
        database, "SELECT available FROM inventory_levels WHERE external_id = %s", level["external_id"]
    )
    assert after["available"] == had + 1
