"""`bg-pipelines worker`: a warm Celery worker, whose processes carry out runs.

SIGTERM or SIGINT ends it in order: it takes no more runs, and those at work stop at their next safe point, release what
they had claimed and are started again elsewhere. Its processes end with it, however it ends.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
from contextlib import suppress
from typing import Any

from bg_pipelines.machine.processes import configuration_error
from bg_pipelines.queues import QUEUES
from bg_pipelines.settings import load_settings

NAMES = tuple(queue.name for queue in QUEUES)


def work(*, slots: int, queues: tuple[str, ...] = NAMES) -> None:
    """Carry out runs of these queues, `slots` at a time, until SIGTERM or SIGINT. Raises IntegrationError (configuration)."""
    unknown = [name for name in queues if name not in NAMES]
    if unknown:
        raise configuration_error(f"no such queue: {', '.join(unknown)}; there are {' and '.join(NAMES)}")
    settings = load_settings()
    if settings.broker_url is None:
        raise configuration_error(
            "set BG_BROKER_URL to the Valkey or Redis that the daemon has, or start workers beside it with "
            "`bg-pipelines up --workers N`"
        )
    try:
        from celery import signals
        from dagster_celery.tasks import create_execute_job_task, create_resume_job_task

        from bg_pipelines.orchestration.celery_runs import make_celery
    except ModuleNotFoundError as error:
        raise configuration_error(
            f"the package {error.name} is missing: `pip install 'bg-pipelines[celery]'`"
        ) from None
    # All that runs need, loaded once, and shared by the processes that are forked off.
    from bg_pipelines.definitions import defs

    defs.get_repository_def()
    app = make_celery()
    create_execute_job_task(app)
    create_resume_job_task(app)
    signals.worker_process_init.connect(_leave_stopping_to_the_run)
    signals.worker_shutting_down.connect(_stop_runs)
    logging.getLogger("alembic").setLevel(logging.WARNING)  # it tells of each look at the tables' revision
    gc.collect()
    gc.freeze()
    app.worker_main(
        [
            "worker",
            *("--concurrency", str(slots)),
            *("--queues", ",".join(sorted(queues, key=NAMES.index))),
            *("--hostname", f"bg-pipelines-{os.getpid()}@%h"),
            *("--loglevel", "INFO"),
            "--without-gossip",
            "--without-mingle",
        ]
    )


def _leave_stopping_to_the_run(**_: Any) -> None:
    """A process of the pool: Dagster has a handler while a run is at work, and an idle process is ended by the worker.

    In a group of its own: who is told twice to stop may be interrupted while it cleans up.
    """
    os.setpgid(0, 0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _stop_runs(**_: Any) -> None:
    """The worker is told to end: it would wait for its runs, which may take a quarter of an hour."""
    from billiard import active_children

    for process in active_children():
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGTERM)
