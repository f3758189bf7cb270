"""Every table and every column has an answer to what erasure does to it, and the page for people is made of them."""

from __future__ import annotations

import re
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from bg_pipelines.database.engine import Database
from bg_pipelines.database.models import Base, Claimed
from bg_pipelines.database.secrets import ENCRYPTED
from bg_pipelines.privacy.subjects import Subject
from bg_pipelines.privacy.tables import ANSWERS
from bg_pipelines_tests.support import PROJECT

PAGE = PROJECT / "docs" / "privacy.md"
HEAD = "| table | what it holds of customers | a customer is erased | a store is erased |\n| --- | --- | --- | --- |\n"
CLAIMED = {"lease_owner", "last_error", "retry_strategy", "retry_reason"}
PERSONAL = [name for name, answer in ANSWERS.items() if answer.of_customer]


def page_table() -> str:
    """The table of docs/privacy.md."""
    lines = []
    for name, answer in sorted(ANSWERS.items()):
        emptied = (
            f"emptied: {', '.join(f'`{column}`' for column in answer.emptied)}" if answer.emptied else ""
        )
        if answer.searched:
            emptied = f"`{answer.searched}` of what names them is emptied"
        does = ". ".join(filter(None, (emptied, answer.otherwise))) or "nothing"
        lines.append(f"| `{name}` | {answer.holds} | {does} | {answer.stays or 'deleted'} |\n")
    return HEAD + "".join(lines)


def test_every_table_has_an_answer_and_no_answer_is_of_a_table_that_is_none() -> None:
    assert set(ANSWERS) == set(Base.metadata.tables), "say in privacy/tables.py what erasure does to it"


@pytest.mark.parametrize("table", PERSONAL)
def test_every_column_that_may_hold_a_text_is_emptied_or_said_to_be_not_personal(table: str) -> None:
    answer, columns = ANSWERS[table], Base.metadata.tables[table].columns
    claimed = CLAIMED if any(model.__table__.name == table for model in Claimed.__subclasses__()) else set()  # type: ignore[attr-defined]
    free = {
        column.name
        for column in columns
        if isinstance(column.type, sa.Text | JSONB | ARRAY | sa.LargeBinary)
        and not column.name.endswith("external_id")
        and column.name not in claimed
    }
    said = {*answer.emptied, *answer.kept, *([answer.searched] if answer.searched else [])}
    assert free <= said, f"say in privacy/tables.py what becomes of {free - said}"
    assert said <= {column.name for column in columns}
    assert not set(answer.emptied) & set(answer.kept)


def test_who_holds_nothing_personal_says_so_and_who_stays_says_how() -> None:
    for table, answer in ANSWERS.items():
        assert answer.of_customer or answer.holds.startswith("nothing"), table
        assert bool(answer.stays) == (answer.of_store is None), table


def test_every_column_that_is_searched_is_one_that_is_encrypted() -> None:
    searched = {(table, answer.searched) for table, answer in ANSWERS.items() if answer.searched}
    assert searched <= set(ENCRYPTED)


def test_rows_of_a_customer_and_of_a_store_are_found_by_an_index(own_database: Database) -> None:
    """But for tables that are small for any store, a large table is never read through."""
    small = {"inventory_corrections", "person_decisions", "circuits", "people_queue"}
    values = Subject("c", ("o",), ("e",), ("p",)).parameters(1)
    with own_database.transaction() as connection:
        # An empty table is read through whatever its indexes are, unless that costs something.
        connection.execute("SET LOCAL enable_seqscan = off")
        for table, answer in ANSWERS.items():
            for condition in filter(None, (answer.of_customer, answer.of_store)):
                plan = explained(connection, f"SELECT FROM {table} t WHERE {condition}", values)
                assert table in small or "Seq Scan" not in plan, (table, plan)
        connection.rollback()


def explained(connection: psycopg.Connection[Any], statement: str, values: dict[str, Any]) -> str:
    return "\n".join(
        line for (line,) in psycopg.ClientCursor(connection).execute(f"EXPLAIN {statement}", values)
    )


def test_the_page_for_people_says_of_every_table_what_happens_to_it() -> None:
    assert page_table() in PAGE.read_text(), "run python -m bg_pipelines_tests.privacy.test_tables"


if __name__ == "__main__":
    text = PAGE.read_text()
    PAGE.write_text(
        re.sub(r"\| table \| what it holds.*?\n(?=\n|\Z)", lambda _: page_table(), text, flags=re.DOTALL)
    )
