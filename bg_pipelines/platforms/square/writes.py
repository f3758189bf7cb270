"""Writes to Square: customers' profiles and stock corrections.

Square says in a code and a field what it does not take. Its sentences quote what was given, so they are left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from functools import partial
from typing import Any, NamedTuple, TypeVar

from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.platforms.protocol import (
    Correction,
    CorrectionOutcome,
    UpdateOutcome,
    batch_key,
    batches,
)
from bg_pipelines.platforms.square.client import SOURCE, Answer, SquareClient, malformed, time_text
from bg_pipelines.records import Page
from bg_pipelines.values import read_time

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

ROWS_A_PAGE = 1000

# How far back a correction that was sent before is looked for.
SENT_WITHIN = timedelta(days=3)


AT_ONCE_SECONDS = 2.0
"""So long at most what was read waits to be overwritten."""

T = TypeVar("T")


def _read_anew(client: SquareClient, act: Callable[[], T]) -> T:
    """What reads and then writes, begun again where the rate limit makes us wait in between."""
    return client.within_rate_limit(
        act, may_wait_seconds=client.throttle_wait_seconds, pause_seconds=2 * AT_ONCE_SECONDS
    )


def update_customer(
    client: SquareClient,
    external_id: str,
    values: Mapping[str, Any],
    page: Callable[[Answer], Page],
    if_still: Callable[[Any], bool] | None = None,
) -> UpdateOutcome:
    """Only over the version just read, so that nobody else's edit is undone. A null takes a value away.

    If somebody else was faster, it is written over the new version only if none of these values has changed; otherwise
    the next run decides again whose edit counts. `page` makes the page of an answer that has the customer; `if_still` is
    that of `Platform`.
    """
    return _read_anew(client, lambda: _update_customer(client, external_id, values, page, if_still))


def _update_customer(
    client: SquareClient,
    external_id: str,
    values: Mapping[str, Any],
    page: Callable[[Answer], Page],
    if_still: Callable[[Any], bool] | None,
) -> UpdateOutcome:
    wanted = {EDITABLE[column]: value for column, value in values.items()}
    before: dict[str, Any] | None = None
    for last in (False, True):
        try:
            answer = client.get("customers", external_id)
            row = answer.data.get("customer")
            if not isinstance(row, dict):
                raise malformed("Square's answer lacks the customer")
            if if_still is not None and not all(map(if_still, (held := page(answer)).records)):
                return UpdateOutcome("changed", held)
            changed = {name: value for name, value in wanted.items() if row.get(name) != value}
            if before is not None and any(row.get(name) != before.get(name) for name in changed):
                raise _edited_elsewhere()
            before = row
            if changed:
                content = {"version": row.get("version"), **changed}
                answer = client.put(
                    "customers", external_id, content=content, may_wait_seconds=AT_ONCE_SECONDS
                )
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
    message = "this customer is being edited elsewhere; retried automatically"
    return IntegrationError.of(ErrorType.SERVER_ERROR, message, source=SOURCE)


def correct_stock(
    client: SquareClient, corrections: Sequence[Correction], a_call: int
) -> list[CorrectionOutcome]:
    """Square has no compare-and-swap: the counts are read, and the differences are written as adjustments.

    Adjustments instead of physical counts: a piece that is sold between our reading and our writing stays sold; a
    count would put it back on the shelf. What was too much is WASTE, as what is lost or broken is; a sale it was not.
    Each carries its correction's key as its reference, by which one that was written before is found again, whatever
    the count is by now and whichever corrections it was written with.
    """
    outcomes: list[CorrectionOutcome] = []
    for batch in batches(corrections, a_call):
        outcomes += _read_anew(client, partial(_correct, client, batch))
    return outcomes


def _correct(client: SquareClient, batch: list[Correction]) -> list[CorrectionOutcome]:
    counts, now = _in_stock(client, batch)
    sent = _sent_before(client, batch, now)
    outcomes: dict[int, CorrectionOutcome] = {}
    moves: dict[int, _Move] = {}
    for index, correction in enumerate(batch):
        count = counts.get(correction.level)
        found = None if count is None else int(count.quantity)
        if correction.idempotency_key in sent:
            outcomes[index] = CorrectionOutcome("applied", found_quantity=found)
        elif count is None or count.quantity != correction.change_from_quantity:
            outcomes[index] = CorrectionOutcome("stale", found_quantity=found)
        elif correction.quantity == correction.change_from_quantity:
            outcomes[index] = CorrectionOutcome("applied", found_quantity=found)
        else:
            # What occurred before the last count is in that count already, and would change nothing.
            moves[index] = _Move(correction, max(now, count.at))
    outcomes |= zip(moves, _write(client, list(moves.values())), strict=True)
    return [outcomes[index] for index in range(len(batch))]


def _write(client: SquareClient, moves: list[_Move]) -> list[CorrectionOutcome]:
    """All in one call, which Square applies as a whole or not at all; what it does not take is left out of the next."""
    if not moves:
        return []
    corrections = [move.correction for move in moves]
    try:
        changes = [{"type": "ADJUSTMENT", "adjustment": _adjustment(*move)} for move in moves]
        content = {"idempotency_key": batch_key(corrections), "changes": changes}
        client.post_soon(CHANGE, content, AT_ONCE_SECONDS)
    except IntegrationError as error:
        if error.error_type is not ErrorType.QUERY_REJECTED:
            raise
        # The same key with another time: it was taken then, and stock has moved back to where it was.
        if error.details.get("code") != "IDEMPOTENCY_KEY_REUSED":
            if len(moves) == 1:
                return [CorrectionOutcome("rejected", reason=_reason(error))]
            index = _index_of(error, len(moves))
            if index is None:
                middle = len(moves) // 2
                return _write(client, moves[:middle]) + _write(client, moves[middle:])
            rejected = CorrectionOutcome("rejected", reason=_reason(error))
            others = _write(client, moves[:index] + moves[index + 1 :])
            return [*others[:index], rejected, *others[index:]]
    return [CorrectionOutcome("applied", found_quantity=one.quantity) for one in corrections]


class _Count(NamedTuple):
    quantity: Decimal
    at: datetime


class _Move(NamedTuple):
    """A correction to be written, and a time that is past for Square and not before the last count."""

    correction: Correction
    at: datetime


def _adjustment(correction: Correction, at: datetime) -> dict[str, Any]:
    more = correction.quantity - correction.change_from_quantity
    return {
        "catalog_object_id": correction.inventory_item_external_id,
        "location_id": correction.location_external_id,
        "from_state": "NONE" if more > 0 else "IN_STOCK",
        "to_state": "IN_STOCK" if more > 0 else "WASTE",
        "quantity": str(abs(more)),
        "occurred_at": time_text(at),
        "reference_id": correction.idempotency_key,
    }


def _in_stock(
    client: SquareClient, batch: Sequence[Correction]
) -> tuple[dict[tuple[str, str], _Count], datetime]:
    """The counts of the levels, none of one that was never counted, and Square's time."""
    counts: dict[tuple[str, str], _Count] = {}
    now = None
    query = {"states": ["IN_STOCK"], "limit": ROWS_A_PAGE, **_where(batch)}
    for answer, _ in client.answers(COUNTS, query, None):
        now = now or answer.vendor_time
        try:
            for row in answer.rows("counts"):
                quantity = Decimal(row["quantity"])
                if not quantity.is_finite():
                    raise ValueError
                # The search is for each item at each place, newest first.
                level = row["catalog_object_id"], row["location_id"]
                counts.setdefault(level, _Count(quantity, read_time(row["calculated_at"])))
        except (KeyError, TypeError, ValueError, InvalidOperation):
            raise malformed("Square's answer has a count that is no number, or of no time") from None
    return counts, now or datetime.now(UTC)


