"""Spikes: when more people opt out, more messages are filtered or more go to one prefix than is right, sending stops.

Each opens an incident; while it is open nothing is sent (to that prefix). Looked at when a reply or a status arrives, and
while messages are sent.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import psycopg

from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.incidents.fingerprints import TextsStopped
from bg_pipelines.incidents.reporting import Fault, report_fault
from bg_pipelines.wording import counted

Connection = psycopg.Connection[Any]

FILTERED_CODE = 30007
PREFIX_DIGITS = 5
"""Of a number, its country's code among them: pumping buys numbers in a row."""


class Limits(NamedTuple):
    """So many within an hour, and such a share of what was sent (within a day; filtered ones within the hour)."""

    stops: int = 10
    stops_share: float = 0.05
    filtered: int = 10
    filtered_share: float = 0.2
    to_prefix: int = 100
    to_prefix_times_usual: float = 5.0


LIMITS = Limits()


def watch_stops(connection: Connection, limits: Limits = LIMITS) -> bool:
    """After an opt-out. Returns whether sending is stopped for it."""
    row = connection.execute(
        "SELECT (SELECT count(*) FROM sms_consents WHERE event = 'revoked' AND source IN ('reply', 'twilio') "
        "AND recorded_at > clock_timestamp() - interval '1 hour'), "
        "(SELECT count(*) FROM text_messages WHERE sent_at > clock_timestamp() - interval '24 hours')"
    ).fetchone()
    assert row is not None
    stops, sent = row
    if stops < limits.stops or stops < limits.stops_share * sent:
        return False
    _stop(
        connection,
        "stop",
        f"{counted(stops, 'recipient')} opted out within an hour, of {counted(sent, 'message')} within a day. No text messages are sent until a "
        "person has looked at what was sent to whom.",
    )
    return True


def watch_filtered(connection: Connection, limits: Limits = LIMITS) -> bool:
    """After a message was filtered by a carrier. Returns whether sending is stopped for it."""
    row = connection.execute(
        "SELECT (SELECT count(*) FROM text_messages WHERE error_code = %s "
        "AND status_at > clock_timestamp() - interval '1 hour'), "
        "(SELECT count(*) FROM text_messages WHERE sent_at > clock_timestamp() - interval '1 hour')",
        (FILTERED_CODE,),
    ).fetchone()
    assert row is not None
    filtered, sent = row
    if filtered < limits.filtered or filtered < limits.filtered_share * sent:
        return False
    _stop(
        connection,
        "filtered",
        f"Carriers filtered {counted(filtered, 'message')} within an hour (30007), of {sent}. No text messages are sent until a person "
        "has looked at the texts and the sender's registration.",
    )
    return True


def watch_prefixes(connection: Connection, home: str, limits: Limits = LIMITS) -> list[str]:
    """While messages are sent: prefixes abroad that get many more than usual. Returns those that are stopped for it.

    `home` is the calling code of one's own country, where a busy hour is no sign of anything.
    """
    rows = connection.execute(
        "SELECT hour.prefix, hour.sent FROM (SELECT substr(phone, 2, %(digits)s) AS prefix, count(*) AS sent "
        "FROM text_messages WHERE sent_at > clock_timestamp() - interval '1 hour' AND phone NOT LIKE %(home)s GROUP BY 1 "
        "HAVING count(*) >= %(least)s) hour WHERE hour.sent > %(times)s * (SELECT count(*) / 168.0 FROM text_messages w "
        "WHERE w.sent_at BETWEEN clock_timestamp() - interval '7 days' AND clock_timestamp() - interval '1 hour' "
        "AND substr(w.phone, 2, %(digits)s) = hour.prefix)",
        {
            "home": f"+{home}%",
            "digits": PREFIX_DIGITS,
            "least": limits.to_prefix,
            "times": limits.to_prefix_times_usual,
        },
    ).fetchall()
    for prefix, sent in rows:
        _stop(
            connection,
            f"prefix-{prefix}",
            f"{counted(sent, 'message')} went to numbers that begin with +{prefix} within an hour, many more than usual. None is sent "
            "there until a person has looked at who asked for them.",
        )
    return [prefix for prefix, _ in rows]


def _stop(connection: Connection, cause: str, message: str) -> None:
    error = IntegrationError.of(ErrorType.SENDING_PAUSED, message, source="texts")
    fault = Fault(TextsStopped(cause), "text messages", error, needs_attention=True)
    report_fault(connection, fault, occurrence=cause)
