"""Alerts, from the incident to the phone: once, in order, and late rather than never."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from bg_pipelines import alerts
from bg_pipelines.alerts import Delivered
from bg_pipelines.database.engine import Database
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.incidents import reporting
from bg_pipelines.incidents.fingerprints import Circuit
from bg_pipelines.incidents.reporting import Fault
from bg_pipelines.messaging.twilio import TextMessages
from bg_pipelines.platforms.http import Timeouts
from bg_pipelines.queues import JOBS
from bg_pipelines.sandbox import Sandbox, edit
from bg_pipelines.sandbox.faults import Fault as Trouble
from bg_pipelines.settings import Settings, load_settings
from bg_pipelines_tests import conftest
from bg_pipelines_tests.support import DatabaseClock, query

# A database of each test's own, for its clock is set.
database_url = conftest.database_url

PHONE = "+442079460123"
SECRET = "hunter2-hunter2"
AWAY = "postgresql://bg:hunter2-hunter2@127.0.0.1:9/bg"


class House:
    """A database, a sandbox and settings; `ops` and `boss` are hooks, `phone` what the sandbox's Twilio was given."""

    def __init__(self, database: Database, clock: DatabaseClock, sandbox: Sandbox, url: str) -> None:
        self.database, self.clock, self.sandbox = database, clock, sandbox
        account = sandbox.world.twilio
        self.settings = Settings.model_validate(
            {
                "database_url": url,
                "alert_phones": PHONE,
                "alert_urls": f"{self.address('ops')} {self.address('boss')}",
                "twilio_account_sid": account.account_sid,
                "twilio_auth_token": account.auth_token,
                "twilio_from": account.numbers[0],
                "twilio_api_url": sandbox.url,
            }
        )

    def address(self, hook: str) -> str:
        return f"json://bg:{SECRET}@127.0.0.1:{self.sandbox.port}/hooks/{hook}"

    def report(
        self,
        name: str = "harbor",
        *,
        needs_attention: bool = False,
        times: int = 1,
        severity: str = "medium",
    ) -> None:
        error = IntegrationError("no answer within 30 s", error_type="timeout", severity=severity)
        fault = Fault(Circuit(name), f"store {name}", error, needs_attention, units=["products"])
        with self.database.transaction() as connection:
            for _ in range(times):
                reporting.report_fault(connection, fault)

    def clear(self, *names: str) -> None:
        with self.database.transaction() as connection:
            reporting.clear(connection, [Circuit(name) for name in names or ["harbor"]], "the work succeeded")

    def tell(self) -> Delivered:
        return alerts.tell(self.database, self.settings)

    def only(self, **settings: Any) -> None:
        self.settings = self.settings.model_copy(update={"alert_phones": (), "alert_urls": (), **settings})

    def with_phone(self) -> None:
        self.only(alert_phones=self.settings.alert_phones)

    def with_hooks(self) -> None:
        self.only(alert_urls=self.settings.alert_urls)

    def break_hook(self, name: str, kind: str = "server_error") -> None:
        self.sandbox.world.hooks[name].faults.append(Trouble(kind))

    def break_twilio(self, kind: str, **how: Any) -> None:
        self.sandbox.world.twilio.faults.append(Trouble(kind, **{"operation": "CreateMessage", **how}))

    def mend(self) -> None:
        self.sandbox.world.twilio.faults.clear()
        for hook in self.sandbox.world.hooks.values():
            hook.faults.clear()

    def heard(self, hook: str = "ops") -> list[str]:
        return [notice.body["title"] for notice in self.sandbox.world.hooks[hook].received]

    @property
    def phone(self) -> list[str]:
        return [message["body"].splitlines()[0] for message in self.sandbox.world.twilio.export()]

    def rows(self, what: str = "*", table: str = "alert_deliveries") -> list[Any]:
        with self.database.transaction() as connection:
            return connection.execute(f"SELECT {what} FROM {table} ORDER BY 1, 2").fetchall()


@pytest.fixture
def house(
    clock: DatabaseClock, database: Database, database_url: str, make_sandbox: Callable[..., Sandbox]
) -> House:
    return House(database, clock, make_sandbox(shops=1, variants=1), database_url)


OPENED = "[medium] store harbor: timeout"
STILL = f"{OPENED}, still"
OVER = "[all clear] store harbor: timeout"


# What is told


def test_a_fault_is_told_once_on_every_target_however_often_it_is_repeated(house: House) -> None:
    house.report()
    assert house.tell() == Delivered(sent=3)
    house.report(times=5)
    assert house.tell() == Delivered()
    assert (house.heard("ops"), house.heard("boss"), house.phone) == ([OPENED], [OPENED], [OPENED])


