"""What Twilio tells: states that only move forward, and replies that count at once."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from bg_pipelines.database.secrets import Cipher
from bg_pipelines.messaging import answers, consent, desk, handling, spikes
from bg_pipelines.messaging.answers import AnswerRules, Outcome
from bg_pipelines.messaging.checks import Rules
from bg_pipelines.messaging.consent import Event, Said, verdict
from bg_pipelines.sandbox import edit
from bg_pipelines.settings import Settings
from bg_pipelines.webhooks.handling import HandlingRequest, HandlingRun
from bg_pipelines_tests.messaging.conftest import ANN, BEN, NOON, Outbox
from bg_pipelines_tests.support import KEY, PATIENCE, DatabaseClock, query, wait_for
from bg_pipelines_tests.webhooks.conftest import receiving

Reply = Callable[..., Outcome]


@pytest.fixture
def reply(outbox: Outbox, clock: DatabaseClock) -> Reply:
    """Somebody answers, a second later: `reply("STOP")`."""
    numbers = iter(range(1000))

    def reply(body: str, phone: str = ANN, *, sid: str | None = None, **more: Any) -> Outcome:
        rules = more.pop("rules", AnswerRules())
        clock.advance(seconds=1)
        fields = {"From": phone, "Body": body, "MessageSid": sid or f"SM{next(numbers)}", **more}
        with outbox.database.transaction() as connection:
            return answers.handle(connection, "inbound", fields, rules)

    return reply


def status(outbox: Outbox, sid: str, status: str, code: int | None = None, to: str = ANN) -> Outcome:
    fields = {"MessageSid": sid, "MessageStatus": status, "To": to}
    fields |= {} if code is None else {"ErrorCode": str(code)}
    with outbox.database.transaction() as connection:
        return answers.handle(connection, "status", fields, AnswerRules())


def opted_out(outbox: Outbox) -> set[str]:
    return {
        row["kind"] for row in query(outbox.database, "SELECT kind FROM sms_opt_outs WHERE phone = %s", ANN)
    }


def test_states_only_move_forward_in_whatever_order_they_come(outbox: Outbox) -> None:
    id_ = outbox.put()
    outbox.send()
    sid = outbox.row(id_)["sid"]
    for told, held in (
        ("sent", "sent"),
        ("queued", "sent"),
        ("delivered", "delivered"),
        ("sending", "delivered"),
    ):
        assert status(outbox, sid, told) is Outcome.HANDLED
        assert outbox.row(id_)["status"] == held
    assert status(outbox, sid, "undelivered", 30003) is Outcome.HANDLED
    assert (outbox.row(id_)["status"], outbox.row(id_)["error_code"]) == ("delivered", None)
    assert status(outbox, "SMsomebody", "sent") is Outcome.IGNORED
    assert status(outbox, sid, "nonsense") is Outcome.IGNORED


def test_a_state_that_comes_before_its_message_is_settled_is_for_later(outbox: Outbox) -> None:
    id_ = outbox.put()
    query(outbox.database, "UPDATE text_messages SET called_at = now()")
    assert status(outbox, "SM1", "sent") is Outcome.LATER
    query(outbox.database, "UPDATE text_messages SET called_at = NULL, sid = 'SM1', status = 'queued'")
    assert status(outbox, "SM1", "sent") is Outcome.HANDLED
    assert outbox.row(id_)["status"] == "sent"


@pytest.mark.parametrize(
    ("code", "how"),
    [(21610, "twilio"), (30005, "unreachable"), (30006, "unreachable"), (30003, None), (30007, None)],
)
def test_what_is_the_recipient_s_for_good_suppresses_the_number(
    outbox: Outbox, code: int, how: str | None
) -> None:
    id_ = outbox.put()
    outbox.send()
    status(outbox, outbox.row(id_)["sid"], "undelivered", code)
    assert outbox.row(id_)["reason"] == f"Twilio: undelivered, code {code}"
    rows = query(outbox.database, "SELECT DISTINCT how FROM sms_opt_outs")
    assert [row["how"] for row in rows] == ([] if how is None else [how])


def test_an_unregistered_sender_stops_sending(outbox: Outbox) -> None:
    id_ = outbox.put()
    outbox.send()
    status(outbox, outbox.row(id_)["sid"], "undelivered", 30034)
    assert outbox.incidents() == [("texts_stopped:account-30034", "open")]
    outbox.put()
    assert str(outbox.send()) == "nothing to send"


@pytest.mark.parametrize("word", ["STOP", "stop!", "Alto", "please stop texting me", "wrong number"])
def test_who_says_stop_in_whatever_words_gets_nothing_more(outbox: Outbox, reply: Reply, word: str) -> None:
    outbox.put()
    outbox.send()
    waiting = outbox.put()
    assert reply(word) is Outcome.HANDLED
    assert outbox.send().outcomes["refused"] == 1
    assert outbox.row(waiting)["reason"] == "opted out: reply"
    [event] = query(outbox.database, "SELECT * FROM sms_consents WHERE event = 'revoked'")
    assert (event["wording"], event["evidence"], event["channel"]) == (word, "SM0", "sms")


def test_what_twilio_does_not_confirm_is_confirmed_once_and_within_five_minutes(
    outbox: Outbox, reply: Reply, clock: DatabaseClock
) -> None:
    outbox.put()
    outbox.send()
    reply("STOP")  # Twilio's own
    assert query(outbox.database, "SELECT 1 FROM text_messages WHERE kind = 'service'") == []
    reply("START")
    reply("please stop texting me")
    reply("please stop texting me!!")
    reply("please stop texting me", sid="SM2")  # delivered twice
    [confirmation] = query(outbox.database, "SELECT * FROM text_messages WHERE kind = 'service'")
    assert confirmation["expires_at"] == NOON + timedelta(minutes=5, seconds=3)
    assert str(outbox.send()) == "1 sent"
    assert outbox.at_twilio()[-1].startswith("Harbor: you are opted out")
    clock.advance(minutes=6)
    assert str(outbox.send()) == "nothing to send"


def test_by_setting_stop_ends_the_kind_it_answers_alone(outbox: Outbox, reply: Reply) -> None:
    outbox.put()
    outbox.send()
    reply("STOP", rules=AnswerRules(stop_scope="kind"))
    assert opted_out(outbox) == {"product_share"}
    reply("STOP")
    assert opted_out(outbox) == set(consent.KINDS)
    reply("START")
    assert opted_out(outbox) == set()


def test_what_is_no_keyword_reaches_a_person_under_one_incident(outbox: Outbox, reply: Reply) -> None:
    reply("Do you have it in red?")
    reply("and in blue?")
    reply("HELP")
    assert outbox.incidents() == [("text_replies", "open")]
    [incident] = query(outbox.database, "SELECT message FROM incidents")
    assert "red" not in incident["message"]
    first, second = handling.open_replies(outbox.database)
    assert (first.body, first.reading, first.phone) == ("Do you have it in red?", "other", ANN)
    assert handling.settle_reply(outbox.database, first.id, by="jane") == 1
    assert handling.settle_reply(outbox.database, second.id, by="jane") == 0
    assert outbox.incidents() == [("text_replies", "resolved")]


def test_a_call_for_help_that_twilio_does_not_answer_reaches_a_person(outbox: Outbox, reply: Reply) -> None:
    reply("HELP")
    reply("?Que", OptOutType="HELP")
    assert handling.open_replies(outbox.database) == []
    reply("¡Ayuda!")
    [waiting] = handling.open_replies(outbox.database)
    assert (waiting.body, waiting.reading) == ("¡Ayuda!", "help")


def test_an_opt_out_is_passed_on_to_the_platforms(outbox: Outbox, reply: Reply) -> None:
    put_customer(outbox, "subscribed")
    reply("STOP")
    reply("STOP please")
    [change] = query(outbox.database, "SELECT * FROM customer_changes WHERE status = 'pending'")
    assert (change["field"], change["from_value"], change["to_value"], change["changed_by"]) == (
        "sms_consent",
        "subscribed",
        "unsubscribed",
        "opt-out (reply)",
    )


def test_an_opt_in_is_passed_on_as_well_and_never_overtaken_by_the_opt_out_before_it(
    outbox: Outbox, reply: Reply
) -> None:
    put_customer(outbox, "subscribed")
    reply("STOP")
    reply("START")
    reply("START")
    edits = query(outbox.database, "SELECT from_value, to_value FROM customer_changes ORDER BY id")
    assert edits == [
        {"from_value": "subscribed", "to_value": "unsubscribed"},
        {"from_value": "unsubscribed", "to_value": "subscribed"},
    ]
    query(outbox.database, "DELETE FROM customer_changes")
    query(outbox.database, "UPDATE customers SET sms_consent = 'not_subscribed'")
    about: Any = {"source": "form", "channel": "web", "wording": "Text me", "by": "jane"}
    desk.grant(outbox.database, outbox.rules, "harbor", ANN, "product_share", **about)
    assert query(outbox.database, "SELECT FROM customer_changes") == [], (
        "a platform knows one consent, to all"
    )
    desk.grant(outbox.database, outbox.rules, "harbor", ANN, "all", **about)
    [edit] = query(outbox.database, "SELECT to_value FROM customer_changes WHERE status = 'pending'")
    assert edit == {"to_value": "subscribed"}


@pytest.mark.parametrize("kind", ["customer_alert", "all"])
def test_the_question_of_a_double_opt_in_waits_for_the_morning_and_is_not_asked_after_a_stop(
    outbox: Outbox, reply: Reply, clock: DatabaseClock, kind: str
) -> None:
    outbox.rules = Rules(double_opt_in=True)
    clock.set(NOON + timedelta(hours=11))
    about: Any = {"source": "form", "channel": "web", "wording": "Text me", "by": "jane"}
    for phone in (ANN, BEN):
        desk.grant(outbox.database, outbox.rules, "harbor", phone, kind, **about)
    assert str(outbox.send()) == "1 sent, 1 held", "in California it is eight in the evening"
    clock.set(NOON + timedelta(hours=20))
    reply("STOP")
    assert str(outbox.send()) == "1 refused"
    reply("YES", phone=BEN)
    outbox.put(template="back_in_stock", phone=BEN, variant="v1", requested_by=None)
    assert str(outbox.send()) == "1 held", "it is five in the morning there, and else it would be sent"


def test_what_a_platform_says_counts_and_is_kept_as_evidence_when_relied_on(outbox: Outbox) -> None:
    put_customer(outbox, "subscribed")
    outbox.put(requested_by=None)
    assert str(outbox.send()) == "1 sent"
    [event] = query(outbox.database, "SELECT event, source, evidence, occurred_at FROM sms_consents")
    assert event == {
        "event": "granted",
        "source": "platform",
        "evidence": "c1",
        "occurred_at": NOON - timedelta(days=1),
    }
    query(outbox.database, "UPDATE customers SET sms_consent = 'unsubscribed', sms_consent_at = now()")
    outbox.put(requested_by=None)
    assert str(outbox.send()) == "1 refused"
    assert len(query(outbox.database, "SELECT 1 FROM sms_consents")) == 1


def put_customer(outbox: Outbox, consent: str) -> None:
    query(
        outbox.database,
        "INSERT INTO customers (store_id, external_id, source_updated_at, first_name, phone, email_verified, addresses, "
        "tags, sms_consent, sms_consent_at, source_created_at) VALUES (1, 'c1', now(), 'Ann', %s, false, '[]', '{}', %s, "
        "now() - interval '1 day', now())",
        ANN,
        consent,
    )


def test_the_ledger_is_never_changed_and_who_writes_it_first_or_last_does_not_matter(outbox: Outbox) -> None:
    with outbox.database.transaction() as connection:
        now = NOON
        for event, hours in (("revoked", 2), ("granted", 1), ("granted", 3)):
            consent.record(
                connection,
                Event(ANN, "all", event, "form", "web", occurred_at=now + timedelta(hours=hours)),
            )
        assert consent.opted_out_of(connection, ANN) == []
        consent.record(connection, Event(ANN, "customer_alert", "revoked", "form", "web", occurred_at=now))
        assert consent.opted_out_of(connection, ANN) == []
    for statement in ("UPDATE sms_consents SET event = 'granted'", "DELETE FROM sms_consents"):
        with pytest.raises(Exception, match="is a ledger"):
            query(outbox.database, statement)


@pytest.mark.parametrize(
    ("said", "may"),
    [
        ([("all", "granted")], False),
        ([("all", "confirmed")], False),
        ([("cart_reminder", "granted")], False),
        ([("cart_reminder", "granted"), ("cart_reminder", "confirmed")], True),
        ([("cart_reminder", "confirmed"), ("all", "revoked")], False),
        ([("cart_reminder", "confirmed"), ("all", "revoked"), ("all", "confirmed")], False),
        ([("cart_reminder", "confirmed"), ("product_share", "revoked")], True),
    ],
)
def test_reminders_of_carts_need_a_double_opt_in_that_names_them(
    said: list[tuple[str, str]], may: bool
) -> None:
    events = [Said(kind, event, NOON + timedelta(hours=n)) for n, (kind, event) in enumerate(said)]
    assert (verdict("cart_reminder", events, double_opt_in=False).why_not is None) is may


@pytest.mark.parametrize(
    ("events", "double_opt_in", "may"),
    [
        ([], False, False),
        (["granted"], False, True),
        (["granted"], True, False),
        (["granted", "asked", "confirmed"], True, True),
        (["granted", "confirmed", "revoked", "granted"], True, False),
        (["granted", "revoked"], False, False),
        (["granted", "revoked", "granted"], False, True),
        (["requested"], False, False),
    ],
)
def test_what_was_said_last_decides(events: list[str], double_opt_in: bool, may: bool) -> None:
    said = [Said("all", event, NOON + timedelta(hours=n)) for n, event in enumerate(events)]
    assert (verdict("customer_alert", said, double_opt_in=double_opt_in).why_not is None) is may
    same_moment = [Said("all", event, NOON) for event in ("revoked", "granted")]
    assert verdict("customer_alert", same_moment, double_opt_in=False).why_not == "consent was revoked"


def test_a_stop_that_is_being_committed_is_waited_for(outbox: Outbox) -> None:
    outbox.put()
    waits = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    with outbox.database.transaction() as connection:
        consent.opt_out(connection, ANN, "all", source="reply", channel="sms")
        sending = threading.Thread(target=outbox.send)
        sending.start()
        wait_for(lambda: query(outbox.database, waits) != [])
    sending.join()
    assert outbox.at_twilio() == []


def test_a_spike_of_opt_outs_stops_sending_until_a_person_says_so(outbox: Outbox, reply: Reply) -> None:
    for number in range(10):
        outbox.put(phone=f"+121255501{number:02}")
    outbox.send()
    for number in range(10):
        reply("STOP", phone=f"+121255501{number:02}")
    assert outbox.incidents() == [("texts_stopped:stop", "open")]
    outbox.put(phone="+12125550150")
    assert str(outbox.send()) == "nothing to send"
    query(outbox.database, "UPDATE incidents SET status = 'resolved'")
    assert str(outbox.send()) == "1 sent"


def test_a_spike_of_filtered_messages_stops_sending(outbox: Outbox) -> None:
    ids = [outbox.put(phone=f"+121255501{number:02}") for number in range(10)]
    outbox.send()
    for id_ in ids:
        status(outbox, outbox.row(id_)["sid"], "undelivered", 30007)
    assert outbox.incidents() == [("texts_stopped:filtered", "open")]


def test_messages_pumped_to_a_prefix_stop_there_alone(outbox: Outbox) -> None:
    query(
        outbox.database,
        "INSERT INTO text_messages (idempotency_key, kind, template, store_id, phone, status, sent_at, next_due_at) "
        "SELECT 'k' || n, 'product_share', 'product_share', 1, '+1310555' || lpad(n::text, 4, '0'), 'sent', now(), NULL "
        "FROM generate_series(1, 100) n",
    )
    with outbox.database.transaction() as connection:
        assert spikes.watch_prefixes(connection, home="1") == []
        assert spikes.watch_prefixes(connection, home="44") == ["13105"]
    there, elsewhere = outbox.put(phone="+13105550999"), outbox.put()
    assert outbox.send().outcomes == {"held": 1, "sent": 1}
    assert outbox.row(there)["retry_reason"] == "sending to its prefix is paused"
    assert outbox.row(elsewhere)["status"] == "queued"


def test_states_and_replies_arrive_through_the_receiver(outbox: Outbox, tmp_path: Path) -> None:
    account = outbox.sandbox.world.twilio
    edit(account, "set_delays", sent=0, delivered=0)
    url = outbox.database.engine.url.render_as_string(hide_password=False)
    cipher = Cipher(KEY)
    query(outbox.database, "UPDATE stores SET credentials = %s", cipher.encrypt({}))

    def settings(port: int) -> Settings:
        values: dict[str, Any] = {
            "database_url": url,
            "encryption_key": KEY,
            "twilio_auth_token": account.auth_token,
            "public_url": f"http://127.0.0.1:{port}",
        }
        return Settings(**values)

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with receiving(settings(port), port=port) as vendors:
        edit(account, "set_inbound_url", url=f"{vendors.url}/webhooks/twilio/inbound")
        id_ = outbox.put()
        outbox.send(status_callback=f"{vendors.url}/webhooks/twilio/status")
        edit(account, "reply", number=ANN, body="STOP")
        assert outbox.sandbox.world.deliveries_settled(PATIENCE)
        assert [delivery.answers for delivery in account.outbox.sent] == [[200]] * 4
    run = HandlingRun(
        outbox.database,
        cipher,
        HandlingRequest(),
        run_id="handle",
        home=tmp_path,
        connect=lambda *_: pytest.fail("no platform is asked"),
        log=lambda _: None,
    )
    assert run.run().events == {"handled": 4}
    assert outbox.row(id_)["status"] == "delivered"
    assert opted_out(outbox) == set(consent.KINDS)
    assert {row["payload"] for row in query(outbox.database, "SELECT payload FROM webhook_events")} == {None}
