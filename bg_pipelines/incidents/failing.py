"""A claimed row that failed: what happens next, for every queue.

    decision, incident = fail(connection, QUEUE, claim, fault, attempts=claim.attempts + 1, rng=rng, job="store_sync")

`retries` decides; the row is then due again, or parked under the fault's incident.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import psycopg

from bg_pipelines import retries
from bg_pipelines.incidents.reporting import Fault, report_fault
from bg_pipelines.retries import Decision, Policies
from bg_pipelines.work.queue import Claim, Queue, clock

C = TypeVar("C", bound=Claim)


class Failed(NamedTuple):
    """What was decided about a failed row; `incident_id` is the incident under which it is parked, if it is."""

    decision: Decision
    incident_id: int | None

    def __str__(self) -> str:
        if self.decision.retry_at is None:
            return f"requires attention: incident {self.incident_id} ({self.decision.reason})"
        return f"retrying at {self.decision.retry_at:%H:%M:%S} UTC ({self.decision.reason})"


def fail(
    connection: psycopg.Connection[Any],
    queue: Queue[Any],
    claim: Claim,
    fault: Fault,
    *,
    attempts: int,
    rng: random.Random,
    job: str = "",
    policies: Policies | None = None,
    decision: Decision | None = None,
    worked_lately: bool = False,
    occurrence: str | None = None,
    repeat: bool = True,
    assignments: str = "",
    parameters: Mapping[str, Any] | None = None,
) -> Failed:
    """Settle a row that failed for the `attempts`-th time with `fault.error`.

    `decision` overrides the policies of `job`; `worked_lately` is that of `retries.decide`. The fault is reported only if
    the row is parked: `occurrence` and `repeat` are those of `report_fault`, `assignments` those of `Queue.park`. Raises
    IntegrationError (lease_lost) like `Queue.save`.
    """
    decision = decision or retries.decide(
        fault.error,
        attempts,
        clock(connection),
        rng,
        job=job,
        policies=policies,
        worked_lately=worked_lately,
    )
    if decision.retry_at is not None:
        queue.retry(
            connection,
            claim,
            fault.error,
            decision,
            attempts=attempts,
            assignments=assignments,
            parameters=parameters,
        )
        return Failed(decision, None)
    # The incident's lock before the row's: whoever retries or resolves incidents takes them in this order.
    incident_id = report_fault(connection, fault, occurrence=occurrence, repeat=repeat)
    queue.park(
        connection,
        claim,
        fault.error,
        decision,
        attempts=attempts,
        incident_id=incident_id,
        assignments=assignments,
        parameters=parameters,
    )
    return Failed(decision, incident_id)


def fail_together(
    connection: psycopg.Connection[Any],
    queue: Queue[C],
    claims: Sequence[C],
    fault: Fault,
    *,
    rng: random.Random,
    job: str = "",
    policies: Policies | None = None,
    worked_lately: bool = False,
    occurrence: str | None = None,
) -> list[Failed]:
    """Settle rows that failed at once, for one reason: those that failed as often before are decided on together, and the
    fault is reported once, however many are parked under it. Raises like `fail`."""
    now = clock(connection)
    decisions = {
        count: retries.decide(
            fault.error, count + 1, now, rng, job=job, policies=policies, worked_lately=worked_lately
        )
        for count in {claim.attempts for claim in claims}
    }
    incident_id = None
    if any(decision.retry_at is None for decision in decisions.values()):
        incident_id = report_fault(connection, fault, occurrence=occurrence)
    failed = []
    for claim in claims:
        decision, count = decisions[claim.attempts], claim.attempts + 1
        if decision.retry_at is None:
            assert incident_id is not None
            queue.park(connection, claim, fault.error, decision, attempts=count, incident_id=incident_id)
        else:
            queue.retry(connection, claim, fault.error, decision, attempts=count)
        failed.append(Failed(decision, incident_id if decision.retry_at is None else None))
    return failed
