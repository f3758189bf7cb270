"""Where Dagster keeps what it has: runs, events and schedules in PostgreSQL, the output of runs in the home.

`dagster.yaml` names these classes rather than Dagster's own, so that the web UI, the daemon, run processes and
`dagster job execute` need no variable set: where `BG_DAGSTER_DATABASE_URL` is not, whichever of them comes first starts the
embedded server, and nothing of a run is written beside `BG_HOME_DIR`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from typing import Any, Self

import sqlalchemy as sa
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


KEPT_CONNECTIONS = 4
"""Of a process. As many more as it needs at once are opened, and closed again."""


class EnvironmentStorage(_OfSettings, DagsterPostgresStorage):
    """dagster-postgres' storage at `BG_DAGSTER_DATABASE_URL`, or in the embedded server.

    dagster-postgres opens a connection for each statement, and looks for its tables with each instance, which a code server
    makes for each look of a sensor: 28 connections a second with nothing to do, and most of what PostgreSQL did then.
    Here a process keeps its connections, and looks for the tables once.
    """

    def __init__(self, postgres_url: str, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__(postgres_url, postgres_url not in _has_tables, inst_data)
        _has_tables.add(postgres_url)
        # As their own `optimize_for_webserver` does it, which sets a time limit for statements, too.
        for storage in (self._run_storage, self._event_log_storage, self._schedule_storage):
            storage._engine = _engine(postgres_url)

    @classmethod
    def from_config_value(
        cls,
        inst_data: ConfigurableClassData | None,
        config_value: Mapping[str, Any],  # noqa: ARG003
    ) -> EnvironmentStorage:
        return cls(postgres_url=dagster_storage_url(load_settings()), inst_data=inst_data)


_has_tables: set[str] = set()


@cache
def _engine(url: str) -> sa.Engine:
    """The one of this process for an address. A connection that the server has ended is noticed, and replaced."""
    engine = sa.create_engine(
        url, isolation_level="AUTOCOMMIT", pool_size=KEPT_CONNECTIONS, max_overflow=-1, pool_pre_ping=True
    )
    os.register_at_fork(after_in_child=lambda: engine.dispose(close=False))
    return engine


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
