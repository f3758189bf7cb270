"""What a run of a sync job shows of its outcome: a line in its log, metadata of its op, materialized tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import dagster as dg

from bg_pipelines.messaging.sending import Sent
from bg_pipelines.queues import Unit
from bg_pipelines.sync import Summary
from bg_pipelines.webhooks.handling import HandlingSummary

ASSET_KEYS = {
    Unit.STORE: dg.AssetKey("stores"),
    **{unit: dg.AssetKey(unit.resource.value) for unit in Unit if unit.resource is not None},
    Unit.WEBHOOKS: dg.AssetKey("webhook_subscriptions"),
}
"""The table that a unit fills, as Dagster's asset; an audit fills none."""


def report(context: dg.OpExecutionContext, summary: Summary) -> None:
    """Show the outcome of the op's run."""
    if summary.failures:
        context.log.error(
            f"{summary.done - summary.complete} of {summary.done} stores failed: see `failed` in this run's metadata, or `bg-pipelines status`"
        )
    for unit, done in summary.units.items():
        if unit in ASSET_KEYS and (done.synced or done.failed):
            counts = {key: dg.MetadataValue.int(value) for key, value in vars(done.counts).items()}
            context.log_event(dg.AssetMaterialization(ASSET_KEYS[unit], metadata=counts))
    context.add_output_metadata(_metadata(summary))


def _metadata(summary: Summary) -> Mapping[str, dg.MetadataValue]:
    """What failed comes first: the UI folds what is long."""
    metadata: dict[str, dg.MetadataValue] = {
        "stores": dg.MetadataValue.int(summary.done),
        "stores_failed": dg.MetadataValue.int(summary.done - summary.complete),
    }
    if summary.idle is not None:
        metadata["idle"] = dg.MetadataValue.text(summary.idle)
    if summary.failures:
        metadata["failed"] = _table(
            {
                "store": failure.store,
                "resources": ", ".join(failure.units),
                "error_type": failure.error.error_type.value,
                "severity": failure.error.severity.value,
                "recoverable": failure.error.recoverable,
                "message": failure.error.message,
            }
            for failure in summary.failures
        )
    if summary.audits:
        metadata["rows_audited"] = dg.MetadataValue.int(sum(found.sampled for found in summary.audits))
        metadata["rows_drifted"] = dg.MetadataValue.int(sum(found.drifted for found in summary.audits))
    if drift := [found for found in summary.audits if found.drifted or found.short]:
        metadata["drift"] = _table(
            {
                **vars(found),
                "fields": ", ".join(f"{name}: {rows}" for name, rows in sorted(found.fields.items())),
                "external_ids": ", ".join(found.external_ids),
            }
            for found in drift
        )
    if summary.corrections_left:
        metadata["corrections_left"] = _table(
            {
                "store": left.store,
                "correction": left.correction_id,
                "status": left.status,
                "message": left.message,
            }
            for left in summary.corrections_left
        )
    if summary.corrections_applied:
        metadata["corrections_applied"] = dg.MetadataValue.int(summary.corrections_applied)
    if summary.changes_left:
        metadata["profile_edits_left"] = _table(
            {
                "store": left.store,
                "edit": left.change_id,
                "customer": left.customer_external_id,
                "field": left.field,
                "status": left.status,
                "message": left.message,
            }
            for left in summary.changes_left
        )
    if summary.changes_applied:
        metadata["profile_edits_applied"] = dg.MetadataValue.int(summary.changes_applied)
    rejected = sum(done.counts.rejected for done in summary.units.values())
    metadata |= {
        "rows_read": dg.MetadataValue.int(summary.rows),
        "rows_changed": dg.MetadataValue.int(summary.changed),
        "rows_rejected": dg.MetadataValue.int(rejected),
        "seconds": dg.MetadataValue.float(round(summary.seconds, 2)),
        "resources": _table(
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
    context.add_output_metadata(metadata)


def report_sent(context: dg.OpExecutionContext, sent: Sent) -> None:
    """Show the outcome of a run that sent text messages; nobody's number is in it."""
    metadata: dict[str, dg.MetadataValue] = {
        f"messages_{outcome}": dg.MetadataValue.int(number)
        for outcome, number in sorted(sent.outcomes.items())
    }
    metadata |= {
        "segments": dg.MetadataValue.int(sent.segments),
        "seconds": dg.MetadataValue.float(round(sent.seconds, 2)),
    }
    if sent.reasons:
        metadata["reasons"] = _table(
            {"reason": reason, "messages": number} for reason, number in sent.reasons.most_common()
        )
    context.add_output_metadata(metadata)


def _table(rows: Iterable[Mapping[str, str | int | bool]]) -> dg.MetadataValue:
    return dg.MetadataValue.table([dg.TableRecord(dict(row)) for row in rows])
