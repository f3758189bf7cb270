"""`stores set` and `stores remove`: what is named changes or goes, and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from bg_pipelines.database.engine import Database
from bg_pipelines.database.models import Base
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.operations.store_figures import find_stores
from bg_pipelines.operations.stores import NewStore, save_stores
from bg_pipelines.queues import JOB_UNITS, Unit
from bg_pipelines.sandbox import Sandbox
from bg_pipelines.sync import Summary
from bg_pipelines.webhooks.subscriptions import keep_subscriptions
from bg_pipelines_tests.support import CATALOGUE, SALES, query, wait_for
from bg_pipelines_tests.typed import Run, ok, refused, words

TOKEN = "shpat_0123456789abcdef0123456789abcdef"
PUBLIC = "https://hooks.example.com"


@pytest.fixture
def harbor(database: Database, cipher: Cipher) -> int:
    harbor = NewStore("Harbor East", "shopify", "harbor.myshopify.com", token=TOKEN)
    quay = NewStore("quay", "square", "quay", token=TOKEN)
    client = NewStore("pier", "shopify", "pier.myshopify.com", client_id="id-1", client_secret="secret-1")
    save_stores(database, cipher, [harbor, quay, client])
    query(database, "UPDATE sync_states SET next_due_at = now() + interval '1 hour'")
    return 1


def store(database: Database, cipher: Cipher, name: str) -> dict[str, Any]:
    [row] = query(database, "SELECT * FROM stores WHERE name = %s", name)
    return {**row, "credentials": cipher.decrypt(row["credentials"])}


def due(database: Database, name: str) -> int:
    [row] = query(
        database,
        "SELECT count(*) FILTER (WHERE next_due_at <= clock_timestamp()) AS due FROM sync_states y "
        "JOIN stores s ON s.id = y.store_id WHERE s.name = %s",
        name,
    )
    return int(row["due"])


# set


@pytest.mark.usefixtures("harbor")
def test_what_is_named_changes_and_nothing_else(run: Run, database: Database, cipher: Cipher) -> None:
    before = store(database, cipher, "Harbor East")
    assert ok(run("stores", "set", "Harbor East", "--tier", "1")) == (
        "Harbor East: tier: 2 → 1, minutes between syncs: 15 → 5\n"
    )
    assert store(database, cipher, "Harbor East") == {**before, "tier": 1}
    assert ok(run("stores", "set", "Harbor East", "--every", "60")) == (
        "Harbor East: minutes between syncs: 5 → 60\n"
    )
    assert "is so already" in ok(run("stores", "set", "Harbor East", "--every", "60", "--tier", "1"))
    assert ok(run("stores", "set", "Harbor East", "--every", "0", "--name", "Harbor")) == (
        "Harbor East: name: Harbor East → Harbor, minutes between syncs: 60 → 5\n"
    )
    assert store(database, cipher, "Harbor") == {**before, "tier": 1, "name": "Harbor"}
    assert due(database, "Harbor") == 0, "no access changed: nothing is read anew"
    url = "http://127.0.0.1:4010"
    assert ok(run("stores", "set", "Harbor", "--api-url", url)) == (
        f"Harbor: API address: the platform's own → {url}\n"
    )
    assert due(database, "Harbor") == len(Unit)


@pytest.mark.usefixtures("harbor")
def test_a_new_token_frees_what_was_parked_and_is_never_shown(
    run: Run, database: Database, cipher: Cipher
) -> None:
    query(database, "UPDATE sync_states SET next_due_at = NULL, attempts = 3 WHERE store_id = 1")
    result = run("stores", "set", "Harbor East", "--token", "-", typed=f"{TOKEN}-new\n")
    assert "credentials: replaced" in ok(result)
    assert TOKEN not in result.output
    assert store(database, cipher, "Harbor East")["credentials"] == {"access_token": f"{TOKEN}-new"}
    assert due(database, "Harbor East") == len(Unit)
    assert "credentials: replaced" in ok(
        run("stores", "set", "pier", "--client-secret", "-", typed="secret-2\n")
    )
    assert store(database, cipher, "pier")["credentials"] == {
        "client_id": "id-1",
        "client_secret": "secret-2",
    }


@pytest.mark.usefixtures("harbor")
@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (["Harbor Eats", "--tier", "1"], "did you mean 'Harbor East'?"),
        (["Harbor East", "--tier", "4"], "4 is not one of: 1, 2, 3"),
        (["Harbor East", "--every", "7"], "a multiple of 5"),
        (["Harbor East", "--name", "quay"], "is the name of quay already"),
        (["Harbor East", "--name=-x"], "begins with a dash"),
        (["Harbor East", "--token", f"{TOKEN} "], "paste it again"),
        (["Harbor East", "--api-url", "http://far.example.com"], "is not https://"),
        (["quay", "--client-id", "x"], "give token; given: client_id"),
    ],
)
def test_what_add_would_refuse_is_refused_and_nothing_is_changed(
    run: Run, database: Database, typed: list[str], told: str
) -> None:
    before = query(database, "SELECT * FROM stores ORDER BY id")
    message = refused(run("stores", "set", *typed))
    assert told in message
    assert TOKEN not in message
    assert query(database, "SELECT * FROM stores ORDER BY id") == before


def test_nothing_named_is_a_question(run: Run) -> None:
    result = run("stores", "set", "Harbor")
    assert (result.exit_code, "name what is to change" in words(result.output)) == (2, True)


# remove


@pytest.fixture
def two_stores(
    make_sandbox: Callable[..., Sandbox],
    add_shops: Callable[..., list[str]],
    sync: Callable[..., Summary],
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[Sandbox, str, str]:
    """Two shops with all of their rows and subscriptions here."""
    monkeypatch.setenv("BG_PUBLIC_URL", PUBLIC)
    sandbox = make_sandbox(shops=2, variants=12, customers=12)
    left, right = add_shops(sandbox)
    keep = partial(keep_subscriptions, public_url=PUBLIC)
    assert sync(units=(*CATALOGUE, *SALES)).failures == []
    assert sync(units=(Unit.WEBHOOKS,), processes={Unit.WEBHOOKS: keep}).failures == []
    return sandbox, left, right


def of_store(database: Database, name: str) -> dict[str, list[dict[str, Any]]]:
    """Every row of a store."""
    return {
        table.name: query(
            database,
            f"SELECT t.* FROM {table.name} t JOIN stores s ON s.id = t.store_id WHERE s.name = %s ORDER BY t::text",
            name,
        )
        for table in Base.metadata.sorted_tables
        if "store_id" in table.columns
    }


def left_of(database: Database, store_id: int) -> dict[str, int]:
    counts = {
        table.name: query(
            database,
            f"SELECT count(*) AS rows FROM {table.name} WHERE store_id = %s",
            store_id,
        )[0]["rows"]
        for table in Base.metadata.sorted_tables
        if "store_id" in table.columns
    }
    return {table: rows for table, rows in counts.items() if rows}


def subscriptions(sandbox: Sandbox) -> list[int]:
    return [
        sum(len(rows) for rows in shop.subscriptions.of.values()) for shop in sandbox.world.shops.values()
    ]


def test_a_removal_says_what_goes_asks_is_killed_and_goes_on_and_touches_no_other_store(
    run: Run, database: Database, two_stores: tuple[Sandbox, str, str]
) -> None:
    sandbox, name, other = two_stores
    before, own = of_store(database, other), of_store(database, name)
    made = subscriptions(sandbox)[1]
    asked = run("stores", "remove", name, typed="n\n")
    assert asked.exit_code == 1
    assert "customers" in asked.output
    assert of_store(database, name) == own, "who said no keeps all"

    with database.transaction() as connection:  # it gets as far as the customers, and is killed there
        connection.execute("SELECT 1 FROM customers WHERE store_id = 1 FOR UPDATE")
        environment = {**os.environ, "BG_PUBLIC_URL": PUBLIC}
        removing = subprocess.Popen(
            [sys.executable, "-m", "bg_pipelines.cli", "stores", "remove", name, "--yes"], env=environment
        )
        wait_for(lambda: not of_store(database, name)["orders"])
        removing.send_signal(signal.SIGKILL)
        removing.wait()
    assert of_store(database, name)["customers"]
    assert [row.state for row in find_stores(database).stores if row.name == name] == ["being removed"]
    assert "no such store" in refused(run("stores", "resume", name))
    again = ("stores", "add", name, "--domain", next(iter(sandbox.world.shops)), "--token", TOKEN)
    assert "is being removed" in refused(run(*again))

    told = ok(run("stores", "remove", name, "--yes"))
    assert "its removal has begun before and goes on" in told
    assert left_of(database, 1) == {"data_requests": 1}
    assert [row.name for row in find_stores(database).stores] == [other]
    assert of_store(database, other) == before
    assert subscriptions(sandbox) == [0, made]
    assert "no store is named" in refused(run("stores", "remove", name, "--yes"))


def test_orders_that_are_kept_say_what_was_sold_and_not_to_whom(
    run: Run, database: Database, two_stores: tuple[Sandbox, str, str]
) -> None:
    _, name, _ = two_stores
    before = of_store(database, name)
    told = ok(run("stores", "remove", name, "--keep-orders", "--yes"))
    assert "orders, their lines and refunds are kept" in told
    left = left_of(database, 1)
    assert left == {
        **{table: len(before[table]) for table in ("orders", "order_lines", "refunds")},
        "data_requests": 1,
    }
    orders = query(database, "SELECT * FROM orders WHERE store_id = 1 ORDER BY external_id")
    assert {(row["email"], row["phone"], row["note"]) for row in orders} == {(None, None, None)}
    money = {row["external_id"]: row["total"] for row in before["orders"]}
    assert {row["external_id"]: row["total"] for row in orders} == money
    assert "and goes on" not in ok(run("stores", "remove", "erased-1", "--yes"))
    assert left_of(database, 1) == {"data_requests": 2}


def test_a_sync_that_is_under_way_ends_and_brings_nothing_back(
    run: Run,
    database: Database,
    two_stores: tuple[Sandbox, str, str],
    sync: Callable[..., Summary],
) -> None:
    _, name, other = two_stores
    query(database, "UPDATE sync_states SET next_due_at = now(), cursor = '{}', last_full_at = NULL")
    found: list[Summary] = []
    syncing = threading.Thread(
        target=lambda: found.append(sync(units=(*CATALOGUE, *JOB_UNITS["customer_sync"])))
    )
    syncing.start()
    wait_for(
        lambda: (
            query(
                database,
                "SELECT count(*) AS held FROM sync_states WHERE lease_owner IS NOT NULL AND store_id = 1",
            )[0]["held"]
            > 0
        )
    )
    ok(run("stores", "remove", name, "--yes"))
    syncing.join()
    history = {"data_requests", "sync_attempts", "confirmed_rows"}  # how the run ended: no row of the shop's
    assert set(left_of(database, 1)) <= history
    assert of_store(database, other)["customers"]


def test_a_shop_that_is_gone_is_removed_all_the_same(
    run: Run, database: Database, two_stores: tuple[Sandbox, str, str]
) -> None:
    sandbox, name, _ = two_stores
    next(iter(sandbox.world.shops.values())).access.expire_all()
    told = words(ok(run("stores", "remove", name, "--yes")))
    assert "its webhook subscriptions could not be ended: Shopify does not accept the access token" in told
    assert left_of(database, 1) == {"data_requests": 1}
