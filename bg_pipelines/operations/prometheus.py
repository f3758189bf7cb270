"""The figures as Prometheus text: names, meanings and labels; the figures themselves are those of `metrics`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from bg_pipelines.database.engine import Database
from bg_pipelines.operations.daemon_figures import Daemon
from bg_pipelines.operations.freshness_figures import Freshness
from bg_pipelines.operations.metrics import Metrics, read_metrics
from bg_pipelines.work.rollups import LAGS


def prometheus_text(metrics: Metrics, *, daemon: Daemon | None = None, stores: bool = True) -> str:
    """All figures, those of `daemon` with it; without `stores`, none that has a store's label."""
    registry = CollectorRegistry()
    registry.register(_Families([*_families(metrics, stores), *_of_daemon(daemon)]))
    return generate_latest(registry).decode()


def read_prometheus(database: Database, daemon: Daemon | None, *, stores: bool = False) -> str:
    """All figures as they are now. Raises IntegrationError (database)."""
    metrics = read_metrics(database, all_stores=stores, most_stores=None if stores else 0)
    return prometheus_text(metrics, daemon=daemon, stores=stores)


class _Families(Collector):
    def __init__(self, families: Sequence[Metric]) -> None:
        self.families = families

    def collect(self) -> Sequence[Metric]:
        return self.families


_WORK = {
    "size": ("due", "Stores of a job that are due and that no run is at: the size of the queue."),
    "oldest_seconds": ("oldest_due_seconds", "How long the oldest of these has been due."),
    "running": ("running", "Stores of a job that a run is at."),
    "retries_waiting": (
        "retries_waiting",
        "Stores of a job that failed and are retried automatically.",
    ),
    "parked": ("parked", "Stores of a job that are parked under an incident."),
    "parked_seconds": ("parked_seconds", "How long the first of these has been parked."),
    "behind_seconds": (
        "behind_seconds",
        "By how much the most overdue store is overdue, whether a run is at it or not; parked work is not late.",
    ),
    "age_seconds": ("age_seconds", "How long ago the unit that has waited longest last succeeded."),
    "open_incidents": (
        "open_incidents",
        "Open incidents that are about it; one of a vendor is about every job.",
    ),
}
_RATES = {
    "p50_seconds": (
        "duration_p50_seconds",
        "Median duration of the attempts of the last 24 hours that succeeded.",
    ),
    "p95_seconds": (
        "duration_p95_seconds",
        "95th percentile of the duration of attempts of the last 24 hours that succeeded.",
    ),
    "success_rate": ("success_ratio", "Share of the attempts that ended in the last 24 hours and succeeded."),
}
_MOSTLY_ZERO = {
    "size",
    "oldest_seconds",
    "running",
    "retries_waiting",
    "parked",
    "parked_seconds",
    "open_incidents",
}
"""Of a store these are left out where they are zero: of thousands of stores nearly all are."""


