"""What `bg-pipelines status` shows of the figures: the page, and its lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from rich.console import Console, RenderableType
from rich.console import Group as Lines
from rich.table import Table
from rich.text import Text

from bg_pipelines.cli.printing import SEVERITY_STYLES, alike, one_line
from bg_pipelines.operations import metrics, status
from bg_pipelines.operations.daemon_figures import Daemon
from bg_pipelines.operations.trends import Trend
from bg_pipelines.operations.units import LATE_SECONDS
from bg_pipelines.operations.work_figures import JobMetrics, QueueMetrics
from bg_pipelines.wording import clock, counted, flat, span, spelled, times

LONG = 20
"""Lines of one kind that `status` shows; `--json` has all."""
WORST = 5
"""Of those that are late; `--json` has all."""


Failing = list[status.OpenIncident] | status.FailingStore
"""What a person can do something about: an incident with those that say the same, or a store that is retried."""


def failing(state: status.Status) -> list[Failing]:
    """Those that the page has a line for, in its order."""
    return [*alike(state.incidents)[:LONG], *state.retrying[:LONG]]


def status_page(
    state: status.Status,
    trends: Mapping[str, Trend],
    console: Console,
    *,
    chosen: Failing | None = None,
    below: Sequence[Text] = (),
) -> Lines:
    """The page. `chosen` is marked; the lines `below` stand under the verdict."""
    page: list[RenderableType] = []
    now = state.metrics.at

    def marked(line: Text, one: Failing) -> Text:
        if one == chosen:
            line.stylize("reverse")
        return line

    waits = any(incident.needs_attention for incident in state.incidents)
    verdict = one_line(
        (state.verdict, "bold red" if waits else "bold green" if state.is_well else "bold yellow")
    )
    trouble = [one_line((state.trouble, "bold red"))] if state.trouble else []
    for line in (*trouble, verdict):
        line.no_wrap = not console.is_terminal  # the lines that are never cut
        page.append(line)
    page.extend(below)

    if any(line.stores for line in state.metrics.freshness):
        page.extend(["", _freshness_table(state.metrics)])

    def block(lines: list[Text], more: str = "") -> None:
        if not lines:
            return
        page.extend(["", *(lines[:LONG] if more else lines)])
        if more and len(lines) > LONG:
            page.append(one_line(f"and {len(lines) - LONG} more {more}"))

    block(
        [marked(_incident_line(same, now), same) for same in alike(state.incidents)],
        "kinds of incidents",
    )
    if any(job.stores for job in state.metrics.jobs):
        page.append("")
        page.append(_jobs_table(state.metrics, narrow=console.width < 100))
    block(_trend_lines(state.metrics, trends))
    number_late = sum(job.late for job in state.metrics.jobs)
    late = [line for line in state.metrics.stores if not line.current and line.behind_seconds >= LATE_SECONDS]
    block(
        [
            one_line(
                ("late  ", "yellow"),
                f"{line.store}  {line.job}  {spelled(line.behind_seconds)} behind",
            )
            for line in late[:WORST]
        ]
        + ([one_line(f"and {number_late - WORST} more late")] if number_late > WORST else [])
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
    block([marked(_retry_line(one), one) for one in state.retrying], "that are retried")
    block([line for run in state.runs for line in _run_lines(run, now)], "lines of runs")
    block([_alerts_line(alerts, now) for alerts in state.alerts], "alert targets")
    pool = state.metrics.connections
    of_runs = f"{pool.in_use} of {pool.size} in runs, " if pool.size else ""
    others = f" and {len(state.paused) - LONG} more" if len(state.paused) > LONG else ""
    memory = [
        f"{run.job} {run.peak_memory_bytes / 2**20:.0f} MB"
        for run in state.metrics.runs
        if run.peak_memory_bytes
    ]
    facts = {
        "rejected rows": _listed(state.metrics.rejected_rows),
        "stock corrections": _listed(state.metrics.corrections),
        **{f"work in {table.table}": _table_line(table) for table in state.metrics.tables},
        "daemon": _daemon_line(state.daemon, now),
        "turned off in Dagster": ", ".join(state.daemon.turned_off) if state.daemon else "",
        "paused": ", ".join(state.paused[:LONG]) + others,
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


def _incident_line(same: Sequence[status.OpenIncident], now: datetime) -> Text:
    incident = same[0]
    waiting, stores = sum(one.waiting for one in same), sum(one.waiting_stores for one in same)
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
        _waits(waiting, stores),
        f"  {_about(incident.resources, incident.message)}",
    )


def _waits(units: int, stores: int) -> str:
    """What waits behind an incident."""
    of = f" of {counted(stores, 'store')}" if stores > 1 else ""
    return f", {counted(units, 'unit')}{of} waiting" if units else ""


def _retry_line(failing: status.FailingStore) -> Text:
    again = "retrying now" if failing.running else f"next attempt {failing.next_try_at:%H:%M:%S}"
    return one_line(
        (failing.store, "bold"),
        "  ",
        (failing.error_type, "yellow"),
        f"  attempt {failing.failures} failed, {again}  {_about(failing.resources, failing.message)}",
    )


def _about(units: list[str], message: str) -> str:
    """A message, and before it what it is about, where that is not the whole store and it does not say so itself."""
    about = f"{', '.join(units)}: " if len(units) in (1, 2) else ""
    return flat(message if message.startswith(about) else about + message)


def _run_lines(run: status.RunStatus, now: datetime) -> list[Text]:
    """Who works on what: a run, and below it what it has had in hand for longest."""
    state = "" if run.alive else f", died: no heartbeat since {clock(run.seen_at, now)}"
    host = f" on {run.host}" if run.host else ""
    memory = f", {run.peak_rss_mb:.0f} MB" if run.peak_rss_mb else ""
    pool = f", {run.connections_in_use} of {run.connections_size} connections" if run.connections_size else ""
    in_hand = f", {counted(run.units, 'unit')} in hand" if run.units else ""
    first = one_line(
        ("run  ", "" if run.alive else "red"),
        f"{run.run_id[:8]}  {run.job}{host} since {clock(run.started_at, now)}{state}, {counted(run.stores, 'store')} done, ",
        f"{run.stores_failed} failed{in_hand}{memory}{pool}",
    )
    return [first, *(_visit_line(visit, now) for visit in run.visits)]


def _visit_line(visit: status.Visit, now: datetime) -> Text:
    since = f" since {clock(visit.since, now)}" if visit.since else ""
    rows = f", {counted(visit.rows, 'row')}" if visit.rows else ""
    return one_line("       ", (visit.store, "bold"), f"  {visit.resource}{since}{rows}")


def _daemon_line(daemon: Daemon | None, now: datetime) -> str:
    """When it was heard of, and what it does next."""
    if daemon is None or daemon.silent_seconds is None:
        return ""
    coming = min(
        (tick for tick in daemon.ticks if tick.next_at and tick.kind == "schedule"),
        key=lambda tick: tick.next_at or now,
        default=None,
    )
    then = f", next tick {coming.name} {coming.next_at:%H:%M}" if coming and daemon.is_alive else ""
    return f"last heartbeat {span(daemon.silent_seconds) or '0'} ago{then}"


_BARS = "▁▂▃▄▅▆▇█"
_POINTS = 24


def sparkline(values: Sequence[float | None]) -> str:
    """Values as bars of a text's height, the highest of each few; a dot where nobody looked."""
    size = max(1, len(values) // _POINTS)
    few = [values[start : start + size] for start in range(0, len(values), size)][-_POINTS:]
    highest = [max((one for one in part if one is not None), default=None) for part in few]
    top = max((one for one in highest if one is not None), default=0.0)
    return "".join(
        "·" if one is None else _BARS[round((len(_BARS) - 1) * one / top)] if top else _BARS[0]
        for one in highest
    )


def _trend_lines(figures: metrics.Metrics, trends: Mapping[str, Trend]) -> list[Text]:
    """How the size of each queue, and what is wrong, went in the last hour and the last day; nothing without a watchdog."""
    shown = {
        "incidents": ("incidents", ""),
        "stores.behind": ("stores behind", ""),
        "retries": ("retrying", ""),
    }
    for queue in figures.queues:
        pace = f", {counted(round(queue.per_minute), 'store')} a minute" if round(queue.per_minute) else ""
        empty = f", empty in {span(queue.seconds_to_empty)}" if queue.size and queue.seconds_to_empty else ""
        shown[f"queue.{queue.queue}.size"] = (queue.queue, f"{pace}{empty}".removeprefix(", "))
    lines = []
    for name, (title, more) in shown.items():
        trend = trends.get(name)
        known = [value for value in trend.day if value is not None] if trend else []
        if trend is None or not (any(known) or more):
            continue
        lines.append(
            one_line(
                f"{title:<14}",
                ("hour ", "dim"),
                sparkline(trend.hour),
                ("  day ", "dim"),
                f"{sparkline(trend.day)}  at most {max(known):.0f}" + (f"  {more}" if more else ""),
            )
        )
    return lines


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
