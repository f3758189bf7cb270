"""Events are kept as long as they are of use, and no longer."""

from __future__ import annotations

from datetime import timedelta

from bg_pipelines.database.engine import Database
from bg_pipelines.webhooks.retention import clean_inbox, is_overdue
from bg_pipelines_tests.support import query
from bg_pipelines_tests.webhooks.conftest import Handle

AGES = {
    "handled": timedelta(days=2, hours=23),
    "passed_on": timedelta(days=2, hours=23),
    "ignored": timedelta(days=2, hours=23),
    "not_understood": timedelta(hours=23),
    "pending": timedelta(days=29),
}
"""By status, what is still kept."""


def put(database: Database, status: str, age: timedelta, *, due: bool = False) -> None:
    query(
        database,
        "INSERT INTO webhook_events (store_id, source, topic, webhook_id, status, received_at, next_due_at) "
        "VALUES (1, 'shopify', 'orders/updated', gen_random_uuid(), %s, now() - %s, CASE WHEN %s THEN now() END)",
        status,
        age,
        due,
    )


def kept(database: Database) -> dict[str, int]:
    return {
        row["status"]: row["n"]
        for row in query(database, "SELECT status, count(*)::int AS n FROM webhook_events GROUP BY status")
    }


def test_what_is_done_goes_after_days_and_what_failed_after_a_month(database: Database) -> None:
    for status, age in AGES.items():
        put(database, status, age)
        for _ in range(5):
            put(database, status, age + timedelta(days=1, hours=2))
    put(database, "pending", timedelta(days=40), due=True)
    deleted = clean_inbox(database, rows=2)
    assert deleted == dict.fromkeys(AGES, 5)
    assert kept(database) == dict.fromkeys(AGES, 1) | {"pending": 2}, "what is due is never too old"
    with database.transaction() as connection:
        assert not is_overdue(connection)


def test_cleaning_ends_when_its_time_is_over_and_goes_on_later(database: Database) -> None:
    for _ in range(4):
        put(database, "handled", timedelta(days=4))
    answers = iter([True])
    assert clean_inbox(database, may_go_on=lambda: next(answers, False), rows=1) == {"handled": 1}
    with database.transaction() as connection:
        assert is_overdue(connection)


def test_a_run_cleans_at_its_end(database: Database, handle: Handle) -> None:
    put(database, "handled", timedelta(days=4))
    put(database, "not_understood", timedelta(days=4))
    lines: list[str] = []
    handle(log=lines.append)
    assert kept(database) == {}
    assert lines == ["1 old rows deleted: handled", "1 old rows deleted: not understood"]
