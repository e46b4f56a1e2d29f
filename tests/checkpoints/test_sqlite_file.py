"""What is particular to checkpoints in an SQLite file: schema, settings, query plans, and who else may use the file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import get_type_hints

import apsw
import pytest

from wfe_fast import ExecutionNotFoundError, InvalidValueError, SchemaMismatchError
from wfe_fast.checkpoints.sqlite import LINE, MIGRATIONS, STATEMENTS
from wfe_fast.checkpoints.sqlite_statements import SqliteStatements
from wfe_fast.clock import to_micros
from wfe_fast.sqlite import SqliteCheckpointStore, SqlitePersistenceProvider
from wfe_fast.testing.checkpoints.factories import (
    EXECUTION,
    a_checkpoint,
    a_signal,
    a_timer,
    a_workflow,
    an_execution,
    at,
    saved,
)
from wfe_fast.testing.racing import race_processes, values

TABLES = ["workflows", "workflow_executions", "step_checkpoints", "workflow_timers", "workflow_signals"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "test.db"


@pytest.fixture
def raw(path: Path) -> Iterator[apsw.Connection]:
    """A filled file, seen by another program."""
    with SqliteCheckpointStore.file(path) as store:
        store.save_workflow(a_workflow())
        saved(store, an_execution())
        store.save_checkpoint(a_checkpoint())
        store.save_timer(a_timer())
        store.save_signal(a_signal())
        connection = apsw.Connection(str(path))
        yield connection
        connection.close()


@pytest.mark.parametrize("table", TABLES)
def test_the_tables_are_there_and_times_are_integers(raw: apsw.Connection, table: str) -> None:
    columns = {name: kind for _, name, kind, *_ in raw.execute(f"PRAGMA table_info({table})")}
    moments = [name for name in columns if name.endswith("_at")]
    assert {columns[name] for name in moments} == {"INTEGER"}
    assert raw.execute(f"SELECT count(*) FROM {table}").fetchall() == [(1,)]


def test_a_stored_time_is_in_microseconds(raw: apsw.Connection) -> None:
    assert raw.execute("SELECT fire_at FROM workflow_timers").fetchall() == [(to_micros(at(-60)),)]


def test_every_foreign_key_has_an_index_and_is_kept(raw: apsw.Connection) -> None:
    raw.execute("PRAGMA foreign_keys = ON")
    for table in TABLES:
        for _, _, parent, column, *_ in raw.execute(f"PRAGMA foreign_key_list({table})").fetchall():
            plan = raw.execute(f"EXPLAIN QUERY PLAN SELECT 1 FROM {table} WHERE {column} = ?", ("x",)).fetchall()
            assert "USING" in plan[0][3], (table, column)
            assert "INDEX" in plan[0][3], (table, column)
            with pytest.raises(apsw.ConstraintError):
                raw.execute(f"UPDATE {table} SET {column} = 'nobody'")
            assert parent in TABLES
    with pytest.raises(apsw.ConstraintError):
        raw.execute("DELETE FROM workflows")
    assert raw.execute("PRAGMA foreign_key_check").fetchall() == []


def test_wrong_words_are_refused_by_the_tables(raw: apsw.Connection) -> None:
    for table, column in [
        ("workflow_executions", "status"),
        ("workflow_executions", "guarantee"),
        ("step_checkpoints", "status"),
        ("step_checkpoints", "kind"),
        ("workflow_timers", "status"),
        ("workflow_signals", "status"),
    ]:
        with pytest.raises(apsw.ConstraintError):
            raw.execute(f"UPDATE {table} SET {column} = 'SOMETHING'")


def test_an_upsert_keeps_the_row(path: Path, raw: apsw.Connection) -> None:
    before = {table: raw.execute(f"SELECT * FROM {table}").fetchall() for table in TABLES}
    rowid = raw.execute("SELECT rowid FROM workflow_executions").fetchall()
    with SqliteCheckpointStore(path) as store:
        store.save_workflow(a_workflow())
        saved(store, an_execution())
        store.save_checkpoint(a_checkpoint())
        store.save_timer(a_timer())
    assert {table: raw.execute(f"SELECT * FROM {table}").fetchall() for table in TABLES} == before
    assert raw.execute("SELECT rowid FROM workflow_executions").fetchall() == rowid


def test_what_is_missing_is_reported(path: Path, raw: apsw.Connection) -> None:
    with SqliteCheckpointStore(path) as store:
        assert store.validate_schema()
        raw.execute("DROP INDEX timers_pending")
        raw.execute("ALTER TABLE step_checkpoints RENAME COLUMN error_type TO other")
        report = store.validate_schema()
        assert not report
        assert not report.is_valid
        assert (report.missing_tables, report.missing_indexes) == ([], ["timers_pending"])
        assert report.missing_columns == ["step_checkpoints.error_type"]
        raw.execute("DROP TABLE workflow_signals")
        assert store.validate_schema().missing_tables == ["workflow_signals"]


def test_settings_are_reported(path: Path) -> None:
    for synchronous in ("normal", "full"):
        with SqliteCheckpointStore(path, synchronous) as store:
            assert store.validate_schema().pragma_issues == {}
    with SqliteCheckpointStore.in_memory() as store:
        assert store.validate_schema().pragma_issues == {}
        store._database.locked(lambda: store._database._writer_session().all("PRAGMA foreign_keys = OFF"))
        assert store.validate_schema().pragma_issues == {"foreign_keys": "is 0, must be 1"}


def test_versions(path: Path) -> None:
    with SqliteCheckpointStore(path) as store:
        assert store.schema_version == len(MIGRATIONS) == 2
        store.migrate()
        assert store.schema_version == 2
    raw = apsw.Connection(str(path))
    raw.execute("INSERT INTO wfe_fast_migrations VALUES (?, 3, 'later', 'x', 0)", (LINE,))
    raw.close()
    before = path.read_bytes()
    with pytest.raises(SchemaMismatchError, match="newer"):
        SqliteCheckpointStore(path)
    assert path.read_bytes() == before


def test_another_contracts_file_is_refused_and_left_as_it_is(path: Path) -> None:
    with SqlitePersistenceProvider(path):
        pass
    before = path.read_bytes()
    with pytest.raises(SchemaMismatchError, match="no room"):
        SqliteCheckpointStore(path)
    assert path.read_bytes() == before
    with SqlitePersistenceProvider(path):
        pass
    other = path.with_name("other.db")
    with SqliteCheckpointStore(other):
        pass
    with pytest.raises(SchemaMismatchError, match="no room"):
        SqlitePersistenceProvider(other)


def test_another_programs_file_is_refused_and_left_as_it_is(path: Path) -> None:
    raw = apsw.Connection(str(path))
    raw.execute("PRAGMA user_version = 1; CREATE TABLE mine (x)")
    raw.close()
    before = path.read_bytes()
    with pytest.raises(SchemaMismatchError):
        SqliteCheckpointStore(path)
    assert path.read_bytes() == before


def test_a_refusal_that_wrote_nothing_leaves_a_block_usable(path: Path) -> None:
    with SqliteCheckpointStore(path) as store:
        store.save_workflow(a_workflow())
        with store.transaction() as tx:
            with pytest.raises(ExecutionNotFoundError):
                tx.save_checkpoint(a_checkpoint())
            tx.save_execution(an_execution())
        assert store.load_execution(EXECUTION) == an_execution()


def open_it(store: SqliteCheckpointStore) -> int:
    return store.schema_version


def test_processes_that_create_one_file_together_all_succeed(path: Path) -> None:
    opener = partial(SqliteCheckpointStore, path)
    assert values(race_processes(opener, open_it, [()] * 3)) == [2] * 3


def test_bad_options(path: Path) -> None:
    for bad in ({"synchronous": "off"}, {"busy_timeout": -1}, {"clock": 1}):
        with pytest.raises(InvalidValueError):
            SqliteCheckpointStore(path, **bad)  # type: ignore[arg-type]


#: These walk an index from its beginning, since there all of it, or its first entry, is what they ask for; or look at the schema.
WALKS = {
    "count_executions",
    "load_pending_timers",
    "next_due",
    "next_expiry",
    "schema_columns",
    "schema_indexes",
    "schema_version",
}


@pytest.mark.parametrize("name", sorted(get_type_hints(SqliteStatements)))
def test_nothing_is_sorted_and_no_table_is_scanned(raw: apsw.Connection, name: str) -> None:
    sql: str = getattr(STATEMENTS, name)
    parameters = max((int(number) for number in re.findall(r"\?(\d+)", sql)), default=0)
    for row in raw.execute(f"EXPLAIN QUERY PLAN {sql}", (None,) * parameters).fetchall():
        line = str(row[3])
        assert "TEMP B-TREE" not in line, line
        if line.startswith("SCAN") and "VIRTUAL TABLE" not in line:
            assert name in WALKS, line


@pytest.mark.parametrize("name", ["wake_executions", "claimable_of", "load_due_timers", "next_due", "any_claimable"])
def test_what_sleeps_costs_nothing(path: Path, name: str) -> None:
    """The steps of SQLite's machine are the same among ten and among a thousand that sleep."""
    parameters = {
        "wake_executions": ('["order-1"]', 1),
        "claimable_of": ("order", "RUNNING", 2**62, "[]", 5),
        "load_due_timers": (to_micros(at(0)), 5),
        "next_due": (),
        "any_claimable": ('["order"]', '["RUNNING","COMPENSATING"]', 2**62, "[]"),
    }[name]
    costs = []
    with SqliteCheckpointStore(path) as store:
        store.save_workflow(a_workflow())
        saved(store, an_execution(EXECUTION))
        store.save_timer(a_timer())
        for start, end in ((0, 10), (10, 1000)):
            with store.transaction() as tx:
                for number in range(start, end):
                    sleeping = an_execution(f"s{number}", status=an_execution().status.SUSPENDED)
                    tx.save_execution(sleeping)
                    tx.save_timer(a_timer(f"t{number}", workflow_execution_id=f"s{number}", fire_at=at(1e6)))
            costs.append(steps(path, getattr(STATEMENTS, name), parameters))
    assert costs[1] <= 1.3 * costs[0] + 50


def steps(path: Path, sql: str, parameters: tuple[object, ...]) -> int:
    connection = apsw.Connection(str(path))
    count = 0

    def step() -> bool:
        nonlocal count
        count += 1
        return False

    connection.execute("BEGIN")
    connection.set_progress_handler(step, 1)
    connection.execute(sql, parameters).fetchall()
    connection.set_progress_handler(None)
    connection.execute("ROLLBACK")
    connection.close()
    return count