def test_the_end_is_told_once(house: House) -> None:
    house.report()
    house.tell()
    house.clear()
    assert house.tell() == Delivered(sent=3)
    assert house.tell() == Delivered()
    assert house.heard() == [OPENED, OVER]
    assert house.phone == [OPENED, OVER]


def test_many_repeats_are_told_once_more(house: House) -> None:
    house.report()
    house.tell()
    house.report(times=alerts.ESCALATE_AFTER)
    house.tell()
    house.report(times=alerts.ESCALATE_AFTER)
    house.tell()
    assert house.heard() == [OPENED, STILL]


def test_what_has_many_repeats_when_it_is_first_told_is_told_once(house: House) -> None:
    house.report(times=alerts.ESCALATE_AFTER)
    house.tell()
    house.tell()
    assert house.heard() == [OPENED]


def test_what_comes_to_need_a_person_is_told_once_more_escalated_or_not(house: House) -> None:
    house.report()
    house.tell()
    house.report(times=alerts.ESCALATE_AFTER)
    house.tell()
    house.report(needs_attention=True)
    house.tell()
    house.report(needs_attention=True)
    house.tell()
    assert house.heard() == [OPENED, STILL, STILL]
    assert "Requires attention." in house.sandbox.world.hooks["ops"].received[-1].body["message"]


def test_a_fault_that_becomes_more_severe_is_told_once_more(house: House) -> None:
    for severity in ("low", "low", "medium", "medium", "low", "high"):
        house.report(severity=severity)
        house.tell()
    assert house.heard() == ["[low] store harbor: timeout", STILL, "[high] store harbor: timeout, still"]


def test_what_needed_a_person_from_the_start_is_told_once(house: House) -> None:
    house.report(needs_attention=True)
    house.tell()
    house.report(needs_attention=True)
    house.tell()
    assert house.heard() == [OPENED]


def test_a_fault_that_comes_and_goes_within_half_an_hour_says_nothing(house: House) -> None:
    house.report()
    house.tell()
    house.clear()
    house.tell()
    for _ in range(4):
        house.clock.advance(minutes=5)
        house.report()
        assert house.tell() == Delivered()
        house.clear()
        assert house.tell() == Delivered()
    assert house.heard() == [OPENED, OVER]


def test_a_fault_that_came_back_and_stayed_is_told_after_that_time(house: House) -> None:
    house.report()
    house.tell()
    house.clear()
    house.tell()
    house.clock.advance(minutes=5)
    house.report()
    house.clock.advance(minutes=24)
    house.tell()
    assert house.heard() == [OPENED, OVER]
    house.clock.advance(minutes=2)
    house.tell()
    house.clear()
    house.tell()
    assert house.heard() == [OPENED, OVER, OPENED, OVER]


def test_a_fault_that_was_over_and_back_before_anybody_heard_never_ended(house: House) -> None:
    house.report()
    house.tell()
    house.clear()
    house.report()
    house.tell()
    assert house.heard() == [OPENED]
    house.clear()
    house.tell()
    assert house.heard() == [OPENED, OVER]


def test_a_fault_that_is_over_before_anybody_heard_is_not_told(house: House) -> None:
    house.report()
    house.clear()
    assert house.tell() == Delivered()
    assert house.rows("notified, 1", "incidents") == [("resolved", 1)]


def test_with_no_targets_nothing_counts_as_told(house: House) -> None:
    settings = house.settings
    house.only()
    house.report()
    assert house.tell() == Delivered()
    house.settings = settings
    assert house.tell() == Delivered(sent=3)


def test_many_faults_are_told_in_one_go(house: House) -> None:
    house.only(alert_urls=house.settings.alert_urls[:1])
    with house.database.transaction() as connection:
        error = IntegrationError.of(ErrorType.TIMEOUT, "no answer")
        for number in range(230):
            reporting.report_fault(connection, Fault(Circuit(f"{number}"), f"store {number}", error, False))
    assert alerts.announce(house.database, alerts.targets(house.settings)) == 230
    delivered = alerts.deliver(house.database, alerts.targets(house.settings), limit=20)
    assert (delivered.sent, delivered.waiting) == (20, 210)


def test_a_critical_alert_is_never_behind_a_hundred_others(house: House) -> None:
    house.with_hooks()
    house.break_hook("ops")
    for number in range(100):
        house.report(f"{number}", severity="high")
    house.tell()
    house.report("fire", severity="critical")
    house.report("old", severity="low")
    house.mend()
    later(house, minutes=15)
    assert [title.split(":")[0] for title in house.heard("ops")[:3]] == [
        "[critical] store fire",
        "[high] store 0",
        "[high] store 1",
    ]
    for _ in range(20):
        later(house, minutes=1)
    assert len(house.heard("ops")) == 102
    assert house.heard("ops")[-1].startswith("[low] store old")


