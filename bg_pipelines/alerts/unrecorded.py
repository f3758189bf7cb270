"""Failures during a database outage: people are notified at once, and the failure is recorded when it is over.

`BG_HOME_DIR/alerts-sent.json` holds, by fingerprint, when it began and which targets were reached, so that each is
notified once within `REOPEN_WITHIN`, and what is still to be recorded as an incident. What cannot be written there,
because the disk is full, this process keeps in mind. If the file cannot be read, people are notified: once too often is
better than not at all. This path sends no all-clear; the incident's own follows. When it is recorded the alert keeps its
reference: by that it is found where the answer was lost.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from bg_pipelines.alerts.announcements import Tried, add_alert
from bg_pipelines.alerts.recipients import Target
from bg_pipelines.alerts.wording import Facts, Message, compose
from bg_pipelines.database.engine import Database
from bg_pipelines.errors import IntegrationError
from bg_pipelines.folders import private_folder
from bg_pipelines.incidents import fingerprints, reporting
from bg_pipelines.incidents.reporting import REOPEN_WITHIN, Fault

FILE = "alerts-sent.json"
LOCK_SECONDS = 60.0
"""How long to wait for other processes; after that people are notified anyway."""

log = logging.getLogger(__name__)

Entry = dict[str, Any]
"""`began_at`, `reference`, `sent` (keys of targets), `unrecorded` (the failure, or None once it is an incident)."""

_in_mind: dict[Path, dict[str, Entry]] = {}
"""By home, what could not be written to the file."""


def send(home: Path, targets: Sequence[Target], fault: Fault, occurrence: str) -> None:
    """Notify every target that was not notified of it lately, in parallel, and keep the failure in the file."""
    with _locked(home):
        # Not before: whoever had the lock has begun later than we came.
        now = datetime.now(UTC)
        known = _read(home)
        fingerprint = str(fault.fingerprint)
        entry = known.get(fingerprint)
        if entry is None or not _is_recent(entry, now):
            entry = {"began_at": now.isoformat(), "reference": secrets.token_hex(5), "sent": []}
            first = True
        else:
            first = False
        earlier = (entry.get("unrecorded") or {}).get("affected_runs", ())
        entry["unrecorded"] = {
            **fault._asdict(),
            "fingerprint": fingerprint,
            "error": fault.error.as_dict(),
            "units": list(fault.units),
            "affected_runs": sorted({*earlier, *fault.affected_runs}),
            "occurrence": occurrence,
        }
        known[fingerprint] = entry
        # Before anything is sent: if this process dies at it, the failure is still recorded.
        _write(home, known, now)
        message = Message(
            "opened", fault.error.severity, *compose("opened", _facts(fault, now)), entry["reference"]
        )
        began_at = datetime.fromisoformat(entry["began_at"])

        def tell(target: Target) -> str | None:
            try:
                if first or target.find(message, began_at) is None:
                    target.send(message)
            except IntegrationError as error:
                log.error("alerts: %s was not reached: %s", target.key, error.message)
                return None
            except Exception as error:  # noqa: BLE001 (one target's surprise must not stop the others)
                log.error("alerts: %s was not reached: unexpected %s", target.key, type(error).__name__)
                return None
            return target.key

        due = [target for target in targets if target.key not in entry["sent"]]
        if due:
            with ThreadPoolExecutor(len(due), "alerts") as pool:
                entry["sent"] += [key for key in pool.map(tell, due) if key]
            _write(home, known, now)
        if not entry["sent"]:
            log.critical("alerts: no target could be reached: %s: %s", fault.subject, fault.error.message)


def record(database: Database, home: Path, targets: Sequence[Target]) -> int:
    """Make incidents of the failures in the file, with the alerts that were sent or tried; returns how many.

    Raises IntegrationError (database).
    """
    if not any(entry.get("unrecorded") for entry in _read(home).values()):
        return 0
    count = 0
    with _locked(home):
        now = datetime.now(UTC)
        known = _read(home)
        for entry in known.values():
            kept = entry.get("unrecorded")
            entry["unrecorded"] = None
            if not kept:
                continue
            try:
                occurrence = kept.pop("occurrence")
                if "resources" in kept:  # in files of an earlier release
                    kept["units"] = kept.pop("resources")
                fault = Fault(
                    **{
                        **kept,
                        "fingerprint": fingerprints.parse(kept["fingerprint"]),
                        "error": IntegrationError(**kept["error"]),
                    }
                )
            except (KeyError, TypeError, ValueError, AttributeError):
                log.error("alerts: an invalid failure in %s is skipped", FILE)
                continue
            _record(database, fault, occurrence, entry, targets, now)
            count += 1
        _write(home, known, now)
    return count


def _record(
    database: Database, fault: Fault, occurrence: str, entry: Entry, targets: Sequence[Target], now: datetime
) -> None:
    began_at = datetime.fromisoformat(entry["began_at"])
    # Our clock and the database's may differ; how long ago it was does not.
    age = max(now - began_at, timedelta())
    sent = list(entry["sent"])
    with database.transaction() as connection:
        # There already if the file could not say so, or the same run was reported again.
        there = connection.execute(
            "SELECT id FROM incidents WHERE fingerprint = %s AND last_occurrence = %s ORDER BY id DESC LIMIT 1",
            (str(fault.fingerprint), occurrence),
        ).fetchone()
        incident_id = there[0] if there else reporting.report_fault(connection, fault, occurrence=occurrence)
        keys = {*sent, *(target.key for target in targets)}
        if not keys:
            return  # until there is somebody
        notified = connection.execute(
            "UPDATE incidents SET notified = 'open', notified_needs_attention = needs_attention, "
            "notified_at = clock_timestamp() - %(age)s, "
            "opened_at = least(opened_at, clock_timestamp() - %(age)s) "
            "WHERE id = %(id)s AND notified = 'nothing' RETURNING clock_timestamp() - %(age)s",
            {"id": incident_id, "age": age},
        ).fetchone()
        if notified is None:
            return
        facts = _facts(fault, notified[0])._replace(incident_id=incident_id)
        # Whom it did not reach for all we know may have it as well: the same text is looked up there first.
        tried = Tried(notified[0], entry["reference"])
        alert_id = add_alert(connection, incident_id, "opened", facts, sorted(keys), tried=tried)
        connection.execute(
            "UPDATE alert_deliveries SET status = 'sent', next_due_at = NULL, sent_at = %s "
            "WHERE alert_id = %s AND target = ANY(%s)",
            (notified[0], alert_id, sent),
        )


def _facts(fault: Fault, since: datetime) -> Facts:
    error = fault.error
    return Facts(
        severity=error.severity.value,
        subject=fault.subject,
        error_type=error.error_type.value,
        message=error.message,
        needs_attention=fault.needs_attention,
        since=since,
        units=fault.units,
    )


def _is_recent(entry: Entry, now: datetime) -> bool:
    """A time ahead of ours is none: a clock was set back."""
    return timedelta() <= now - datetime.fromisoformat(entry["began_at"]) < REOPEN_WITHIN


def _read(home: Path) -> dict[str, Entry]:
    """What is known: the file's content, as far as it can be read, and what is in mind."""
    return {**_read_file(home), **_in_mind.get(home, {})}


