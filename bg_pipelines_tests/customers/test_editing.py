"""Customers as a person edits them: what is checked before anything is kept, and what they are shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import CliRunner

from bg_pipelines.cli.app import app
from bg_pipelines.customers import editing
from bg_pipelines.database.engine import Database
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.operations.stores import NewStore, save_stores
from bg_pipelines_tests.support import KEY, query

ADA = "gid://shopify/Customer/1"
Edit = Callable[..., list[Any]]


@pytest.fixture
def edit(database: Database, cipher: Cipher) -> Edit:
    """Edit the one customer of store harbor, who lives in Germany: `edit(first_name="Grace")`."""
    save_stores(database, cipher, [NewStore("harbor", "shopify", "harbor.myshopify.com", token="t")])
    query(
        database,
        "INSERT INTO customers (store_id, external_id, source_updated_at, first_name, email, email_verified, phone, "
        "addresses, tags, source_created_at) SELECT id, %s, now(), 'Ada', 'ada@example.com', true, '+4930123456', %s, "
        "'{vip}', now() FROM stores",
        ADA,
        json.dumps([{"country_code": "DE"}]),
    )
    settled = "UPDATE sync_states SET next_due_at = now() + interval '1 hour', last_succeeded_at = now()"
    query(database, settled)

    def edit(**values: Any) -> list[Any]:
        return editing.edit(database, "harbor", ADA, values, by="Grace")

    return edit


def due(database: Database) -> set[str]:
    rows = query(database, "SELECT resource FROM sync_states WHERE next_due_at <= clock_timestamp()")
    return {row["resource"] for row in rows}


def refused(edit: Edit, **values: Any) -> str:
    with pytest.raises(IntegrationError) as error:
        edit(**values)
    assert error.value.error_type is ErrorType.BAD_DATA
    return error.value.message


def test_an_edit_is_kept_pending_and_makes_the_store_s_customers_due(edit: Edit, database: Database) -> None:
    [change] = edit(first_name=" Augusta ", email="ADA@example.com", tags=["vip", "vip "])
    assert (change.field, change.from_value, change.to_value, change.changed_by) == (
        "first_name",
        "Ada",
        "Augusta",
        "Grace",
    )
    assert due(database) == {"customers"}
    [row] = query(database, "SELECT * FROM customer_changes")
    assert (row["status"], row["customer_external_id"]) == ("pending", ADA)
    [held] = query(database, "SELECT first_name FROM customers")
    assert held == {"first_name": "Ada"}
    [second] = edit(first_name="Countess")
    assert second.from_value == "Augusta"
    assert edit(first_name="Countess") == []


def test_a_store_that_is_parked_or_failing_keeps_its_time(edit: Edit, database: Database) -> None:
    query(database, "UPDATE sync_states SET next_due_at = NULL WHERE resource = 'customers'")
    edit(first_name="Augusta")
    assert due(database) == set()
    query(database, "UPDATE sync_states SET next_due_at = now() + interval '1 hour', attempts = 3")
    edit(first_name="Countess")
    assert due(database) == set()


def test_phones_are_kept_in_e164_also_when_they_are_given_as_in_the_customer_s_country(edit: Edit) -> None:
    assert edit(phone="030 / 12 34 56 78")[0].to_value == "+493012345678"
    assert edit(phone="+1 415-555-2671")[0].to_value == "+14155552671"
    assert edit(phone="")[0].to_value is None


def test_a_phone_that_cannot_be_read_can_be_taken_away_and_is_what_an_edit_began_with(
    edit: Edit, database: Database
) -> None:
    query(database, "UPDATE customers SET phone = NULL, phone_given = 'ask at the desk'")
    [change] = edit(phone="")
    assert (change.from_value, change.to_value) == ("ask at the desk", None)


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("UPDATE customers SET deleted_at = now()", "was deleted on the platform and cannot be edited"),
        ("UPDATE customers SET sms_consent = 'redacted'", "was redacted on the platform"),
        (
            "UPDATE customers SET first_name = NULL, email = NULL, phone = NULL, addresses = '[]'",
            "was redacted on the platform",
        ),
    ],
    ids=["deleted", "a consent says so", "nothing is left"],
)
def test_who_is_deleted_or_redacted_cannot_be_edited(
    edit: Edit, database: Database, statement: str, told: str
) -> None:
    query(database, statement)
    assert told in refused(edit, note="called")
    assert query(database, "SELECT * FROM customer_changes WHERE changed_by = 'Grace'") == []


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"frist_name": "X"}, "did you mean 'first_name'?"),
        ({"total_spent": "1"}, "not a field that can be edited"),
        ({"email": "nobody"}, "email: give an e-mail address"),
        ({"email": "a b@example.com"}, "email: give an e-mail address"),
        ({"phone": "12"}, "phone: give a phone number like +14155550123, or one of DE"),
        ({"phone": "030 12345678 ext. 5"}, "phone: give a phone number without an extension"),
        ({"tags": "vip"}, "tags: give a list"),
        ({"tags": ["a,b"]}, "tags: give tags without commas"),
        ({"tags": [1]}, "tags: give a text"),
        ({"locale": "german"}, "locale: give a language"),
        ({"locale": None}, "locale: give a language"),
        ({"email_consent": "maybe"}, "email_consent: give one of: subscribed, unsubscribed, pending"),
        ({"sms_consent": None}, "sms_consent: give one of"),
        ({"first_name": "x" * 256}, "first_name: give at most 255 characters"),
        ({"note": "a\0b"}, "note: holds a character"),
        ({"note": 5}, "note: give a text"),
        ({}, "give at least one field"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_with_its_field_and_the_remedy(
    edit: Edit, database: Database, values: dict[str, Any], told: str
) -> None:
    assert told in refused(edit, **values)
    assert query(database, "SELECT * FROM customer_changes") == []
    assert due(database) == set()


def test_all_faults_are_told_at_once_and_nothing_is_kept(edit: Edit, database: Database) -> None:
    message = refused(edit, email="nobody", phone="12", first_name="Augusta")
    assert "email:" in message
    assert "phone:" in message
    assert "nobody" not in message
    assert query(database, "SELECT * FROM customer_changes") == []


def test_a_store_or_a_customer_that_is_none_is_told(edit: Edit, database: Database) -> None:
    with pytest.raises(IntegrationError, match="did you mean 'harbor'"):
        editing.edit(database, "harbour", ADA, {"note": "x"}, by="Grace")
    with pytest.raises(IntegrationError, match="store harbor has none with this id"):
        editing.show(database, "harbor", "2")
    with pytest.raises(IntegrationError, match="store harbor has none with this id"):
        editing.list_changes(database, "harbor", "2")
    with pytest.raises(IntegrationError, match="say who makes the edit"):
        editing.edit(database, "harbor", ADA, {"note": "x"}, by=" ")
    with pytest.raises(IntegrationError, match="did you mean 'pending'"):
        editing.list_changes(database, status="pendign")


def test_on_the_command_line_values_are_shown_of_one_customer_and_never_in_the_list(
    edit: Edit, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BG_DATABASE_URL", database_url)
    monkeypatch.setenv("BG_DAGSTER_DATABASE_URL", database_url)
    monkeypatch.setenv("BG_ENCRYPTION_KEY", KEY)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*words: str) -> str:
        result = CliRunner().invoke(app, ["customers", *words])
        assert result.exit_code == 0, result.output
        return result.output

    told = run(
        "edit", "harbor", ADA, "--set", "first_name=Augusta", "--set", "tags=vip, new", "--set", "phone=", "--by", "Grace"
    )  # fmt: skip
    assert "first_name: Ada -> Augusta" in told
    assert "tags: vip -> new, vip" in told
    assert "phone: +4930123456 -> -" in told
    assert "3 changes pending" in told
    listed = run("changes", "harbor", "--status", "pending")
    assert listed.count("Grace") == 3
    assert ADA in listed
    assert "Augusta" not in listed
    shown = run("show", "harbor", ADA)
    assert "ada@example.com" in shown
    assert "Augusta" in shown
    assert "nothing to change" in run("edit", "harbor", ADA, "--set", "first_name=Augusta")
    assert run("changes", "--status", "rejected") == "no changes\n"
    # Of a gid:// the number will do, and it is the whole id that is kept.
    assert run("show", "harbor", "1") == shown
    assert "1 change pending" in run("edit", "harbor", "1", "--set", "note=called")
    assert run("changes", "harbor", "1") == run("changes", "harbor") == run("changes", "harbor", ADA)
    assert run("changes", "harbor", "1").count(ADA) == 4
    for wrong in (["--set", "first_name"], ["--set", "note=a", "--set", "note=b"]):
        result = CliRunner().invoke(app, ["customers", "edit", "harbor", ADA, *wrong])
        assert isinstance(result.exception, IntegrationError)
