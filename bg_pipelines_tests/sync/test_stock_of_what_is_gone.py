"""Stock goes with its location and with its variant, at once, and no job brings back what another took away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bg_pipelines.database.engine import Database
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.operations.stores import save_stores
from bg_pipelines.queues import Unit
from bg_pipelines.records import Resource
from bg_pipelines.sandbox import Sandbox
from bg_pipelines.sync import Summary
from bg_pipelines_tests.go_between import GoBetween
from bg_pipelines_tests.platforms.square.conftest import as_store as as_merchant_store
from bg_pipelines_tests.support import as_store, query

Sync = Callable[..., Summary]
LOCATIONS, STOCK, VARIANTS = (Unit.LOCATIONS,), (Unit.INVENTORY_LEVELS,), (Unit.PRODUCT_VARIANTS,)


def held(database: Database, table: str, column: str = "external_id") -> set[str]:
    return {row[column] for row in query(database, f"SELECT {column} FROM {table} WHERE deleted_at IS NULL")}


def without(gone: str) -> Callable[[Any, str, bytes], Any]:
    """Answers as if a row, and what is of it, had been deleted at the vendor."""

    def is_of_it(node: Any) -> bool:
        return isinstance(node, dict) and (
            node.get("id") == gone
            or node.get("location_id") == gone
            or any(
                isinstance(node.get(name), dict) and node[name].get("id") == gone
                for name in ("location", "item")
            )
        )

    def change(content: Any, _path: str, _asked: bytes) -> Any:
        if isinstance(content, list):
            return [change(one, "", b"") for one in content if not is_of_it(one)]
        if not isinstance(content, dict):
            return content
        return {
            # What is asked for by its id is null in its place.
            name: [None if is_of_it(one) else change(one, "", b"") for one in value]
            if name == "rows" and isinstance(value, list)
            else change(value, "", b"")
            for name, value in content.items()
        }

    return change


@pytest.mark.parametrize("platform", ["shopify", "square"])
def test_a_location_that_was_deleted_is_noticed_by_the_next_pass_and_its_stock_goes_with_it(
    make_sandbox: Callable[..., Sandbox], database: Database, cipher: Cipher, sync: Sync, platform: str
) -> None:
    sandbox = make_sandbox(shops=1, variants=20, merchants=1, square_variants=20)
    with GoBetween(sandbox) as between:
        if platform == "shopify":
            [shop] = sandbox.world.shops.values()
            store = as_store(shop, api_url=between.address(shop.api_url))
        else:
            [merchant] = sandbox.world.square_merchants.values()
            store = as_merchant_store(merchant, api_url=between.address(merchant.api_url))
        save_stores(database, cipher, [store])
        assert sync(units=(*LOCATIONS, *STOCK)).failures == []
        gone = min(held(database, "inventory_levels", "location_external_id"))
        others = held(database, "locations") - {gone}
        assert others
        between.change = without(gone)
        asked = len(between.asked)
        query(database, "UPDATE sync_states SET next_due_at = now() - interval '1 s'")
        assert sync(units=LOCATIONS, run_id="incremental").failures == []
        [state] = query(
            database,
            "SELECT last_full_at < last_succeeded_at AS is_incremental FROM sync_states WHERE resource = 'locations'",
        )
        assert state["is_incremental"]
        assert held(database, "locations") == others
        assert held(database, "inventory_levels", "location_external_id") <= others
        assert len(between.asked) - asked <= 3
        # And stays so, whoever reads next.
        for units in (STOCK, LOCATIONS, STOCK):
            query(database, "UPDATE sync_states SET last_full_at = NULL")
            assert sync(units=units, force=True).failures == []
            assert held(database, "inventory_levels", "location_external_id") <= others


def test_stock_of_a_variant_that_is_not_listed_stays_and_that_of_one_that_is_gone_goes(
    make_sandbox: Callable[..., Sandbox], database: Database, cipher: Cipher, sync: Sync
) -> None:
    sandbox = make_sandbox(shops=1, variants=20)
    [shop] = sandbox.world.shops.values()
    variants = sorted(shop.export()[Resource.PRODUCT_VARIANTS.value], key=lambda row: row["id"])
    unlisted = variants[3]["id"]
    with GoBetween(sandbox, without(unlisted)) as between:
        save_stores(database, cipher, [as_store(shop, api_url=between.address(shop.api_url))])
        assert sync(units=(*STOCK, *VARIANTS)).failures == []
        levels = held(database, "inventory_levels")
        changes = set()
        for units in (VARIANTS, STOCK, VARIANTS, STOCK, VARIANTS):
            query(database, "UPDATE sync_states SET last_full_at = NULL")
            assert sync(units=units, force=True).failures == []
            assert held(database, "inventory_levels") == levels
            changes |= {
                row["deleted_at"] for row in query(database, "SELECT deleted_at FROM inventory_levels")
            }
        assert changes == {None}
        # Deleted there with its stock before we ever had it: that is asked for by its id.
        item = next(
            iter(
                held(database, "inventory_levels", "inventory_item_external_id")
                - held(database, "product_variants", "inventory_item_external_id")
            )
        )
        between.change = without(item)
        query(database, "UPDATE sync_states SET last_full_at = NULL")
        between.change = lambda content, path, asked: without(item)(
            without(unlisted)(content, path, asked), path, asked
        )
        assert sync(units=VARIANTS, force=True).failures == []
        assert item not in held(database, "inventory_levels", "inventory_item_external_id")
        assert held(database, "inventory_levels") < levels
