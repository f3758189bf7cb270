"""Sending from the outbox: each message once, checked last, and every failure settled as it deserves."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bg_pipelines.errors import IntegrationError
from bg_pipelines.incidents import handling
from bg_pipelines.messaging import consent
from bg_pipelines.messaging.checks import Rules
from bg_pipelines.messaging.handling import settle_unclear
from bg_pipelines.messaging.pace import Pace
from bg_pipelines.sandbox import Fault, Sandbox, edit
from bg_pipelines_tests.messaging.conftest import ANN, BEN, Outbox, client_of
from bg_pipelines_tests.support import PROJECT, DatabaseClock, HandClock, query


def test_a_share_is_sent_once_with_title_price_and_a_link_that_names_it(outbox: Outbox) -> None:
    id_ = outbox.put()
    assert str(outbox.send()) == "1 sent"
    row = outbox.row(id_)
    assert outbox.at_twilio() == [
        f"Harbor: Linen Shirt, $49.00. https://harbor.example/products/linen-shirt?m={row['reference']} "
        "Reply STOP to opt out"
    ]
    assert (row["status"], row["segments"], row["calls"], row["called_at"]) == ("queued", 1, 1, None)
    assert str(outbox.send()) == "nothing to send"
    assert len(outbox.at_twilio()) == 1


def test_one_key_is_one_message(outbox: Outbox) -> None:
    assert outbox.put(key="wish 7") == outbox.put(key="wish 7")
    outbox.send()
    assert len(outbox.at_twilio()) == 1


def test_the_application_puts_a_message_by_its_own_insert_as_the_documentation_has_it(outbox: Outbox) -> None:
    page = (PROJECT / "docs" / "text-messages.md").read_text(encoding="utf-8")
    message, given = re.findall(r"```sql\n(.*?)```", page, re.DOTALL)
    [product] = re.findall(r"gid://shopify/Product/\d+", message)
    for table, column in (("products", "external_id"), ("product_variants", "product_external_id")):
        query(outbox.database, f"UPDATE {table} SET {column} = %s", product)
    for statement in (message, message, given):
        query(outbox.database, statement)
    assert str(outbox.send()) == "1 sent"
    with outbox.database.transaction() as connection:
        [(kind, event)] = [(entry.kind, entry.event) for entry in consent.history(connection, ANN)]
    assert (kind, event) == ("customer_alert", "granted")


def test_what_comes_with_a_row_never_takes_the_place_of_its_reference(outbox: Outbox) -> None:
    id_ = outbox.put(
        fields={"link": "https://harbor.example/sale", "reference": "none", "title": "All shirts"}
    )
    outbox.send()
    [body] = outbox.at_twilio()
    assert outbox.row(id_)["reference"] in body
    assert body.startswith("Harbor: All shirts, $49.00. https://harbor.example/products/")


@pytest.mark.parametrize("kind", ["apply_then_cut", "half_json", "cut", "server_error", "html"])
def test_after_a_lost_answer_it_is_looked_up_and_never_doubled(
    outbox: Outbox, clock: DatabaseClock, kind: str
) -> None:
    id_ = outbox.put()
    outbox.sandbox.world.twilio.faults.append(Fault(kind, times=1, operation="CreateMessage"))
    assert str(outbox.send()) == "1 retrying"
    assert outbox.row(id_)["called_at"] is not None
    # Too early: a request on its way would not be found.
    clock.advance(seconds=59)
    outbox.due_now()
    assert str(outbox.send()) == "1 held"
    clock.advance(seconds=31 * 60)
    went_out = kind in ("apply_then_cut", "half_json")
    assert str(outbox.send()) == ("1 found" if went_out else "1 sent")
    assert len(outbox.at_twilio()) == 1
    assert outbox.row(id_)["status"] == "queued"


class Killed(BaseException):
    """As SIGKILL ends a process: nothing is settled."""


class KilledSender:
    """Twilio's client in a process that is killed before a call is made, or after it was answered."""

    def __init__(self, sender: Any, before: bool) -> None:
        self.sender, self.before = sender, before

    def send(self, to: str, body: str, **options: Any) -> str:
        if not self.before:
            self.sender.send(to, body, **options)
        raise Killed

    def look_up(self, *arguments: Any) -> str | None:
        found: str | None = self.sender.look_up(*arguments)
        return found


