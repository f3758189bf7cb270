"""Values of source rows: held in one spelling that PostgreSQL and Python read alike, or refused by their column."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, get_type_hints

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bg_pipelines import records
from bg_pipelines.database.models import Base
from bg_pipelines.platforms.http import parse_json
from bg_pipelines.sync.audit.compare import RECORDS
from bg_pipelines.values import columns_of, read_rows, read_time, time_text
from bg_pipelines_tests.database.test_load import product, variant
from bg_pipelines_tests.nasty import ALL, TIMES, as_json, traces

modest = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

# JSON brings no integer of so many digits, see below.
WRITABLE = sorted(ALL.keys() - {"number: 5,000 digits"})

HELD = {
    "2026-11-01T10:00:00.1234567Z": datetime(2026, 11, 1, 10, 0, 0, 123456, UTC),
    "2026-11-01t10:00:00z": datetime(2026, 11, 1, 10, tzinfo=UTC),
    "2016-12-31T23:59:60Z": datetime(2017, 1, 1, tzinfo=UTC),
    "2026-11-01T24:00:00Z": datetime(2026, 11, 2, tzinfo=UTC),
    "2026-11-01T10:00:00+14": datetime(2026, 10, 31, 20, tzinfo=UTC),
    "2026-11-01 10:00:00-0530": datetime(2026, 11, 1, 15, 30, tzinfo=UTC),
    "2026-11-01T10:00:00": datetime(2026, 11, 1, 10, tzinfo=UTC),
    "2026-11-01": datetime(2026, 11, 1, tzinfo=UTC),
    "0022-03-01T10:00:00Z": datetime(22, 3, 1, 10, tzinfo=UTC),
}


@pytest.mark.parametrize("text", HELD)
def test_a_time_that_means_one_moment_is_that_moment(text: str) -> None:
    assert read_time(text) == HELD[text]


REFUSED = [
    "20222-03-01T10:00:00Z",
    "9999-12-31T23:30:00-01:00",
    "0001-01-01T00:30:00+02:00",
    "2026-11-01T10:00:00Z BC",
    "infinity",
    "-infinity",
    "now",
    "2026-02-30T10:00:00Z",
    "2026-11-01T24:00:01Z",
    "2026-11-01T10:60:00Z",
    "1793527200",
    "",
]


@pytest.mark.parametrize("value", [*REFUSED, None, 5, 5.0, True, ["2026-11-01"], {}])
def test_a_time_that_is_none_or_cannot_be_read_again_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="is not a time"):
        read_time(value)


@pytest.mark.parametrize("name", TIMES)
def test_what_is_held_of_a_time_postgresql_and_python_read_alike(
    connection: psycopg.Connection[Any], name: str
) -> None:
    kept, refused = read_rows([product(source_updated_at=TIMES[name])])
    assert len(kept) + len(refused) == 1
    for row in kept:
        [held] = connection.execute("SELECT %s::timestamptz", (row.source_updated_at,)).fetchone() or ()
        assert held == datetime.fromisoformat(row.source_updated_at)


@modest
@given(
    st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29), timezones=st.timezones()),  # noqa: DTZ001
    st.sampled_from(["seconds", "milliseconds", "microseconds"]),
)
def test_any_moment_in_any_zone_is_read_as_that_moment(moment: datetime, precision: str) -> None:
    text = moment.isoformat(timespec=precision)
    assert read_time(text) == datetime.fromisoformat(text)
    [row], _ = read_rows([product(source_updated_at=text)])
    assert read_time(row.source_updated_at) == read_time(time_text(read_time(text)))


@modest
@given(st.lists(st.tuples(st.sampled_from(variant()._fields), st.sampled_from(WRITABLE)), max_size=8))
def test_wrong_rows_are_refused_by_their_column_whatever_stands_beside_them(
    dealt: list[tuple[str, str]],
) -> None:
    rows = [variant(number, **{column: ALL[name]}) for number, (column, name) in enumerate(dealt)]
    kept, refused = read_rows([variant("plain"), *rows])
    assert len(kept) + len(refused) == len(rows) + 1
    for row in rows:
        alone, refused_alone = read_rows([row])
        assert bool(alone) == any(one[0] == row[0] for one in kept)
        assert [one.reason for one in refused_alone] == [one.reason for one in refused if one.row is row]
    columns = dict(zip(map(id, rows), (column for column, _ in dealt), strict=True))
    assert all(one.reason.startswith(f"{columns[id(one.row)]}: ") for one in refused)
    assert traces("".join(one.reason for one in refused)) == []


def test_plain_rows_are_not_copied() -> None:
    rows = [variant(number) for number in range(3)]
    assert read_rows(rows)[0] is rows


@pytest.mark.parametrize("table", RECORDS)
def test_every_column_is_read_as_what_its_table_holds(table: str) -> None:
    kinds = {"TIMESTAMP": "time", "DATETIME": "time", "NUMERIC": "amount", "INTEGER": "whole"}
    for column in columns_of(RECORDS[table]):
        of_table = Base.metadata.tables[table].columns[column.name]
        hint = str(get_type_hints(RECORDS[table], include_extras=True)[column.name])
        wanted = kinds.get(of_table.type.__class__.__name__.upper())
        assert wanted is None or f"'{wanted}'" in hint, column.name
        assert ("Annotated" in hint) == (wanted is not None), column.name
        assert column.optional == of_table.nullable, column.name


def test_the_parts_of_an_order_are_records_too() -> None:
    assert {records.OrderLine, records.Refund} <= set(RECORDS.values())


def test_a_number_of_5000_digits_spoils_nothing_beside_it() -> None:
    content = {
        "rows": [{"id": "a", "position": ALL["number: 5,000 digits"]}, {"id": "b", "position": 2**53 + 1}]
    }
    [spoiled, plain] = parse_json(as_json(content))["rows"]
    assert plain == {"id": "b", "position": 2**53 + 1}
    _, [refused] = read_rows([variant(position=spoiled["position"])])
    assert refused.reason == "position: must be a whole number and is not"
