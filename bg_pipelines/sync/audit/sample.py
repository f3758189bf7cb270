"""The sample of an audit: rows from random places of a table, found by its key, whatever its size."""

from __future__ import annotations

import random
from typing import Any

import psycopg
from psycopg import sql

PLACES = 12
LISTED = 5_000
"""So many ids are listed quickly, and sampled exactly."""
NEIGHBOURS = 5
"""Rows from each random place: more would be more alike, fewer cost more index lookups."""
_LETTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def random_ids(
    connection: psycopg.Connection[Any],
    table: str,
    store_id: int,
    wanted: int,
    rng: random.Random,
    *,
    listed: int = LISTED,
) -> list[str]:
    """Ids of up to `wanted` rows of a store, from random places of the table's key: all of them, if they are no more.

    Of many rows, some are found by the index from made-up ids between the first and the last, so a large table is never
    read through; a row behind a gap between ids is a little more likely than another.
    """
    if wanted <= 0:
        return []
    listed = max(wanted, listed)
    statement = sql.SQL("SELECT external_id FROM {} WHERE store_id = %s ORDER BY external_id LIMIT %s")
    first = [
        row[0] for row in connection.execute(statement.format(sql.Identifier(table)), (store_id, listed + 1))
    ]
    if len(first) <= listed:
        return rng.sample(first, min(len(first), wanted))
    places = [_place(connection, table, store_id, first[0], rng) for _ in range(-(-wanted * 2 // NEIGHBOURS))]
    around = connection.execute(AROUND.format(table=sql.Identifier(table)), (places, store_id, NEIGHBOURS))
    found = sorted({row[0] for row in around} | set(places))
    return rng.sample(found, min(len(found), wanted))


def _place(
    connection: psycopg.Connection[Any], table: str, store_id: int, first: str, rng: random.Random
) -> str:
    """An id that is held, from anywhere. Of ids with several parts (a stock level's location and item) each is drawn."""

    def held(comparison: str, than: str) -> str | None:
        statement = sql.SQL(
            "SELECT external_id FROM {} WHERE store_id = %s AND external_id {} %s ORDER BY external_id {} LIMIT 1"
        )
        direction = "DESC" if comparison.startswith("<") else "ASC"
        row = connection.execute(
            statement.format(sql.Identifier(table), sql.SQL(comparison), sql.SQL(direction)), (store_id, than)
        ).fetchone()
        return row[0] if row else None

    low, high, near = first, held("<=", "\U0010ffff") or first, first
    while low < high:
        made = made_up_id(low, high, rng)
        # Upwards or downwards, else nothing would be drawn from behind the first of few beginnings.
        ways = rng.sample([">=", "<="], 2)
        near = held(ways[0], made) or held(ways[1], made) or near
        drawn = _common(low, high) + PLACES
        low, high = held(">=", near[:drawn]) or near, held("<=", near[:drawn] + "\U0010ffff") or near
        if drawn >= len(near):
            break
    return near


AROUND = sql.SQL(
    "SELECT near.external_id FROM unnest(%s::text[]) AS place CROSS JOIN LATERAL ("
    "SELECT external_id FROM {table} WHERE store_id = %s AND external_id >= place ORDER BY external_id LIMIT %s) near"
)


def made_up_id(first: str, last: str, rng: random.Random) -> str:
    """A text somewhere between these two ids: their common beginning, and then digits or letters."""
    common = _common(first, last)
    rest = [text[common : common + PLACES] for text in (first, last)]
    letters = _LETTERS[:10] if all(text[:1].isdigit() for text in rest) else _LETTERS
    low, high = sorted(_number(text, letters) for text in rest)
    number, made = rng.randint(low, high), ""
    for _ in range(PLACES):
        number, letter = divmod(number, len(letters))
        made = letters[letter] + made
    return first[:common] + made


def _common(one: str, other: str) -> int:
    """How many characters two ids begin with alike."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), len(one))


def _number(text: str, letters: str) -> int:
    """The text as a number whose digits are these letters; what is none of them counts as the first."""
    number = 0
    for letter in text.ljust(PLACES, letters[0]):
        number = number * len(letters) + max(0, letters.find(letter))
    return number
