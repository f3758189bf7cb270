"""One person across stores: who is matched, who never is, why, and that all of it can be undone."""

from __future__ import annotations

import threading
import tracemalloc
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from bg_pipelines import people, records
from bg_pipelines.cli.app import app
from bg_pipelines.database import load
from bg_pipelines.database.engine import Database
from bg_pipelines.errors import IntegrationError
from bg_pipelines.people.grouping import Decided, Member, group
from bg_pipelines.people.keys import MOST
from bg_pipelines.people.matching import match_batch
from bg_pipelines.platforms.phones import normalise
from bg_pipelines.records import Customer
from bg_pipelines.sandbox import Sandbox
from bg_pipelines.sync import deletions
from bg_pipelines_tests.support import KEY

STORES = ("harbor", "quay", "pier")
CUSTOMER: dict[str, Any] = {
    "first_name": "Ada", "last_name": "Moore", "company": None, "email": None, "email_verified": True,
    "phone": None, "email_consent": None, "deleted_at": None,
}  # fmt: skip
ADA, PHONE = "ada@example.com", "+442079460123"
# `stores` and decisions are emptied for each test of the room.
EVERYTHING = """
    DELETE FROM customers; DELETE FROM orders; DELETE FROM refunds; DELETE FROM people; DELETE FROM person_customers;
    DELETE FROM people_queue; ALTER SEQUENCE people_id_seq RESTART;
    INSERT INTO stores (name, platform, domain, credentials)
    SELECT name, 'shopify', name || '.myshopify.com', '' FROM unnest(ARRAY['harbor', 'quay', 'pier']) AS name"""


@pytest.fixture
def shop(database: Database) -> Database:
    """A database with three stores (1 harbor, 2 quay, 3 pier) and nothing else."""
    with database.transaction() as connection:
        connection.execute(EVERYTHING)
    return database


def put(database: Database, store: int, external_id: str, **values: Any) -> None:
    """A customer as its store has it now: Ada Moore, unless said otherwise."""
    with database.transaction() as connection:
        put_in(connection, store, external_id, **values)


def put_in(connection: psycopg.Connection[Any], store: int, external_id: str, **values: Any) -> None:
    row = {**CUSTOMER, **values}
    connection.execute(
        f"INSERT INTO customers (store_id, external_id, source_updated_at, source_created_at, addresses, tags, {', '.join(row)}) "
        f"VALUES (%s, %s, now(), now(), '[]', '{{}}', {', '.join(['%s'] * len(row))}) "
        f"ON CONFLICT (store_id, external_id) DO UPDATE SET {', '.join(f'{c} = excluded.{c}' for c in row)}",
        (store, external_id, *row.values()),
    )


def ids(database: Database) -> dict[str, int]:
    """Which person each customer is, by `STORE/CUSTOMER`."""
    with database.transaction() as connection:
        rows = connection.execute(
            "SELECT name || '/' || customer_external_id, person_id FROM person_customers JOIN stores ON stores.id = store_id"
        ).fetchall()
        # A person is there if and only if somebody is it.
        assert {row[1] for row in rows} == {i for (i,) in connection.execute("SELECT id FROM people")}
    return dict(rows)


def persons(database: Database) -> set[frozenset[str]]:
    groups = defaultdict(set)
    for customer, person in ids(database).items():
        groups[person].add(customer)
    return {frozenset(group) for group in groups.values()}


def together(*groups: str) -> set[frozenset[str]]:
    return {frozenset(each.split()) for each in groups}


def test_the_same_verified_email_in_two_stores_is_one_person_however_it_is_spelled(shop: Database) -> None:
    put(shop, 1, "a", email=ADA)
    put(shop, 2, "b", email="  Ada@Example.COM ", first_name="A.")
    put(shop, 3, "c", email="ada+shop@example.com")
    put(shop, 3, "d", email="a.da@example.com")
    counts = people.match(shop)
    assert persons(shop) == together("harbor/a quay/b", "pier/c", "pier/d")
    assert (counts.looked_at, counts.linked, counts.moved, counts.left) == (4, 4, 0, 0)


def test_an_email_that_one_store_has_not_verified_matches_nobody(shop: Database) -> None:
    put(shop, 1, "a", email=ADA)
    put(shop, 2, "b", email=ADA, email_verified=False)
    people.match(shop)
    assert persons(shop) == together("harbor/a", "quay/b")
    put(shop, 2, "b", email=ADA)
    people.match(shop)
    assert persons(shop) == together("harbor/a quay/b")


