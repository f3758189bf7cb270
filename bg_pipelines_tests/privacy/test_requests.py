"""Requests: an export for a person to send, its deadline, and what the operator types."""

from __future__ import annotations

import json
import socket
import stat
from pathlib import Path
from typing import Any

import pytest

from bg_pipelines.database.engine import Database
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.errors import IntegrationError
from bg_pipelines.privacy import requests
from bg_pipelines.privacy.commands import carry_out
from bg_pipelines.privacy.erasure import erase_customer
from bg_pipelines.privacy.tables import ANSWERS
from bg_pipelines_tests.privacy.planted import Person, add_store, find, plant, traces
from bg_pipelines_tests.support import DatabaseClock, query
from bg_pipelines_tests.typed import Run, ok, refused, words

ZARA = Person("Zerafinova", 7712345678, "24681357")
OTHER = Person("Ottoline", 8898765432, "97531864")


@pytest.fixture
def harbor(clock: DatabaseClock, database: Database, cipher: Cipher) -> int:
    """A store with two customers, and a clock that is set by hand."""
    store = add_store(database, cipher, "harbor")
    for who in (ZARA, OTHER):
        plant(database, cipher, store, who)
    return store


def asked(number: int = 9999) -> dict[str, Any]:
    return ZARA.command(orders_requested=[77123456783], data_request={"id": number})


def incidents(database: Database) -> list[tuple[str, str, bool]]:
    rows = query(database, "SELECT status, severity, needs_attention FROM incidents ORDER BY id")
    return [(row["status"], row["severity"], row["needs_attention"]) for row in rows]


def test_a_data_request_is_a_private_file_of_all_that_is_held_and_of_nobody_else(
    harbor: int, database: Database, cipher: Cipher, tmp_path: Path
) -> None:
    request = carry_out(database, harbor, "customers/data_request", asked(), cipher=cipher, home=tmp_path)
    [row] = requests.list_requests(database)
    path = tmp_path / "data-requests" / f"request-{request}.json"
    assert row.file == f"{socket.gethostname()}:{path}"
    assert (row.kind, row.customer, (row.due_at - row.received_at).days) == ("export", ZARA.id, 30)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    held = json.loads(path.read_text())
    tables = {name for name, answer in ANSWERS.items() if answer.of_customer}
    assert set(held) == {"store", "customer", "made_at", *tables}
    rows = {
        "customers": 1,
        "orders": 3,
        "order_lines": 3,
        "refunds": 3,
        "carts": 3,
        "cart_items": 3,
        "customer_changes": 4,
        "rejected_rows": 8,
        "webhook_events": 5,
        "person_customers": 1,
        "data_requests": 1,
        "text_messages": 2,
        "text_subscriptions": 2,
        "text_replies": 1,
        "sessions": 1,
    }
    assert {name: len(held[name]) for name in tables} == {**dict.fromkeys(tables, 0), **rows}
    assert held["store"] == {
        "name": "harbor",
        "platform": "shopify",
        "domain": "harbor.myshopify.com",
        "shop_name": None,
    }
    assert held["customers"][0]["email"] == ZARA.email
    assert held["customers"][0]["addresses"][0]["address_1"] == ZARA.marker
    assert {"note": ZARA.marker, "order_external_id": ZARA.orders[1]} in [
        row["content"] for row in held["rejected_rows"]
    ]
    assert OTHER.marker not in path.read_text()
    hidden = {"store_id", "payload", "email_key", "subject"}
    assert not hidden & {column for name in tables for row in held[name] for column in row}
    again = carry_out(database, harbor, "customers/data_request", asked(), cipher=cipher, home=tmp_path)
    assert again == request
    assert len(list(path.parent.iterdir())) == 1
    assert (
        carry_out(database, harbor, "customers/data_request", asked(2), cipher=cipher, home=tmp_path) != again
    )


def test_people_are_told_at_once_and_again_when_it_is_nearly_due_and_overdue_until_it_was_sent(
    harbor: int, database: Database, cipher: Cipher, clock: DatabaseClock, tmp_path: Path
) -> None:
    request = carry_out(database, harbor, "customers/data_request", asked(), cipher=cipher, home=tmp_path)
    assert incidents(database) == [("open", "low", True)]
    [told] = query(database, "SELECT message, error_type, subject FROM incidents")
    assert f"request-{request}.json" in told["message"]
    assert f"by {clock.now.replace(month=12):%Y-%m-%d}" in told["message"]
    assert (told["error_type"], told["subject"]) == ("data_request", "store harbor")
    assert ZARA.marker not in told["message"]
    for days, severity, news in ((22, "low", 0), (1.5, "medium", 1), (0, "medium", 0), (7, "high", 1)):
        clock.advance(days=days)
        assert requests.remind(database) == news
        assert incidents(database) == [("open", severity, True)]
    assert requests.mark_done(database, tmp_path, request, by="jane") == []
    assert requests.remind(database) == 0
    assert incidents(database) == [("resolved", "high", True)]
    [done] = requests.list_requests(database, done=True)
    assert (done.status, done.done_by, done.file) == ("done", "jane", None)
    assert list((tmp_path / "data-requests").iterdir()) == []
    assert query(database, "SELECT subject FROM data_requests") == [{"subject": None}]
    with pytest.raises(IntegrationError, match="none that is open has this number"):
        requests.mark_done(database, tmp_path, request, by="jane")


