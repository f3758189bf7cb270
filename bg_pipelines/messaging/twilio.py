"""Text messages through Twilio: send one, and look one up when it is not known whether it was sent.

    messages = from_settings(settings)
    sid = messages.send("+12125550123", "the body")
    sid = messages.look_up("+12125550123", "the body", "3f9a2c71b0", since)    # before any second send

Twilio has no idempotency key: an answer that is lost may have been the answer to a message that went out. Such an
error has `maybe_sent` in its details. Codes: https://www.twilio.com/docs/api/errors.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from urllib3.util import make_headers

from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.platforms.http import Timeouts, Transport, parse_json, retry_after, vendor_time
from bg_pipelines.platforms.network import is_in_clear
from bg_pipelines.settings import TWILIO_API_URL, Settings

TIMEOUTS = Timeouts(connect=5.0, read=20.0, whole=20.0)
MAX_ANSWER_BYTES = 16 * 1024 * 1024
LOOKED_THROUGH = 1000
"""How many of the newest messages to a number are looked through for one: a page, one call."""
LOOKED_BACK = timedelta(days=1)
"""The list of messages to a number goes back far enough if it holds one that is so much older than what is looked for."""
SOURCE = "twilio"

_SENDER = "BG_TWILIO_FROM or BG_TWILIO_MESSAGING_SERVICE_SID is no sender of this Twilio account"
# `bad_data` is the recipient's, and only that is final: whoever sends goes by it. A code that is not here says nothing
# of the recipient (Twilio adds some every month, and splits others): `query_rejected`.
_CODES: Mapping[int, tuple[ErrorType, str]] = {
    14107: (ErrorType.THROTTLED, "Twilio asks to slow down"),
    20003: (
        ErrorType.CREDENTIALS,
        "Twilio refuses the account and token: check BG_TWILIO_ACCOUNT_SID and BG_TWILIO_AUTH_TOKEN",
    ),
    20005: (ErrorType.PAYMENT_REQUIRED, "the Twilio account is suspended or closed: see Twilio's console"),
    20006: (
        ErrorType.CREDENTIALS,
        "Twilio denies this account's token what it asks for: see Twilio's console",
    ),
    20404: (
        ErrorType.CONFIGURATION,
        "there is no such account: check BG_TWILIO_ACCOUNT_SID and BG_TWILIO_API_URL",
    ),
    20429: (ErrorType.THROTTLED, "Twilio asks to slow down"),
    21211: (ErrorType.BAD_DATA, "the recipient's number is not a valid phone number"),
    21212: (ErrorType.CONFIGURATION, _SENDER),
    21408: (
        ErrorType.SCOPES,
        "the Twilio account may not send to the recipient's region: allow it in Twilio's console",
    ),
    21603: (ErrorType.CONFIGURATION, _SENDER),
    21606: (ErrorType.CONFIGURATION, _SENDER),
    21607: (ErrorType.CONFIGURATION, _SENDER),
    21608: (ErrorType.SCOPES, "a trial account of Twilio sends only to numbers that were verified with it"),
    21610: (ErrorType.BAD_DATA, "the recipient has answered STOP and takes no messages from this sender"),
    21611: (ErrorType.THROTTLED, "Twilio's queue of this sender is full"),
    21612: (ErrorType.QUERY_REJECTED, "the recipient's number cannot be reached from this sender"),
    21614: (ErrorType.BAD_DATA, "the recipient's number is not a mobile number"),
    21617: (ErrorType.QUERY_REJECTED, "the message is longer than 1,600 characters"),
    21635: (ErrorType.BAD_DATA, "the recipient's number is a landline"),
    21659: (ErrorType.CONFIGURATION, _SENDER),
    21660: (ErrorType.CONFIGURATION, _SENDER),
    21703: (ErrorType.CONFIGURATION, _SENDER),
    21704: (
        ErrorType.CONFIGURATION,
        "BG_TWILIO_MESSAGING_SERVICE_SID has no sender: add one to the service in Twilio's console",
    ),
    21705: (ErrorType.CONFIGURATION, _SENDER),
}
_TOLD = frozenset({401, 404, 429})
"""Statuses that say enough, whatever comes with them."""


class TextMessages:
    """One Twilio account and the sender that its messages come from. Safe to share between threads.

    `api_url` is the vendor's, or any other address that speaks the API. Raises IntegrationError, classified, and
    nothing else.
    """

    def __init__(
        self,
        account_sid: str,
        auth_token: str,
        *,
        sender: str | None = None,
        messaging_service_sid: str | None = None,
        api_url: str = TWILIO_API_URL,
        timeouts: Timeouts = TIMEOUTS,
    ) -> None:
        # Only who sends pays for it: the official client takes a while to import.
        from twilio.rest import Client

        self._sender = sender
        self._service_sid = messaging_service_sid
        self._http = _Http(timeouts)
        # Not the environment: TWILIO_EDGE and its like would bend the address.
        self._client = Client(
            account_sid, auth_token, http_client=self._http, environment={"TWILIO_REGION": ""}
        )
        self._client.api.base_url = api_url
        self._account_sid = account_sid

    def close(self) -> None:
        self._http.transport.close()

    def send(
        self, to: str, body: str, *, status_callback: str | None = None, validity_seconds: int | None = None
    ) -> str:
        """Hand one message to Twilio; returns its SID. What becomes of it afterwards is not waited for.

        `status_callback` is where Twilio tells it; `validity_seconds`, 1 to 36,000, is how long it may wait there.
        """
        options = {
            "from_": self._sender,
            "messaging_service_sid": self._service_sid,
            "status_callback": status_callback,
            "validity_period": validity_seconds,
        }
        named = {name: value for name, value in options.items() if value}
        with _understood(maybe_sent=True):
            sid = self._client.messages.create(to=to, body=body, **named).sid
        if not isinstance(sid, str):
            raise _malformed("Twilio took a message and did not say which", {"maybe_sent": True})
        return sid

    def look_up(self, to: str, body: str, reference: str, since: datetime) -> str | None:
        """The SID of the message to this number with this reference in its text; None: Twilio provably has none.

        `since` is when its call began, by our clock. Raises IntegrationError (outcome_unknown) where that cannot be known:
        there are more messages to this number than are listed, or their texts are not kept.
        """
        with _understood():
            found = self._client.messages.list(to=to, limit=LOOKED_THROUGH)
            for message in found:
                text = message.body or ""
                # A trial account's messages begin with a note of Twilio's; a Messaging Service may change signs in them.
                if text.rstrip().endswith(body.rstrip()) or re.search(rf"\b{re.escape(reference)}\b", text):
                    return str(message.sid)
            # Whenever it was: a clock that is wrong must not hide it. By time is only told whether the list goes back far
            # enough, and that generously.
            earliest = since + self._http.ahead - LOOKED_BACK
            newer = [
                message
                for message in found
                if not isinstance(message.date_created, datetime) or message.date_created >= earliest
            ]
            if len(found) >= LOOKED_THROUGH and len(newer) == len(found):
                raise _of(
                    ErrorType.OUTCOME_UNKNOWN,
                    f"Twilio lists more than {LOOKED_THROUGH:,} messages to this number since then",
                    {},
                )
            if any(not (message.body or "").strip("*xX•. ") for message in newer):
                raise _of(
                    ErrorType.OUTCOME_UNKNOWN, "Twilio does not keep the texts of messages to this number", {}
                )
        return None

    def check(self) -> None:
        """Ask for the account: raises what is wrong with the credentials, or that it is not active."""
        with _understood():
            status = self._client.api.v2010.accounts(self._account_sid).fetch().status
        if status not in (None, "active"):
            raise IntegrationError.of(ErrorType.PAYMENT_REQUIRED, _CODES[20005][1], source=SOURCE)


def from_settings(settings: Settings) -> TextMessages:
    """The account of the settings. Raises IntegrationError (configuration) that lists what is missing."""
    missing = missing_settings(settings)
    if missing:
        raise IntegrationError.of(
            ErrorType.CONFIGURATION,
            f"text messages cannot be sent: set {', '.join(missing)}",
            source="settings",
        )
    if is_in_clear(settings.twilio_api_url) and not settings.insecure:
        raise IntegrationError.of(
            ErrorType.CONFIGURATION,
            "BG_TWILIO_API_URL is not https://: the account's token would go over the network unencrypted; "
            "BG_INSECURE=true allows it",
            source="settings",
        )
    assert settings.twilio_account_sid is not None
    assert settings.twilio_auth_token is not None
    return TextMessages(
        settings.twilio_account_sid,
        settings.twilio_auth_token.get_secret_value(),
        sender=settings.twilio_from,
        messaging_service_sid=settings.twilio_messaging_service_sid,
        api_url=settings.twilio_api_url,
    )


def missing_settings(settings: Settings) -> list[str]:
    """What has to be set before a text message can be sent."""
    missing = []
    if settings.twilio_account_sid is None:
        missing.append("BG_TWILIO_ACCOUNT_SID")
    if settings.twilio_auth_token is None:
        missing.append("BG_TWILIO_AUTH_TOKEN")
    if settings.twilio_from is None and settings.twilio_messaging_service_sid is None:
        missing.append("BG_TWILIO_FROM or BG_TWILIO_MESSAGING_SERVICE_SID")
    return missing


def classify(
    status: int, code: int | None, headers: Mapping[str, str], *, maybe_sent: bool = False
) -> IntegrationError:
    """An answer other than 2xx, as what it means for us. Twilio's own sentence holds the number and is left out."""
    details: dict[str, Any] = {"status": status}
    if code is not None:
        details["code"] = code
    if request_id := headers.get("Twilio-Request-Id"):
        details["request_id"] = request_id
    if status >= 500:
        details["maybe_sent"] = maybe_sent
        return _of(ErrorType.SERVER_ERROR, f"Twilio is failing ({status})", details)
    if 300 <= status < 400:
        message = f"BG_TWILIO_API_URL leads elsewhere ({status}): give the address of the API itself"
        return _of(ErrorType.CONFIGURATION, message, details)
    by_status = {401: 20003, 402: 20005, 403: 20006, 404: 20404, 429: 20429}
    known = _CODES.get(code or 0) or _CODES.get(by_status.get(status, 0))
    if known is None:
        kind, message = ErrorType.QUERY_REJECTED, "Twilio refuses the request"
    else:
        kind, message = known
    # Without one it is ours to back off, further each time.
    if kind is ErrorType.THROTTLED and (asked := retry_after(headers)):
        details["retry_after_seconds"] = asked
    return _of(kind, f"{message} ({f'code {code}' if code is not None else status})", details)


