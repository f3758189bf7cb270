"""Whatever stands in whichever field of a row: the run goes on, and each row is held as it is or rejected with its column.

One shop through a go-between that puts nasty values into its rows, read by pages, by ids and as a bulk file. Each seed is
one way to deal the values out to rows and fields; BG_TEST_FULL=1 tries many.
"""

from __future__ import annotations

import logging
import os
import random
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bg_pipelines.database.engine import Database
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.operations.stores import NewStore, save_stores
from bg_pipelines.platforms.shopify.bulk import ExportLimits
from bg_pipelines.queues import JOB_UNITS, Unit
from bg_pipelines.records import PARTS, Resource
from bg_pipelines.sandbox import Sandbox, edit
from bg_pipelines.sync import Summary
from bg_pipelines_tests.go_between import GoBetween
from bg_pipelines_tests.nasty import ALL, traces
from bg_pipelines_tests.platforms.square.conftest import as_store as as_merchant_store
from bg_pipelines_tests.support import as_store, connect_by, query

Sync = Callable[..., Summary]
Node = dict[str, Any]
IS_FULL = os.environ.get("BG_TEST_FULL") == "1"
SEEDS = range(1, 41) if IS_FULL else (1,)
UNITS = tuple(Unit(resource.value) for resource in Resource)
TABLES = (*(resource.value for resource in Resource), *(part for parts in PARTS.values() for part in parts))
PERSONAL = ("customer_changes",)
"""Holds values of customers by its purpose, see privacy/tables.py."""
# What tells who a row is, which page it is of or whether there is more: not a value of the row.
IDENTITY = re.compile(
    r"(^|\.)(id|__parentId|__typename|uid|type|catalog_object_id|location_id|pageInfo.*|cursor|nodes)$"
)


def key_of(node: Node) -> str | None:
    if isinstance(node.get("id"), str):
        return str(node["id"])
    item, place = node.get("catalog_object_id"), node.get("location_id")
    return f"{item}@{place}" if "calculated_at" in node else None


def rows_in(content: Any) -> Iterator[Node]:
    """Every object in an answer that is known by an id."""
    if isinstance(content, list):
        for one in content:
            yield from rows_in(one)
    elif isinstance(content, dict):
        if key_of(content):
            yield content
        for value in content.values():
            yield from rows_in(value)


def fields_of(node: Any, path: str = "") -> Iterator[str]:
    """The fields of a row, and those within them that are of no other row."""
    for name, value in node.items() if isinstance(node, dict) else enumerate(node):
        if isinstance(value, dict) and key_of(value) and isinstance(node, list):
            continue
        if not IDENTITY.search(f"{path}{name}"):
            yield f"{path}{name}"
        if isinstance(value, dict | list) and not (isinstance(value, dict) and key_of(value)):
            yield from fields_of(value, f"{path}{name}.")


class Spoiler:
    """Puts one nasty value into one field of each of some rows; the same in every answer that has the row."""

    def __init__(self, seed: int, ids: set[str]) -> None:
        self.random = random.Random(seed)
        self.ids = ids
        self.dealt: dict[str, tuple[str, str] | None] = {}

    def __call__(self, content: Any, _path: str, _asked: bytes) -> Any:
        for node in list(rows_in(content)):
            key = key_of(node) or ""
            # A row has a time or a quantity; else it is only named.
            if key in self.ids and node.keys() & {
                "updatedAt",
                "updated_at",
                "calculated_at",
                "createdAt",
                "quantity",
            }:
                if key not in self.dealt:
                    self.dealt[key] = self._deal(node)
                if dealt := self.dealt[key]:
                    self._put(node, *dealt)
        return content

    def _deal(self, node: Node) -> tuple[str, str] | None:
        field, name = self.random.choice(sorted(fields_of(node))), self.random.choice(sorted(ALL))
        says_gone = (field, ALL[name]) in [("isActive", False), ("is_deleted", True)]
        return None if says_gone or self.random.random() < 0.4 else (field, name)

    def _put(self, node: Node, field: str, name: str) -> None:
        *holders, last = field.split(".")
        holder: Any = node
        for one in holders:
            holder = (
                holder[int(one)]
                if isinstance(holder, list)
                else holder.get(one)
                if isinstance(holder, dict)
                else None
            )
        if isinstance(holder, dict) and last in holder:
            holder[last] = ALL[name]
        elif isinstance(holder, list):
            holder[int(last)] = ALL[name]


@pytest.fixture
def sandbox(make_sandbox: Callable[..., Sandbox]) -> Sandbox:
    made = make_sandbox(
        shops=1,
        variants=60,
        customers=60,
        orders_per_customer=1,
        merchants=1,
        square_variants=60,
        square_customers=60,
    )
    [shop] = made.world.shops.values()
    edit(shop, "set_budget", maximum=1_000_000, restore=1_000_000)
    edit(shop, "set_bulk_seconds", seconds=0)
    return made


def stores_of(sandbox: Sandbox, between: GoBetween, platform: str) -> list[NewStore]:
    if platform == "square":
        [merchant] = sandbox.world.square_merchants.values()
        return [as_merchant_store(merchant, api_url=between.address(merchant.api_url))]
    [shop] = sandbox.world.shops.values()
    return [as_store(shop, api_url=between.address(shop.api_url))]


def held(database: Database, table: str) -> dict[str, Node]:
    """Rows by id. To read them at all is the half of it."""
    return {
        row["external_id"]: row for row in query(database, f"SELECT * FROM {table} WHERE deleted_at IS NULL")
    }


