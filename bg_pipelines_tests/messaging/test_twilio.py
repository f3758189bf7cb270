"""Twilio's client: every failure is classified once, and says whether a message may have gone out all the same."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bg_pipelines.errors import IntegrationError
from bg_pipelines.messaging import twilio
from bg_pipelines.messaging.twilio import TextMessages
from bg_pipelines.platforms.http import Timeouts
from bg_pipelines.sandbox import Sandbox, edit
from bg_pipelines.sandbox.faults import Fault
from bg_pipelines.settings import Settings

PHONE = "+442079460123"
REFERENCE = "3f9a2c71b0"
BODY = f"harbor fails {REFERENCE}"


@pytest.fixture
def connect(sandbox: Sandbox) -> Callable[..., TextMessages]:
    """A client of the sandbox: `connect(auth_token="wrong")`."""
    account = sandbox.world.twilio

    def connect(**changes: Any) -> TextMessages:
        values = {
            "account_sid": account.account_sid,
            "auth_token": account.auth_token,
            "sender": account.numbers[0],
            "api_url": sandbox.url,
            **changes,
        }
        return TextMessages(values.pop("account_sid"), values.pop("auth_token"), **values)

    return connect


@pytest.fixture
def messages(connect: Callable[..., TextMessages]) -> TextMessages:
    return connect(timeouts=Timeouts(1, 0.5, 0.5))


def ago(**time: float) -> datetime:
    return datetime.now(UTC) - timedelta(**time)


def refused(act: Callable[[], object], secrets: tuple[str, ...] = (PHONE, BODY)) -> IntegrationError:
    """The error that this raises; none of the secrets is anywhere in it."""
    with pytest.raises(IntegrationError) as raised:
        act()
    error: BaseException | None = raised.value
    shown = repr(raised.value.as_dict())
    while error is not None:
        shown += repr(error)
        error = error.__cause__
    for secret in secrets:
        assert secret not in shown
        assert secret.removeprefix("+") not in shown
    return raised.value


def test_a_message_is_handed_over_and_its_sid_returned(messages: TextMessages, sandbox: Sandbox) -> None:
    sid = messages.send(PHONE, BODY)
    [message] = sandbox.world.twilio.export()
    assert (message["sid"], message["to"], message["body"]) == (sid, PHONE, BODY)
    assert message["from"] == sandbox.world.twilio.numbers[0]


def test_a_messaging_service_may_be_the_sender(
    connect: Callable[..., TextMessages], sandbox: Sandbox
) -> None:
    service = sandbox.world.twilio.messaging_service_sid
    connect(sender=None, messaging_service_sid=service).send(PHONE, BODY)
    [message] = sandbox.world.twilio.export()
    assert message["messaging_service_sid"] == service


@pytest.mark.parametrize("delay", [0, 3600])
def test_a_message_is_found_whether_it_was_sent_or_only_taken(
    messages: TextMessages, sandbox: Sandbox, delay: float
) -> None:
    edit(sandbox.world.twilio, "set_delays", sent=delay, delivered=delay)
    sid = messages.send(PHONE, BODY)
    messages.send(PHONE, "another 3f9a2c71b1")
    assert messages.look_up(PHONE, BODY, REFERENCE, ago(seconds=1)) == sid
    assert messages.look_up(PHONE, "changed on its way", REFERENCE, ago(seconds=1)) == sid
    assert messages.look_up(PHONE, "none of these", "f9a2c71b0", ago(seconds=1)) is None
    assert messages.look_up("+442079460999", BODY, REFERENCE, ago(seconds=1)) is None


@pytest.mark.parametrize("days", [-40, 40])
def test_a_clock_that_is_wrong_hides_nothing(messages: TextMessages, sandbox: Sandbox, days: int) -> None:
    sandbox.world.clock.offset_seconds = days * 86_400
    sid = messages.send(PHONE, BODY)
    sandbox.world.clock.offset_seconds = 0
    assert messages.look_up(PHONE, BODY, REFERENCE, ago(seconds=1)) == sid


@pytest.mark.parametrize(
    ("kind", "error_type", "recoverable", "maybe_sent", "is_sent"),
    [
        ("server_error", "server_error", True, True, False),
        ("service_unavailable", "server_error", True, True, False),
        ("bad_gateway", "server_error", True, True, False),
        ("html", "malformed_response", True, True, False),
        ("half_json", "malformed_response", True, True, True),
        ("slow", "timeout", True, True, True),
        ("cut", "connection", True, True, False),
        ("apply_then_cut", "connection", True, True, True),
        ("too_many_requests", "throttled", True, False, False),
        ("unauthorized", "credentials", False, False, False),
    ],
)
def test_each_failure_is_classified_and_says_whether_the_message_may_be_out(
    messages: TextMessages,
    sandbox: Sandbox,
    kind: str,
    error_type: str,
    recoverable: bool,
    maybe_sent: bool,
    is_sent: bool,
) -> None:
    sandbox.world.twilio.faults.append(Fault(kind, times=1, operation="CreateMessage", seconds=1.5))
    error = refused(lambda: messages.send(PHONE, BODY), (PHONE, BODY, sandbox.world.twilio.auth_token))
    assert (error.error_type, error.recoverable, error.source) == (error_type, recoverable, "twilio")
    assert bool(error.details.get("maybe_sent")) is maybe_sent
    assert (messages.look_up(PHONE, BODY, REFERENCE, ago(minutes=1)) is not None) is is_sent


@pytest.mark.parametrize("kind", ["server_error", "html", "half_json", "slow", "cut", "unauthorized"])
def test_a_look_up_that_fails_sends_nothing(messages: TextMessages, sandbox: Sandbox, kind: str) -> None:
    sandbox.world.twilio.faults.append(Fault(kind, operation="ListMessage", seconds=1.5))
    error = refused(lambda: messages.look_up(PHONE, BODY, REFERENCE, ago(minutes=1)))
    assert not error.details.get("maybe_sent")


@pytest.mark.parametrize("code", [21211, 21614, 21635])
def test_a_number_that_can_never_be_reached_is_bad_data(
    messages: TextMessages, sandbox: Sandbox, code: int
) -> None:
    edit(sandbox.world.twilio, "set_invalid", numbers=[PHONE], code=code)
    error = refused(lambda: messages.send(PHONE, BODY))
    assert (error.error_type, error.recoverable, error.details["code"]) == ("bad_data", False, code)


def test_who_has_answered_stop_gets_nothing(messages: TextMessages, sandbox: Sandbox) -> None:
    sandbox.world.twilio.opted_out.add(PHONE)
    error = refused(lambda: messages.send(PHONE, BODY))
    assert (error.error_type, error.recoverable) == ("bad_data", False)
    assert "STOP" in error.message


def test_a_sender_that_is_not_the_account_s_is_a_fault_of_the_settings(
    connect: Callable[..., TextMessages],
) -> None:
    for changes in ({"sender": "+12125550999"}, {"sender": None, "messaging_service_sid": "MG0"}):
        error = refused(lambda changes=changes: connect(**changes).send(PHONE, BODY))  # type: ignore[misc]
        assert (error.error_type, error.recoverable) == ("configuration", False)
        assert "BG_TWILIO_FROM" in error.message


@pytest.mark.parametrize("status", [400, 402, 403, 404, 405, 409, 410, 422, 451])
@given(
    code=st.none() | st.integers(10_000, 99_999) | st.sampled_from([20006, 21607, 21612, 21617, 21704, 30038])
)
def test_only_what_is_the_recipient_s_counts_as_such(status: int, code: int | None) -> None:
    error = twilio.classify(status, code, {})
    assert (error.error_type == "bad_data") == (code in (21211, 21610, 21614, 21635))
    assert not error.recoverable or error.error_type == "throttled"


@pytest.mark.parametrize(
    ("told", "seconds"), [("7", 7), ("0", 1), ("86400", 3600), ("soon", None), ("nan", None), (None, None)]
)
def test_the_vendor_s_own_delay_is_kept_within_reason_and_none_is_made_up(
    told: str | None, seconds: float | None
) -> None:
    error = twilio.classify(429, 20429, {} if told is None else {"Retry-After": told})
    assert (error.error_type, error.details.get("retry_after_seconds")) == ("throttled", seconds)


def test_where_nobody_listens_nothing_was_sent(connect: Callable[..., TextMessages]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    error = refused(lambda: connect(api_url=url).send(PHONE, BODY))
    assert (error.error_type, error.details["maybe_sent"]) == ("connection", False)


def test_the_usual_proxy_variables_are_honoured(
    connect: Callable[..., TextMessages], sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("HTTP_PROXY", sandbox.url)
    monkeypatch.setenv("http_proxy", sandbox.url)
    sid = connect(api_url="http://twilio.invalid").send(PHONE, BODY)
    assert [message["sid"] for message in sandbox.world.twilio.export()] == [sid]


def test_the_environment_of_the_official_client_bends_nothing(
    connect: Callable[..., TextMessages], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TWILIO_EDGE", "TWILIO_REGION"):
        monkeypatch.setenv(name, "sydney")
    assert connect().send(PHONE, BODY)


def test_an_account_is_checked_with_one_call(messages: TextMessages, sandbox: Sandbox) -> None:
    messages.check()
    assert [request.operation for request in sandbox.world.twilio.requests] == ["FetchAccount"]
    edit(sandbox.world.twilio, "set_token", token="changed")
    assert refused(messages.check).error_type == "credentials"


def test_no_log_names_the_number_the_text_or_the_token(
    messages: TextMessages, sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        messages.send(PHONE, BODY)
        messages.look_up(PHONE, BODY, REFERENCE, ago(minutes=1))
    assert sandbox.world.twilio.auth_token not in caplog.text
    assert BODY not in caplog.text
    assert PHONE.removeprefix("+") not in caplog.text
    assert repr(messages).find(sandbox.world.twilio.auth_token) == -1


def test_what_is_missing_is_listed_exactly() -> None:
    with pytest.raises(IntegrationError) as raised:
        twilio.from_settings(Settings(twilio_account_sid="AC" + "0" * 32))
    assert raised.value.error_type == "configuration"
    assert raised.value.message == (
        "text messages cannot be sent: set BG_TWILIO_AUTH_TOKEN, "
        "BG_TWILIO_FROM or BG_TWILIO_MESSAGING_SERVICE_SID"
    )


@pytest.mark.parametrize("code", [21614, 21408, 20006])
def test_a_refusal_that_cannot_be_read_is_looked_into_and_tried_again(
    messages: TextMessages, sandbox: Sandbox, code: int
) -> None:
    edit(sandbox.world.twilio, "set_invalid", numbers=[PHONE], code=code)
    sandbox.world.twilio.faults.append(Fault("half_json", times=1, operation="CreateMessage"))
    error = refused(lambda: messages.send(PHONE, BODY))
    assert (error.error_type, error.recoverable, error.details["maybe_sent"]) == (
        "malformed_response",
        True,
        True,
    )
    assert refused(lambda: messages.send(PHONE, BODY)).details["code"] == code


@pytest.mark.parametrize("length", [0, 40])
def test_half_an_answer_leaves_it_unclear(connect: Callable[..., TextMessages], length: int) -> None:
    head = b"HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nContent-Length: 400\r\n\r\n"

    def answer(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65_536)
            connection.sendall(head + (b'{"sid": "SM1", ' + b" " * length)[:length])

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=answer, args=(listener,), daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        error = refused(lambda: connect(api_url=url).send(PHONE, BODY))
    assert (error.error_type, error.details["maybe_sent"]) == ("connection", True)
