"""Profile updates both ways: our edits reach the platform once, its own changes are recorded, nobody's data leaks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bg_pipelines import platforms
from bg_pipelines.customers import changes, editing
from bg_pipelines.database import load
from bg_pipelines.database.engine import Database
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.incidents.handling import retry
from bg_pipelines.incidents.reading import list_incidents
from bg_pipelines.platforms.protocol import Platform, UpdateOutcome
from bg_pipelines.queues import Unit
from bg_pipelines.records import Customer, Page, Resource
from bg_pipelines.sandbox import Fault, Sandbox, Shop, edit
from bg_pipelines.sync import Limits, Summary, SyncRequest, SyncRun, deletions
from bg_pipelines_tests.dagster_runs import execute, metadata
from bg_pipelines_tests.support import KEY, SALES, Scripted, expire_leases, query, source_rows, wait_for

MARKER = "Zyxomma"
ERASED = {"from_value": None, "to_value": None, "found_value": None}


class Meddled:
    """The real platform, with something done before one of its methods."""

    def __init__(self, platform: Platform, **before: Callable[[], object]) -> None:
        self._platform, self._before = platform, before

    def __getattr__(self, name: str) -> Any:
        self._before.pop(name, lambda: None)()
        return getattr(self._platform, name)


@dataclass
class Back:
    """A store whose customers are synced, and what one does to it from both sides."""

    database: Database
    cipher: Cipher
    sandbox: Sandbox
    shop: Shop
    name: str
    run: Callable[..., Summary]

    def sync(self, **options: Any) -> Summary:
        return self.run(units=(Unit.CUSTOMERS,), stores=(self.name,), **options)

    def run_with(
        self, kind: type[SyncRun] = SyncRun, limits: Limits | None = None, **before: Callable[[], object]
    ) -> Summary:
        """A sync of a kind, in which something is done before a method of the platform's is called."""

        def connect(access: platforms.StoreAccess, sleep: Callable[[float], object]) -> Platform:
            platform = platforms.connect(access, api_version="2026-07", sleep=sleep)
            return Meddled(platform, **before)  # type: ignore[return-value]

        request = SyncRequest((Unit.CUSTOMERS,), stores=(self.name,))
        return kind(
            self.database,
            self.cipher,
            request,
            run_id="meddled",
            connect=connect,
            log=lambda _: None,
            limits=limits,
        ).run()

    def ids(self) -> list[str]:
        rows = query(
            self.database,
            "SELECT external_id FROM customers WHERE email IS NOT NULL AND phone IS NOT NULL AND first_name IS NOT NULL "
            "AND deleted_at IS NULL ORDER BY external_id",
        )
        return [row["external_id"] for row in rows]

    def held(self, customer: str) -> dict[str, Any]:
        [row] = query(self.database, "SELECT * FROM customers WHERE external_id = %s", customer)
        return row

    def source(self, customer: str) -> dict[str, Any]:
        export: list[dict[str, Any]] = self.shop.export(["customers"])["customers"]
        return next(row for row in export if row["id"] == customer)

    def edit(self, customer: str, **values: Any) -> None:
        assert editing.edit(self.database, self.name, customer, values, by="Ada")

    def edit_there(self, customer: str, *, seconds_from_now: float = 0, **fields: Any) -> None:
        """The shop's staff edits a customer, at another time than now where the test says so."""
        clock = self.sandbox.world.clock
        clock.offset_seconds += seconds_from_now
        edit(self.shop, "update_customer", id=customer, fields=fields)
        clock.offset_seconds -= seconds_from_now

    def changes(self, customer: str | None = None, **like: Any) -> list[dict[str, Any]]:
        rows = query(self.database, "SELECT * FROM customer_changes ORDER BY id")
        return [
            row
            for row in rows
            if customer in (None, row["customer_external_id"])
            and all(row[name] == value for name, value in like.items())
        ]

    def statuses(self, customer: str) -> list[tuple[str, str]]:
        return [(row["field"], row["status"]) for row in self.changes(customer)]

    def writes(self) -> list[str]:
        """The operations by which customers were changed, or were meant to be."""
        return [r.operation for r in self.sandbox.world.requests() if r.operation.startswith("Update")]


@pytest.fixture
def back(
    make_sandbox: Callable[..., Sandbox],
    add_shops: Callable[[Sandbox], list[str]],
    sync: Callable[..., Summary],
    database: Database,
    cipher: Cipher,
) -> Back:
    sandbox = make_sandbox(shops=1, variants=3, customers=30, orders_per_customer=1)
    [name] = add_shops(sandbox)
    [shop] = sandbox.world.shops.values()
    back = Back(database, cipher, sandbox, shop, name, sync)
    assert back.sync().failures == []
    return back


# From us to the platform


