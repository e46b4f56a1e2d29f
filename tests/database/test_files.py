"""Files that cannot be used: our own error, with the path and the cause, and not a byte changed."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import apsw
import pytest

from wfe_fast import (
    CorruptionError,
    Event,
    EventSubscription,
    ExecutionPointer,
    InvalidValueError,
    SchemaMismatchError,
    SerializationError,
    StoreBusyError,
    StoreClosedError,
    StoreFullError,
    StoreReadOnlyError,
    StoreUnavailableError,
    WorkflowInstance,
    WorkflowNotFoundError,
    open_provider,
)
from wfe_fast.database.base import Row
from wfe_fast.database.sqlite import SqliteDatabase
from wfe_fast.database.sqlite_connection import SqliteSession, sqlite_path
from wfe_fast.persistence.sqlite import LINE, MIGRATIONS
from wfe_fast.sqlite import SqlitePersistenceProvider
from wfe_fast.testing.waiting import Background

Open = Callable[..., SqliteDatabase]


def a_workflow(data: object = None) -> WorkflowInstance:
    return WorkflowInstance(workflow_definition_id="order", data=data)


@contextmanager
def refused(path: Path, error: type[Exception], cause: str) -> Iterator[None]:
    """The block is refused with this error, which names the path and the cause; the file stays as it is, and alone."""
    before = {file.name: file.read_bytes() for file in path.parent.iterdir() if file.is_file()}
    with pytest.raises(error, match=cause) as caught:
        yield
    assert str(path) in str(caught.value)
    assert {file.name: file.read_bytes() for file in path.parent.iterdir() if file.is_file()} == before


# -- what is not ours ----------------------------------------------------------------------------------------------------------


def test_a_file_that_is_no_database(path: Path) -> None:
    path.write_text("To whom it may concern: this is a letter, and a long one. " * 100)
    with refused(path, SchemaMismatchError, "is not an SQLite database"):
        SqlitePersistenceProvider(path)


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE workflows (id TEXT PRIMARY KEY, status TEXT)",
        "PRAGMA application_id = 7",
        "PRAGMA user_version = 3",
    ],
)
@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_a_database_of_another_program(path: Path, statement: str, journal: str) -> None:
    connection = apsw.Connection(str(path))
    connection.pragma("journal_mode", journal)
    connection.execute(statement)
    connection.close()
    with refused(path, SchemaMismatchError, "of another program; it was left as it is"):
        SqlitePersistenceProvider(path)


def test_a_newer_version(path: Path) -> None:
    SqlitePersistenceProvider(path).close()
    connection = apsw.Connection(str(path))
    connection.execute("INSERT INTO wfe_fast_migrations VALUES ('persistence', 99, 'future', 'x', 0)")
    connection.close()
    with refused(path, SchemaMismatchError, "version 99, newer than the 1 that this release knows"):
        SqlitePersistenceProvider(path)


def test_an_empty_file_becomes_ours(path: Path) -> None:
    path.touch()
    with SqlitePersistenceProvider(path) as provider:
        provider.create_new_workflow(a_workflow())


# -- paths ---------------------------------------------------------------------------------------------------------------------


def test_a_file_that_becomes_ours_while_we_look(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else may make a new file ours between two looks of ours: still no stranger's database."""
    other = SqliteDatabase(path)
    look = SqliteSession.all
    looker = threading.get_ident()
    meanwhile: list[Background[None]] = []

    def all_and_meanwhile(session: SqliteSession, sql: str, params: Sequence[Any] = ()) -> list[Row]:
        rows = look(session, sql, params)
        if sql == "PRAGMA application_id" and threading.get_ident() == looker and not meanwhile:
            meanwhile.append(Background(lambda: other.migrate(LINE, MIGRATIONS)))
            with suppress(AssertionError):  # where it has to wait for us it ends later
                meanwhile[0].result(0.3)
        return rows

    monkeypatch.setattr(SqliteSession, "all", all_and_meanwhile)
    with SqlitePersistenceProvider(path) as provider:
        meanwhile[0].result()
        assert provider.get_workflow_instances([]) == []
    other.close()


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailableError, match=r"nowhere/x\.db: cannot be created: No such file"):
        SqlitePersistenceProvider(tmp_path / "nowhere" / "x.db")


