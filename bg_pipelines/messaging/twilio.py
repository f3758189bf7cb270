"""Text messages through Twilio: send one, and look one up when it is not known whether it was sent.

    messages = from_settings(settings)
    sid = messages.send("+12125550123", "the body")
    sid = messages.find("+12125550123", "the body", since)      # before any second send

Twilio has no idempotency key: an answer that is lost may have been the answer to a message that went out. Such an
error has `maybe_sent` in its details. Codes: https://www.twilio.com/docs/api/errors.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import requests
import urllib3.exceptions
from twilio.base import values
from twilio.base.exceptions import TwilioException
from twilio.http import HttpClient
from twilio.http.response import Response
from twilio.rest import Client

from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.messaging.silenced import silenced
from bg_pipelines.settings import TWILIO_API_URL, Settings

CONNECT_TIMEOUT_SECONDS, READ_TIMEOUT_SECONDS = 5.0, 20.0
MIN_WAIT_SECONDS, MAX_WAIT_SECONDS = 1.0, 3600.0
"""What a Retry-After may ask of us; anything else is taken for a mistake."""
MAX_ANSWER_BYTES = 16 * 1024 * 1024
LOOKED_THROUGH = 1000
"""How many of the newest messages to a number are looked through for one: a page, one call."""
CLOCK_SLACK = timedelta(minutes=5)
SOURCE = "twilio"

_SENDER = "BG_TWILIO_FROM or BG_TWILIO_MESSAGING_SERVICE_SID is no sender of this Twilio account"
_CODES: Mapping[int, tuple[ErrorType, str]] = {
    14107: (ErrorType.THROTTLED, "Twilio asks to slow down"),
    20003: (
        ErrorType.CREDENTIALS,
        "Twilio refuses the account and token: check BG_TWILIO_ACCOUNT_SID and BG_TWILIO_AUTH_TOKEN",
    ),
    20005: (ErrorType.PAYMENT_REQUIRED, "the Twilio account is suspended or closed: see Twilio's console"),
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
    21608: (ErrorType.SCOPES, "a trial account of Twilio sends only to numbers that were verified with it"),
    21610: (ErrorType.BAD_DATA, "the recipient has answered STOP and takes no messages from this sender"),
    21611: (ErrorType.THROTTLED, "Twilio's queue of this sender is full"),
    21612: (ErrorType.BAD_DATA, "the recipient's number cannot be reached from this sender"),
    21614: (ErrorType.BAD_DATA, "the recipient's number is not a mobile number"),
    21617: (ErrorType.BAD_DATA, "the message is longer than 1,600 characters"),
    21635: (ErrorType.BAD_DATA, "the recipient's number is a landline"),
    21659: (ErrorType.CONFIGURATION, _SENDER),
    21660: (ErrorType.CONFIGURATION, _SENDER),
    21703: (ErrorType.CONFIGURATION, _SENDER),
    21705: (ErrorType.CONFIGURATION, _SENDER),
}


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
        timeouts: tuple[float, float] = (CONNECT_TIMEOUT_SECONDS, READ_TIMEOUT_SECONDS),
    ) -> None:
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
        self._http.session.close()

    def send(self, to: str, body: str) -> str:
        """Hand one message to Twilio; returns its SID. What becomes of it afterwards is not waited for."""
        with _understood(maybe_sent=True):
            sid = self._client.messages.create(
                to=to,
                body=body,
                from_=self._sender or values.unset,
                messaging_service_sid=self._service_sid or values.unset,
            ).sid
        if not isinstance(sid, str):
            raise _malformed("Twilio took a message and did not say which", {"maybe_sent": True})
        return sid

    def find(self, to: str, body: str, since: datetime) -> str | None:
        """The SID of the message to this number whose text ends with `body`, given to Twilio after `since`.

        The end suffices, for a trial account's messages begin with a note of Twilio's. `since` is by our clock.
        """
        with _understood():
            # Not by date_sent: what Twilio has taken and not sent yet has none, and would not be found.
            found = self._client.messages.list(to=to, limit=LOOKED_THROUGH)
            earliest = since + self._http.ahead - CLOCK_SLACK
            for message in found:
                made = message.date_created
                if (message.body or "").rstrip().endswith(body.rstrip()) and (
                    not isinstance(made, datetime) or made >= earliest
                ):
                    return str(message.sid)
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
    by_status = {401: 20003, 404: 20404, 429: 20429}
    known = _CODES.get(code or 0) or _CODES.get(by_status.get(status, 0))
    if known is None:
        kind, message = ErrorType.QUERY_REJECTED, "Twilio refuses the request"
    else:
        kind, message = known
    if kind is ErrorType.THROTTLED:
        details["retry_after_seconds"] = _seconds(headers.get("Retry-After"))
    return _of(kind, f"{message} ({f'code {code}' if code is not None else status})", details)


class _Http(HttpClient):  # type: ignore[misc]  # twilio has no types
    """HTTP as the official client wants it, with both timeouts, a limit in size and failures classified here.

    Its own would log numbers and forget the headers of an answer.
    """

    def __init__(self, timeouts: tuple[float, float]) -> None:
        super().__init__(logging.getLogger(__name__), False)
        self.session = requests.Session()
        self.timeouts = timeouts
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
        allow_redirects: bool = False,
    ) -> Response:
        sends = method.upper() == "POST"
        with (
            silenced(),
            _transport(sends, self.timeouts),
            self.session.request(
                method.upper(),
                uri,
                params=params,  # type: ignore[arg-type]
                data=data,
                headers=headers,
                auth=auth,
                timeout=self.timeouts,
                allow_redirects=allow_redirects,
                stream=True,
            ) as response,
        ):
            content = self._read(response)
        self._note_clock(response.headers)
        answer = _parsed(content)
        if not 200 <= response.status_code < 300:
            code = answer.get("code") if answer else None
            raise classify(
                response.status_code,
                code if isinstance(code, int) else None,
                response.headers,
                maybe_sent=sends,
            )
        if answer is None:
            raise _malformed(
                "Twilio's answer is not the JSON it should be",
                {"status": response.status_code, "maybe_sent": sends},
            )
        return Response(response.status_code, content.decode("utf-8", "replace"), dict(response.headers))

    def _read(self, response: requests.Response) -> bytes:
        content = bytearray()
        deadline = time.monotonic() + self.timeouts[1]
        # read1 returns after each packet, so that the deadline is looked at however slowly they come.
        while chunk := response.raw.read1(1 << 18, decode_content=True):
            content += chunk
            if time.monotonic() > deadline or len(content) > MAX_ANSWER_BYTES:
                raise requests.ReadTimeout
        return bytes(content)

    def _note_clock(self, headers: Mapping[str, str]) -> None:
        try:
            theirs = parsedate_to_datetime(headers["Date"])
            self.ahead = theirs.replace(tzinfo=theirs.tzinfo or UTC) - datetime.now(UTC)
        except (KeyError, ValueError):
            self.ahead = timedelta()


@contextmanager
def _transport(sends: bool, timeouts: tuple[float, float]) -> Iterator[None]:
    """What can happen to a connection, classified. Only what failed before it was made was surely not executed."""

    def fault(kind: ErrorType, what: str, *, maybe_sent: bool = sends) -> IntegrationError:
        return _of(kind, f"Twilio: {what}", {"maybe_sent": maybe_sent})

    try:
        yield
    except requests.ConnectTimeout:
        raise fault(ErrorType.TIMEOUT, f"no connection within {timeouts[0]:g} s", maybe_sent=False) from None
    except (requests.Timeout, urllib3.exceptions.TimeoutError):
        raise fault(ErrorType.TIMEOUT, f"no whole answer within {timeouts[1]:g} s") from None
    except requests.exceptions.ProxyError:
        raise fault(ErrorType.CONNECTION, "the proxy cannot be reached", maybe_sent=False) from None
    except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema):
        raise _of(ErrorType.CONFIGURATION, "BG_TWILIO_API_URL is not an address", {}) from None
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        cause = getattr(error.args[0], "reason", None) if error.args else None
        if isinstance(cause, urllib3.exceptions.NewConnectionError):
            raise fault(ErrorType.CONNECTION, "it cannot be reached", maybe_sent=False) from None
        what = f"the connection failed or was cut ({type(error).__name__})"
        raise fault(ErrorType.CONNECTION, what) from None


@contextmanager
def _understood(*, maybe_sent: bool = False) -> Iterator[None]:
    """The official client takes the shape of an answer for granted; one of another shape is classified."""
    try:
        yield
    except (TwilioException, AttributeError, KeyError, TypeError, ValueError) as error:
        raise _malformed(
            f"Twilio's answer lacks what was asked for ({type(error).__name__})", {"maybe_sent": maybe_sent}
        ) from None


def _parsed(content: bytes) -> dict[str, Any] | None:
    try:
        answer = json.loads(content)
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None


def _seconds(text: str | None) -> float:
    try:
        seconds = float(text or "")
    except ValueError:
        seconds = MIN_WAIT_SECONDS
    return min(max(seconds, MIN_WAIT_SECONDS), MAX_WAIT_SECONDS) if seconds == seconds else MIN_WAIT_SECONDS


def _of(kind: ErrorType, message: str, details: dict[str, Any]) -> IntegrationError:
    return IntegrationError.of(kind, message, source=SOURCE, details=details)


def _malformed(message: str, details: dict[str, Any]) -> IntegrationError:
    return _of(ErrorType.MALFORMED_RESPONSE, message, details)