def test_an_edit_reaches_the_platform_in_one_call_and_both_sides_are_equal_at_once(back: Back) -> None:
    customer = back.ids()[0]
    before = back.held(customer)
    back.edit(customer, first_name="Grace", note="likes blue", tags=["vip", "Berlin"], locale="de")
    assert back.held(customer) == before, "the customer is what the platform has"
    back.sandbox.world.forget_requests()
    summary = back.sync()
    assert (summary.changes_applied, summary.changes_left, summary.failures) == (4, [], [])
    assert back.writes() == ["UpdateCustomer"]
    there, here = back.source(customer), back.held(customer)
    assert (there["firstName"], there["note"], there["locale"]) == ("Grace", "likes blue", "de")
    assert (here["first_name"], here["note"], here["locale"]) == ("Grace", "likes blue", "de")
    assert set(there["tags"]) == set(here["tags"]) == {"vip", "Berlin"}
    assert set(back.statuses(customer)) == {
        (field, "applied") for field in ("first_name", "note", "tags", "locale")
    }
    [change] = back.changes(customer, field="first_name")
    assert (change["changed_by"], change["from_value"], change["to_value"]) == (
        "Ada",
        before["first_name"],
        "Grace",
    )
    assert change["changed_at"] <= change["settled_at"]
    back.sync()
    assert len(back.changes()) == 4, "what was our own edit is not recorded as the platform's too"


def test_consents_and_contacts_are_edited_too_and_a_value_can_be_taken_away(back: Back) -> None:
    first, second = back.ids()[:2]
    for customer in (first, second):
        back.edit_there(
            customer,
            seconds_from_now=-60,
            emailMarketingState="SUBSCRIBED",
            smsMarketingState="NOT_SUBSCRIBED",
        )
    back.sync()
    back.edit(first, email_consent="unsubscribed", sms_consent="subscribed", email="new@example.com")
    back.edit(second, phone=None, last_name=None)
    summary = back.sync()
    assert (summary.changes_applied, summary.changes_left) == (5, [])
    there = back.source(first)
    assert there["defaultEmailAddress"]["marketingState"] == "UNSUBSCRIBED"
    assert there["defaultEmailAddress"]["emailAddress"] == "new@example.com"
    assert there["defaultPhoneNumber"]["marketingState"] == "SUBSCRIBED"
    here = back.held(first)
    assert (here["email_consent"], here["sms_consent"]) == ("unsubscribed", "subscribed")
    assert (back.source(second)["defaultPhoneNumber"], back.held(second)["phone"]) == (None, None)
    assert (back.source(second)["lastName"], back.held(second)["last_name"]) == (None, None)


def test_of_several_edits_of_a_field_the_last_one_is_sent(back: Back) -> None:
    customer = back.ids()[0]
    for note in ("one", "two", "three"):
        back.edit(customer, note=note)
    assert [row["from_value"] for row in back.changes(customer)][1:] == ["one", "two"]
    back.sandbox.world.forget_requests()
    back.sync()
    assert back.writes() == ["UpdateCustomer"]
    assert back.source(customer)["note"] == "three"
    rows = back.changes(customer)
    assert [row["status"] for row in rows] == ["superseded", "superseded", "applied"]
    assert "later edit" in rows[0]["error"]["reason"]


def test_an_edit_that_is_taken_back_before_it_was_sent_sends_nothing(back: Back) -> None:
    customer = back.ids()[0]
    name = back.held(customer)["first_name"]
    back.edit(customer, first_name="Grace")
    back.edit(customer, first_name=name)
    back.sandbox.world.forget_requests()
    back.sync()
    assert back.writes() == []
    assert [row["status"] for row in back.changes(customer)] == ["superseded", "applied"]


# Conflicts, by field


def test_the_platform_s_newer_value_wins_and_its_other_fields_do_not_matter(back: Back) -> None:
    customer = back.ids()[0]
    back.edit(customer, first_name="Grace", note="ours")
    back.edit_there(customer, seconds_from_now=60, firstName="Lin")
    summary = back.sync()
    there, here = back.source(customer), back.held(customer)
    assert (there["firstName"], there["note"]) == (here["first_name"], here["note"]) == ("Lin", "ours")
    [left] = summary.changes_left
    assert (left.field, left.status, left.customer_external_id) == ("first_name", "superseded", customer)
    [ours] = back.changes(customer, field="first_name", changed_by="Ada")
    assert (ours["status"], ours["found_value"]) == ("superseded", "Lin")
    [theirs] = back.changes(customer, field="first_name", changed_by="shopify")
    assert (theirs["status"], theirs["to_value"]) == ("recorded", "Lin")


def test_an_edit_that_is_newer_than_the_platform_s_change_wins(back: Back) -> None:
    customer = back.ids()[0]
    held = back.held(customer)["first_name"]
    back.edit_there(customer, seconds_from_now=-60, firstName="Lin")
    back.edit(customer, first_name="Grace")  # made by somebody who had not seen it
    summary = back.sync()
    assert (summary.changes_applied, summary.changes_left) == (1, [])
    assert back.source(customer)["firstName"] == back.held(customer)["first_name"] == "Grace"
    ours, theirs = back.changes(customer)
    assert (ours["from_value"], ours["to_value"], ours["found_value"]) == (held, "Grace", "Lin")
    assert (theirs["status"], theirs["from_value"], theirs["to_value"]) == ("recorded", held, "Lin")


