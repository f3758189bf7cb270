"""Many stores, each due every five minutes for all three sync jobs, and almost all of them with nothing new.

    python -m benchmarks fleet --stores 10000 --minutes 60  # a daemon with its schedules: who is on time
    python -m benchmarks fleet --direct --stores 1000       # no daemon, the costs of a visit in a minute or two
    python -m benchmarks fleet --day --stores 1000          # what a day in which nothing changes leaves in the databases

A visit is one store in one job. In 1 % of the stores one variant, stock level, customer and order changes each turn.
The vendor (harness/fleet_vendor.py) speaks TLS and gzip, each store has an address of its own, and an answer comes after
100 ms; its processor time is apart, for it shares the machine.

    stores_on_time          share of the stores that at no moment were 6 minutes or more behind: in each of their jobs the last
                            success was never longer ago
    freshness               from a change at the vendor to the commit of its row
    cpu_ms_a_visit          of the processes that run jobs, their start included, and of PostgreSQL
    standing_cpu_share      of one processor, with daemon and code server up and nothing due; PostgreSQL's part of it apart
    visit_cpu_ms            cpu_ms_a_visit without what PostgreSQL uses when nothing is due: what the visits add
    transactions_a_visit    of the application's database, all of them: the claiming, the reports, the vacuum
    wal_bytes_a_visit       of the whole server, Dagster's database included, the checkpoints as they come
    left_mb_a_day           by a fleet in which nothing changes: each store's full pass and audit of a day, and what a run leaves in
                            Dagster's database times the runs of a day; both written anew without free space before and after
    naive_ratio             how many times the stores that a Dagster run for each store can carry

Beside it the layouts that one writes first (harness/fleet_layouts.py), with the same visit: a Dagster run for each store, and
a Celery task for each store.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import psycopg
from rich.console import Console
from rich.table import Table

from benchmarks.harness.fleet import (
    DAGSTER,
    JOBS,
    PROJECT,
    TURN_SECONDS,
    UNITS,
    Costs,
    Fleet,
    fleet,
    tree_seconds,
)
from benchmarks.harness.fleet_layouts import Layout, run_for_each_store, task_for_each_store
from benchmarks.harness.machine import description, libpq
from bg_pipelines.machine import code_server
from bg_pipelines.machine.processes import child
from bg_pipelines.queues import JOB_UNITS

STORES, MINUTES = 10_000, 60.0
SMALL = 50
CHANGED = 0.01
LATE_SECONDS = 360.0
LOOK_SECONDS = 15.0
START_SECONDS = 20.0
"""How long before a tick the daemon is started."""
SETTLING_SECONDS, STANDING_SECONDS = 60.0, 90.0
RUNS_AN_HOUR = 38
"""As an hour with a daemon has them, measured."""
NAIVE_RUNS, TASKS = 40, 1_000
SMALL_NAIVE_RUNS = 6


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--stores", type=int, help=f"how many: {STORES:,}, or {SMALL} with --small")
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"of the daemon: {MINUTES:.0f}")
    parser.add_argument("--direct", action="store_true", help="no daemon: one run after another")
    parser.add_argument(
        "--day", action="store_true", help="no daemon: what a day in which nothing changes leaves"
    )
    parser.add_argument("--alone", action="store_true", help="without the other layouts")


def run(
    console: Console,
    *,
    small: bool,
    stores: int | None = None,
    minutes: float = MINUTES,
    direct: bool = False,
    day: bool = False,
    alone: bool = False,
) -> dict[str, Any]:
    number = stores or (SMALL if small else STORES)
    with ExitStack() as stack:
        with console.status(f"making {number:,} stores"):
            made = stack.enter_context(fleet(number))
        if day:
            return {"stores": number, **_day(console, made), "machine": description()}
        figures = _direct(console, made) if direct or small else _whole(console, made, minutes)
        if not alone:
            figures |= _others(console, made, figures["stores_carried"], small=small)
    return {"stores": number, **figures, "machine": description()}


# A daemon with its schedules


class Visits:
    """When each store was last visited by each job, and by how much each was ever behind."""

    def __init__(self, made: Fleet) -> None:
        self.made = made
        self.last: dict[tuple[int, str], float] = {}
        self.worst: dict[int, float] = {}
        self.late_seconds = 0.0
        self.count = 0
        self.look()
        self.count = 0

    def look(self, *, end: bool = False) -> None:
        for job in JOBS:
            rows = self.made.execute(
                "SELECT store_id, min(extract(epoch FROM last_succeeded_at))::float8 FROM sync_states "
                "WHERE resource = ANY(%s) GROUP BY 1",
                list(JOB_UNITS[job]),
            )
            now = time.time()
            for store, at in rows:
                before = self.last.setdefault((store, job), at)
                behind = (now if end and at == before else at) - before
                if behind > 0:
                    self.last[store, job] = at
                    self.count += at != before
                    self.worst[store] = max(self.worst.get(store, 0.0), behind)
                    self.late_seconds += max(0.0, behind - LATE_SECONDS)

    @property
    def on_time(self) -> float:
        return sum(worst < LATE_SECONDS for worst in self.worst.values()) / self.made.stores


def _whole(console: Console, made: Fleet, minutes: float) -> dict[str, Any]:
    """The daemon and its schedules over `minutes`; changes come one after the other all the time.

    It begins as a turn does, with the daemon started in time for the tick that all stores are due at.
    """
    seconds = minutes * 60
    standing = _standing(console, made)
    time.sleep((-time.time() - START_SECONDS) % TURN_SECONDS)
    made.execute(
        "UPDATE sync_states SET last_succeeded_at = now(), next_due_at = now() WHERE next_due_at < now() + interval '1 hour'"
    )
    visits, sizes, rows = Visits(made), _sizes(made), made.dagster_rows()
    began, machine = time.time(), psutil.cpu_times()
    with (
        _machine(made) as (server, daemon),
        made.costs() as used,
        console.status("") as status,
    ):
        change_seconds = TURN_SECONDS / max(1, round(made.stores * CHANGED))
        next_change, next_look = began + change_seconds / 2, began + LOOK_SECONDS
        runs = _Runs(server.pid)
        while (now := time.time()) < began + seconds:
            if daemon.poll() is not None or server.poll() is not None:
                raise RuntimeError("the daemon or its code server has ended")
            if now >= next_change:
                made.vendor.change([made.random.randrange(made.stores)])
                next_change += change_seconds
            if now >= next_look:
                visits.look()
                runs.look()
                next_look = now + LOOK_SECONDS
                status.update(
                    f"{(now - began) / 60:.0f} of {minutes:.0f} minutes, {visits.count:,} visits, "
                    f"{visits.on_time:.1%} of the stores on time"
                )
            time.sleep(min(0.5, change_seconds / 2))
        visits.look(end=True)
        runs.look()
        daemon_seconds = tree_seconds(daemon.pid) + tree_seconds(server.pid) - runs.seconds
    spent = psutil.cpu_times()
    busy = _busy(spent) - _busy(machine)
    cores = psutil.cpu_count() or 1
    used.run_seconds = runs.seconds
    lags = _lags(made, began)
    hours, days = seconds / 3600, seconds / 86_400
    figures = {
        "minutes": minutes,
        "stores_on_time": round(visits.on_time, 4),
        "store_time_on_time": round(1 - visits.late_seconds / (seconds * made.stores * len(JOBS)), 4),
        "freshness_p50_s": _quantile(lags, 0.5),
        "freshness_p99_s": _quantile(lags, 0.99),
        "changes": len(lags),
        "visits": visits.count,
        **_a_visit(used, max(1, visits.count)),
        "stores_carried": round(made.stores * visits.on_time),
        "visit_cpu_ms": round(
            1000
            * (used.run_seconds + used.postgres_seconds - standing.postgres_share * used.seconds)
            / max(1, visits.count),
            2,
        ),
        "standing_cpu_share": round(standing.share, 3),
        "standing_postgres_share": round(standing.postgres_share, 3),
        "daemon_cpu_ms_a_visit": round(1000 * daemon_seconds / max(1, visits.count), 2),
        "processors_free": round(1 - busy / (cores * used.seconds), 3),
        "processors_of_the_vendor": round(used.vendor_seconds / (cores * used.seconds), 3),
        "runs_an_hour": round((made.dagster_rows()["runs"] - rows["runs"]) / hours),
        "event_rows_an_hour": round((made.dagster_rows()["event_logs"] - rows["event_logs"]) / hours),
        "database_mb_a_day": {
            name: round((size - sizes[name]) / 1e6 / days, 1) for name, size in _sizes(made).items()
        },
        "worst_seconds_behind": round(max(visits.worst.values(), default=0.0)),
    }
    _show_whole(console, made, figures)
    return figures


class _Standing(NamedTuple):
    """Of one processor, while nothing is due: PostgreSQL, daemon and code server; and PostgreSQL alone."""

    share: float
    postgres_share: float


def _standing(console: Console, made: Fleet) -> _Standing:
    made.execute(
        "UPDATE sync_states SET next_due_at = now() + interval '50 minutes' WHERE resource = ANY(%s)",
        list(UNITS),
    )
    with _machine(made) as (server, daemon), console.status("nothing due"):
        # The cleaning tasks of a new database are due at once.
        time.sleep(SETTLING_SECONDS)
        before = tree_seconds(server.pid) + tree_seconds(daemon.pid)
        with made.costs() as used:
            time.sleep(STANDING_SECONDS)
        own = tree_seconds(server.pid) + tree_seconds(daemon.pid) - before
    return _Standing((own + used.postgres_seconds) / used.seconds, used.postgres_seconds / used.seconds)


@contextmanager
def _machine(made: Fleet) -> Iterator[tuple[subprocess.Popen[bytes], subprocess.Popen[bytes]]]:
    """The code server and the daemon as `bg-pipelines up` has them."""
    with tempfile.TemporaryDirectory(prefix="bg-fleet-") as folder:
        socket, workspace = Path(folder, "code.sock"), Path(folder, "workspace.yaml")
        workspace.write_text(code_server.workspace(socket))
        silent = {
            "cwd": PROJECT,
            "env": made.environment,
            "stdout": subprocess.DEVNULL,
            "stderr": subprocess.DEVNULL,
        }
        python = [sys.executable, "-m"]
        with child([*python, code_server.__name__, str(socket)], **silent) as server:
            while not socket.exists() and server.poll() is None:
                time.sleep(0.1)
            daemon = [*python, "dagster._daemon", "run", "-w", str(workspace)]
            with child(daemon, **silent) as running:
                yield server, running


class _Runs:
    """Processor seconds of the processes that run jobs: what the code server's process that they are forked from has begun.

    What has ended is known of its parent alone.
    """

    def __init__(self, server: int) -> None:
        self.server = psutil.Process(server)
        self.forks: dict[int, float] = {}

    def look(self) -> None:
        for fork in self.server.children():
            try:
                if "forkserver" in " ".join(fork.cmdline()):
                    own = fork.cpu_times()
                    self.forks[fork.pid] = tree_seconds(fork.pid) - own.user - own.system
            except psutil.NoSuchProcess:
                continue

    @property
    def seconds(self) -> float:
        return sum(self.forks.values())


def _lags(made: Fleet, began: float) -> list[float]:
    """Of changes that have come, or should have; one that has not is as old as it is now."""
    now = time.time()
    lags = []
    for change_at, lag in made.lags(began):
        if lag is not None:
            lags.append(lag)
        elif now - change_at > LATE_SECONDS:
            lags.append(now - change_at)
    return lags


def _busy(times: Any) -> float:
    return sum(times) - times.idle - times.iowait


def _sizes(made: Fleet) -> dict[str, int]:
    return dict(
        made.execute(
            "SELECT datname, pg_database_size(oid) FROM pg_database WHERE NOT datistemplate AND datname <> 'postgres'"
        )
    )


def _quantile(values: list[float], share: float) -> float | None:
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 1) if ordered else None


def _show_whole(console: Console, made: Fleet, figures: dict[str, Any]) -> None:
    table = Table(
        title=f"{made.stores:,} stores over {figures['minutes']:.0f} minutes, {CHANGED:.0%} changed each turn"
    )
    table.add_column("")
    table.add_column("", justify="right")
    for name, value in (
        ("stores never 6 minutes behind", f"{figures['stores_on_time']:.2%}"),
        ("of their time less than 6 minutes behind", f"{figures['store_time_on_time']:.2%}"),
        ("the longest behind, s", f"{figures['worst_seconds_behind']:,}"),
        ("from a change to our commit, s, p50", figures["freshness_p50_s"]),
        ("p99", figures["freshness_p99_s"]),
        ("visits", f"{figures['visits']:,}"),
        ("a visit: processor ms, runs and PostgreSQL", figures["cpu_ms_a_visit"]),
        ("of it the runs, their start included", figures["run_cpu_ms_a_visit"]),
        ("without what PostgreSQL uses when nothing is due", figures["visit_cpu_ms"]),
        ("daemon and code server", figures["daemon_cpu_ms_a_visit"]),
        ("nothing due: of one processor", f"{figures['standing_cpu_share']:.1%}"),
        ("of it PostgreSQL", f"{figures['standing_postgres_share']:.1%}"),
        ("transactions", figures["transactions_a_visit"]),
        ("WAL bytes", figures["wal_bytes_a_visit"]),
        ("processors free", f"{figures['processors_free']:.0%}"),
        ("used by the vendor", f"{figures['processors_of_the_vendor']:.0%}"),
        ("Dagster runs an hour", f"{figures['runs_an_hour']:,}"),
        ("event rows an hour", f"{figures['event_rows_an_hour']:,}"),
        *(
            (f"{name}: MB a day, before retention", f"{mb:,}")
            for name, mb in figures["database_mb_a_day"].items()
        ),
    ):
        table.add_row(name, str(value))
    console.print(table)


# Other layouts


def _others(console: Console, made: Fleet, stores_carried: float, *, small: bool) -> dict[str, Any]:
    with console.status("a Celery task for each store"):
        tasks = task_for_each_store(made, min(TASKS, made.stores))
    with console.status("a Dagster run for each store"):
        naive = run_for_each_store(made, min(SMALL_NAIVE_RUNS if small else NAIVE_RUNS, made.stores))
    table = Table(title="stores that each layout carries, of three jobs every five minutes")
    for name in ("", "stores", "processor ms a visit"):
        table.add_column(name, justify="right" if name else "left")
    table.add_row("ours", f"{stores_carried:,.0f}", "")
    for name, layout in (("a Celery task for each store", tasks), ("a Dagster run for each store", naive)):
        table.add_row(name, f"{layout.stores:,.0f}", f"{_milliseconds(layout):,.1f}")
    console.print(table)
    return {
        "naive_ratio": round(stores_carried / naive.stores, 1),
        "naive_stores": round(naive.stores),
        "naive_cpu_ms_a_visit": round(_milliseconds(naive), 1),
        "celery_stores": round(tasks.stores),
        "celery_cpu_ms_a_visit": round(_milliseconds(tasks), 1),
    }


def _milliseconds(layout: Layout) -> float:
    return 1000 * layout.cpu_seconds / layout.visits


# What a day leaves


def _day(console: Console, made: Fleet) -> dict[str, Any]:
    """The full passes and audits of two days, one after the other: what a table grows by once is left by the first."""
    jobs = (*JOBS, "drift_audit")

    def day(what: str) -> dict[str, int]:
        made.execute(
            "UPDATE sync_states SET next_due_at = now(), last_full_at = last_full_at - interval '1 day' WHERE resource = ANY(%s)",
            [*UNITS, *JOB_UNITS["drift_audit"]],
        )
        for job in jobs:
            with console.status(f"{what}: {job} for {made.stores:,} stores"):
                made.run_job(job)
        return _kept(made)

    before, after = day("a day to warm up"), day("the day that is measured")
    left = {name: size - before[name] for name, size in after.items()}
    dagster = left.pop(DAGSTER)
    [application] = left.values()
    runs = RUNS_AN_HOUR * 24
    figures = {
        "left_bytes_a_store": round(application / made.stores),
        "left_bytes_a_run": round(dagster / len(jobs)),
        "runs_a_day": runs,
        "left_mb_a_day": {
            f"application, {STORES:,} stores": round(application / made.stores * STORES / 1e6, 1),
            "dagster": round(dagster / len(jobs) * runs / 1e6, 1),
        },
    }
    console.print(figures)
    return figures


def _kept(made: Fleet) -> dict[str, int]:
    """Sizes of the databases without free space. Nothing else may be at work."""
    for url in (made.url, made.storage_url):
        with psycopg.connect(libpq(url), autocommit=True) as connection:
            connection.execute("VACUUM FULL")
    return _sizes(made)


# One run after another


def _direct(console: Console, made: Fleet) -> dict[str, Any]:
    """The runs of two turns, one after another: the first only brings pages into memory and into the WAL."""
    costs: dict[str, Costs] = {}
    for turn in ("a turn to warm up", "the turn that is measured"):
        began = time.time()
        made.vendor.change(made.some(CHANGED))
        made.make_due()
        before = made.vendor.figures()
        for job in JOBS:
            with console.status(f"{turn}: {job} for {made.stores:,} stores"):
                costs[job] = made.run_job(job)
        made.require_visited(began)
    asked = made.vendor.figures()
    with console.status("a run that finds nothing due"):
        start = made.run_job(JOBS[0])
    whole = sum(costs.values(), Costs())
    visits = len(JOBS) * made.stores
    figures = {
        "stores_on_time": None,
        "freshness_p50_s": None,
        "freshness_p99_s": None,
        **_a_visit(whole, visits),
        # Where nothing else uses the machine, and runs do not overlap.
        "stores_carried": round(visits / whole.seconds * TURN_SECONDS / len(JOBS)),
        "run_start_cpu_s": round(start.run_seconds, 2),
        "run_cpu_ms_a_visit": round(1000 * whole.run_seconds / visits, 2),
        "postgres_cpu_ms_a_visit": round(1000 * whole.postgres_seconds / visits, 2),
        "vendor_cpu_ms_a_visit": round(1000 * whole.vendor_seconds / visits, 2),
        "requests_a_visit": round(_requests(asked, before) / visits, 2),
        "connections_a_visit": round((asked["connections"] - before["connections"]) / visits, 2),
        "visits_a_second": round(visits / whole.seconds, 1),
    }
    _show_direct(console, made, costs, whole, start, figures)
    return figures


def _requests(after: dict[str, Any], before: dict[str, Any]) -> int:
    return sum(after["requests"].values()) - sum(before["requests"].values())


def _a_visit(costs: Costs, visits: int) -> dict[str, Any]:
    return {
        "cpu_ms_a_visit": round(1000 * (costs.run_seconds + costs.postgres_seconds) / visits, 2),
        "run_cpu_ms_a_visit": round(1000 * costs.run_seconds / visits, 2),
        "transactions_a_visit": round(costs.transactions / visits, 2),
        "wal_bytes_a_visit": round(costs.wal_bytes / visits),
    }


def _show_direct(
    console: Console,
    made: Fleet,
    costs: dict[str, Costs],
    whole: Costs,
    start: Costs,
    figures: dict[str, Any],
) -> None:
    table = Table(
        title=f"{made.stores:,} stores, {CHANGED:.0%} changed, one run of each job: a visit of a store costs"
    )
    for name in ("", *JOBS, "all", "a run's start"):
        table.add_column(name, justify="right" if name else "left")
    columns = [(one, made.stores) for one in costs.values()] + [(whole, len(JOBS) * made.stores)]

    def row(name: str, value: Any, digits: int, of_start: Any) -> None:
        table.add_row(name, *(f"{value(one) / n:,.{digits}f}" for one, n in columns), of_start)

    row("processor ms, the run's process", lambda c: 1000 * c.run_seconds, 2, f"{start.run_seconds:.2f} s")
    row("processor ms, PostgreSQL", lambda c: 1000 * c.postgres_seconds, 2, f"{start.postgres_seconds:.2f} s")
    row("processor ms, the vendor (apart)", lambda c: 1000 * c.vendor_seconds, 2, "")
    row("transactions, application", lambda c: c.transactions, 2, f"{start.transactions:,}")
    row("transactions, Dagster", lambda c: c.dagster_transactions, 2, f"{start.dagster_transactions:,}")
    row("WAL bytes", lambda c: c.wal_bytes, 0, f"{start.wal_bytes:,}")
    row("full pages in it", lambda c: c.wal_full_pages, 2, f"{start.wal_full_pages:,}")
    row("ms", lambda c: 1000 * c.seconds, 1, f"{start.seconds:.1f} s")
    console.print(table)
    console.print(
        f"requests a visit {figures['requests_a_visit']}, connections {figures['connections_a_visit']}; {description()}",
        style="dim",
    )