@pytest.mark.parametrize("before", [True, False])
def test_a_kill_between_record_and_settling_neither_loses_nor_doubles(
    outbox: Outbox, clock: DatabaseClock, before: bool
) -> None:
    outbox.put()
    with pytest.raises(Killed):
        outbox.send(KilledSender(outbox.sender, before))
    clock.advance(minutes=3)
    assert str(outbox.send()) == ("1 sent" if before else "1 found")
    assert len(outbox.at_twilio()) == 1


def test_where_twilio_cannot_tell_it_is_parked_and_a_person_settles_it(
    outbox: Outbox, clock: DatabaseClock
) -> None:
    class Redacted(KilledSender):
        """An account that keeps no texts."""

        def look_up(self, to: str, body: str, reference: str, since: datetime) -> str | None:
            for message in outbox.sandbox.world.twilio.messages:
                message.body = ""
            found: str | None = self.sender.look_up(to, body, reference, since)
            return found

    id_ = outbox.put()
    sender = Redacted(outbox.sender, before=False)
    with pytest.raises(Killed):
        outbox.send(sender)
    clock.advance(minutes=3)
    assert str(outbox.send(sender)) == "1 parked"
    assert outbox.incidents() == [("texts_unclear", "open")]
    with pytest.raises(IntegrationError):
        settle_unclear(outbox.database, id_, "maybe", by="jane")
    settle_unclear(outbox.database, id_, "sent", by="jane")
    assert (outbox.row(id_)["status"], outbox.incidents()) == ("sent", [("texts_unclear", "resolved")])
    assert len(outbox.at_twilio()) == 1


def test_429_slows_all_down_and_loses_nothing(outbox: Outbox, clock: DatabaseClock) -> None:
    outbox.put()
    outbox.sandbox.world.twilio.faults.append(Fault("too_many_requests", times=1))
    pace = Pace(10_000, clock=HandClock())
    assert str(outbox.send(pace=pace)) == "1 retrying"
    assert pace.reserve() == pytest.approx(1, abs=0.01)
    clock.advance(minutes=1)
    assert str(outbox.send()) == "1 sent"


def test_each_429_that_names_no_delay_is_waited_out_longer(outbox: Outbox, clock: DatabaseClock) -> None:
    id_ = outbox.put()
    outbox.sandbox.world.twilio.faults.append(Fault("too_many_requests"))
    waits = []
    for _ in range(4):
        outbox.send()
        waits.append(outbox.row(id_)["retry_reason"].rpartition(", ")[2])
        clock.advance(minutes=30)
    assert waits == ["next within 60 s", "next within 120 s", "next within 240 s", "next within 480 s"]


@pytest.mark.parametrize("code", [21211, 21614, 21635])
def test_a_number_that_takes_no_messages_gets_none_any_more(outbox: Outbox, code: int) -> None:
    edit(outbox.sandbox.world.twilio, "set_invalid", numbers=[ANN], code=code)
    id_ = outbox.put()
    later = outbox.put(requested_by=None)
    assert outbox.send(workers=1).outcomes == {"refused": 2}
    assert (outbox.row(id_)["status"], outbox.row(id_)["error_code"]) == ("failed", code)
    assert (outbox.row(later)["status"], outbox.row(later)["reason"]) == (
        "refused",
        "the number can never be reached",
    )
    assert outbox.incidents() == []
    with pytest.raises(IntegrationError, match="unreachable"):
        outbox.put()


def test_who_opted_out_at_twilio_is_opted_out_here(outbox: Outbox) -> None:
    outbox.sandbox.world.twilio.opted_out.add(ANN)
    outbox.put()
    assert str(outbox.send()) == "1 refused"
    opted_out = query(outbox.database, "SELECT kind, how FROM sms_opt_outs ORDER BY kind")
    assert opted_out == [{"kind": kind, "how": "twilio"} for kind in sorted(consent.KINDS)]