def test_an_export_on_another_machine_is_named_to_whoever_has_to_delete_it(
    harbor: int, database: Database, cipher: Cipher, tmp_path: Path
) -> None:
    carry_out(database, harbor, "customers/data_request", asked(), cipher=cipher, home=tmp_path)
    query(database, "UPDATE data_requests SET file = 'elsewhere:/bg/request.json'")
    erased = erase_customer(database, cipher, tmp_path, harbor, ZARA.id, by="shopify")
    assert erased.files_elsewhere == ["elsewhere:/bg/request.json"]
    [left] = requests.list_requests(database)
    assert (left.id, left.kind) == (erased.request_id, "erase_customer")
    [told] = query(database, "SELECT message, severity FROM incidents WHERE status = 'open'")
    assert "delete elsewhere:/bg/request.json there" in told["message"]
    assert told["severity"] == "medium"
    assert requests.mark_done(database, tmp_path, left.id, by="jane") == ["elsewhere:/bg/request.json"]
    assert requests.list_requests(database) == []
    assert find(database, *traces(ZARA)) == []


def test_an_erasure_that_was_begun_and_not_finished_is_told_before_it_is_due(
    harbor: int, database: Database, cipher: Cipher, clock: DatabaseClock, tmp_path: Path
) -> None:
    query(
        database,
        "INSERT INTO data_requests (store_id, kind, customer_external_id, due_at) "
        "VALUES (%s, 'erase_customer', 'x', now() + interval '6 days')",
        harbor,
    )
    assert requests.remind(database) == 1
    [told] = query(database, "SELECT message FROM incidents")
    assert "is not carried out yet" in told["message"]
    with pytest.raises(IntegrationError, match="an erasure is done when nothing is left"):
        requests.mark_done(database, tmp_path, requests.list_requests(database)[0].id, by="jane")


def test_an_operator_exports_lists_and_erases(
    harbor: int, database: Database, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setenv("BG_HOME_DIR", str(tmp_path))
    assert ok(run("customers", "requests")) == "no open requests\n"
    told = ok(run("customers", "export", "harbor", str(ZARA.number)))
    path = Path(told.splitlines()[0])
    assert json.loads(path.read_text())["customer"] == ZARA.id
    assert "1 customers" in told
    listed = ok(run("customers", "requests"))
    assert str(path) in listed
    assert ZARA.marker not in listed
    assert incidents(database) == [], "whoever typed it knows"
    assert ok(run("customers", "requests", "done", "1", "--by", "jane")) == "request 1 is done\n"
    assert not path.exists()
    assert ok(run("customers", "requests")) == "no open requests\n"
    assert "by jane" in ok(run("customers", "requests", "--all"))

    asked_first = run("customers", "erase", "harbor", str(ZARA.number), typed="n\n")
    assert asked_first.exit_code == 1
    assert find(database, *traces(ZARA)) != []
    told = ok(run("customers", "erase", "harbor", str(ZARA.number), "--yes", "--by", "jane"))
    assert "erased in" in told
    assert "3 orders" in told
    assert find(database, *traces(ZARA)) == []
    assert "none with this id" in refused(run("customers", "erase", "harbor", "1", "--yes"))
    assert "Did you mean 'done'?" in words(run("customers", "requests", "don", "1").output)

    assert "rows deleted" in ok(run("stores", "remove", "harbor", "--yes"))
    assert "no stores yet" in ok(run("stores", "list"))
    assert find(database, *traces(OTHER)) == [("webhook_events", "[10]")], "of no store: kept for a day"


def test_who_is_known_by_orders_alone_can_be_erased_by_the_whole_id(
    harbor: int, database: Database, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("BG_HOME_DIR", str(tmp_path))
    query(database, "DELETE FROM customers WHERE external_id = %s", ZARA.id)
    assert "none with this id" in refused(run("customers", "erase", "harbor", str(ZARA.number), "--yes"))
    ok(run("customers", "erase", "harbor", ZARA.id, "--yes"))
    rows = query(database, "SELECT email FROM orders WHERE customer_external_id = %s", ZARA.id)
    assert [row["email"] for row in rows] == [None, None]
    assert find(database, ZARA.email.lower()) == []