def test_in_the_same_second_the_platform_wins(back: Back) -> None:
    customer = back.ids()[0]
    back.edit(customer, first_name="Grace")
    back.edit_there(customer, firstName="Lin")
    edited = back.changes(customer)[0]["changed_at"].replace(microsecond=0)
    query(
        back.database, "UPDATE customer_changes SET changed_at = %s", edited + timedelta(microseconds=999_999)
    )
    there = datetime.fromisoformat(back.source(customer)["updatedAt"])
    if there > edited:  # the second was over between the two
        query(back.database, "UPDATE customer_changes SET changed_at = %s", there)
    back.sync()
    assert back.source(customer)["firstName"] == "Lin"
    assert back.statuses(customer)[0] == ("first_name", "superseded")


def test_a_platform_whose_clock_is_an_hour_ahead_does_not_win_by_that(back: Back) -> None:
    customer = back.ids()[0]
    back.sandbox.world.clock.offset_seconds = 3600
    back.edit_there(
        customer, seconds_from_now=-600, firstName="Lin"
    )  # ten minutes ago: by our clock in 50 minutes
    back.edit(customer, first_name="Grace")
    back.sync()
    assert back.source(customer)["firstName"] == "Grace"
    later = back.ids()[1]
    back.edit(later, first_name="Grace")
    back.edit_there(later, seconds_from_now=10, firstName="Lin")
    back.sync()
    assert back.source(later)["firstName"] == "Lin"


def test_what_somebody_else_has_set_to_our_value_already_is_applied_and_not_sent(back: Back) -> None:
    customer = back.ids()[0]
    back.edit(customer, first_name="Grace", email="Grace@Example.com")
    back.edit_there(customer, seconds_from_now=60, firstName="Grace", email="grace@example.com")
    back.sandbox.world.forget_requests()
    summary = back.sync()
    assert (summary.changes_applied, back.writes()) == (2, [])
    assert back.changes(changed_by="shopify") == []


# Answers that are lost, processes that are killed


def test_a_change_whose_answer_was_lost_is_found_applied_and_sent_no_second_time(back: Back) -> None:
    customer = back.ids()[0]
    back.edit(customer, first_name="Grace")
    back.sandbox.world.forget_requests()
    back.shop.faults.append(Fault("apply_then_cut", operation="UpdateCustomer", times=1))
    [failure] = back.sync().failures
    assert failure.error.error_type is ErrorType.CONNECTION
    assert back.statuses(customer) == [("first_name", "pending")]
    assert back.source(customer)["firstName"] == "Grace"
    summary = back.sync()
    assert (summary.changes_applied, summary.failures) == (1, [])
    assert back.writes() == ["UpdateCustomer"]
    assert back.statuses(customer) == [("first_name", "applied")]
    assert back.held(customer)["first_name"] == "Grace"


def test_an_edit_on_top_of_one_whose_answer_was_lost_is_no_conflict(back: Back) -> None:
    customer = back.ids()[0]
    back.edit(customer, first_name="Grace")
    back.shop.faults.append(Fault("apply_then_cut", operation="UpdateCustomer", times=1))
    assert back.sync().failures
    back.edit(customer, first_name="Joan")
    # However new the platform's row looks: it has what we sent.
    back.edit_there(customer, seconds_from_now=60, note="touched")
    assert back.sync().changes_left == []
    assert back.source(customer)["firstName"] == "Joan"
    assert back.changes(customer, field="first_name", changed_by="shopify") == []


KILLED = """
import sys
from bg_pipelines import platforms
from bg_pipelines.database.engine import Database
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.queues import Unit
from bg_pipelines.sync import SyncRequest, SyncRun
url, key, store = sys.argv[1:]
connect = lambda access, sleep: platforms.connect(access, api_version="2026-07", sleep=sleep)
request = SyncRequest((Unit.CUSTOMERS,), stores=(store,))
SyncRun(Database(url), Cipher(key), request, run_id="killed", connect=connect, log=print).run()
"""


def test_a_process_killed_between_sending_and_settling_costs_no_second_write(
    back: Back, database_url: str
) -> None:
    customer = back.ids()[0]
    back.edit(customer, first_name="Grace")
    back.sandbox.world.forget_requests()
    applied = back.shop.applied
    back.shop.faults.append(Fault("slow", operation="UpdateCustomer", times=1, seconds=20))
    process = subprocess.Popen([sys.executable, "-c", KILLED, database_url, KEY, back.name])
    try:
        wait_for(lambda: back.shop.applied > applied)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert back.statuses(customer) == [("first_name", "pending")]
    back.shop.faults.clear()
    expire_leases(back.database)
    query(back.database, "UPDATE customer_changes SET lease_expires_at = now() WHERE lease_owner IS NOT NULL")
    summary = back.sync()
    assert (summary.changes_applied, back.shop.applied - applied) == (1, 1)
    assert back.statuses(customer) == [("first_name", "applied")]
    assert back.held(customer)["first_name"] == "Grace"


def test_a_worker_that_has_lost_its_lease_sends_nothing(back: Back) -> None:
    customer = back.ids()[0]
    back.edit(customer, first_name="Grace")
    back.sandbox.world.forget_requests()
    stolen = "UPDATE sync_states SET lease_owner = 'another/1' WHERE resource = 'customers'"
    [failure] = back.run_with(rows=lambda: query(back.database, stolen)).failures
    assert failure.error.error_type is ErrorType.LEASE_LOST
    assert back.writes() == []
    assert back.statuses(customer) == [("first_name", "pending")]


