"""Circuit breakers: a store or a whole platform that keeps failing is not called, except by probes.

    closed --failures in a row--> open --probe succeeds--> closed
                                  open --probe fails-----> open, the next probe later

A store's circuit opens after `STORE_FAILURES` failed visits in a row; a platform's when `PLATFORM_STORES` stores
(or all it has, if fewer) failed one after another and none succeeded in between. Only transient failures count. While
a circuit is open, `store_units` claims one row at a time of what it covers: the probe.

A vendor may also answer some stores and not others, now these, now those. No failures come in a row then, but the
circuits of many stores open, and that is the vendor's fault as well: it is `AILING`.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, NamedTuple

import psycopg

from bg_pipelines.errors import ErrorType

Connection = psycopg.Connection[Any]

STORE_FAILURES = 5
PLATFORM_STORES = 5
FIRST_PROBE = timedelta(seconds=30)
LAST_PROBE = timedelta(minutes=5)
"""A probe goes this long after the circuit opened; the wait doubles with each that fails, up to the second."""
TOGETHER = timedelta(minutes=30)
"""A platform is ailing if circuits of `PLATFORM_STORES` of its stores are open that opened within this time of each
other, for as long as that is so."""
JOINED = timedelta(days=1)
"""A store whose circuit opens within this time of a platform's trouble has the same one."""

OF_A_PLATFORM = {
    ErrorType.TIMEOUT,
    ErrorType.CONNECTION,
    ErrorType.SERVER_ERROR,
    ErrorType.MALFORMED_RESPONSE,
    ErrorType.REFUSED,
}
"""Errors that may be the vendor's as a whole."""
OF_A_STORE = OF_A_PLATFORM | {ErrorType.THROTTLED}
"""A rate limit is each shop's own."""
ANSWERED = {
    ErrorType.THROTTLED,
    ErrorType.SHOP_LOCKED,
    ErrorType.CREDENTIALS,
    ErrorType.SCOPES,
    ErrorType.PAYMENT_REQUIRED,
    ErrorType.SHOP_GONE,
    ErrorType.QUERY_REJECTED,
    ErrorType.QUERY_TOO_COSTLY,
    ErrorType.OPERATION_FAILED,
}
"""Errors that show that the vendor is up, whatever is wrong with the store."""


class Transition(StrEnum):
    NONE = "none"
    OPENED = "opened"
    STILL_OPEN = "still_open"
    PROBE_FAILED = "probe_failed"
    AILING = "ailing"
    CLOSED = "closed"


class Outcome(NamedTuple):
    """What a failure or a success did to the circuits of a store and of its platform."""

    store: Transition = Transition.NONE
    platform: Transition = Transition.NONE


def note_failure(
    connection: Connection,
    store_id: int,
    platform: str,
    error_type: ErrorType,
    *,
    owner: str,
    wait: timedelta = timedelta(0),
    first: bool = True,
) -> Outcome:
    """Count a failed visit to a store. `owner` is the claim that made it; `wait` is the vendor's own delay.

    `first` tells whether the visit before succeeded: stores that have been failing for long are no sign of an outage.
    A visit that began before a circuit opened, and was no probe, does not count.
    """
    of_platform = Transition.NONE
    if error_type in ANSWERED:
        of_platform = note_answer(connection, platform).platform
    if error_type not in OF_A_STORE:
        return Outcome(platform=of_platform)
    if error_type in OF_A_PLATFORM:
        of_platform = _count(
            connection,
            f"platform:{platform}",
            platform=platform,
            store_id=store_id,
            owner=owner,
            wait=wait,
            first=first,
        )
    if of_platform not in (Transition.NONE, Transition.CLOSED):
        return Outcome(platform=of_platform)  # the vendor's fault, not the store's
    of_store = _count(
        connection, f"store:{store_id}", platform=None, store_id=store_id, owner=owner, wait=wait
    )
    if (
        error_type in OF_A_PLATFORM
        and of_store is not Transition.NONE
        and is_ailing(connection, platform, store_id)
    ):
        of_platform = Transition.AILING
    return Outcome(of_store, of_platform)


