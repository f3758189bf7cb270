"""Square's webhook subscriptions: one of the application, with all event types and a signature key of its own.

Vendor facts: https://developer.squareup.com/docs/webhooks/webhook-subscriptions-api (they belong to the application, so
only its personal access token manages them, and no merchant's), /docs/webhooks/overview (delivered to https only).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.platforms.protocol import Subscription, Wanted
from bg_pipelines.platforms.square.client import SOURCE, VERSION, SquareClient, malformed

NAME = "bg-pipelines"
_PLACE = ("webhooks", "subscriptions")


class Subscriptions:
    """Webhook subscriptions of one application. See `Webhooks` for what each method promises."""

    each_topic = False
    own_keys = True

    def __init__(self, client: SquareClient) -> None:
        self._client = client

    def subscriptions(self) -> list[Subscription]:
        with _explained():
            return [
                _subscription(row)
                for answer in self._client.listed(*_PLACE, include_disabled="true")
                for row in answer.rows("subscriptions")
            ]

    def signature_key(self, external_id: str) -> str | None:
        with _explained():
            try:
                answer = self._client.get(*_PLACE, external_id)
            except IntegrationError as error:
                if _is_missing(error):
                    return None
                raise
            return _subscription(answer.data.get("subscription")).signature_key

    def subscribe(self, wanted: Wanted) -> Subscription:
        with _explained():
            answer = self._client.post("/".join(_PLACE), subscription=_content(wanted))
            return _subscription(answer.data.get("subscription"))

    def update(self, external_id: str, wanted: Wanted) -> Subscription | None:
        with _explained():
            try:
                answer = self._client.put(*_PLACE, external_id, content={"subscription": _content(wanted)})
            except IntegrationError as error:
                if _is_missing(error):
                    return None
                raise
            return _subscription(answer.data.get("subscription"))

    def unsubscribe(self, external_id: str) -> None:
        with _explained():
            try:
                self._client.delete(*_PLACE, external_id)
            except IntegrationError as error:
                if not _is_missing(error):
                    raise


def _content(wanted: Wanted) -> dict[str, Any]:
    return {
        "name": NAME,
        "enabled": True,
        "event_types": list(wanted.topics),
        "notification_url": wanted.uri,
        "api_version": VERSION,
    }


def _subscription(row: Any) -> Subscription:
    try:
        return Subscription(
            external_id=str(row["id"]),
            topics=tuple(row.get("event_types") or ()),
            uri=str(row.get("notification_url") or ""),
            include_fields=None,
            filter=None,
            source_updated_at=_moment(row.get("updated_at") or row["created_at"]),
            delivers=row.get("enabled") is True,
            signature_key=row.get("signature_key"),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        raise malformed("Square's answer has a webhook subscription that makes no sense") from None


def _moment(text: str) -> datetime:
    """Square's own samples of these times are Go's, like 2022-01-10 23:29:48 +0000 UTC."""
    return datetime.fromisoformat(text.removesuffix(" UTC").replace(" +", "+"))


def _is_missing(error: IntegrationError) -> bool:
    return bool(error.details.get("code") == "NOT_FOUND")


@contextmanager
def _explained() -> Iterator[None]:
    """What a refusal means here, and what to do about it."""
    try:
        yield
    except IntegrationError as error:
        if error.error_type is ErrorType.SCOPES:
            raise IntegrationError.of(
                ErrorType.SCOPES,
                "Square lets only an application's personal access token manage its webhooks, and the store's token is "
                "a merchant's: make the subscription in the Developer Console and set BG_SQUARE_WEBHOOK_KEY",
                source=SOURCE,
                details=error.details,
            ) from None
        if "notification_url" in str(error.details.get("field")):
            raise IntegrationError.of(
                ErrorType.CONFIGURATION,
                f"Square does not deliver webhooks to BG_PUBLIC_URL ({error.details.get('code')}): set it to a public "
                "https address",
                source=SOURCE,
                details=error.details,
            ) from None
        raise
