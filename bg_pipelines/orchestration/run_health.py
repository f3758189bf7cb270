"""Whether a run is alive: its heartbeat in `job_runs`, whatever launcher started it.

    class WatchedDockerRunLauncher(Watched, DockerRunLauncher): ...

A run has a heartbeat every ten seconds (`work.pulse`). What cannot be known is taken for alive: while the application's
database is away no heartbeat can be seen, and after it has come back every run has the full time again; likewise after
this process was frozen, or its machine was suspended.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from dagster import DagsterInstance, DagsterRun, Field, IntSource
from dagster._core.launcher.base import CheckRunHealthResult, RunLauncher, WorkerStatus

from bg_pipelines.database.engine import Database, open_database
from bg_pipelines.errors import IntegrationError
from bg_pipelines.queues import JOBS
from bg_pipelines.settings import load_settings
from bg_pipelines.work.pulse import BEAT_SECONDS, DEAD_AFTER, since_last_seen

if TYPE_CHECKING:
    from typing import Self

    from dagster._config.config_schema import UserConfigSchema
    from dagster._serdes import ConfigurableClassData

DEAD_AFTER_SECONDS = int(DEAD_AFTER.total_seconds())
QUIET_SECONDS = 1.5 * BEAT_SECONDS
"""A run without a heartbeat for so long has missed one: its launcher is asked what it knows."""
SLOW_SECONDS = 5.0
"""A look that takes longer says nothing of the heartbeats: they wait for the same database."""
GAP_SECONDS = 60.0
"""Run monitoring looks every ten seconds. After so long a time it was not the runs that were silent, but who listens."""


class RunHealth:
    """The health of runs, for a launcher's `check_run_worker_health`: silent for `dead_after_seconds` means dead."""

    def __init__(
        self,
        dead_after_seconds: int = DEAD_AFTER_SECONDS,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.dead_after_seconds = dead_after_seconds
        self._monotonic = monotonic
        self._wall = wall
        self._database: Database | None = None
        self._deaf_until = float("-inf")
        self._looked_at: float | None = None

    def check(
        self,
        instance: DagsterInstance,
        run: DagsterRun,
        ask: Callable[[DagsterRun], CheckRunHealthResult] | None = None,
    ) -> CheckRunHealthResult:
        """`ask` is the launcher's own check: its FAILED is believed of a run that is quiet, and nothing else it says. It
        may know of a container or a task what no longer is so, or nothing any more."""
        began = self._monotonic()
        try:
            silent_seconds = self._silent_seconds(instance, run)
        except IntegrationError as error:
            self._deaf_until = self._monotonic()
            return CheckRunHealthResult(WorkerStatus.RUNNING, f"not known: {error.message}")
        now = self._monotonic()
        if now - began > SLOW_SECONDS or self._was_away():
            self._deaf_until = now
        if silent_seconds is None:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        silent_seconds = min(silent_seconds, now - self._deaf_until)
        if silent_seconds > self.dead_after_seconds:
            return CheckRunHealthResult(
                WorkerStatus.FAILED,
                f"no heartbeat of the run's process for {silent_seconds:.0f} s: it was killed, or its machine is gone",
            )
        if ask is not None and silent_seconds > QUIET_SECONDS:
            try:
                told = ask(run)
            except Exception as error:  # noqa: BLE001 (a broker, an API that is away, a tag that was never written)
                return CheckRunHealthResult(
                    WorkerStatus.RUNNING, f"its launcher does not know: {type(error).__name__}"
                )
            if told.status is WorkerStatus.FAILED:
                return told
        return CheckRunHealthResult(WorkerStatus.RUNNING)

    def close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    def _was_away(self) -> bool:
        """Whether this process itself was: stopped, or suspended with its machine. A pause without a run is the same, and
        does no harm."""
        before, self._looked_at = self._looked_at, self._wall()
        return before is not None and not 0 <= self._looked_at - before <= GAP_SECONDS

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
        return self._wall() - record.start_time if record is not None and record.start_time else None


class Watched(RunLauncher):
    """Before any launcher: a run that has said nothing for `dead_after_seconds` is dead, whoever started it.

    The launcher's own config stays as it is, with `dead_after_seconds` beside it.
    """

    health: RunHealth

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        own: Any = super().config_type()  # type: ignore[misc]
        field = Field(IntSource, is_required=False, default_value=DEAD_AFTER_SECONDS)
        return {**own, "dead_after_seconds": field}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]) -> Self:
        own = {**config_value}
        health = RunHealth(own.pop("dead_after_seconds", DEAD_AFTER_SECONDS))
        launcher: Self = super().from_config_value(inst_data, own)  # type: ignore[misc]
        launcher.health = health
        return launcher

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        ask = super().check_run_worker_health if super().supports_check_run_worker_health else None
        return self.health.check(self._instance, run, ask)

    def dispose(self) -> None:
        self.health.close()
        super().dispose()