def is_ailing(connection: Connection, platform: str, store_id: int | None = None) -> bool:
    """Whether circuits of many stores of a platform opened at about the same time and are still open.

    With `store_id`, whether that store is one of them: its circuit opened with theirs, or within `JOINED` afterwards.
    Those few that fail for ever are no sign of an outage, and an outage is no excuse for them.
    """
    row = connection.execute(
        "SELECT EXISTS (SELECT FROM circuits c JOIN stores s ON s.id = c.store_id "
        "WHERE s.platform = %(platform)s AND c.opened_at IS NOT NULL "
        "AND (SELECT count(*) FROM circuits d JOIN stores t ON t.id = d.store_id WHERE t.platform = %(platform)s "
        "AND d.opened_at BETWEEN c.opened_at AND c.opened_at + %(together)s) >= %(many)s "
        "AND (%(store)s::bigint IS NULL OR EXISTS (SELECT FROM circuits own WHERE own.store_id = %(store)s "
        "AND own.opened_at BETWEEN c.opened_at AND c.opened_at + %(joined)s)))",
        {
            "platform": platform,
            "store": store_id,
            "together": TOGETHER,
            "joined": JOINED,
            "many": PLATFORM_STORES,
        },
    ).fetchone()
    return row is not None and bool(row[0])


def note_answer(connection: Connection, platform: str) -> Outcome:
    """A platform has answered, whatever becomes of the store that it was asked for: its circuit is closed."""
    return _close(connection, platform, None)


def note_success(connection: Connection, store_id: int, platform: str) -> Outcome:
    """A visit to a store has succeeded: its circuit is closed, and its platform's."""
    return _close(connection, platform, store_id)


def _close(connection: Connection, platform: str, store_id: int | None) -> Outcome:
    """Close a platform's circuit, and with `store_id` that store's."""
    of_platform, of_store = f"platform:{platform}", f"store:{store_id}"
    # Read before it is written: there is almost never anything to reset.
    rows = connection.execute(
        "UPDATE circuits c SET failures = 0, failing_stores = '{}', opened_at = NULL, probe_at = NULL, probe_owner = NULL "
        "FROM (SELECT key, opened_at FROM circuits WHERE key = ANY(%s) AND failures > 0 ORDER BY key FOR UPDATE) held "
        "WHERE c.key = held.key RETURNING c.key, held.opened_at IS NOT NULL",
        ([of_platform] if store_id is None else [of_platform, of_store],),
    ).fetchall()
    closed = {key for key, was_open in rows if was_open}
    if of_platform in closed:
        # Their failures were the vendor's.
        connection.execute(
            "UPDATE circuits SET failures = 0 WHERE opened_at IS NULL AND store_id IN (SELECT id FROM stores WHERE platform = %s)",
            (platform,),
        )
    return Outcome(
        Transition.CLOSED if of_store in closed else Transition.NONE,
        Transition.CLOSED if of_platform in closed else Transition.NONE,
    )


def _count(
    connection: Connection,
    key: str,
    *,
    platform: str | None,
    store_id: int,
    owner: str,
    wait: timedelta,
    first: bool = True,
) -> Transition:
    connection.execute(
        "INSERT INTO circuits (key, platform, store_id) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
        (key, platform, None if platform else store_id),
    )
    row = connection.execute(
        "SELECT failures, failing_stores, opened_at, probe_owner, clock_timestamp(), "
        "(SELECT count(*) FROM stores WHERE stores.platform = circuits.platform AND paused_at IS NULL AND deleted_at IS NULL) "
        "FROM circuits WHERE key = %s FOR UPDATE",
        (key,),
    ).fetchone()
    assert row is not None
    failures, failing, opened_at, probe_owner, now, stores = row
    if opened_at is not None:
        if owner != probe_owner:
            return Transition.STILL_OPEN
        doubled = FIRST_PROBE * 2 ** min(failures, 10)
        _reopen(connection, key, failures + 1, opened_at, now + max(wait, min(LAST_PROBE, doubled)))
        return Transition.PROBE_FAILED
    if not first and platform is not None:
        return Transition.NONE
    if platform is None:
        opens = failures + 1 >= STORE_FAILURES
    else:
        failing = sorted({*failing, store_id})
        opens = len(failing) >= max(2, min(PLATFORM_STORES, stores))
    if not opens:
        connection.execute(
            "UPDATE circuits SET failures = failures + 1, failing_stores = %s WHERE key = %s",
            (failing if platform else [], key),
        )
        return Transition.NONE
    _reopen(connection, key, 1, now, now + max(wait, FIRST_PROBE))
    return Transition.OPENED


def _reopen(connection: Connection, key: str, failures: int, opened_at: datetime, probe_at: datetime) -> None:
    connection.execute(
        "UPDATE circuits SET failures = %s, failing_stores = '{}', opened_at = %s, probe_at = %s, probe_owner = NULL "
        "WHERE key = %s",
        (failures, opened_at, probe_at, key),
    )
