"""Notifications to whatever apprise knows (Slack, e-mail, PagerDuty, ...): https://appriseit.com/services/.

An address holds secrets, and apprise writes addresses into its log: nothing of that log goes anywhere. It calls with
`requests`, which would add what ~/.netrc has for a host, or for any: logins of somebody else, for something else.
"""

from __future__ import annotations

import logging
import os
import re
from functools import cached_property
from typing import Literal

import apprise

from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.platforms.silenced import silenced

CONNECT_TIMEOUT_SECONDS, READ_TIMEOUT_SECONDS = 5.0, 20.0
"""For each request of an address that does not set its own (`?cto=` and `?rto=`)."""
NOTIFY_TIMEOUT_SECONDS = 45.0
SOURCE = "apprise"

os.environ["NETRC"] = os.devnull

Mood = Literal["failure", "warning", "success"]


class Notifier:
    """One address, called `name` in errors."""

    def __init__(self, url: str, name: str) -> None:
        self._url = url
        self.name = name

    def check(self) -> None:
        """Raises IntegrationError (configuration) where apprise does not understand the address."""
        self._understood()

    def _understood(self) -> apprise.NotifyBase:
        if self._service is None:
            raise IntegrationError.of(
                ErrorType.CONFIGURATION,
                f"apprise does not understand {self.name}: compare it with https://appriseit.com/services/",
                source="settings",
            )
        return self._service

    def send(self, title: str, body: str, mood: Mood) -> None:
        """Notify. Raises IntegrationError: of an address one cannot know why it failed, so it may pass."""
        notifier = apprise.Apprise(asset=_asset())
        notifier.add(self._understood())
        try:
            with (
                silenced(),
                notifier.notify(
                    body=body, title=title, notify_type=mood, body_format=apprise.NotifyFormat.TEXT
                ) as result,
            ):
                if result:
                    return
                said = " ".join(entry.message for entry in result.logs())
        except Exception as error:  # noqa: BLE001 (a plugin's surprise, whose text may hold the address)
            raise _failed(self.name, f": {type(error).__name__}") from None
        status = re.search(r"\d{3}", said)
        raise _failed(self.name, f" ({status[0]})" if status else "")

    @cached_property
    def _service(self) -> apprise.NotifyBase | None:
        try:
            with silenced():
                service = apprise.Apprise.instantiate(self._url, asset=_asset())
        except Exception:  # noqa: BLE001 (whatever a plugin makes of it, it is not understood)
            service = None
        if service is not None:
            if service.socket_connect_timeout == apprise.URLBase.socket_connect_timeout:
                service.socket_connect_timeout = CONNECT_TIMEOUT_SECONDS
            if service.socket_read_timeout == apprise.URLBase.socket_read_timeout:
                service.socket_read_timeout = READ_TIMEOUT_SECONDS
        return service


def _asset() -> apprise.AppriseAsset:
    return apprise.AppriseAsset(
        app_id="bg-pipelines",
        app_desc="bg-pipelines",
        storage_mode=apprise.PersistentStoreMode.MEMORY,
        service_timeout=NOTIFY_TIMEOUT_SECONDS,
    )


def _failed(name: str, why: str) -> IntegrationError:
    return IntegrationError(
        f"{name} did not take the notification{why}", error_type=ErrorType.UNKNOWN, source=SOURCE
    )


def _redact(record: logging.LogRecord) -> bool:
    """Of what apprise says only the status of an answer is known to hold no secret."""
    status = re.search(r"error[=:]\s?(\d{3})\b", record.getMessage())
    record.msg, record.args = f"a notification: {status[1] if status else 'withheld'}", ()
    record.exc_info = record.exc_text = record.stack_info = None
    return True


logging.getLogger("apprise").addFilter(_redact)
logging.getLogger("apprise").propagate = False