# Targets that are down


def later(house: House, **time: float) -> Delivered:
    house.clock.advance(**time)
    return house.tell()


def test_a_target_that_is_down_holds_up_no_other_and_gets_all_of_it_later_in_order(house: House) -> None:
    house.break_hook("ops")
    house.report("one")
    assert house.tell() == Delivered(sent=2, waiting=1)
    house.report("two")
    house.clear("one")
    later(house, seconds=1)
    house.report("three")
    later(house, minutes=2)
    assert house.heard("ops") == []
    house.mend()
    for _ in range(3):
        later(house, minutes=15)
    expected = [
        "[medium] store one: timeout",
        "[all clear] store one: timeout",
        "[medium] store two: timeout",
        "[medium] store three: timeout",
    ]
    assert house.heard("ops") == expected
    assert house.heard("boss") == expected
    assert house.phone == expected
    assert {row[0] for row in house.rows("status, 1")} == {"sent"}


def test_after_a_failure_the_rest_of_a_target_waits(house: House) -> None:
    house.with_hooks()
    house.break_hook("ops")
    for number in range(5):
        house.report(f"{number}")
    house.tell()
    tried = [row[1] for row in house.rows("alert_id, calls") if row[1]]
    assert len(tried) == 6  # five to one hook, one to the other
    assert len(house.heard("boss")) == 5


def test_an_alert_is_never_given_up_and_tried_at_least_every_quarter_of_an_hour(house: House) -> None:
    house.with_hooks()
    house.break_hook("ops")
    house.report()
    house.tell()
    for tries in range(2, 40):
        later(house, minutes=15)
        [(attempts, status)] = house.rows("attempts, status", "alert_deliveries WHERE status <> 'sent'")
        assert (attempts, status) == (tries, "pending")
    house.mend()
    later(house, minutes=15)
    assert house.heard("ops") == [OPENED]


def test_an_alert_that_a_target_never_takes_holds_up_the_others_only_for_a_while(house: House) -> None:
    house.with_phone()
    house.report("poison")
    house.tell()
    # As if Twilio failed at this one alone.
    with house.database.transaction() as connection:
        connection.execute(
            "UPDATE alert_deliveries SET status = 'pending', attempts = 7, sent_at = NULL, "
            "next_due_at = clock_timestamp()"
        )
    house.sandbox.world.twilio.messages.clear()
    house.break_twilio("server_error", times=1)
    house.report("harbor")
    later(house, seconds=1)
    assert house.phone == [OPENED]
    assert [row[1] for row in house.rows("alert_id, status")] == ["pending", "sent"]


def test_what_a_target_can_never_take_is_refused_and_kept_with_its_reason(house: House) -> None:
    edit(house.sandbox.world.twilio, "set_invalid", numbers=[PHONE], code=21614)
    house.report()
    assert house.tell() == Delivered(sent=2, refused=1)
    later(house, hours=1)
    [(status, error)] = house.rows(
        "status, last_error ->> 'message'", "alert_deliveries WHERE target LIKE 'sms:%'"
    )
    assert status == "refused"
    assert "not a mobile number" in error
    assert (
        house.rows("status, last_error ->> 'message'", "alert_deliveries WHERE status <> 'refused'")[0][1]
        is None
    )


NOBODY = "alert target sms:"


def test_that_a_target_refuses_alerts_is_an_incident_that_the_others_hear_of_once(house: House) -> None:
    edit(house.sandbox.world.twilio, "set_invalid", numbers=[PHONE], code=21614)
    for number in range(12):
        house.report(f"{number}")
    for _ in range(4):
        later(house, minutes=5)
    [incident] = house.rows("*", "incidents WHERE kind = 'target'")
    about = [title for title in house.heard("ops") if NOBODY in title]
    assert len(about) == 1
    assert about[0].startswith("[high] alert target sms:")
    [(message, _)] = house.rows("message, 1", "incidents WHERE kind = 'target'")
    assert "not a mobile number" in message
    assert PHONE[1:] not in json.dumps([str(value) for value in incident])
    # Nothing about it waits for itself, and what waits for it is not told to it.
    assert (
        house.rows(
            "d.status, i.kind",
            "alert_deliveries d JOIN alerts a ON a.id = alert_id JOIN incidents i ON i.id = a.incident_id "
            "WHERE d.target LIKE 'sms:%' AND (i.kind = 'target' OR d.status <> 'refused')",
        )
        == []
    )


def test_two_targets_that_refuse_alerts_end_in_two_incidents_and_no_more_alerts(house: House) -> None:
    other = "+442079460199"
    house.settings = house.settings.model_copy(
        update={"alert_phones": (*house.settings.alert_phones, SecretStr(other)), "alert_urls": ()}
    )
    edit(house.sandbox.world.twilio, "set_invalid", numbers=[PHONE, other], code=21614)
    house.report()
    for _ in range(5):
        later(house, minutes=5)
    assert len(house.rows("*", "incidents WHERE kind = 'target'")) == 2
    assert len(house.rows("id, 1", "alerts")) == 3
    assert house.tell() == Delivered()