def test_a_chain_of_email_and_phone_is_one_person_and_why_tells_each_step(shop: Database) -> None:
    put(shop, 1, "a", email=ADA)
    put(shop, 2, "b", email=ADA, phone=PHONE)
    put(shop, 3, "c", phone=PHONE)
    people.match(shop)
    assert persons(shop) == together("harbor/a quay/b pier/c")
    assert people.why(shop, "pier", "c") == [
        "customer c of store pier is person 1",
        "customer c of store pier: matched because it has the same phone as customer b of store quay",
        "customer b of store quay: matched because it has the same verified e-mail as customer a of store harbor",
        "customer a of store harbor: the first we know of this person",
        "e-mail: it has none",
        "phone: 2 customers have it, all of them this person",
    ]
    assert [(link.store, link.customer) for link in people.customers_of(shop, 1)] == [
        ("harbor", "a"), ("quay", "b"), ("pier", "c"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "email",
    ["noemail@example.com", "No-Email+17@example.com", "guest3@example.com", "n/a@example.com", "info@shop.example",
     "ada@harbor.myshopify.com", "ada@noemail.com", "ada@till.invalid", "ada@home", "ada@@example.com"],
)  # fmt: skip
def test_a_placeholder_email_matches_nobody(shop: Database, email: str) -> None:
    put(shop, 1, "a", email=email)
    put(shop, 2, "b", email=email)
    people.match(shop)
    assert persons(shop) == together("harbor/a", "quay/b")
    assert (
        people.why(shop, "quay", "b")[-2]
        == "e-mail: matches nobody: it is a placeholder, or of a store itself"
    )


@pytest.mark.parametrize("phone", ["+15550000000", "+441111111", "+4930999999999", "+12121234567", "+4401"])
def test_a_made_up_phone_matches_nobody(shop: Database, phone: str) -> None:
    put(shop, 1, "a", phone=phone)
    put(shop, 2, "b", phone=phone)
    people.match(shop)
    assert persons(shop) == together("harbor/a", "quay/b")


@pytest.mark.parametrize(
    ("one", "other"),
    [("+44 20 7946 0123 ext. 12", "020 7946 0123 x34"), ("02079460123 #5", "020 7946 0123;ext=6")],
)
def test_two_extensions_of_a_switchboard_are_not_one_person(shop: Database, one: str, other: str) -> None:
    for store, text in ((1, one), (2, other)):
        phone, phone_given = normalise(text, "GB")
        assert phone == PHONE
        put(shop, store, "a", phone=phone, phone_given=phone_given)
    put(shop, 3, "the-number-itself", phone=PHONE)
    people.match(shop)
    assert len(persons(shop)) == 3
    assert people.why(shop, "quay", "a")[-1] == "phone: matches nobody: it is made up, or has an extension"


@pytest.mark.parametrize("text", ["020 7946 0123", "+44 (0)20 7946-0123", "tel: +44 20 7946 0123"])
def test_a_phone_in_national_form_matches_as_any(shop: Database, text: str) -> None:
    phone, phone_given = normalise(text, "GB")
    put(shop, 1, "a", phone=phone, phone_given=phone_given)
    put(shop, 2, "b", phone=PHONE)
    people.match(shop)
    assert len(persons(shop)) == 1


@pytest.mark.parametrize("key", [{"phone": PHONE}, {"email": ADA}], ids=["phone", "email"])
def test_what_two_customers_of_a_store_share_matches_nobody_until_one_gives_it_up(
    shop: Database, key: dict[str, str]
) -> None:
    put(shop, 2, "elsewhere", **key)
    put(shop, 3, "and-there", **key)
    people.match(shop)
    assert persons(shop) == together("quay/elsewhere pier/and-there")
    put(shop, 1, "a", **key)
    put(shop, 1, "b", first_name="Ben", **key)
    people.match(shop)
    assert persons(shop) == together("quay/elsewhere", "pier/and-there", "harbor/a", "harbor/b")
    assert "two of one store without the same name" in " ".join(people.why(shop, "quay", "elsewhere"))
    put(shop, 1, "b", first_name="Ben")
    people.match(shop)
    assert persons(shop) == together("quay/elsewhere pier/and-there harbor/a", "harbor/b")


def test_the_same_name_twice_in_a_store_is_one_person_but_no_name_is_no_name(shop: Database) -> None:
    put(shop, 1, "a", phone=PHONE)
    put(shop, 1, "b", phone=PHONE, first_name=" ADA", last_name="moore ")
    put(shop, 2, "c", phone="+442079460999", first_name=None, last_name=None)
    put(shop, 2, "d", phone="+442079460999", first_name=None, last_name=None)
    people.match(shop)
    assert persons(shop) == together("harbor/a harbor/b", "quay/c", "quay/d")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Zo\u00eb Norm", "Zoe\u0308 Norm"),
        ("Norm O'Case", "Norm O\u2019Case"),
        ("Norm O'Case", "NORM O\u02bccase"),
        ("Anne-Marie Norm", "Anne\u2010Marie\u00a0 Norm"),
        ("Jos\u00e9 Norm", "\u200bJose\u0301 Norm\ufeff"),
        ("\uff2e\uff4f\uff52\uff4d Case", "Norm Case"),
    ],
)
def test_names_that_read_the_same_do_not_make_a_phone_a_shared_one(
    shop: Database, one: str, other: str
) -> None:
    for store, external_id, name in ((1, "a", one), (1, "b", other), (2, "c", one)):
        put(shop, store, external_id, phone="+12125550177", first_name=name)
    people.match(shop)
    assert persons(shop) == together("harbor/a harbor/b quay/c")


def test_an_email_in_another_form_of_unicode_is_the_same(shop: Database) -> None:
    put(shop, 1, "a", email="zo\u00eb@example.com")
    put(shop, 2, "b", email="zoe\u0308@example.com")
    people.match(shop)
    assert persons(shop) == together("harbor/a quay/b")


@pytest.mark.parametrize(
    "name",
    [("Walk-in", "Customer"), ("WALK IN", None), (None, "walkin"), ("Customer", "Walk-In 17"), ("Cash", "Sale"), ("N/A", "-"),
     ("Guest", ""), ("POS Customer", None), ("Test", "Test"), ("anonymous", None), (".", ".")],
)  # fmt: skip
def test_a_name_that_is_none_makes_nobody_of_a_shop_s_phone_however_many_have_it(
    shop: Database, name: tuple[str | None, str | None]
) -> None:
    first_name, last_name = name
    for number in range(5):
        put(shop, 3, f"w{number}", phone=PHONE, first_name=first_name, last_name=last_name)
    put(shop, 1, "real", phone=PHONE, first_name="Eve", last_name="Stone")
    people.match(shop)
    assert len(persons(shop)) == 6


@pytest.mark.parametrize("name", [("Ann", "Guest"), ("Johnny", "Cash"), ("李", "伟"), ("Ø", "Å")])
def test_a_name_with_such_a_word_in_it_or_in_another_script_is_a_name(
    shop: Database, name: tuple[str, str]
) -> None:
    for external_id in "ab":
        put(shop, 1, external_id, phone=PHONE, first_name=name[0], last_name=name[1])
    people.match(shop)
    assert persons(shop) == together("harbor/a harbor/b")


def test_a_phone_of_more_customers_than_one_person_has_matches_nobody(shop: Database) -> None:
    with shop.transaction() as connection:
        for number in range(MOST):
            put_in(connection, number % 3 + 1, f"c{number}", phone=PHONE)
    people.match(shop)
    assert len(persons(shop)) == 1
    put(shop, 1, "one-more", phone=PHONE)
    people.match(shop)
    assert len(persons(shop)) == MOST + 1


def test_a_phone_does_not_join_two_customers_of_a_store_with_different_emails_nor_pick_one_of_them(
    shop: Database,
) -> None:
    put(shop, 1, "a", email=ADA, phone=PHONE)
    put(shop, 1, "b", email="ada.work@example.com", phone=PHONE)
    put(shop, 2, "c", phone=PHONE)
    people.match(shop)
    assert persons(shop) == together("harbor/a", "harbor/b", "quay/c")
    assert "different verified e-mails" in people.why(shop, "quay", "c")[-1]
    # Nor by a chain of two phones and an e-mail.
    put(shop, 1, "b", email="ada.work@example.com", phone="+442079460999")
    put(shop, 2, "c", email="c@example.com", phone=PHONE)
    put(shop, 3, "d", email="c@example.com", phone="+442079460999")
    people.match(shop)
    assert persons(shop) == together("harbor/a", "harbor/b", "quay/c pier/d")


