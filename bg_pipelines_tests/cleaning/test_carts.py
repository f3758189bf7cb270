"""Carts: who is abandoned, who expires, and that nobody else is touched."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from bg_pipelines.cleaning import archive
from bg_pipelines.cleaning.carts import CartKeep, sweep, with_money
from bg_pipelines.cleaning.jobs import cart_tasks
from bg_pipelines.cleaning.run import CleaningRun, Summary
from bg_pipelines.database.engine import Database
from bg_pipelines.database.secrets import Cipher
from bg_pipelines_tests.support import KEY, query

JOB = "clean_active_carts"
Clean = Callable[..., Summary]
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def clean(
    database: Database, *, run_id: str = "run", keep: CartKeep | None = None, **options: Any
) -> Summary:
    job_tasks = cart_tasks(keep or CartKeep(), Cipher(KEY))
    options = {"sleep": lambda _: None, **options}
    return CleaningRun(database, JOB, job_tasks, run_id=run_id, **options).run()


def add_cart(
    database: Database,
    external_id: str,
    *,
    idle: timedelta = timedelta(),
    items: int = 1,
    reservations: int = 0,
    store: int = 1,
    abandoned: timedelta | None = None,
    **columns: Any,
) -> None:
    columns = {
        "store_id": store,
        "external_id": external_id,
        "source_updated_at": NOW() - idle,
        "source_created_at": NOW() - idle,
        **({} if abandoned is None else {"abandoned_at": NOW() - abandoned}),
        **columns,
    }
    with database.transaction() as connection:
        connection.execute(
            f"INSERT INTO carts ({', '.join(columns)}) VALUES ({', '.join(['%s'] * len(columns))})",
            list(columns.values()),
        )
        for number in range(items):
            connection.execute(
                "INSERT INTO cart_items (store_id, external_id, source_updated_at, synced_at, cart_external_id, title, quantity)"
                " VALUES (%s, %s, %s, %s, %s, 'a thing', 1)",
                (store, f"{external_id}/{number}", NOW() - idle, NOW() - idle, external_id),
            )
        for _ in range(reservations):
            reserve(connection, external_id, store)


def reserve(
    connection: psycopg.Connection[Any], cart: str, store: int = 1, age: timedelta = timedelta()
) -> None:
    connection.execute(
        "INSERT INTO inventory_reservations (store_id, cart_external_id, inventory_item_external_id, location_external_id, "
        "quantity, created_at) VALUES (%s, %s, 'item', 'place', 2, %s)",
        (store, cart, NOW() - age),
    )


def NOW() -> datetime:  # noqa: N802
    return datetime.now(UTC)


def ids(database: Database, table: str = "carts", column: str = "external_id") -> list[str]:
    return sorted(row[column] for row in query(database, f"SELECT {column} FROM {table}"))


def test_a_cart_without_activity_is_abandoned_gives_its_stock_back_and_is_recorded_once(
    database: Database,
) -> None:
    query(database, "INSERT INTO inventory_levels (store_id, external_id, source_updated_at, inventory_item_external_id, "
          "location_external_id, available, on_hand, committed, incoming) VALUES (1, 'l', now(), 'item', 'place', 10, 10, 0, 0)")  # fmt: skip
    add_cart(database, "idle", idle=3 * HOUR, reservations=1)
    add_cart(database, "live", idle=HOUR, reservations=1)
    [stock] = query(database, "SELECT sellable FROM sellable_stock")
    assert stock["sellable"] == 6
    summary = clean(database)
    assert summary.figures["carts.abandoned"] == 1
    assert [row["cart_external_id"] for row in query(database, "SELECT * FROM inventory_reservations")] == [
        "live"
    ]
    [stock] = query(database, "SELECT sellable FROM sellable_stock")
    assert stock["sellable"] == 8
    [event] = query(database, "SELECT * FROM cart_events")
    assert (event["kind"], event["cart_external_id"]) == ("cart.abandoned", "idle")
    clean(database)
    assert len(query(database, "SELECT * FROM cart_events")) == 1
    # It comes back to life, and is abandoned again.
    query(database, "UPDATE carts SET source_updated_at = now() WHERE external_id = 'idle'")
    clean(database)
    assert len(query(database, "SELECT * FROM cart_events")) == 1


def test_carts_expire_by_kind_with_their_items_and_reservations(database: Database) -> None:
    add_cart(database, "anonymous-old", idle=31 * DAY, items=2, reservations=1)
    add_cart(database, "anonymous", idle=29 * DAY, abandoned=28 * DAY)
    add_cart(database, "customer", idle=89 * DAY, customer_external_id="c", abandoned=88 * DAY)
    add_cart(database, "customer-old", idle=91 * DAY, customer_external_id="c")
    add_cart(database, "empty-old", idle=7 * HOUR, items=0)
    add_cart(database, "empty", idle=5 * HOUR, items=0)
    add_cart(database, "bought-old", idle=31 * DAY, completed_at=NOW() - 31 * DAY)
    add_cart(database, "bought", idle=31 * DAY, completed_at=NOW() - 29 * DAY)
    add_cart(database, "deleted-old", deleted_at=NOW() - 8 * DAY)
    add_cart(database, "deleted", idle=99 * DAY, deleted_at=NOW() - 6 * DAY)
    for state in ("pending", "authorised", "paid"):
        add_cart(database, state, idle=999 * DAY, reservations=1, payment_state=state)
    add_cart(database, "settled-old", idle=31 * DAY, payment_state="settled")
    with database.transaction() as connection:
        counted = sweep(connection, "carts", CartKeep(), Cipher(KEY)).count(
            connection, sweep(connection, "carts", CartKeep(), Cipher(KEY)).axis.span(None, None, 1 << 20)
        )
        money, carts = with_money(connection, CartKeep())
    assert (money, [cart.external_id for cart in carts]) == (3, ["pending", "authorised", "paid"])
    summary = clean(database)
    assert ids(database) == sorted(
        ["anonymous", "customer", "empty", "bought", "deleted", "pending", "authorised", "paid"]
    )
    assert set(ids(database, "cart_items", "cart_external_id")) == set(ids(database)) - {"empty"}
    assert ids(database, "inventory_reservations", "cart_external_id") == ["authorised", "paid", "pending"]
    figures = summary.figures
    assert (figures["carts.anonymous"], figures["carts.customer"], figures["carts.empty"]) == (2, 1, 1)
    assert (figures["carts.bought"], figures["carts.deleted"], figures["carts.rows"]) == (1, 1, 6)
    assert figures["carts.bytes"] > 0
    # The dry run had said so, to the row.
    assert {name: counted[name] for name in counted if ".bytes" not in name} == {
        name: figures[name] for name in figures if ".bytes" not in name
    }
    assert clean(database, run_id="again").rows == 0


def test_a_store_may_keep_carts_for_as_long_as_it_says_and_archive_them(database: Database) -> None:
    query(database, "INSERT INTO cart_rules (store_id, anonymous, archive) VALUES (2, '1 day', '1 year')")
    for store in (1, 2):
        add_cart(database, "cart", idle=2 * DAY, items=2, store=store, email="a@example.com", total=7)
    clean(database)
    assert [row["store_id"] for row in query(database, "SELECT store_id FROM carts")] == [1]
    with database.transaction() as connection:
        [row] = archive.read(connection, Cipher(KEY), "carts")
    assert (row["kind"], row["total"], len(row["cart_items"])) == ("anonymous", 7, 2)
    assert "email" not in row
    [held] = query(
        database, "SELECT row_count, expires_at > now() + interval '364 days' AS long FROM archived_rows"
    )
    assert held == {"row_count": 1, "long": True}


def test_what_is_left_behind_goes_and_what_has_a_cart_or_is_young_stays(database: Database) -> None:
    add_cart(database, "live")
    add_cart(database, "bought", idle=3 * HOUR, completed_at=NOW() - 3 * HOUR, reservations=1)
    query(database, "INSERT INTO cart_items (store_id, external_id, source_updated_at, synced_at, cart_external_id, title, quantity) "
          "VALUES (1, 'old', now(), now() - interval '2 days', 'gone', 't', 1), (1, 'young', now(), now(), 'gone', 't', 1)")  # fmt: skip
    with database.transaction() as connection:
        reserve(connection, "gone", age=2 * DAY)
        reserve(connection, "gone")
        reserve(connection, "live", age=99 * DAY)
        for name, expires, seen, cart, customer in (
            ("expired", -HOUR, -HOUR, None, "c"),
            ("live", HOUR, -HOUR, "live", None),
            ("orphan", HOUR, -2 * DAY, "gone", None),
            ("customer", HOUR, -2 * DAY, "gone", "c"),
        ):
            connection.execute(
                "INSERT INTO sessions (id, store_id, cart_external_id, customer_external_id, seen_at, expires_at) "
                "VALUES (%s, 1, %s, %s, %s, %s)",
                (name, cart, customer, NOW() + seen, NOW() + expires),
            )
    clean(database)
    assert ids(database, "cart_items") == ["bought/0", "live/0", "young"]
    assert ids(database, "inventory_reservations", "cart_external_id") == ["gone", "live"]
    assert ids(database, "sessions", "id") == ["customer", "live"]


HISTORY = st.fixed_dictionaries(
    {
        "idle": st.sampled_from([0, 1, 3, 7, 29 * 24, 31 * 24, 89 * 24, 91 * 24]),
        "customer_external_id": st.sampled_from([None, "customer"]),
        "payment_state": st.sampled_from(
            ["none", "none", "none", "pending", "authorised", "paid", "settled"]
        ),
        "bought": st.sampled_from([None, None, 1, 3, 31 * 24]),
        "deleted": st.sampled_from([None, None, None, 24, 8 * 24]),
        "abandoned": st.sampled_from([None, 0, 2]),
        "items": st.integers(0, 2),
        "reservations": st.integers(0, 1),
    }
)


def expires(cart: dict[str, Any]) -> bool:
    """The rules once more, as docs/cleaning.md has them; hours."""
    idle = cart["idle"]
    if cart["payment_state"] in ("pending", "authorised", "paid"):
        return False
    if cart["deleted"] is not None:
        return bool(cart["deleted"] > 7 * 24)
    if cart["bought"] is not None:
        return min(idle, cart["bought"]) > 30 * 24
    if idle > (30 if cart["customer_external_id"] is None else 90) * 24:
        return True
    return cart["items"] == 0 and idle > 6 and not is_abandoned(cart)


def is_abandoned(cart: dict[str, Any]) -> bool:
    return cart["abandoned"] is not None and cart["abandoned"] <= cart["idle"]


def is_live(cart: dict[str, Any]) -> bool:
    """A cart whose reservations nobody may touch."""
    if cart["payment_state"] in ("pending", "authorised", "paid"):
        return True
    if cart["deleted"] is not None:
        return False
    if cart["bought"] is not None:
        return min(cart["idle"], cart["bought"]) <= 2
    if cart["idle"] > 2 and cart["items"]:
        return False
    return not is_abandoned(cart)


# Not shrunk: each try costs a tenth of a second, and histories are small.
@settings(
    max_examples=500 if os.environ.get("BG_TEST_FULL") == "1" else 12,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
@given(histories=st.lists(HISTORY, min_size=1, max_size=40))
def test_of_any_carts_what_has_expired_goes_and_nothing_else(
    database: Database, histories: list[dict[str, Any]]
) -> None:
    query(
        database,
        "TRUNCATE carts, cart_items, inventory_reservations, cart_events, cleaning_tasks, cleaning_results",
    )
    for number, history in enumerate(histories):
        add_cart(
            database,
            str(number),
            idle=history["idle"] * HOUR + timedelta(minutes=1),
            items=history["items"],
            reservations=history["reservations"],
            customer_external_id=history["customer_external_id"],
            payment_state=history["payment_state"],
            completed_at=None
            if history["bought"] is None
            else NOW() - history["bought"] * HOUR - timedelta(minutes=1),
            deleted_at=None if history["deleted"] is None else NOW() - history["deleted"] * HOUR,
            abandoned_at=None if history["abandoned"] is None else NOW() - history["abandoned"] * HOUR,
        )
    summary = clean(database)
    kept = {str(number) for number, history in enumerate(histories) if not expires(history)}
    assert set(ids(database)) == kept
    assert set(ids(database, "cart_items", "cart_external_id")) == {
        n for n in kept if histories[int(n)]["items"]
    }
    assert set(ids(database, "inventory_reservations", "cart_external_id")) == {
        n for n in kept if histories[int(n)]["reservations"] and is_live(histories[int(n)])
    }
    assert summary.figures["carts.rows"] == len(histories) - len(kept)
    again = clean(database, run_id="again")
    assert (again.rows, again.figures["carts.abandoned"]) == (0, 0)