def test_an_edit_made_while_a_sync_is_at_work_is_sent_before_it_ends(back: Back) -> None:
    customer = back.ids()[0]
    edits = iter([lambda: back.edit(customer, first_name="Grace")])
    back.run_with(pages=lambda: next(edits, lambda: None)())
    assert back.source(customer)["firstName"] == "Grace"
    due = "SELECT next_due_at <= clock_timestamp() AS due FROM sync_states WHERE resource = 'customers'"
    assert query(back.database, due) == [{"due": False}]


def test_a_store_with_many_edits_gives_its_worker_back_and_sends_the_rest_in_its_next_turn(
    back: Back,
) -> None:
    class Hurried(SyncRun):
        def turn_is_over(self, began: float) -> bool:
            return True

    for customer in back.ids()[:3]:
        back.edit(customer, first_name="Grace")
    summary = back.run_with(Hurried, limits=Limits(edits_together=1))
    assert (summary.changes_applied, summary.failures) == (3, [])
    turns = query(back.database, "SELECT status FROM sync_attempts WHERE run_id = 'meddled' ORDER BY id")
    assert [turn["status"] for turn in turns] == ["succeeded"] * 3


# What the platform does not take


def test_a_refused_value_is_rejected_alone_with_its_reason_and_waits_for_a_person(back: Back) -> None:
    first, second = back.ids()[:2]
    back.edit(first, email=back.held(second)["email"], first_name="Grace", company="ACME")
    summary = back.sync()
    assert summary.failures == []
    assert back.source(first)["firstName"] == "Grace"
    rows = {row["field"]: row for row in back.changes(first)}
    assert {field: row["status"] for field, row in rows.items()} == {
        "email": "rejected",
        "first_name": "applied",
        "company": "rejected",
    }
    assert rows["email"]["error"] == {"reason": "email: has already been taken"}
    assert rows["company"]["error"] == {"reason": "shopify does not accept changes of company"}
    assert {left.field for left in summary.changes_left} == {"email", "company"}
    [incident] = query(back.database, "SELECT * FROM incidents")
    assert (incident["needs_attention"], incident["occurrences"], incident["status"]) == (True, 2, "open")
    assert back.sync().changes_left == [], "it is told once"


def test_without_the_right_to_write_edits_wait_and_customers_are_read_all_the_same(back: Back) -> None:
    first, second = back.ids()[:2]
    edit(back.shop, "set_scopes", scopes=["read_customers", "read_orders"])
    back.edit(first, first_name="Grace")
    back.edit_there(second, firstName="Lin")
    summary = back.sync()
    assert summary.failures == []
    assert [(left.status, "write_customers" in left.message) for left in summary.changes_left] == [
        ("pending", True)
    ]
    assert back.held(second)["first_name"] == "Lin"
    due = "SELECT next_due_at > clock_timestamp() AS later FROM sync_states WHERE resource = 'customers'"
    assert query(back.database, due) == [{"later": True}]
    edit(back.shop, "set_scopes", scopes=["read_customers", "read_orders", "write_customers"])
    assert back.sync().changes_applied == 0, "parked"
    [incident] = list_incidents(back.database)
    assert (incident.error_type, incident.parked) == ("scopes", 1)
    retry(back.database, [incident.id], by="Grace")
    assert back.sync().changes_applied == 1
    assert back.source(first)["firstName"] == "Grace"


@pytest.mark.parametrize("fault", [("null_field", None), ("bad_value", "yesterday")])
def test_an_edit_of_a_customer_who_cannot_be_read_waits_until_they_can(
    back: Back, fault: tuple[str, Any]
) -> None:
    first, second = back.ids()[:2]
    back.edit(first, first_name="Grace")
    back.edit(second, first_name="Joan")
    kind, value = fault
    back.shop.faults.append(Fault(kind, field="updatedAt", value=value, id=first))
    summary = back.sync()
    assert (summary.changes_applied, summary.failures) == (1, [])
    assert [(left.customer_external_id, left.status) for left in summary.changes_left] == [(first, "pending")]
    assert back.source(second)["firstName"] == "Joan"
    back.shop.faults.clear()
    query(back.database, "UPDATE customer_changes SET next_due_at = now() WHERE status = 'pending'")
    assert back.sync().changes_applied == 1
    assert back.source(first)["firstName"] == "Grace"


def test_an_edit_of_a_customer_who_is_gone_is_rejected_and_its_values_are_erased(back: Back) -> None:
    made = edit(back.shop, "add_customer", fields={"firstName": "Lin", "email": "lin@example.com"})
    customer = made["id"]
    back.sync()
    back.edit(customer, first_name="Grace")
    edit(back.shop, "delete_customer", id=customer)
    summary = back.sync()
    assert [(left.status, left.message) for left in summary.changes_left] == [
        ("rejected", "the customer no longer exists")
    ]
    [row] = back.changes(customer)
    assert row["status"] == "rejected"
    assert row["erased_at"] is not None
    assert {name: row[name] for name in ERASED} == ERASED
    assert back.held(customer)["deleted_at"] is not None
    with pytest.raises(IntegrationError, match="was deleted on the platform"):
        back.edit(customer, first_name="Joan")


