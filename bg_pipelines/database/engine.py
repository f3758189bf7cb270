"""The application's database: its URL, a pool of connections, transactions, migrations.

Loading and claiming speak SQL through psycopg (COPY, SKIP LOCKED); what a person manages (stores, status)
goes through SQLAlchemy. Both use the one pool of a `Database`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

import psycopg
import sqlalchemy as sa
from sqlalchemy.orm import Session

from bg_pipelines.database import connecting
from bg_pipelines.database.sqlstates import AWAY, LOCKED, classified, is_conflict, is_outage, unavailable
from bg_pipelines.errors import ErrorType, IntegrationError
from bg_pipelines.settings import Settings
from bg_pipelines.wording import ADD_A_STORE

T = TypeVar("T")

APP_DATABASE = "bg_pipelines"
DAGSTER_DATABASE = "bg_dagster"
CANCEL_SECONDS = 5.0

# One number for all migrations of this project: PostgreSQL's advisory locks are plain integers.
_MIGRATION_LOCK = 0x6267_7069
MIGRATION_LOCK_SECONDS, MIGRATION_PAUSE_SECONDS, MIGRATION_TRIES = 3.0, 5.0, 60
"""For so long a migration waits for a table, and everybody who comes after it as well; then it makes room for them. It gives
up after eight minutes of that."""


class Database:
    """A pool of connections to one PostgreSQL database.

    `url` is a PostgreSQL URL with any driver or none; its parameters are libpq's, and win over `connecting.NETWORK`. `pool_size`
    connections are kept, and as many more are opened under load.
    """

    _asks = threading.local()
    """Whether this thread wants a connection for a transaction."""

    def __init__(self, url: str, *, pool_size: int = 5) -> None:
        address = connecting.address(url, "psycopg")
        self._connect_args = {
            "application_name": "bg-pipelines",
            "options": connecting.options(address, of_jobs=True),
        }
        self.engine = sa.create_engine(
            address,
            pool_size=pool_size,
            max_overflow=pool_size,
            # A restarted server is noticed at check-out, not in the middle of the work.
            pool_pre_ping=True,
            # The one that was used last: it has prepared and cached what comes again and again.
            pool_use_lifo=True,
            connect_args=self._connect_args,
        )
        ping = self.engine.dialect.do_ping

        def begin_or_ping(connection: Any) -> bool:
            """Where a transaction is wanted, its begin shows as well whether the connection is alive."""
            return _begin(connection) if hasattr(self._asks, "transaction") else ping(connection)

        self.engine.dialect.do_ping = begin_or_ping  # type: ignore[method-assign, assignment]
        sa.event.listen(self.engine, "connect", lambda connection, _: connecting.settle(connection))

    @property
    def parameters(self) -> dict[str, Any]:
        """libpq's parameters, for a connection outside of the pool. The password is one of them: show them nowhere."""
        _, parameters = self.engine.dialect.create_connect_args(self.engine.url)
        return {**parameters, **self._connect_args}

    def _begun(self) -> sa.PoolProxiedConnection:
        """A connection in a transaction, or a new one that is not in one yet."""
        self._asks.transaction = True
        try:
            return self.engine.raw_connection()
        finally:
            del self._asks.transaction

    @contextmanager
    def transaction(self) -> Iterator[psycopg.Connection[Any]]:
        """A psycopg connection in a transaction: committed at the end, rolled back on any exception.

        Raises IntegrationError (database) where the server is away or goes away, and where it ended this one
        transaction as happens in a database in use; see `sqlstates`.
        """
        try:
            pooled = self._begun()
        except (sa.exc.DBAPIError, sa.exc.TimeoutError, psycopg.Error) as error:
            raise unavailable(getattr(error, "orig", None) or error) from error
        connection = cast("psycopg.Connection[Any]", pooled.driver_connection)
        try:
            if connection.pgconn.transaction_status == psycopg.pq.TransactionStatus.IDLE:
                _begin(connection)
            yield connection
            connection.commit()
        except BaseException as error:
            found = classified(error)
            is_lost = connection.broken or (found is not None and is_outage(found))
            with suppress(psycopg.Error):
                if connection.info.transaction_status is psycopg.pq.TransactionStatus.ACTIVE:
                    # Stopped in the middle of a statement: the server would continue it and keep its locks.
                    is_lost = True
                    connection.cancel_safe(timeout=CANCEL_SECONDS)
                connection.rollback()
            if is_lost or connection.broken:
                pooled.invalidate()
            if found is None:
                raise
            raise found from error
        finally:
            pooled.close()

    def transact(
        self,
        act: Callable[[psycopg.Connection[Any]], T],
        *,
        tries: int = 3,
        again_if: Callable[[IntegrationError], bool] = is_conflict,
    ) -> T:
        """What `act` returns from a transaction, which is tried again at once where it lost a conflict (`again_if`).

        Raises like `transaction`; and what is no conflict, or the last try's.
        """
        for left in reversed(range(tries)):
            try:
                with self.transaction() as connection:
                    return act(connection)
            except IntegrationError as error:
                if not left or not again_if(error):
                    raise
        raise AssertionError

    @contextmanager
    def session(self) -> Iterator[Session]:
        """An SQLAlchemy session in a transaction. Raises IntegrationError (database) like `transaction`."""
        try:
            with Session(self.engine) as session, session.begin():
                yield session
        except sa.exc.DBAPIError as error:
            _raise_classified(error)
        except sa.exc.TimeoutError as error:
            raise unavailable(error) from error

    def connections(self) -> tuple[int, int]:
        """How many connections are in use at this moment, and how many there may be."""
        pool = cast("sa.QueuePool", self.engine.pool)
        return pool.checkedout(), pool.size() + pool._max_overflow

    def close(self) -> None:
        self.engine.dispose()

    def migrate(
        self, *, tries: int = MIGRATION_TRIES, sleep: Callable[[float], object] = time.sleep
    ) -> tuple[str | None, str]:
        """Bring the tables to this program's revision; returns (revision before, revision now).

        Newer tables stay as they are. Safe for several processes at once: the second waits and finds nothing to do, and
        with jobs at work: where a table is in use for longer than a moment, all of it is undone and tried again.
        Raises IntegrationError: configuration for tables of another program, database.
        """
        from bg_pipelines.database import revisions

        for left in reversed(range(tries)):
            try:
                with self.engine.connect() as connection:
                    # Whoever comes second waits. For a table nobody does for long: whoever came after would wait for us.
                    connection.execute(sa.select(sa.func.set_config("lock_timeout", "0", True)))
                    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
                    limit = f"{MIGRATION_LOCK_SECONDS:g}s"
                    connection.execute(sa.select(sa.func.set_config("lock_timeout", limit, True)))
                    before = revisions.current(connection)
                    revisions.upgrade(connection)
                    now = revisions.current(connection) or ""
                    connection.commit()
                    return before, now
            except sa.exc.DBAPIError as error:
                if getattr(error.orig, "sqlstate", None) != LOCKED:
                    _raise_classified(error)
                if not left:
                    raise IntegrationError.of(
                        ErrorType.DATABASE,
                        f"nothing was migrated: a table has been in use by the same transaction for {tries} tries. End it "
                        "(pg_stat_activity shows the oldest xact_start), then run `bg-pipelines migrate` again",
                        source="database",
                    ) from error
            sleep(MIGRATION_PAUSE_SECONDS)
        raise AssertionError

    def require_migrated(self) -> None:
        """Raises IntegrationError (configuration) unless the tables are at this program's revision or a newer one."""
        from bg_pipelines.database import revisions

        try:
            with self.engine.connect() as connection:
                current = revisions.current(connection)
        except sa.exc.DBAPIError as error:
            _raise_classified(error)
        if not revisions.is_enough(current):
            raise IntegrationError.of(
                ErrorType.CONFIGURATION,
                f"the database is at revision {current or 'none'}, this program needs {revisions.newest()}: "
                "run `bg-pipelines migrate`",
                source="database",
            )