def test_who_is_deleted_or_redacted_leaves_and_the_person_keeps_its_number_while_one_customer_stays(
    shop: Database,
) -> None:
    for store, external_id in ((1, "a"), (2, "b"), (3, "c")):
        put(shop, store, external_id, email=ADA)
        people.match(shop)
    assert set(ids(shop).values()) == {1}
    put(shop, 1, "a", email=ADA, deleted_at=datetime.now(UTC))
    counts = people.match(shop)
    assert ids(shop) == {"quay/b": 1, "pier/c": 1}
    assert counts.left == 1
    put(shop, 2, "b", email=None, phone=None)
    people.match(shop)
    assert ids(shop)["pier/c"] == 1, "the one with the e-mail goes on being the person"
    assert ids(shop)["quay/b"] != 1
    put(shop, 2, "b", email="x", email_consent="redacted")
    put(shop, 3, "c", email=None, first_name=None, last_name=None)
    counts = people.match(shop)
    assert ids(shop) == {}
    assert counts.people_gone == 2
    assert "redacted" in people.why(shop, "pier", "c")[0]


def test_who_has_nothing_but_an_address_is_somebody_until_that_is_gone_too(shop: Database) -> None:
    put(shop, 1, "a", first_name=None, last_name=None)
    people.match(shop)
    assert ids(shop) == {}
    for addresses, expected in (('[{"city": "Ghent"}]', {"harbor/a": 1}), ("[]", {})):
        with shop.transaction() as connection:
            connection.execute("UPDATE customers SET addresses = %s", (addresses,))
        people.match(shop)
        assert ids(shop) == expected


def test_an_email_that_changes_and_changes_back_gives_the_same_people_again(shop: Database) -> None:
    put(shop, 1, "a", email=ADA)
    put(shop, 2, "b", email=ADA)
    people.match(shop)
    before = state(shop)
    put(shop, 2, "b", email="b@example.com")
    people.match(shop)
    assert ids(shop) == {"harbor/a": 1, "quay/b": 2}
    put(shop, 2, "b", email=ADA)
    people.match(shop)
    assert state(shop) == before
    # Back before anybody looked.
    put(shop, 2, "b", email="b@example.com")
    put(shop, 2, "b", email=ADA)
    people.match(shop)
    assert state(shop) == before


def test_when_two_people_become_one_the_older_stays(shop: Database) -> None:
    put(shop, 3, "old", email=ADA)
    people.match(shop)
    put(shop, 1, "new", phone=PHONE)
    people.match(shop)
    put(shop, 2, "both", email=ADA, phone=PHONE)
    counts = people.match(shop)
    assert set(ids(shop).values()) == {1}
    assert (counts.linked, counts.moved, counts.people_gone) == (1, 1, 1)


def test_a_store_that_comes_to_have_the_domain_of_an_email_makes_a_placeholder_of_it(shop: Database) -> None:
    put(shop, 1, "a", email="orders.desk@lido.myshopify.com")
    put(shop, 2, "b", email="orders.desk@lido.myshopify.com")
    people.match(shop)
    assert len(persons(shop)) == 1
    with shop.transaction() as connection:
        connection.execute("UPDATE stores SET domain = 'lido.myshopify.com' WHERE id = 3")
    people.match(shop)
    assert len(persons(shop)) == 2


def test_joining_and_splitting_are_explained_and_undone(shop: Database) -> None:
    put(shop, 1, "a", email=ADA)
    put(shop, 2, "b", phone=PHONE)
    put(shop, 3, "gid://shopify/Customer/77", phone=PHONE)
    people.match(shop)
    before = state(shop)
    joined = people.join(shop, ("harbor", "a"), ("pier", "77"), by="jane")
    assert (joined.person_id, joined.other_person_id) == (1, 1)
    assert len(persons(shop)) == 1
    assert "joined with customer a of store harbor by jane on " in people.why(shop, "pier", "77")[1]
    people.undo(shop, joined.id, by="joe")
    assert state(shop) == before
    split = people.split(shop, ("quay", "b"), ("pier", "77"), by="jane")
    assert persons(shop) == together("harbor/a", "quay/b", "pier/gid://shopify/Customer/77")
    assert "somebody split them" in people.why(shop, "quay", "b")[-1]
    people.undo(shop, split.id, by="joe")
    assert state(shop) == before


def test_whom_people_joined_with_one_who_is_deleted_is_alone_until_that_one_is_back(shop: Database) -> None:
    put(shop, 1, "a")
    put(shop, 2, "b")
    put(shop, 3, "c")
    people.join(shop, ("harbor", "a"), ("quay", "b"), by="jane")
    people.join(shop, ("harbor", "a"), ("pier", "c"), by="jane")
    joined = state(shop)
    put(shop, 1, "a", deleted_at=datetime.now(UTC))
    people.match(shop)
    assert persons(shop) == together("quay/b", "pier/c")
    assert people.why(shop, "quay", "b")[1] == "customer b of store quay: the first we know of this person"
    put(shop, 1, "a")
    people.match(shop)
    assert len(persons(shop)) == 1
    assert [row[4:7] for row in state(shop)] == [row[4:7] for row in joined]


@pytest.mark.parametrize("stays", ["harbor/a", "quay/b", "pier/c"])
def test_of_two_who_are_split_the_second_leaves_and_the_rest_stays_with_the_first(
    shop: Database, stays: str
) -> None:
    for store, name in ((1, "a"), (2, "b"), (3, "c")):
        put(shop, store, name, email=ADA)
    everyone = ["harbor/a", "quay/b", "pier/c"]
    leaves = everyone[everyone.index(stays) - 1]
    people.split(shop, tuple(stays.split("/")), tuple(leaves.split("/")), by="jane")  # type: ignore[arg-type]
    assert persons(shop) == together(leaves, " ".join(name for name in everyone if name != leaves))