# From the platform to us


def test_changes_that_come_from_the_platform_are_recorded_and_a_first_load_is_not(
    make_sandbox: Callable[..., Sandbox],
    add_shops: Callable[[Sandbox], list[str]],
    sync: Callable[..., Summary],
    database: Database,
    cipher: Cipher,
) -> None:
    sandbox = make_sandbox(shops=1, variants=3, customers=600, orders_per_customer=0)
    [name] = add_shops(sandbox)
    [shop] = sandbox.world.shops.values()
    back = Back(database, cipher, sandbox, shop, name, sync)
    back.sync()
    assert back.changes() == []
    before = {row["external_id"]: row for row in query(database, "SELECT * FROM customers")}
    ids = sorted(before)
    for customer in ids[:500]:
        back.edit_there(customer, seconds_from_now=30, note=f"about {customer}", tags=["seen"])
    for customer in ids[500:]:
        back.edit_there(customer, seconds_from_now=30, taxExempt=True)  # newer, and no field of a profile
    back.sync()
    rows = back.changes()
    assert {(row["customer_external_id"], row["field"]) for row in rows} == {
        (customer, field) for customer in ids[:500] for field in ("note", "tags")
    }
    there = {
        row["id"]: datetime.fromisoformat(row["updatedAt"]) for row in shop.export(["customers"])["customers"]
    }
    for row in rows:
        held = before[row["customer_external_id"]]
        assert (row["changed_by"], row["status"]) == ("shopify", "recorded")
        assert row["from_value"] == held[row["field"]]
        assert row["to_value"] == (
            ["seen"] if row["field"] == "tags" else f"about {row['customer_external_id']}"
        )
        assert row["changed_at"] == there[row["customer_external_id"]]
    back.sync(force=True)
    assert len(back.changes()) == 1000, "what is only confirmed is no change"


def test_a_redacted_customer_s_history_rejected_rows_and_pending_edits_go_with_them(back: Back) -> None:
    back.run(units=SALES, stores=(back.name,))
    [order, *_] = query(
        back.database,
        "SELECT o.external_id, o.customer_external_id AS customer FROM orders o JOIN customers c ON "
        "c.external_id = o.customer_external_id WHERE c.email IS NOT NULL AND c.first_name IS NOT NULL ORDER BY 1",
    )
    customer = order["customer"]
    [other] = [one for one in back.ids() if one != customer][:1]
    for one in (customer, other):
        back.edit(one, first_name="Grace", email_consent="unsubscribed")
    back.sync()
    for one in (customer, other):
        back.edit_there(one, seconds_from_now=30, note=f"called {MARKER}")
    back.sync()
    for one in (customer, other):
        back.edit(one, last_name="Hopper")
    for resource, external_id in (
        ("customers", customer),
        ("orders", order["external_id"]),
        ("orders", "else"),
    ):
        query(
            back.database,
            "INSERT INTO rejected_rows (store_id, resource, external_id, reason, payload) "
            "SELECT id, %s, %s, 'planted', 'personal' FROM stores",
            resource,
            external_id,
        )
    back.sandbox.world.clock.offset_seconds += 60
    edit(back.shop, "redact_customer", id=customer)
    summary = back.sync()
    assert [left.status for left in summary.changes_left] == ["superseded"]
    assert back.source(customer)["lastName"] is None, "nothing is written to a redacted customer"
    rows = back.changes(customer)
    assert {row["field"] for row in rows} >= {"first_name", "note", "last_name", "email", "email_consent"}
    for row in rows:
        assert row["status"] != "pending"
        if row["field"] not in ("email_consent", "sms_consent", "locale"):
            assert row["erased_at"] is not None
            assert {name: row[name] for name in ERASED} == ERASED
    assert [row["to_value"] for row in back.changes(customer, changed_by="Ada", field="email_consent")] == [
        "unsubscribed"
    ]
    assert all(row["erased_at"] is None for row in back.changes(other))
    assert [row["to_value"] for row in back.changes(other, field="note")] == [f"called {MARKER}"]
    left = query(back.database, "SELECT external_id, payload FROM rejected_rows ORDER BY external_id")
    # The order stays known as one that cannot be loaded: a full pass would take it for gone.
    assert [(row["external_id"], bytes(row["payload"])) for row in left] == [
        ("else", b"personal"),
        (order["external_id"], b""),
    ]


def test_a_redaction_rejects_an_edit_that_is_newer_too(back: Back) -> None:
    customer = back.ids()[0]
    clock = back.sandbox.world.clock
    clock.offset_seconds -= 60
    edit(back.shop, "redact_customer", id=customer)
    clock.offset_seconds += 60
    back.edit(customer, first_name="Grace")
    back.sandbox.world.forget_requests()
    back.sync()
    assert back.writes() == []
    [ours] = back.changes(customer, changed_by="Ada")
    assert (ours["status"], ours["error"]) == ("rejected", {"reason": "the customer was redacted"})
    assert {name: ours[name] for name in ERASED} == ERASED


