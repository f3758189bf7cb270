"""`bg-pipelines status` and `metrics`: is anything wrong, what is it, and does it need attention?"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from datetime import datetime

from rich.console import Group as Lines
from rich.console import RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from bg_pipelines.cli.printing import SEVERITY_STYLES, alike, console, one_line, open_migrated, print_json
from bg_pipelines.errors import IntegrationError
from bg_pipelines.operations import metrics, status
from bg_pipelines.operations.daemon_figures import daemon_reader
from bg_pipelines.operations.work_figures import LATE_SECONDS, JobMetrics, QueueMetrics
from bg_pipelines.settings import load_settings
from bg_pipelines.wording import clock, counted, flat, span, spelled, times, visible


def show_status(*, watch: bool, as_json: bool, all_stores: bool) -> None:
    with open_migrated() as database, daemon_reader(load_settings()) as daemon:
        if as_json:
            print_json(status.read_status(database, all_stores=all_stores, daemon=daemon()).as_dict())
        elif watch:
            shown = status_page(status.read_status(database, most_stores=_WORST, daemon=daemon()))
            with Live(shown, console=console, screen=True) as live:
                while True:
                    time.sleep(2)
                    try:
                        shown = status_page(status.read_status(database, most_stores=_WORST, daemon=daemon()))
                    except IntegrationError as error:
                        # What was last known stays, and it is read again.
                        live.update(Lines(one_line((error.message, "bold red")), "", shown))
                    else:
                        live.update(shown)
        else:
            # Not cropped: a file or a pipe gets the full text.
            page = status_page(status.read_status(database, most_stores=_WORST, daemon=daemon()))
            console.print(page, crop=console.is_terminal)


def show_metrics(*, per_store: bool) -> None:
    with open_migrated() as database, daemon_reader(load_settings()) as daemon:
        from bg_pipelines.operations.prometheus import read_prometheus

        sys.stdout.write(visible(read_prometheus(database, daemon(), stores=per_store)))


_LONG = 20
"""Lines of one kind that `status` shows; `--json` has all."""
_WORST = 5
"""Of those that are late; `--json` has all."""


def status_page(state: status.Status) -> Lines:
    page: list[RenderableType] = []
    now = state.metrics.at
    waits = any(incident.needs_attention for incident in state.incidents)
    well = not state.incidents and state.metrics.stores_current == state.metrics.stores_total
    verdict = one_line((state.verdict, "bold red" if waits else "bold green" if well else "bold yellow"))
    trouble = [one_line((state.trouble, "bold red"))] if state.trouble else []
    for line in (*trouble, verdict):
        line.no_wrap = not console.is_terminal  # the lines that are never cut
        page.append(line)

    if any(line.stores for line in state.metrics.freshness):
        page.extend(["", _freshness_table(state.metrics)])

    def block(lines: list[Text], more: str = "") -> None:
        if not lines:
            return
        page.extend(["", *(lines[:_LONG] if more else lines)])
        if more and len(lines) > _LONG:
            page.append(one_line(f"and {len(lines) - _LONG} more {more}"))

    block([_incident_line(same[0], now, same) for same in alike(state.incidents)], "kinds of incidents")
    if any(job.stores for job in state.metrics.jobs):
        page.append("")
        page.append(_jobs_table(state.metrics, narrow=console.width < 100))
    number_late = sum(job.late for job in state.metrics.jobs)
    late = [line for line in state.metrics.stores if not line.current and line.behind_seconds >= LATE_SECONDS]
    block(
        [
            one_line(
                ("late  ", "yellow"),
                f"{line.store}  {line.job}  {spelled(line.behind_seconds)} behind",
            )
            for line in late[:_WORST]
        ]
        + ([one_line(f"and {number_late - _WORST} more late")] if number_late > _WORST else [])
    )
    block(
        [
            one_line(
                ("circuit open  ", "yellow"),
                f"{circuit.subject} since {clock(circuit.opened_at, now)}, {times(circuit.failures)} failed, ",
                f"next probe {circuit.next_probe_at:%H:%M:%S}" if circuit.next_probe_at else "no probe yet",
            )
            for circuit in state.circuits
        ],
        "circuits",
    )
    block([one_line(("backfill  ", "cyan"), one.sentence) for one in state.backfills], "backfills")
    block([_retry_line(failing) for failing in state.retrying], "that are retried")
    block([_run_line(run, now) for run in state.runs], "runs")
    block([_alerts_line(alerts, now) for alerts in state.alerts], "alert targets")
    pool = state.metrics.connections
    of_runs = f"{pool.in_use} of {pool.size} in runs, " if pool.size else ""
    others = f" and {len(state.paused) - _LONG} more" if len(state.paused) > _LONG else ""
    memory = [
        f"{run.job} {run.peak_memory_bytes / 2**20:.0f} MB"
        for run in state.metrics.runs
        if run.peak_memory_bytes
    ]
    facts = {
        "rejected rows": _listed(state.metrics.rejected_rows),
        "stock corrections": _listed(state.metrics.corrections),
        **{f"work in {table.table}": _table_line(table) for table in state.metrics.tables},
        "turned off in Dagster": ", ".join(state.daemon.turned_off) if state.daemon else "",
        "paused": ", ".join(state.paused[:_LONG]) + others,
        "connections": f"{of_runs}{pool.server_in_use} of {pool.server_size} in the server",
        "peak memory of a run": ", ".join(memory),
    }
    block([one_line(f"{name}: {fact}") for name, fact in facts.items() if fact])
    return Lines(*page)


def _freshness_table(figures: metrics.Metrics) -> Table:
    """A line for each resource: how old what is known of it is, and how late its changes come."""
    table = Table(box=None, header_style="bold", pad_edge=False, collapse_padding=True)
    table.add_column("freshness", overflow="ellipsis")
    for name in ("age p50", "p99", "change to commit p50", "p99", "changes in 24 h"):
        table.add_column(name, justify="right", no_wrap=True)
    for line in figures.freshness:
        if line.tier is None:
            spans = (line.age_p50_seconds, line.age_p99_seconds, line.lag_p50_seconds, line.lag_p99_seconds)
            table.add_row(line.resource, *map(span, spans), f"{line.changes:,}" if line.changes else "")
    return table


def _jobs_table(figures: metrics.Metrics, *, narrow: bool) -> Table:
    """A line for each queue that has work, and for each of its jobs."""
    table = Table(box=None, header_style="bold", pad_edge=False, collapse_padding=True)
    # The one column that a terminal may cut: a job is known by the beginning of its name.
    table.add_column("queue, job", overflow="ellipsis")
    names = "stores current due oldest running retries parked incidents p50 p95 success behind"
    if narrow:
        names = "stores current due run retry parked p50/p95 success behind"
    for name in names.split():
        table.add_column(name, justify="right", no_wrap=True)

    def add(title: str, counts: list[int], work: QueueMetrics | JobMetrics, style: str) -> None:
        spans = [span(work.p50_seconds), span(work.p95_seconds)]
        cells = [title, *(map(str, counts) if counts else ("", "")), str(work.size)]
        cells += [] if narrow else [span(work.oldest_seconds) if work.size else ""]
        cells += map(str, (work.running, work.retries_waiting, work.parked))
        cells += [] if narrow else [str(work.open_incidents)]
        cells += ["/".join(filter(None, spans))] if narrow else spans
        cells += ["" if work.success_rate is None else f"{work.success_rate * 100:.3g}%"]
        table.add_row(*cells, span(work.behind_seconds), style=style)

    for queue in figures.queues:
        jobs = [job for job in figures.jobs if job.queue == queue.queue and job.stores]
        if jobs:
            add(queue.queue, [], queue, "bold")
        for job in jobs:
            style = "red" if job.parked else "yellow" if job.current < job.stores else ""
            add(f"  {job.job}", [job.stores, job.current], job, style)
    return table


def _incident_line(
    incident: status.OpenIncident, now: datetime, same: Sequence[status.OpenIncident] = ()
) -> Text:
    style = SEVERITY_STYLES.get(incident.severity, "")
    others = f" and {len(same) - 1:,} alike" if len(same) > 1 else ""
    return one_line(
        f"#{incident.id}{others} ",
        (incident.severity, style),
        "  ",
        (incident.subject, "bold"),
        "  ",
        (incident.error_type, style),
        f"  since {clock(incident.opened_at, now)}, {times(incident.occurrences)}, ",
        "needs attention" if incident.needs_attention else "retried automatically",
        f" ({incident.owner})" if incident.owner else "",
        f"  {_some(incident.resources)}{flat(incident.message)}",
    )


def _retry_line(failing: status.FailingStore) -> Text:
    again = "retrying now" if failing.running else f"next attempt {failing.next_try_at:%H:%M:%S}"
    return one_line(
        (failing.store, "bold"),
        "  ",
        (failing.error_type, "yellow"),
        f"  attempt {failing.failures} failed, {again}  {_some(failing.resources)}{flat(failing.message)}",
    )


def _some(units: list[str]) -> str:
    """What a message is about, where that is not the whole store."""
    return f"{', '.join(units)}: " if len(units) in (1, 2) else ""


def _run_line(run: status.RunStatus, now: datetime) -> Text:
    state = "" if run.alive else f", died: no heartbeat since {clock(run.seen_at, now)}"
    memory = f", {run.peak_rss_mb:.0f} MB" if run.peak_rss_mb else ""
    pool = f", {run.connections_in_use} of {run.connections_size} connections" if run.connections_size else ""
    return one_line(
        ("run  ", "" if run.alive else "red"),
        f"{run.run_id[:8]}  {run.job} since {clock(run.started_at, now)}{state}, {counted(run.stores, 'store')} done, ",
        f"{run.stores_failed} failed{memory}{pool}",
    )


def _alerts_line(alerts: status.UndeliveredAlerts, now: datetime) -> Text:
    pending = f"{alerts.pending} undelivered, " if alerts.pending else ""
    refused = f"{alerts.refused} refused, " if alerts.refused else ""
    since = f"since {clock(alerts.oldest_at, now)}"
    return one_line(
        ("alerts  ", "red"),
        f"{alerts.target}: {pending}{refused}{since}" + (f": {flat(alerts.error)}" if alerts.error else ""),
    )


def _table_line(table: metrics.TableMetrics) -> str:
    """Of a table that nothing above tells of: where its work is late, fails or is parked."""
    if table.table == "sync_states":
        return ""
    overdue = table.oldest_seconds if table.oldest_seconds >= 60 else None
    counts = _listed({"due": table.due if overdue else 0, "retrying": table.retrying, "parked": table.parked})
    return counts + (f", the first for {span(overdue)}" if overdue else "")


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in counts.items() if number)