def test_a_folder_instead_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailableError, match="the file cannot be opened"):
        SqlitePersistenceProvider(tmp_path)


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("orders.db", "orders.db"),
        (Path("orders.db"), "orders.db"),
        ("sqlite:///orders.db", "orders.db"),
        ("sqlite:////var/lib/orders.db", "/var/lib/orders.db"),
        ("sqlite:///with%20space.db", "with space.db"),
        ("sqlite://:memory:", ":memory:"),
        ("sqlite:///:memory:", ":memory:"),
        (":memory:", ":memory:"),
    ],
)
def test_targets(target: str, path: str) -> None:
    assert sqlite_path(target) == path


@pytest.mark.parametrize(
    "target",
    [
        "",
        "sqlite:///",
        "sqlite:orders.db",
        "sqlite://host/orders.db",
        "sqlite:///a.db?mode=ro",
        "a\0b",
        b"a.db",
        7,
        None,
    ],
)
def test_targets_that_name_no_file(target: object) -> None:
    with pytest.raises(InvalidValueError, match=r"path|url"):
        SqlitePersistenceProvider(target)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("option", "value"), [("synchronous", "off"), ("busy_timeout", -1), ("busy_timeout", "1"), ("clock", 7)]
)
def test_options_that_are_wrong(path: Path, option: str, value: object) -> None:
    with pytest.raises(InvalidValueError, match=option):
        SqlitePersistenceProvider(path, **{option: value})  # type: ignore[arg-type]
    assert not path.exists()


@pytest.mark.parametrize("url", ["mysql://x", "orders.db", 7])
def test_urls_of_no_database_that_we_know(url: object) -> None:
    with pytest.raises(InvalidValueError, match="url"):
        open_provider(url)  # type: ignore[arg-type]


def test_open_provider_hands_options_on(path: Path) -> None:
    with open_provider(f"sqlite:///{path}", synchronous="full") as provider:
        provider.create_new_workflow(a_workflow())
    assert path.exists()


def test_a_later_chdir_leads_nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with SqlitePersistenceProvider("here.db") as provider:
        id = provider.create_new_workflow(a_workflow())
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert provider.get_workflow_instance(id).id == id
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_only_the_owner_may_read(path: Path) -> None:
    with SqlitePersistenceProvider(path) as provider:
        provider.create_new_workflow(a_workflow())
        modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
    assert modes == {"test.db": 0o600, "test.db-wal": 0o600, "test.db-shm": 0o600}


# -- what goes wrong later -------------------------------------------------------------------------------------------------------


def test_a_full_database(path: Path) -> None:
    with SqlitePersistenceProvider(path) as provider:
        kept = provider.create_new_workflow(a_workflow({"kept": True}))
        database = provider._database
        pages = database.read(lambda s: s.one("PRAGMA page_count")[0])
        database.locked(lambda: database._writer_session().run(f"PRAGMA max_page_count = {pages + 2}"))
        with pytest.raises(StoreFullError, match=r"test\.db: the disk or the database is full"):
            provider.create_new_workflow(a_workflow("x" * 1_000_000))
        assert provider.get_workflow_instance(kept).data == {"kept": True}
        assert provider.count_workflows().total() == 1  # type: ignore[attr-defined]
        database.locked(lambda: database._writer_session().run("PRAGMA max_page_count = 1000000"))
        provider.create_new_workflow(a_workflow("x" * 1_000_000))


ON_A_FULL_DISK = """
import resource, signal, sys
from wfe_fast import StoreUnavailableError, WorkflowInstance
from wfe_fast.sqlite import SqlitePersistenceProvider

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
provider = SqlitePersistenceProvider(sys.argv[1])
kept = provider.create_new_workflow(WorkflowInstance(workflow_definition_id="order", data={"kept": True}))
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
acknowledged = 0
try:
    while True:
        provider.create_new_workflow(WorkflowInstance(workflow_definition_id="order", data="x" * 50_000))
        acknowledged += 1
except StoreUnavailableError as error:
    assert sys.argv[1] in str(error), error
assert provider.get_workflow_instance(kept).data == {"kept": True}
print(acknowledged)
"""


