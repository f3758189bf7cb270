"""Figures of runs: how many are at work or have died, how long they take, and the connections that they use."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from sqlalchemy.orm import Session

from bg_pipelines.operations.reading import read


class RunMetrics(NamedTuple):
    """The runs of a job in the window, and how many are at work or have died.

    A dead run counts until a later run of its job has succeeded. `connections_*` are of the runs at work.
    """

    job: str
    queue: str
    at_work: int
    dead: int
    p50_seconds: float | None
    p95_seconds: float | None
    success_rate: float | None
    peak_memory_bytes: int | None
    last_succeeded_at: datetime | None
    connections_in_use: int
    connections_size: int


def read_runs(session: Session, since: datetime, alive: datetime) -> list[RunMetrics]:
    """The runs that began after `since`; one that was seen after `alive` is at work."""
    return read(session, RunMetrics, _RUNS, since=since, alive=alive)


_RUNS = """
    SELECT job, (array_agg(queue ORDER BY started_at DESC))[1] AS queue,
        count(*) FILTER (WHERE at_work) AS at_work,
        count(*) FILTER (WHERE dead AND coalesce(seen_at > last_success, true)) AS dead,
        (percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds) FILTER (WHERE status = 'succeeded'))::float AS p50_seconds,
        (percentile_cont(0.95) WITHIN GROUP (ORDER BY seconds) FILTER (WHERE status = 'succeeded'))::float AS p95_seconds,
        count(*) FILTER (WHERE status = 'succeeded')::float
            / nullif(count(*) FILTER (WHERE status IN ('succeeded', 'failed') OR dead), 0) AS success_rate,
        (max(peak_rss_mb) * 1048576)::bigint AS peak_memory_bytes,
        max(finished_at) FILTER (WHERE status = 'succeeded') AS last_succeeded_at,
        coalesce(sum(connections_in_use) FILTER (WHERE at_work), 0)::int AS connections_in_use,
        coalesce(sum(connections_size) FILTER (WHERE at_work), 0)::int AS connections_size
    FROM (
        SELECT *, status = 'running' AND seen_at > :alive AS at_work, status = 'running' AND seen_at <= :alive AS dead,
            extract(epoch FROM finished_at - started_at) AS seconds,
            max(started_at) FILTER (WHERE status = 'succeeded') OVER (PARTITION BY job) AS last_success
        FROM job_runs WHERE started_at > :since
    ) runs GROUP BY job ORDER BY job"""
