"""Twilio's Messages API, asked by the vendor's own client."""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from twilio.base.exceptions import TwilioException, TwilioRestException
from twilio.http.http_client import TwilioHttpClient
from twilio.rest import Client as TwilioClient

from bg_pipelines.sandbox import Fault, Sandbox, World, edit
from bg_pipelines.sandbox.twilio.account import FAILURES, TwilioAccount, segments
from bg_pipelines.sandbox.twilio.api import KINDS
from bg_pipelines_tests.support import START, HandClock

TO = "+12125550001"
OTHER = "+12125550002"


def connect(sandbox: Sandbox, token: str | None = None) -> TwilioClient:
    account = sandbox.world.twilio
    http = TwilioHttpClient(timeout=5)
    client = TwilioClient(account.account_sid, token or account.auth_token, http_client=http)
    client.api.base_url = sandbox.url
    return client


@pytest.fixture
def account(sandbox: Sandbox) -> TwilioAccount:
    return sandbox.world.twilio


@pytest.fixture
def twilio(sandbox: Sandbox) -> TwilioClient:
    return connect(sandbox)


def send(twilio: TwilioClient, account: TwilioAccount, to: str = TO, body: str = "Hello", **more: Any) -> Any:
    if "messaging_service_sid" not in more:
        more.setdefault("from_", account.numbers[0])
    return twilio.messages.create(to=to, body=body, **more)


def operator(sandbox: Sandbox, method: str, path: str = "", content: Any = None, *, well: bool = True) -> Any:
    answer = requests.request(method, f"{sandbox.url}/sandbox/twilio{path}", json=content, timeout=5)
    assert answer.ok is well, answer.text
    return answer.json()


@pytest.fixture(scope="module")
def schemas() -> dict[str, Any]:
    """Twilio's own description, found by BG_VENDOR_SPECS."""
    default = Path(__file__).resolve().parents[3].parent / "shared" / "vendor"
    path = Path(os.environ.get("BG_VENDOR_SPECS", default)) / "twilio_api_v2010.json"
    if not path.exists():
        pytest.skip(f"the vendor's description is not at {path}; set BG_VENDOR_SPECS")
    schemas: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["components"]["schemas"]
    return schemas


def assert_fits(shown: dict[str, Any], schema: dict[str, Any], schemas: dict[str, Any]) -> None:
    assert shown.keys() == schema["properties"].keys()
    types = {"string": str, "integer": int, "object": dict}
    for name, value in shown.items():
        rule = schema["properties"][name]
        rule = schemas[rule["$ref"].rpartition("/")[2]] if "$ref" in rule else rule
        assert value is None or isinstance(value, types[rule["type"]]), name
        assert value is not None or rule.get("nullable"), name
        assert value in rule.get("enum", [value]), name


def test_a_message_and_an_account_have_the_vendors_fields(
    sandbox: Sandbox, account: TwilioAccount, clock: HandClock, schemas: dict[str, Any]
) -> None:
    edit(account, "set_undeliverable", numbers=[OTHER])
    for to, service in ((TO, None), (TO, account.messaging_service_sid), (OTHER, None)):
        message = account.add_message(to=to, body="Hello", sender=None, service_sid=service)
        for _ in range(3):
            assert_fits(message.shown(), schemas["api.v2010.account.message"], schemas)
            clock.seconds += 2
    url = f"{sandbox.url}/2010-04-01/Accounts/{account.account_sid}.json"
    shown = requests.get(url, auth=(account.account_sid, account.auth_token), timeout=5).json()
    assert_fits(shown, schemas["api.v2010.account"], schemas)


def test_every_final_status_is_one_of_the_vendors(schemas: dict[str, Any]) -> None:
    assert {status for status, _ in FAILURES.values()} <= set(schemas["message_enum_status"]["enum"])


