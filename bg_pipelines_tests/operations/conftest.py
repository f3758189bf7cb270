"""One database for the room, emptied before each test: that is ten times quicker than one each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from bg_pipelines.database import embedded


@pytest.fixture(scope="package")
def room_url(server_home: Path) -> Iterator[str]:
    server = embedded.ensure(server_home)
    with psycopg.connect(server.url("postgres", driver=None), autocommit=True) as connection:
        connection.execute("CREATE DATABASE test_operations TEMPLATE template")
        yield server.url("test_operations")
        connection.execute("DROP DATABASE test_operations WITH (FORCE)")


@pytest.fixture
def database_url(room_url: str, server_home: Path) -> str:
    url = embedded.ensure(server_home).url("test_operations", driver=None)
    with psycopg.connect(url) as connection:
        connection.execute(
            "TRUNCATE stores, locations, products, product_variants, inventory_levels, customers, orders, order_lines, "
            "refunds RESTART IDENTITY CASCADE"
        )
    return room_url