def test_a_field_that_is_emptied_is_no_redaction_and_a_consent_that_says_so_is_one(back: Back) -> None:
    customer, other = back.ids()[:2]
    before = back.held(customer)["email"]
    back.edit_there(customer, seconds_from_now=30, email=None)
    back.edit_there(other, seconds_from_now=30, note=MARKER)
    back.sync()
    [emptied] = back.changes(customer, field="email")
    assert (emptied["from_value"], emptied["to_value"], emptied["erased_at"]) == (before, None, None)
    assert [row["to_value"] for row in back.changes(other)] == [MARKER]
    query(back.database, "UPDATE customers SET email_consent = 'redacted' WHERE external_id = %s", other)
    [note, consent] = back.changes(other)
    assert {name: note[name] for name in ERASED} == ERASED
    assert (consent["field"], consent["to_value"], consent["erased_at"]) == (
        "email_consent",
        "redacted",
        None,
    )


def test_a_deleted_customer_s_history_is_erased_whatever_path_marks_them(back: Back) -> None:
    made = edit(back.shop, "add_customer", fields={"firstName": "Lin", "email": "lin@example.com"})
    customer = made["id"]
    back.sync()
    back.edit_there(customer, seconds_from_now=30, firstName=MARKER)
    back.sync()
    assert back.changes(customer)[0]["to_value"] == MARKER
    back.edit(customer, note="ours")
    query(back.database, "UPDATE customers SET deleted_at = now() WHERE external_id = %s", customer)
    recorded, ours = back.changes(customer)
    assert {name: recorded[name] for name in ERASED} == ERASED
    assert {name: ours[name] for name in ERASED} == ERASED
    assert (ours["status"], ours["error"]) == ("rejected", {"reason": "the customer was deleted"})


EMPTY = {
    "first_name": None, "last_name": None, "company": None, "email": None, "email_verified": False, "phone": None,
    "phone_given": None, "addresses": [], "tags": [], "note": None,
}  # fmt: skip


def test_a_deleted_customer_s_row_is_emptied_and_filled_again_if_the_platform_still_has_them(
    back: Back,
) -> None:
    back.run(units=SALES, stores=(back.name,))
    customer = back.ids()[0]
    before = back.held(customer)
    sold = query(back.database, "SELECT email, note FROM orders WHERE customer_external_id = %s", customer)
    query(back.database, "UPDATE customers SET deleted_at = now() WHERE external_id = %s", customer)
    held = back.held(customer)
    assert {name: held[name] for name in EMPTY} == EMPTY
    for name in ("source_updated_at", "source_created_at", "orders_count", "total_spent", "email_consent"):
        assert held[name] == before[name]
    assert sold == query(
        back.database, "SELECT email, note FROM orders WHERE customer_external_id = %s", customer
    ), "the platform keeps the orders of whom it deletes as they are"
    assert back.sync(force=True).failures == []
    held = back.held(customer)
    assert {**held, "synced_at": None} == {**before, "synced_at": None}
    assert back.changes(customer) == [], "living again is a first load"


def test_what_was_asked_for_before_a_deletion_brings_nothing_of_the_customer_back(back: Back) -> None:
    customer = back.ids()[0]
    with back.database.transaction() as connection:
        asked_at = connection.execute("SELECT clock_timestamp()").fetchone() or ()
    with back.database.transaction() as connection:
        deletions.mark_deleted(connection, "customers", 1, [customer])
    late = buyer(1)._replace(external_id=customer, source_updated_at=stamp(5), last_name=MARKER)
    with back.database.transaction() as connection:
        counts = load.load(connection, "customers", 1, [late], seen_at=asked_at[0], reject=print)
    assert counts == load.Counts(read=1, unchanged=1)
    held = back.held(customer)
    assert held["deleted_at"] is not None
    assert {name: held[name] for name in EMPTY} == EMPTY
    assert back.changes(customer) == []


def test_a_redaction_in_two_steps_leaves_nothing_of_either(back: Back) -> None:
    customer = back.ids()[0]
    for step in ("email_consent = 'redacted'", "first_name = NULL, email = NULL, note = 'x'"):
        query(back.database, f"UPDATE customers SET {step} WHERE external_id = %s", customer)
    rows = {row["field"]: row for row in back.changes(customer)}
    assert rows.keys() == {"email_consent", "first_name", "email", "note"}
    assert rows.pop("email_consent")["to_value"] == "redacted"
    for row in rows.values():
        assert row["erased_at"] is not None
        assert {name: row[name] for name in ERASED} == ERASED


