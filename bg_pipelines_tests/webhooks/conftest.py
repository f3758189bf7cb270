"""One database for the room, emptied before each test."""

from __future__ import annotations

import pytest


@pytest.fixture
def database_url(emptied_database_url: str) -> str:
    return emptied_database_url