def test_a_split_holds_against_everything_that_would_join_the_two(shop: Database) -> None:
    put(shop, 1, "a", email=ADA)
    put(shop, 2, "b", email=ADA)
    put(shop, 3, "c", email=ADA)
    split = people.split(shop, ("harbor", "a"), ("quay", "b"), by="jane")
    assert persons(shop) == together("harbor/a pier/c", "quay/b"), "the one named second leaves"
    joined = people.join(shop, ("quay", "b"), ("pier", "c"), by="joe")
    assert persons(shop) == together("harbor/a", "quay/b pier/c"), "what people join comes before e-mails"
    people.join(shop, ("harbor", "a"), ("pier", "c"), by="joe")
    assert ids(shop)["harbor/a"] != ids(shop)["quay/b"]
    with pytest.raises(IntegrationError, match=rf"split by jane: undo decision {split.id} first"):
        people.join(shop, ("quay", "b"), ("harbor", "a"), by="joe")
    people.undo(shop, split.id, by="joe")
    assert len(persons(shop)) == 1
    with pytest.raises(IntegrationError, match="none in force"):
        people.undo(shop, split.id, by="joe")
    assert [decision.id for decision in people.list_decisions(shop)] == [joined.id + 1, joined.id]


def test_a_decision_on_nobody_names_what_is_wrong(shop: Database) -> None:
    put(shop, 1, "a")
    for store, customer, fault in (
        ("lido", "a", "named 'lido'"),
        ("harbor", "zz", "customer 'zz'"),
        ("harbor", "a", "same"),
    ):
        with pytest.raises(IntegrationError, match=fault):
            people.join(shop, ("harbor", "a"), (store, customer), by="jane")


def test_nobody_is_joined_with_one_who_is_deleted_or_redacted(shop: Database) -> None:
    put(shop, 1, "a")
    put(shop, 2, "b", deleted_at=datetime.now(UTC))
    put(shop, 3, "c", email_consent="redacted")
    for pair in ((("harbor", "a"), ("quay", "b")), (("pier", "c"), ("harbor", "a"))):
        for decide in (people.join, people.split):
            with pytest.raises(IntegrationError, match="was deleted or redacted"):
                decide(shop, *pair, by="jane")
    assert people.list_decisions(shop) == []


# Any order, any history

EMAILS = (None, ADA, ADA, "ben@example.com", "noemail@example.com", "cy@example.com")
PHONES = (None, PHONE, PHONE, "+442079460999", "+15550000000")
profiles = st.fixed_dictionaries({
    "email": st.sampled_from(EMAILS),
    "email_verified": st.sampled_from([True, True, True, False]),
    "phone": st.sampled_from(PHONES),
    "first_name": st.sampled_from(["Ada", "Ada", "Ada", "Ben", None]),
    "deleted_at": st.sampled_from([None, None, datetime(2026, 11, 1, tzinfo=UTC)]),
})  # fmt: skip
KNOWN = tuple((store, name) for store in (1, 2, 3) for name in "ab")
customers = st.sampled_from(KNOWN)
edits = st.tuples(st.just("put"), customers, profiles)
decisions = st.tuples(st.sampled_from(["together", "apart"]), customers, customers)
moves = st.one_of(edits, decisions, st.tuples(st.just("undo")))
populations = st.tuples(*(st.tuples(st.just("put"), st.just(customer), profiles) for customer in KNOWN))
"""All six customers to begin with."""


def state(database: Database) -> list[tuple[Any, ...]]:
    with database.transaction() as connection:
        return state_in(connection)


def state_in(
    connection: psycopg.Connection[Any], columns: str = "number, person_id, "
) -> list[tuple[Any, ...]]:
    """All of who is who and why; with its numbers, unless others are asked for."""
    return connection.execute(
        f"SELECT store_id, customer_external_id, {columns} matched_by, with_store_id, with_customer_external_id, "
        "email_key, email_shared, phone_key, phone_shared, "
        "min((store_id, customer_external_id)::text) OVER (PARTITION BY person_id) "
        "FROM person_customers ORDER BY store_id, customer_external_id"
    ).fetchall()


def play(connection: psycopg.Connection[Any], move: tuple[Any, ...]) -> None:
    kind, *rest = move
    if kind == "put":
        put_in(connection, *rest[0], **rest[1])
    elif kind == "undo":
        connection.execute(
            "UPDATE person_decisions SET undone_at = now(), undone_by = 'x' "
            "WHERE id = (SELECT min(id) FROM person_decisions WHERE undone_at IS NULL)"
        )
    elif rest[0] < rest[1]:
        connection.execute(
            "INSERT INTO person_decisions (kind, store_id, customer_external_id, other_store_id, "
            "other_customer_external_id, decided_by) VALUES (%s, %s, %s, %s, %s, 'x') ON CONFLICT DO NOTHING",
            (kind, *rest[0], *rest[1]),
        )


@pytest.fixture
def connection(shop: Database) -> Iterator[psycopg.Connection[Any]]:
    with shop.transaction() as connection:
        yield connection
        connection.rollback()


def ada(customer: tuple[int, str], phone: str | None) -> tuple[Any, ...]:
    return "put", customer, {"email": None, "first_name": "Ada", "phone": phone}


JOINED_WITH_AN_HEIR = {
    "population": [
        *(ada(customer, "+442079460999") for customer in ((1, "a"), (2, "a"))),
        *(ada(customer, "+442079460123") for customer in ((1, "b"), (3, "a"))),
    ],
    "history": [[("together", (1, "b"), (2, "a")), ada((1, "a"), None), ada((1, "b"), None)]],
}
"""1a's person goes to 2a, and with it to 1b, who is joined with 2a; so 1b's own goes to 3a. By chance found, once in
many thousands."""

