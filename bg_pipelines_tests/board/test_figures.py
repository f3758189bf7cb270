"""Figures are computed once for all who look, and none of before a change is shown after it."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from bg_pipelines.board import figures
from bg_pipelines.board.figures import FRESH_SECONDS, USABLE_SECONDS, Cache, Figures
from bg_pipelines.database.engine import Database
from bg_pipelines_tests.board.conftest import Board
from bg_pipelines_tests.support import PATIENCE, query, wait_for


@pytest.fixture
def now() -> list[float]:
    return [1_000.0]


@pytest.fixture
def cache(board: Board, now: list[float]) -> Iterator[Cache]:
    cache = Cache(board.database, board.database, clock=lambda: now[0])
    yield cache
    cache.close()


def test_figures_of_a_moment_ago_are_shown_while_they_are_computed_anew(
    cache: Cache, now: list[float]
) -> None:
    first = cache.read()
    assert cache.read() is first
    now[0] += FRESH_SECONDS
    assert cache.read() is first, "nobody waits"
    wait_for(lambda: cache.read() is not first)
    second = cache.read()
    now[0] += USABLE_SECONDS
    assert cache.read() is not second, "too old to be shown: whoever looks waits"


def test_all_who_look_at_the_same_time_get_the_same(cache: Cache) -> None:
    seen: list[Figures] = []
    threads = [threading.Thread(target=lambda: seen.append(cache.read())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(seen) == 8
    assert len({id(one) for one in seen}) == 1


def test_after_a_change_what_is_acted_on_is_read_anew_at_once_and_the_sums_follow(
    board: Board, cache: Cache
) -> None:
    cache.read()
    for number in range(1, 26):
        reading = threading.Thread(target=cache.read)
        reading.start()
        query(
            board.database,
            "INSERT INTO stores (name, platform, domain, credentials, paused_at) VALUES (%s, 'shopify', %s, '', now())",
            f"shop-{number}",
            f"shop-{number}",
        )
        cache.changed()
        assert len(cache.read().status.paused) == number
        reading.join(PATIENCE)
        assert len(cache.read().status.paused) == number, "what began before the change is not shown"
    wait_for(lambda: cache.read().status.metrics.stores_paused == 25)


def test_figures_are_kept_warm_for_who_comes_after_a_pause(
    cache: Cache, now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "WARM_SECONDS", 0.01)
    first = cache.read()
    now[0] += FRESH_SECONDS
    cache.keep_warm()
    wait_for(lambda: cache._held is not first)
    second = cache._held
    now[0] += FRESH_SECONDS
    wait_for(lambda: cache._held is not second)


def test_a_database_that_comes_back_is_asked_again(board: Board) -> None:
    away = Database("postgresql://nobody@127.0.0.1:1/none", pool_size=1)
    cache = Cache(away, away)
    for _ in range(2):
        with pytest.raises(Exception, match="not available"):
            cache.read()
    cache._database = board.database
    assert cache.read().status.metrics.stores_total == 0
    cache.close()
    away.close()
