"""One Twilio account: its credentials and numbers, its messages and how each changes with time."""

from __future__ import annotations

import math
import threading
from collections import deque
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

from bg_pipelines.sandbox.clock import Clock
from bg_pipelines.sandbox.faults import Fault
from bg_pipelines.sandbox.rows import Node
from bg_pipelines.sandbox.seed import dice, digest

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
    21211: "The 'To' number {number} is not a valid phone number.",
    21408: "Permission to send an SMS has not been enabled for the region indicated by the 'To' number: {number}",
    21608: "The number {number} is unverified. Trial accounts cannot send messages to unverified numbers.",
    21614: "'To' number is not a valid mobile number: {number}",
    21635: "'To' number cannot be a landline: {number}",
}


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
    (or its SendAt); they go for messages that are created from then on.
    """

    def __init__(self, seed: int, clock: Clock) -> None:
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
        self.opened_at = clock.seconds()
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
        }
        sid = f"SM{digest(self._seed, 'twilio', 'message', len(self.messages) + 1)}"
        message = Message(self, sid, fields, script)
        self.messages.append(message)
        return message

    def find(self, sid: str) -> Message | None:
        return next((message for message in self.messages if message.sid == sid), None)

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