def test_the_vendors_client_sends_a_message_and_follows_it(
    twilio: TwilioClient, account: TwilioAccount, clock: HandClock
) -> None:
    message = send(twilio, account, body="Ready for pickup", status_callback="https://x.example/s")
    assert (message.status, message.date_sent, message.price) == ("queued", None, None)
    assert (message.to, message.from_, message.body) == (TO, account.numbers[0], "Ready for pickup")
    assert message.date_created == datetime.fromtimestamp(START, UTC)
    assert message.sid.startswith("SM")
    assert len(message.sid) == 34
    clock.seconds += 1
    sent = message.fetch()
    assert (sent.status, sent.date_sent) == ("sent", datetime.fromtimestamp(START + 1, UTC))
    clock.seconds += 2
    done = twilio.messages(message.sid).fetch()
    assert (done.status, done.error_code, done.price, done.num_segments) == (
        "delivered",
        None,
        "-0.00750",
        "1",
    )
    assert account.messages[0].status == "delivered"


def test_a_status_never_goes_back(twilio: TwilioClient, account: TwilioAccount, clock: HandClock) -> None:
    message = send(twilio, account)
    clock.seconds += 3
    assert message.fetch().status == "delivered"
    clock.seconds -= 100
    assert message.fetch().status == "delivered"


def test_the_account_can_be_fetched(twilio: TwilioClient, account: TwilioAccount) -> None:
    fetched = twilio.api.accounts(account.account_sid).fetch()
    assert (fetched.sid, fetched.status) == (account.account_sid, "active")


def test_messages_are_listed_newest_first_and_filtered(
    twilio: TwilioClient, account: TwilioAccount, clock: HandClock
) -> None:
    for body in ("one", "two", "three"):
        send(twilio, account, body=body)
        send(twilio, account, to=OTHER, body=body.upper(), from_=account.numbers[1])
        clock.seconds += 60
    at = datetime.fromtimestamp(START, UTC)

    def bodies(**filters: Any) -> list[str]:
        return [message.body for message in twilio.messages.list(**filters)]

    assert bodies() == ["THREE", "three", "TWO", "two", "ONE", "one"]
    assert bodies(to=TO) == ["three", "two", "one"]
    assert bodies(from_=account.numbers[1]) == ["THREE", "TWO", "ONE"]
    assert bodies(to=TO, limit=2) == ["three", "two"]
    # Sent a second after they were created; both bounds are included.
    assert bodies(to=TO, date_sent_after=at + timedelta(seconds=61)) == ["three", "two"]
    assert bodies(to=TO, date_sent_before=at + timedelta(seconds=61)) == ["two", "one"]
    assert bodies(to=TO, date_sent=at + timedelta(seconds=61)) == ["two"]
    assert bodies(to=TO, date_sent=at.date().isoformat()) == ["three", "two", "one"]
    assert bodies(date_sent_before=(at - timedelta(days=1)).date().isoformat()) == []


def test_what_is_not_sent_yet_is_found_by_its_recipient_but_by_no_date(
    twilio: TwilioClient, account: TwilioAccount, clock: HandClock
) -> None:
    send(twilio, account)
    since = datetime.fromtimestamp(START - 3600, UTC)
    assert len(twilio.messages.list(to=TO)) == 1
    assert twilio.messages.list(to=TO, date_sent_after=since) == []
    clock.seconds += 1
    assert len(twilio.messages.list(to=TO, date_sent_after=since)) == 1