def _families(metrics: Metrics, stores: bool) -> Iterator[Metric]:
    for level, labels, lines in (
        ("queue", ("queue",), metrics.queues),
        ("job", ("job", "queue"), metrics.jobs),
        ("store", ("store", "platform", "job"), metrics.stores if stores else ()),
    ):
        for field, (name, meaning) in (_WORK if level == "store" else _WORK | _RATES).items():
            sparse = level == "store" and field in _MOSTLY_ZERO
            shown = [line for line in lines if getattr(line, field)] if sparse else lines
            yield _gauge(f"{level}_{name}", meaning, labels, shown, field)
    yield _gauge(
        "queue_time_to_empty_seconds",
        "How long what is due in the queue takes at the pace of the last five minutes.",
        ("queue",),
        metrics.queues,
        "seconds_to_empty",
    )
    yield from _freshness(metrics.freshness)
    for field, name, meaning in (
        ("due", "work_due", "Rows of claimed work that are due and unclaimed."),
        ("oldest_seconds", "work_oldest_due_seconds", "How long the oldest of these has been due."),
        ("running", "work_running", "Claimed rows."),
        ("retrying", "work_retrying", "Rows that failed and are retried automatically."),
        ("parked", "work_parked", "Rows that are parked under an incident."),
    ):
        yield _gauge(name, meaning, ("table",), metrics.tables, field)
    per_job = ("job", "queue")
    yield _gauge("job_stores", "Stores of the job, paused ones left out.", per_job, metrics.jobs, "stores")
    yield _gauge("job_stores_current", "Stores that are up to date in it.", per_job, metrics.jobs, "current")
    for field, name, meaning in (
        ("at_work", "run_at_work", "Runs at work, by their heartbeat."),
        (
            "dead",
            "run_dead",
            "Runs without a heartbeat for 35 seconds, while no later run of the job has succeeded.",
        ),
        (
            "p50_seconds",
            "run_duration_p50_seconds",
            "Median duration of the runs of the last 24 hours that succeeded.",
        ),
        (
            "p95_seconds",
            "run_duration_p95_seconds",
            "95th percentile of the duration of runs of the last 24 hours that succeeded.",
        ),
        (
            "success_rate",
            "run_success_ratio",
            "Share of the runs of the last 24 hours that succeeded; one fails only if its job could not work at all.",
        ),
        ("peak_memory_bytes", "run_peak_memory_bytes", "Peak memory of any run of the last 24 hours."),
        ("connections_in_use", "run_connections_in_use", "The most connections of runs at work."),
        (
            "connections_size",
            "run_connections_size",
            "How many connections the pools of runs at work may open.",
        ),
    ):
        yield _gauge(name, meaning, per_job, metrics.runs, field)
    ended = [run for run in metrics.runs if run.last_succeeded_at]
    family = GaugeMetricFamily(
        "bg_pipelines_run_last_success_timestamp_seconds",
        "When a run last succeeded; absent after a day.",
        labels=per_job,
    )
    for run in ended:
        assert run.last_succeeded_at is not None
        family.add_metric([run.job, run.queue], run.last_succeeded_at.timestamp())
    yield family
    for name, meaning, value in (
        ("stores", "Stores, paused ones left out.", metrics.stores_total),
        ("stores_current", "Stores that are up to date in every job.", metrics.stores_current),
        ("stores_paused", "Stores that a person has paused.", metrics.stores_paused),
        (
            "database_connections_in_use",
            "Connections to the database server, of all clients.",
            metrics.connections.server_in_use,
        ),
        (
            "database_connections_size",
            "Connections that the database server allows.",
            metrics.connections.server_size,
        ),
    ):
        yield GaugeMetricFamily(f"bg_pipelines_{name}", meaning, value=value)
    for field, meaning in (
        ("sampled", "Rows that audits of the last 24 hours compared with their source."),
        ("drifted", "Of these, rows that differed, or were missing here or deleted there."),
        ("repaired", "Of those, rows that match the source now."),
        ("lag", "Of the compared rows, those that had not been synced yet."),
    ):
        yield _gauge(f"audit_rows_{field}", meaning, ("resource",), metrics.audits, field)
    incidents = GaugeMetricFamily(
        "bg_pipelines_incidents_open", "Open incidents.", labels=("severity", "needs_attention")
    )
    for kind in metrics.incidents:
        incidents.add_metric([kind.severity, str(kind.needs_attention).lower()], kind.open)
    yield incidents
    for name, label, meaning, counts in (
        ("circuits_open", "scope", "Vendors and stores that only probes call.", metrics.circuits),
        (
            "alert_deliveries",
            "status",
            "Alerts not delivered yet, and those permanently refused in the last 24 hours.",
            metrics.deliveries,
        ),
        ("stock_corrections", "status", "Stock corrections.", metrics.corrections),
        ("rejected_rows", "resource", "Rows of sources that could not be loaded.", metrics.rejected_rows),
        (
            "text_messages",
            "status",
            "Text messages: those that are pending, and the others of the last 24 hours.",
            metrics.texts,
        ),
        (
            "cleaning_freed_rows",
            "job",
            "Rows that cleaning deleted in the last 24 hours.",
            metrics.rows_freed,
        ),
        (
            "cleaning_freed_bytes",
            "job",
            "Size of the rows that cleaning deleted in the last 24 hours.",
            metrics.bytes_freed,
        ),
    ):
        family = GaugeMetricFamily(f"bg_pipelines_{name}", meaning, labels=(label,))
        for key, number in counts.items():
            family.add_metric([key], number)
        yield family


def _of_daemon(daemon: Daemon | None) -> Iterator[Metric]:
    """Whether anything is started at all; the rest of what Dagster does is its own exporter's (docs/monitoring.md)."""
    if daemon is None:
        return
    if daemon.seen_at is not None:
        yield GaugeMetricFamily(
            "bg_pipelines_daemon_heartbeat_timestamp_seconds",
            "When Dagster's daemon was last seen alive; absent if it never ran.",
            value=daemon.seen_at.timestamp(),
        )
    yield GaugeMetricFamily(
        "bg_pipelines_daemon_ticks_stopped",
        "Schedules and sensors that are turned on and do not tick although the daemon lives.",
        value=len(daemon.stopped),
    )
    yield GaugeMetricFamily(
        "bg_pipelines_daemon_ticks_turned_off",
        "Schedules and sensors that a person has turned off.",
        value=len(daemon.turned_off),
    )


def _freshness(lines: Sequence[Freshness]) -> Iterator[Metric]:
    """Histograms by resource and tier, never by store: those are thousands."""
    known = HistogramMetricFamily(
        "bg_pipelines_known_age_seconds",
        "Stores by how long ago their table was last read to its end.",
        labels=("resource", "tier"),
    )
    change = HistogramMetricFamily(
        "bg_pipelines_change_lag_seconds",
        "Changed rows of the last 24 hours by the time from the change at the source to our commit.",
        labels=("resource", "tier"),
    )
    never = GaugeMetricFamily(
        "bg_pipelines_never_known",
        "Stores whose table was never read to its end.",
        labels=("resource", "tier"),
    )
    for line in lines:
        if line.tier is None:
            continue
        labels = [line.resource, str(line.tier)]
        known.add_metric(labels, _buckets(line.ages), sum_value=None)
        change.add_metric(labels, _buckets(line.lags), sum_value=line.lag_seconds)
        never.add_metric(labels, line.never)
    yield from (known, change, never)


def _buckets(counts: Sequence[int]) -> list[tuple[str, float]]:
    """Added up, as Prometheus has them."""
    return [(str(bound), total) for bound, total in zip((*LAGS, "+Inf"), accumulate(counts), strict=True)]


def _gauge(name: str, meaning: str, labels: Sequence[str], lines: Sequence[Any], field: str) -> Metric:
    """A figure of each line; where there is none (nothing succeeded yet), no sample."""
    family = GaugeMetricFamily(f"bg_pipelines_{name}", meaning, labels=labels)
    for line in lines:
        value = getattr(line, field)
        if value is not None:
            family.add_metric([getattr(line, label) for label in labels], value)
    return family