def _sent_before(client: SquareClient, batch: Sequence[Correction], until: datetime) -> set[str]:
    """The keys of those corrections that changes of this stock carry."""
    since = time_text(until - SENT_WITHIN)
    query = {"types": ["ADJUSTMENT"], "updated_after": since, "limit": ROWS_A_PAGE, **_where(batch)}
    wanted = {correction.idempotency_key for correction in batch}
    found: set[str] = set()
    for answer, _ in client.answers(CHANGES, query, None):
        for change in answer.rows("changes"):
            adjustment = change.get("adjustment") if isinstance(change, dict) else None
            reference = adjustment.get("reference_id") if isinstance(adjustment, dict) else None
            if isinstance(reference, str):
                found.add(reference)
    return found & wanted


def _where(batch: Sequence[Correction]) -> dict[str, Any]:
    items, places = zip(*(correction.level for correction in batch), strict=True)
    return {"catalog_object_ids": sorted(set(items)), "location_ids": sorted(set(places))}


def _index_of(error: IntegrationError, count: int) -> int | None:
    """Which change is meant: `field` is like changes[3].adjustment.quantity."""
    named = re.match(r"changes\[(\d{1,4})\]", str(error.details.get("field")))
    return int(named[1]) if named and int(named[1]) < count else None


def _reason(error: IntegrationError) -> str:
    code, field = (
        error.details.get("code") or f"status {error.details.get('status')}",
        error.details.get("field"),
    )
    return f"{code}: {field}" if field else str(code)
