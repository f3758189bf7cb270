"""Who is logged in to the board: sessions in the database, so that they outlive a restart and can be ended.

A session is known by a random token, which only its browser has; the database has a digest. A link to log in with, once, is
the same before its first use. Logins that fail are counted by name, known or not, in every process together.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from datetime import timedelta
from typing import Any, NamedTuple

import psycopg

from bg_pipelines.board.users import User
from bg_pipelines.database.engine import Database

IDLE = timedelta(hours=8)
"""A session ends after so long without use, and is to be begun anew after `LONGEST`, used or not."""
LONGEST = timedelta(days=7)
LINK = timedelta(hours=1)
"""How long a link can be used."""
SEEN_EVERY = timedelta(minutes=1)
MOST_FAILURES, FAILURES_WITHIN = 5, timedelta(minutes=15)
_LOCK = 0x6267_626F

Connection = psycopg.Connection[Any]


class Session(NamedTuple):
    """`form_token` stands in every form, and is worth nothing without the cookie."""

    user: User
    token: str

    @property
    def form_token(self) -> str:
        return hmac.digest(self.token.encode(), b"form", "sha256").hex()

    def is_form_token(self, given: str) -> bool:
        return hmac.compare_digest(self.form_token.encode(), given.encode(errors="replace"))


def begin(database: Database, user: str) -> str:
    """A session of this user; returns its token."""
    token = secrets.token_urlsafe(32)
    with database.transaction() as connection:
        _insert(connection, token, user, IDLE, is_link=False)
        connection.execute("UPDATE board_users SET seen_at = clock_timestamp() WHERE name = %s", (user,))
    return token


def make_link(database: Database, user: str) -> str:
    """The token of a link with which this user is logged in, once."""
    token = secrets.token_urlsafe(32)
    with database.transaction() as connection:
        _insert(connection, token, user, LINK, is_link=True)
    return token


def link_user(database: Database, token: str) -> str | None:
    """Whose link this is; None where it was used, or is too old."""
    with database.transaction() as connection:
        row = connection.execute(
            "SELECT user_name FROM board_sessions WHERE digest = %s AND is_link AND expires_at > clock_timestamp()",
            (_digest(token),),
        ).fetchone()
    return row and row[0]


def use_link(database: Database, token: str) -> str | None:
    """The user of a link, which is used up with it; None where it was before, or is too old."""
    with database.transaction() as connection:
        row = connection.execute(
            "DELETE FROM board_sessions WHERE digest = %s AND is_link RETURNING user_name, expires_at > clock_timestamp()",
            (_digest(token),),
        ).fetchone()
    return row[0] if row and row[1] else None


def find(database: Database, token: str, *, is_use: bool) -> Session | None:
    """The session of this token, unless it has ended. With `is_use` it lives on; a page that refreshes itself is no use."""
    with database.transaction() as connection:
        row = connection.execute(
            "SELECT u.name, u.role, s.seen_at < clock_timestamp() - %s FROM board_sessions s JOIN board_users u "
            "ON u.name = s.user_name WHERE s.digest = %s AND NOT s.is_link AND s.expires_at > clock_timestamp() "
            "AND s.created_at > clock_timestamp() - %s",
            (SEEN_EVERY, _digest(token), LONGEST),
        ).fetchone()
        if row is None:
            return None
        name, role, is_stale = row
        if is_use and is_stale:
            connection.execute(
                "UPDATE board_sessions SET seen_at = clock_timestamp(), expires_at = clock_timestamp() + %s WHERE digest = %s",
                (IDLE, _digest(token)),
            )
    return Session(User(name, role), token)


def end(database: Database, token: str) -> None:
    with database.transaction() as connection:
        connection.execute("DELETE FROM board_sessions WHERE digest = %s", (_digest(token),))


def take_try(database: Database, name: str) -> int:
    """One of the tries that there are to log in by this name; returns 0, or for how many seconds there is none.

    Counted before the password is looked at: else a hundred at the same time would all be looked at. What is too old to
    count is deleted with that, so a flood leaves no more than it can try.
    """
    number = _number(name)
    with database.transaction() as connection:
        connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", (_LOCK, number))
        connection.execute(
            "DELETE FROM board_login_failures WHERE failed_at < clock_timestamp() - %s", (FAILURES_WITHIN,)
        )
        row = connection.execute(
            "SELECT count(*), coalesce(ceil(extract(epoch FROM min(failed_at) + %s - clock_timestamp())), 1)::int "
            "FROM board_login_failures WHERE digest = %s",
            (FAILURES_WITHIN, number),
        ).fetchone()
        assert row is not None
        if row[0] >= MOST_FAILURES:
            return max(1, int(row[1]))
        connection.execute("INSERT INTO board_login_failures (digest) VALUES (%s)", (number,))
    return 0


def forget_tries(database: Database, name: str) -> None:
    """Whoever has this name has logged in, or has got a new password."""
    with database.transaction() as connection:
        connection.execute("DELETE FROM board_login_failures WHERE digest = %s", (_number(name),))


def _insert(connection: Connection, token: str, user: str, lasts: timedelta, *, is_link: bool) -> None:
    connection.execute(
        "INSERT INTO board_sessions (digest, user_name, is_link, created_at, seen_at, expires_at) "
        "VALUES (%s, %s, %s, clock_timestamp(), clock_timestamp(), clock_timestamp() + %s)",
        (_digest(token), user, is_link, lasts),
    )


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="replace")).digest()


def _number(name: str) -> int:
    """32 bits of a digest: enough to count by, and too few to tell a password that was typed in the wrong field."""
    return int.from_bytes(hashlib.sha256(name.encode(errors="replace")).digest()[:4], signed=True)
