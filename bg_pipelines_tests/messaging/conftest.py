"""A sandbox that speaks Twilio and takes notifications."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bg_pipelines.sandbox import Sandbox


@pytest.fixture
def sandbox(make_sandbox: Callable[..., Sandbox]) -> Sandbox:
    return make_sandbox(shops=1, variants=1)
