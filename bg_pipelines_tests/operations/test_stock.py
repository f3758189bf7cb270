"""Stock corrections: what a person types, what is kept of it, and what they are told."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bg_pipelines.database.engine import Database
from bg_pipelines.operations import stock
from bg_pipelines.operations.stores import NewStore, save_stores
from bg_pipelines.records import Resource
from bg_pipelines.sandbox import Sandbox
from bg_pipelines_tests.support import query
from bg_pipelines_tests.typed import Run, ok, refused, words

ITEM = "gid://shopify/InventoryItem/"
PLACE = "gid://shopify/Location/"
HEADER = "store,item,location,from,to,reason\n"
TEE = ("--store", "harbor", "--item", "TEE-S", "--location", "Quay Street")


@pytest.fixture
def harbor(database: Database, cipher: Any, run: Run) -> Database:
    """Stores harbor and pier, synced and not due; harbor has TEE-S and TEE-M at two locations, 12 and 30 of each."""
    shops = [NewStore(name, "shopify", f"{name}.myshopify.com", token="t") for name in ("harbor", "pier")]
    save_stores(database, cipher, shops)
    query(
        database, "UPDATE sync_states SET next_due_at = now() + interval '1 hour', last_succeeded_at = now()"
    )
    for number, name in ((7, "Quay Street"), (8, "Old Mill")):
        query(
            database,
            "INSERT INTO locations (store_id, external_id, source_updated_at, name, active, fulfills_online_orders) "
            "SELECT id, %s, now(), %s, true, true FROM stores WHERE name = 'harbor'",
            f"{PLACE}{number}",
            name,
        )
    for number, sku in ((41, "TEE-S"), (42, "TEE-M")):
        query(
            database,
            "INSERT INTO product_variants (store_id, external_id, source_updated_at, product_external_id, "
            "inventory_item_external_id, title, sku, position, currency) "
            "SELECT id, %s, now(), '1', %s, 'x', %s, 1, 'EUR' FROM stores WHERE name = 'harbor'",
            str(number),
            f"{ITEM}{number}",
            sku,
        )
        for place, available in ((7, 12), (8, 30)):
            query(
                database,
                "INSERT INTO inventory_levels (store_id, external_id, source_updated_at, inventory_item_external_id, "
                "location_external_id, available, on_hand, committed, incoming) "
                "SELECT id, %s, now(), %s, %s, %s, 0, 0, 0 FROM stores WHERE name = 'harbor'",
                f"{number}@{place}",
                f"{ITEM}{number}",
                f"{PLACE}{place}",
                available,
            )
    return database


def kept(database: Database) -> list[tuple[Any, ...]]:
    rows = query(
        database,
        "SELECT s.name, inventory_item_external_id AS item, location_external_id AS place, change_from_quantity, "
        "quantity, reason, created_by FROM inventory_corrections c JOIN stores s ON s.id = store_id ORDER BY c.id",
    )
    return [
        (
            row["name"],
            row["item"].rpartition("/")[2],
            row["place"].rpartition("/")[2],
            *list(row.values())[3:],
        )
        for row in rows
    ]


def due(database: Database) -> set[tuple[str, str]]:
    rows = query(
        database,
        "SELECT s.name, resource FROM sync_states y JOIN stores s ON s.id = y.store_id WHERE next_due_at <= clock_timestamp()",
    )
    return {(row["name"], row["resource"]) for row in rows}


def test_one_correction_is_kept_and_its_store_s_stock_is_due_now(run: Run, harbor: Database) -> None:
    told = ok(
        run("stock", "correct", *TEE, "--from", "11", "--to", "9", "--reason", "shrinkage", "--by", "jane")
    )
    assert told.startswith("1  harbor  TEE-S at Quay Street: 11 -> 9\n1 correction pending;")
    assert kept(harbor) == [("harbor", "41", "7", 11, 9, "shrinkage", "jane")]
    assert due(harbor) == {("harbor", "inventory_levels")}


@pytest.mark.parametrize("item", ["TEE-M", "tee-m", f"{ITEM}42", "42"])
@pytest.mark.parametrize("location", ["Old Mill", "old mill", f"{PLACE}8", "8"])
def test_items_and_locations_are_known_by_name_and_by_id(
    run: Run, harbor: Database, item: str, location: str
) -> None:
    ok(run("stock", "correct", "--store", "harbor", "--item", item, "--location", location, "--to", "0"))
    assert [row[1:5] for row in kept(harbor)] == [("42", "8", 30, 0)]


def test_a_quantity_that_was_not_given_is_what_is_held_once_what_is_pending_is_applied(
    run: Run, harbor: Database
) -> None:
    ok(run("stock", "correct", *TEE, "--to", "9"))
    ok(run("stock", "correct", *TEE, "--to", "5"))
    assert [row[3:5] for row in kept(harbor)] == [(12, 9), (9, 5)]
    told = ok(run("stock", "correct", *TEE, "--to", "5"))
    assert told.startswith("0 corrections pending, 1 quantity already as counted;")
    assert len(kept(harbor)) == 2


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (("--store", "harbr"), "no store is named 'harbr'; did you mean 'harbor'?"),
        (("--item", "TEA-S"), "item: no item has the SKU or id 'TEA-S'; did you mean 'TEE-S'?"),
        (
            ("--location", "Key Street"),
            "no location has the name or id 'Key Street'; did you mean 'Quay Street'?",
        ),
        (("--reason", "shrinkge"), "did you mean 'shrinkage'?"),
        (("--to", "-1"), "to: -1 is not from 0 to 1,000,000,000"),
        (("--store", "pier"), "no item has the SKU or id 'TEE-S'"),
        (("--by", " "), "by: say who makes the correction"),
    ],
)
def test_what_is_near_missed_is_answered_with_the_nearest(
    run: Run, harbor: Database, changes: tuple[str, str], told: str
) -> None:
    assert told in refused(run("stock", "correct", *TEE, "--to", "9", *changes))
    assert (kept(harbor), due(harbor)) == ([], set())


def test_an_sku_of_two_items_needs_an_id(run: Run, harbor: Database) -> None:
    query(harbor, "UPDATE product_variants SET sku = 'TEE-S'")
    told = refused(run("stock", "correct", *TEE, "--to", "9"))
    assert f"'TEE-S' is more than one item; give an id: {ITEM}41 or {ITEM}42" in told


def test_an_item_that_is_not_stocked_there_is_refused(run: Run, harbor: Database) -> None:
    query(harbor, "UPDATE inventory_levels SET deleted_at = now() WHERE external_id = '41@7'")
    assert "'TEE-S' is not stocked at 'Quay Street'" in refused(run("stock", "correct", *TEE, "--to", "9"))


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ((), "give --store, --item, --location, --to, or a FILE"),
        (TEE, "give --to, or a FILE"),
        (("counts.csv", "--to", "9"), "give FILE, or --store, --item, --location, --to; not both"),
    ],
)
def test_what_is_not_said_clearly_is_asked_for(run: Run, typed: tuple[str, ...], told: str) -> None:
    result = run("stock", "correct", *typed)
    assert (result.exit_code, told in words(result.output)) == (2, True)


# A file


def test_a_file_is_kept_as_a_whole_and_what_is_as_counted_is_left_out(
    run: Run, harbor: Database, tmp_path: Path
) -> None:
    file = tmp_path / "counts.csv"
    file.write_text(
        f"{HEADER}harbor,TEE-S,Quay Street,11,9,\nharbor,TEE-M,7,,12,\nharbor,42,Old Mill,,28,damaged\n"
    )
    looked = ok(run("stock", "correct", str(file), "--dry-run"))
    assert "2 corrections to make, nothing was changed, 1 quantity already as counted" in looked
    assert (kept(harbor), due(harbor)) == ([], set())
    told = ok(run("stock", "correct", str(file), "--reason", "cycle_count_available", "--by", "jane"))
    assert "2 corrections pending, 1 quantity already as counted" in told
    assert kept(harbor) == [
        ("harbor", "41", "7", 11, 9, "cycle_count_available", "jane"),
        ("harbor", "42", "8", 30, 28, "damaged", "jane"),
    ]


def test_a_file_with_faults_is_refused_with_every_one_and_its_line(
    run: Run, harbor: Database, tmp_path: Path
) -> None:
    file = tmp_path / "counts.csv"
    file.write_text(
        HEADER + "harbor,TEE-S,Quay Street,12,9,\n"
        "harbr,TEE-S,Quay Street,,9,\n"
        "harbor,TEA-S,Qay Street,,9,\n"
        "harbor,TEE-M,Old Mill,,nine,\n"
        "harbor,TEE-M,,,9,\n"
        "harbor,41,7,,8,\n"
        "harbor,TEE-M,Quay Street,,9,,,x\n"
    )
    message = refused(run("stock", "correct", str(file)))
    assert message.startswith("7 faults, nothing was changed:\n")
    assert [(line, column) for line, column in re.findall(r"^  line (\d), (\w+)", message, re.MULTILINE)] == [
        ("3", "store"), ("4", "item"), ("4", "location"), ("5", "to"), ("6", "location"), ("7", "item"), ("8", "line"),
    ]  # fmt: skip
    assert "'41' at this location is already on line 2" in message
    assert (kept(harbor), due(harbor)) == ([], set())


def test_a_thousand_lines_are_kept_together(run: Run, harbor: Database, tmp_path: Path) -> None:
    query(
        harbor,
        "WITH made AS (INSERT INTO product_variants (store_id, external_id, source_updated_at, product_external_id, "
        "inventory_item_external_id, title, sku, position, currency) SELECT s.id, 'v' || n, now(), '1', 'i' || n, 'x', "
        "'CAP-' || n, 1, 'EUR' FROM generate_series(1, 1000) n, stores s WHERE s.name = 'harbor' RETURNING *) "
        "INSERT INTO inventory_levels (store_id, external_id, source_updated_at, inventory_item_external_id, "
        "location_external_id, available, on_hand, committed, incoming) "
        f"SELECT store_id, external_id, now(), inventory_item_external_id, '{PLACE}7', 1, 1, 0, 0 FROM made",
    )
    file = tmp_path / "counts.csv"
    file.write_text(HEADER + "".join(f"harbor,CAP-{n},Quay Street,,{n + 1},\n" for n in range(1, 1001)))
    told = ok(run("stock", "correct", str(file)))
    assert "and 980 more\n1,000 corrections pending" in told
    assert [row[4] for row in kept(harbor)] == list(range(2, 1002))


# What became of them


def test_corrections_are_listed_with_what_became_of_them_and_why(
    run: Run, harbor: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    file = [("TEE-S", "Quay Street"), ("TEE-S", "Old Mill"), ("TEE-M", "Quay Street"), ("TEE-M", "Old Mill")]
    made = [stock.NewCorrection("harbor", item, location, 1) for item, location in file]
    stock.correct(harbor, made, by="jane")
    query(
        harbor,
        "INSERT INTO incidents (fingerprint, needs_attention, error_type, severity, source, subject, message, job) "
        "VALUES ('x', true, 'scopes', 'high', 'shopify', 'store harbor', 'x', 'inventory_sync')",
    )
    for statement in (
        "status = 'stale', found_quantity = 10, next_due_at = NULL WHERE id = 1",
        "status = 'rejected', error = '{\"code\": \"INVALID_LOCATION\"}', next_due_at = NULL WHERE id = 2",
        'incident_id = 1, next_due_at = NULL, last_error = \'{"message": "grant write_inventory"}\' WHERE id = 3',
    ):
        query(harbor, f"UPDATE inventory_corrections SET {statement}")
    listed = words(ok(run("stock", "list")))
    for told in (
        "TEE-S Quay Street 12 1 stale the platform has 10; count again jane",
        "TEE-S Old Mill 30 1 rejected INVALID_LOCATION jane",
        "TEE-M Quay Street 12 1 parked incident 1: grant write_inventory jane",
        "TEE-M Old Mill 30 1 pending jane",
    ):
        assert told in listed
    assert [row.id for row in stock.list_corrections(harbor, status="parked")] == [3]
    assert [row.id for row in stock.list_corrections(harbor, store="harbor", status="pending")] == [4]
    assert ok(run("stock", "list", "--store", "pier")) == "no corrections\n"
    assert "did you mean 'harbor'?" in refused(run("stock", "list", "--store", "harbr"))
    assert "did you mean 'parked'?" in refused(run("stock", "list", "--status", "praked"))


def test_of_a_paused_store_corrections_wait_and_it_is_said(run: Run, harbor: Database) -> None:
    ok(run("stores", "pause", "harbor"))
    assert "store harbor is paused" in ok(run("stock", "correct", *TEE, "--to", "9"))


def test_a_correction_that_was_typed_is_in_the_shop_after_the_next_sync(
    run: Run,
    database: Database,
    make_sandbox: Callable[..., Sandbox],
    add_shops: Callable[..., list[str]],
    sync: Callable[..., Any],
) -> None:
    sandbox = make_sandbox(shops=1, variants=2)
    [name] = add_shops(sandbox)
    sync()
    [level, *_] = query(
        database,
        "SELECT sku, l.location_external_id AS place, l.external_id, available FROM inventory_levels l "
        "JOIN product_variants USING (store_id, inventory_item_external_id) ORDER BY l.external_id",
    )
    counted = str(level["available"] + 3)
    told = run(
        "stock",
        "correct",
        "--store",
        name,
        "--item",
        level["sku"],
        "--location",
        level["place"],
        "--to",
        counted,
    )
    assert "1 correction pending" in ok(told)
    sync()
    [row] = stock.list_corrections(database)
    assert (row.status, row.to_quantity) == ("applied", level["available"] + 3)
    [after] = query(
        database, "SELECT available FROM inventory_levels WHERE external_id = %s", level["external_id"]
    )
    assert after["available"] == level["available"] + 3


class Interrupting:
    """A store's platform; what is `typed` comes while its stock is being read."""

    def __init__(self, platform: Any, typed: Callable[[], Any]) -> None:
        self._platform, self._typed = platform, typed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._platform, name)

    def pages(self, resource: Resource, **options: Any) -> Any:
        if resource is Resource.INVENTORY_LEVELS:
            self._typed()
        return self._platform.pages(resource, **options)


def test_a_correction_that_is_typed_while_its_store_is_at_work_is_sent_before_that_run_ends(
    run: Run,
    database: Database,
    make_sandbox: Callable[..., Sandbox],
    add_shops: Callable[..., list[str]],
    sync: Callable[..., Any],
    connect_stores: Callable[..., Any],
) -> None:
    [name] = add_shops(make_sandbox(shops=1, variants=2))
    sync()
    [level, *_] = query(
        database,
        "SELECT inventory_item_external_id AS item, location_external_id AS place, available FROM inventory_levels",
    )
    given = stock.NewCorrection(name, level["item"], level["place"], level["available"] + 3)

    def connect(*args: Any, **options: Any) -> Any:
        return Interrupting(connect_stores(*args, **options), lambda: next(typed, lambda: None)())

    typed = iter([lambda: stock.correct(database, [given], by="jane")])
    sync(force=True, connect=connect)
    assert [row.status for row in stock.list_corrections(database)] == ["applied"]
    assert (name, "inventory_levels") not in due(database)