def _read_file(home: Path) -> dict[str, Entry]:
    try:
        known = json.loads((home / FILE).read_text(encoding="utf-8"))
        for entry in known.values():
            if datetime.fromisoformat(entry["began_at"]).tzinfo is None:
                raise ValueError
            if not all(isinstance(key, str) for key in [entry["reference"], *entry["sent"]]):
                raise TypeError
            entry["reference"] = entry["reference"].removeprefix("#")  # in files of an earlier release
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        log.error("alerts: %s cannot be read (%s); people are notified anyway", FILE, type(error).__name__)
        return {}
    return dict(known)


def _write(home: Path, known: dict[str, Entry], now: datetime) -> None:
    kept = {key: entry for key, entry in known.items() if entry.get("unrecorded") or _is_recent(entry, now)}
    temporary = home / f"{FILE}.{os.getpid()}"
    try:
        temporary.touch(mode=0o600)
        temporary.write_text(json.dumps(kept, indent=1), encoding="utf-8")
        temporary.replace(home / FILE)
    except OSError as error:
        _in_mind[home] = kept
        with suppress(OSError):
            temporary.unlink(missing_ok=True)  # half of it, on a full disk
        log.error("alerts: %s cannot be written (%s)", home / FILE, type(error).__name__)
    else:
        _in_mind.pop(home, None)


@contextmanager
def _locked(home: Path) -> Iterator[None]:
    """One process at a time, so that two concurrent failures do not notify twice."""
    try:
        private_folder(home)
        lock = os.open(home / "alerts-sent.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError:
        yield
        return
    try:
        until = time.monotonic() + LOCK_SECONDS
        while time.monotonic() < until:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                time.sleep(0.2)
        yield
    finally:
        os.close(lock)
