"""Twilio's Messages API over HTTP: credentials, messages, pages of them, and faults."""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any
from urllib.parse import parse_qsl, urlencode

from bg_pipelines.sandbox.exchange import Answer, Incoming, as_json
from bg_pipelines.sandbox.faults import STATUSES, Fault, delivered, first_match, html_page
from bg_pipelines.sandbox.rows import Node
from bg_pipelines.sandbox.twilio.account import (
    API_VERSION,
    LONGEST_VALIDITY_SECONDS,
    REFUSALS,
    REFUSED_WITH,
    Message,
    TwilioAccount,
    TwilioRequest,
    mail_date,
)

KINDS = (
    "unauthorized",
    "too_many_requests",
    "server_error",
    "bad_gateway",
    "service_unavailable",
    "html",
    "slow",
    "cut",
    "apply_then_cut",
    "half_json",
)
LONGEST_BODY = 1600
PAGE_SIZE, LARGEST_PAGE = 50, 1000
SCHEDULE_SECONDS = (15 * 60, 35 * 24 * 3600)
E_164 = re.compile(r"\+[1-9][0-9]{6,14}")
FILTERS = ("To", "From", "DateSent", "DateSent<", "DateSent>")
CODES_BY_STATUS = {401: 20003, 405: 20004, 429: 20429, 500: 20500, 503: 20503}
MESSAGES_BY_CODE = {
    20003: "Authenticate",
    20004: "Method not allowed",
    20429: "Too Many Requests",
    20500: "Internal Server Error",
    20503: "Service Unavailable",
}


Act = Callable[[], tuple[int, Node]]


