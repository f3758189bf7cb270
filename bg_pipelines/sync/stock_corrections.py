"""Stock corrections: counts made on our side, written to the platform before its stock is read, each once.

A correction and its idempotency key are in `inventory_corrections` before anything is sent: after a crash the same is
sent under the same key, and the platform applies it once. Corrections are claimed work: one that the platform does not
take, or fails at, is parked under an incident or tried again by itself, and holds up no other.
"""

from __future__ import annotations

from datetime import timedelta
from typing import NamedTuple

from psycopg.types.json import Jsonb

from bg_pipelines.database.models import InventoryCorrection
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.incidents.failing import fail
from bg_pipelines.incidents.fingerprints import Fingerprint, RejectedCounts, StoreUnit
from bg_pipelines.incidents.reporting import Fault, report_fault
from bg_pipelines.platforms.protocol import Correction, CorrectionOutcome
from bg_pipelines.retries import is_by_status
from bg_pipelines.sync.context import Context, TurnOver, fault_of, is_of_the_write
from bg_pipelines.sync.summary import CorrectionReport
from bg_pipelines.work import store_units
from bg_pipelines.work.queue import Queue

LEASE = timedelta(minutes=1)
"""Only the visit that has the store's unit claims its corrections. After a crash they are free before that unit is."""
FAILED_IN_A_ROW = 3
"""A platform that fails at so many single corrections in a row fails at all of them."""


class CorrectionClaim(NamedTuple):
    """A claimed correction."""

    id: int
    owner: str
    attempts: int
    inventory_item_external_id: str
    location_external_id: str
    change_from_quantity: int
    quantity: int
    reason: str
    idempotency_key: str

    @property
    def correction(self) -> Correction:
        return Correction(
            self.inventory_item_external_id,
            self.location_external_id,
            self.change_from_quantity,
            self.quantity,
            self.reason,
            self.idempotency_key,
        )


QUEUE = Queue(InventoryCorrection, CorrectionClaim)
# Of one item at one location an earlier correction goes first, unless it is parked: each was counted upon the last.
_NEXT = """
    t.store_id = %(store)s AND NOT EXISTS (SELECT FROM inventory_corrections e
        WHERE e.store_id = t.store_id AND e.inventory_item_external_id = t.inventory_item_external_id
        AND e.location_external_id = t.location_external_id AND e.id < t.id
        AND e.status = 'pending' AND e.next_due_at IS NOT NULL)"""


class StockCorrections:
    """Sends the due corrections of one store. Used once."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.claim = context.claim
        self._refused: IntegrationError | None = None
        """Why the platform accepts no correction at all: then no more are sent."""
        self._failed = 0
        """Single corrections in a row that it fails at."""

    def run(self) -> None:
        """Raises IntegrationError where the platform is out of reach, TurnOver, Stopped; what was not sent stays due."""
        sent = False
        while True:
            self.context.check_stopped()
            if sent and self.context.turn_is_over():
                raise TurnOver
            claims = self._claims()
            if not claims:
                return
            try:
                self._send(claims)
            except BaseException:
                with self.context.database.transaction() as connection:
                    QUEUE.release(connection, [self.claim.owner])
                raise
            sent = True

    def _claims(self) -> list[CorrectionClaim]:
        with self.context.database.transaction() as connection:
            return QUEUE.claim(
                connection,
                owner=self.claim.owner,
                limit=self.context.platform.corrections_a_call,
                lease=LEASE,
                among=_NEXT,
                order="t.id",
                parameters={"store": self.claim.store_id},
            )

    def _send(self, claims: list[CorrectionClaim]) -> None:
        error = self._refused
        if error is None:
            try:
                outcomes = self.context.platform.correct_stock([claim.correction for claim in claims])
                self._failed = 0
            except IntegrationError as failed:
                if not is_of_the_write(self.context, failed):
                    raise
                error = failed
        if error is not None:
            # Stock is read anyway. Whose fault it is, is narrowed down, unless it is that of each.
            if error.error_type is ErrorType.SCOPES or self._failed >= FAILED_IN_A_ROW:
                self._refused = error
            elif len(claims) > 1:
                middle = len(claims) // 2
                self._send(claims[:middle])
                self._send(claims[middle:])
                return
            else:
                self._failed += 1
            self._fail(claims, error)
            return
        reports: list[CorrectionReport | None] = []
        with self.context.database.transaction() as connection:
            for claim, outcome in zip(claims, outcomes, strict=True):
                reason = None if outcome.reason is None else Jsonb({"code": outcome.reason})
                QUEUE.complete(
                    connection,
                    claim,
                    "status = %(status)s, found_quantity = %(found)s, error = %(reason)s, settled_at = clock_timestamp()",
                    {"status": outcome.status, "found": outcome.found_quantity, "reason": reason},
                )
                if outcome.status == "rejected":
                    report_fault(
                        connection,
                        self._fault(_rejected(claim, outcome), RejectedCounts(self.claim.store_id)),
                        occurrence=f"correction {claim.id}",
                    )
                reports.append(self._report(claim, outcome))
        for left in reports:
            self.context.note_correction(left)

    def _fail(self, claims: list[CorrectionClaim], error: IntegrationError) -> None:
        with self.context.database.transaction() as connection:
            worked_lately = is_by_status(error) and store_units.worked_lately(connection, self.claim.store_id)
            for claim in claims:
                fail(
                    connection,
                    QUEUE,
                    claim,
                    self._fault(error),
                    attempts=claim.attempts + 1,
                    policies=self.context.policies,
                    rng=self.context.rng,
                    job=self.context.job,
                    worked_lately=worked_lately,
                )
        for claim in claims:
            self.context.note_correction(
                CorrectionReport(self.context.store_name, claim.id, "pending", error.message)
            )

    def _fault(self, error: IntegrationError, fingerprint: Fingerprint | None = None) -> Fault:
        return fault_of(
            self.context,
            fingerprint or StoreUnit(self.claim.store_id, QUEUE.table, error.error_type),
            error,
            payload=f"inventory_corrections of store {self.claim.store_id}",
        )

    def _report(self, claim: CorrectionClaim, outcome: CorrectionOutcome) -> CorrectionReport | None:
        if outcome.status == "applied":
            return None
        stale = (
            f"counted as {claim.change_from_quantity}, the platform has {outcome.found_quantity}; count again"
        )
        return CorrectionReport(self.context.store_name, claim.id, outcome.status, outcome.reason or stale)


def _rejected(claim: CorrectionClaim, outcome: CorrectionOutcome) -> IntegrationError:
    return IntegrationError(
        f"stock correction {claim.id} of item {claim.inventory_item_external_id} was rejected: "
        f"{(outcome.reason or 'the platform gives no reason').rstrip('.')}. Correct it again with `bg-pipelines stock correct`, then "
        "resolve this",
        error_type=ErrorType.BAD_DATA,
        severity="low",
        recoverable=False,
        source="inventory_corrections",
    )