def test_a_target_that_takes_alerts_again_or_is_named_no_more_ends_its_incident(house: House) -> None:
    twilio = house.sandbox.world.twilio
    edit(twilio, "set_invalid", numbers=[PHONE], code=21614)
    house.report()
    house.tell()
    twilio.refused.clear()
    house.report("cedar")
    house.tell()
    assert house.rows("status, resolution", "incidents WHERE kind = 'target'") == [
        ("resolved", "it takes alerts again")
    ]
    edit(twilio, "set_invalid", numbers=[PHONE], code=21614)
    house.report("oak")
    house.tell()
    house.with_hooks()
    house.tell()
    assert house.rows("status, resolution", "incidents WHERE kind = 'target'") == [
        ("resolved", "it is no target any more")
    ]


def test_with_nobody_else_to_tell_the_incident_of_a_target_waits_for_somebody(house: House) -> None:
    settings = house.settings
    house.with_phone()
    edit(house.sandbox.world.twilio, "set_invalid", numbers=[PHONE], code=21614)
    house.report()
    assert house.tell() == Delivered(refused=1)
    assert house.tell() == Delivered()
    house.settings = settings
    assert house.tell() == Delivered(sent=2)
    assert NOBODY in house.heard()[0]


def test_where_twilio_s_settings_are_missing_the_alert_waits_for_them(house: House) -> None:
    settings = house.settings
    house.settings = settings.model_copy(update={"twilio_auth_token": None})
    house.report()
    assert house.tell() == Delivered(sent=2, waiting=1)
    [(status, error)] = house.rows(
        "status, last_error ->> 'message'", "alert_deliveries WHERE status <> 'sent'"
    )
    assert (status, error) == ("pending", "text messages cannot be sent: set BG_TWILIO_AUTH_TOKEN")
    house.settings = settings
    assert later(house, minutes=15) == Delivered(sent=3), "the phone's, and what others hear of the phone"
    assert house.phone == [OPENED]


@pytest.mark.parametrize("code", [20006, 21408, 21608, 21612, 21704, 29999, 30038])
def test_what_is_not_the_recipient_s_is_never_final_and_is_said_to_the_others(
    house: House, code: int
) -> None:
    twilio = house.sandbox.world.twilio
    edit(twilio, "set_invalid", numbers=[PHONE], code=code)
    house.report()
    assert house.tell() == Delivered(sent=2, waiting=1)
    later(house, minutes=15)
    [said] = [title for title in house.heard("ops") if NOBODY in title]
    assert said.startswith("[high]")
    [(message, _)] = house.rows("message, 1", "incidents WHERE kind = 'target' AND status = 'open'")
    assert f"code {code}" in message
    edit(twilio, "set_invalid", numbers=[], code=code)
    later(house, minutes=15)
    assert house.phone == [OPENED]
    house.tell()
    assert house.rows("status, 1", "incidents WHERE kind = 'target'") == [("resolved", 1)]


def test_a_rate_limit_without_a_delay_of_its_own_is_backed_off_from(house: House) -> None:
    house.with_phone()
    house.break_twilio("too_many_requests")
    house.report()
    house.tell()
    for _ in range(7):
        later(house, minutes=15)
    [(reason, _)] = house.rows("retry_reason, 1", "alert_deliveries")
    assert reason == "attempt 8 of 10000 failed, next within 900 s"


@pytest.mark.parametrize("kind", ["unauthorized", "server_error", "too_many_requests", "html", "cut"])
def test_while_twilio_is_down_the_alert_waits(house: House, kind: str) -> None:
    house.with_phone()
    house.break_twilio(kind)
    house.report()
    assert house.tell() == Delivered(waiting=1)
    house.mend()
    assert later(house, minutes=15) == Delivered(sent=1)
    assert house.phone == [OPENED]


def test_an_address_that_is_not_understood_waits_and_names_its_position(house: House) -> None:
    good = house.settings.alert_urls[0]
    house.settings = Settings.model_validate({"alert_urls": f"{good.get_secret_value()} nosuch://{SECRET}/x"})
    house.report()
    assert house.tell() == Delivered(sent=1, waiting=1)
    [(error, _)] = house.rows("last_error ->> 'message', 1", "alert_deliveries WHERE status = 'pending'")
    assert "number 2 of 2 in BG_ALERT_URLS" in error


