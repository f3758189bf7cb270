"""A sync as its users rely on it: all of the source, only what is due, one store's fault its own."""

from __future__ import annotations

from collections.abc import Callable

from bg_pipelines.database.engine import Database
from bg_pipelines.platforms.base import Resource
from bg_pipelines.sandbox import Fault, Sandbox
from bg_pipelines.sync import Summary
from bg_pipelines_tests.conftest import assert_equal_to_source

Sync = Callable[..., Summary]


def test_a_first_sync_holds_exactly_what_the_source_holds(
    make_sandbox: Callable[..., Sandbox], add_shops: Callable[..., list[str]], sync: Sync, database: Database
) -> None:
    sandbox = make_sandbox(shops=3, variants=700)
    add_shops(sandbox)
    summary = sync()
    assert (summary.total, summary.complete, summary.failures) == (3, 3, [])
    assert_equal_to_source(database, sandbox)