def test_pages_hold_every_message_once_though_others_come_meanwhile(
    sandbox: Sandbox, twilio: TwilioClient, account: TwilioAccount
) -> None:
    for number in range(5):
        send(twilio, account, body=str(number))
    seen = []
    for message in twilio.messages.stream(to=TO, page_size=2):
        seen.append(message.body)
        send(twilio, account, body="later")
    assert seen == ["4", "3", "2", "1", "0"]
    page = twilio.messages.page(page_size=3)
    following = page.next_page()
    assert following is not None
    back = following.previous_page()
    assert back is not None
    assert [message.sid for message in back] == [message.sid for message in page]
    url = f"{sandbox.url}/2010-04-01/Accounts/{account.account_sid}/Messages.json"
    body = requests.get(
        url,
        params={"To": "+19"},
        auth=(account.account_sid, account.auth_token),
        timeout=5,
    ).json()
    assert body == {
        "end": 0,
        "first_page_uri": f"/2010-04-01/Accounts/{account.account_sid}/Messages.json?To=%2B19&PageSize=50&Page=0",
        "next_page_uri": None,
        "page": 0,
        "page_size": 50,
        "previous_page_uri": None,
        "messages": [],
        "start": 0,
        "uri": f"/2010-04-01/Accounts/{account.account_sid}/Messages.json?To=%2B19&PageSize=50&Page=0",
    }


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"to": "12125550001"}, 21211),
        ({"to": "+1 212"}, 21211),
        ({"to": ""}, 21604),
        ({"from_": "+19995550100"}, 21606),
        ({"from_": ""}, 21603),
        ({"messaging_service_sid": "MG" + "0" * 32}, 21705),
        ({"body": ""}, 21602),
        ({"body": "x" * 1601}, 21617),
        ({"validity_period": 0}, 20001),
        ({"validity_period": 36001}, 20001),
    ],
)
def test_what_cannot_be_sent_is_refused_with_the_vendors_code(
    twilio: TwilioClient, account: TwilioAccount, fields: dict[str, Any], code: int
) -> None:
    with pytest.raises(TwilioRestException) as raised:
        send(twilio, account, **fields)
    assert (raised.value.status, raised.value.code) == (400, code)
    assert account.messages == []


def test_an_error_has_the_vendors_shape(sandbox: Sandbox, account: TwilioAccount) -> None:
    url = f"{sandbox.url}/2010-04-01/Accounts/{account.account_sid}/Messages.json"
    answer = requests.post(url, data={"To": TO}, auth=(account.account_sid, "wrong"), timeout=5)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Basic")
    assert answer.json() == {
        "code": 20003,
        "message": "Authenticate",
        "more_info": "https://www.twilio.com/docs/errors/20003",
        "status": 401,
    }
    for headers in ({}, {"Authorization": "Basic !"}, {"Authorization": "Bearer x"}):
        assert requests.post(url, headers=headers, timeout=5).json()["code"] == 20003


def test_what_does_not_exist_is_not_found(sandbox: Sandbox, account: TwilioAccount) -> None:
    auth, root = (account.account_sid, account.auth_token), f"{sandbox.url}/2010-04-01/Accounts"
    for path in (
        f"{account.account_sid}/Messages/SM{'0' * 32}.json",
        f"AC{'0' * 32}/Messages.json",
        "x",
    ):
        answer = requests.get(f"{root}/{path}", auth=auth, timeout=5)
        assert (answer.status_code, answer.json()["code"]) == (404, 20404)
    answer = requests.delete(f"{root}/{account.account_sid}/Messages.json", auth=auth, timeout=5)
    assert (answer.status_code, answer.json()["code"]) == (405, 20004)
    answer = requests.get(f"{root}/{account.account_sid}/Messages.json?PageSize=x", auth=auth, timeout=5)
    assert (answer.status_code, answer.json()["code"]) == (400, 20001)


def test_a_number_that_opted_out_is_refused_or_through_a_service_fails_late(
    sandbox: Sandbox, twilio: TwilioClient, account: TwilioAccount, clock: HandClock
) -> None:
    operator(sandbox, "POST", "/edits", {"edit": "set_opted_out", "numbers": [TO]})
    with pytest.raises(TwilioRestException) as raised:
        send(twilio, account)
    assert (raised.value.status, raised.value.code) == (400, 21610)
    message = send(twilio, account, messaging_service_sid=account.messaging_service_sid)
    assert (message.status, message.from_, message.num_segments) == ("accepted", None, "0")
    clock.seconds += 1
    late = message.fetch()
    assert (late.status, late.error_code, late.date_sent) == ("failed", 21610, None)
    operator(sandbox, "POST", "/edits", {"edit": "set_opted_out", "numbers": []})
    assert send(twilio, account).status == "queued"


def test_a_service_chooses_a_sender_when_it_sends(
    twilio: TwilioClient, account: TwilioAccount, clock: HandClock
) -> None:
    message = send(twilio, account, messaging_service_sid=account.messaging_service_sid)
    clock.seconds += 1
    sent = message.fetch()
    assert (sent.status, sent.from_, sent.num_segments) == ("sent", account.numbers[0], "1")


