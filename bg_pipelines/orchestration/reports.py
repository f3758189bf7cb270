"""What a run shows of its outcome: what failed first, in its log, its metadata and its tags; and materialized tables.

A run whose stores failed succeeds, for the others are done: in the list of runs its tags `outcome` and `failed` tell it
from one that had none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import quote

import dagster as dg

from bg_pipelines.database.engine import Database
from bg_pipelines.errors import IntegrationError
from bg_pipelines.messaging.sending import Sent
from bg_pipelines.operations.table_health import NONE_FAILS, rows_held
from bg_pipelines.queues import Unit
from bg_pipelines.sync import Summary
from bg_pipelines.webhooks.handling import HandlingSummary
from bg_pipelines.wording import counted

ASSET_KEYS = {
    Unit.STORE: dg.AssetKey("stores"),
    **{unit: dg.AssetKey(unit.resource.value) for unit in Unit if unit.resource is not None},
    Unit.WEBHOOKS: dg.AssetKey("webhook_subscriptions"),
}
"""The table that a unit fills, as Dagster's asset; an audit fills none."""


STORE_TAG = "store"
"""The store that a run was asked for, if it was asked for one: with a click on it the UI shows its others."""
OUTCOME_TAG, FAILED_TAG = "outcome", "failed"
WELL = "ok"
BOARD_URL = "http://127.0.0.1:3001"
"""Where `up` serves the board."""
NAMED_IN_TAG, NAMED_IN_LOG = 3, 20
MOST_ROWS = 200
"""Of a table in metadata, which is one event: while a vendor is away ten thousand stores may fail for the same reason."""


class Failed(NamedTuple):
    """Something that failed in a run: its name, the type of the error, and the sentence."""

    name: str
    error_type: str
    message: str


def show_failed(
    context: dg.OpExecutionContext, what: str, number: int, of: int, failed: Sequence[Failed] = ()
) -> None:
    """Say in the run's log and tags how many failed of how many, and of which is known what and why; nothing where none did.

    A run that follows another has its tags, so an outcome that is the other's is replaced.
    """
    if not number:
        if context.run.tags.get(OUTCOME_TAG, WELL) != WELL:
            context.instance.add_run_tags(context.run_id, {OUTCOME_TAG: WELL, FAILED_TAG: ""})
        return
    lines = [f"{failure.name}: {failure.error_type}: {failure.message}" for failure in failed]
    context.log.error("\n".join([f"{number:,} of {counted(of, what)} failed", *_first(lines, NAMED_IN_LOG)]))
    short = list(dict.fromkeys(f"{failure.name}: {failure.error_type}" for failure in failed))
    named = ", ".join(_first(short, NAMED_IN_TAG)) or counted(number, what)
    context.instance.add_run_tags(context.run_id, {OUTCOME_TAG: f"{what}s failed", FAILED_TAG: named})


def _first(lines: Sequence[str], most: int) -> list[str]:
    return [*lines[:most], *([f"and {len(lines) - most:,} more"] if len(lines) > most else [])]


def report(
    context: dg.OpExecutionContext, summary: Summary, database: Database, board_url: str | None
) -> None:
    """Show the outcome of the op's run. `board_url`: where people open the board, if not where `up` serves it."""
    show_failed(
        context,
        "store",
        summary.done - summary.complete if summary.failures else 0,
        summary.done,
        [
            Failed(failure.store, failure.error.error_type.value, failure.error.message)
            for failure in summary.failures
        ],
    )
    # A table that failed for all of its stores is not materialized: it is not fresh.
    written = [unit for unit, done in summary.units.items() if unit in ASSET_KEYS and done.synced]
    rows: dict[str, int] = {}
    with suppress(IntegrationError), database.transaction() as connection:
        if written:
            rows = rows_held(connection, [ASSET_KEYS[unit].to_user_string() for unit in written])
    for unit in written:
        done = summary.units[unit]
        numbers: dict[str, int | float] = {
            "stores": done.synced,
            "stores_failed": done.failed,
            **vars(done.counts),
            "seconds": round(summary.seconds, 2),
        }
        if (held := rows.get(ASSET_KEYS[unit].to_user_string())) is not None:
            numbers["dagster/row_count"] = held
        context.log_event(dg.AssetMaterialization(ASSET_KEYS[unit], metadata=numbers))
    for unit, done in summary.units.items():
        if done.failed and unit.resource is not None:
            context.log_event(
                dg.AssetCheckEvaluation(  # type: ignore[arg-type]  # taken, though not named by its type
                    asset_key=ASSET_KEYS[unit],
                    check_name=NONE_FAILS,
                    passed=False,
                    severity=dg.AssetCheckSeverity.WARN,
                    description=f"{counted(done.failed, 'store')} failed in this run",
                    metadata={"stores_failing": done.failed},
                )
            )
    context.add_output_metadata(_metadata(summary, board_url or BOARD_URL))


