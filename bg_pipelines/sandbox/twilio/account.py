"""One Twilio account: its credentials and numbers, its messages and how each changes with time."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from random import Random

from bg_pipelines.sandbox.clock import Clock
from bg_pipelines.sandbox.deliveries import Courier, Outbox
from bg_pipelines.sandbox.faults import Fault
from bg_pipelines.sandbox.rows import Node
from bg_pipelines.sandbox.seed import dice, digest
from bg_pipelines.sandbox.twilio.callbacks import posted

API_VERSION = "2010-04-01"
SENT_AFTER_SECONDS = 1.0
DELIVERED_AFTER_SECONDS = 3.0
LONGEST_VALIDITY_SECONDS = 36_000
PRICE_OF_A_SEGMENT = 0.0075
REQUESTS_KEPT = 10_000
GSM_7 = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§"
    "¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
GSM_7_ESCAPED = frozenset("^{}\\[~]|€")
STOPS = frozenset({"STOP", "STOPALL", "UNSUBSCRIBE", "END", "QUIT", "CANCEL", "REVOKE", "OPTOUT"})
STARTS = frozenset({"START", "UNSTOP", "YES"})
# What a message may come to, and the final status it then has.
FAILURES: dict[int, tuple[str, str]] = {
    21610: ("failed", "Attempt to send to unsubscribed recipient"),
    30001: ("failed", "Queue overflow"),
    30002: ("failed", "Account suspended"),
    30003: ("undelivered", "Unreachable destination handset"),
    30004: ("undelivered", "Message blocked"),
    30005: ("undelivered", "Unknown destination handset"),
    30006: ("undelivered", "Landline or unreachable carrier"),
    30007: ("undelivered", "Carrier violation"),
    30008: ("undelivered", "Unknown error"),
    30036: ("failed", "Validity Period Expired"),
}
# What is refused at once, with the vendor's sentence.
REFUSALS: dict[int, str] = {
    20006: "Access denied",
    21211: "The 'To' number {number} is not a valid phone number.",
    21408: "Permission to send an SMS has not been enabled for the region indicated by the 'To' number: {number}",
    21608: "The number {number} is unverified. Trial accounts cannot send messages to unverified numbers.",
    21612: "Message cannot be sent with the current combination of 'To' ({number}) and 'From' parameters",
    21614: "'To' number is not a valid mobile number: {number}",
    21635: "'To' number cannot be a landline: {number}",
    21704: "The Messaging Service contains no phone numbers",
    29999: "A code that is in no list yet: {number}",
    30038: "OTP message body filtered",
}
REFUSED_WITH = {20006: 403}
"""HTTP statuses of refusals; the others are 400."""


@dataclass
class TwilioRequest:
    """One request of the product. `status` is None when the connection was cut instead of an answer; `sid` is what
    was made or shown, even if the answer never arrived."""

    number: int
    at: str
    operation: str
    status: int | None
    fault: str | None
    sid: str | None

    def to_json(self) -> Node:
        return asdict(self)


class Message:
    """A message and its script: (seconds since 1970, status) in order. What it has reached, it never leaves again."""

    def __init__(
        self, account: TwilioAccount, sid: str, fields: Node, script: list[tuple[float, str]]
    ) -> None:
        self.account = account
        self.sid = sid
        self.to: str = fields["to"]
        self.sender: str = fields["from"]
        self.body: str = fields["body"]
        self.service_sid: str | None = fields["service_sid"]
        self.error_code: int | None = fields["error_code"]
        self.status_callback: str | None = fields["status_callback"]
        self.script = script
        self._reached = 0

    @property
    def reached(self) -> int:
        now = self.account.clock.seconds()
        while self._reached + 1 < len(self.script) and self.script[self._reached + 1][0] <= now:
            self._reached += 1
        return self._reached

    @property
    def status(self) -> str:
        return self.script[self.reached][1]

    @property
    def created_at(self) -> float:
        return self.script[0][0]

    @property
    def sent_at(self) -> float | None:
        """When it was sent; None while it waits, or if it never is."""
        past = self.script[: self.reached + 1]
        return next((at for at, status in past if status == "sent"), None)

    def told(self, status: str) -> dict[str, str]:
        """As its callback tells of one status."""
        fields = {
            "AccountSid": self.account.account_sid,
            "ApiVersion": API_VERSION,
            "From": self.sender,
            "MessageSid": self.sid,
            "MessageStatus": status,
            "SmsSid": self.sid,
            "SmsStatus": status,
            "To": self.to,
        }
        if self.service_sid:
            fields["MessagingServiceSid"] = self.service_sid
        if status in {"failed", "undelivered"} and self.error_code is not None:
            fields["ErrorCode"] = str(self.error_code)
        return fields

    def shown(self) -> Node:
        """As the API shows it."""
        account, reached, sent_at = self.account.account_sid, self.reached, self.sent_at
        uri = f"/{API_VERSION}/Accounts/{account}/Messages/{self.sid}"
        failed = self.script[reached][1] in {"failed", "undelivered"}
        # A Messaging Service chooses the sender only when it sends.
        assigned = self.service_sid is None or sent_at is not None
        count = segments(self.body)
        return {
            "account_sid": account,
            "api_version": API_VERSION,
            "body": self.body,
            "date_created": mail_date(self.created_at),
            "date_sent": None if sent_at is None else mail_date(sent_at),
            "date_updated": mail_date(self.script[reached][0]),
            "direction": "outbound-api",
            "error_code": self.error_code if failed else None,
            "error_message": FAILURES[self.error_code][1] if failed and self.error_code else None,
            "from": self.sender if assigned else None,
            "messaging_service_sid": self.service_sid,
            "num_media": "0",
            "num_segments": str(count) if assigned else "0",
            "price": None if sent_at is None else f"-{PRICE_OF_A_SEGMENT * count:.5f}",
            "price_unit": "USD",
            "sid": self.sid,
            "status": self.script[reached][1],
            "subresource_uris": {"media": f"{uri}/Media.json"},
            "to": self.to,
            "uri": f"{uri}.json",
        }


class TwilioAccount:
    """Everything that happens to the account holds its `lock`.

    `opted_out` are numbers that said STOP; `undeliverable` says which numbers fail with which code once sent, and
    `refused` which are refused at once. `sent_after` and `delivered_after` are seconds after a message's creation
    (or its SendAt); they go for messages that are created from then on. `inbound_url` is where replies are posted to;
    `most_per_second` is how many messages it takes before it answers 429 (None: any number). Callbacks and replies are
    signed with the account's token, and sent in real time.
    """

    def __init__(self, seed: int, clock: Clock, courier: Courier) -> None:
        self.lock = threading.RLock()
        self.clock = clock
        self.account_sid = f"AC{digest(seed, 'twilio', 'account')}"
        self.auth_token = digest(seed, "twilio", "token")
        self.messaging_service_sid = f"MG{digest(seed, 'twilio', 'service')}"
        self.numbers = [
            f"+12125550{line}" for line in dice(seed, "twilio", "numbers").sample(range(100, 200), 2)
        ]
        self.messages: list[Message] = []
        self.requests: deque[TwilioRequest] = deque(maxlen=REQUESTS_KEPT)
        self.faults: list[Fault] = []
        self.opted_out: set[str] = set()
        self.undeliverable: dict[str, int] = {}
        self.refused: dict[str, int] = {}
        self.sent_after = SENT_AFTER_SECONDS
        self.delivered_after = DELIVERED_AFTER_SECONDS
        self.inbound_url: str | None = None
        self.most_per_second: float | None = None
        self.outbox = Outbox(courier, self.faults, Random(seed))  # noqa: S311 (which callbacks are shuffled)
        self.replies = self.made = 0
        self.opened_at = clock.seconds()
        self._taken_at: deque[float] = deque()
        self.base_url = ""
        self._seed = seed

    @property
    def api_url(self) -> str:
        """What a client is given in place of https://api.twilio.com: `client.api.base_url`."""
        return self.base_url

    def add_message(
        self,
        *,
        to: str,
        body: str,
        sender: str | None,
        service_sid: str | None,
        validity_seconds: int = LONGEST_VALIDITY_SECONDS,
        send_at: float | None = None,
        status_callback: str | None = None,
    ) -> Message:
        now = self.clock.seconds()
        code = self.undeliverable.get(to)
        if to in self.opted_out:
            code = 21610
        elif validity_seconds < self.sent_after:
            code = 30036
        start = now if send_at is None else send_at
        first = "queued" if service_sid is None else "accepted" if send_at is None else "scheduled"
        script = [(now, first)]
        if code in {21610, 30036}:
            script.append((start + min(self.sent_after, validity_seconds), "failed"))
        else:
            final = FAILURES[code][0] if code is not None else "delivered"
            script += [(start + self.sent_after, "sent"), (start + self.delivered_after, final)]
        fields = {
            "to": to,
            "from": sender or self.numbers[0],
            "body": body,
            "service_sid": service_sid,
            "error_code": code,
            "status_callback": status_callback,
        }
        self.made += 1
        sid = f"SM{digest(self._seed, 'twilio', 'message', self.opened_at, self.made)}"
        message = Message(self, sid, fields, script)
        self.messages.append(message)
        if status_callback is not None:
            for at, status in script:
                delivery = posted(
                    "status",
                    f"{message.sid}/{status}",
                    status_callback,
                    message.told(status),
                    token=self.auth_token,
                    at=self.clock.stamp(),
                )
                self.outbox.post(delivery, (), max(0.0, at - now))
        return message

    def take_reply(self, number: str, to: str, body: str) -> Node:
        """Somebody sends us a text: the vendor obeys its keywords, and posts it to the account's address."""
        word = body.strip().upper()
        if word in STOPS:
            self.opted_out.add(number)
        elif word in STARTS:
            self.opted_out.discard(number)
        self.replies += 1
        sid = f"SM{digest(self._seed, 'twilio', 'reply', self.opened_at, self.replies)}"
        fields = {
            "AccountSid": self.account_sid,
            "ApiVersion": API_VERSION,
            "Body": body,
            "From": number,
            "MessageSid": sid,
            "NumMedia": "0",
            "NumSegments": str(segments(body)),
            "SmsMessageSid": sid,
            "SmsSid": sid,
            "SmsStatus": "received",
            "To": to,
        }
        if self.inbound_url is not None:
            delivery = posted(
                "inbound", sid, self.inbound_url, fields, token=self.auth_token, at=self.clock.stamp()
            )
            self.outbox.post(delivery, ())
        return {"sid": sid, "opted_out": number in self.opted_out}

    def is_too_fast(self) -> bool:
        """Count a message that is to be taken; whether it is one too many within a second, by the real clock."""
        if self.most_per_second is None:
            return False
        now = time.monotonic()
        while self._taken_at and self._taken_at[0] <= now - 1:
            self._taken_at.popleft()
        if len(self._taken_at) >= self.most_per_second:
            return True
        self._taken_at.append(now)
        return False

    def find(self, sid: str) -> Message | None:
        return next((message for message in self.messages if message.sid == sid), None)

    def taken(self) -> dict[str, float]:
        """When the last message to each number was taken, in seconds since 1970."""
        with self.lock:
            return {message.to: message.created_at for message in self.messages}

    def forget_messages(self) -> list[Node]:
        with self.lock:
            self.messages.clear()
        return []

    def export(self) -> list[Node]:
        """Every message as the API would show it, oldest first."""
        with self.lock:
            return [message.shown() for message in self.messages]

    def to_json(self) -> Node:
        return {
            "account_sid": self.account_sid,
            "auth_token": self.auth_token,
            "from": self.numbers[0],
            "numbers": self.numbers,
            "messaging_service_sid": self.messaging_service_sid,
            "api_url": self.api_url,
            "messages": len(self.messages),
        }


def segments(body: str) -> int:
    """How many SMS the text takes: 160 GSM-7 or 70 UCS-2 characters, 153 and 67 if it takes more than one."""
    if all(character in GSM_7 or character in GSM_7_ESCAPED for character in body):
        length, one, several = sum(1 + (character in GSM_7_ESCAPED) for character in body), 160, 153
    else:
        length, one, several = len(body.encode("utf-16-le")) // 2, 70, 67
    return 1 if length <= one else math.ceil(length / several)


def mail_date(seconds: float) -> str:
    """The vendor's dates: RFC 2822 in GMT."""
    return format_datetime(datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=int(seconds)))