def test_a_number_that_cannot_be_reached_fails_once_the_message_is_sent(
    twilio: TwilioClient, account: TwilioAccount, clock: HandClock
) -> None:
    edit(account, "set_undeliverable", numbers=[TO], code=30003)
    edit(account, "set_undeliverable", numbers=[OTHER])
    messages = [send(twilio, account), send(twilio, account, to=OTHER)]
    clock.seconds += 1
    assert [message.fetch().error_code for message in messages] == [None, None]
    clock.seconds += 2
    assert [(message.fetch().status, message.fetch().error_code) for message in messages] == [
        ("undelivered", 30003),
        ("undelivered", 30005),
    ]


def test_a_number_can_be_set_invalid(twilio: TwilioClient, account: TwilioAccount) -> None:
    edit(account, "set_invalid", numbers=[TO])
    edit(account, "set_invalid", numbers=[OTHER], code=21614)
    for to, code in ((TO, 21211), (OTHER, 21614)):
        with pytest.raises(TwilioRestException) as raised:
            send(twilio, account, to=to)
        assert raised.value.code == code
    edit(account, "set_invalid", numbers=[])
    assert send(twilio, account).status == "queued"


def test_a_message_waits_for_its_hour_or_expires(
    twilio: TwilioClient, account: TwilioAccount, clock: HandClock
) -> None:
    hour = datetime.fromtimestamp(START, UTC) + timedelta(hours=1)
    later = {"schedule_type": "fixed", "messaging_service_sid": account.messaging_service_sid}
    message = send(twilio, account, send_at=hour, **later)
    assert message.status == "scheduled"
    with pytest.raises(TwilioRestException) as raised:
        send(twilio, account, send_at=hour - timedelta(minutes=50), **later)
    assert raised.value.code == 35114
    edit(account, "set_delays", sent=60, delivered=90)
    expiring = send(twilio, account, validity_period=10)
    clock.seconds += 3599
    assert message.fetch().status == "scheduled"
    assert (expiring.fetch().status, expiring.fetch().error_code) == ("failed", 30036)
    clock.seconds += 5
    assert message.fetch().status == "delivered"


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        ("unauthorized", 401, 20003),
        ("too_many_requests", 429, 20429),
        ("server_error", 500, 20500),
        ("service_unavailable", 503, 20503),
        ("bad_gateway", 502, 502),
    ],
)
def test_a_fault_refuses_and_nothing_is_sent(
    twilio: TwilioClient, account: TwilioAccount, kind: str, status: int, code: int
) -> None:
    account.faults.append(Fault(kind, times=1, operation="CreateMessage"))
    assert twilio.messages.list() == []
    with pytest.raises(TwilioRestException) as raised:
        send(twilio, account)
    assert (raised.value.status, raised.value.code) == (status, code)
    assert account.messages == []
    assert send(twilio, account).status == "queued"


@pytest.mark.parametrize(("kind", "made"), [("cut", 0), ("apply_then_cut", 1)])
def test_an_answer_is_lost_and_the_message_is_made_or_not(
    twilio: TwilioClient, account: TwilioAccount, clock: HandClock, kind: str, made: int
) -> None:
    account.faults.append(Fault(kind, times=1, operation="CreateMessage"))
    with pytest.raises(requests.ConnectionError):
        send(twilio, account)
    assert len(account.messages) == made
    clock.seconds += 1
    assert len(twilio.messages.list(to=TO, date_sent_after=datetime.fromtimestamp(START, UTC))) == made
    first = account.requests[0]
    assert (first.operation, first.status, first.fault) == ("CreateMessage", None, kind)
    assert first.sid == (account.messages[0].sid if made else None)


@pytest.mark.parametrize(("kind", "made"), [("html", 0), ("half_json", 1)])
def test_an_answer_is_not_json(twilio: TwilioClient, account: TwilioAccount, kind: str, made: int) -> None:
    account.faults.append(Fault(kind, times=1))
    with pytest.raises(json.JSONDecodeError):
        send(twilio, account)
    assert len(account.messages) == made