def _metadata(summary: Summary, board: str) -> Mapping[str, dg.MetadataValue]:
    """What failed comes first: the UI folds what is long."""
    metadata: dict[str, dg.MetadataValue] = {}
    if summary.failures:
        metadata |= _first_rows(
            "failed",
            [
                {
                    "store": failure.store,
                    "error_type": failure.error.error_type.value,
                    "message": failure.error.message,
                    "next": failure.next,
                    "resources": ", ".join(failure.units),
                    "severity": failure.error.severity.value,
                    "recoverable": failure.error.recoverable,
                }
                for failure in summary.failures
            ],
        )
        names = sorted({failure.store for failure in summary.failures})
        place = f"store?name={quote(names[0])}" if len(names) == 1 else "incidents"
        metadata["board"] = dg.MetadataValue.url(f"{board.rstrip('/')}/{place}")
    metadata |= {
        "stores": dg.MetadataValue.int(summary.done),
        "stores_failed": dg.MetadataValue.int(summary.done - summary.complete),
    }
    if summary.idle is not None:
        metadata["idle"] = dg.MetadataValue.text(summary.idle)
    if summary.audits:
        metadata["rows_audited"] = dg.MetadataValue.int(sum(found.sampled for found in summary.audits))
        metadata["rows_drifted"] = dg.MetadataValue.int(sum(found.drifted for found in summary.audits))
    if drift := [found for found in summary.audits if found.drifted or found.short]:
        metadata |= _first_rows(
            "drift",
            [
                {
                    **vars(found),
                    "fields": ", ".join(f"{name}: {rows}" for name, rows in sorted(found.fields.items())),
                    "external_ids": ", ".join(found.external_ids),
                }
                for found in drift
            ],
        )
    if summary.corrections_left:
        metadata |= _first_rows(
            "corrections_left",
            [
                {
                    "store": left.store,
                    "correction": left.correction_id,
                    "status": left.status,
                    "message": left.message,
                }
                for left in summary.corrections_left
            ],
        )
    if summary.corrections_applied:
        metadata["corrections_applied"] = dg.MetadataValue.int(summary.corrections_applied)
    if summary.changes_left:
        metadata |= _first_rows(
            "profile_edits_left",
            [
                {
                    "store": left.store,
                    "edit": left.change_id,
                    "customer": left.customer_external_id,
                    "field": left.field,
                    "status": left.status,
                    "message": left.message,
                }
                for left in summary.changes_left
            ],
        )
    if summary.changes_applied:
        metadata["profile_edits_applied"] = dg.MetadataValue.int(summary.changes_applied)
    rejected = sum(done.counts.rejected for done in summary.units.values())
    metadata |= {
        "rows_read": dg.MetadataValue.int(summary.rows),
        "rows_changed": dg.MetadataValue.int(summary.changed),
        "rows_rejected": dg.MetadataValue.int(rejected),
        "seconds": dg.MetadataValue.float(round(summary.seconds, 2)),
        "resources": table_of(
            {
                "resource": unit.value,
                "stores": done.synced,
                "failed": done.failed,
                "waiting": done.waiting,
                "pages": done.pages,
                **vars(done.counts),
            }
            for unit, done in summary.units.items()
        ),
    }
    return metadata


def report_handling(context: dg.OpExecutionContext, summary: HandlingSummary) -> None:
    """Show the outcome of a run that drained the inbox."""
    events = sum(summary.events.values())
    show_failed(context, "event", summary.events["failed"], events)
    for table, counts in summary.rows.items():
        values = {key: dg.MetadataValue.int(value) for key, value in vars(counts).items()}
        context.log_event(dg.AssetMaterialization(table, metadata=values))
    metadata: dict[str, dg.MetadataValue] = {
        f"events_{status}": dg.MetadataValue.int(number) for status, number in sorted(summary.events.items())
    }
    metadata |= {
        "stores": dg.MetadataValue.int(summary.stores),
        "rows_asked": dg.MetadataValue.int(summary.asked),
        "asks": dg.MetadataValue.int(summary.asks),
        "rows_changed": dg.MetadataValue.int(summary.changed),
        "rows_rejected": dg.MetadataValue.int(sum(counts.rejected for counts in summary.rows.values())),
        "seconds": dg.MetadataValue.float(round(summary.seconds, 2)),
    }
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        if (seconds := summary.seconds_to_row(share)) is not None:
            metadata[f"seconds_to_row_{name}"] = dg.MetadataValue.float(round(seconds, 3))
    if events:
        context.log_event(dg.AssetMaterialization("webhook_events", metadata=metadata))
    context.add_output_metadata(metadata)


def report_sent(context: dg.OpExecutionContext, sent: Sent) -> None:
    """Show the outcome of a run that sent text messages; nobody's number is in it."""
    messages = sum(sent.outcomes.values())
    show_failed(context, "message", sent.outcomes["retrying"] + sent.outcomes["parked"], messages)
    metadata: dict[str, dg.MetadataValue] = {
        f"messages_{outcome}": dg.MetadataValue.int(number)
        for outcome, number in sorted(sent.outcomes.items())
    }
    metadata |= {
        "segments": dg.MetadataValue.int(sent.segments),
        "seconds": dg.MetadataValue.float(round(sent.seconds, 2)),
    }
    if messages:
        context.log_event(dg.AssetMaterialization("text_messages", metadata=metadata))
    if sent.reasons:
        metadata["reasons"] = table_of(
            {"reason": reason, "messages": number} for reason, number in sent.reasons.most_common()
        )
    context.add_output_metadata(metadata)


def table_of(rows: Iterable[Mapping[str, str | int | bool]]) -> dg.MetadataValue:
    """Rows as a table of a run's metadata."""
    return dg.MetadataValue.table([dg.TableRecord(dict(row)) for row in rows])


def _first_rows(name: str, rows: Sequence[Mapping[str, str | int | bool]]) -> Mapping[str, dg.MetadataValue]:
    shown: dict[str, dg.MetadataValue] = {name: table_of(rows[:MOST_ROWS])}
    if len(rows) > MOST_ROWS:
        shown[f"{name}_in_all"] = dg.MetadataValue.int(len(rows))
    return shown
