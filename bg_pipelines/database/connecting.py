"""How every connection to PostgreSQL is made: what it depends on it says itself, and what cannot work it refuses.

Variables of libpq (`PGCLIENTENCODING`, `PGHOSTADDR`, ...) and settings of a role or a database are made for other
programs: they would change how values are read, or where they go. So the first are taken out of the environment, and
the second are outdone by options of the connection.
"""

from __future__ import annotations

import logging
import os
import re
from typing import Any

import psycopg
import sqlalchemy as sa

from bg_pipelines.database.arrays import TextsDumper
from bg_pipelines.database.sqlstates import classified, pooled, unavailable
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.settings import driver_url

NETWORK = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,  # milliseconds
}
"""Keepalives detect a cut network within a minute, half a lease; without them TCP waits for two hours. A Unix-domain
socket ignores them; parameters of the URL override them."""

_MARK = "bg_pipelines.direct"
"""An option without a meaning: where the server does not have it, something in between has dropped all of them."""

_OPTIONS = {
    # How values are written and read.
    "TimeZone": "UTC",
    "DateStyle": "ISO,MDY",
    "IntervalStyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "standard_conforming_strings": "on",
    # What a transaction is.
    "default_transaction_isolation": "read committed",
    "default_transaction_deferrable": "off",
    # The server detects a cut network as fast as we do, and releases the locks of that client.
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "60000",
    _MARK: "yes",
}
IDLE_SECONDS, LOCK_SECONDS = 45, 60
"""A process that is frozen in a transaction, or whose network drops everything, loses it and its locks after the first.
Whoever waits for a lock longer than the second fails, and is tried again as a conflict would be. In this order, so that who
waits for one that is frozen gets the lock. No transaction of ours waits for a vendor, or computes for so long."""
# What may end a transaction. Dagster has limits of its own, which these would outdo.
_OF_JOBS = {
    "statement_timeout": "0",
    "lock_timeout": f"{LOCK_SECONDS}s",
    "idle_in_transaction_session_timeout": f"{IDLE_SECONDS}s",
    "idle_session_timeout": "0",
}

# Transport security and passwords: without them a connection would be refused, or less safe than was asked for.
_KEPT = re.compile(r"PG(SSL|GSS|KRB|PASS|REQUIRE|CHANNELBINDING|OAUTH)")

# Not among the options above: an older server does not know `transaction_timeout`; of `synchronous_commit` all but
# "off" will do, for what leaves the house is recorded before it is sent, and the record must outlive a crash; and only
# who is allowed to may keep values out of the server's log, which quotes them with each error.
_WHERE = {
    "synchronous_commit": ("on", "current_setting('synchronous_commit') = 'off'"),
    "transaction_timeout": ("0", "current_setting('transaction_timeout', true) <> '0'"),
    "log_min_messages": (
        "log",
        "current_setting('log_min_messages') NOT IN ('log', 'fatal', 'panic') "
        "AND has_parameter_privilege('log_min_messages', 'SET')",
    ),
    "log_parameter_max_length": (
        "0",
        "current_setting('log_parameter_max_length') <> '0' "
        "AND has_parameter_privilege('log_parameter_max_length', 'SET')",
    ),
}
_SETTLE = f"SELECT current_setting('server_encoding'), current_setting('{_MARK}', true)" + "".join(
    f", CASE WHEN current_setting('{_MARK}', true) = 'yes' AND {condition} "
    f"THEN set_config('{name}', '{value}', false) END"
    for name, (value, condition) in _WHERE.items()
)


def forget_environment() -> None:
    """Take out of this process's environment what libpq would read there, but for TLS and passwords.

    An address cannot outdo them: libpq takes an empty `hostaddr` or `service` for none.
    """
    for name in [name for name in os.environ if name.startswith("PG") and not _KEPT.match(name)]:
        del os.environ[name]


def address(url: str, driver: str) -> sa.URL:
    """The URL for this driver, with what of the network it does not say itself. Raises IntegrationError (configuration)."""
    forget_environment()
    try:
        place = sa.make_url(driver_url(url, driver))
    except (sa.exc.ArgumentError, ValueError):
        # The reason would repeat parts of the address, and it holds a password.
        raise _configuration(
            "the database's address cannot be read; it should be like postgresql://user:password@host:5432/database, "
            "with %40 for an @ and %3A for a : in the password",
            "settings",
        ) from None
    network = {name: str(value) for name, value in NETWORK.items() if name not in place.query}
    return place.update_query_dict({**network, "client_encoding": "utf8"})


def options(place: sa.URL, *, of_jobs: bool) -> str:
    """What a connection to this address asks of the server: what the address does, then ours."""
    wanted = _OPTIONS | (_OF_JOBS if of_jobs else {})
    written = {name: value.replace(" ", "\\ ") for name, value in wanted.items()}
    ours = " ".join(f"-c {name}={value}" for name, value in written.items())
    return f"{place.query.get('options', '')} {ours}".strip()


def settle(connection: psycopg.Connection[Any]) -> None:
    """Make a new connection ready. Raises IntegrationError: configuration where its database will not do, database."""
    connection.adapters.register_dumper(list, TextsDumper)
    try:
        row = connection.execute(_SETTLE).fetchone()
        connection.commit()
        _require_fit(row)
    except psycopg.Error as error:
        raise classified(error) or unavailable(error) from error
    except IntegrationError:
        connection.close()
        raise


async def settle_async(connection: psycopg.AsyncConnection[Any]) -> None:
    """The same for a connection of an event loop, which commits each statement. Raises what psycopg raises, too."""
    connection.adapters.register_dumper(list, TextsDumper)
    try:
        _require_fit(await (await connection.execute(_SETTLE)).fetchone())
    except IntegrationError:
        await connection.close()
        raise


def _require_fit(row: tuple[Any, ...] | None) -> None:
    encoding, mark = (row or (None, None))[:2]
    if encoding != "UTF8":
        raise _configuration(
            f"the database's encoding is {encoding}, which cannot hold every text: make one with "
            "`CREATE DATABASE name ENCODING 'UTF8' TEMPLATE template0` and give its address"
        )
    if mark != "yes":
        raise pooled()


def _configuration(message: str, source: str = "database") -> IntegrationError:
    return IntegrationError.of(ErrorType.CONFIGURATION, message, source=source)


def _without_values(record: logging.LogRecord) -> bool:
    """Of an error that psycopg passes over it tells the text, which quotes a row."""
    if isinstance(record.args, tuple):
        record.args = tuple(
            f"{type(part).__name__} {getattr(part, 'sqlstate', None) or ''}".strip()
            if isinstance(part, BaseException)
            else part
            for part in record.args
        )
    record.exc_info = None
    return True


logging.getLogger("psycopg").addFilter(_without_values)
