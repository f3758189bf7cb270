"""What PostgreSQL's error codes (SQLSTATE) mean to the jobs.

conflict    two transactions conflicted: repeated at once
expected    normal in a database under load: one transaction failed, others did not; its work is retried with backoff
outage      no transaction can work: the server is away, refuses connections, has no disk left, or only lets itself be read
(others)    a wrong statement or a value that does not fit: a bug, raised as psycopg raises it
"""

from __future__ import annotations

import psycopg

from bg_pipelines.errors import ErrorType, IntegrationError

CONFLICTS = frozenset(
    {
        "40001",  # serialization_failure
        "40P01",  # deadlock_detected
    }
)
EXPECTED = CONFLICTS | {
    "25P03",  # idle_in_transaction_session_timeout; ends the connection, too
    "25P04",  # transaction_timeout; ends the connection, too
    "53200",  # out_of_memory: of this backend, or of the table of locks
    "53400",  # configuration_limit_exceeded: temp_file_limit
    "55P03",  # lock_not_available: lock_timeout (LOCKED)
    "57014",  # query_canceled: statement_timeout, or a person
}

LOCKED = "55P03"
AWAY = "away"
"""There is no server, or it is starting or stopping: over as soon as one answers."""
REFUSES = "refuses"
"""The server answers but refuses connections: a wrong password, no such database, too many connections."""

_GOING = ("08", "57P01", "57P02", "57P03")  # connection exceptions, shutdown, crash, start-up
# Disk or connections used up, database dropped, an error of the system, a database that is only read.
_EXHAUSTED = ("53", "57P04", "58", "25006")


def classified(error: BaseException) -> IntegrationError | None:
    """What a database error means; None for a wrong statement or value, which is raised as it is."""
    if not isinstance(error, psycopg.Error):
        return None
    code = error.sqlstate
    if code in CONFLICTS:
        return _failed_alone(
            "Two jobs wrote the same rows at once and PostgreSQL ended one of them. Retried automatically.",
            "low",
            code,
        )
    if code in EXPECTED or (code == "53100" and "pgsql_tmp" in str(error)):
        return _failed_alone(
            f"PostgreSQL ended one transaction: {_first_line(error)}. Retried automatically; other work continues.",
            "medium",
            code,
        )
    if isinstance(error, psycopg.OperationalError | psycopg.errors.ReadOnlySqlTransaction) and (
        code is None or code.startswith(_GOING + _EXHAUSTED)
    ):
        return unavailable(error)
    return None


def unavailable(error: BaseException) -> IntegrationError:
    """An outage, or a pooler that will not do.

    `details["server"]` says which kind of outage: away, refuses, or the server's own code for it; None: not known.
    """
    if "unsupported startup parameter" in str(error):
        return pooled()
    server = _server(error)
    what = "is not available" if server in (None, AWAY, REFUSES) else "cannot work"
    return IntegrationError.of(
        ErrorType.DATABASE,
        f"PostgreSQL {what}: {_first_line(error)}",
        source="database",
        details={"server": server},
    )


def server_code(error: IntegrationError) -> str:
    """Which kind of outage this is, as `unavailable` says it; empty: none, or not known."""
    return str(error.details.get("server") or "")


def pooled() -> IntegrationError:
    """Between us and the server stands something that shares its sessions, or does not hand on what we ask of one."""
    return IntegrationError.of(
        ErrorType.CONFIGURATION,
        "between here and PostgreSQL stands a pooler (PgBouncer or the like) that does not pass on the options of a "
        "connection: give the address of the server itself, for connections are kept and need sessions of their own",
        source="database",
    )


def is_conflict(error: IntegrationError) -> bool:
    """Whether two transactions conflicted (deadlock): the one that lost did nothing."""
    return is_expected(error) and error.details["sqlstate"] in CONFLICTS


def is_expected(error: IntegrationError) -> bool:
    """Whether one transaction failed as is normal under load: the next one may succeed."""
    return error.error_type is ErrorType.DATABASE and bool(error.details.get("expected"))


def is_outage(error: IntegrationError) -> bool:
    """Whether the database is at fault as a whole: nothing can be read or settled, for any store."""
    return error.error_type is ErrorType.DATABASE and not is_expected(error)


def _failed_alone(message: str, severity: str, code: str | None) -> IntegrationError:
    return IntegrationError(
        message,
        error_type=ErrorType.DATABASE,
        severity=severity,
        source="database",
        details={"expected": True, "sqlstate": code},
    )


def _server(error: BaseException) -> str | None:
    if not isinstance(error, psycopg.OperationalError | psycopg.errors.ReadOnlySqlTransaction):
        return None
    if error.sqlstate is not None:
        return AWAY if error.sqlstate.startswith(_GOING) else error.sqlstate
    # psycopg has no code for what was said to it while it connected.
    said = str(error)
    return REFUSES if "FATAL" in said and "the database system is" not in said else AWAY


def _first_line(error: BaseException) -> str:
    # Later lines repeat the statement, whose parameters may be anybody's data.
    said = str(error).strip().splitlines()
    return said[0] if said else type(error).__name__
