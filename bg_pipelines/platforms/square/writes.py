"""What we write to Square: customers' profiles and stock corrections.

Square says in a code and a field what it does not take. Its sentences quote what was given, so they are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.platforms.protocol import Correction, CorrectionOutcome, UpdateOutcome
from bg_pipelines.platforms.square.client import SOURCE, Answer, SquareClient, malformed, time_text
from bg_pipelines.records import Page

EDITABLE = {
    "first_name": "given_name",
    "last_name": "family_name",
    "company": "company_name",
    "email": "email_address",
    "phone": "phone_number",
    "note": "note",
}
"""Square's names of the columns that can be changed there."""

COUNTS = "inventory/counts/batch-retrieve"
CHANGES = "inventory/changes/batch-retrieve"
CHANGE = "inventory/changes/batch-create"

# How far back a correction that was sent before is looked for.
SENT_WITHIN = timedelta(days=3)


def update_customer(
    client: SquareClient, external_id: str, values: Mapping[str, Any], page: Callable[[Answer], Page]
) -> UpdateOutcome:
    """Only over the version just read, so that nobody else's edit is undone. A null takes a value away.

    Where somebody else was quicker, it is written over the new version only if none of these values is another now:
    whose edit counts then is decided anew by the next run. `page` makes the page of an answer that has the customer.
    """
    wanted = {EDITABLE[column]: value for column, value in values.items()}
    before: dict[str, Any] | None = None
    for last in (False, True):
        try:
            answer = client.get("customers", external_id)
            row = answer.data.get("customer")
            if not isinstance(row, dict):
                raise malformed("Square's answer lacks the customer")
            changed = {name: value for name, value in wanted.items() if row.get(name) != value}
            if before is not None and any(row.get(name) != before.get(name) for name in changed):
                raise _edited_elsewhere()
            before = row
            if changed:
                content = {"version": row.get("version"), **changed}
                answer = client.put("customers", external_id, content=content)
            return UpdateOutcome("applied", page(answer))
        except IntegrationError as error:
            status = error.details.get("status")
            if status == 409 and not last:
                continue  # somebody else was quicker
            if status == 409:
                raise _edited_elsewhere() from None
            if error.error_type is not ErrorType.QUERY_REJECTED:
                raise
            return UpdateOutcome("rejected", reason=_reason(error))
    raise AssertionError


def _edited_elsewhere() -> IntegrationError:
    message = "this customer is being edited elsewhere; it is tried again"
    return IntegrationError.of(ErrorType.SERVER_ERROR, message, source=SOURCE)


def correct_stock(client: SquareClient, correction: Correction) -> CorrectionOutcome:
    """Square has no compare-and-swap: the count is read, and the difference is written as an adjustment.

    An adjustment and no count by hand, for who sells a piece between our reading and our writing has then sold it: a
    count would put it back on the shelf. What was too much is WASTE, as what is lost or broken is; a sale it was not.
    Where the count is another than it was, our own write under this key may be why: it carries the key as its
    reference, by which it is found again.
    """
    found, at = _in_stock(client, correction)
    if found != correction.change_from_quantity:
        status = "applied" if _was_sent(client, correction, at) else "stale"
        return CorrectionOutcome(status, found_quantity=None if found is None else int(found))
    more = correction.quantity - correction.change_from_quantity
    if not more:
        return CorrectionOutcome("applied", found_quantity=correction.quantity)
    adjustment = {
        "catalog_object_id": correction.inventory_item_external_id,
        "location_id": correction.location_external_id,
        "from_state": "NONE" if more > 0 else "IN_STOCK",
        "to_state": "IN_STOCK" if more > 0 else "WASTE",
        "quantity": str(abs(more)),
        "occurred_at": time_text(at),
        "reference_id": correction.idempotency_key,
    }
    try:
        client.post(
            CHANGE,
            idempotency_key=correction.idempotency_key,
            changes=[{"type": "ADJUSTMENT", "adjustment": adjustment}],
        )
    except IntegrationError as error:
        if error.error_type is not ErrorType.QUERY_REJECTED:
            raise
        # The same key with another time: it was taken then, and stock has moved back to where it was.
        if error.details.get("code") != "IDEMPOTENCY_KEY_REUSED":
            return CorrectionOutcome("rejected", reason=_reason(error))
    return CorrectionOutcome("applied", found_quantity=correction.quantity)


def _in_stock(client: SquareClient, correction: Correction) -> tuple[Decimal | None, datetime]:
    """The count, none where it was never counted, and a time that is past for Square and not before the count.

    What occurred before the last count is in that count already, and would change nothing.
    """
    answer = client.post(COUNTS, states=["IN_STOCK"], **_where(correction))
    now = answer.vendor_time or datetime.now(UTC)
    try:
        for row in answer.rows("counts"):
            quantity = Decimal(row["quantity"])
            if not quantity.is_finite():
                raise ValueError
            return quantity, max(now, datetime.fromisoformat(row["calculated_at"]))
    except (KeyError, TypeError, ValueError, InvalidOperation):
        raise malformed("Square's answer has a count that is no number, or of no time") from None
    return None, now


def _was_sent(client: SquareClient, correction: Correction, until: datetime) -> bool:
    """Whether a change of this stock carries the correction's key."""
    query = {"types": ["ADJUSTMENT"], "updated_after": time_text(until - SENT_WITHIN), **_where(correction)}
    for answer, _ in client.answers(CHANGES, query, None):
        for change in answer.rows("changes"):
            adjustment = change.get("adjustment") if isinstance(change, dict) else None
            reference = adjustment.get("reference_id") if isinstance(adjustment, dict) else None
            if reference == correction.idempotency_key:
                return True
    return False


def _where(correction: Correction) -> dict[str, Any]:
    item, place = correction.inventory_item_external_id, correction.location_external_id
    return {"catalog_object_ids": [item], "location_ids": [place]}


def _reason(error: IntegrationError) -> str:
    code, field = (
        error.details.get("code") or f"status {error.details.get('status')}",
        error.details.get("field"),
    )
    return f"{code}: {field}" if field else str(code)
