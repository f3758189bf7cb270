"""Where Dagster keeps what it has: runs, events and schedules in PostgreSQL, the output of runs in the home.

`dagster.yaml` names these classes rather than Dagster's own, so that the web UI, the daemon, run processes and
`dagster job execute` need no variable set: where `BG_DAGSTER_DATABASE_URL` is not, whichever of them comes first starts the
embedded server, and nothing of a run is written beside `BG_HOME_DIR`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from dagster._config.config_schema import UserConfigSchema
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager
from dagster._core.storage.root import LocalArtifactStorage
from dagster._serdes import ConfigurableClassData
from dagster_postgres.storage import DagsterPostgresStorage

from bg_pipelines.database.engine import dagster_storage_url
from bg_pipelines.settings import load_settings


class _OfSettings:
    """What takes nothing from dagster.yaml."""

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        return {}


class EnvironmentStorage(_OfSettings, DagsterPostgresStorage):
    """dagster-postgres' storage at `BG_DAGSTER_DATABASE_URL`, or in the embedded server."""

    @classmethod
    def from_config_value(
        cls,
        inst_data: ConfigurableClassData | None,
        config_value: Mapping[str, Any],  # noqa: ARG003
    ) -> EnvironmentStorage:
        return cls(postgres_url=dagster_storage_url(load_settings()), inst_data=inst_data)


class _InHome(_OfSettings):
    """What is kept in the folder of Dagster's files, in the home."""

    @classmethod
    def from_config_value(
        cls,
        inst_data: ConfigurableClassData | None,
        config_value: Mapping[str, Any],  # noqa: ARG003
    ) -> Self:
        return cls(str(load_settings().home / "dagster"), inst_data=inst_data)  # type: ignore[call-arg]


class HomeComputeLogs(_InHome, LocalComputeLogManager):
    """What the steps of runs print."""


class HomeArtifacts(_InHome, LocalArtifactStorage):
    """What ops hand each other."""
