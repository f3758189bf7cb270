"""Whether a run is alive: its heartbeat in `job_runs`, whatever launcher started it.

A run has a heartbeat every half minute (`work.pulse`). What cannot be known is taken for alive: while the
application's database is away no heartbeat can be seen, and after it has come back every run has the full time again.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from dagster import DagsterInstance, DagsterRun
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus

from bg_pipelines.database.engine import Database, open_database
from bg_pipelines.errors import IntegrationError
from bg_pipelines.queues import JOBS
from bg_pipelines.settings import load_settings
from bg_pipelines.work.pulse import DEAD_AFTER, since_last_seen

DEAD_AFTER_SECONDS = int(DEAD_AFTER.total_seconds())


class RunHealth:
    """The health of runs, for a launcher's `check_run_worker_health`: silent for `dead_after_seconds` means dead."""

    def __init__(
        self,
        dead_after_seconds: int = DEAD_AFTER_SECONDS,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.dead_after_seconds = dead_after_seconds
        self._monotonic = monotonic
        self._database: Database | None = None
        self._deaf_until = float("-inf")

    def check(self, instance: DagsterInstance, run: DagsterRun) -> CheckRunHealthResult:
        try:
            silent_seconds = self._silent_seconds(instance, run)
        except IntegrationError as error:
            self._deaf_until = self._monotonic()
            return CheckRunHealthResult(WorkerStatus.RUNNING, f"not known: {error.message}")
        heard_for = self._monotonic() - self._deaf_until
        if silent_seconds is None or min(silent_seconds, heard_for) <= self.dead_after_seconds:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(
            WorkerStatus.FAILED,
            f"no heartbeat of the run's process for {silent_seconds:.0f} s: it was killed, or its machine is gone",
        )

    def close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    def _silent_seconds(self, instance: DagsterInstance, run: DagsterRun) -> float | None:
        """How long ago the run's last heartbeat was; None for a job that has none."""
        if self._database is None:
            self._database = open_database(load_settings(), pool_size=1)
        with self._database.transaction() as connection:
            silent = since_last_seen(connection, run.run_id)
        if silent is not None:
            return silent.total_seconds()
        if run.job_name not in JOBS:
            return None
        # It died before its first heartbeat, or has had none yet.
        record = instance.get_run_record_by_id(run.run_id)
        return time.time() - record.start_time if record is not None and record.start_time else None
