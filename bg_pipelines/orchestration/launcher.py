"""How Dagster starts runs on one machine: its own launcher, which with `RunHealth` notices that a run has died.

Dagster's default launcher starts a process a run, and only the code server that started it knows whether it still
lives: where both are killed, the run stays STARTED for ever. Here run monitoring marks a silent one as failed, and run
retries start it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dagster import Field, IntSource
from dagster._config.config_schema import UserConfigSchema
from dagster._core.launcher.default_run_launcher import DefaultRunLauncher
from dagster._serdes import ConfigurableClassData

from bg_pipelines.orchestration.run_health import DEAD_AFTER_SECONDS, RunHealth

if TYPE_CHECKING:
    from dagster import DagsterRun
    from dagster._core.launcher.base import CheckRunHealthResult


class WatchedRunLauncher(DefaultRunLauncher):
    """Dagster's default launcher, with a health check: a run that has said nothing for `dead_after_seconds` is dead."""

    def __init__(
        self,
        dead_after_seconds: int = DEAD_AFTER_SECONDS,
        inst_data: ConfigurableClassData | None = None,
    ) -> None:
        self.health = RunHealth(dead_after_seconds)
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
        return self.health.check(self._instance, run)

    def dispose(self) -> None:
        self.health.close()
        super().dispose()
