"""Edits of the account as its operator would make them: who cannot be reached and why, delays, the token."""

from __future__ import annotations

from collections.abc import Collection

from bg_pipelines.sandbox.fields import Edits, RejectedError, amount, text, texts
from bg_pipelines.sandbox.rows import Node
from bg_pipelines.sandbox.twilio.account import FAILURES, REFUSALS, TwilioAccount


def set_opted_out(account: TwilioAccount, fields: Node) -> Node:
    account.opted_out = set(texts(fields, "numbers"))
    return {"numbers": sorted(account.opted_out)}


def set_undeliverable(account: TwilioAccount, fields: Node) -> Node:
    return replace_numbers(account.undeliverable, fields, FAILURES, 30005)


def set_invalid(account: TwilioAccount, fields: Node) -> Node:
    return replace_numbers(account.refused, fields, REFUSALS, 21211)


def set_delays(account: TwilioAccount, fields: Node) -> Node:
    sent = amount(fields, "sent", account.sent_after)
    delivered = amount(fields, "delivered", account.delivered_after)
    if delivered < sent:
        raise RejectedError("delivered", "must not be less than sent")
    account.sent_after, account.delivered_after = sent, delivered
    return {"sent": sent, "delivered": delivered}


def set_token(account: TwilioAccount, fields: Node) -> Node:
    account.auth_token = text(fields, "token")
    return {"token": account.auth_token}


def set_inbound_url(account: TwilioAccount, fields: Node) -> Node:
    account.inbound_url = text(fields, "url")
    return {"url": account.inbound_url}


def set_rate(account: TwilioAccount, fields: Node) -> Node:
    """So many messages a second are taken; null: any number."""
    account.most_per_second = None if fields.get("per_second") is None else amount(fields, "per_second")
    return {"per_second": account.most_per_second}


def send_reply(account: TwilioAccount, fields: Node) -> Node:
    to = text(fields, "to") if "to" in fields else account.numbers[0]
    return account.take_reply(text(fields, "number"), to, text(fields, "body"))


EDITS: Edits[TwilioAccount] = {
    "set_opted_out": (set_opted_out, ("numbers",)),
    "set_undeliverable": (set_undeliverable, ("numbers", "code")),
    "set_invalid": (set_invalid, ("numbers", "code")),
    "set_delays": (set_delays, ("sent", "delivered")),
    "set_token": (set_token, ("token",)),
    "set_inbound_url": (set_inbound_url, ("url",)),
    "set_rate": (set_rate, ("per_second",)),
    "reply": (send_reply, ("number", "body", "to")),
}


def replace_numbers(
    by_number: dict[str, int], fields: Node, codes: Collection[int], default_code: int
) -> Node:
    """Give the code to these numbers and to no others; numbers with other codes stay as they are."""
    numbers, code = texts(fields, "numbers"), fields.get("code", default_code)
    if not isinstance(code, int) or code not in codes:
        raise RejectedError("code", f"{code!r} is none of {', '.join(map(str, codes))}")
    for number in [number for number, known in by_number.items() if known == code]:
        del by_number[number]
    by_number.update(dict.fromkeys(numbers, code))
    return {"numbers": numbers, "code": code}
