"""Schema versions: idempotent, safe for many processes at once, never backwards."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from wfe_fast.database.migrations import Migration, load_migrations, pending_migrations
from wfe_fast.database.sqlite import SqliteDatabase
from wfe_fast.errors import InvalidStateError, SchemaMismatchError
from wfe_fast.testing.racing import race_processes, values

FIRST = Migration(1, "first", "CREATE TABLE one (a INTEGER PRIMARY KEY) STRICT; INSERT INTO one VALUES (1);")
SECOND = Migration(2, "second", "ALTER TABLE one ADD COLUMN b TEXT; CREATE INDEX one_b ON one (b);")
BROKEN = Migration(2, "broken", "CREATE TABLE two (a INTEGER) STRICT; INSERT INTO nowhere VALUES (1);")


def _tables(database: SqliteDatabase) -> list[str]:
    return [
        row[0]
        for row in database.read(lambda s: s.all("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name"))
    ]


def test_each_migration_runs_once(open_database: Callable[..., SqliteDatabase]) -> None:
    database = open_database()
    for _ in range(2):
        database.migrate("line", (FIRST,))
    database.migrate("line", (FIRST, SECOND))
    assert database.read(lambda s: s.all("SELECT a, b FROM one")) == [(1, None)]
    applied = database.read(lambda s: s.all("SELECT line, version, name FROM wfe_fast_migrations ORDER BY version"))
    assert applied == [("line", 1, "first"), ("line", 2, "second")]


def test_lines_do_not_know_each_other(open_database: Callable[..., SqliteDatabase]) -> None:
    database = open_database()
    database.migrate("line", (FIRST,))
    database.migrate("other", (Migration(1, "first", "CREATE TABLE other (a INTEGER) STRICT"),))
    assert _tables(database) == ["one", "other", "t", "wfe_fast_migrations"]


def test_a_migration_that_fails_leaves_nothing(open_database: Callable[..., SqliteDatabase]) -> None:
    database = open_database()
    database.migrate("line", (FIRST,))
    with pytest.raises(Exception, match="nowhere"):
        database.migrate("line", (FIRST, BROKEN))
    assert _tables(database) == ["one", "t", "wfe_fast_migrations"]
    database.migrate("line", (FIRST, SECOND))


def test_a_newer_schema_is_refused_and_left_as_it_is(open_database: Callable[..., SqliteDatabase], path: Path) -> None:
    database = open_database()
    database.migrate("line", (FIRST, SECOND))
    database.close()
    before = hashlib.sha256(path.read_bytes()).digest()
    with SqliteDatabaseContext(path) as again, pytest.raises(SchemaMismatchError, match="version 2, newer than the 1"):
        again.migrate("line", (FIRST,))
    assert hashlib.sha256(path.read_bytes()).digest() == before


def test_an_edited_migration_is_refused(open_database: Callable[..., SqliteDatabase]) -> None:
    database = open_database()
    database.migrate("line", (FIRST,))
    with pytest.raises(SchemaMismatchError, match="migration 1 of its line tables is not the one"):
        database.migrate("line", (Migration(1, "first", "CREATE TABLE one (a TEXT)"), SECOND))


def test_not_inside_a_block(open_database: Callable[..., SqliteDatabase]) -> None:
    database = open_database()
    with database.block(), pytest.raises(InvalidStateError, match="migrated inside"):
        database.migrate("line", (FIRST,))


def test_pending_is_what_is_behind_the_applied() -> None:
    known = (FIRST, SECOND)
    assert pending_migrations("line", known, [], "store") == known
    assert pending_migrations("line", known, [(1, FIRST.checksum)], "store") == (SECOND,)


def test_files_must_be_numbered_without_a_gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "gap_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "0001_first.sqlite.sql").write_text("SELECT 1")
    (package / "0003_third.sqlite.sql").write_text("SELECT 1")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="not numbered"):
        load_migrations("gap_package", "sqlite")


def _open_and_migrate(_: None, path: str) -> list[str]:
    with SqliteDatabaseContext(Path(path)) as database:
        database.migrate("line", (FIRST, SECOND))
        return _tables(database)


def test_processes_that_create_one_file_together_all_succeed(path: Path) -> None:
    outcomes = race_processes(nullcontext, _open_and_migrate, [(str(path),)] * 6)  # type: ignore[arg-type]
    assert values(outcomes) == [["one", "wfe_fast_migrations"]] * 6


class SqliteDatabaseContext:
    """A database for the length of a ``with``."""

    def __init__(self, path: Path) -> None:
        self._database = SqliteDatabase(path)

    def __enter__(self) -> SqliteDatabase:
        return self._database

    def __exit__(self, *exc_info: object) -> None:
        self._database.close()