def test_a_fault_of_the_account_stops_sending_under_one_incident_until_one_goes_through(
    outbox: Outbox, clock: DatabaseClock
) -> None:
    account = outbox.sandbox.world.twilio
    token = account.auth_token
    for number in range(20):
        outbox.put(phone=f"+121255501{number:02}")
    edit(account, "set_token", token="other")
    sent = outbox.send()
    assert sent.outcomes["parked"] >= 1
    assert sent.outcomes["sent"] == 0
    assert [fingerprint for fingerprint, _ in outbox.incidents()] == ["texts_stopped:account-20003"]
    calls = len(account.requests)
    assert str(outbox.send()) == "nothing to send"
    assert len(account.requests) == calls, "nobody is called while it is open"
    edit(account, "set_token", token=token)
    [incident] = query(outbox.database, "SELECT id FROM incidents")
    handling.retry(outbox.database, [incident["id"]], by="jane")
    outbox.send()
    assert outbox.incidents() == [("texts_stopped:account-20003", "resolved")]
    clock.advance(minutes=1)  # what was claimed when it stopped is held for half of one
    outbox.send()
    assert len(outbox.at_twilio()) == 20


@pytest.mark.parametrize("code", [21408, 21612, 29999, 30038])
def test_a_code_that_says_nothing_of_the_recipient_parks_by_its_code(outbox: Outbox, code: int) -> None:
    edit(outbox.sandbox.world.twilio, "set_invalid", numbers=[ANN], code=code)
    parked, sent = outbox.put(), outbox.put(phone=BEN)
    assert outbox.send().outcomes == {"parked": 1, "sent": 1}
    assert outbox.incidents() == [(f"texts_refused:{code}", "open")]
    assert query(outbox.database, "SELECT * FROM sms_opt_outs") == []
    assert (outbox.row(parked)["status"], outbox.row(sent)["status"]) == ("pending", "queued")


def test_with_the_last_message_of_a_code_its_incident_ends(outbox: Outbox) -> None:
    edit(outbox.sandbox.world.twilio, "set_invalid", numbers=[ANN, BEN], code=29999)
    parked = [outbox.put(), outbox.put(phone=BEN)]
    outbox.send()
    settle_unclear(outbox.database, parked[0], "dropped", by="jane")
    assert outbox.incidents() == [("texts_refused:29999", "open")]
    settle_unclear(outbox.database, parked[1], "dropped", by="jane")
    assert outbox.incidents() == [("texts_refused:29999", "resolved")]
    assert {outbox.row(id_)["status"] for id_ in parked} == {"refused"}


def test_when_one_of_a_code_goes_through_those_of_other_codes_stay_parked(outbox: Outbox) -> None:
    account = outbox.sandbox.world.twilio
    edit(account, "set_invalid", numbers=[ANN], code=29999)
    edit(account, "set_invalid", numbers=[BEN], code=30038)
    outbox.put()
    stays = outbox.put(phone=BEN)
    assert outbox.send(workers=1).outcomes == {"parked": 2}
    edit(account, "set_invalid", numbers=[], code=29999)
    [incident] = query(outbox.database, "SELECT id FROM incidents WHERE fingerprint = 'texts_refused:29999'")
    handling.retry(outbox.database, [incident["id"]], by="jane")
    assert str(outbox.send()) == "1 sent"
    assert dict(outbox.incidents()) == {"texts_refused:29999": "resolved", "texts_refused:30038": "open"}
    assert outbox.row(stays)["next_due_at"] is None


