"""Tasks: what a cleaning job does, one row each in `cleaning_tasks`, claimed like all work.

A task is due again some time after its last whole pass; what is unfinished is due at once, at the place it has got to.
Two runs at once share the tasks of their job. A paused task is left alone until it is resumed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import psycopg
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from bg_pipelines.cleaning.batches import Outcome
from bg_pipelines.database.models import CleaningTask
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.wording import did_you_mean
from bg_pipelines.work.queue import Queue

Connection = psycopg.Connection[Any]

LEASE = timedelta(minutes=2)
_ANY_TIME = datetime(9999, 1, 1, tzinfo=UTC)


class Task(NamedTuple):
    """A task of a job: `every` is how long after a whole pass the next is due, `start` begins or continues one.

    `start` is given what the run offers (`run.TaskRun`).
    """

    name: str
    every: timedelta
    start: Callable[[Any], Outcome]


class ClaimedTask(NamedTuple):
    name: str
    owner: str
    attempts: int
    place: dict[str, Any] | None


QUEUE = Queue(CleaningTask, ClaimedTask)


def declare(connection: Connection, job: str, names: Sequence[str]) -> None:
    """Make the rows of `cleaning_tasks` those of the job's tasks."""
    connection.execute(
        "INSERT INTO cleaning_tasks (name, job) SELECT unnest(%s::text[]), %s "
        "ON CONFLICT (name) DO UPDATE SET job = excluded.job WHERE cleaning_tasks.job <> excluded.job",
        (list(names), job),
    )
    connection.execute(
        "DELETE FROM cleaning_tasks t WHERE job = %s AND name <> ALL(%s) AND incident_id IS NULL "
        "AND (lease_expires_at IS NULL OR lease_expires_at < statement_timestamp())",
        (job, list(names)),
    )


def claim(
    connection: Connection, job: str, among: Sequence[str], *, owner: str, only_due: bool
) -> ClaimedTask | None:
    """The next of these tasks, in their order, that no run has and nobody has paused."""
    claims = QUEUE.claim(
        connection,
        owner=owner,
        limit=1,
        lease=LEASE,
        among="t.job = %(job)s AND t.name = ANY(%(among)s) AND t.paused_at IS NULL",
        order="array_position(%(among)s, t.name)",
        parameters={"job": job, "among": list(among)},
        due_before=None if only_due else _ANY_TIME,
    )
    return claims[0] if claims else None


def is_due(connection: Connection, names: Sequence[str]) -> bool:
    """Whether one of these tasks is due, or has never been declared."""
    row = connection.execute(
        "SELECT EXISTS (SELECT FROM unnest(%(names)s::text[]) name WHERE NOT EXISTS (SELECT FROM cleaning_tasks t "
        "WHERE t.name = name.name AND (t.paused_at IS NOT NULL OR t.next_due_at IS NULL "
        "OR t.next_due_at > statement_timestamp() OR t.lease_expires_at > statement_timestamp())))",
        {"names": list(names)},
    ).fetchone()
    return bool(row and row[0])


def paused_by(connection: Connection, name: str) -> str | None:
    """Who has paused this task."""
    row = connection.execute(
        "SELECT coalesce(paused_by, 'somebody') FROM cleaning_tasks WHERE name = %s AND paused_at IS NOT NULL",
        (name,),
    ).fetchone()
    return row[0] if row else None


def set_paused(connection: Connection, names: Collection[str], by: str | None) -> list[str]:
    """Pause these tasks (`by` is who does), or resume them (None); no names: all. Returns those that changed.

    A run that is at work on one yields within a second or two. Raises IntegrationError (configuration) for a name that
    no task has.
    """
    known = [row[0] for row in connection.execute("SELECT name FROM cleaning_tasks ORDER BY name").fetchall()]
    for name in names:
        if name not in known:
            raise IntegrationError.of(
                ErrorType.CONFIGURATION,
                f"there is no cleaning task {name!r}{did_you_mean(name, known)}; "
                "tasks are known once their job has run",
                source="cleaning",
            )
    chosen = list(names) or known
    if by is None:
        change, condition = "paused_at = NULL, paused_by = NULL", "paused_at IS NOT NULL"
    else:
        change, condition = "paused_at = statement_timestamp(), paused_by = %(by)s", "paused_at IS NULL"
    rows = connection.execute(
        f"UPDATE cleaning_tasks SET {change} WHERE name = ANY(%(names)s) AND {condition} RETURNING name",
        {"by": by, "names": chosen},
    ).fetchall()
    return sorted(row[0] for row in rows)


