"""A database for a whole file of tests, each rolled back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from bg_pipelines.database import embedded
from bg_pipelines.database.engine import Database


@pytest.fixture(scope="module")
def own_database(server_home: Path, request: pytest.FixtureRequest) -> Iterator[Database]:
    """One database for this file: its tests leave nothing in it, so they need none each."""
    name = request.module.__name__.rpartition(".")[2]
    server = embedded.ensure(server_home)
    with psycopg.connect(server.url("postgres", driver=None), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template")
        database = Database(server.url(name))
        yield database
        database.close()
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def connection(own_database: Database) -> Iterator[psycopg.Connection[Any]]:
    with own_database.transaction() as connection:
        yield connection
        connection.rollback()