QUICK = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@QUICK
@given(
    population=populations,
    history=st.lists(st.lists(moves, min_size=1, max_size=3), min_size=4, max_size=6),
)
@example(**JOINED_WITH_AN_HEIR)
def test_matching_what_changed_gives_what_matching_everybody_gives(
    connection: psycopg.Connection[Any], population: list[Any], history: list[list[Any]]
) -> None:
    with connection.transaction(force_rollback=True):
        for step in (population, *history):
            earlier = state_in(connection)
            for move in step:
                play(connection, move)
            match_batch(connection)
            numbered = state_in(connection)
            person_now = {row[:2]: row[3] for row in numbered}
            for row in earlier:
                if row[:2] in person_now and row[3] not in person_now.values():
                    assert person_now[row[:2]] < row[3], "a number goes only where all are somebody older"
            assert len({row[2] for row in numbered}) == len(numbered), "no two have one number"
            everybody(connection)
            assert state_in(connection) == numbered, "rematching changes nothing, ids neither"
            with connection.transaction(force_rollback=True):
                grouped = state_in(connection, "")
                connection.execute("DELETE FROM person_customers; DELETE FROM people")
                everybody(connection)
                assert state_in(connection, "") == grouped, "nor does matching from nothing"
            apart = connection.execute(
                "SELECT a.person_id, b.person_id FROM person_decisions d "
                "JOIN person_customers a ON (a.store_id, a.customer_external_id) = (d.store_id, d.customer_external_id) "
                "JOIN person_customers b ON (b.store_id, b.customer_external_id) = (other_store_id, other_customer_external_id) "
                "WHERE kind = 'apart' AND undone_at IS NULL"
            ).fetchall()
            assert all(one != other for one, other in apart), "a split holds"


def everybody(connection: psycopg.Connection[Any]) -> None:
    connection.execute(
        "INSERT INTO people_queue (store_id, customer_external_id) SELECT store_id, external_id FROM customers"
    )
    match_batch(connection)


@QUICK
@given(
    population=populations,
    before=st.lists(moves, max_size=4),
    tried=st.lists(decisions, min_size=4, max_size=4),
)
def test_undoing_a_decision_restores_grouping_and_reasons_and_after_a_join_or_a_split_the_ids(
    connection: psycopg.Connection[Any],
    population: list[Any],
    before: list[Any],
    tried: list[Any],
) -> None:
    with connection.transaction(force_rollback=True):
        for step in (population, before):
            for move in step:
                play(connection, move)
            match_batch(connection)
        expected, grouped = state_in(connection), state_in(connection, "")
        [newest] = connection.execute("SELECT coalesce(max(id), 0) FROM person_decisions").fetchone() or ()
        for decision in tried:
            play(connection, decision)
            match_batch(connection)
            decided = state_in(connection)
            connection.execute(
                "UPDATE person_decisions SET undone_at = now(), undone_by = 'x' WHERE undone_at IS NULL AND id > %s",
                (newest,),
            )
            match_batch(connection)
            assert state_in(connection, "") == grouped
            if left_one_person_for_another(expected, decided):
                expected = state_in(connection)  # whom the one leaves again keep their person's id
            assert state_in(connection) == expected


def left_one_person_for_another(before: list[tuple[Any, ...]], after: list[tuple[Any, ...]]) -> bool:
    """Whether somebody lost company and somebody found some: neither a mere join nor a mere split of persons."""

    def company(rows: list[tuple[Any, ...]]) -> set[tuple[Any, ...]]:
        return {(one[:2], two[:2]) for one in rows for two in rows if one[3] == two[3]}

    had, has = company(before), company(after)
    return not (had <= has or has <= had)


keys = st.sampled_from([None, b"1", b"2", b"3", b"4"])
members = st.lists(
    st.tuples(st.integers(1, 4), st.sampled_from("abcd"), keys, st.booleans(), keys),
    max_size=10,
    unique_by=lambda m: m[:2],
)


@settings(max_examples=150, deadline=None)
@given(rows=members, data=st.data())
def test_the_same_customers_make_the_same_people_in_whatever_order_they_come(
    rows: list[Any], data: st.DataObject
) -> None:
    shared = {row[2] for row in rows if row[3] and row[2] is not None and row[2] > b"2"}
    known = [
        Member(store, name, number, number, email, email in shared, phone, False)
        for number, (store, name, email, _, phone) in enumerate(rows)
    ]
    pairs = st.sampled_from([member.id for member in known]) if known else st.nothing()
    decided = (
        []
        if len(known) < 2
        else data.draw(
            st.lists(st.builds(Decided, st.sampled_from(["together", "apart"]), pairs, pairs), max_size=4)
        )
    )
    decided = [each for each in decided if each.customer < each.other]
    made = group(known, decided)
    mixed = group(data.draw(st.permutations(known)), data.draw(st.permutations(decided)))
    assert sorted(made, key=min) == sorted(mixed, key=min)
    assert sorted(customer for person in made for customer in person) == sorted(member.id for member in known)
    by_id = {member.id: member for member in known}
    for person in made:
        assert not any(d.kind == "apart" and d.customer in person and d.other in person for d in decided)
        # Why leads from each to the first of the person, by what the two have in common.
        for customer, why in person.items():
            if why.to is None:
                assert customer == min(person)
                continue
            one, other = by_id[customer], by_id[why.to]
            assert why.to in person
            assert {
                "email": one.email is not None and one.email == other.email and one.email not in shared,
                "phone": one.phone is not None and one.phone == other.phone,
                "decision": any(
                    d.kind == "together" and {d.customer, d.other} == {customer, why.to} for d in decided
                ),
            }[why.by]
        if not any(d.kind == "together" and d.customer in person and d.other in person for d in decided):
            for store in {store for store, _ in person}:
                assert len({by_id[c].email for c in person if c[0] == store} - {None}) <= 1


# Changes that are easily missed


def load_customers(connection: psycopg.Connection[Any], store: int, rows: list[Customer]) -> None:
    def refuse(reject: records.Reject) -> None:
        raise AssertionError(reject.reason)

    load.load(connection, "customers", store, rows, seen_at=datetime.now(UTC), reject=refuse)


def record(external_id: str, *, at: str = "2026-11-01T10:00:00Z", **values: Any) -> Customer:
    blank = dict.fromkeys(Customer._fields)
    told = {
        "email_verified": True,
        "addresses": "[]",
        "tags": [],
        "source_created_at": at,
        "first_name": "Ada",
    }
    return Customer(**{**blank, **told, "external_id": external_id, "source_updated_at": at, **values})


