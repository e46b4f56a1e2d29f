"""What each method costs on SQLite, in counts that are the same on every machine: statements, transactions, syncs, rows, bytes of the log."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import apsw
import pytest

from tests.persistence.reads import LOOKS
from wfe_fast.database.sqlite_connection import Synchronous
from wfe_fast.sqlite import SqlitePersistenceProvider
from wfe_fast.testing.clock import ManualClock
from wfe_fast.testing.persistence.factories import a_workflow, pointers
from wfe_fast.testing.persistence.writes import WRITES, World, build_world

#: How many statements a write has, where there is more than one between BEGIN and COMMIT.
STATEMENTS = {
    "create_new_workflow": 1 + 2,  # the row, its pointers
    "persist_workflow": 1 + 10,  # the row; what stands behind a place where one was removed or inserted moves
    "persist_workflow claimed": 1 + 5,
    "persist_workflow release": 1 + 5,
    "persist_workflow_with_subscriptions": 1 + 10 + 2,
    "delete_workflow": 4,  # the row with its pointers, subscriptions, errors, command
    "purge_workflows": 1 + 4,
    "claim_runnable_instances": 3,  # which, claim them, read them
    "publish_event": 5
    + 3 * 4
    + 4,  # three are delivered to, with four statements each; two events, one of which was stored before
    "publish_event limit": 5 + 2 * 4,
    "dispatch_events": 3 + 3 + 3 * 4 + 1,
    "take_events": 3,
    "claim_subscription": 3,
    "complete_subscription": 5,
    "persist_errors": 3,
}
#: What looks whether there is anything to do before it begins a transaction, which would make others wait.
LOOKS_FIRST = {"dispatch_events", "claim_subscription"}
#: A read of more than one statement, on one snapshot.
SNAPSHOTS = {"get_events_since": ["BEGIN DEFERRED", "ROLLBACK"]}

#: A frame of the log is a page and a header of 24 bytes.
PAGE, FRAME_HEADER = 4096, 24


class Watch:
    """Collects the statements of all connections that are opened while it is installed, and keeps these."""

    def __init__(self) -> None:
        self.statements: list[str] = []
        self.connections: list[apsw.Connection] = []

    def __call__(self, connection: apsw.Connection) -> None:
        def before_statement(_: object, sql: str, __: object) -> bool:
            self.statements.append(sql)
            return True

        connection.set_exec_trace(before_statement)
        self.connections.append(connection)

    def rows(self) -> int:
        """How many rows were written so far."""
        return sum(connection.total_changes() for connection in self.connections)


@pytest.fixture
def watch() -> Iterator[Watch]:
    watch = Watch()
    apsw.connection_hooks.append(watch)
    yield watch
    apsw.connection_hooks.remove(watch)
    watch.connections.clear()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def provider(watch: Watch, tmp_path: Path, clock: ManualClock) -> Iterator[SqlitePersistenceProvider]:
    with SqlitePersistenceProvider(tmp_path / "test.db", clock=clock) as provider:
        yield provider


@pytest.fixture
def world(provider: SqlitePersistenceProvider, clock: ManualClock) -> World:
    return build_world(provider, clock)


@pytest.mark.parametrize("label", WRITES)
def test_a_write_is_one_transaction_of_so_many_statements(
    watch: Watch, provider: SqlitePersistenceProvider, world: World, label: str
) -> None:
    watch.statements.clear()
    WRITES[label](provider, world)
    statements = watch.statements[1:] if label in LOOKS_FIRST else watch.statements
    assert [statements[0], statements[-1]] == ["BEGIN IMMEDIATE", "COMMIT"]
    assert len(statements) - 2 == STATEMENTS.get(label, 1), statements


def test_an_idle_claim_holds_up_no_writer_and_a_busy_one_does_not_look_twice(
    watch: Watch, provider: SqlitePersistenceProvider
) -> None:
    def first_words(definitions: list[tuple[str, int]] | None = None) -> list[str]:
        watch.statements.clear()
        provider.claim_runnable_instances("worker", limit=2, definitions=definitions)
        return [statement.split()[0] for statement in watch.statements]

    def make(number: int) -> None:
        for _ in range(number):
            provider.create_new_workflow(a_workflow())

    assert first_words() == ["SELECT"]
    make(3)
    assert first_words()[:2] == ["SELECT", "BEGIN"]
    assert first_words([("another", 1)]) == ["SELECT"], "nothing is known of these"
    assert first_words()[0] == "BEGIN", "the one before got all that it asked for"
    make(2)
    assert first_words()[:2] == ["SELECT", "BEGIN"]
    assert first_words()[0] == "BEGIN"
    assert first_words() == ["SELECT"]


class SyncedFile(apsw.VFSFile):
    """A file that notes when it is forced to the disk."""

    def __init__(self, name: str | apsw.URIFilename | None, flags: list[int], synced: list[str]) -> None:
        self._name = Path(name.filename() if isinstance(name, apsw.URIFilename) else name or "").name
        self._synced = synced
        super().__init__("unix", name, flags)

    def xSync(self, flags: int) -> None:  # noqa: N802 (SQLite's name)
        self._synced.append(self._name)
        super().xSync(flags)


class SyncedFiles(apsw.VFS):
    """SQLite's files while it is registered; `synced` are the names of those that were forced to the disk, in order."""

    def __init__(self) -> None:
        self.synced: list[str] = []
        super().__init__("wfe-fast-synced", "unix", makedefault=True)

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> SyncedFile:  # noqa: N802
        return SyncedFile(name, flags, self.synced)


