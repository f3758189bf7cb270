"""The asset checks of our tables, and a sensor that evaluates them: from the figures, without a run.

An evaluation is kept where it differs from the last one, and every few hours in any case: each is a row of Dagster's event
log, and is kept for half a year. A person evaluates them with the button of the asset's page.
"""

# No `from __future__ import annotations`: Dagster reads those of a check as they are.
import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg

from bg_pipelines.errors import IntegrationError
from bg_pipelines.operations.table_health import CHECKS, Finding, TableHealth, read_table_health
from bg_pipelines.orchestration.assets import TABLES
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


@dg.multi_asset_check(
    name="check_tables", specs=_SPECS, description="All checks of all tables, from the figures."
)
def check_tables(database: DatabaseResource) -> Iterator[dg.AssetCheckResult]:
    for finding in read_table_health(database.database, TABLES).findings:
        yield dg.AssetCheckResult(
            asset_key=finding.table,
            check_name=finding.check,
            passed=finding.passed,
            severity=_severity(finding),
            description=finding.sentence,
            metadata=finding.figures,
        )


@dg.sensor(
    name="table_checks",
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=CHECK_SECONDS,
)
def table_checks(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Evaluate the checks of all tables, and note how many rows they have and how fresh they are."""
    try:
        health = read_table_health(kept_database(load_settings()), TABLES)
    except IntegrationError as error:
        return dg.SkipReason(f"Not looked: {error.message}")
    events, cursor = _news(health, json.loads(context.cursor or "{}"), time.time())
    failing = sum(not finding.passed for finding in health.findings)
    return dg.SensorResult(
        skip_reason=f"{failing} of {len(health.findings)} checks do not pass",
        asset_events=events,
        cursor=json.dumps(cursor),
    )


def _news(
    health: TableHealth, told: Mapping[str, Any], now: float
) -> tuple[list[dg.AssetCheckEvaluation | dg.AssetObservation | dg.AssetMaterialization], dict[str, Any]]:
    """The events to keep, and what was told when: the next tick's cursor."""
    events: list[dg.AssetCheckEvaluation | dg.AssetObservation | dg.AssetMaterialization] = []
    checks: dict[str, Any] = dict(told.get("checks", {}))
    for finding in health.findings:
        name = f"{finding.table}/{finding.check}"
        passed, at = checks.get(name, (None, 0.0))
        if passed is finding.passed and now - at < REPEAT_SECONDS:
            continue
        checks[name] = (finding.passed, round(now))
        events.append(
            dg.AssetCheckEvaluation(
                asset_key=dg.AssetKey(finding.table),
                check_name=finding.check,
                passed=finding.passed,
                severity=_severity(finding),
                description=finding.sentence,
                metadata=finding.figures,
            )
        )
    observed: float = told.get("observed", 0.0)
    if now - observed >= OBSERVE_SECONDS:
        observed = round(now)
        events += [
            dg.AssetObservation(table, metadata=figures, description="Estimated, from the figures.")
            for table, figures in health.figures.items()
        ]
    return events, {"checks": checks, "observed": observed}


def _severity(finding: Finding) -> dg.AssetCheckSeverity:
    return dg.AssetCheckSeverity.ERROR if finding.alarming else dg.AssetCheckSeverity.WARN