def test_what_the_loader_writes_is_matched_and_what_it_only_confirms_is_not_looked_at(shop: Database) -> None:
    with shop.transaction() as connection:
        load_customers(connection, 1, [record("a", email=ADA), record("b", email="b@example.com")])
        load_customers(connection, 2, [record("c", email=ADA)])
    assert people.match(shop).looked_at == 3
    assert persons(shop) == together("harbor/a quay/c", "harbor/b")
    with shop.transaction() as connection:
        connection.execute("UPDATE customers SET synced_at = now(), note = 'seen', orders_count = 3")
    assert people.match(shop).looked_at == 0
    with shop.transaction() as connection:
        load_customers(connection, 1, [record("b", at="2026-11-02T10:00:00Z", email=ADA)])
        deletions.mark_deleted(connection, "customers", 1, ["a"])
    people.match(shop)
    assert persons(shop) == together("harbor/b quay/c")
    with shop.transaction() as connection:
        deletions.mark_not_listed_deleted(connection, "customers", 2, datetime(2030, 1, 1, tzinfo=UTC))
        connection.execute("DELETE FROM customers WHERE store_id = 1 AND external_id = 'b'")
    people.match(shop)
    assert persons(shop) == set()


def test_a_change_that_is_committed_after_later_ones_were_matched_is_not_missed(shop: Database) -> None:
    with shop.transaction() as late:
        put_in(late, 1, "late", email=ADA)
        put(shop, 2, "early", email=ADA)
        people.match(shop)
        assert persons(shop) == together("quay/early")
    people.match(shop)
    assert persons(shop) == together("harbor/late quay/early")


