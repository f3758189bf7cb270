"""Alerts: people are notified when a fault begins, once more when it gets worse, and when it is over.

    announcements    incidents -> alerts: one for each change that people do not know of
    deliveries       alerts -> targets: recorded before they are sent, retried until they are sent
    unrecorded       failures during a database outage: notify people at once, record it later

    alerts.tell(database, settings)                       after a run, and every few seconds
    alerts.report_failure("store_sync", error, run_id=…)  a run has failed
    alerts.report(fault, occurrence=…)                    anything else has

Neither raises: a target that is down delays its own alerts and fails no job.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from bg_pipelines.alerts import unrecorded
from bg_pipelines.alerts.announcements import ESCALATE_AFTER, announce
from bg_pipelines.alerts.deliveries import Delivered, deliver
from bg_pipelines.alerts.recipients import targets
from bg_pipelines.database.engine import Database, open_database
from bg_pipelines.errors import IntegrationError
from bg_pipelines.incidents import reporting
from bg_pipelines.incidents.reporting import MANUAL, Fault, run_fault
from bg_pipelines.settings import Settings, load_settings, right_settings

__all__ = [
    "ESCALATE_AFTER",
    "Delivered",
    "announce",
    "deliver",
    "report",
    "report_failure",
    "targets",
    "tell",
]

T = TypeVar("T")

log = logging.getLogger(__name__)


def tell(database: Database, settings: Settings) -> Delivered:
    """Announce what has changed and deliver what is due. Never raises: failures are logged and in `fault`."""
    reached = targets(settings)
    faults: list[str] = []

    def attempt(what: str, act: Callable[[], T], otherwise: T) -> T:
        try:
            return act()
        except Exception as error:  # noqa: BLE001 (an alert must not fail the job that sends it)
            faults.append(f"{what}: {_sentence(error)}")
            return otherwise

    # Separately: a failure of one must not stop the next.
    attempt("recording earlier failures", lambda: unrecorded.record(database, settings.home, reached), None)
    attempt("announcing", lambda: announce(database, reached), 0)
    delivered = attempt("delivering", lambda: deliver(database, reached), Delivered())
    if delivered.fault:
        faults.append(f"delivering: {delivered.fault}")
    for fault in faults:
        log.error("alerts: %s", fault)
    return delivered._replace(fault="; ".join(faults) or None)


def report_failure(
    job: str,
    error: IntegrationError,
    *,
    run_id: str,
    tier: str | None = None,
    settings: Settings | None = None,
) -> None:
    """Record that a run of a job failed, and notify people; directly if it cannot be recorded.

    `tier` is the run's tag of that name. Never raises.
    """
    report(run_fault(job, tier or MANUAL, error), occurrence=run_id, settings=settings)


def report(fault: Fault, *, occurrence: str, settings: Settings | None = None) -> None:
    """Record a fault and notify people; directly if it cannot be recorded: that needs neither a database nor a disk.

    The same `occurrence` again is no repeat. Never raises.
    """
    try:
        try:
            settings = settings or load_settings()
            database = open_database(settings)
            try:
                with database.transaction() as connection:
                    reporting.report_fault(connection, fault, occurrence=occurrence)
                tell(database, settings)
            finally:
                database.close()
        except Exception as trouble:  # noqa: BLE001 (whatever keeps it from being recorded, people must hear)
            log.error("alerts: the failure of %s is not recorded: %s", fault.subject, _sentence(trouble))
            settings = settings or right_settings()
            unrecorded.send(settings.home, targets(settings), fault, occurrence)
    except Exception as trouble:  # noqa: BLE001 (something has failed already, and its own error is the one to show)
        log.critical("alerts: nobody was notified that %s failed: %s", fault.subject, _sentence(trouble))


def _sentence(error: Exception) -> str:
    """What may be shown of an exception: the text of one that is not ours may quote anything."""
    return error.message if isinstance(error, IntegrationError) else f"unexpected {type(error).__name__}"