def test_deliveries_of_a_target_that_is_no_longer_named_stay(house: House) -> None:
    settings = house.settings
    house.break_hook("ops")
    house.report()
    house.tell()
    house.mend()
    house.with_phone()
    assert later(house, minutes=15) == Delivered(waiting=1)
    house.settings = settings
    assert house.tell() == Delivered(sent=1)


# Once


@pytest.mark.parametrize("kind", ["apply_then_cut", "half_json", "slow"])
def test_a_message_whose_answer_was_lost_is_not_sent_again(
    house: House, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TextMessages.__init__.__kwdefaults__, "timeouts", Timeouts(1.0, 0.5, 0.5))
    house.with_phone()
    house.break_twilio(kind, times=1)
    house.report()
    assert house.tell() == Delivered(waiting=1)
    assert later(house, seconds=14) == Delivered(waiting=1)
    assert later(house, minutes=15) == Delivered(sent=1)
    [message] = house.sandbox.world.twilio.export()
    assert house.rows("reference, status") == [(message["sid"], "sent")]


def test_a_sender_that_died_before_it_could_note_the_message_is_made_good(house: House) -> None:
    house.with_phone()
    house.report()
    house.tell()
    with house.database.transaction() as connection:
        connection.execute(
            "UPDATE alert_deliveries SET status = 'pending', sent_at = NULL, reference = NULL, lease_owner = 'dead', "
            "next_due_at = clock_timestamp(), lease_expires_at = clock_timestamp() + interval '60 seconds'"
        )
    assert later(house, seconds=59) == Delivered(waiting=1)
    assert later(house, seconds=2) == Delivered(sent=1)
    assert len(house.phone) == 1


def test_a_sender_that_died_before_it_sent_is_made_good(house: House) -> None:
    house.report()
    alerts.announce(house.database, alerts.targets(house.settings))
    with house.database.transaction() as connection:
        connection.execute(
            "UPDATE alert_deliveries SET calls = 1, lease_owner = 'dead', "
            "lease_expires_at = clock_timestamp() + interval '60 seconds'"
        )
    assert later(house, seconds=61) == Delivered(sent=3)
    assert (house.heard("ops"), house.heard("boss"), house.phone) == ([OPENED], [OPENED], [OPENED])


def test_while_the_message_cannot_be_looked_up_it_is_not_sent_again(house: House) -> None:
    house.with_phone()
    house.break_twilio("apply_then_cut", times=1)
    house.break_twilio("server_error", operation="ListMessage")
    house.report()
    house.tell()
    for _ in range(3):
        assert later(house, minutes=15) == Delivered(waiting=1)
    house.mend()
    assert later(house, minutes=15) == Delivered(sent=1)
    assert len(house.phone) == 1


def test_several_at_once_send_each_alert_once(house: House) -> None:
    for number in range(8):
        house.report(f"{number}")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: house.tell(), range(8)))
    while house.tell().waiting:
        pass
    for heard in (house.heard("ops"), house.heard("boss"), house.phone):
        assert heard == [f"[medium] store {number}: timeout" for number in range(8)]


def test_a_number_of_another_database_s_alert_is_not_taken_for_this_one(house: House) -> None:
    house.with_phone()
    account = house.sandbox.world.twilio
    house.sandbox.world.clock.offset_seconds = -86_400
    account.add_message(to=PHONE, body="old\n#1.1", sender=account.numbers[0], service_sid=None)
    house.sandbox.world.clock.offset_seconds = 0
    house.break_twilio("server_error", times=1)
    house.report()
    house.tell()
    later(house, minutes=15)
    assert house.phone == ["old", OPENED]


def test_two_installations_on_one_account_and_phone_never_take_each_other_s_alert_for_theirs(
    house: House,
) -> None:
    # Two databases' first alerts, both of an unclear first try: the one sent, the other not.
    house.with_phone()
    house.break_twilio("apply_then_cut", times=1)
    house.report()
    house.tell()
    query(house.database, "TRUNCATE alerts, incidents, alert_deliveries RESTART IDENTITY CASCADE")
    house.break_twilio("server_error", times=1)
    house.report()
    house.tell()
    later(house, minutes=15)
    assert house.phone == [OPENED, OPENED]


def test_an_account_that_keeps_no_texts_has_an_alert_twice_rather_than_never(house: House) -> None:
    house.with_phone()
    house.break_twilio("apply_then_cut", times=1)
    house.report()
    house.tell()
    house.sandbox.world.twilio.messages[0].body = "****"
    assert later(house, minutes=15) == Delivered(sent=1)
    assert len(house.phone) == 2


# Secrets


