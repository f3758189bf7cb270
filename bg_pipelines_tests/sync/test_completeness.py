"""A full pass takes nothing for gone that is there, loses nothing unseen, and is not made more often than it is needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from bg_pipelines.database.engine import Database
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.queues import Unit
from bg_pipelines.records import InventoryLevel, Page, ProductVariant, Resource
from bg_pipelines.sandbox import Sandbox
from bg_pipelines.sync import Summary, SyncRequest, SyncRun, table_sync
from bg_pipelines.sync.completeness import count_held
from bg_pipelines_tests.support import Scripted, product, query, wait_for, with_limits
from bg_pipelines_tests.sync.test_customer_sync import (
    Script,
    alive,
    at,
    line,
    order,
    page,
    run_script,
    the_proof,
)

__all__ = ["run_script"]

LATER = "2030-01-01T00:00:00Z"


def orders(*numbers: int, minute: int = 0, **options: Any) -> Page:
    """A page of these orders, with a line each."""
    return page(*((order(n, minute), [line(order(n, minute), 1)]) for n in numbers), **options)


def errors(summary: Any) -> list[ErrorType]:
    return [failure.error.error_type for failure in summary.failures]


def cursor(database: Database) -> dict[str, Any]:
    [row] = query(database, "SELECT cursor FROM sync_states WHERE resource = 'orders'")
    return row["cursor"]


# What is gone


def still_there(monkeypatch: pytest.MonkeyPatch, **there: str) -> list[list[str]]:
    """Orders that the platform has, by id and time, though its list leaves them out; returns what it was asked for."""
    asked: list[list[str]] = []

    def rows(self: Scripted, resource: Resource, external_ids: Sequence[str]) -> Page:
        asked.append(list(external_ids))
        found = [
            order(int(one[1:]))._replace(source_updated_at=there[one]) for one in external_ids if one in there
        ]
        gone = [one for one in external_ids if one not in there]
        return page(*((one, [line(one, 1)]) for one in found), gone=gone)

    monkeypatch.setattr(Scripted, "rows", rows)
    return asked


def test_what_a_list_leaves_out_is_asked_for_and_only_what_is_gone_there_goes(
    run_script: Script, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_script(orders(*range(300), source_count=300))
    asked = still_there(monkeypatch, O0=at(0), O1=LATER)
    summary = run_script(orders(*range(4, 300), source_count=298), force=True)
    assert summary.failures == []
    assert asked == [["O0", "O1", "O2", "O3"]]
    assert alive(database, "orders") == {f"O{n}" for n in range(300)} - {"O2", "O3"}
    assert alive(database, "order_lines") == {f"O{n}-1" for n in range(300)} - {"O2-1", "O3-1"}
    assert summary.units[Unit.ORDERS].counts.deleted == 4, "two orders and their lines"
    assert the_proof(database)["tables"]["orders"]["rows"] == 298


def test_where_many_were_not_met_and_the_counts_agree_somebody_has_cleared_out(
    run_script: Script, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_script(orders(*range(60), source_count=60))
    asked = still_there(monkeypatch)
    assert run_script(orders(*range(30), source_count=30), force=True, asked_anyway=20).failures == []
    assert (len(alive(database, "orders")), asked) == (30, [])
    assert errors(run_script(orders(*range(5), source_count=30), force=True, asked_anyway=20)) == [
        ErrorType.COUNT_MISMATCH
    ]
    assert len(alive(database, "orders")) == 30


@pytest.mark.parametrize("counted", [True, False])
def test_where_many_were_not_met_and_no_count_agrees_all_are_asked_for(
    run_script: Script, database: Database, monkeypatch: pytest.MonkeyPatch, counted: bool
) -> None:
    count = 3000 if counted else None
    run_script(orders(*range(3000), source_count=count))
    asked = still_there(monkeypatch, **{f"O{n}": at(0) for n in range(3000)})
    left_out = 25 if counted else 150  # a hundredth is within what a busy shop may differ by
    assert (
        run_script(orders(*range(left_out, 3000), source_count=count), force=True, asked_anyway=20).failures
        == []
    )
    assert sum(map(len, asked)) == left_out
    assert len(alive(database, "orders")) == 3000


def test_a_row_whose_newer_version_could_not_be_loaded_is_asked_for_too(
    run_script: Script, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_script(orders(*range(10), source_count=10))
    run_script(page((order(3, 5, total="ten"), []), source_count=10))
    asked = still_there(monkeypatch, O3=at(6))
    rest = [number for number in range(10) if number not in (3, 4)]
    assert run_script(orders(*rest, source_count=9), force=True).failures == []
    assert asked == [["O3", "O4"]]
    assert alive(database, "orders") == {f"O{n}" for n in range(10)} - {"O4"}
    assert query(database, "SELECT 1 FROM rejected_rows") == []


def test_a_run_that_is_stopped_while_it_asks_goes_on_there(
    run_script: Script, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_script(orders(*range(10), source_count=10))

    def fail(self: Scripted, resource: Resource, external_ids: Sequence[str]) -> Page:
        raise IntegrationError.of(ErrorType.TIMEOUT, "no answer", source="shopify")

    monkeypatch.setattr(Scripted, "rows", fail)
    assert errors(run_script(orders(*range(8), source_count=8), force=True)) == [ErrorType.TIMEOUT]
    assert len(alive(database, "orders")) == 10
    still_there(monkeypatch)
    assert run_script().failures == [], "no page is read again"
    assert len(alive(database, "orders")) == 8


def test_a_line_that_an_old_export_brings_to_a_deleted_order_lives_no_longer_than_the_order(
    run_script: Script, database: Database
) -> None:
    run_script(orders(*range(20)))

    def delete() -> None:
        wait_for(lambda: read_so_far(database) >= 10)
        for table, key in (("orders", "external_id"), ("order_lines", "order_external_id")):
            query(database, f"UPDATE {table} SET deleted_at = now(), synced_at = now() WHERE {key} = 'O15'")

    exported = order(15, 30)
    rest = [number for number in range(12, 20) if number != 15]
    brought = page((exported, [line(exported, 1), line(exported, 2)]), resume="3")
    pages = (orders(*range(10), resume="1"), orders(10, 11, resume="2"), delete, brought, orders(*rest))
    assert run_script(*pages, load_rows=5, force=True).failures == []
    assert run_script(orders(*range(12), *rest), force=True).failures == []
    assert alive(database, "order_lines") == {f"O{n}-1" for n in range(20)} - {"O15-1"}


def read_so_far(database: Database, resource: str = "orders") -> int:
    [row] = query(
        database,
        "SELECT coalesce((cursor -> 'full_pass' ->> 'read')::int, 0) AS read FROM sync_states WHERE resource = %s",
        resource,
    )
    return int(row["read"])


@pytest.mark.parametrize("held", [5, 0])
def test_told_of_five_and_shown_none_nothing_is_taken_for_gone_and_it_fails(
    run_script: Script, database: Database, held: int
) -> None:
    run_script(orders(*range(held), source_count=held))
    assert errors(run_script(page(source_count=5), force=True)) == [ErrorType.COUNT_MISMATCH]
    assert len(alive(database, "orders")) == held


def test_a_shop_that_shows_no_order_of_its_age_any_more_is_no_failure(
    run_script: Script, database: Database
) -> None:
    run_script(orders(1, 2))
    quiet = page(listed_since=datetime(2026, 6, 1, tzinfo=UTC))
    assert run_script(quiet, force=True).failures == []
    assert alive(database, "orders") == {"O1", "O2"}


def test_a_line_that_could_not_be_loaded_and_then_goes_takes_its_earlier_version_with_it(
    run_script: Script, database: Database
) -> None:
    first, second, third = order(1, 1), order(1, 5), order(1, 6)
    run_script(page((first, [line(first, 1), line(first, 2)])))
    run_script(page((second, [line(second, 1), line(second, 2)._replace(total="five")])))
    run_script(page((third, [line(third, 1)])))
    assert alive(database, "order_lines") == {"O1-1", "O1-2"}
    assert run_script(page((third, [line(third, 1)])), force=True).failures == []
    assert alive(database, "order_lines") == {"O1-1"}
    assert query(database, "SELECT * FROM rejected_rows") == []


def test_what_could_not_be_loaded_is_not_forgotten_because_it_is_not_listed_for_its_age(
    run_script: Script, database: Database
) -> None:
    bad = order(1, 1, total="ten")._replace(source_created_at=at(1))
    new = order(20, 20)._replace(source_created_at=at(20))
    run_script(page((bad, [line(bad, 1)]), (new, [])))
    run_script(page((new, []), listed_since=datetime(2026, 1, 1, 0, 10, tzinfo=UTC)), force=True)
    assert [row["external_id"] for row in query(database, "SELECT * FROM rejected_rows")] == ["O1"]


# The proof


def test_a_row_that_changes_during_the_pass_excuses_no_other_one(
    run_script: Script, database: Database
) -> None:
    fresh = order(99)._replace(source_updated_at=LATER)

    def lose() -> None:
        wait_for(lambda: alive(database, "orders") >= {"O3"})
        query(database, "DELETE FROM order_lines WHERE external_id = 'O3-1'")

    pages = (orders(*range(10), resume="1"), orders(*range(10, 20), resume="2"))
    last = page((fresh, [line(fresh, 1)]))
    assert errors(run_script(*pages, lose, last, load_rows=5)) == [ErrorType.COUNT_MISMATCH]
    assert run_script(*pages, last, load_rows=5).failures == []
    proved = the_proof(database)
    assert (proved["tables"]["orders"]["rows"], proved["tables"]["order_lines"]["rows"]) == (21, 21)
    assert proved["changed_meanwhile"] == 0


def test_a_row_that_is_read_again_in_a_newer_version_counts_once(
    run_script: Script, database: Database
) -> None:
    newer = order(3)._replace(source_updated_at=LATER)
    newest = order(3)._replace(source_updated_at="2031-01-01T00:00:00Z")
    pages = [orders(*range(10), resume="1"), orders(*range(10, 20), resume="2")]
    for version, token in ((newer, "3"), (newest, None)):
        pages.append(page((version, [line(version, 1), line(version, 2)]), resume=token))
    for force in (False, True):
        assert run_script(*pages, load_rows=5, force=force).failures == []
        assert the_proof(database)["changed_meanwhile"] == 0
        assert the_proof(database)["tables"]["order_lines"]["rows"] == 21
        query(database, "DELETE FROM orders WHERE external_id = 'O3'")
        query(database, "DELETE FROM order_lines WHERE order_external_id = 'O3'")


def unloadable(number: int) -> Any:
    return order(number)._replace(total="more than there is")


TWICE: dict[str, Sequence[Sequence[Any]]] = {
    # What is listed by each page, all of them of one commit each.
    "as it was": [[order(1), order(2)], [order(3)], [order(1), order(4)]],
    "thrice": [[order(1)], [order(1), order(2)], [order(1)]],
    "alone": [[order(1)], [order(1)]],
    "first unloadable": [[unloadable(1), order(2)], [order(1)]],
    "then unloadable": [[order(1), order(2)], [unloadable(1)]],
    "both unloadable": [[unloadable(1), order(2)], [unloadable(1)]],
    "in one commit, once unloadable": [[order(1), unloadable(1), order(2)], [order(3)]],
}


@pytest.mark.parametrize("case", TWICE)
def test_a_row_that_is_listed_twice_is_one_row_whatever_became_of_it(
    run_script: Script, database: Database, case: str
) -> None:
    rows = TWICE[case]
    ids = {row.external_id for listed in rows for row in listed}

    def pages() -> list[Page]:
        tokens = [*(str(number) for number in range(1, len(rows))), None]
        return [
            page(*((row, [line(row, 1)]) for row in listed), resume=token)
            for listed, token in zip(rows, tokens, strict=True)
        ]

    # Into an empty table, over what is held, and over a version that has changed since.
    for change in (
        "SELECT 1",
        "SELECT 1",
        "UPDATE orders SET source_updated_at = source_updated_at - interval '1 day'",
    ):
        query(database, change)
        assert run_script(*pages(), load_rows=1, force=True).failures == []
        rejected = {row["external_id"] for row in query(database, "SELECT external_id FROM rejected_rows")}
        assert alive(database, "orders") | rejected == ids
        assert rejected == (set() if case in ("as it was", "thrice", "alone", "first unloadable") else {"O1"})


def test_a_row_that_is_listed_twice_excuses_no_other(run_script: Script, database: Database) -> None:
    def lose() -> None:
        wait_for(lambda: alive(database, "orders") >= {"O2"})
        query(database, "DELETE FROM orders WHERE external_id = 'O2'")

    pages = (orders(1, 2, resume="1"), orders(3, resume="2"), lose, orders(1))
    assert errors(run_script(*pages, load_rows=1)) == [ErrorType.COUNT_MISMATCH]


def test_a_row_that_another_way_wrote_newer_meanwhile_is_told_of_and_excuses_itself_alone(
    run_script: Script, database: Database
) -> None:
    pages = (orders(*range(10), resume="1"), orders(*range(10, 20), resume="2"))

    def write(also: str) -> Callable[[], None]:
        def act() -> None:
            wait_for(lambda: alive(database, "orders") >= {"O3"})
            for table, key in (("orders", "external_id"), ("order_lines", "order_external_id")):
                query(database, f"UPDATE {table} SET source_updated_at = %s WHERE {key} = 'O3'", LATER)
            query(database, also)

        return act

    last = orders(20)
    lost = "DELETE FROM orders WHERE external_id = 'O5'"
    assert errors(run_script(*pages, write(lost), last, load_rows=5)) == [ErrorType.COUNT_MISMATCH]
    query(database, "DELETE FROM orders")
    query(database, "DELETE FROM order_lines")
    assert run_script(*pages, write("SELECT 1"), last, load_rows=5).failures == []
    assert the_proof(database)["changed_meanwhile"] == 1

    # Nor does it excuse lines of others.
    query(database, "DELETE FROM orders")
    query(database, "DELETE FROM order_lines")
    lost = "DELETE FROM order_lines WHERE order_external_id IN ('O5', 'O6', 'O7', 'O8')"
    assert errors(run_script(*pages, write(lost), last, load_rows=5, force=True)) == [
        ErrorType.COUNT_MISMATCH
    ]


def test_stock_that_goes_with_its_product_while_it_is_read_fails_no_pass(
    make_sandbox: Callable[..., Sandbox],
    add_shops: Callable[[Sandbox], list[str]],
    database: Database,
    cipher: Cipher,
) -> None:
    [name] = add_shops(make_sandbox(shops=1, variants=1))

    def run(unit: Unit, *pages: Any, **options: Any) -> Summary:
        request = SyncRequest((unit,), stores=(name,), force=True)
        platform: Any = Scripted(list(pages))
        connect = lambda access, sleep: platform  # noqa: E731
        return SyncRun(
            database,
            cipher,
            request,
            run_id=unit,
            connect=connect,
            log=lambda _: None,
            **with_limits(options),
        ).run()

    def of(make: Callable[[int], Any], *numbers: int, **options: Any) -> Page:
        return Page(len(numbers), [make(number) for number in numbers], **options)

    def level(number: int) -> InventoryLevel:
        return InventoryLevel(f"L{number}", at(0), f"I{number}", "P", 1, 1, 0, 0)

    def variant(number: int) -> ProductVariant:
        return ProductVariant(
            f"V{number}", at(0), str(number), f"I{number}", "t", None, None, 1, "1.0", None, "EUR"
        )

    run(Unit.PRODUCTS, of(product, *range(30)))
    run(Unit.PRODUCT_VARIANTS, of(variant, *range(30)))

    def gone() -> None:
        wait_for(lambda: read_so_far(database, "inventory_levels") >= 10)
        assert run(Unit.PRODUCTS, of(product, *range(1, 30))).failures == []

    first, second, last = (range(start, start + 10) for start in (0, 10, 20))
    pages = (of(level, *first, resume="1"), of(level, *second, resume="2"), gone, of(level, *last))
    assert run(Unit.INVENTORY_LEVELS, *pages, load_rows=5).failures == []
    assert alive(database, "inventory_levels") == {f"L{n}" for n in range(1, 30)}


@pytest.mark.parametrize("deleted", [False, True])
def test_a_row_with_a_later_time_than_it_has_at_the_source_is_set_back(
    run_script: Script, database: Database, deleted: bool
) -> None:
    run_script(orders(*range(10), source_count=10))
    for table, key in (("orders", "external_id"), ("order_lines", "order_external_id")):
        query(
            database,
            f"UPDATE {table} SET source_updated_at = '2026-02-01T00:00:00Z', "
            f"deleted_at = CASE WHEN %s THEN now() - interval '1 hour' END WHERE {key} = 'O3'",
            deleted,
        )
    assert run_script(orders(*range(10), source_count=10), force=True).failures == []
    assert (len(alive(database, "orders")), len(alive(database, "order_lines"))) == (10, 10)
    assert query(database, "SELECT 1 FROM orders WHERE source_updated_at > '2026-01-15'") == []


@pytest.mark.parametrize(
    "time",
    ["2026-01-01 00:00:00Z", "2026-01-01T00:00:00+02:00", "2026-01-01T00:00:00.5Z", "20260101T000000Z"],
)
def test_a_time_may_be_written_otherwise(run_script: Script, database: Database, time: str) -> None:
    one = order(1)._replace(source_updated_at=time)
    for _ in range(2):
        assert run_script(page((one, [line(one, 1)]), (order(2), [])), force=True).failures == []


def test_an_order_that_is_listed_although_it_is_older_than_what_is_listed_fails_no_pass(
    run_script: Script, database: Database
) -> None:
    since = datetime(2026, 1, 1, 0, 10, tzinfo=UTC)
    one, older = (order(n)._replace(source_created_at=at(minute)) for n, minute in ((1, 10), (2, 9)))
    pages = (page((one, []), listed_since=since, resume="1"), page((older, []), listed_since=since))
    for _ in range(2):
        assert run_script(*pages, force=True).failures == []


# Counts


def test_rows_that_come_while_pages_of_changes_are_read_are_no_deletion(
    run_script: Script, database: Database
) -> None:
    run_script(orders(1, 2, 3, source_count=3))
    pages = (orders(1, minute=5, resume="1", source_count=3), orders(2, 4, minute=5, source_count=4))
    assert run_script(*pages).units[Unit.ORDERS].pages == 2
    assert alive(database, "orders") == {"O1", "O2", "O3", "O4"}


def test_of_the_rows_that_a_search_is_late_with_each_has_its_time(
    run_script: Script, database: Database
) -> None:
    run_script(orders(1, 2, 3, source_count=3))
    run_script(page(source_count=4))  # O4 is counted, and not found yet
    late = run_script(orders(4, minute=5, source_count=5))  # O4 is found, O5 is counted
    assert late.units[Unit.ORDERS].pages == 1
    lost = run_script(page(source_count=5), orders(1, 2, 3, 4, 5, minute=5, source_count=5))
    assert lost.units[Unit.ORDERS].pages == 2, "O5 had its time: everything is read"
    assert alive(database, "orders") == {f"O{n}" for n in range(1, 6)}


def test_rows_that_are_counted_and_never_listed_cost_one_more_full_pass_and_are_told_of(
    run_script: Script, database: Database
) -> None:
    told: list[str] = []
    everything = orders(1, 2, 3, source_count=4)
    run_script(everything)
    assert "unlisted" not in cursor(database)
    run_script(page(source_count=4), everything, log=told.append)
    assert cursor(database)["unlisted"] == 1
    assert "shopify counts 1 orders that it does not list" in " ".join(told)
    for _ in range(3):
        assert run_script(page(source_count=4)).units[Unit.ORDERS].pages == 1


def test_what_is_counted_and_not_listed_is_learnt_in_a_busy_shop_and_unlearnt_too(
    run_script: Script, database: Database
) -> None:
    def visit(listed: int, uncounted: int) -> int:
        """One in which nothing has changed; if all is read, an order comes meanwhile. Returns how many there are."""
        count = listed + uncounted
        everything = (
            orders(*range(listed), source_count=count, resume="1"),
            orders(listed, source_count=count + 1),
        )
        summary = run_script(page(source_count=count), *everything)
        assert summary.failures == []
        return listed + (summary.units[Unit.ORDERS].pages > 1)

    run_script(orders(*range(99), source_count=100, resume="1"), orders(99, source_count=101))
    listed = 100
    for _ in range(8):
        listed = visit(listed, uncounted=1)
    assert (listed, cursor(database)["unlisted"]) == (101, 1)
    for _ in range(8):
        listed = visit(listed, uncounted=0)
    assert (listed, "unlisted" in cursor(database)) == (102, False)


def test_what_is_held_is_counted_only_when_something_has_moved(
    run_script: Script, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[int] = []

    def count(connection: Any, table: str, store_id: int) -> int:
        counted.append(count_held(connection, table, store_id))
        return counted[-1]

    monkeypatch.setattr(table_sync, "count_held", count)
    run_script(orders(1, 2, 3, source_count=3))
    for _ in range(3):
        run_script(orders(1, minute=5, source_count=3))
    assert counted == [3, 3], "after the full pass, and once more"
    run_script(orders(4, minute=6, source_count=4))
    run_script(page(source_count=4))
    assert counted == [3, 3, 4]
    gone = run_script(page(source_count=3), orders(1, 2, 3, minute=7, source_count=3))
    assert gone.units[Unit.ORDERS].pages == 3, "what changed, everything, and what was not met"
    assert alive(database, "orders") == {"O1", "O2", "O3"}


def test_a_large_resource_is_not_read_whole_at_each_deletion(
    run_script: Script, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_script(orders(*range(10), source_count=10))
    assert run_script(page(source_count=9), large_rows=5).units[Unit.ORDERS].pages == 1
    query(database, "UPDATE sync_states SET last_full_at = last_full_at - interval '1 hour'")
    run_script(page(source_count=9), orders(*range(9), source_count=9), large_rows=5)
    assert len(alive(database, "orders")) == 9


# What is kept, and when


def test_a_platform_without_a_page_is_an_error_by_its_name(run_script: Script, database: Database) -> None:
    assert errors(run_script()) == [ErrorType.MALFORMED_RESPONSE]


def test_what_was_read_before_the_platform_failed_is_kept(run_script: Script, database: Database) -> None:
    def fail() -> None:
        raise IntegrationError.of(ErrorType.TIMEOUT, "no answer", source="shopify")

    pages = (orders(1, resume="1", source_count=3), orders(2, resume="2", source_count=3))
    assert errors(run_script(*pages, fail)) == [ErrorType.TIMEOUT]
    assert alive(database, "orders") == {"O1", "O2"}
    [row] = query(database, "SELECT attempts FROM sync_states WHERE resource = 'orders'")
    assert row["attempts"] == 1
    assert errors(run_script(orders(3, resume="3"), fail)) == [ErrorType.TIMEOUT]
    [row] = query(database, "SELECT attempts FROM sync_states WHERE resource = 'orders'")
    assert row["attempts"] == 1, "who gets further uses up no try"


def test_orders_of_hundreds_of_lines_are_committed_before_they_fill_the_memory(
    run_script: Script, database: Database
) -> None:
    held: list[int] = []

    def heavy(number: int) -> Page:
        ten = [order(number * 10 + i) for i in range(10)]
        return page(*((one, [line(one, i) for i in range(500)]) for one in ten), resume=str(number))

    script: list[Any] = []
    for number in range(12):
        script += [heavy(number), lambda: held.append(len(alive(database, "orders")))]
    assert run_script(*script, orders(1000)).failures == []
    assert held[-1] > 0, "60,000 lines were read and none was committed"
    assert len(alive(database, "order_lines")) == 60_001
