"""Alert targets: phones by SMS and apprise URLs, from the settings.

A target's `key` is its kind and a digest. Tables and logs contain the key, never the number or address.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from bg_pipelines.alerts.wording import Message, sms
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.settings import Settings

# apprise and Twilio's client are imported by whoever has something to send, not by every process of a job.
if TYPE_CHECKING:
    from bg_pipelines.alerts.notifier import Mood, Notifier
    from bg_pipelines.messaging.twilio import TextMessages


class Target(Protocol):
    """A target of alerts."""

    @property
    def key(self) -> str:
        """Kind and digest, the same for the same number or address: `sms:3fa9c1d2`."""

    def send(self, message: Message) -> str | None:
        """Send it; returns the vendor's id if there is one. Raises IntegrationError."""

    def find(self, message: Message, since: datetime) -> str | None:
        """The vendor's id if it has been sent after `since`, as far as one can know. Raises IntegrationError."""


class Phone:
    """A phone, by SMS. Where Twilio's settings are missing, each send says which."""

    def __init__(self, number: str, settings: Settings) -> None:
        self._number = number
        self._settings = settings
        self.key = _key("sms", number)

    def send(self, message: Message) -> str:
        return self._messages.send(self._number, sms(message))

    def find(self, message: Message, since: datetime) -> str | None:
        try:
            return self._messages.look_up(self._number, sms(message), message.reference, since)
        except IntegrationError as error:
            if error.error_type is not ErrorType.OUTCOME_UNKNOWN:
                raise
            return None  # an alert that comes twice is better than one that never comes

    @cached_property
    def _messages(self) -> TextMessages:
        from bg_pipelines.messaging import twilio

        return twilio.from_settings(self._settings)


class Address:
    """An apprise URL. What was sent there cannot be looked up."""

    def __init__(self, url: str, name: str) -> None:
        self._url, self._name = url, name
        self.key = _key(url.partition("://")[0].lower(), url)

    def check(self) -> None:
        """Raises IntegrationError (configuration) where apprise does not understand it."""
        self._notifier.check()

    def send(self, message: Message) -> None:
        mood: Mood = "warning" if message.severity in ("low", "medium") else "failure"
        self._notifier.send(message.title, message.body, "success" if message.kind == "all_clear" else mood)

    def find(self, message: Message, since: datetime) -> None:  # noqa: ARG002
        return None

    @cached_property
    def _notifier(self) -> Notifier:
        from bg_pipelines.alerts.notifier import Notifier

        return Notifier(self._url, self._name)


def targets(settings: Settings) -> list[Target]:
    """All targets in the settings, each once."""
    return [*phones(settings), *addresses(settings)]


def phones(settings: Settings) -> list[Phone]:
    return [Phone(number.get_secret_value(), settings) for number in settings.alert_phones]


def addresses(settings: Settings) -> list[Address]:
    count = len(settings.alert_urls)
    return [
        Address(url.get_secret_value(), f"number {place} of {count} in BG_ALERT_URLS")
        for place, url in enumerate(settings.alert_urls, start=1)
    ]


def _key(kind: str, secret: str) -> str:
    return f"{kind}:{hashlib.sha256(secret.encode()).hexdigest()[:8]}"