def test_no_number_address_or_secret_is_in_tables_or_logs(
    house: House, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.DEBUG):
        house.break_hook("ops")
        house.break_twilio("server_error", times=1)
        house.report()
        house.tell()
        house.mend()
        edit(house.sandbox.world.twilio, "set_invalid", numbers=[PHONE], code=21211)
        later(house, minutes=15)
    shown = caplog.text + "".join(capfd.readouterr()) + repr(house.settings)
    for table in ("incidents", "alerts", "alert_deliveries"):
        shown += repr(house.rows("*", table))
    for secret in (PHONE, PHONE[1:], SECRET, house.sandbox.world.twilio.auth_token):
        assert secret not in shown
    assert {row[1].partition(":")[0] for row in house.rows()} == {"sms", "json"}


# A run that failed


def database_error(server: str) -> IntegrationError:
    return IntegrationError.of(
        ErrorType.DATABASE, f"PostgreSQL: {server}", source="database", details={"server": server}
    )


FAILURE = database_error("away")
FAILED = "[critical] the database: database"


def fail(
    house: House,
    run: str = "run-1",
    error: IntegrationError = FAILURE,
    job: str = "store_sync",
    tier: str | None = None,
) -> None:
    alerts.report_failure(job, error, run_id=run, tier=tier, settings=house.settings)


def work(house: House, job: str = "store_sync", tier: str | None = None) -> None:
    with house.database.transaction() as connection:
        reporting.clear_job(connection, job, tier)
    house.tell()


def answer(house: House) -> None:
    with house.database.transaction() as connection:
        reporting.clear_database_outages(connection)
    house.tell()


def database_away(house: House) -> None:
    house.settings = house.settings.model_copy(
        update={"database_url": Settings.model_validate({"database_url": AWAY}).database_url}
    )


def test_a_failed_run_is_an_incident_and_told(house: House) -> None:
    fail(house, error=IntegrationError.of(ErrorType.CONFIGURATION, "a key is missing"))
    [(fingerprint, job, needs_attention, told)] = house.rows(
        "fingerprint, job, needs_attention, notified", "incidents"
    )
    assert (fingerprint, job, needs_attention, told) == (
        "job:store_sync:configuration",
        "store_sync",
        True,
        "open",
    )
    assert house.heard() == ["[high] job store_sync: configuration"]


def test_with_the_database_away_every_target_is_told_once_in_half_an_hour(house: House) -> None:
    working = house.settings
    database_away(house)
    fail(house, "run-1")
    fail(house, "run-2")
    assert (house.heard("ops"), house.heard("boss"), house.phone) == ([FAILED], [FAILED], [FAILED])
    age_file(house, minutes=31)
    fail(house, "run-3")
    assert house.heard("ops") == [FAILED, FAILED]
    assert SECRET not in (house.settings.home / "alerts-sent.json").read_text()
    # Another fault is another alert.
    fail(house, "run-4", IntegrationError.of(ErrorType.CONFIGURATION, "a key is missing"))
    assert len(house.heard("ops")) == 3
    house.settings = working


def age_file(house: House, **time: float) -> None:
    path = house.settings.home / "alerts-sent.json"
    known = json.loads(path.read_text())
    for entry in known.values():
        entry["began_at"] = (datetime.fromisoformat(entry["began_at"]) - timedelta(**time)).isoformat()
    path.write_text(json.dumps(known))


def test_who_was_not_reached_is_tried_again_and_the_others_are_left_in_peace(house: House) -> None:
    database_away(house)
    house.break_hook("ops")
    house.break_twilio("apply_then_cut", times=1)
    fail(house, "run-1")
    assert (house.heard("ops"), house.heard("boss"), house.phone) == ([], [FAILED], [FAILED])
    house.mend()
    fail(house, "run-2")
    assert (house.heard("ops"), house.heard("boss"), house.phone) == ([FAILED], [FAILED], [FAILED])


def test_when_the_database_is_back_the_fault_is_one_that_people_know_of_and_its_end_is_told(
    house: House,
) -> None:
    working = house.settings
    database_away(house)
    house.break_hook("boss")
    fail(house)
    house.mend()
    house.settings = working
    assert house.tell() == Delivered(waiting=1)
    assert later(house, seconds=15) == Delivered(sent=1)
    assert (house.heard("ops"), house.heard("boss"), house.phone) == ([FAILED], [FAILED], [FAILED])
    assert house.tell() == Delivered()
    with house.database.transaction() as connection:
        assert reporting.clear_job(connection, "store_sync") == 1
    assert house.tell() == Delivered(sent=3)
    over = "[all clear] the database: database"
    assert (house.heard("ops"), house.heard("boss"), house.phone) == ([FAILED, over],) * 3


def test_a_second_outage_within_half_an_hour_is_recorded_as_well(house: House) -> None:
    working = house.settings
    for run in ("run-1", "run-2"):
        house.settings = working
        database_away(house)
        fail(house, run)
        house.settings = working
        assert house.tell().fault is None
        with house.database.transaction() as connection:
            reporting.clear_job(connection, "store_sync")
        later(house, seconds=20)
    assert house.phone.count(FAILED) == 1, "nobody is told twice within that time"
    assert house.rows("status, 1", "incidents") == [("resolved", 1)]