class RefusalError(Exception):
    """The vendor refuses a request: its code, its sentence and the HTTP status."""

    def __init__(self, code: int, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code, self.message, self.status = code, message, status


class Twilio:
    """The vendor's side of the account; `next_number` counts the requests of the whole sandbox."""

    def __init__(self, account: TwilioAccount, next_number: Callable[[], int]) -> None:
        self.account = account
        self.next_number = next_number

    def answer(self, incoming: Incoming) -> Answer:
        account = self.account
        with account.lock:
            operations = self.operations(incoming)
            operation, act = operations.get(incoming.method, ("", None))
            fault: Fault | None = None
            content: Node = {}
            if not allows(account, incoming.headers.get("Authorization")):
                answer = by_status(401)
                answer.headers["WWW-Authenticate"] = 'Basic realm="Twilio API"'
            elif act is None:
                answer = by_status(405) if operations else as_json(*not_found(incoming))
            else:
                fault = first_match(account.faults, operation, kinds=KINDS)
                answer, content = spoiled(act, fault)
            account.requests.append(
                TwilioRequest(
                    number=self.next_number(),
                    at=account.clock.stamp(),
                    operation=operation,
                    status=None if answer.delivery == "cut" else answer.status,
                    fault=fault.kind if fault is not None else None,
                    sid=content.get("sid"),
                )
            )
        return answer

    def operations(self, incoming: Incoming) -> dict[str, tuple[str, Act]]:
        """What can be done at a path: by its method, the operation's name at the vendor and how it is done."""
        account, place = self.account, incoming.path.strip("/").split("/")
        if place == [API_VERSION, "Accounts", f"{account.account_sid}.json"]:
            return {"GET": ("FetchAccount", lambda: (200, show_account(account)))}
        if place == [API_VERSION, "Accounts", account.account_sid, "Messages.json"]:
            return {
                "POST": ("CreateMessage", lambda: (201, create_message(account, incoming).shown())),
                "GET": ("ListMessage", lambda: (200, page_of(account, incoming))),
            }
        if place[:-1] == [API_VERSION, "Accounts", account.account_sid, "Messages"]:
            message = account.find(place[-1].removesuffix(".json"))
            return {
                "GET": ("FetchMessage", lambda: (200, message.shown()) if message else not_found(incoming))
            }
        return {}


def spoiled(act: Act, fault: Fault | None) -> tuple[Answer, Node]:
    """The answer as the fault leaves it, and what it says or would have said."""
    if fault is not None and fault.kind in STATUSES:
        return by_status(STATUSES[fault.kind], html=fault.kind in {"html", "bad_gateway"}), {}
    if fault is not None and fault.kind == "cut":
        return Answer(200, delivery="cut"), {}
    try:
        status, content = act()
    except RefusalError as error:
        status, content = refusal(error.status, error.code, error.message)
    return delivered(as_json(status, content), fault), content


def allows(account: TwilioAccount, authorization: str | None) -> bool:
    scheme, _, encoded = (authorization or "").partition(" ")
    try:
        given = base64.b64decode(encoded.strip(), validate=True)
    except (binascii.Error, ValueError):
        return False
    expected = f"{account.account_sid}:{account.auth_token}".encode()
    return scheme.lower() == "basic" and hmac.compare_digest(given, expected)


def create_message(account: TwilioAccount, incoming: Incoming) -> Message:
    """Check the form, the recipient before all else as the vendor does, and take the message."""
    form = dict(parse_qsl(incoming.body.decode("utf-8", "replace")))
    to, sender, service = (form.get(name, "").strip() for name in ("To", "From", "MessagingServiceSid"))
    if not to:
        raise RefusalError(21604, "A 'To' phone number is required.")
    if not E_164.fullmatch(to):
        raise RefusalError(21211, REFUSALS[21211].format(number=to))
    if service and service != account.messaging_service_sid:
        raise RefusalError(21705, f"The Messaging Service Sid {service} is invalid.")
    if not service and not sender:
        raise RefusalError(21603, "A 'From' phone number is required.")
    if sender == to:
        raise RefusalError(21266, f"'To' and 'From' number cannot be the same: {to}")
    if sender and sender not in account.numbers:
        raise RefusalError(
            21606,
            f"The 'From' phone number provided ({sender}) is not a valid message-capable Twilio phone number for "
            "this destination/account.",
        )
    body = form.get("Body", "")
    if not body:
        raise RefusalError(21602, "Message body is required.")
    if len(body) > LONGEST_BODY:
        raise RefusalError(
            21617, f"The concatenated message body exceeds the {LONGEST_BODY} character limit."
        )
    code = account.refused.get(to)
    if code is not None:
        raise RefusalError(code, REFUSALS[code].format(number=to), REFUSED_WITH.get(code, 400))
    if to in account.opted_out and not service:
        raise RefusalError(21610, "Attempt to send to unsubscribed recipient")
    address = form.get("StatusCallback") or None
    if address is not None and not re.fullmatch(r"https?://[^\s/]+(/\S*)?", address):
        raise RefusalError(21609, f"The 'StatusCallback' URL {address} is not a valid URL.")
    if account.is_too_fast():
        raise RefusalError(20429, MESSAGES_BY_CODE[20429], 429)
    return account.add_message(
        status_callback=address,
        to=to,
        body=body,
        sender=sender or None,
        service_sid=service or None,
        validity_seconds=whole_number(form, "ValidityPeriod", 1, LONGEST_VALIDITY_SECONDS)
        or LONGEST_VALIDITY_SECONDS,
        # Without a Messaging Service the vendor drops the schedule and sends at once.
        send_at=send_at(account, form) if service else None,
    )


def send_at(account: TwilioAccount, form: dict[str, str]) -> float | None:
    if "SendAt" not in form or form.get("ScheduleType") != "fixed":
        return None
    refused = RefusalError(35114, "Scheduling does not support this timestamp")
    try:
        seconds = moment(form["SendAt"])
    except ValueError:
        raise refused from None
    earliest, latest = SCHEDULE_SECONDS
    if not earliest <= seconds - account.clock.seconds() <= latest:
        raise refused
    return seconds


def whole_number(form: Any, name: str, least: int, most: int) -> int | None:
    text = form.get(name)
    if not text:
        return None
    if not re.fullmatch(r"[0-9]{1,9}", text) or not least <= int(text) <= most:
        raise RefusalError(20001, f"{name} must be a whole number from {least} to {most}")
    return int(text)


def page_of(account: TwilioAccount, incoming: Incoming) -> Node:
    """A page, newest first. A token names the row beside which it begins, so that new messages don't shift it."""
    query = incoming.query
    size = whole_number(query, "PageSize", 1, LARGEST_PAGE) or PAGE_SIZE
    number = whole_number(query, "Page", 0, 10**9 - 1) or 0
    matches = matching(query)
    places = [place for place, message in enumerate(account.messages) if matches(message)][::-1]
    token = query.get("PageToken", "")
    if number and not token:
        raise RefusalError(20001, "A Page needs the PageToken that came with its address")
    if token:
        beside = account.find(token[2:])
        if token[:2] not in {"PA", "PB"} or beside is None:
            raise RefusalError(20001, f"PageToken {token} is none of this list's")
        at = account.messages.index(beside)
        if token.startswith("PA"):
            chosen = [place for place in places if place < at][:size]
        else:
            chosen = [place for place in places if place > at][-size:]
    else:
        chosen = places[:size]

    def uri(page: int, token: str | None = None) -> str:
        fields = [(name, query[name]) for name in FILTERS if name in query]
        fields += [("PageSize", str(size)), ("Page", str(page))]
        fields += [("PageToken", token)] if token else []
        return f"{incoming.path}?{urlencode(fields)}"

    rows = [account.messages[place] for place in chosen]
    older = bool(chosen) and places[-1] < chosen[-1]
    newer = bool(chosen) and places[0] > chosen[0] and number > 0
    start = number * size
    return {
        "end": start + max(len(rows) - 1, 0),
        "first_page_uri": uri(0),
        "next_page_uri": uri(number + 1, f"PA{rows[-1].sid}") if older else None,
        "page": number,
        "page_size": size,
        "previous_page_uri": uri(number - 1, f"PB{rows[0].sid}") if newer else None,
        "messages": [row.shown() for row in rows],
        "start": start,
        "uri": uri(number, token or None),
    }


def matching(query: Any) -> Callable[[Message], bool]:
    """The list's filters. What was not sent (yet) has no DateSent, so that none of the three dates finds it."""
    to, sender = query.get("To"), query.get("From")
    spans = [
        (name, *span(name, query[name])) for name in ("DateSent", "DateSent<", "DateSent>") if query.get(name)
    ]

    def matches(message: Message) -> bool:
        if to and message.to != to:
            return False
        if sender and message.shown()["from"] != sender:
            return False
        sent_at = message.sent_at
        if spans and sent_at is None:
            return False
        for name, first, last in spans:
            assert sent_at is not None
            if (name != "DateSent<" and int(sent_at) < first) or (
                name != "DateSent>" and int(sent_at) > last
            ):
                return False
        return True

    return matches


def span(name: str, text: str) -> tuple[int, int]:
    """The first and the last second that a date or a time means."""
    try:
        if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
            day = date.fromisoformat(text)
            first = int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())
            return first, first + 24 * 3600 - 1
        second = int(moment(text))
    except ValueError:
        raise RefusalError(20001, f"{name} must be a date such as 2026-11-18, or a time in GMT") from None
    return second, second