class _Http:
    """HTTP as the official client wants it, through our transport; failures are classified here.

    Its own would log numbers and forget the headers of an answer.
    """

    def __init__(self, timeouts: Timeouts) -> None:
        self.transport = Transport(
            SOURCE, "Twilio", address_of="BG_TWILIO_API_URL", timeouts=timeouts, max_bytes=MAX_ANSWER_BYTES
        )
        self.ahead = timedelta()
        """How far Twilio's clock is ahead of ours, as of the last answer."""

    def request(
        self,
        method: str,
        uri: str,
        params: Mapping[str, object] | None = None,
        data: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
        auth: tuple[str, str] | None = None,
        timeout: float | None = None,  # noqa: ARG002 (ours are of the account)
        allow_redirects: bool = False,  # noqa: ARG002
    ) -> Any:
        from twilio.http.response import Response

        sends = method.upper() == "POST"
        named = {**(headers or {}), **make_headers(basic_auth=":".join(auth or ()))}
        try:
            answer = self.transport.request(
                method.upper(),
                f"{uri}?{_form(params)}" if params else uri,
                headers=named,
                body=_form(data).encode() if data else None,
            )
        except IntegrationError as error:
            # Only what failed before there was a connection was surely not executed.
            was_sent = error.details.pop("sent", error.error_type is not ErrorType.CONFIGURATION)
            error.details["maybe_sent"] = sends and was_sent
            raise
        theirs = vendor_time(answer.headers)
        self.ahead = theirs - datetime.now(UTC) if theirs else timedelta()
        content = _object(answer.content)
        if (
            content is None
            and (answer.status < 300 or 400 <= answer.status < 500)
            and answer.status not in _TOLD
        ):
            raise _malformed(
                f"Twilio's answer ({answer.status}) is not the JSON it should be: cut off, or of somebody in between",
                {"status": answer.status, "maybe_sent": sends},
            )
        if not 200 <= answer.status < 300:
            code = (content or {}).get("code")
            code = code if isinstance(code, int) else None
            raise classify(answer.status, code, answer.headers, maybe_sent=sends)
        return Response(answer.status, answer.content.decode("utf-8", "replace"), dict(answer.headers))


@contextmanager
def _understood(*, maybe_sent: bool = False) -> Iterator[None]:
    """The official client takes the shape of an answer for granted; one of another shape is classified."""
    from twilio.base.exceptions import TwilioException

    try:
        yield
    except (TwilioException, AttributeError, KeyError, TypeError, ValueError) as error:
        raise _malformed(
            f"Twilio's answer lacks what was asked for ({type(error).__name__})", {"maybe_sent": maybe_sent}
        ) from None


def _form(values: Mapping[str, object]) -> str:
    return urlencode({name: value for name, value in values.items() if value is not None}, doseq=True)


def _object(content: bytes) -> dict[str, Any] | None:
    try:
        answer = parse_json(content)
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None


def _of(kind: ErrorType, message: str, details: dict[str, Any]) -> IntegrationError:
    return IntegrationError.of(kind, message, source=SOURCE, details=details)


def _malformed(message: str, details: dict[str, Any]) -> IntegrationError:
    return _of(ErrorType.MALFORMED_RESPONSE, message, details)
