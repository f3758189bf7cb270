"""Metrics: all figures at one moment, those of stores' work, of freshness, of runs, and per table of claimed work.

docs/monitoring.md explains each figure; `prometheus` and `status` show them. Few queries, whatever the number of stores and
of attempts; all times are the database's.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import datetime, timedelta
from typing import NamedTuple

import sqlalchemy as sa

from bg_pipelines.database.engine import Database
from bg_pipelines.operations.freshness_figures import Freshness, UnitStatus, read_freshness
from bg_pipelines.operations.reading import read
from bg_pipelines.operations.run_figures import RunMetrics, read_runs
from bg_pipelines.operations.units import Flag, Units, count, read_units, seconds_since
from bg_pipelines.operations.work_figures import (
    Incident,
    JobMetrics,
    QueueMetrics,
    StoreMetrics,
    read_work,
)
from bg_pipelines.work import rollups, store_units
from bg_pipelines.work.pulse import DEAD_AFTER
from bg_pipelines.work.queue import all_queues

WINDOW = timedelta(hours=24)
"""Over which visits, changes and runs are counted and timed."""


class TableMetrics(NamedTuple):
    """The rows of a table of claimed work; those of paused stores are left out."""

    table: str
    due: int
    oldest_seconds: float
    running: int
    retrying: int
    parked: int


class Connections(NamedTuple):
    """Of the runs at work, against the sizes of their pools; of everybody, against what the server allows."""

    in_use: int
    size: int
    server_in_use: int
    server_size: int


class AuditMetrics(NamedTuple):
    """What the audits of the window found of a resource, over all stores."""

    resource: str
    sampled: int
    drifted: int
    repaired: int
    lag: int


class IncidentCount(NamedTuple):
    severity: str
    needs_attention: bool
    open: int


class Metrics(NamedTuple):
    """`texts` are text messages by status, pending ones whenever they were asked for and the others of the window, `rows_freed` and `bytes_freed` what cleaning jobs freed in it.

    `stores` has a line for each job of a store that is not current in it, or of every store; `stores_total` and
    `stores_current` count a store once. `freshness` is by resource and tier, `resources` by unit of work."""

    at: datetime
    freshness: list[Freshness]
    resources: list[UnitStatus]
    queues: list[QueueMetrics]
    jobs: list[JobMetrics]
    stores: list[StoreMetrics]
    stores_total: int
    stores_current: int
    stores_paused: int
    tables: list[TableMetrics]
    runs: list[RunMetrics]
    connections: Connections
    incidents: list[IncidentCount]
    circuits: dict[str, int]
    deliveries: dict[str, int]
    corrections: dict[str, int]
    rejected_rows: dict[str, int]
    audits: list[AuditMetrics]
    texts: dict[str, int]
    rows_freed: dict[str, int]
    bytes_freed: dict[str, int]


def read_metrics(
    database: Database,
    *,
    window: timedelta = WINDOW,
    all_stores: bool = False,
    most_stores: int | None = None,
) -> Metrics:
    """All figures as they are now; visits and runs of the last `window`. Raises IntegrationError (database).

    `stores` holds those that are not current in a job, with `all_stores` all of them, and at `most_stores` so many lines.
    """
    with database.transaction() as connection:
        row = connection.execute("SELECT clock_timestamp() - %s", (window,)).fetchone()
        assert row is not None
        visits = rollups.read(connection, row[0])
    with database.session() as session:
        [server] = read(session, _Server, _SERVER)
        # Given as values: no index serves a condition on clock_timestamp() itself.
        now = server.now
        since, alive = now - window, now - DEAD_AFTER
        incidents = read(session, Incident, _INCIDENTS)
        units = read_units(session, now, most=0 if all_stores else most_stores)
        work = read_work(session, now, units, visits, incidents, most=most_stores, all_stores=all_stores)
        counts: dict[str, dict[str, int]] = defaultdict(dict)
        for figure, name, number in session.execute(sa.text(_COUNTS), {"since": since}):
            counts[figure][name] = number
        resources, fresh = read_freshness(now, units, visits, counts["rejected_rows"])
        runs = read_runs(session, since, alive)
        kinds = Counter((incident.severity, incident.needs_attention) for incident in incidents)
        return Metrics(
            at=now,
            freshness=fresh,
            resources=resources,
            queues=work.queues,
            jobs=work.jobs,
            stores=work.stores,
            stores_total=work.stores_total,
            stores_current=work.stores_current,
            stores_paused=server.stores_paused,
            tables=sorted(
                [_of_units(now, units), *read(session, TableMetrics, _TABLES, now=now)],
                key=lambda line: _ORDER.index(line.table),
            ),
            runs=runs,
            connections=Connections(
                in_use=sum(run.connections_in_use for run in runs),
                size=sum(run.connections_size for run in runs),
                server_in_use=server.in_use,
                server_size=server.size,
            ),
            incidents=[IncidentCount(*kind, open=number) for kind, number in sorted(kinds.items())],
            circuits={"platform": 0, "store": 0} | counts["circuits"],
            deliveries={"pending": 0} | counts["deliveries"],
            corrections={"pending": 0} | counts["corrections"],
            rejected_rows=counts["rejected_rows"],
            audits=read(session, AuditMetrics, _AUDITS, since=since),
            texts={"pending": 0} | counts["texts"],
            rows_freed=counts["rows_freed"],
            bytes_freed=counts["bytes_freed"],
        )


_SERVER = """
    SELECT clock_timestamp() AS now,
        (SELECT count(*) FROM pg_stat_activity
            WHERE datname IS NOT NULL AND coalesce(backend_type, 'client backend') = 'client backend') AS in_use,
        current_setting('max_connections')::int AS size,
        (SELECT count(*) FROM stores WHERE paused_at IS NOT NULL AND deleted_at IS NULL) AS stores_paused"""

_INCIDENTS = (
    "SELECT severity, needs_attention, job, store_id, resources AS units FROM incidents WHERE status = 'open'"
)
_COUNTS = """
    SELECT 'circuits' AS figure, CASE WHEN platform IS NULL THEN 'store' ELSE 'platform' END AS name, count(*) AS number
        FROM circuits WHERE opened_at IS NOT NULL GROUP BY 1, 2
    UNION ALL SELECT 'deliveries', 'pending', count(*) FROM alert_deliveries WHERE status = 'pending'
    UNION ALL SELECT 'deliveries', 'refused', count(*) FROM alerts a JOIN alert_deliveries d ON d.alert_id = a.id
        WHERE a.created_at > :since AND d.status = 'refused'
    UNION ALL SELECT 'corrections', status, count(*) FROM inventory_corrections GROUP BY status
    UNION ALL SELECT 'rejected_rows', resource, count(*) FROM rejected_rows GROUP BY resource
    UNION ALL SELECT 'texts', status, count(*) FROM text_messages WHERE created_at > :since OR status = 'pending' GROUP BY status
    UNION ALL SELECT 'rows_freed', job, sum(rows_freed)::bigint FROM cleaning_results WHERE finished_at > :since GROUP BY job
    UNION ALL SELECT 'bytes_freed', job, sum(bytes_freed)::bigint FROM cleaning_results WHERE finished_at > :since GROUP BY job
    ORDER BY 1, 2"""

_TABLE = """
    SELECT '{table}' AS table, count(*) FILTER (WHERE t.next_due_at <= :now AND NOT leased) AS due,
        coalesce(extract(epoch FROM :now - min(t.next_due_at) FILTER (WHERE t.next_due_at <= :now AND NOT leased)), 0)::float
            AS oldest_seconds,
        count(*) FILTER (WHERE leased) AS running,
        count(*) FILTER (WHERE t.attempts > 0 AND t.next_due_at IS NOT NULL AND NOT leased) AS retrying,
        count(*) FILTER (WHERE t.next_due_at IS NULL AND t.incident_id IS NOT NULL) AS parked
    FROM {table} t {stores} CROSS JOIN LATERAL (SELECT coalesce(t.lease_expires_at > :now, false) AS leased) held
    WHERE {open}"""
# What is of no store, as what Twilio sends, counts as well.
_STORES = "LEFT JOIN stores s ON s.id = t.store_id"
_AT_WORK = "s.paused_at IS NULL AND s.deleted_at IS NULL"
_ORDER = [queue.table for queue in all_queues()]
_TABLES = " UNION ALL ".join(
    _TABLE.format(
        table=queue.table,
        stores=_STORES if queue.has_stores else "",
        open=f"{queue.open} AND {_AT_WORK}" if queue.has_stores else queue.open,
    )
    for queue in all_queues()
    if queue.table != store_units.QUEUE.table
)


def _of_units(now: datetime, units: Units) -> TableMetrics:
    """The same of units of stores, which are counted already."""

    due = (group.first_due_at for group in units.groups if group.flags & Flag.DUE)
    return TableMetrics(
        store_units.QUEUE.table,
        due=count(units.groups, Flag.DUE),
        oldest_seconds=seconds_since(now, due) or 0.0,
        running=count(units.groups, Flag.CLAIMED),
        retrying=count(units.groups, Flag.WAITING),
        parked=count(units.groups, Flag.PARKED),
    )


_AUDITS = """
    SELECT resource, sum(sampled)::bigint AS sampled, sum(different + missing + ahead + gone)::bigint AS drifted,
        sum(repaired)::bigint AS repaired, sum(lag)::bigint AS lag
    FROM audits WHERE audited_at > :since GROUP BY resource ORDER BY resource"""


class _Server(NamedTuple):
    now: datetime
    in_use: int
    size: int
    stores_paused: int
