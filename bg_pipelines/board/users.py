"""Who may log in to the board: names, roles and passwords, of which only a digest is kept (scrypt).

add(database, "ada", ADMIN, password)      # or gives a known user a new password and role, and ends their sessions
verify(database, "ada", password)          # the user, or None
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import threading
from base64 import b64decode, b64encode
from datetime import datetime
from typing import NamedTuple

from psycopg.rows import class_row

from bg_pipelines.database.engine import Database
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.wording import did_you_mean

ADMIN, VIEWER = "admin", "viewer"
ROLES = (ADMIN, VIEWER)
LEAST_PASSWORD = 12
"""Characters of a password that a person chooses."""
MOST_PASSWORD = 1_000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")

# OWASP's: 32 MB and a quarter of a second of one core for each look.
_N, _R, _P = 2**15, 8, 3
_ONE_AT_A_TIME = threading.Lock()
"""Whoever tries passwords by the hundred has one core, and the board has the others."""


class User(NamedTuple):
    name: str
    role: str

    @property
    def may_act(self) -> bool:
        return self.role == ADMIN


class UserRow(NamedTuple):
    name: str
    role: str
    created_at: datetime
    seen_at: datetime | None
    sessions: int


def new_password() -> str:
    """One that nobody guesses: 120 bits."""
    return secrets.token_urlsafe(15)


def add(database: Database, name: str, role: str, password: str) -> bool:
    """Add a user, or give a known one this role and password and end their sessions; returns whether it is a new one.

    Raises IntegrationError (bad_data).
    """
    if not _NAME.fullmatch(name):
        raise _bad_data(
            "a user's name is 1 to 64 letters, digits and . _ @ - and begins with a letter or digit"
        )
    if role not in ROLES:
        raise _bad_data(f"role {role!r} is none of: {', '.join(ROLES)}{did_you_mean(role, ROLES)}")
    if not LEAST_PASSWORD <= len(password) <= MOST_PASSWORD:
        raise _bad_data(f"a password has {LEAST_PASSWORD} to {MOST_PASSWORD:,} characters")
    digest = _digest(password)
    with database.transaction() as connection:
        connection.execute("DELETE FROM board_sessions WHERE user_name = %s", (name,))
        row = connection.execute(
            "INSERT INTO board_users (name, role, password) VALUES (%s, %s, %s) ON CONFLICT (name) DO UPDATE "
            "SET role = excluded.role, password = excluded.password RETURNING xmax = 0",
            (name, role, digest),
        ).fetchone()
    return bool(row and row[0])


def remove(database: Database, name: str) -> None:
    """Remove a user, with their sessions. Raises IntegrationError (bad_data)."""
    with database.transaction() as connection:
        if not connection.execute("DELETE FROM board_users WHERE name = %s", (name,)).rowcount:
            names = [known for (known,) in connection.execute("SELECT name FROM board_users")]
            raise _bad_data(f"no user is named {name!r}{did_you_mean(name, names)}")


def list_users(database: Database) -> list[UserRow]:
    with (
        database.transaction() as connection,
        connection.cursor(row_factory=class_row(UserRow)) as cursor,
    ):
        cursor.execute(
            "SELECT name, role, created_at, seen_at, (SELECT count(*) FROM board_sessions s WHERE s.user_name = u.name "
            "AND NOT is_link AND expires_at > clock_timestamp()) AS sessions FROM board_users u ORDER BY name"
        )
        return cursor.fetchall()


def verify(database: Database, name: str, password: str) -> User | None:
    """The user of this name and password. It takes as long for a name that there is not."""
    with database.transaction() as connection:
        row = connection.execute(
            "SELECT name, role, password FROM board_users WHERE name = %s", (name.replace("\0", ""),)
        ).fetchone()
    known, role, digest = row or ("", "", _NOBODY)
    return User(known, role) if _matches(password[:MOST_PASSWORD], digest) and row else None


def _digest(password: str) -> str:
    salt = secrets.token_bytes(16)
    return "$".join(
        ("scrypt", str(_N), str(_R), str(_P), _text(salt), _text(_scrypt(password, salt, _N, _R, _P)))
    )


def _matches(password: str, digest: str) -> bool:
    _, n, r, p, salt, expected = digest.split("$")
    found = _scrypt(password, b64decode(salt), int(n), int(r), int(p))
    return hmac.compare_digest(found, b64decode(expected))


def _scrypt(password: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    secret = password.encode(errors="surrogatepass")
    with _ONE_AT_A_TIME:
        return hashlib.scrypt(secret, salt=salt, n=n, r=r, p=p, maxmem=256 * n * r, dklen=32)


def _text(some: bytes) -> str:
    return b64encode(some).decode()


_NOBODY = "$".join(("scrypt", str(_N), str(_R), str(_P), _text(bytes(16)), _text(bytes(32))))


def _bad_data(message: str) -> IntegrationError:
    return IntegrationError.of(ErrorType.BAD_DATA, message, source="board")