def test_a_file_that_cannot_grow(path: Path) -> None:
    """The operating system refuses the bytes in the middle of a write. What was acknowledged before is there afterwards."""
    result = subprocess.run([sys.executable, "-c", ON_A_FULL_DISK, path], check=True, capture_output=True, text=True)
    with SqlitePersistenceProvider(path) as provider:
        count = provider.count_workflows()
        assert sum(count.values()) == 1 + int(result.stdout)
        provider.create_new_workflow(a_workflow("x" * 50_000))


AS_A_STRANGER = """
import os, sys
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
from wfe_fast import StoreUnavailableError
from wfe_fast.sqlite import SqlitePersistenceProvider
try:
    SqlitePersistenceProvider(sys.argv[1])
except StoreUnavailableError as error:
    print(type(error).__name__, error)
"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that anybody may enter (that of pytest is the owner's alone)."""
    import shutil
    import tempfile

    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def _as_a_stranger(path: Path, tmp_path: Path) -> str:
    # The package is imported before the rights are dropped: the stranger need not be able to read the checkout.
    script = "import wfe_fast.sqlite\n" + AS_A_STRANGER
    return subprocess.run([sys.executable, "-c", script, path], check=True, capture_output=True, text=True).stdout


def test_a_file_that_may_only_be_read(open_folder: Path, tmp_path: Path) -> None:
    path = open_folder / "test.db"
    with SqlitePersistenceProvider(path) as provider:
        provider.create_new_workflow(a_workflow())
    path.chmod(0o444)
    before = path.read_bytes()
    assert _as_a_stranger(path, tmp_path).startswith(f"StoreReadOnlyError {path}: the file")
    assert path.read_bytes() == before
    assert issubclass(StoreReadOnlyError, StoreUnavailableError)


def test_a_folder_that_may_only_be_read(open_folder: Path, tmp_path: Path) -> None:
    path = open_folder / "new.db"
    open_folder.chmod(0o555)
    assert (
        _as_a_stranger(path, tmp_path).strip() == f"StoreUnavailableError {path}: cannot be created: Permission denied"
    )
    assert not path.exists()