def test_two_matches_at_once_beside_a_load_give_what_one_gives(shop: Database) -> None:
    faults: list[BaseException] = []

    def attempt(work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 (told by the test)
            faults.append(error)

    def write(store: int) -> None:
        for number in range(40):
            put(shop, store, f"c{number}", email=f"p{number % 25}@example.com", phone=PHONE)

    works = [lambda store=store: write(store) for store in (1, 2, 3)]
    works += [lambda: [people.match(shop, batch=7) for _ in range(8)]] * 2
    threads = [threading.Thread(target=attempt, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    people.match(shop, batch=7)
    held = state(shop)
    assert len(held) == 120
    people.rematch(shop)
    assert state(shop) == held


def test_when_the_time_is_over_who_is_left_is_matched_the_next_time(shop: Database) -> None:
    people.match(shop)
    for number in range(5):
        put(shop, 1, f"c{number}", email=f"c{number}@example.com")
    said: list[str] = []
    counts = people.match(shop, batch=2, is_over=lambda: True, log=said.append)
    assert counts.linked == 2, "one batch is always done"
    assert said[0].startswith("people: 2 of 5 changes matched, ")
    assert said[-1] == "people: the run's time is over. The next run matches the rest."
    assert people.match(shop, batch=2).linked == 3


def test_a_match_that_is_interrupted_has_lost_nothing(shop: Database) -> None:
    people.match(shop)
    for number in range(6):
        put(shop, number % 3 + 1, f"c{number}", email=ADA)

    def stop(_: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        people.match(shop, batch=2, log=stop)
    assert len(ids(shop)) == 2, "what was committed is kept"
    with suppress(KeyboardInterrupt), shop.transaction() as connection:
        assert match_batch(connection)[1].linked == 4
        raise KeyboardInterrupt
    assert len(ids(shop)) == 2, "what was not is still in the queue"
    assert people.match(shop).linked == 4
    assert len(persons(shop)) == 1


def test_the_regulars_of_a_sandbox_are_one_person_each_and_its_shop_phones_and_placeholders_join_nobody(
    shop: Database, make_sandbox: Callable[..., Sandbox]
) -> None:
    sandbox = make_sandbox(shops=3, variants=30, customers=1600, orders_per_customer=0)
    exported: dict[tuple[int, str], dict[str, Any]] = {}
    with shop.transaction() as connection:
        for store, (domain, source) in enumerate(sandbox.world.shops.items(), 1):
            connection.execute("UPDATE stores SET domain = %s WHERE id = %s", (domain, store))
            rows = source.export(["customers"])["customers"]
            exported |= {(store, row["id"]): row for row in rows}
            load_customers(connection, store, [as_record(row) for row in rows])
    people.match(shop)
    with shop.transaction() as connection:
        found = connection.execute(
            "SELECT store_id, customer_external_id, person_id, email_key FROM person_customers"
        ).fetchall()
    person_of = {(store, customer): person for store, customer, person, _ in found}
    email_of = {(store, customer): email for store, customer, _, email in found}
    assert person_of.keys() == exported.keys()

    holders: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for key, row in exported.items():
        if row["verifiedEmail"]:
            holders[row["defaultEmailAddress"]["emailAddress"].lower()].append(key)
        if row["defaultPhoneNumber"]:
            holders[row["defaultPhoneNumber"]["phoneNumber"]].append(key)
    one = several = kept_out = 0
    for key, customers in holders.items():
        by_store = defaultdict(list)
        for store, customer in customers:
            row = exported[store, customer]
            by_store[store].append((row["firstName"], row["lastName"]))
        shared = any(
            len(names) > 1 and (len(set(names)) > 1 or None in names[0]) for names in by_store.values()
        )
        if key.startswith("regular.") and len(customers) > 1 and not shared:
            one += 1
            assert len({person_of[customer] for customer in customers}) == 1, key
        elif key.startswith("noemail+"):
            kept_out += 1
            assert {email_of[customer] for customer in customers} == {None}
        elif shared and key.startswith("+") and len(customers) > 5:
            several += 1
            assert len({person_of[customer] for customer in customers}) > len(customers) / 2, key
    assert one >= 5
    assert several >= 2, "a shop of some size has a phone of its own for those who gave none"
    assert kept_out > 5


def as_record(row: dict[str, Any]) -> Customer:
    return record(
        row["id"],
        at=row["updatedAt"],
        first_name=row["firstName"],
        last_name=row["lastName"],
        email=row["defaultEmailAddress"] and row["defaultEmailAddress"]["emailAddress"],
        email_verified=row["verifiedEmail"],
        phone=row["defaultPhoneNumber"] and row["defaultPhoneNumber"]["phoneNumber"],
    )


# History


def order(database: Database, store: int, customer: str | None, name: str, total: str, **values: Any) -> None:
    row = {
        "customer_external_id": customer, "name": name, "total": total, "currency": "EUR", "status": "closed",
        "is_return": False, "is_test": False, "ordered_at": "2026-11-01T10:00:00Z", "cancelled_at": None, **values,
    }  # fmt: skip
    with database.transaction() as connection:
        connection.execute(
            f"INSERT INTO orders (store_id, external_id, source_updated_at, source_created_at, tags, {', '.join(row)}) "
            f"VALUES (%s, %s, now(), now(), '{{}}', {', '.join(['%s'] * len(row))})",
            (store, name, *row.values()),
        )


def refund(database: Database, store: int, at: str, of: str | None, amount: str) -> None:
    with database.transaction() as connection:
        connection.execute(
            "INSERT INTO refunds (store_id, external_id, source_updated_at, order_external_id, sale_external_id, amount, "
            "currency, refunded_at) SELECT %s, gen_random_uuid()::text, now(), %s, %s, %s, 'EUR', now()",
            (store, at, of, amount),
        )


@pytest.fixture
def sold(shop: Database) -> Database:
    """Ada, person 1, with orders of every kind in two stores; Ben, person 3, with none but a cancelled one."""
    put(shop, 1, "a", email=ADA)
    put(shop, 2, "b", email=ADA)
    put(shop, 2, "ben", email="ben@example.com")
    people.match(shop)
    order(shop, 1, "a", "#1", "100", channel="web", ordered_at="2026-09-01T10:00:00Z")
    refund(shop, 1, "#1", "#1", "30")
    order(shop, 2, "b", "#2", "50", channel="pos", ordered_at="2026-10-01T10:00:00Z")
    order(shop, 2, "b", "#2-R", "0", is_return=True, ordered_at="2026-11-05T10:00:00Z")
    refund(shop, 2, "#2-R", "#2", "20")
    order(shop, 2, "b", "#3-R", "0", is_return=True, ordered_at="2026-11-06T10:00:00Z")
    refund(shop, 2, "#3-R", None, "5")
    cancelled = {
        "status": "cancelled",
        "cancelled_at": "2026-11-07T10:00:00Z",
        "ordered_at": "2026-11-07T10:00:00Z",
    }
    order(shop, 1, "a", "#4", "80", **cancelled)
    refund(shop, 1, "#4", "#4", "80")
    order(shop, 1, "a", "#5", "70", is_test=True, ordered_at="2026-11-08T10:00:00Z")
    order(shop, 2, "b", "#6", "1000", currency="JPY", ordered_at="2026-08-01T10:00:00Z")
    order(shop, 2, "ben", "#7", "10", **cancelled)
    order(shop, 2, None, "#8", "10")
    return shop


def test_spend_counts_neither_test_orders_nor_cancelled_ones_and_returns_lessen_it_but_are_no_visits(
    sold: Database,
) -> None:
    euro, yen = people.totals(sold, 1)
    assert (euro.currency, euro.orders, euro.spent, euro.refunded, euro.net) == ("EUR", 2, 150, 55, 95)
    assert (euro.first_order_at, euro.last_order_at) == (
        datetime(2026, 9, 1, 10, tzinfo=UTC), datetime(2026, 10, 1, 10, tzinfo=UTC),
    )  # fmt: skip
    assert euro.stores == 2
    assert (yen.currency, yen.orders, yen.net) == ("JPY", 1, 1000)
    [ben] = people.totals(sold, 3)
    assert (ben.orders, ben.spent, ben.refunded, ben.net, ben.last_order_at) == (0, 0, 0, 0, None)


@pytest.mark.parametrize(
    ("values", "paid_back", "net"),
    [
        ({"current_total": "30"}, None, 30),  # edited before it was paid, or returned on account
        ({"current_total": "30"}, "30", 30),  # returned and paid back
        ({"current_total": "60"}, "10", 50),  # money back, no goods
        ({"current_total": "0"}, None, 0),
        ({"current_total": "60"}, None, 60),
        ({"current_total": None}, "10", 50),
    ],
)
def test_what_is_not_sold_any_more_is_no_spend_whether_it_was_paid_back_or_not(
    shop: Database, values: dict[str, Any], paid_back: str | None, net: int
) -> None:
    put(shop, 1, "a", email=ADA)
    people.match(shop)
    order(shop, 1, "a", "#1", "60", **values)
    if paid_back:
        refund(shop, 1, "#1", "#1", paid_back)
    [euro] = people.totals(shop, 1)
    assert (euro.spent, euro.net, euro.orders) == (60, net, 1)


def test_the_history_of_a_person_has_the_orders_of_all_stores_the_newest_first(sold: Database) -> None:
    frame = people.history(sold, 1)
    assert frame[["name", "store", "total", "refunded", "net"]].astype(str).to_numpy().tolist() == [
        ["#4", "harbor", "80.0000", "80.0000", "0"],
        ["#3-R", "quay", "0.0000", "5.0000", "-5.0000"],
        ["#2-R", "quay", "0.0000", "0.0000", "0.0000"],
        ["#2", "quay", "50.0000", "20.0000", "30.0000"],
        ["#1", "harbor", "100.0000", "30.0000", "70.0000"],
        ["#6", "quay", "1000.0000", "0.0000", "1000.0000"],
    ]
    assert people.history(sold, 99).dtypes["ordered_at"] == frame.dtypes["ordered_at"]


def test_a_join_joins_the_histories_at_once(sold: Database) -> None:
    order(sold, 2, "ben", "#9", "40")
    people.join(sold, ("harbor", "a"), ("quay", "ben"), by="jane")
    assert people.totals(sold, 1)[0].net == 135
    assert people.totals(sold, 3) == []


def test_the_report_ranks_by_currency_and_finds_who_has_not_been_there_for_long(sold: Database) -> None:
    order(sold, 2, "ben", "#9", "400", ordered_at="2026-06-01T10:00:00Z")
    now = datetime(2026, 11, 30, tzinfo=UTC)
    frame = people.report(sold, as_of=now)
    assert frame[["currency", "rank", "person_id", "days_since"]].to_numpy().tolist() == [
        ["EUR", 1, 3, 181], ["EUR", 2, 1, 59], ["JPY", 1, 1, 59],
    ]  # fmt: skip
    assert frame["average"].tolist() == [400, 75, 1000]
    assert people.report(sold, as_of=now, lapsed_days=90)["person_id"].tolist() == [3]
    assert people.report(sold, as_of=now, lapsed_days=59, top=1)["person_id"].tolist() == [3, 1]
    assert people.report(sold, as_of=now, lapsed_days=60)["person_id"].tolist() == [3]
    assert people.report(sold, as_of=now, top=1, currency="EUR")["person_id"].tolist() == [3]
    assert people.report(sold, as_of=now, currency="USD").empty
    put(sold, 3, "dee", email="dee@example.com")
    people.match(sold)
    order(sold, 3, "dee", "#10", "900", ordered_at="2026-11-29T10:00:00Z")
    ranked = people.report(sold, as_of=now, lapsed_days=30, currency="EUR")
    assert ranked[["rank", "person_id"]].to_numpy().tolist() == [[1, 3], [2, 1]], (
        "ranked among those who lapsed"
    )


def test_one_persons_history_is_found_by_index_among_a_hundred_thousand_orders(shop: Database) -> None:
    with shop.transaction() as connection:
        connection.execute(
            "INSERT INTO people (id) SELECT generate_series(1, 10000);"
            "INSERT INTO person_customers (store_id, customer_external_id, number, person_id) "
            "SELECT n % 3 + 1, n::text, n, n FROM generate_series(1, 10000) AS n;"
            "INSERT INTO orders (store_id, external_id, source_updated_at, source_created_at, tags, customer_external_id, "
            "name, total, currency, status, is_return, is_test, ordered_at) SELECT n % 20000 % 3 + 1, n::text, now(), now(), "
            "'{}', (n % 20000)::text, n::text, 10, 'EUR', 'closed', false, false, now() FROM generate_series(1, 100000) AS n;"
            "INSERT INTO refunds (store_id, external_id, source_updated_at, order_external_id, sale_external_id, amount, "
            "currency, refunded_at) SELECT store_id, external_id, now(), external_id, external_id, 1, 'EUR', now() FROM orders "
            "WHERE external_id LIKE '%7'; ANALYZE people, person_customers, orders, refunds"
        )
        for view in ("person_orders", "person_totals"):
            plan = "\n".join(
                line
                for (line,) in connection.execute(
                    f"EXPLAIN (ANALYZE) SELECT * FROM {view} WHERE person_id = 777"
                )
            )
            for index in (
                "ix_person_customers_person_id",
                "ix_orders_store_id_customer_external_id",
                "ix_refunds_store_id",
            ):
                assert index in plan
            assert not any(
                f"Seq Scan on {table}" in plan for table in ("person_customers", "orders", "refunds")
            )
            assert float(plan.rpartition("Execution Time: ")[2].split()[0]) < 250
        connection.rollback()


# What a person types


def test_people_are_shown_explained_joined_split_and_reported_and_no_data_of_theirs_is_told(
    sold: Database, database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("BG_DATABASE_URL", database_url)
    monkeypatch.setenv("BG_ENCRYPTION_KEY", KEY)
    told = []

    def run(*words: str) -> str:
        result = CliRunner().invoke(app, ["people", *words], env={"COLUMNS": "200"})
        assert result.exit_code == 0, result.output
        told.append(result.output)
        return " ".join(result.output.split())

    shown = run("show", "--customer", "quay", "b")
    assert "quay b matched because it has the same verified e-mail as customer a of store harbor" in shown
    assert "EUR 2 150.00 55.00 95.00 2026-09-01 10:00 2026-10-01 10:00 2" in shown
    assert "2026-11-05 10:00 quay #2-R return 0.00 0.00 0.00 EUR" in shown
    assert run("show", "1") == shown
    assert "customer a of store harbor: the first we know of this person" in run("why", "quay", "b")
    assert "1 more customer is this person too: `bg-pipelines people show 1`" in run("why", "harbor", "a")
    assert run("join", "harbor", "a", "quay", "ben", "--by", "jane") == "decision 1: they are person 1"
    assert "1 joined harbor a quay ben jane" in run("decisions")
    assert run("split", "harbor", "a", "quay", "b") == "decision 2: they are person 1 and person 2"
    assert run("undo", "1") == "decision 1 is undone: they are person 1 and person 3"
    assert run("undo", "2") == "decision 2 is undone: they are person 1"
    assert run("decisions") == "no decisions in force"
    assert "1 1 2 2 150.00 55.00 95.00 EUR 2026-10-01" in run("report")
    assert "2 rows written to" in run("report", "--csv", str(tmp_path / "people.csv"))
    assert "EUR" in run("report", "--currency", "eur")
    assert (
        (tmp_path / "people.csv")
        .read_text()
        .splitlines()[1]
        .startswith("1,EUR,2,150.0000,55.0000,95.0000,2026-09-01")
    )
    # The folder may be called by any letters.
    assert "ada" not in "".join(told).replace(str(tmp_path), "").lower()


def test_a_report_as_csv_is_written_as_it_is_read_however_many_persons_there_are(
    shop: Database, database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("BG_DATABASE_URL", database_url)
    monkeypatch.setenv("BG_ENCRYPTION_KEY", KEY)
    with shop.transaction() as connection:
        connection.execute(
            "INSERT INTO people (id) SELECT generate_series(1, 10000);"
            "INSERT INTO person_customers (store_id, customer_external_id, number, person_id) "
            "SELECT 1, n::text, n, n FROM generate_series(1, 10000) AS n;"
            "INSERT INTO orders (store_id, external_id, source_updated_at, source_created_at, tags, customer_external_id, "
            "name, total, currency, status, is_return, is_test, ordered_at) SELECT 1, n::text, now(), now(), '{}', n::text, "
            "n::text, n, 'EUR', 'closed', false, false, now() FROM generate_series(1, 10000) AS n; ANALYZE"
        )
    file = tmp_path / "people.csv"

    def peak(*options: str) -> int:
        tracemalloc.start()
        result = CliRunner().invoke(app, ["people", "report", "--csv", str(file), *options])
        assert result.exit_code == 0, result.output
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak("--top", "1")  # what is loaded and compiled once
    few = peak("--top", "1")
    assert peak() - few < 5_000_000
    lines = file.read_text().splitlines()
    assert (len(lines), lines[1].split(",")[0], lines[-1].split(",")[0]) == (10_001, "10000", "1")


def test_a_person_who_is_not_there_is_a_clear_error(shop: Database) -> None:
    with pytest.raises(IntegrationError, match="person 7: there is none"):
        people.customers_of(shop, 7)
    put(shop, 1, "a")
    with pytest.raises(IntegrationError, match="customer a of store harbor is no person"):
        people.find_person(shop, "harbor", "a")
