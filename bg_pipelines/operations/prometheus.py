"""The figures as Prometheus text: names, meanings and labels; the figures themselves are those of `metrics`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from bg_pipelines.operations.freshness_figures import Freshness
from bg_pipelines.operations.metrics import Metrics
from bg_pipelines.work.rollups import LAGS


def prometheus_text(metrics: Metrics, *, stores: bool = True) -> str:
    """All figures; without `stores`, none that has a store's label."""
    registry = CollectorRegistry()
    registry.register(_Families(list(_families(metrics, stores))))
    return generate_latest(registry).decode()


class _Families(Collector):
    def __init__(self, families: Sequence[Metric]) -> None:
        self.families = families

    def collect(self) -> Sequence[Metric]:
        return self.families


_WORK = {
    "size": ("due", "Stores of a job that are due and unclaimed."),
    "oldest_seconds": ("oldest_due_seconds", "Since when the first of these is due."),
    "running": ("running", "Stores of a job that a run has claimed."),
    "retries_waiting": (
        "retries_waiting",
        "Stores of a job that failed and are retried automatically.",
    ),
    "parked": ("parked", "Stores of a job that are parked under an incident."),
    "parked_seconds": ("parked_seconds", "Since when the first of these is parked."),
    "behind_seconds": ("behind_seconds", "By how much the most overdue store is overdue, claimed or not."),
    "age_seconds": ("age_seconds", "Since when the unit that has waited longest has not succeeded."),
    "open_incidents": ("open_incidents", "Open incidents that are about it."),
}
_RATES = {
    "p50_seconds": ("duration_p50_seconds", "Median duration of the attempts that succeeded."),
    "p95_seconds": ("duration_p95_seconds", "95th percentile of the duration of attempts that succeeded."),
    "success_rate": ("success_ratio", "Share of the attempts of the window that succeeded."),
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
    yield from _freshness(metrics.freshness)
    for field, name, meaning in (
        ("due", "work_due", "Rows of claimed work that are due and unclaimed."),
        ("oldest_seconds", "work_oldest_due_seconds", "Since when the first of these is due."),
        ("running", "work_running", "Claimed rows."),
        ("retrying", "work_retrying", "Rows that failed and are retried automatically."),
        ("parked", "work_parked", "Rows that are parked under an incident."),
    ):
        yield _gauge(name, meaning, ("table",), metrics.tables, field)
    per_job = ("job", "queue")
    yield _gauge("job_stores", "Stores of the job, paused ones left out.", per_job, metrics.jobs, "stores")
    yield _gauge("job_stores_current", "Stores that are current in it.", per_job, metrics.jobs, "current")
    for field, name, meaning in (
        ("at_work", "run_at_work", "Runs at work."),
        ("dead", "run_dead", "Runs that died, and no later run of the job has succeeded yet."),
        ("p50_seconds", "run_duration_p50_seconds", "Median duration of the runs that succeeded."),
        (
            "p95_seconds",
            "run_duration_p95_seconds",
            "95th percentile of the duration of runs that succeeded.",
        ),
        ("success_rate", "run_success_ratio", "Share of the runs of the window that succeeded."),
        ("peak_memory_bytes", "run_peak_memory_bytes", "Peak memory of any run of the window."),
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
        "bg_pipelines_run_last_success_timestamp_seconds", "When a run last succeeded.", labels=per_job
    )
    for run in ended:
        assert run.last_succeeded_at is not None
        family.add_metric([run.job, run.queue], run.last_succeeded_at.timestamp())
    yield family
    for name, meaning, value in (
        ("stores", "Stores, paused ones left out.", metrics.stores_total),
        ("stores_current", "Stores that are current in every job.", metrics.stores_current),
        ("stores_paused", "Stores that a person has paused.", metrics.stores_paused),
        ("database_connections_in_use", "The server's connections.", metrics.connections.server_in_use),
        ("database_connections_size", "How many it allows.", metrics.connections.server_size),
    ):
        yield GaugeMetricFamily(f"bg_pipelines_{name}", meaning, value=value)
    for field, meaning in (
        ("sampled", "Rows that were compared with their source."),
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
        ("circuits_open", "scope", "Open circuits.", metrics.circuits),
        (
            "alert_deliveries",
            "status",
            "Alerts not delivered yet, and those permanently refused.",
            metrics.deliveries,
        ),
        ("stock_corrections", "status", "Stock corrections.", metrics.corrections),
        ("rejected_rows", "resource", "Rows that could not be loaded.", metrics.rejected_rows),
    ):
        family = GaugeMetricFamily(f"bg_pipelines_{name}", meaning, labels=(label,))
        for key, number in counts.items():
            family.add_metric([key], number)
        yield family


def _freshness(lines: Sequence[Freshness]) -> Iterator[Metric]:
    """Histograms by resource and tier, never by store: those are thousands."""
    known = HistogramMetricFamily(
        "bg_pipelines_known_age_seconds",
        "How long ago the stores' table was last read to the end.",
        labels=("resource", "tier"),
    )
    change = HistogramMetricFamily(
        "bg_pipelines_change_lag_seconds",
        "Of the changes of the window, the time from the change at the source to our commit.",
        labels=("resource", "tier"),
    )
    never = GaugeMetricFamily(
        "bg_pipelines_never_known",
        "Stores whose table was never read to the end.",
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