def test_a_redacted_customer_s_orders_are_emptied_too_also_those_that_the_platform_lists_no_more(
    back: Back,
) -> None:
    back.run(units=SALES, stores=(back.name,))
    [old, *_] = query(
        back.database,
        "SELECT o.external_id, o.customer_external_id AS customer FROM orders o JOIN customers c "
        "ON c.external_id = o.customer_external_id WHERE o.email IS NOT NULL AND c.email IS NOT NULL "
        "AND o.source_created_at < now() - interval '61 days'",
    )
    query(back.database, "UPDATE orders SET note = %s", MARKER)
    query(
        back.database,
        "INSERT INTO refunds (store_id, external_id, source_updated_at, order_external_id, amount, currency, note, "
        "refunded_at) SELECT store_id, 'R', now(), external_id, 1, 'EUR', %s, now() FROM orders WHERE external_id = %s",
        MARKER,
        old["external_id"],
    )
    edit(back.shop, "set_scopes", scopes=["read_customers", "read_orders", "write_customers"])
    back.sandbox.world.clock.offset_seconds += 60
    edit(back.shop, "redact_customer", id=old["customer"])
    back.sync()
    of = "SELECT email, phone, note FROM orders WHERE customer_external_id = %s"
    for row in query(back.database, of, old["customer"]):
        assert row == {"email": None, "phone": None, "note": None}
    assert query(back.database, "SELECT note FROM refunds WHERE external_id = 'R'") == [{"note": None}]
    others = query(
        back.database, "SELECT DISTINCT note FROM orders WHERE customer_external_id <> %s", old["customer"]
    )
    assert others == [{"note": MARKER}]


def test_an_edit_that_waits_for_one_redacted_before_is_rejected_erased_and_not_sent(back: Back) -> None:
    customer, other = back.ids()[:2]
    edit(back.shop, "redact_customer", id=customer)
    back.sync()
    with pytest.raises(IntegrationError, match="was redacted on the platform"):
        back.edit(customer, note=MARKER)
    with back.database.transaction() as connection:
        changes.add(connection, 1, customer, "note", None, MARKER, by="Ada")
    back.edit(other, note=MARKER)
    back.sandbox.world.forget_requests()
    summary = back.sync()
    assert (summary.changes_applied, len(back.writes())) == (1, 1)
    [left] = summary.changes_left
    assert (left.customer_external_id, left.status) == (customer, "rejected")
    [ours] = back.changes(customer, changed_by="Ada")
    assert (ours["status"], ours["error"]) == ("rejected", {"reason": "the customer was redacted"})
    assert {name: ours[name] for name in ERASED} == ERASED
    assert query(back.database, "SELECT * FROM incidents") == [], "there is nothing for a person to do"


# During a full pass, and where data must not be


class Shelf(Scripted):
    """A scripted platform that takes edits."""

    editable = frozenset({"note"})

    def __init__(self, pages: list[Any], rows: dict[str, Customer]) -> None:
        super().__init__(pages)
        self.held = rows
        self.updated: list[str] = []

    def rows(self, resource: Resource, external_ids: Any) -> Page:
        records = [self.held[one] for one in external_ids]
        return Page(len(records), records)

    def update_customer(self, external_id: str, values: dict[str, Any], _: Any = None) -> UpdateOutcome:
        self.updated.append(external_id)
        row = self.held[external_id]._replace(source_updated_at=stamp(1), **values)
        self.held[external_id] = row
        return UpdateOutcome("applied", Page(1, [row]))


def stamp(minutes: int) -> str:
    return (datetime.now(UTC) + timedelta(minutes=minutes)).isoformat()


def buyer(number: int) -> Customer:
    unknown = dict.fromkeys(Customer._fields)
    given = {"email_verified": False, "addresses": "[]", "tags": []}
    times = dict.fromkeys(("source_updated_at", "source_created_at"), "2026-01-01T00:00:00Z")
    return Customer(**{**unknown, **given, **times, "external_id": str(number), "first_name": f"N{number}"})


def test_amid_a_full_pass_nothing_is_sent_and_the_proof_holds(
    make_sandbox: Callable[..., Sandbox],
    add_shops: Callable[[Sandbox], list[str]],
    database: Database,
    cipher: Cipher,
) -> None:
    [name] = add_shops(make_sandbox(shops=1, variants=1))
    rows = {str(number): buyer(number) for number in (1, 2)}
    shelves: list[Shelf] = []

    def cut() -> None:
        raise IntegrationError.of(ErrorType.CONNECTION, "cut")

    def run(*pages: Any) -> tuple[Summary, Shelf]:
        shelf = Shelf(list(pages), rows)
        shelves.append(shelf)
        request = SyncRequest((Unit.CUSTOMERS,), stores=(name,))
        options: dict[str, Any] = {"connect": lambda access, sleep: shelf, "log": lambda _: None}
        return SyncRun(
            database, cipher, request, run_id="r", limits=Limits(load_rows=1), **options
        ).run(), shelf

    failed, _ = run(Page(1, [rows["1"]], resume="2"), Page(1, [rows["2"]], resume="3"), cut)
    assert [failure.error.error_type for failure in failed.failures] == [ErrorType.CONNECTION]
    editing.edit(database, name, "1", {"note": "ours"}, by="Ada")
    sent_amid_it = []
    summary, shelf = run(lambda: sent_amid_it.append(shelves[-1].updated.copy()), Page(0, []), Page(0, []))
    assert sent_amid_it == [[]]
    assert (summary.failures, summary.changes_applied, shelf.updated) == ([], 1, ["1"])


