"""Orders, spend and last visit of a person, and reports over all. They come from views and are never stale.

`person_orders` and `person_totals` (migration 0003) say what counts; docs/people.md explains it. Amounts are
decimals and never added up over currencies; times are UTC.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

from psycopg.rows import class_row

from bg_pipelines.database.engine import Database

if TYPE_CHECKING:
    import pandas as pd

ROWS_AT_ONCE = 2000


class Total(NamedTuple):
    """What a person bought in one currency. `orders` are sales, not cancelled; `net` is spent less refunded."""

    currency: str
    orders: int
    spent: Decimal
    refunded: Decimal
    net: Decimal
    first_order_at: datetime | None
    last_order_at: datetime | None
    stores: int


def totals(database: Database, person_id: int) -> list[Total]:
    """A person's totals, one for each currency, what they spent most in first. The last visit is the newest of them."""
    with database.transaction() as connection:
        rows = connection.execute(
            "SELECT currency, orders, spent, refunded, net, first_order_at, last_order_at, stores "
            "FROM person_totals WHERE person_id = %s ORDER BY orders DESC, currency",
            (person_id,),
        ).fetchall()
    return [Total(*row) for row in rows]


class Order(NamedTuple):
    """An order of a person, as `person_orders` has it."""

    ordered_at: datetime
    store: str
    order_external_id: str
    name: str
    channel: str | None
    status: str
    is_return: bool
    currency: str
    total: Decimal
    spent: Decimal
    refunded: Decimal
    net: Decimal
    is_visit: bool


class Ranked(NamedTuple):
    """A person's totals in one currency, with the rank by `net` among those of a report."""

    person_id: int
    currency: str
    orders: int
    spent: Decimal
    refunded: Decimal
    net: Decimal
    first_order_at: datetime | None
    last_order_at: datetime | None
    stores: int
    last_visit_at: datetime
    average: Decimal | None
    days_since: int
    rank: int


def orders_of(database: Database, person_id: int, *, newest: int | None = None) -> list[Order]:
    """Every order of a person (or the `newest` ones), the newest first."""
    with database.transaction() as connection, connection.cursor(row_factory=class_row(Order)) as cursor:
        cursor.execute(
            f"SELECT {', '.join(Order._fields)} FROM person_orders WHERE person_id = %(person)s "  # noqa: S608
            "ORDER BY ordered_at DESC, store_id, order_external_id LIMIT %(newest)s",
            {"person": person_id, "newest": newest},
        )
        return cursor.fetchall()


def ranking(
    database: Database,
    *,
    currency: str | None = None,
    top: int | None = None,
    lapsed_days: int | None = None,
    as_of: datetime | None = None,
) -> Iterator[Ranked]:
    """Who spent most, by currency and rank, one chunk in memory at a time: a large retailer has millions.

    `top`: only so many of each currency. `lapsed_days`: only those whose last visit, in whatever currency and store,
    was longer ago, seen from `as_of` (now). Persons who never bought anything are not in it.
    """
    with database.transaction() as connection, connection.cursor("ranking") as cursor:
        cursor.itersize = ROWS_AT_ONCE
        cursor.execute(_RANKING, {"currency": currency, "as_of": as_of, "lapsed": lapsed_days, "top": top})
        for *totals_, now, rank in cursor:
            _, _, orders, spent, *_, last_visit_at = totals_
            average = round(spent / orders, 2) if orders else None
            yield Ranked._make((*totals_, average, (now - last_visit_at).days, rank))


_RANKING = f"""
    SELECT {", ".join(Ranked._fields[:10])}, as_of, rank FROM (
        SELECT *, row_number() OVER (PARTITION BY currency ORDER BY net DESC, person_id) AS rank FROM (
            SELECT *, max(last_order_at) OVER (PARTITION BY person_id) AS last_visit_at,
            coalesce(%(as_of)s::timestamptz, now()) AS as_of FROM person_totals) AS visited
        WHERE last_visit_at IS NOT NULL AND (%(currency)s::text IS NULL OR currency = %(currency)s)
        AND (%(lapsed)s::bigint IS NULL OR extract(epoch FROM as_of - last_visit_at) >= %(lapsed)s * 86400.0)
    ) AS ranked
    WHERE %(top)s::bigint IS NULL OR rank <= %(top)s ORDER BY currency, rank"""  # noqa: S608


def history(database: Database, person_id: int, *, newest: int | None = None) -> pd.DataFrame:
    """`orders_of` as a frame."""
    return _frame(Order._fields, orders_of(database, person_id, newest=newest))


def report(
    database: Database,
    *,
    currency: str | None = None,
    top: int | None = None,
    lapsed_days: int | None = None,
    as_of: datetime | None = None,
) -> pd.DataFrame:
    """`ranking` as a frame, with all of it in memory."""
    ranked = ranking(database, currency=currency, top=top, lapsed_days=lapsed_days, as_of=as_of)
    return _frame(Ranked._fields, list(ranked))


def _frame(columns: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> pd.DataFrame:
    import pandas as pd  # here: half a second and 40 MB that no job and no command has a use for

    frame = pd.DataFrame(rows, columns=list(columns))
    for column in columns:
        # An empty frame has the same types as a full one.
        if column.endswith("_at"):
            frame[column] = pd.to_datetime(frame[column], utc=True).dt.as_unit("us")
    return frame