def test_a_database_that_is_away_is_one_fault_whatever_meets_it(house: House) -> None:
    working = house.settings
    database_away(house)
    for job in JOBS:
        fail(house, f"{job} tick", job=job, tier="1")
    house.settings = working
    fail(house, "one that could be recorded", job="inventory_sync", tier="2")
    answer(house)
    assert (house.heard(), house.phone) == ([FAILED], [FAILED]), "it may be gone again at once"
    house.clock.advance(minutes=2)
    answer(house)
    assert house.heard() == house.phone == [FAILED, "[all clear] the database: database"]


@pytest.mark.parametrize("server", ["53100", "refuses"])
def test_a_database_that_is_full_is_one_fault_until_all_who_met_it_have_worked(
    house: House, server: str
) -> None:
    for minute in range(40):
        if minute % 5 == 0:
            fail(house, f"store_sync {minute}", database_error(server), tier="1")
            fail(house, f"customer_sync {minute}", database_error(server), job="customer_sync", tier="1")
        answer(house)  # which it does, all the time
        house.clock.advance(minutes=1)
    assert house.heard() == [FAILED, f"{FAILED}, still"]
    work(house, "store_sync", "1")
    work(house, "inventory_sync", "1")
    assert len(house.heard()) == 2
    work(house, "customer_sync", "1")
    assert house.heard()[2:] == ["[all clear] the database: database"]


def test_settings_that_are_wrong_are_one_fault_until_any_run_works(house: House) -> None:
    for setting in ("BG_ENCRYPTION_KEY is not a key", "BG_HOME_DIR is no directory"):
        wrong = IntegrationError.of(ErrorType.CONFIGURATION, setting, source="settings")
        for job in JOBS:
            fail(house, f"{job} run", wrong, job)
    assert house.heard() == ["[high] the settings: configuration"] * 2
    work(house, "inventory_sync", "3")
    assert house.heard()[2:] == ["[all clear] the settings: configuration"] * 2


def test_a_run_that_dies_at_every_tick_is_one_fault_however_well_other_tiers_do(house: House) -> None:
    died = IntegrationError.of(ErrorType.UNKNOWN, "run 1 of store_sync died: SIGKILL", source="dagster")
    for minute in range(0, 40, 5):
        fail(house, f"run {minute}", died, tier="3")
        house.clock.advance(minutes=1)
        work(house, tier="1")
        work(house, tier="retries")
        house.clock.advance(minutes=4)
    fail(house, "another", died, tier="2")
    opened = "[medium] job store_sync: unknown"
    assert house.heard() == [opened]
    work(house, tier="3")
    assert house.heard() == [opened]
    work(house, tier="2")
    assert house.heard() == [opened, "[all clear] job store_sync: unknown"]


def test_what_a_tier_without_stores_once_met_does_not_stay_open(house: House) -> None:
    died = IntegrationError.of(ErrorType.UNKNOWN, "run 1 of store_sync died: SIGKILL", source="dagster")
    fail(house, error=died, tier="3")
    house.clock.advance(minutes=119)
    work(house, tier="1")
    assert house.rows("status, notified", "incidents") == [("open", "open")]
    house.clock.advance(minutes=2)
    work(house, tier="1")
    assert house.rows("status, notified", "incidents") == [("resolved", "resolved")]


def test_a_run_by_hand_that_did_all_ends_what_any_tier_reported(house: House) -> None:
    died = IntegrationError.of(ErrorType.UNKNOWN, "run 1 of store_sync died: SIGKILL", source="dagster")
    fail(house, error=died, tier="3")
    fail(house, "by hand", error=died)
    work(house, tier=reporting.MANUAL)
    assert house.rows("status, affected_runs", "incidents") == [("open", ["store_sync/3"])]
    work(house)
    assert house.rows("status, affected_runs", "incidents") == [("resolved", [])]


def test_a_failure_that_reached_nobody_is_told_when_the_database_is_back(house: House) -> None:
    working = house.settings
    database_away(house)
    house.break_hook("ops")
    house.break_hook("boss")
    house.break_twilio("server_error")
    fail(house)
    house.mend()
    house.settings = working
    assert house.tell() == Delivered(waiting=3)
    assert later(house, seconds=15) == Delivered(sent=3)
    assert house.heard() == [FAILED]


