"""From incidents to alerts: an incident's `notified` is what people were last notified of.

    notified   and it is now                                             alert        notified
    nothing    open, and nothing was said of it for `REOPEN_WITHIN`      opened       open
    open       open, `ESCALATE_AFTER` times or in need of attention      escalated    escalated
    escalated  open, and only now in need of attention                   escalated    escalated
    open, …    open, and more severe than any alert of it                escalated    escalated
    open, …    resolved                                                  all_clear    resolved
    nothing    resolved                                                  none         resolved

So a fault that comes and goes within that time sends nothing the second time. That a target refuses alerts is
sent to the others only.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import psycopg
from psycopg.rows import dict_row

from bg_pipelines.alerts.recipients import Target
from bg_pipelines.alerts.wording import AlertKind, Facts, compose
from bg_pipelines.database.engine import Database
from bg_pipelines.errors import Severity
from bg_pipelines.incidents import reporting
from bg_pipelines.incidents.fingerprints import AlertTarget, parse
from bg_pipelines.incidents.reporting import REOPEN_WITHIN, SYSTEM

ESCALATE_AFTER = 10
"""Occurrences. A fault that has them when people are first notified is not escalated."""

UNCLEAR_WAIT = timedelta(seconds=15)
"""At least so long after an unclear outcome, so that a message the vendor is still processing can be found."""
_AT_ONCE = 100


class Tried(NamedTuple):
    """An alert that was sent, or tried, before it could be recorded: when that began, and its reference."""

    at: datetime
    reference: str


# What there is to tell; null: nothing.
_NEWS = """CASE
    WHEN status = 'resolved' THEN CASE WHEN notified = 'nothing' THEN 'none' ELSE 'all_clear' END
    WHEN notified = 'nothing' THEN CASE WHEN notified_at IS NULL OR notified_at <= clock_timestamp() - %(reopen_within)s THEN 'opened' END
    WHEN notified = 'open' AND occurrences >= %(escalate_after)s THEN 'escalated'
    WHEN needs_attention AND NOT notified_needs_attention THEN 'escalated'
    WHEN array_position(%(ranks)s, severity)
        > (SELECT max(array_position(%(ranks)s, a.severity)) FROM alerts a WHERE a.incident_id = incidents.id) THEN 'escalated'
    END"""
_TO_NOTIFY = f"""
    SELECT id, fingerprint, severity, subject, error_type, message, needs_attention, opened_at, occurrences, resources, resolved_by,
        resolution, {_NEWS} AS news
    FROM incidents WHERE notified <> 'resolved' AND {_NEWS} IS NOT NULL ORDER BY id LIMIT {_AT_ONCE}
    FOR UPDATE SKIP LOCKED"""  # noqa: S608 (made of constants)
_NOTIFIED = """
    UPDATE incidents SET notified = %(notified)s, notified_needs_attention = needs_attention,
        notified_at = CASE WHEN %(news)s = 'opened' THEN clock_timestamp() ELSE notified_at END
    WHERE id = %(id)s"""


def announce(database: Database, targets: Collection[Target]) -> int:
    """Make an alert, with a delivery to each target, of everything that is not announced yet; returns how many.

    An incident counts as notified in the transaction that makes its alert; with no targets none does. Raises
    IntegrationError (database).
    """
    with database.transaction() as connection:
        reporting.recount(connection)
    if not targets:
        return 0
    keys = [target.key for target in targets]
    parameters = {"reopen_within": REOPEN_WITHIN, "escalate_after": ESCALATE_AFTER, "ranks": list(Severity)}
    count = 0
    while True:
        with database.transaction() as connection:
            rows = connection.cursor(row_factory=dict_row).execute(_TO_NOTIFY, parameters).fetchall()
            for row in rows:
                news, about = row["news"], parse(row["fingerprint"])
                if news != "none":
                    others = [key for key in keys if about != AlertTarget(key)]
                    if not others:
                        continue  # until there is somebody else
                    add_alert(connection, row["id"], news, facts_of(row), others)
                    count += 1
                notified = {"opened": "open", "escalated": "escalated"}.get(news, "resolved")
                if news == "opened" and row["occurrences"] >= ESCALATE_AFTER:
                    notified = "escalated"
                connection.execute(_NOTIFIED, {"id": row["id"], "news": news, "notified": notified})
        if len(rows) < _AT_ONCE:
            return count


def add_alert(
    connection: psycopg.Connection[Any],
    incident_id: int,
    kind: AlertKind,
    facts: Facts,
    targets: Collection[str],
    *,
    tried: Tried | None = None,
) -> int:
    """Write an alert and its deliveries, which are due at once; returns the alert's id.

    `tried`: sending it was begun already, so that it is looked up before it is sent.
    """
    title, body = compose(kind, facts)
    row = connection.execute(
        "INSERT INTO alerts (incident_id, kind, severity, title, body, created_at) "
        "VALUES (%s, %s, %s, %s, %s, coalesce(%s, clock_timestamp())) RETURNING id",
        (incident_id, kind, facts.severity, title, body, tried and tried.at),
    ).fetchone()
    assert row is not None
    if tried is not None:
        # Unless an alert has it that was recorded before: of a fault that came back within that time.
        connection.execute(
            "UPDATE alerts SET reference = %(reference)s WHERE id = %(id)s "
            "AND NOT EXISTS (SELECT FROM alerts WHERE reference = %(reference)s)",
            {"reference": tried.reference, "id": row[0]},
        )
    connection.execute(
        "INSERT INTO alert_deliveries (alert_id, target, calls, next_due_at) "
        "SELECT %s, unnest(%s::text[]), %s, greatest(clock_timestamp(), %s)",
        (row[0], list(targets), 0 if tried is None else 1, tried and tried.at + UNCLEAR_WAIT),
    )
    return int(row[0])


def facts_of(incident: Mapping[str, Any]) -> Facts:
    """What an alert says of a row of `incidents`."""
    # A person's words and name are not sent out.
    by_itself = incident["resolved_by"] == SYSTEM
    return Facts(
        severity=incident["severity"],
        subject=incident["subject"],
        error_type=incident["error_type"],
        message=incident["message"],
        needs_attention=incident["needs_attention"],
        since=incident["opened_at"].astimezone(UTC),
        times=incident["occurrences"],
        units=incident["resources"],
        incident_id=incident["id"],
        resolution=incident["resolution"] if by_itself else "a person resolved it",
    )
