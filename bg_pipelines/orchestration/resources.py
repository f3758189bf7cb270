"""What jobs are given: the database and the platforms, as Dagster resources.

They take nothing from run config: settings are read from the environment when a run begins, so that no secret is
ever stored with a run.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
from pydantic import PrivateAttr

from bg_pipelines import platforms
from bg_pipelines.database.engine import Database, open_database
from bg_pipelines.database.secrets import Cipher, cipher
from bg_pipelines.platforms.protocol import Platform
from bg_pipelines.settings import Settings, load_settings

POOL_SIZE = 34
"""Connections of a run, opened as they are needed; twice as many at most, which is one for each of 64 workers and some to
spare."""

_kept: dict[tuple[str, Path], Database] = {}
_keeping = threading.Lock()


class DatabaseResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The application's database and the cipher of what is encrypted in it.

    It is opened at its first use and closed at the end of the run, so that a database that is away is met inside of
    the op, where it is retried.
    """

    _database: Database | None = PrivateAttr(default=None)

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator[DatabaseResource]:  # noqa: ARG002
        try:
            yield self
        finally:
            if self._database is not None:
                self._database.close()
                self._database = None

    @property
    def database(self) -> Database:
        """Raises IntegrationError (database, configuration) where it cannot be used."""
        if self._database is None:
            self._database = _open(load_settings(), POOL_SIZE)
        return self._database

    @property
    def cipher(self) -> Cipher:
        """Raises IntegrationError (configuration) where there is no key."""
        return cipher(load_settings())


class PlatformsResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Connects a store to its platform, at the API version of the settings."""

    _api_version: str | None = PrivateAttr(default=None)

    def connect(self, access: platforms.StoreAccess, sleep: Callable[[float], object]) -> Platform:
        # Read once a run: reading the settings costs more than a visit that finds nothing new.
        if self._api_version is None:
            self._api_version = load_settings().shopify_api_version
        return platforms.connect(access, api_version=self._api_version, sleep=sleep)


def kept_database(settings: Settings) -> Database:
    """The application's database, kept open in this process: opening it costs more than a tick asks of it.

    Raises IntegrationError (database, configuration) where it cannot be used.
    """
    url = settings.database_url.get_secret_value() if settings.database_url else ""
    with _keeping:
        if (url, settings.home) not in _kept:
            _kept[url, settings.home] = _open(settings, pool_size=2)
        return _kept[url, settings.home]


def _open(settings: Settings, pool_size: int) -> Database:
    database = open_database(settings, pool_size=pool_size)
    try:
        database.require_migrated()
    except BaseException:
        database.close()
        raise
    return database