def test_an_answer_is_slow(twilio: TwilioClient, account: TwilioAccount) -> None:
    account.faults.append(Fault("slow", seconds=0.2, operation="ListMessage"))
    start = time.monotonic()
    assert twilio.messages.list() == []
    assert time.monotonic() - start > 0.15


def test_a_page_that_fails_is_an_error_of_the_client(twilio: TwilioClient, account: TwilioAccount) -> None:
    account.faults.append(Fault("server_error", operation="ListMessage"))
    with pytest.raises(TwilioException):
        twilio.messages.list()


def test_a_fault_of_another_vendor_never_bites(
    sandbox: Sandbox, twilio: TwilioClient, account: TwilioAccount
) -> None:
    account.faults.append(Fault("throttled"))
    assert send(twilio, account).status == "queued"
    assert account.faults[0].applied == 0
    refused = operator(sandbox, "POST", "/faults", {"kind": "throttled"}, well=False)
    assert refused["field"] == "kind"


def test_the_operator_sees_and_does_it_all(
    sandbox: Sandbox, twilio: TwilioClient, account: TwilioAccount
) -> None:
    shown = operator(sandbox, "GET")
    assert shown["account_sid"] == account.account_sid
    assert shown["auth_token"] == account.auth_token
    assert (shown["from"], shown["api_url"]) == (account.numbers[0], sandbox.url)
    message = send(twilio, account)
    assert [row["sid"] for row in operator(sandbox, "GET", "/messages")] == [message.sid]
    assert operator(sandbox, "POST", "/faults", [{"kind": kind} for kind in KINDS])[0]["applied"] == 0
    assert [row["kind"] for row in operator(sandbox, "GET", "/faults")] == list(KINDS)
    assert operator(sandbox, "DELETE", "/faults") == account.faults == []
    (request,) = operator(sandbox, "GET", "/requests")
    assert (request["operation"], request["status"], request["sid"]) == (
        "CreateMessage",
        201,
        message.sid,
    )
    assert operator(sandbox, "DELETE", "/requests") == []
    operator(sandbox, "POST", "/edits", {"edit": "set_token", "token": "new"})
    with pytest.raises(TwilioRestException) as raised:
        message.fetch()
    assert raised.value.code == 20003
    assert connect(sandbox, "new").messages(message.sid).fetch().sid == message.sid


@pytest.mark.parametrize(
    ("content", "field"),
    [
        ({"edit": "explode"}, "edit"),
        ({"edit": "set_opted_out", "numbers": TO}, "numbers"),
        ({"edit": "set_undeliverable", "numbers": [TO], "code": 1}, "code"),
        ({"edit": "set_delays", "sent": 5, "delivered": 4}, "delivered"),
        ({"edit": "set_delays", "sent": "soon"}, "sent"),
        ({"edit": "set_token", "token": ""}, "token"),
        ({"edit": "set_token", "tokne": ""}, "tokne"),
    ],
)
def test_a_wrong_wish_names_the_field(sandbox: Sandbox, content: Any, field: str) -> None:
    assert operator(sandbox, "POST", "/edits", content, well=False)["field"] == field


def test_the_seed_makes_the_account() -> None:
    first, twin, other = (World(shops=1, variants=1, seed=seed).twilio for seed in (1, 1, 2))
    assert (first.account_sid, first.auth_token, first.numbers) == (
        twin.account_sid,
        twin.auth_token,
        twin.numbers,
    )
    assert first.account_sid != other.account_sid


@pytest.mark.parametrize(
    ("body", "count"),
    [
        ("x" * 160, 1),
        ("x" * 161, 2),
        ("x" * 306, 2),
        ("x" * 307, 3),
        ("€" * 80, 1),
        ("€" * 81, 2),
        ("é" * 160, 1),
        ("ő" * 70, 1),
        ("ő" * 71, 2),
        ("👍" * 35, 1),
        ("👍" * 36, 2),
    ],
)
def test_segments_are_counted_as_the_vendor_counts(body: str, count: int) -> None:
    assert segments(body) == count