def everything_said(database: Database) -> str:
    """All tables but those of source rows and of what is known to be personal, as text."""
    tables = query(
        database,
        "SELECT table_name AS name FROM information_schema.tables WHERE table_schema = 'public' AND table_type = 'BASE TABLE'",
    )
    said = [
        str(row)
        for table in (one["name"] for one in tables)
        if table not in (*TABLES, *PERSONAL)
        for row in query(database, f"SELECT * FROM {table}")
    ]
    return "\n".join(said)


DERIVED = ("phone", "phone_given", "status", "currency", "email_consent")


def changed_texts(row: Node, now: Node, value: Any) -> Node:
    """Texts that a value has brought into a row and that are not what it says, as far as its letters go."""
    named = value.get("id", "") if isinstance(value, dict) else value
    letters = letters_of(named) if isinstance(named, str) else ""
    return {
        name: text
        for name, text in now.items()
        if isinstance(text, str)
        and text != row[name]
        and name not in ("phone", "phone_given", "status", "currency")
        if letters_of(text) not in letters and (value or isinstance(value, str))
    }


def letters_of(text: str) -> str:
    return "".join(filter(str.isalnum, text.lower()))


WAYS = [("shopify", "pages"), ("shopify", "bulk file"), ("square", "pages")]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("platform", "way"), WAYS)
def test_a_nasty_value_in_any_field_costs_at_most_its_row(
    sandbox: Sandbox,
    database: Database,
    cipher: Cipher,
    sync: Sync,
    caplog: pytest.LogCaptureFixture,
    platform: str,
    way: str,
    seed: int,
) -> None:
    caplog.set_level(logging.INFO)
    said: list[str] = []
    connect = connect_by(
        shopify={
            "exports": ExportLimits(from_rows=10 if way == "bulk file" else 10**9, looks_seconds=(0.01,))
        }
    )
    with GoBetween(sandbox) as between:
        save_stores(database, cipher, stores_of(sandbox, between, platform))
        options: dict[str, Any] = {"units": UNITS, "log": said.append, "connect": connect}
        assert sync(**options).failures == []
        clean = {table: held(database, table) for table in TABLES}
        between.change = spoiler = Spoiler(seed, {key for rows in clean.values() for key in rows})
        query(database, "UPDATE sync_states SET last_full_at = NULL, cursor = '{}'")
        for table in TABLES if seed % 2 else ():
            query(database, f"DELETE FROM {table}")  # read into empty tables, or over what is held
        failures = sync(force=True, **options).failures
        assert [failure.error for failure in failures] == []
        query(database, "UPDATE sync_states SET next_due_at = now() WHERE resource = 'audit'")
        audited = sync(**{**options, "units": JOB_UNITS["drift_audit"]}, job="drift_audit", sample=500)
    assert [failure.error for failure in audited.failures] == []
    assert {found.resource: found.fields for found in audited.audits if found.drifted} == {}
    assert sum(found.sampled for found in audited.audits) > 0
    rejected = query(database, "SELECT resource, external_id, reason FROM rejected_rows")
    ids = {table: {row["external_id"] for row in rejected if row["resource"] == table} for table in TABLES}
    for table in TABLES:
        now = held(database, table)
        whole = (
            {row["order_external_id"] for row in clean[table].values()}
            if table in PARTS[Resource.ORDERS]
            else set()
        )
        for external_id, row in clean[table].items():
            if external_id not in now:
                assert external_id in ids[table] or row.get("order_external_id") in ids["orders"], (
                    table,
                    external_id,
                )
            elif dealt := spoiler.dealt.get(external_id):
                assert changed_texts(row, now[external_id], ALL[dealt[1]]) == {}, (table, external_id, dealt)
            elif not (whole and spoiler.dealt.get(row["order_external_id"])):
                unequal = {name for name in row if row[name] != now[external_id][name]} - {"synced_at"}
                assert unequal <= ({"source_updated_at", "currency"} if whole else set()), (
                    table,
                    external_id,
                )
    assert rejected
    nameless = [row["reason"] for row in rejected if not re.match(r"[A-Za-z_][\w.\[\]]*: ", row["reason"])]
    assert nameless == []
    assert traces("\n".join([everything_said(database), *said, caplog.text])) == []


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("platform", ["shopify", "square"])
def test_a_nasty_id_costs_at_most_its_row(
    sandbox: Sandbox, database: Database, cipher: Cipher, sync: Sync, platform: str, seed: int
) -> None:
    rng = random.Random(seed)
    dealt: dict[str, Any] = {}
    # Each once: rows of one id are one row.
    left = list({repr(ALL[name])[:200]: ALL[name] for name in ALL if name != "number: 5,000 digits"}.values())
    rng.shuffle(left)

    def change(content: Any, _path: str, _asked: bytes) -> Any:
        for node in list(rows_in(content)):
            key = str(key_of(node))
            if node.keys() & {"updatedAt", "updated_at", "calculated_at", "quantity"}:
                if key not in dealt:
                    dealt[key] = left.pop() if left and rng.random() < 0.2 else None
                if dealt[key] is not None:
                    node["catalog_object_id" if "calculated_at" in node else "id"] = dealt[key]
        return content

    with GoBetween(sandbox) as between:
        save_stores(database, cipher, stores_of(sandbox, between, platform))
        assert sync(units=UNITS).failures == []
        clean = {table: held(database, table) for table in TABLES}
        between.change = change
        failures = sync(units=UNITS, force=True).failures
        assert [failure.error for failure in failures] == []
    for resource in Resource:
        missing = clean[resource].keys() - held(database, resource).keys()
        assert not {
            key for key in missing if dealt.get(key) is None and resource is not Resource.INVENTORY_LEVELS
        }
    assert query(database, "SELECT 1 FROM rejected_rows")
