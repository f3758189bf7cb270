"""A customer or a store erased: nothing personal is found anywhere afterwards, and nobody else's row has changed."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from cryptography.fernet import Fernet

from bg_pipelines.customers import editing
from bg_pipelines.database.engine import Database
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.operations.store_figures import find_stores
from bg_pipelines.operations.stores import NewStore, save_stores
from bg_pipelines.privacy.commands import carry_out
from bg_pipelines.privacy.erasure import erase_customer, erase_store
from bg_pipelines.privacy.export import export_customer
from bg_pipelines.privacy.tables import ANSWERS
from bg_pipelines.queues import Unit
from bg_pipelines.records import Customer, Order, Page, Refund, Reject, Resource
from bg_pipelines.sandbox import Sandbox
from bg_pipelines.sync import Summary
from bg_pipelines.sync.loader import Loader
from bg_pipelines.work.queue import clock
from bg_pipelines_tests.privacy.planted import (
    Person,
    add_store,
    everything,
    find,
    find_in_files,
    insert,
    plant,
    plant_store,
    traces,
)
from bg_pipelines_tests.support import SALES, assert_sales_equal_to_source, query, wait_for

ZARA = Person("Zerafinova", 7712345678, "24681357")
OTHER = Person("Ottoline", 8898765432, "97531864")
ELSEWHERE = Person("Ottoline", ZARA.number, "97531864")
"""A customer of another store with the same id there."""
PERSONAL = {name for name, answer in ANSWERS.items() if answer.emptied or answer.searched}
OF_ERASURE = {"data_requests", "erased_rows", "people_queue"}


class Dying(Database):
    """A database whose user is killed before its n-th transaction."""

    def __init__(self, database: Database, after: int) -> None:
        self.engine = database.engine
        self.left = after

    @contextmanager
    def transaction(self) -> Iterator[psycopg.Connection[Any]]:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        with super().transaction() as connection:
            yield connection


@pytest.fixture
def harbor(database: Database, cipher: Cipher) -> int:
    return add_store(database, cipher, "harbor")


def test_after_a_redaction_nothing_of_the_customer_is_found_and_everybody_else_is_as_before(
    database: Database, cipher: Cipher, harbor: int, tmp_path: Path
) -> None:
    quay = add_store(database, cipher, "quay")
    for store, who in ((harbor, OTHER), (quay, ELSEWHERE), (harbor, ZARA)):
        plant(database, cipher, store, who)
    query(
        database,
        "INSERT INTO rejected_rows (store_id, resource, external_id, reason, payload) VALUES (%s, 'orders', 'x', 'r', %s)",
        harbor,
        Fernet(Fernet.generate_key()).encrypt(b"{}"),
    )
    exported = export_customer(database, cipher, tmp_path, harbor, ZARA.id)
    assert exported.path is not None
    assert find_in_files(tmp_path, ZARA.marker.lower()) == [str(exported.path)]
    assert {table for table, _ in find(database, *traces(ZARA))} == {
        *(set(PERSONAL) - {"sessions"}),  # which names them by their id alone
        "person_customers",
        "data_requests",
    }
    before = everything(database)

    request = carry_out(database, harbor, "customers/redact", ZARA.redact(), cipher=cipher, home=tmp_path)

    assert find(database, *traces(ZARA)) == []
    assert find_in_files(tmp_path, *traces(ZARA)) == []
    after = everything(database)
    changed = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    theirs = {key for key, row in before.items() if any(text in row.lower() for text in traces(ZARA))}
    # What the customer's own trigger writes, their person, a cart and a session that only name their id, a payload that nobody can read.
    new = {key for key in changed - theirs if key[0] not in {*OF_ERASURE, "people", "customer_changes"}}
    assert {key[0] for key in new} == {"carts", "rejected_rows", "sessions"}
    assert len(new) == 3
    assert {before[key] for key in changed & theirs if key[0] != "people"}
    others = [key for key, row in before.items() if OTHER.marker.lower() in row.lower()]
    assert len(others) > 40
    assert [key for key in others if before[key] != after[key]] == []
    [done] = query(database, "SELECT * FROM data_requests WHERE id = %s", request)
    assert (done["kind"], done["status"], done["done_by"], done["subject"]) == (
        "erase_customer",
        "done",
        "shopify",
        None,
    )
    assert set(done["result"]) == {*PERSONAL, "person_customers"}
    assert (done["result"]["orders"], done["result"]["carts"], done["result"]["customers"]) == (3, 3, 1)
    [export] = query(database, "SELECT status, file FROM data_requests WHERE kind = 'export'")
    assert export == {"status": "done", "file": None}
    assert query(database, "SELECT count(*) AS n FROM orders WHERE total IS NOT NULL") == [{"n": 9}]
    pending = query(database, "SELECT status, error FROM customer_changes WHERE field = 'note' AND customer_external_id = %s "
                    "AND store_id = %s AND changed_by = 'x'", ZARA.id, harbor)  # fmt: skip
    assert [row["status"] for row in pending] == ["rejected"]
    ignored = query(database, "SELECT reason, next_due_at FROM webhook_events WHERE status = 'ignored'")
    assert {row["reason"] for row in ignored} == {"the customer was erased"}
    assert {row["next_due_at"] for row in ignored} == {None}

    again = carry_out(database, harbor, "customers/redact", ZARA.redact(), cipher=cipher, home=tmp_path)
    assert again == request
    assert everything(database) == after, "the same command again changes nothing"


def test_an_erasure_that_is_killed_before_each_of_its_transactions_is_finished_by_the_next_attempt(
    database: Database, cipher: Cipher, harbor: int, tmp_path: Path
) -> None:
    plant(database, cipher, harbor, ZARA)
    plant(database, cipher, harbor, OTHER)
    before = everything(database)
    for transactions in itertools.count():
        try:
            # By hand, so that what is found by e-mail is known from the first attempt alone.
            erase_customer(
                Dying(database, transactions), cipher, tmp_path, harbor, ZARA.id, by="jane", batch=2
            )
            break
        except KeyboardInterrupt:
            continue
    assert transactions > 10
    carry_out(database, harbor, "customers/redact", ZARA.redact(), cipher=cipher, home=tmp_path)
    assert find(database, *traces(ZARA)) == []
    after = everything(database)
    others = [key for key, row in before.items() if OTHER.marker.lower() in row.lower()]
    assert [key for key in others if before[key] != after[key]] == []
    [done] = query(database, "SELECT status, result FROM data_requests")
    assert done["status"] == "done"
    assert (done["result"]["orders"], done["result"]["customers"]) == (3, 1), "nothing is counted twice"


def test_who_never_had_an_id_is_found_by_e_mail_and_by_the_orders_that_are_named(
    database: Database, cipher: Cipher, harbor: int, tmp_path: Path
) -> None:
    plant(database, cipher, harbor, ZARA)
    payload = {**ZARA.redact(), "customer": {"email": ZARA.email}}
    carry_out(database, harbor, "customers/redact", payload, cipher=cipher, home=tmp_path)
    [named] = query(database, "SELECT email, note FROM orders WHERE external_id = %s", ZARA.orders[2])
    assert named == {"email": None, "note": None}
    left = query(database, "SELECT external_id FROM carts WHERE coalesce(email, phone) IS NOT NULL")
    assert [row["external_id"] for row in left] == [f"{ZARA.number} by phone"], "a phone was not given"


# Nothing comes back


def pages_of(who: Person, updated: str) -> dict[Resource, Page]:
    """What the platform has of them, also as rows that cannot be loaded."""
    mark, at = who.marker, updated
    customer = Customer(
        who.id, at, mark, mark, mark, who.email, True, who.phone, None, f'[{{"city": "{mark}"}}]', [mark], "de", mark,
        "subscribed", at, mark, "subscribed", at, mark, 3, "9.00", "EUR", at,
    )  # fmt: skip
    orders = [
        Order(
            order, at, "#1", owner, None, "web", "open", None, None, False, False, "EUR", "9", "0", "0", "9", None, who.email,
            who.phone, mark, [mark], at, None, None, None, at,
        )
        for order, owner in zip(who.orders, (who.id, who.id, None), strict=True)
    ]  # fmt: skip
    refunds = [
        Refund(f"{order.external_id}/refund", at, order.external_id, None, "1", "EUR", mark, at)
        for order in orders
    ]
    raw = {"id": "new", "customer": {"id": who.id}, "note": mark}
    rejects = [
        Reject("new", "r", raw),
        Reject("a refund", "r", {"id": "a refund", "note": mark}, "refunds"),
        Reject(who.orders[2], "r", {"id": who.orders[2], "note": mark}),
    ]
    unloadable = orders[1]._replace(external_id=f"{who.orders[1]}7", total="not a number")
    return {
        Resource.CUSTOMERS: Page(
            2, [customer], rejects=[Reject(who.id, "r", {"id": who.id, "firstName": mark})]
        ),
        Resource.ORDERS: Page(6, [*orders, unloadable], rejects=rejects, parts={"refunds": list(refunds)}),
    }


def load(
    connection: psycopg.Connection[Any], cipher: Cipher, store: int, pages: dict[Resource, Page]
) -> None:
    for resource, page in pages.items():
        Loader(store, resource, cipher).load(connection, [page], seen_at=clock(connection))


def test_what_the_platform_still_has_is_loaded_without_what_was_erased_however_new_it_is(
    database: Database, cipher: Cipher, harbor: int, tmp_path: Path
) -> None:
    plant(database, cipher, harbor, ZARA)
    carry_out(database, harbor, "customers/redact", ZARA.redact(), cipher=cipher, home=tmp_path)
    for updated in ("2020-01-01T00:00:00Z", "2030-01-01T00:00:00Z"):
        with database.transaction() as connection:
            load(connection, cipher, harbor, pages_of(ZARA, updated))
        assert find(database, *traces(ZARA)) == []
    rows = query(
        database, "SELECT total, source_updated_at FROM orders WHERE external_id = %s", ZARA.orders[0]
    )
    assert [(str(row["total"]), row["source_updated_at"].year) for row in rows] == [("9.0000", 2030)]
    assert query(database, "SELECT count(*) AS n FROM rejected_rows WHERE resource = 'orders' AND reason LIKE 'total%%'") == [
        {"n": 1}
    ]  # fmt: skip


def test_a_page_that_is_being_loaded_while_its_customer_is_erased_leaves_nothing(
    database: Database, cipher: Cipher, harbor: int, tmp_path: Path
) -> None:
    with database.transaction() as connection:
        load(connection, cipher, harbor, pages_of(ZARA, "2026-01-01T00:00:00Z"))
        arguments = (database, cipher, tmp_path, harbor, ZARA.id)
        eraser = threading.Thread(
            target=erase_customer, args=arguments, kwargs={"by": "jane", "orders": ZARA.orders}
        )
        eraser.start()
        waits = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        wait_for(lambda: bool(query(database, waits)))
        assert eraser.is_alive()
    eraser.join(30)
    assert find(database, *traces(ZARA)) == []


def test_an_erased_customer_of_a_shop_stays_so_through_full_passes_proofs_audits_and_edits(
    database: Database,
    cipher: Cipher,
    make_sandbox: Callable[..., Sandbox],
    add_shops: Callable[..., list[str]],
    sync: Callable[..., Summary],
    tmp_path: Path,
) -> None:
    sandbox = make_sandbox(shops=1, variants=10, customers=12)
    [name] = add_shops(sandbox)
    sync(units=SALES)
    [one] = query(
        database,
        "SELECT c.store_id, c.external_id, c.email, c.phone FROM customers c JOIN orders o "
        "ON o.customer_external_id = c.external_id WHERE c.email IS NOT NULL AND c.phone IS NOT NULL LIMIT 1",
    )
    erase_customer(database, cipher, tmp_path, one["store_id"], one["external_id"], by="jane")
    assert find(database, one["email"].lower(), one["phone"][1:]) == []
    for options in ({"units": SALES}, {"units": (Unit.AUDIT,)}):
        assert sync(force=True, stores=(name,), **options).failures == []
        assert find(database, one["email"].lower(), one["phone"][1:]) == []
    assert query(database, "SELECT * FROM audits WHERE different + missing + ahead + gone > 0") == []
    assert_sales_equal_to_source(database, sandbox)
    with pytest.raises(IntegrationError, match="redacted"):
        editing.edit(database, name, one["external_id"], {"note": "x"}, by="jane")


# A whole store


def test_of_an_erased_store_a_bare_row_is_left_and_other_stores_are_as_before(
    database: Database, cipher: Cipher, harbor: int, tmp_path: Path
) -> None:
    quay = add_store(database, cipher, "quay")
    plant(database, cipher, harbor, ZARA)
    plant(database, cipher, quay, ELSEWHERE)
    plant_store(database, cipher, harbor, ZARA.marker)
    plant_store(database, cipher, quay, OTHER.marker)
    export_customer(database, cipher, tmp_path, harbor, ZARA.id)
    query(database, "DELETE FROM webhook_events WHERE store_id IS NULL")  # they are of no store
    deleted = {name for name, answer in ANSWERS.items() if answer.of_store}
    before = everything(database)
    assert {table for table, _ in find(database, ZARA.marker.lower())} >= {
        *(deleted - {"webhook_coverage", "cart_rules"}),
        "stores",
        "incidents",
    }

    payload = {"shop_id": 954889, "shop_domain": "harbor.myshopify.com"}
    for transactions in itertools.count(1):
        try:
            database_ = Dying(database, transactions)
            carry_out(database_, harbor, "shop/redact", payload, cipher=cipher, home=tmp_path)
            break
        except KeyboardInterrupt:
            continue
    assert transactions > 20

    assert find(database, *traces(ZARA)) == []
    assert find_in_files(tmp_path, *traces(ZARA)) == []
    for table in deleted:
        statement = f"SELECT 1 FROM {table} t WHERE {ANSWERS[table].of_store}"
        with database.transaction() as connection:
            assert connection.execute(statement, {"store": harbor}).fetchall() == [], table
    after = everything(database)
    others = [key for key, row in before.items() if OTHER.marker.lower() in row.lower()]
    assert len(others) > 50
    assert [key for key in others if before[key] != after[key]] == []
    [store] = query(database, "SELECT * FROM stores WHERE id = %s", harbor)
    assert (store["name"], store["domain"], store["external_id"]) == (
        f"erased-{harbor}",
        "harbor.myshopify.com",
        None,
    )
    assert cipher.decrypt(store["credentials"]) == {}
    [told] = query(database, "SELECT * FROM incidents WHERE store_id = %s", harbor)
    assert (told["status"], told["notified"], told["subject"]) == (
        "resolved",
        "open",
        f"store erased-{harbor}",
    )
    [request] = query(database, "SELECT * FROM data_requests WHERE kind = 'erase_store'")
    assert (request["status"], request["done_by"]) == ("done", "shopify")
    assert request["result"]["orders"] == 4
    assert [row.name for row in find_stores(database).stores] == ["quay"]


def test_a_shop_that_comes_back_begins_anew(
    database: Database,
    cipher: Cipher,
    make_sandbox: Callable[..., Sandbox],
    add_shops: Callable[..., list[str]],
    sync: Callable[..., Summary],
    tmp_path: Path,
) -> None:
    sandbox = make_sandbox(shops=1, variants=10, customers=12)
    [name] = add_shops(sandbox)
    sync(units=SALES)
    [one] = query(database, "SELECT store_id, external_id FROM customers WHERE email IS NOT NULL LIMIT 1")
    erase_customer(database, cipher, tmp_path, one["store_id"], one["external_id"], by="jane")
    with pytest.raises(IntegrationError, match="is at work, so nothing of it was erased"):
        erase_store(database, cipher, tmp_path, one["store_id"], by="jane")
    assert query(database, "SELECT count(*) > 0 AS held FROM orders") == [{"held": True}]
    query(database, "UPDATE stores SET paused_at = now()")
    erase_store(database, cipher, tmp_path, one["store_id"], by="jane")
    assert sync(units=SALES).done == 0
    add_shops(sandbox)
    assert [(row.name, row.state) for row in find_stores(database).stores] == [(name, "new")]
    assert sync(units=SALES).failures == []
    assert_sales_equal_to_source(database, sandbox)
    [back] = query(database, "SELECT email FROM customers WHERE external_id = %s", one["external_id"])
    assert back == {"email": None}, "who was erased stays so"


# What is refused


@pytest.mark.parametrize(
    ("topic", "change", "told"),
    [
        ("customers/redact", {"shop_domain": "quay.myshopify.com"}, "of another shop than harbor"),
        ("customers/redact", {"data_request": {"id": 1}}, "is not that of this topic"),
        ("shop/redact", {}, "is not that of this topic"),
        ("customers/redact", {"customer": [1]}, "customer: must be an object"),
        ("customers/redact", {"customer": {"id": "x"}}, "id: must be a whole number"),
        ("customers/redact", {"orders_to_redact": ["x"]}, "orders_to_redact: must be a whole number"),
        ("app/uninstalled", {}, "not a command by law"),
    ],
)
def test_a_payload_that_is_another_topic_s_or_another_shop_s_erases_nothing(
    database: Database,
    cipher: Cipher,
    harbor: int,
    tmp_path: Path,
    topic: str,
    change: dict[str, Any],
    told: str,
) -> None:
    plant(database, cipher, harbor, ZARA)
    before = everything(database)
    with pytest.raises(IntegrationError, match=told) as refused:
        carry_out(database, harbor, topic, {**ZARA.redact(), **change}, cipher=cipher, home=tmp_path)
    assert (refused.value.error_type, refused.value.recoverable) == (ErrorType.BAD_DATA, False)
    assert ZARA.marker not in refused.value.message
    assert everything(database) == before


def test_the_request_under_way_is_left_to_whoever_carries_it_out(
    database: Database, cipher: Cipher, harbor: int, tmp_path: Path
) -> None:
    with database.transaction() as connection:
        payload = cipher.encrypt(ZARA.redact())
        given = {"store_id": harbor, "topic": "customers/redact", "webhook_id": "1", "source": "shopify"}
        insert(connection, "webhook_events", {**given, "payload": payload})
    carry_out(database, harbor, "customers/redact", ZARA.redact(), cipher=cipher, home=tmp_path)
    [event] = query(database, "SELECT status, payload FROM webhook_events")
    assert (event["status"], bytes(event["payload"])) == ("pending", payload)


def test_a_store_is_known_again_by_its_domain_and_its_name_is_free(
    database: Database, cipher: Cipher, harbor: int, tmp_path: Path
) -> None:
    erase_store(database, cipher, tmp_path, harbor, by="jane")
    save_stores(database, cipher, [NewStore("harbor", "shopify", "other.myshopify.com", token="t")])
    save_stores(database, cipher, [NewStore("old", "shopify", "harbor.myshopify.com", token="t")])
    assert {row["id"]: row["name"] for row in query(database, "SELECT id, name FROM stores")}[harbor] == "old"