def write_result(
    connection: Connection,
    run_id: str,
    job: str,
    task: str,
    started_at: datetime,
    outcome: Outcome,
    pauses: dict[str, float],
) -> None:
    """What the run has done of the task so far."""
    connection.execute(
        "INSERT INTO cleaning_results (run_id, task, job, started_at, finished_at, completed, rows_freed, bytes_freed, "
        "batches, set_aside, figures, pauses, advice) VALUES (%(run_id)s, %(task)s, %(job)s, %(started_at)s, "
        "statement_timestamp(), %(completed)s, %(rows)s, %(bytes)s, %(batches)s, %(set_aside)s, %(figures)s, %(pauses)s, "
        "%(advice)s) ON CONFLICT (run_id, task) DO UPDATE SET finished_at = excluded.finished_at, "
        "completed = excluded.completed, rows_freed = excluded.rows_freed, bytes_freed = excluded.bytes_freed, "
        "batches = excluded.batches, set_aside = excluded.set_aside, figures = excluded.figures, "
        "pauses = excluded.pauses, advice = excluded.advice",
        {
            "run_id": run_id,
            "task": task,
            "job": job,
            "started_at": started_at,
            "completed": outcome.completed,
            "rows": outcome.rows,
            "bytes": outcome.bytes,
            "batches": outcome.batches,
            "set_aside": outcome.set_aside,
            "figures": Jsonb(dict(outcome.figures)),
            "pauses": Jsonb({reason: round(seconds, 1) for reason, seconds in pauses.items()}),
            "advice": Jsonb(list(outcome.advice)),
        },
    )


class TaskStatus(NamedTuple):
    """A task as people ask for it. `share` is how much of its pass is done, `seconds_left` how long the rest takes at the
    pace so far, while a run is at work; None where there is no pass under way, or that cannot be told."""

    name: str
    job: str
    state: str
    share: float | None
    seconds_left: float | None
    next_due_at: datetime | None
    completed_at: datetime | None
    rows_freed: int
    bytes_freed: int
    set_aside: int
    pauses: dict[str, float]
    error: str | None


_STATUS = """
    SELECT t.name, t.job,
        CASE WHEN t.paused_at IS NOT NULL THEN 'paused by ' || coalesce(t.paused_by, 'somebody')
            WHEN t.lease_expires_at > statement_timestamp() THEN 'at work'
            WHEN t.next_due_at IS NULL THEN 'parked: incident ' || t.incident_id
            WHEN t.attempts > 0 THEN 'retried'
            WHEN t.place IS NOT NULL THEN 'unfinished'
            WHEN t.next_due_at <= statement_timestamp() THEN 'due' ELSE 'done' END AS state,
        p.share, CASE WHEN p.share > 0 THEN (t.place ->> 'seconds')::float * (1 / p.share - 1) END AS seconds_left,
        t.next_due_at, t.completed_at, coalesce(r.rows_freed, 0) AS rows_freed, coalesce(r.bytes_freed, 0) AS bytes_freed,
        (SELECT count(*) FROM cleaning_set_aside a WHERE a.task = t.name) AS set_aside, coalesce(r.pauses, '{}') AS pauses,
        t.last_error ->> 'message' AS error
    FROM cleaning_tasks t
    CROSS JOIN LATERAL (SELECT least(1.0, (t.place ->> 'seen')::float / nullif((t.place ->> 'end')::float, 0)) AS share) p
    LEFT JOIN LATERAL (SELECT * FROM cleaning_results r WHERE r.task = t.name ORDER BY r.finished_at DESC LIMIT 1) r ON true
    ORDER BY t.job, t.name"""


def list_tasks(connection: Connection) -> list[TaskStatus]:
    """Every task that has been declared, with what its last run freed."""
    with connection.cursor(row_factory=class_row(TaskStatus)) as cursor:
        cursor.execute(_STATUS)
        return cursor.fetchall()
