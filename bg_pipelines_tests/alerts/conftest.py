"""One database for the room, emptied before each test; and a sandbox that takes text messages and notifications."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bg_pipelines.sandbox import Sandbox


@pytest.fixture
def database_url(emptied_database_url: str) -> str:
    return emptied_database_url


@pytest.fixture
def sandbox(make_sandbox: Callable[..., Sandbox]) -> Sandbox:
    return make_sandbox(shops=1, variants=1)
