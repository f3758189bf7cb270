"""What jobs are given: the database and the platforms, as Dagster resources.

They take nothing from run config: settings are read from the environment when a run begins, so that no secret is
ever stored with a run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import dagster as dg
from pydantic import PrivateAttr

from bg_pipelines import platforms
from bg_pipelines.database.engine import Database, open_database
from bg_pipelines.database.secrets import Cipher, cipher
from bg_pipelines.platforms.base import Platform
from bg_pipelines.settings import load_settings


class DatabaseResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The application's database and the cipher of what is encrypted in it, open for the length of a run."""

    # Opened as they are needed; twice as many at most, which is one for each of 64 workers and some to spare.
    pool_size: int = 34
    _database: Database = PrivateAttr()
    _cipher: Cipher = PrivateAttr()

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator[DatabaseResource]:  # noqa: ARG002
        settings = load_settings()
        self._cipher = cipher(settings)
        self._database = open_database(settings, pool_size=self.pool_size)
        try:
            self._database.require_migrated()
            yield self
        finally:
            self._database.close()

    @property
    def database(self) -> Database:
        return self._database

    @property
    def cipher(self) -> Cipher:
        return self._cipher


class PlatformsResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Connects a store to its platform, at the API version of the settings."""

    def connect(self, access: platforms.StoreAccess, sleep: Callable[[float], object]) -> Platform:
        return platforms.connect(access, api_version=load_settings().shopify_api_version, sleep=sleep)
