"""Whatever happens, in whatever order: each message is at Twilio once or says why not, and nobody is sent to who should not
be.

Random histories (consent given and revoked, here and at the platform, replies, carts that are left, moves between states,
clocks, changes of daylight saving, lost answers, kills, rates) beside a plain model of what the law wants; the sandbox's
ledger is what is compared. `BG_TEST_FULL=1` tries twenty times as many.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from bg_pipelines.database.engine import Database
from bg_pipelines.errors import IntegrationError
from bg_pipelines.messaging import answers, consent
from bg_pipelines.messaging.answers import AnswerRules
from bg_pipelines.messaging.checks import Rules
from bg_pipelines.sandbox import Fault, Sandbox
from bg_pipelines_tests.messaging.conftest import EMPTIED, SHOP, Outbox, client_of
from bg_pipelines_tests.messaging.test_sending import Killed, KilledSender
from bg_pipelines_tests.support import DatabaseClock, query

PHONES = ("+12125550123", "+13055550124", "+12145550125", "+15025550126", "+13105550127")
HOURS: dict[str, tuple[str, int, int]] = {
    PHONES[0]: ("America/New_York", 8, 21),
    PHONES[1]: ("America/New_York", 8, 20),
    PHONES[2]: ("America/Chicago", 9, 21),
    PHONES[3]: ("America/New_York", 10, 21),
    PHONES[4]: ("America/Los_Angeles", 8, 21),
}
STATES: dict[str | None, tuple[str, int, int] | None] = {
    None: None,
    "CT": ("America/New_York", 9, 20),
    "HI": ("Pacific/Honolulu", 8, 21),
    "WA": ("America/Los_Angeles", 8, 21),
}
RULES = Rules(daily_messages=2, daily_segments=40, cart_reminders=True)
KINDS = ("product_share", "customer_alert")
REMINDER = "cart_reminder"
SCOPES = (*KINDS, consent.ALL, REMINDER)
EXAMPLES = 300 if os.environ.get("BG_TEST_FULL") == "1" else 15
SUNDAY_HOURS = 12
"""In Texas, until noon."""


@dataclass
class Model:
    """What is known of a number: until when it may be sent to at a moment, by everything that was said and done."""

    may: dict[tuple[str, str], bool] = field(default_factory=dict)
    stopped: dict[tuple[str, str], bool] = field(default_factory=dict)
    states: dict[str, str | None] = field(default_factory=dict)

    def say(self, phone: str, scope: str, gives: bool) -> None:
        """What was said of a kind, or of everything, which is no consent to reminders of carts."""
        for kind in (*KINDS, REMINDER) if scope == consent.ALL else (scope,):
            self.may[phone, kind] = gives and (kind != REMINDER or scope == REMINDER)
            self.stopped[phone, kind] = not gives

    def hours_allow(self, phone: str, at: datetime) -> bool:
        clocks = [HOURS[phone], STATES[self.states.get(phone)]]
        for of in clocks:
            if of is None:
                continue
            local = at.astimezone(ZoneInfo(of[0]))
            opens = SUNDAY_HOURS if phone == PHONES[2] and of is clocks[0] and local.weekday() == 6 else of[1]
            if not opens <= local.hour < of[2]:
                return False
        return True


class History:
    """A house, its recipients and Twilio, on one clock."""

    def __init__(self, database: Database, sandbox: Sandbox, clock: DatabaseClock, start: datetime) -> None:
        clock.set(start)
        query(database, f"TRUNCATE {EMPTIED} RESTART IDENTITY CASCADE")
        query(database, SHOP)
        self.clock = clock
        self.account = sandbox.world.twilio
        self.account.messages.clear()
        self.account.faults.clear()
        self.account.opted_out.clear()
        sandbox.world.clock.read = lambda: clock.now.timestamp()
        self.outbox = Outbox(database, sandbox, client_of(sandbox), RULES)
        self.model = Model()
        self.kinds: dict[str, str] = {}
        self.asked_for: set[str] = set()
        self.replies = self.checked = self.carts = 0
        for number, phone in enumerate(PHONES):
            query(
                database,
                "INSERT INTO customers (store_id, external_id, source_updated_at, first_name, phone, email_verified, "
                "addresses, tags, source_created_at) VALUES (1, %s, now(), 'A', %s, false, '[]', '{}', now())",
                f"c{number}",
                phone,
            )

    # The events

    def put(self, phone: int, alert: bool, requested: bool) -> None:
        about: dict[str, Any] = {"requested_by": "jane" if requested else None}
        if alert:
            about |= {"template": "order_ready", "product": None, "order": "o1"}
        with suppress(IntegrationError):
            id_ = self.outbox.put(PHONES[phone], **about)
            row = self.outbox.row(id_)
            self.kinds[row["reference"]] = row["kind"]
            if requested:
                self.asked_for.add(row["reference"])

    def consents(self, phone: int, kind: int, gives: bool) -> None:
        scope = SCOPES[kind]
        self.wait(1)
        given = "confirmed" if scope == REMINDER else "granted"
        with self.outbox.database.transaction() as connection:
            event = consent.Event(PHONES[phone], scope, given if gives else "revoked", "form", "web")
            consent.record(connection, event)
        self.model.say(PHONES[phone], scope, gives)

    def platform_says(self, phone: int, gives: bool) -> None:
        """It lifts no opt-out of ours, and is no word about reminders of carts; what it revokes counts for them, too."""
        self.wait(1)
        query(
            self.outbox.database,
            # As a sync writes it: what a platform says is never later than when it was read.
            "UPDATE customers SET sms_consent = %s, sms_consent_at = now(), synced_at = now() WHERE phone = %s",
            "subscribed" if gives else "unsubscribed",
            PHONES[phone],
        )
        for kind in KINDS if gives else (*KINDS, REMINDER):
            self.model.may[PHONES[phone], kind] = gives

    def leaves_a_cart(self, phone: int) -> None:
        self.carts += 1
        for statement in (
            "INSERT INTO carts (store_id, external_id, source_updated_at, source_created_at, phone, abandoned_at) "
            "SELECT 1, cart, now() - interval '3 hours', now(), phone, now() FROM given",
            "INSERT INTO cart_items (store_id, external_id, source_updated_at, cart_external_id, title, quantity) "
            "SELECT 1, cart, now(), cart, 'Scarf', 1 FROM given",
            "INSERT INTO cart_events (store_id, cart_external_id, kind) SELECT 1, cart, 'cart.abandoned' FROM given",
        ):
            query(
                self.outbox.database,
                f"WITH given AS (SELECT %s::text AS cart, %s::text AS phone) {statement}",
                f"cart {self.carts}",
                PHONES[phone],
            )

    def replies_with(self, phone: int, body: str) -> None:
        self.wait(1)
        self.replies += 1
        number = PHONES[phone]
        was_stopped = any(self.model.stopped.get((number, kind)) for kind in (*KINDS, REMINDER))
        fields = {"From": number, "Body": body, "MessageSid": f"SM{self.replies}"}
        with self.outbox.database.transaction() as connection:
            answers.handle(connection, "inbound", fields, AnswerRules())
        if body != "START":
            self.model.say(number, consent.ALL, False)
        elif was_stopped:
            self.model.say(number, consent.ALL, True)

    def moves(self, phone: int, state: str | None) -> None:
        self.model.states[PHONES[phone]] = state
        address = "[]" if state is None else f'[{{"country_code": "US", "province_code": "{state}"}}]'
        query(
            self.outbox.database,
            "UPDATE customers SET addresses = %s WHERE phone = %s",
            address,
            PHONES[phone],
        )

    def wait(self, minutes: int) -> None:
        self.clock.advance(minutes=minutes)

    def fault(self, kind: str) -> None:
        self.account.faults.append(Fault(kind, times=1, operation="CreateMessage"))

    def lost_look_up(self) -> None:
        self.account.faults.append(Fault("server_error", times=1, operation="ListMessage"))

    def run(self) -> None:
        self.outbox.send(workers=2)
        self.check_new()

    def killed_run(self, before: bool) -> None:
        with suppress(Killed):
            self.outbox.send(KilledSender(self.outbox.sender, before), workers=1)
        self.check_new()

    # What holds after each

    def check_new(self) -> None:
        """Each message that Twilio has been given since the last look was right at this moment."""
        now = self.clock.now
        reminders = "SELECT reference FROM text_messages WHERE template = 'cart_reminder'"
        self.kinds |= dict.fromkeys(
            (row["reference"] for row in query(self.outbox.database, reminders)), REMINDER
        )
        for message in self.account.messages[self.checked :]:
            reference = next((known for known in self.kinds if known in message.body), None)
            if reference is None:
                assert "opted out" in message.body, "a confirmation, which goes to who has just opted out"
                continue
            kind, phone = self.kinds[reference], message.to
            assert not self.model.stopped.get((phone, kind)), f"{phone} had opted out of {kind}"
            assert self.model.may.get((phone, kind)) or reference in self.asked_for, "nobody had consented"
            assert self.model.hours_allow(phone, now), f"{now} is a quiet hour of {phone}"
        self.checked = len(self.account.messages)
        a_day_ago = now.timestamp() - 24 * 3600
        sent = Counter(
            message.to
            for message in self.account.messages
            if message.created_at > a_day_ago and any(known in message.body for known in self.kinds)
        )
        assert max(sent.values(), default=0) <= RULES.daily_messages
        assert sum(sent.values()) <= RULES.daily_segments

    def end(self) -> None:
        """Nothing fails any more: everything that is due is done, until nothing is."""
        self.account.faults.clear()
        for _ in range(60):
            [row] = query(
                self.outbox.database,
                "SELECT min(greatest(next_due_at, lease_expires_at)) AS due FROM text_messages WHERE status = 'pending'",
            )
            if row["due"] is None:
                break
            self.clock.set(max(self.clock.now, row["due"]) + timedelta(seconds=1))
            self.run()
        rows = query(self.outbox.database, "SELECT * FROM text_messages WHERE kind <> 'service'")
        at_twilio = Counter(
            reference
            for message in self.account.messages
            for reference in self.kinds
            if reference in message.body
        )
        for row in rows:
            times = at_twilio[row["reference"]]
            assert row["status"] != "pending" or row["incident_id"], (
                "it was neither sent nor refused nor parked"
            )
            assert times == (1 if row["status"] == "queued" else 0), (times, row["status"], row["reason"])
            assert row["status"] != "refused" or row["reason"]


PHONE = st.integers(0, len(PHONES) - 1)
FAULTS = ["apply_then_cut", "half_json", "cut", "server_error", "too_many_requests", "html"]
EVENT = st.one_of(
    st.tuples(st.just("put"), PHONE, st.booleans(), st.booleans()),
    st.tuples(st.just("put"), PHONE, st.booleans(), st.booleans()),
    st.tuples(st.just("consents"), PHONE, st.integers(0, 3), st.booleans()),
    st.tuples(st.just("platform_says"), PHONE, st.booleans()),
    st.tuples(st.just("leaves_a_cart"), PHONE),
    st.tuples(
        st.just("replies_with"), PHONE, st.sampled_from(["STOP", "alto", "please stop texting", "START"])
    ),
    st.tuples(st.just("moves"), PHONE, st.sampled_from([None, "CT", "HI", "WA"])),
    st.tuples(st.just("wait"), st.integers(1, 20 * 60)),
    st.tuples(st.just("fault"), st.sampled_from(FAULTS)),
    st.tuples(st.just("lost_look_up")),
    st.tuples(st.just("run")),
    st.tuples(st.just("run")),
    st.tuples(st.just("killed_run"), st.booleans()),
)
STARTS = [
    datetime(2026, 11, 23, 17, tzinfo=UTC),
    datetime(2026, 3, 8, 5, tzinfo=UTC),  # the night in which the clocks go forward
    datetime(2026, 10, 31, 22, tzinfo=UTC),  # and back
    datetime(2026, 11, 29, 14, tzinfo=UTC),  # a Sunday
]


@pytest.mark.timeout(1200 if EXAMPLES > 15 else 180)
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
@given(start=st.sampled_from(STARTS), events=st.lists(EVENT, min_size=12, max_size=30))
def test_each_message_is_sent_once_and_to_nobody_who_should_not_get_it(
    database: Database,
    sandbox: Sandbox,
    clock: DatabaseClock,
    start: datetime,
    events: list[tuple[Any, ...]],
) -> None:
    history = History(database, sandbox, clock, start)
    for name, *arguments in events:
        act: Callable[..., None] = getattr(history, name)
        act(*arguments)
    history.end()