def test_a_message_is_held_until_the_recipient_s_morning_and_checked_again(
    outbox: Outbox, clock: DatabaseClock
) -> None:
    clock.set(datetime(2026, 11, 24, 3, tzinfo=UTC))  # ten in the evening in New York
    id_ = outbox.put()
    assert str(outbox.send()) == "1 held"
    assert outbox.row(id_)["next_due_at"] == datetime(2026, 11, 24, 13, tzinfo=UTC)
    assert outbox.row(id_)["retry_strategy"] == "scheduled_retry"
    query(outbox.database, "UPDATE products SET status = 'DRAFT'")
    clock.set(datetime(2026, 11, 24, 13, tzinfo=UTC))
    assert str(outbox.send()) == "1 refused"
    assert outbox.row(id_)["reason"] == "the product is not published"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("UPDATE products SET deleted_at = now()", "the product does not exist any more"),
        ("UPDATE inventory_levels SET available = 0", "the product is sold out"),
        ("INSERT INTO sms_opt_outs (phone) VALUES (%(phone)s)", "opted out: recorded by the application"),
        (
            "UPDATE text_messages SET requested_by = NULL",
            "no consent to messages of the kind product_share is recorded",
        ),
        ("UPDATE text_messages SET expires_at = now()", "expired before it could be sent"),
        (
            "UPDATE text_messages SET phone = '+442079460123'",
            "the recipient's number: it is a landline, which takes no text messages",
        ),
    ],
)
def test_what_is_not_to_be_sent_is_refused_with_its_reason(outbox: Outbox, change: str, reason: str) -> None:
    id_ = outbox.put()
    with outbox.database.transaction() as connection:
        connection.execute(change, {"phone": ANN})
    assert str(outbox.send()) == "1 refused"
    assert (outbox.row(id_)["status"], outbox.row(id_)["reason"]) == ("refused", reason)
    assert outbox.at_twilio() == []


def test_a_number_gets_no_more_a_day_than_the_cap_says(outbox: Outbox, clock: DatabaseClock) -> None:
    rules = Rules(daily_messages=2)
    ids = [outbox.put() for _ in range(3)]
    assert outbox.send(rules=rules, workers=1).outcomes == {"sent": 2, "held": 1}
    assert outbox.row(ids[2])["next_due_at"] == clock.now + timedelta(hours=24)
    clock.advance(hours=24, seconds=1)
    assert str(outbox.send(rules=rules)) == "1 sent"


def test_the_daily_limit_of_segments_holds_for_all_workers_together(outbox: Outbox) -> None:
    for number in range(20):
        outbox.put(phone=f"+121255501{number:02}")
    assert outbox.send(rules=Rules(daily_segments=7), batch_size=3).outcomes == {"sent": 7, "held": 13}


def test_the_rate_of_the_sender_is_kept(outbox: Outbox) -> None:
    for number in range(6):
        outbox.put(phone=f"+121255501{number:02}")
    sent = outbox.send(pace=Pace(20))
    assert sent.outcomes == {"sent": 6}
    assert sent.seconds >= 5 / 20


def test_while_replies_are_not_read_nothing_is_sent(outbox: Outbox) -> None:
    outbox.put()
    query(
        outbox.database,
        "INSERT INTO webhook_events (source, topic, webhook_id, received_at) "
        "VALUES ('twilio', 'inbound', 'SM1', now() - interval '5 minutes')",
    )
    assert str(outbox.send()) == "nothing to send"
    query(outbox.database, "UPDATE webhook_events SET status = 'handled'")
    assert str(outbox.send()) == "1 sent"


def test_a_worker_that_was_held_up_before_its_call_calls_no_more(
    outbox: Outbox, clock: DatabaseClock
) -> None:
    outbox.put()
    assert outbox.send(call_within_seconds=-1).outcomes["left"] == 1
    assert outbox.at_twilio() == []
    clock.advance(minutes=3)
    assert str(outbox.send()) == "1 sent"


def test_twilio_is_asked_as_it_wants_and_told_where_to_report(outbox: Outbox, sandbox: Sandbox) -> None:
    outbox.sender = client_of(
        sandbox, sender=None, messaging_service_sid=sandbox.world.twilio.messaging_service_sid
    )
    outbox.put()
    assert str(outbox.send(status_callback="http://127.0.0.1:9/webhooks/twilio/status")) == "1 sent"
    [message] = sandbox.world.twilio.messages
    assert message.status_callback == "http://127.0.0.1:9/webhooks/twilio/status"