@pytest.mark.parametrize(
    ("minutes", "status"), [(5, "superseded"), (-5, "applied")], ids=["after the edit", "before it"]
)
def test_a_phone_that_staff_wrote_as_nobody_can_read_is_a_value_like_any(
    make_sandbox: Callable[..., Sandbox],
    add_shops: Callable[[Sandbox], list[str]],
    database: Database,
    cipher: Cipher,
    minutes: int,
    status: str,
) -> None:
    [name] = add_shops(make_sandbox(shops=1, variants=1))
    rows = {"1": buyer(1)}

    def run(*pages: Any) -> Shelf:
        shelf = Shelf(list(pages), rows)
        shelf.editable = frozenset({"phone"})
        request = SyncRequest((Unit.CUSTOMERS,), stores=(name,))
        options: dict[str, Any] = {"connect": lambda access, sleep: shelf, "log": lambda _: None}
        assert SyncRun(database, cipher, request, run_id="r", **options).run().failures == []
        return shelf

    run(Page(1, [rows["1"]]))
    editing.edit(database, name, "1", {"phone": "+14155552671"}, by="Ada")
    desk = "ask at the desk: 555 99"
    rows["1"] = rows["1"]._replace(phone=None, phone_given=desk, source_updated_at=stamp(minutes))
    assert run(Page(0, [])).updated == (["1"] if status == "applied" else [])
    [ours] = query(database, "SELECT status, found_value FROM customer_changes WHERE changed_by = 'Ada'")
    assert ours == {"status": status, "found_value": desk}


@pytest.mark.usefixtures("environment")
def test_no_value_is_in_a_log_a_summary_an_error_or_any_table_but_the_customers_own(
    back: Back,
) -> None:
    """Each way an edit can end, with a value that is found wherever it is written."""
    first, second, third, fourth = back.ids()[:4]
    told: list[str] = []
    mail = f"{MARKER}@example.com"
    back.edit_there(second, seconds_from_now=-60, email=mail, lastName=MARKER)
    back.sync(log=told.append)
    back.edit(first, email=mail, company=MARKER, note=MARKER)  # taken, not editable, applied
    back.edit(third, first_name=MARKER)
    back.edit_there(third, seconds_from_now=60, firstName=f"{MARKER}2")  # superseded
    back.edit(fourth, tags=[MARKER])
    back.shop.faults.append(Fault("apply_then_cut", operation="UpdateCustomer", after=1, times=1))
    summaries = [back.sync(log=told.append) for _ in range(3)]
    edit(back.shop, "set_scopes", scopes=["read_customers", "read_orders"])
    back.edit(fourth, note=MARKER)
    summaries.append(back.sync(log=told.append))
    statuses = {row["status"] for row in back.changes()}
    assert statuses == {"applied", "superseded", "rejected", "pending", "recorded"}
    for values in ({"email": MARKER}, {"phone": MARKER}, {"email_consent": MARKER}, {"tags": MARKER}):
        with pytest.raises(IntegrationError) as refused:
            editing.edit(back.database, back.name, first, values, by="Ada")
        told += [str(refused.value), repr(refused.value.details)]
    told += [repr(summary) for summary in summaries]
    told += [str(failure.error.as_dict()) for summary in summaries for failure in summary.failures]
    assert any("superseded" in line for line in told)
    back.edit(third, note=MARKER)  # the other one is parked
    result = execute("customer_sync", stores=[back.name])
    [left] = [record.data for record in metadata(result)["profile_edits_left"].records]
    assert (left["customer"], left["field"], left["status"]) == (third, "note", "pending")
    told += [str(event) for event in result.all_events]
    assert [line for line in told if MARKER.lower() in line.lower()] == []
    tables = query(
        back.database,
        "SELECT table_name AS name FROM information_schema.tables WHERE table_schema = 'public' "
        "AND table_name NOT IN ('customers', 'customer_changes')",
    )
    assert len(tables) > 15
    for table in tables:
        found = query(
            back.database,
            f"SELECT count(*) AS n FROM {table['name']} t WHERE to_jsonb(t)::text ILIKE %s",
            f"%{MARKER}%",
        )
        assert found == [{"n": 0}], table["name"]
    assert query(back.database, "SELECT count(*) AS n FROM sync_attempts")[0]["n"] >= 5
    assert {key for key, _ in source_rows(back.shop, Resource.CUSTOMERS)} >= {first, second}


@pytest.mark.parametrize(
    ("seconds", "status", "note"), [(60, "superseded", "theirs"), (-3600, "applied", "ours")]
)
def test_what_staff_write_after_the_customer_was_read_is_looked_at_before_it_is_overwritten(
    back: Back, seconds: float, status: str, note: str
) -> None:
    customer = back.ids()[0]
    back.edit(customer, note="ours")

    def staff() -> None:
        back.edit_there(customer, seconds_from_now=seconds, note="theirs")

    back.run_with(update_customer=staff)
    assert back.source(customer)["note"] == note
    [change] = back.changes(customer, changed_by="Ada")
    assert (change["status"], change["found_value"]) == (status, "theirs"), (
        "what was overwritten stands in it"
    )
    assert back.held(customer)["note"] == note