@pytest.fixture
def files() -> Iterator[SyncedFiles]:
    files = SyncedFiles()
    yield files
    files.unregister()


@pytest.mark.parametrize(("synchronous", "expected"), [("normal", []), ("full", ["test.db-wal"])])
@pytest.mark.parametrize("label", WRITES)
def test_a_write_forces_the_log_to_the_disk_once_or_not_at_all(
    files: SyncedFiles,
    tmp_path: Path,
    clock: ManualClock,
    label: str,
    synchronous: Synchronous,
    expected: list[str],
) -> None:
    with SqlitePersistenceProvider(tmp_path / "test.db", synchronous=synchronous, clock=clock) as provider:
        world = build_world(provider, clock)
        files.synced.clear()
        WRITES[label](provider, world)
        assert files.synced == expected


@pytest.mark.parametrize("label", LOOKS)
def test_a_read_is_one_statement(watch: Watch, provider: SqlitePersistenceProvider, world: World, label: str) -> None:
    watch.statements.clear()
    LOOKS[label](provider, world)
    if label in SNAPSHOTS:
        assert [watch.statements[0], watch.statements[-1]] == SNAPSHOTS[label]
        assert len(watch.statements) == 4
    else:
        assert len(watch.statements) == 1


@pytest.mark.parametrize("length", [10, 1000])
def test_a_step_writes_its_own_pointer(watch: Watch, provider: SqlitePersistenceProvider, length: int) -> None:
    """One changes, one is appended: the rows that are written do not depend on how many there are."""
    instance = a_workflow(id="w", execution_pointers=pointers(length))
    provider.create_new_workflow(instance)
    before = watch.rows()
    instance.execution_pointers[-1].outcome = "done"
    instance.execution_pointers += pointers(1)
    provider.persist_workflow(instance)
    assert watch.rows() - before == 3  # with the workflow's own


def test_a_persist_of_a_long_workflow_logs_a_few_pages(provider: SqlitePersistenceProvider, tmp_path: Path) -> None:
    """What changes of a workflow with 1,000 pointers is a page of pointers, one of workflows, and their indexes."""
    log = tmp_path / "test.db-wal"
    instance = a_workflow(id="w", execution_pointers=pointers(1000))
    provider.create_new_workflow(instance)
    sizes = [log.stat().st_size]
    for number in range(20):
        instance.execution_pointers[number * 50].outcome = number
        provider.persist_workflow(instance)
        sizes.append(log.stat().st_size)
    assert max(after - before for before, after in pairwise(sizes)) <= 4 * (PAGE + FRAME_HEADER)
