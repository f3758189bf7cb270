"""What people type: share, texts, and the job as Dagster runs it; no number is shown that was not asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import dagster as dg
import pytest

from bg_pipelines.database.engine import Database
from bg_pipelines.messaging import consent
from bg_pipelines.sandbox import Sandbox
from bg_pipelines_tests.dagster_runs import execute, metadata
from bg_pipelines_tests.messaging.conftest import SHOP
from bg_pipelines_tests.messaging.daytime import COUNTRIES, daytime_numbers
from bg_pipelines_tests.support import KEY, query
from bg_pipelines_tests.typed import Run, ok, refused


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """One of this test's own, by the real clock."""
    database = Database(database_url)
    query(database, SHOP)
    yield database
    database.close()


@pytest.fixture
def number(database: Database, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, database_url: str) -> str:
    """Somebody who may be sent to now, through the sandbox's Twilio."""
    account = sandbox.world.twilio
    settings = {
        "BG_DATABASE_URL": database_url,
        "BG_ENCRYPTION_KEY": KEY,
        "BG_TWILIO_ACCOUNT_SID": account.account_sid,
        "BG_TWILIO_AUTH_TOKEN": account.auth_token,
        "BG_TWILIO_FROM": account.numbers[0],
        "BG_TWILIO_API_URL": sandbox.url,
        "BG_TEXT_COUNTRIES": ",".join(COUNTRIES),
        "BG_TEXT_SEGMENTS_A_SECOND": "100",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    return daytime_numbers(1)[0]


def test_a_share_is_seen_put_sent_and_listed(run: Run, number: str, sandbox: Sandbox) -> None:
    share = ("share", "--store", "harbor", "--product", "linen shirt", "--to", number)
    shown = ok(run(*share, "--dry-run"))
    assert "Harbor: Linen Shirt, $49.00. https://harbor.example/products/linen-shirt?m=" in shown
    assert "characters of GSM-7, 1 segment" in shown
    assert "nothing was put in the outbox" in shown
    assert ok(run("texts", "list")).strip() == "no text messages"
    shown = ok(run(*share, "--key", "k", "--by", "jane"))
    assert f"text message 2 to {number[:3]}…{number[-3:]} is in the outbox" in shown
    assert "has this key already; nothing was added" in ok(run(*share, "--key", "k"))
    result = execute("share_product_text_message")
    assert result.success
    assert (metadata(result)["messages_sent"], metadata(result)["segments"]) == (1, 1)
    assert number[1:] not in str(result.all_events)
    assert "Linen Shirt" not in str(result.all_events)
    [message] = sandbox.world.twilio.export()
    assert message["to"] == number
    listed = ok(run("texts", "list"))
    assert number not in listed
    assert "queued" in listed
    assert number in ok(run("texts", "list", "--numbers", "--json"))
    rows = json.loads(ok(run("texts", "list", "--json", "--status", "queued")))["text_messages"]
    assert [(row["status"], row["created_by"]) for row in rows] == [("queued", "jane")]
    assert "did you mean 'queued'" in refused(run("texts", "list", "--status", "queed"))


def test_who_opted_out_cannot_be_shared_with_and_the_evidence_says_why(run: Run, number: str) -> None:
    grant = ("--grant", "product_share", "--store", "harbor", "--wording", "Text me", "--source", "form 12")
    assert "product_share: may be sent" in ok(run("texts", "consent", number, *grant))
    assert "gets no more messages (all)" in ok(
        run("texts", "opt-out", number, "--how", "called us", "--by", "jane")
    )
    message = refused(run("share", "--store", "harbor", "--product", "p1", "--to", number))
    assert "gets no messages" in message
    assert number not in message
    evidence = json.loads(ok(run("texts", "consent", number, "--json")))
    assert [(event["event"], event["wording"]) for event in evidence["events"]] == [
        ("granted", "Text me"),
        ("revoked", "called us"),
    ]
    assert evidence["now"] == dict.fromkeys(consent.KINDS, "opted out: staff")


@pytest.mark.parametrize("number", ["+49 30 901820", "+1 900 555 0123", "+12125550123"])
def test_nobody_s_opt_out_is_refused_whatever_their_number(run: Run, database: Database, number: str) -> None:
    assert "gets no more messages" in ok(run("texts", "opt-out", number, "--how", "called us"))
    assert "opted out: staff" in ok(run("texts", "consent", number))
    assert {row["phone"] for row in query(database, "SELECT phone FROM sms_opt_outs")} == {
        number.replace(" ", "")
    }
    assert "cannot be read" in refused(run("texts", "opt-out", "jane", "--how", "called us"))


def test_a_subscription_is_typed_and_replies_are_read_and_settled(
    run: Run, number: str, database: Database
) -> None:
    about = ("--store", "harbor", "--to", number, "--alert", "price_drop", "--product", "p1")
    assert ok(run("texts", "subscribe", *about)).strip() == "subscription 1"
    query(
        database,
        "INSERT INTO text_replies (sid, phone, body, reading) VALUES ('SM1', %s, 'in red?', 'other')",
        number,
    )
    shown = ok(run("texts", "replies"))
    assert "in red?" in shown
    assert number not in shown
    assert ok(run("texts", "replies", "--done", "1")).strip() == "0 replies left"
    assert "is not parked" in refused(run("texts", "settle", "7", "--as", "sent"))


def test_without_twilio_s_settings_the_run_says_which_are_missing(
    database: Database, monkeypatch: pytest.MonkeyPatch, database_url: str, instance: dg.DagsterInstance
) -> None:
    monkeypatch.setenv("BG_DATABASE_URL", database_url)
    monkeypatch.setenv("BG_ENCRYPTION_KEY", KEY)
    result = execute("share_product_text_message", instance=instance)
    assert not result.success
    [event] = [event for event in result.all_events if event.is_step_failure]
    told: Any = event.step_failure_data.user_failure_data
    assert told.description.startswith("text messages cannot be sent: set BG_TWILIO_ACCOUNT_SID")
