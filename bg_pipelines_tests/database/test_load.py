"""Loading as a table's readers rely on it: the newest source wins, nothing is lost, what cannot load is named."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from psycopg.rows import dict_row

from bg_pipelines.database.engine import Database
from bg_pipelines.database.load import VALUES_AS_ARRAYS, Changes, Counts, load
from bg_pipelines.database.secrets import Cipher
from bg_pipelines.errors import IntegrationError
from bg_pipelines.records import (
    Customer,
    InventoryLevel,
    Location,
    Order,
    OrderLine,
    Product,
    ProductVariant,
    Refund,
    Reject,
)
from bg_pipelines.sync.deletions import mark_deleted, mark_not_listed_deleted
from bg_pipelines.sync.rejects import keep_rejects
from bg_pipelines.webhooks.carts import CARTS, ITEMS, CartRecord, ItemRecord

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
FAR_OFF = datetime(2099, 1, 1, tzinfo=UTC)

# Each example has a store of its own, so one transaction serves them all.
modest = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def at(minutes: int) -> str:
    return (NOON + timedelta(minutes=minutes)).strftime("%Y-%m-%dT%H:%M:%SZ")


def variant(number: object = 1, minutes: int = 0, **values: Any) -> ProductVariant:
    record = ProductVariant(
        external_id=f"gid://shopify/ProductVariant/{number}",
        source_updated_at=at(minutes),
        product_external_id="gid://shopify/Product/1",
        inventory_item_external_id="gid://shopify/InventoryItem/1",
        title="Small",
        sku="SKU-1",
        barcode=None,
        position=1,
        price="9.90",
        compare_at_price=None,
        currency="EUR",
    )
    return record._replace(**values)


def product(number: object = 1, **values: Any) -> Product:
    record = Product(
        external_id=f"gid://shopify/Product/{number}",
        source_updated_at=at(0),
        title="Lamp",
        handle="lamp",
        status="ACTIVE",
        vendor="Harbor",
        product_type="lamps",
        tags=[],
        source_created_at=at(0),
    )
    return record._replace(**values)


class Shelf:
    """One store's rows, on one connection. `into_empty` is what is said of the table, rightly or not; `staged` that few rows come
    as many do."""

    def __init__(
        self,
        connection: psycopg.Connection[Any],
        cipher: Cipher,
        *,
        into_empty: bool = False,
        staged: bool = False,
    ) -> None:
        self.connection = connection
        self.into_empty = into_empty
        self.values_as_arrays = 0 if staged else VALUES_AS_ARRAYS
        self.cipher = cipher
        row = connection.execute(
            "INSERT INTO stores (name, platform, domain, credentials) "
            "VALUES (gen_random_uuid()::text, 'shopify', gen_random_uuid()::text, '') RETURNING id"
        ).fetchone()
        assert row is not None
        self.store: int = row[0]

    def load(
        self,
        *records: Any,
        seen_at: datetime = FAR_OFF,
        confirm_before: datetime | None = None,
    ) -> tuple[Counts, list[Reject]]:
        """Load and keep what was rejected, as a sync does; what was written is then in `changes`."""
        rejects: list[Reject] = []
        changes: list[Changes] = []
        counts = load(
            self.connection,
            self.table(records),
            self.store,
            records,
            seen_at=seen_at,
            confirm_before=confirm_before,
            into_empty=self.into_empty,
            reject=rejects.append,
            wrote=changes.append,
            values_as_arrays=self.values_as_arrays,
        )
        self.changes = Changes.of(changes)
        assert counts.read == len(records)
        assert counts.read == counts.inserted + counts.updated + counts.unchanged + counts.rejected
        assert counts.rejected == len(rejects)
        keep_rejects(self.connection, self.cipher, self.table(records), self.store, rejects)
        return counts, rejects

    def confirmed(self) -> list[str]:
        rows = self.connection.execute(
            "SELECT external_id FROM confirmed_rows WHERE store_id = %s ORDER BY external_id", (self.store,)
        )
        return [external_id for (external_id,) in rows]

    def table(self, records: Any) -> str:
        return "products" if records and isinstance(records[0], Product) else "product_variants"

    def rows(self, table: str = "product_variants") -> dict[str, dict[str, Any]]:
        with self.connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute(
                f"SELECT *, xmin::text, ctid::text FROM {table} WHERE store_id = %s", (self.store,)
            )
            return {row["external_id"]: row for row in cursor}

    def row(self, number: object = 1) -> dict[str, Any]:
        return self.rows()[variant(number).external_id]

    def rejected(self) -> list[dict[str, Any]]:
        with self.connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute("SELECT * FROM rejected_rows WHERE store_id = %s ORDER BY id", (self.store,))
            return cursor.fetchall()

    def set(self, number: object, **values: Any) -> None:
        for column, value in values.items():
            self.connection.execute(
                f"UPDATE product_variants SET {column} = %s WHERE store_id = %s AND external_id = %s",
                (value, self.store, variant(number).external_id),
            )


@pytest.fixture(params=["as arrays", "staged", "into an empty table, they say"])
def shelf(connection: psycopg.Connection[Any], cipher: Cipher, request: pytest.FixtureRequest) -> Shelf:
    way = request.param
    return Shelf(connection, cipher, into_empty=way.startswith("into"), staged=way == "staged")


# The newest source wins

BATCHES = st.lists(
    st.lists(
        st.builds(
            variant,
            st.integers(1, 4),
            st.integers(0, 3),
            price=st.sampled_from(["1.00", "2.50"]),
            sku=st.sampled_from([None, "", "SKU-1"]),
        ),
        max_size=8,
    ),
    max_size=4,
)


@modest
@given(batches=BATCHES, into_empty=st.booleans(), staged=st.booleans())
def test_whatever_the_order_the_newest_source_wins(
    connection: psycopg.Connection[Any],
    cipher: Cipher,
    batches: list[list[ProductVariant]],
    into_empty: bool,
    staged: bool,
) -> None:
    shelf = Shelf(connection, cipher, into_empty=into_empty, staged=staged)
    model: dict[str, ProductVariant] = {}
    for batch in batches:
        before = dict(model)
        for record in batch:
            held = model.get(record.external_id)
            if held is None or record.source_updated_at >= held.source_updated_at:
                model[record.external_id] = record
        counts, rejects = shelf.load(*batch)
        assert rejects == []
        assert counts.inserted == len(model) - len(before)
        assert counts.updated == sum(model[key] != before[key] for key in before)
        held_rows = {
            key: (row["source_updated_at"], row["price"], row["sku"]) for key, row in shelf.rows().items()
        }
        assert held_rows == {
            key: (datetime.fromisoformat(record.source_updated_at), Decimal(record.price), record.sku)
            for key, record in model.items()
        }


@modest
@given(batches=BATCHES)
def test_loading_the_same_again_writes_nothing(
    connection: psycopg.Connection[Any], cipher: Cipher, batches: list[list[ProductVariant]]
) -> None:
    shelf = Shelf(connection, cipher)
    for batch in batches:
        shelf.load(*batch)
        written = shelf.rows()
        counts, _ = shelf.load(*batch)
        assert counts == Counts(read=len(batch), unchanged=len(batch))
        assert shelf.rows() == written


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("2026-11-23T12:00:00Z", "2026-11-23T12:00:00.500Z"),
        ("2026-11-23T14:00:00+02:00", "2026-11-23T12:30:00Z"),
        ("2026-11-23T12:00:00.9Z", "2026-11-23T12:00:01Z"),
    ],
)
def test_of_two_in_a_batch_the_newer_moment_wins_however_it_is_written(
    shelf: Shelf, older: str, newer: str
) -> None:
    old = variant(source_updated_at=older, title="old")
    new = variant(source_updated_at=newer, title="new")
    shelf.load(old, new)
    assert shelf.row()["title"] == "new"
    shelf.load(new, old)
    assert shelf.row()["title"] == "new"


def test_a_row_reported_twice_in_a_batch_is_loaded_once(shelf: Shelf) -> None:
    counts, _ = shelf.load(variant(1, 5, title="new"), variant(1, 0, title="old"), variant(2))
    assert counts == Counts(read=3, inserted=2, unchanged=1)
    assert shelf.row(1)["title"] == "new"


def test_no_records_are_no_work(shelf: Shelf) -> None:
    assert shelf.load() == (Counts(), [])


def test_the_rows_that_were_written_are_told_with_their_times_and_no_other(
    connection: psycopg.Connection[Any], cipher: Cipher
) -> None:
    shelf = Shelf(connection, cipher)
    shelf.load(variant(1), variant(2, 5))
    assert shelf.changes is not None
    assert sorted(shelf.changes.changed_at) == [NOON, NOON + timedelta(minutes=5)]
    # One is as it was, one is older, one is refused: for its sake the batch is halved, and halved again.
    shelf.load(variant(1), variant(2, 4), variant(3, price="abc"), variant(4, 7), variant(5, 9))
    assert sorted(shelf.changes.changed_at) == [NOON + timedelta(minutes=n) for n in (7, 9)]
    assert shelf.changes.lags == [
        (shelf.changes.written_at - at).total_seconds() for at in shelf.changes.changed_at
    ]
    assert Changes(NOON, [NOON + timedelta(minutes=1)]).lags == [0.0]
    shelf.load(variant(1))
    assert shelf.changes is None


def test_a_row_that_once_came_with_a_time_far_ahead_is_set_back_by_whatever_comes(shelf: Shelf) -> None:
    shelf.load(variant(source_updated_at="2222-03-01T10:00:00Z", title="from the future"))
    assert shelf.row()["title"] == "from the future"
    counts, _ = shelf.load(variant(title="as it is"))
    assert (counts.updated, shelf.row()["title"]) == (1, "as it is")
    # Clocks may differ by a little: such a row is a newer version.
    shelf.set(1, source_updated_at=datetime.now(UTC) + timedelta(minutes=5), title="newer")
    shelf.load(variant(title="as it was"))
    assert shelf.row()["title"] == "newer"


def test_rows_of_other_stores_and_tables_are_left_alone(
    shelf: Shelf, connection: psycopg.Connection[Any], cipher: Cipher
) -> None:
    other = Shelf(connection, cipher)
    other.load(variant(1, title="theirs"))
    other.load(variant(2, price="abc"))
    shelf.load(variant(1, 5, title="ours"), variant(2, 5))
    mark_not_listed_deleted(connection, "product_variants", shelf.store, FAR_OFF)
    assert other.row(1)["title"] == "theirs"
    assert other.row(1)["deleted_at"] is None
    assert len(other.rejected()) == 1


def test_batches_larger_than_a_page_load_whole(shelf: Shelf) -> None:
    counts, _ = shelf.load(*(variant(n) for n in range(5000)))
    assert counts == Counts(read=5000, inserted=5000)
    assert len(shelf.rows()) == 5000


def test_a_load_is_undone_with_its_transaction_even_as_its_first_statement(own_database: Database) -> None:
    with pytest.raises(ZeroDivisionError), own_database.transaction() as connection:  # noqa: PT012
        load(connection, "product_variants", 0, [variant()], seen_at=NOON, reject=lambda _: None)
        raise ZeroDivisionError
    with own_database.transaction() as connection:
        found = connection.execute("SELECT count(*) FROM product_variants WHERE store_id = 0").fetchone()
    assert found == (0,)


def test_counts_that_do_not_add_up_are_an_error_of_their_own() -> None:
    Counts(read=5, inserted=1, updated=1, unchanged=1, rejected=1, deleted=1).require_complete("products")
    with pytest.raises(IntegrationError, match="products: 4 rows read but 3 accounted for") as raised:
        Counts(read=4, inserted=1, updated=1, unchanged=1).require_complete("products")
    assert (raised.value.error_type, raised.value.recoverable) == ("count_mismatch", False)
    assert raised.value.details["read"] == 4


# What cannot load

MARK = "Doe-4711"
WRONG: dict[str, tuple[str, Any]] = {
    "not a number": ("price", MARK),
    "a word that ends the quoting": ("price", f'"{MARK}'),
    "words that end the quoting": ("price", f'1" "{MARK}" "'),
    "nan": ("price", "NaN"),
    "infinite": ("price", "Infinity"),
    "negative": ("price", "-1.00"),
    "none": ("position", None),
    "too large": ("price", "1234567890123456789.00"),
    "compare at nan": ("compare_at_price", "NaN"),
    "nul": ("title", f"{MARK}\0"),
    "lone surrogate": ("title", f"{MARK}\ud800"),
    "a dictionary for a text": ("sku", {"name": MARK}),
    "no date": ("source_updated_at", MARK),
    "a date that is none": ("source_updated_at", "2026-02-30T00:00:00Z"),
    "no date at all": ("source_updated_at", None),
    "not an integer": ("position", "1.5"),
    "too large an integer": ("position", 2**40),
    "a missing title": ("title", None),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_value_is_rejected_with_its_column_and_without_the_value(shelf: Shelf, wrong: str) -> None:
    column, value = WRONG[wrong]
    counts, [reject] = shelf.load(variant(1), variant(2, **{column: value}), variant(3))
    assert counts == Counts(read=3, inserted=2, rejected=1)
    assert reject.external_id == variant(2).external_id
    assert MARK not in reject.reason
    assert "1234567890" not in reject.reason
    assert str(2**40) not in reject.reason
    assert column in reject.reason.split(":")[0]
    assert shelf.rejected()[0]["reason"] == reject.reason


def test_a_list_of_texts_with_a_wrong_one_is_rejected_with_its_column(shelf: Shelf) -> None:
    for number, tag in enumerate(["a\0", "\udfff", {"a": 1}]):
        _, [reject] = shelf.load(product(number, tags=["fine", tag]))
        assert "tags" in reject.reason.split(":")[0]


@modest
@given(kinds=st.lists(st.none() | st.sampled_from(sorted(WRONG)), max_size=24))
@example(kinds=[*WRONG])
def test_any_number_of_wrong_rows_anywhere_keeps_no_other_row_from_loading(
    connection: psycopg.Connection[Any], cipher: Cipher, kinds: list[str | None]
) -> None:
    shelf = Shelf(connection, cipher)
    records = [
        variant(number, **({} if kind is None else dict([WRONG[kind]]))) for number, kind in enumerate(kinds)
    ]
    good = {record.external_id for record, kind in zip(records, kinds, strict=True) if kind is None}
    counts, rejects = shelf.load(*records)
    bad = {record.external_id for record in records} - good
    assert counts == Counts(read=len(kinds), inserted=len(good), rejected=len(bad))
    assert set(shelf.rows()) == good
    assert {reject.external_id for reject in rejects} == bad
    assert {row["external_id"] for row in shelf.rejected()} == bad
    assert not any(MARK in reject.reason for reject in rejects)


@pytest.mark.parametrize("wrong", [None, {"a": 1}, 7])
def test_two_of_one_id_of_which_one_has_no_proper_time_do_not_stop_the_others(
    shelf: Shelf, wrong: Any
) -> None:
    shelf.load(variant(1), variant(1, source_updated_at=wrong), variant(2))
    assert variant(2).external_id in shelf.rows()


@pytest.mark.parametrize("wrong", ["gid\0", "gid\ud800", {"id": 1}, None])
def test_a_row_with_an_impossible_id_is_rejected_and_kept(shelf: Shelf, wrong: Any) -> None:
    counts, _ = shelf.load(variant(1), variant(2, external_id=wrong), variant(3))
    assert counts == Counts(read=3, inserted=2, rejected=1)
    [kept] = shelf.rejected()
    assert shelf.cipher.decrypt(kept["payload"])["external_id"] == wrong


def test_rows_without_an_id_are_not_taken_for_one_another(shelf: Shelf) -> None:
    counts, _ = shelf.load(variant(external_id=None, title="a"), variant(external_id=None, title="b"))
    assert counts.rejected == 2
    assert len(shelf.rejected()) == 2


def test_a_rejected_row_that_is_met_again_is_counted_and_not_doubled(shelf: Shelf) -> None:
    for price in ("abc", "abc", "NaN"):
        shelf.load(variant(1, price=price))
    [row] = shelf.rejected()
    assert row["times_seen"] == 3
    assert "check constraint" in row["reason"]
    assert shelf.cipher.decrypt(row["payload"])["price"] == "NaN"


def test_a_rejected_row_that_loads_later_leaves_the_rejected_ones(shelf: Shelf) -> None:
    shelf.load(variant(1, price="abc"), variant(2, price="abc"))
    shelf.load(variant(1, price="2.00"))
    assert [row["external_id"] for row in shelf.rejected()] == [variant(2).external_id]


def test_a_row_that_is_held_and_comes_back_wrong_stays_as_it_was(shelf: Shelf) -> None:
    shelf.load(variant(1, title="good"))
    counts, _ = shelf.load(variant(1, 5, title="bad", price="NaN"))
    assert counts == Counts(read=1, rejected=1)
    assert shelf.row(1)["title"] == "good"


def test_what_was_rejected_is_kept_encrypted(shelf: Shelf) -> None:
    shelf.load(variant(1, title=MARK, price="abc"))
    [row] = shelf.rejected()
    assert shelf.cipher.decrypt(row["payload"]) == variant(1, title=MARK, price="abc")._asdict()
    assert not any(MARK in str(value) for value in row.values())
    assert MARK.encode() not in bytes(row["payload"])


@pytest.mark.parametrize(
    ("values_as_arrays", "error"), [(0, psycopg.errors.UndefinedColumn), (VALUES_AS_ARRAYS, KeyError)]
)
def test_a_wrong_statement_is_not_blamed_on_the_rows(
    connection: psycopg.Connection[Any], values_as_arrays: int, error: type[Exception]
) -> None:
    rejects: list[Reject] = []
    with pytest.raises(error, match="product_external_id"), connection.transaction():
        load(
            connection,
            "locations",
            1,
            [variant()],
            seen_at=NOON,
            reject=rejects.append,
            values_as_arrays=values_as_arrays,
        )
    assert rejects == []


# Texts

HARD_TEXTS = [
    "\\N",
    "\\.",
    "a\tb\\tc\nd\r\ne",
    "שלום \u202eעולם",
    "👩‍👩‍👧‍👦🏳️‍🌈",
    '{NULL,"x"}',
    "NULL",
    "''; --",
    "",
    " ",
    "%s",
    "\x01\x7f",
    "\ufeff",
]
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")) | st.sampled_from(
    HARD_TEXTS
)


@modest
@given(title=TEXTS, vendor=TEXTS, tags=st.lists(TEXTS, max_size=5), staged=st.booleans())
@example(title="\\N", vendor="".join(HARD_TEXTS), tags=HARD_TEXTS, staged=True)
@example(title="\\N", vendor="".join(HARD_TEXTS), tags=HARD_TEXTS, staged=False)
def test_texts_come_back_as_they_were(
    connection: psycopg.Connection[Any],
    cipher: Cipher,
    title: str,
    vendor: str,
    tags: list[str],
    staged: bool,
) -> None:
    shelf = Shelf(connection, cipher, staged=staged)
    record = product(1, title=title, vendor=vendor, tags=tags)
    shelf.load(record, product(2, tags=[]))
    row = shelf.rows("products")[record.external_id]
    assert (row["title"], row["vendor"], row["tags"]) == (title, vendor, tags)
    counts, _ = shelf.load(record)
    assert counts == Counts(read=1, unchanged=1)


@pytest.mark.parametrize("text", [*HARD_TEXTS, None])
def test_no_text_is_taken_for_a_missing_one(shelf: Shelf, text: str | None) -> None:
    shelf.load(variant(1, sku=text))
    assert shelf.row(1)["sku"] == text


def some_rows_of(record: type) -> list[Any]:
    """Three rows: one of hard values, one with nothing where there may be nothing, and a plain one."""
    values = {
        "time": at(1),
        "amount": "12.3400",
        "whole": 7,
        str: "\n".join(HARD_TEXTS),
        bool: True,
        list[str]: HARD_TEXTS,
    }
    plain = {"time": at(0), "amount": "0.01", "whole": 0, str: "plain", bool: False, list[str]: []}
    rows = []
    for number, kinds in enumerate((values, values, plain)):
        row = {}
        for name, hint in get_type_hints(record, include_extras=True).items():
            parts = [hint] if get_origin(hint) in (Annotated, list) else [*get_args(hint)] or [hint]
            [kind] = [part for part in parts if part is not type(None)]
            word = kind.__metadata__[0] if get_origin(kind) is Annotated else kind
            row[name] = None if number == 1 and len(parts) > 1 else kinds[word]
        row |= {"external_id": f"row {number}"} | (
            {"addresses": '[{"city": "\\"München\\""}]'} if "addresses" in row else {}
        )
        rows.append(record(**row))
    return rows


@pytest.mark.parametrize(
    ("table", "record"),
    [
        ("locations", Location),
        ("products", Product),
        ("product_variants", ProductVariant),
        ("inventory_levels", InventoryLevel),
        ("customers", Customer),
        ("orders", Order),
        ("order_lines", OrderLine),
        ("refunds", Refund),
        (CARTS, CartRecord),
        (ITEMS, ItemRecord),
    ],
)
def test_few_rows_are_held_as_many_would_be_whatever_their_table(
    connection: psycopg.Connection[Any], cipher: Cipher, table: str, record: type
) -> None:
    rows, held, staged = some_rows_of(record), [], []
    for values_as_arrays in (VALUES_AS_ARRAYS, 0):
        shelf = Shelf(connection, cipher)
        rejects: list[Reject] = []
        counts = load(
            connection,
            table,
            shelf.store,
            rows,
            seen_at=FAR_OFF,
            reject=rejects.append,
            values_as_arrays=values_as_arrays,
        )
        assert (counts, rejects) == (Counts(read=3, inserted=3), [])
        found = shelf.rows(table)
        held.append([[found[row.external_id][name] for name in record._fields] for row in rows])  # type: ignore[attr-defined]
        stage = connection.execute("SELECT to_regclass(%s)", (f"pg_temp.stage_{table}",)).fetchone()
        staged.append(stage != (None,))
    assert held[0] == held[1]
    assert staged == [False, True]


# What is gone, and what is back


def test_a_row_deleted_before_the_source_was_asked_lives_again(shelf: Shelf) -> None:
    shelf.load(variant(1))
    shelf.set(1, deleted_at=NOON)
    counts, _ = shelf.load(variant(1), seen_at=NOON + timedelta(seconds=1))
    assert counts == Counts(read=1, updated=1)
    assert shelf.row(1)["deleted_at"] is None


@pytest.mark.parametrize("changes", [{}, {"minutes": 5, "title": "newer"}, {"title": "other"}])
def test_a_row_deleted_after_the_source_was_asked_stays_as_it_is_until_the_source_shows_it_again(
    shelf: Shelf, changes: dict[str, Any]
) -> None:
    shelf.load(variant(1))
    shelf.set(1, deleted_at=NOON)
    before = shelf.row(1)
    counts, _ = shelf.load(variant(1, **changes), seen_at=NOON - timedelta(seconds=1))
    assert counts == Counts(read=1, unchanged=1)
    assert shelf.row(1) == before
    shelf.load(variant(1, **changes), seen_at=NOON + timedelta(seconds=1))
    assert shelf.row(1)["deleted_at"] is None
    assert shelf.row(1)["title"] == changes.get("title", "Small")


def test_marking_rows_deleted_counts_only_those_that_were_not(shelf: Shelf) -> None:
    shelf.load(variant(1), variant(2))
    ids = [variant(1).external_id, "gid://shopify/ProductVariant/unknown"]
    assert mark_deleted(shelf.connection, "product_variants", shelf.store, ids) == 1
    assert mark_deleted(shelf.connection, "product_variants", shelf.store, ids) == 0
    assert shelf.row(1)["deleted_at"] is not None
    assert shelf.row(2)["deleted_at"] is None


def test_a_full_pass_notes_what_it_met_unchanged_and_writes_nothing_to_it(shelf: Shelf) -> None:
    shelf.load(variant(1), variant(2))
    for number in (1, 2):
        shelf.set(number, synced_at=LONG_AGO)
    before = shelf.rows()
    counts, _ = shelf.load(variant(1), confirm_before=NOON)
    assert counts == Counts(read=1, unchanged=1)
    assert shelf.rows() == before
    assert shelf.confirmed() == [shelf.row(1)["external_id"]]


def test_an_incremental_pass_writes_nothing_on_what_it_met_unchanged(shelf: Shelf) -> None:
    shelf.load(variant(1))
    shelf.set(1, synced_at=LONG_AGO)
    shelf.load(variant(1))
    assert shelf.row(1)["synced_at"] == LONG_AGO


def test_a_full_pass_notes_a_row_once_and_not_what_it_has_written(shelf: Shelf) -> None:
    shelf.load(variant(1), variant(2))
    began = LONG_AGO + timedelta(days=1)
    shelf.set(1, synced_at=LONG_AGO)
    for _ in range(2):
        shelf.load(variant(1), variant(2), confirm_before=began)
        assert shelf.confirmed() == [shelf.row(1)["external_id"]]


def test_after_a_full_pass_what_it_did_not_meet_is_gone_but_what_it_could_not_load_is_not(
    shelf: Shelf,
) -> None:
    shelf.load(*map(variant, ("met", "not met", "met and wrong")))
    for number in ("met", "not met", "met and wrong"):
        shelf.set(number, synced_at=LONG_AGO)
    began = LONG_AGO + timedelta(days=1)
    shelf.load(variant("met"), variant("met and wrong", 5, price="abc"), confirm_before=began)
    assert mark_not_listed_deleted(shelf.connection, "product_variants", shelf.store, began) == 1
    gone = {key for key, row in shelf.rows().items() if row["deleted_at"] is not None}
    assert gone == {variant("not met").external_id}
    assert mark_not_listed_deleted(shelf.connection, "product_variants", shelf.store, began) == 0


def test_after_a_full_pass_rejected_rows_that_it_did_not_meet_are_dropped(shelf: Shelf) -> None:
    shelf.load(variant("kept"), variant("dropped"))
    shelf.load(variant("kept", price="abc"), variant("dropped", price="abc"))
    shelf.connection.execute(
        "UPDATE rejected_rows SET last_seen_at = %s WHERE external_id = %s",
        (LONG_AGO, variant("dropped").external_id),
    )
    for number in ("kept", "dropped"):
        shelf.set(number, synced_at=LONG_AGO)
    began = LONG_AGO + timedelta(days=1)
    assert mark_not_listed_deleted(shelf.connection, "product_variants", shelf.store, began) == 1
    assert shelf.row("dropped")["deleted_at"] is not None
    assert [row["external_id"] for row in shelf.rejected()] == [variant("kept").external_id]
