"""The asset checks of our tables, and a sensor that evaluates them: from the figures, without a run.

An evaluation is kept where it differs from the last one, and every few hours in any case: each is a row of Dagster's event
log, and is kept for half a year. A person evaluates them with the button of the asset's page.
"""

# No `from __future__ import annotations`: Dagster reads those of a check as they are.
import time
from collections.abc import Iterator
from typing import Any

import dagster as dg
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus

from bg_pipelines.errors import IntegrationError
from bg_pipelines.operations.table_health import CHECKS, Finding, TableHealth, read_table_health
from bg_pipelines.orchestration.assets import TABLES
from bg_pipelines.orchestration.failures import interval
from bg_pipelines.orchestration.resources import DatabaseResource, kept_database
from bg_pipelines.settings import load_settings

CHECK_SECONDS = 300
REPEAT_SECONDS = 6 * 3600
"""How often an evaluation is kept that says the same as the last one."""
OBSERVE_SECONDS = 3600
"""How often the rows and the freshness of each table are noted, of which the UI draws them over time."""

_SPECS = [
    dg.AssetCheckSpec(check, asset=table, description=wanted)
    for table, checks in CHECKS.items()
    for check, wanted in checks.items()
]


# One that gives all of them or none has no button in the UI.
@dg.multi_asset_check(
    name="check_tables", specs=_SPECS, description="Checks of tables, from the figures.", can_subset=True
)
def check_tables(
    context: dg.AssetCheckExecutionContext, database: DatabaseResource
) -> Iterator[dg.AssetCheckResult]:
    for finding in read_table_health(database.database, TABLES).findings:
        key = dg.AssetCheckKey(dg.AssetKey(finding.table), finding.check)
        if key not in context.selected_asset_check_keys:
            continue
        yield dg.AssetCheckResult(asset_key=finding.table, check_name=finding.check, **_told(finding))


@dg.sensor(
    name="table_checks",
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=interval(CHECK_SECONDS),
)
def table_checks(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Evaluate the checks of all tables, and note how many rows they have and how fresh they are."""
    try:
        health = read_table_health(kept_database(load_settings()), TABLES)
    except IntegrationError as error:
        return dg.SkipReason(f"Not looked: {error.message}")
    now = time.time()
    events: list[dg.AssetCheckEvaluation | dg.AssetObservation | dg.AssetMaterialization] = []
    events += _evaluations(context.instance, health, now)
    observed = float(context.cursor or 0)
    if now - observed >= OBSERVE_SECONDS:
        observed = now
        events += [dg.AssetObservation(table, metadata=known) for table, known in health.figures.items()]
    failing = sum(not finding.passed for finding in health.findings)
    return dg.SensorResult(
        skip_reason=f"{failing} of {len(health.findings)} checks do not pass",
        asset_events=events,
        cursor=str(observed),
    )


def _evaluations(
    instance: dg.DagsterInstance, health: TableHealth, now: float
) -> Iterator[dg.AssetCheckEvaluation]:
    """Those that say something else than the last one, whoever made that, or are old."""
    keys = {
        dg.AssetCheckKey(dg.AssetKey(finding.table), finding.check): finding for finding in health.findings
    }
    known = instance.event_log_storage.get_latest_asset_check_execution_by_key(list(keys))
    for key, finding in keys.items():
        last = known.get(key)
        if (
            last is not None
            and (last.status is AssetCheckExecutionRecordStatus.SUCCEEDED) is finding.passed
            and now - last.create_timestamp < REPEAT_SECONDS
        ):
            continue
        yield dg.AssetCheckEvaluation(asset_key=key.asset_key, check_name=key.name, **_told(finding))


def _told(finding: Finding) -> dict[str, Any]:
    """What a check says of it, whoever evaluates it."""
    return {
        "passed": finding.passed,
        "severity": dg.AssetCheckSeverity.ERROR if finding.alarming else dg.AssetCheckSeverity.WARN,
        "description": finding.sentence,
        "metadata": finding.figures,
    }
