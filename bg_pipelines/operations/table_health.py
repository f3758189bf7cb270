"""The health of tables, from the figures: rows held, freshness, and what each check of a table finds.

`metrics` has the figures themselves; this says which are well. A check that does not pass is a warning, where people are
told by an incident already, and an error where nothing else would tell them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

import psycopg

from bg_pipelines.database.engine import Database
from bg_pipelines.operations.metrics import Metrics, read_metrics
from bg_pipelines.records import Resource
from bg_pipelines.wording import counted, span

OLDEST_ITEM = timedelta(minutes=15)
"""An item that is due for longer is taken by nobody."""
CURRENT_SHARE = 0.95
"""Fewer of the stores up to date are a warning; it is the alert rule's share, too."""

OLDEST, DRIFT, PROOF, REJECTED = "oldest_item", "drift", "proof", "rejected_rows"
CURRENT, NONE_FAILS = "stores_up_to_date", "no_store_fails"
CHECKS: Mapping[str, Mapping[str, str]] = {
    **{
        resource.value: {
            CURRENT: f"At least {CURRENT_SHARE:.0%} of the stores are up to date in it.",
            NONE_FAILS: "No store fails in it: none is retried, and none is parked under an incident.",
            DRIFT: "Audits of the last 24 hours found no row that differs from its source.",
            PROOF: "What full passes read is what is held: no open incident of counts or checksums that differ.",
            REJECTED: "No row of a source could not be loaded.",
        }
        for resource in Resource
    },
    **{
        table: {OLDEST: f"Nothing has been due for more than {span(OLDEST_ITEM.total_seconds())}."}
        for table in ("webhook_events", "text_messages", "inventory_corrections", "customer_changes")
    },
}
"""The checks of each table, each with what it wants."""


class Finding(NamedTuple):
    """What a check of a table found. `alarming`: nothing else tells people of it."""

    table: str
    check: str
    passed: bool
    sentence: str
    figures: Mapping[str, int | float]
    alarming: bool = False


class TableHealth(NamedTuple):
    """Findings in the order of `CHECKS`; `figures` by table: rows and freshness, of which is known."""

    findings: list[Finding]
    figures: Mapping[str, Mapping[str, int | float]]


def read_table_health(database: Database, tables: Sequence[str]) -> TableHealth:
    """With the rows of these tables. The cost is that of `read_metrics`. Raises IntegrationError (database)."""
    metrics = read_metrics(database, most_stores=0)
    with database.transaction() as connection:
        rows = rows_held(connection, tables)
        mismatches = dict(connection.execute(_MISMATCHES).fetchall())
    figures: dict[str, dict[str, int | float]] = {table: {"rows": number} for table, number in rows.items()}
    for line in metrics.freshness:
        if line.tier is None:
            known = {
                "stores": line.stores,
                "age_p50_seconds": line.age_p50_seconds,
                "age_p99_seconds": line.age_p99_seconds,
                "change_lag_p50_seconds": line.lag_p50_seconds,
                "change_lag_p99_seconds": line.lag_p99_seconds,
            }
            figures.setdefault(line.resource, {}).update(
                {name: round(value, 1) for name, value in known.items() if value is not None}
            )
    return TableHealth(list(_findings(metrics, mismatches)), figures)


def rows_held(connection: psycopg.Connection[Any], tables: Sequence[str]) -> dict[str, int]:
    """How many rows each table has, deleted ones included, as PostgreSQL estimates it: a table without estimate is left out."""
    found = connection.execute(_ROWS, (list(tables),)).fetchall()
    return {table: number for table, number in found if number >= 0}


def _findings(metrics: Metrics, mismatches: Mapping[str, int]) -> Iterator[Finding]:
    units = {unit.resource: unit for unit in metrics.resources}
    audits = {audit.resource: audit for audit in metrics.audits}
    for resource in Resource:
        name, unit, audit = resource.value, units.get(resource.value), audits.get(resource.value)
        stores, current = (unit.stores, unit.current) if unit else (0, 0)
        yield Finding(
            name,
            CURRENT,
            current >= stores * CURRENT_SHARE,
            f"{current:,} of {counted(stores, 'store')} up to date",
            {"stores": stores, "stores_up_to_date": current},
        )
        failing = unit.failing if unit else 0
        yield Finding(
            name, NONE_FAILS, not failing, f"{counted(failing, 'store')} failing", {"stores_failing": failing}
        )
        sampled, drifted, repaired = (audit.sampled, audit.drifted, audit.repaired) if audit else (0, 0, 0)
        yield Finding(
            name,
            DRIFT,
            not drifted,
            f"of {counted(sampled, 'audited row')} {drifted:,} had drifted; {repaired:,} repaired",
            {"rows_audited": sampled, "rows_drifted": drifted, "rows_repaired": repaired},
        )
        differ = mismatches.get(name, 0)
        yield Finding(
            name,
            PROOF,
            not differ,
            f"{counted(differ, 'open incident')} of counts or checksums that differ",
            {"open_incidents": differ},
        )
        rejected = metrics.rejected_rows.get(name, 0)
        yield Finding(
            name,
            REJECTED,
            not rejected,
            f"{counted(rejected, 'row')} could not be loaded",
            {"rows_rejected": rejected},
        )
    tables = {table.table: table for table in metrics.tables}
    for name in (table for table, checks in CHECKS.items() if OLDEST in checks):
        table = tables[name]
        yield Finding(
            name,
            OLDEST,
            table.oldest_seconds <= OLDEST_ITEM.total_seconds(),
            f"{table.due:,} due, the oldest for {span(table.oldest_seconds)}",
            {
                "due": table.due,
                "oldest_seconds": round(table.oldest_seconds),
                "retrying": table.retrying,
                "parked": table.parked,
            },
            alarming=True,
        )


_MISMATCHES = (
    "SELECT resource, count(*) FROM incidents, unnest(resources) resource "
    "WHERE status = 'open' AND error_type = 'count_mismatch' GROUP BY resource"
)
_ROWS = (
    "SELECT c.relname, greatest(c.reltuples, pg_stat_get_live_tuples(c.oid))::bigint FROM pg_class c "
    "WHERE c.oid IN (SELECT to_regclass(name) FROM unnest(%s::text[]) name)"
)
