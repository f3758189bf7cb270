"""How Dagster starts runs, and how it notices that one has died.

Dagster's own launcher starts a process a run, and only the code server that started it knows whether it still lives:
where both are killed, the run stays STARTED for ever. `WatchedRunLauncher` asks `job_runs`, where a run says every
half minute that it lives; run monitoring marks one that is silent as failed, and run retries start it again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dagster import Field, IntSource
from dagster._config.config_schema import UserConfigSchema
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus
from dagster._core.launcher.default_run_launcher import DefaultRunLauncher
from dagster._serdes import ConfigurableClassData

from bg_pipelines.database.engine import Database, open_database
from bg_pipelines.errors import IntegrationError
from bg_pipelines.queues import JOBS
from bg_pipelines.settings import load_settings
from bg_pipelines.work.pulse import DEAD_AFTER, since_last_seen

if TYPE_CHECKING:
    from dagster import DagsterRun

DEAD_AFTER_SECONDS = int(DEAD_AFTER.total_seconds())


class WatchedRunLauncher(DefaultRunLauncher):
    """Dagster's default launcher, with a health check: a run that has said nothing for `dead_after_seconds` is dead.

    What cannot be known is taken for alive: while the application's database is away no run can be heard, and after
    it has come back every run has the full time again.
    """

    def __init__(
        self,
        dead_after_seconds: int = DEAD_AFTER_SECONDS,
        inst_data: ConfigurableClassData | None = None,
    ) -> None:
        self.dead_after_seconds = dead_after_seconds
        self._database: Database | None = None
        self._deaf_until = float("-inf")
        super().__init__(inst_data)

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        return {"dead_after_seconds": Field(IntSource, is_required=False, default_value=DEAD_AFTER_SECONDS)}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]
    ) -> WatchedRunLauncher:
        return cls(inst_data=inst_data, **config_value)

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        try:
            silent_seconds = self._silent_seconds(run)
        except IntegrationError as error:
            self._deaf_until = time.monotonic()
            return CheckRunHealthResult(WorkerStatus.RUNNING, f"not known: {error.message}")
        heard_for = time.monotonic() - self._deaf_until
        if silent_seconds is None or min(silent_seconds, heard_for) <= self.dead_after_seconds:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(
            WorkerStatus.FAILED,
            f"nothing has been heard of the run's process for {silent_seconds:.0f} s: it was killed, or its machine is gone",
        )

    def dispose(self) -> None:
        if self._database is not None:
            self._database.close()
        super().dispose()

    def _silent_seconds(self, run: DagsterRun) -> float | None:
        """How long ago the run was last heard of; None for a job that does not speak."""
        if self._database is None:
            self._database = open_database(load_settings(), pool_size=1)
        with self._database.transaction() as connection:
            unseen = since_last_seen(connection, run.run_id)
        if unseen is not None:
            return unseen.total_seconds()
        if run.job_name not in JOBS:
            return None
        # It died before its first word, or has none yet.
        record = self._instance.get_run_record_by_id(run.run_id)
        return time.time() - record.start_time if record is not None and record.start_time else None
