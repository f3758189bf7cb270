"""The machine a benchmark stands on: a PostgreSQL of its own, memory and processor time of processes."""

from __future__ import annotations

import os
import platform
import re
import resource
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import psycopg
import sqlalchemy as sa

from bg_pipelines.database import embedded
from bg_pipelines.database.engine import Database, embedded_url

DATABASE = "benchmark"


@contextmanager
def own_postgres() -> Iterator[str]:
    """The URL of a migrated database on an embedded server in a new home, with its durable defaults; gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="bg-benchmark-") as home:
        try:
            url = embedded_url(Path(home), DATABASE)
            database = Database(url)
            database.migrate()
            database.close()
            yield url
        finally:
            embedded.release(Path(home))


def peak_rss_mb() -> float:
    """The most memory this process has held so far, in MB of 10^6 bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        # getrusage's would do, but on Linux it is inherited from the process that started this one.
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        assert found
        return int(found[1]) * 1024 / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def libpq(url: str) -> str:
    """The URL as psycopg itself takes it."""
    return sa.make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


def postmaster(url: str) -> psutil.Process:
    """The process that all others of this server on this machine are children of."""
    with psycopg.connect(libpq(url)) as connection:
        process = psutil.Process(connection.info.backend_pid).parent()
    assert process is not None
    return process


def postgres_seconds(url: str) -> Callable[[], float]:
    """A reading of the processor time of all processes of this server that are there, to the nanosecond."""
    server = postmaster(url)

    def read() -> float:
        total = 0
        for process in (server, *server.children()):
            with suppress(OSError):  # it has ended
                total += int(Path(f"/proc/{process.pid}/schedstat").read_text().split()[0])
        return total / 1e9

    return read


def processor_seconds(process_id: int) -> float:
    times = psutil.Process(process_id).cpu_times()
    return float(times.user + times.system)


def description() -> str:
    return f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}"


def spread(values: Sequence[float], digits: int = 2) -> dict[str, float]:
    """Minimum, median and maximum: how much the machine lets a figure waver."""
    return {
        "min": round(min(values), digits),
        "median": round(statistics.median(values), digits),
        "max": round(max(values), digits),
    }