@pytest.mark.parametrize("hooks", [True, False], ids=["somebody was reached", "nobody was reached"])
def test_an_alert_whose_answer_was_lost_while_the_database_was_away_is_not_sent_again_when_it_is_back(
    house: House, hooks: bool
) -> None:
    if not hooks:
        house.with_phone()
    working = house.settings
    database_away(house)
    house.break_twilio("apply_then_cut", times=1)
    fail(house)
    house.settings = working
    house.tell()
    assert later(house, seconds=15) == Delivered(sent=1)
    assert house.phone == [FAILED]
    [message] = house.sandbox.world.twilio.export()
    assert house.rows("reference, 1", "alert_deliveries WHERE target LIKE 'sms:%'") == [(message["sid"], 1)]


def test_a_failure_that_an_earlier_release_left_in_the_file_is_recorded(house: House) -> None:
    working = house.settings
    database_away(house)
    fail(house)
    path = house.settings.home / "alerts-sent.json"
    known = json.loads(path.read_text())
    for entry in known.values():
        entry["unrecorded"].pop("units")
        entry["unrecorded"]["resources"] = ["products"]
    path.write_text(json.dumps(known))
    house.settings = working
    house.tell()
    assert house.rows("resources, notified", "incidents") == [(["products"], "open")]


def test_a_run_that_is_reported_again_by_somebody_else_is_not_told_twice(house: House) -> None:
    working = house.settings
    database_away(house)
    fail(house)
    house.settings = working
    fail(house)
    assert house.heard() == [FAILED]
    assert house.rows("occurrences, notified", "incidents") == [(1, "open")]


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"job:store_sync:database": 3}', '{"x": {"began_at": 1}}']
)
def test_a_file_that_makes_no_sense_keeps_nobody_from_being_told(house: House, content: str) -> None:
    database_away(house)
    house.settings.home.mkdir()
    (house.settings.home / "alerts-sent.json").write_text(content)
    fail(house)
    assert house.heard() == [FAILED]


def test_a_file_that_can_be_neither_read_nor_written_keeps_nobody_from_being_told(
    house: House, tmp_path: Path
) -> None:
    database_away(house)
    (tmp_path / "file").write_text("")
    house.settings = house.settings.model_copy(update={"home_dir": tmp_path / "file" / "home"})
    house.settings.__dict__.pop("home", None)
    fail(house)
    fail(house)
    assert house.heard() == [FAILED], "this process has it in mind"


def test_a_database_that_is_not_migrated_is_still_reported(house: House) -> None:
    with house.database.transaction() as connection:
        connection.execute("ALTER TABLE incidents RENAME TO incidents_of_old")
    fail(house)
    assert house.heard() == [FAILED]
    delivered = house.tell()
    assert delivered.fault is not None
    assert "UndefinedTable" in delivered.fault


def test_two_failures_at_once_are_told_once(house: House) -> None:
    database_away(house)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: fail(house, f"run-{number}"), range(4)))
    assert house.heard() == [FAILED]


def test_reporting_never_raises(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("BG_DATABASE_URL", SECRET)
    alerts.report_failure("store_sync", FAILURE, run_id="run-1")
    assert "is not recorded: settings are wrong: BG_DATABASE_URL" in caplog.text
    assert "no target could be reached: the database: PostgreSQL" in caplog.text
    database_away(house)
    house.only()
    fail(house)
    assert SECRET not in caplog.text


def test_wrong_settings_keep_nobody_from_being_told_whom_the_right_ones_name(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BG_ALERT_URLS", house.address("ops"))
    monkeypatch.setenv("BG_ALERT_PHONES", "nobody")
    monkeypatch.setenv("BG_DATABASE_URL", SECRET)
    with pytest.raises(IntegrationError) as raised:
        load_settings()
    for job in JOBS:
        alerts.report_failure(job, raised.value, run_id=f"{job} tick")
    assert house.heard("ops") == ["[high] the settings: configuration"]
    assert not (Path(".bg") / "postgres").exists(), "no server is started where one's address is wrong"


def test_telling_never_raises_and_says_what_is_wrong(house: House) -> None:
    away = Database(AWAY)
    delivered = alerts.tell(away, house.settings)
    assert delivered.fault is not None
    assert delivered.fault.startswith("announcing: PostgreSQL is not available")
    assert SECRET not in str(delivered)
    assert str(Delivered(1, 2, 3)) == "1 sent, 2 waiting, 3 refused"


def test_that_time_goes_by_how_long_ago_it_was_whatever_the_two_clocks_say(house: House) -> None:
    working = house.settings
    database_away(house)
    fail(house)
    age_file(house, minutes=20)
    house.settings = working
    house.clock.set(datetime(2031, 1, 1, tzinfo=UTC))
    house.tell()
    [(notified_at, _)] = house.rows("notified_at, id", "incidents")
    assert abs(notified_at - datetime(2030, 12, 31, 23, 40, tzinfo=UTC)) < timedelta(seconds=30)