def test_a_lock_that_is_held_for_longer_than_the_wait(path: Path) -> None:
    with SqlitePersistenceProvider(path, busy_timeout=0.1) as provider:
        kept = provider.create_new_workflow(a_workflow())
        script = (
            f"import apsw, sys; c = apsw.Connection({str(path)!r}); c.execute('BEGIN IMMEDIATE'); "
            "print('held', flush=True); sys.stdin.read()"
        )
        with subprocess.Popen(
            [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as holder:
            assert holder.stdout is not None
            assert holder.stdin is not None
            assert holder.stdout.readline() == "held\n"
            with pytest.raises(StoreBusyError, match=r"test\.db: another process holds the database for longer"):
                provider.create_new_workflow(a_workflow())
            with pytest.raises(StoreBusyError), provider.transaction():
                pass
            assert provider.get_workflow_instance(kept).id == kept  # a reader does not wait for a writer
            holder.stdin.close()
            holder.wait()
        provider.create_new_workflow(a_workflow())
        assert sum(provider.count_workflows().values()) == 2


def test_a_corrupt_page(path: Path) -> None:
    with SqlitePersistenceProvider(path) as provider:
        for _ in range(50):
            provider.create_new_workflow(a_workflow("x" * 3000))
    content = bytearray(path.read_bytes())
    content[8192:] = b"\xa5" * (len(content) - 8192)
    path.write_bytes(content)
    with pytest.raises(CorruptionError, match=r"test\.db: the database file is damaged"):
        read_everything(path)


def read_everything(path: Path) -> None:
    with SqlitePersistenceProvider(path) as provider:
        for workflow in provider.list_workflows(limit=50).items:
            provider.get_workflow_instance(workflow.id)


def test_a_value_that_cannot_have_been_ours(path: Path) -> None:
    with SqlitePersistenceProvider(path) as provider:
        id = provider.create_new_workflow(a_workflow())
        provider._database.write(lambda s: s.run("UPDATE workflows SET data = '{'"))
        with pytest.raises(CorruptionError, match=f"workflow {id} cannot be read"):
            provider.get_workflow_instance(id)


def test_after_close_and_closing_twice(path: Path) -> None:
    provider = SqlitePersistenceProvider(path)
    provider.close()
    provider.close()
    with pytest.raises(StoreClosedError):
        provider.create_new_workflow(a_workflow())
    with pytest.raises(StoreClosedError):
        provider.count_workflows()
    with pytest.raises(StoreClosedError), provider.transaction():
        pass


def test_the_last_close_leaves_one_file(path: Path) -> None:
    with SqlitePersistenceProvider(path) as provider:
        provider.create_new_workflow(a_workflow())
    assert [file.name for file in path.parent.iterdir()] == ["test.db"]


# -- the log -------------------------------------------------------------------------------------------------------------------


def test_the_log_does_not_grow_without_bound(open_database: Open, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers of which one always begins before the other ends keep SQLite from ever starting its log anew; we see to it."""
    monkeypatch.setattr("wfe_fast.database.sqlite._LONGEST_LOG", 1_000_000)
    monkeypatch.setattr("wfe_fast.database.sqlite._COMMITS_BETWEEN_LOOKS", 16)
    database = open_database()
    log = Path(f"{path}-wal")
    stop = threading.Event()

    def keep_reading(session: SqliteSession) -> None:
        session.all("SELECT count(*) FROM t")
        stop.wait(0.004)

    def reader() -> None:
        while not stop.is_set():
            database.snapshot(keep_reading)

    readers = [Background(reader) for _ in range(3)]
    largest = 0
    for _ in range(600):
        database.write(lambda s: s.run("INSERT INTO t (b) VALUES (randomblob(20000))"))
        largest = max(largest, log.stat().st_size)
    stop.set()
    for thread in readers:
        thread.result()
    assert 1_000_000 < largest < 5_000_000  # of the 12 million bytes that were written


def test_an_instance_remembers_its_own_store_alone(path: Path) -> None:
    """The row with the same number in another store is another workflow."""
    with SqlitePersistenceProvider(path) as one, SqlitePersistenceProvider(path.with_name("other.db")) as two:
        mine = a_workflow({"of": "one"})
        theirs = a_workflow({"of": "two"})
        one.create_new_workflow(mine)
        two.create_new_workflow(theirs)
        (claimed,) = one.claim_runnable_instances("worker")
        with pytest.raises(WorkflowNotFoundError):
            two.persist_workflow(claimed)
        assert two.renew_claims([claimed]) == [claimed]
        assert two.get_workflow_instance(theirs.id).data == {"of": "two"}


def test_a_clock_must_give_aware_datetimes(path: Path) -> None:
    with pytest.raises(InvalidValueError, match="clock"):
        SqlitePersistenceProvider(path, clock=lambda: None)  # type: ignore[arg-type, return-value]


def test_the_callers_own_errors_come_out_of_a_block_as_they_are(path: Path) -> None:
    with SqlitePersistenceProvider(path) as provider:
        own = apsw.ConstraintError("the caller's own")
        with pytest.raises(apsw.ConstraintError) as caught, provider.transaction():
            raise own
        assert caught.value is own


def test_stored_values_that_are_no_json(path: Path) -> None:
    with SqlitePersistenceProvider(path) as provider:
        provider.create_event(Event(id="e", event_name="n", event_key="k"))
        provider._database.write(lambda s: s.run("UPDATE events SET event_data = '{'"))
        with pytest.raises(CorruptionError, match="no JSON"):
            provider.get_event("e")


@pytest.mark.parametrize("depth", [500, 501])
def test_a_value_that_can_be_stored_can_be_delivered(path: Path, depth: int) -> None:
    """Inside a pointer it lies a level deeper."""
    data: object = None
    for level in range(depth):
        data = {"in": data} if level % 2 else [data]
    with SqlitePersistenceProvider(path) as provider:
        workflow = WorkflowInstance(
            workflow_definition_id="order", execution_pointers=[ExecutionPointer(id="p", step_id=0)]
        )
        provider.create_new_workflow(workflow)
        provider.create_event_subscription(
            EventSubscription(
                workflow_id=workflow.id, step_id=0, execution_pointer_id="p", event_name="n", event_key="k"
            )
        )
        event = Event(event_name="n", event_key="k", event_data=data)
        if depth > 500:
            with pytest.raises(SerializationError, match="nested"):
                provider.publish_event(event)
            return
        provider.publish_event(event)
        loaded = provider.get_workflow_instance(workflow.id)
        assert loaded.execution_pointers[0].event_data == data
        provider.persist_workflow(loaded)