def _begin(connection: psycopg.Connection[Any]) -> bool:
    """Begin a transaction: else a `connection.transaction()` that comes first would be one of its own, and commit."""
    connection.execute("SELECT")
    return True


def open_database(settings: Settings, *, pool_size: int = 5) -> Database:
    """The application's database: `BG_DATABASE_URL`, or the embedded server, started if need be and migrated."""
    if settings.database_url is not None:
        return Database(settings.database_url.get_secret_value(), pool_size=pool_size)
    database = Database(embedded_url(settings.home, APP_DATABASE), pool_size=pool_size)
    # Nobody else maintains the embedded database, so opening it migrates it.
    database.migrate()
    return database


def has_home(settings: Settings) -> bool:
    """Whether the embedded server was ever started in this home."""
    from bg_pipelines.database.embedded import EmbeddedServer

    return EmbeddedServer(settings.home).data.is_dir()


def require_home(settings: Settings) -> None:
    """Raises IntegrationError (configuration) where our tables would be in a home that there is not: to look makes none."""
    if settings.embedded and not has_home(settings):
        raise IntegrationError.of(
            ErrorType.CONFIGURATION,
            f"nothing was ever set up in {settings.home}. Change to the folder where it was, or set BG_HOME_DIR or "
            f"BG_DATABASE_URL; {ADD_A_STORE} begins here",
            source="settings",
        )


def open_dagster_database(settings: Settings, *, pool_size: int = 5) -> Database:
    """Dagster's own. Raises IntegrationError."""
    return Database(_dagster_url(settings), pool_size=pool_size)


def _dagster_url(settings: Settings) -> str:
    if settings.dagster_database_url is not None:
        return settings.dagster_database_url.get_secret_value()
    return embedded_url(settings.home, DAGSTER_DATABASE)


def dagster_storage_url(settings: Settings) -> str:
    """Where Dagster keeps runs and events, for dagster-postgres (psycopg2: see docs/decisions.md)."""
    address = connecting.address(_dagster_url(settings), "psycopg2")
    address = address.update_query_dict({"options": connecting.options(address, of_jobs=False)})
    return address.render_as_string(hide_password=False)


def embedded_url(home: Path, database: str) -> str:
    """A database of the embedded server, made if it is not there. Raises IntegrationError (database)."""
    from bg_pipelines.database import embedded

    connecting.forget_environment()
    try:
        server = embedded.ensure(home)
        server.create_database(database)
    except embedded.EmbeddedServerError as error:
        raise IntegrationError.of(
            ErrorType.DATABASE, str(error), source="database", details={"server": AWAY}
        ) from error
    return server.url(database)


def _raise_classified(error: sa.exc.DBAPIError) -> NoReturn:
    """What went wrong in SQLAlchemy's hands; a wrong statement is raised as it is."""
    cause = error.orig or error
    found = classified(cause)
    if found is None and error.statement is None:  # it was connecting
        found = unavailable(cause)
    if found is None:
        raise error
    raise found from error