def moment(text: str) -> float:
    """Seconds since 1970 of an ISO 8601 time; GMT where it names no zone."""
    time = datetime.fromisoformat(text)
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def show_account(account: TwilioAccount) -> Node:
    opened, uri = mail_date(account.opened_at), f"/{API_VERSION}/Accounts/{account.account_sid}"
    return {
        "auth_token": account.auth_token,
        "date_created": opened,
        "date_updated": opened,
        "friendly_name": "Sandbox",
        "owner_account_sid": account.account_sid,
        "sid": account.account_sid,
        "status": "active",
        "subresource_uris": {"messages": f"{uri}/Messages.json"},
        "type": "Full",
        "uri": f"{uri}.json",
    }


def by_status(status: int, *, html: bool = False) -> Answer:
    if html:
        return html_page(status)
    code = CODES_BY_STATUS[status]
    return as_json(*refusal(status, code, MESSAGES_BY_CODE[code]))


def not_found(incoming: Incoming) -> tuple[int, Node]:
    return refusal(404, 20404, f"The requested resource {incoming.path} was not found")


def refusal(status: int, code: int, message: str) -> tuple[int, Node]:
    more = f"https://www.twilio.com/docs/errors/{code}"
    return status, {"code": code, "message": message, "more_info": more, "status": status}
