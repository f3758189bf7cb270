"""Notifications: taken or not, and never a word of the address."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from bg_pipelines.alerts.notifier import Notifier
from bg_pipelines.errors import IntegrationError
from bg_pipelines.sandbox import Sandbox
from bg_pipelines.sandbox.faults import Fault
from bg_pipelines_tests.sandbox.listener import Listener

SECRET = "hunter2-hunter2"


def address(sandbox: Sandbox) -> str:
    return f"json://user:{SECRET}@127.0.0.1:{sandbox.port}/hooks/ops/?-key={SECRET}"


def test_a_notification_arrives_with_its_title_and_text(sandbox: Sandbox) -> None:
    Notifier(address(sandbox), "number 1 of 1").send(
        "a title", "a `text` with <b>, ${HOME} & 100 %", "failure"
    )
    [notice] = sandbox.world.hooks["ops"].received
    assert notice.body["title"] == "a title"
    assert notice.body["message"] == "a `text` with <b>, ${HOME} & 100 %"
    assert notice.body["type"] == "failure"


@pytest.mark.parametrize("kind", ["server_error", "too_many_requests", "cut"])
def test_what_is_not_taken_is_a_failure_that_may_pass(
    sandbox: Sandbox, kind: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    sandbox.world.hooks["ops"].faults.append(Fault(kind))
    with caplog.at_level(logging.DEBUG), pytest.raises(IntegrationError) as raised:
        Notifier(address(sandbox), "number 1 of 1").send("a title", "a text", "failure")
    error = raised.value
    assert (error.recoverable, error.source) == (True, "apprise")
    assert error.message.startswith("number 1 of 1 did not take the notification")
    status = {"server_error": "(500)", "too_many_requests": "(429)"}.get(kind, "")
    assert status in error.message
    shown = caplog.text + "".join(capfd.readouterr()) + repr(error.as_dict())
    assert SECRET not in shown
    assert "hooks" not in shown


@pytest.mark.parametrize("url", [f"nosuch://{SECRET}/x", f"slack://{SECRET}", "slack://"])
def test_an_address_that_is_not_understood_is_named_by_its_position(
    url: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    notifier = Notifier(url, "number 2 of 3")
    for act in (notifier.check, lambda: notifier.send("a title", "a text", "failure")):
        with caplog.at_level(logging.DEBUG), pytest.raises(IntegrationError, match="number 2 of 3") as raised:
            act()
        assert raised.value.error_type == "configuration"
        assert SECRET not in caplog.text + "".join(capfd.readouterr()) + repr(raised.value.as_dict())


def test_other_logs_of_connections_are_as_they_were(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("urllib3.connectionpool").debug("somebody else's")
    assert "somebody else's" in caplog.text


@pytest.mark.parametrize("entry", ["default", "machine 127.0.0.1"])
def test_no_login_of_netrc_goes_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: str) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".netrc").write_text(f"{entry} login somebody password {SECRET}\n")
    (tmp_path / ".netrc").chmod(0o600)
    with Listener() as listener:
        Notifier(listener.url.replace("http://", "json://"), "number 1 of 1").send(
            "a title", "a text", "failure"
        )
        [received] = listener.received
    assert "authorization" not in received.headers
