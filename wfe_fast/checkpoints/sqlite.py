"""Contract B on SQLite."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from wfe_fast.checkpoints.contract import CheckpointTransaction
from wfe_fast.checkpoints.models import SchemaReport
from wfe_fast.checkpoints.operations import one
from wfe_fast.checkpoints.rows import Reader
from wfe_fast.checkpoints.sqlite_statements import SqliteStatements
from wfe_fast.checkpoints.sqlite_work import SqliteWork
from wfe_fast.checkpoints.store import StoreMethods, TransactionMethods
from wfe_fast.clock import Clock, Duration, checked_clock, system_clock
from wfe_fast.database.base import Session, Work
from wfe_fast.database.migrations import load_migrations
from wfe_fast.database.sqlite import SqliteDatabase
from wfe_fast.database.sqlite_block import Block
from wfe_fast.database.sqlite_connection import MEMORY, Synchronous
from wfe_fast.database.waiting import Waitable

T = TypeVar("T")

STATEMENTS = SqliteStatements.load("wfe_fast.checkpoints", "sqlite.sql")
MIGRATIONS = load_migrations("wfe_fast.checkpoints.migrations", "sqlite")

#: The name of contract B's tables in the migration history.
LINE = "checkpoints"

#: What the writing connection must say of itself: its number for each level of durability.
_SYNCHRONOUS = {"normal": "1", "full": "2"}


class SqliteCheckpointTransaction(TransactionMethods):
    """The methods inside a `transaction()` block."""

    def __init__(self, block: Block, clock: Clock, store: str) -> None:
        self._sql = STATEMENTS
        self._clock = clock
        self._work = SqliteWork(STATEMENTS, self._now)
        self._from = Reader(store)
        self._block = block

    def _write(self, work: Work[T], *args: Any) -> T:
        return self._block.run(work, args)

    def _read(self, work: Work[T], *args: Any) -> T:
        return self._block.run(work, args)

    _snapshot = _read

    def _in_block(self) -> bool:
        return True


class SqliteCheckpointStore(StoreMethods):
    """`contract.CheckpointStore` on an SQLite file. Opening it creates or upgrades the tables.

    Args:
        path: a path, ``":memory:"``, or a URL: ``sqlite:///relative.db``, ``sqlite:////absolute.db``, ``sqlite://:memory:``. A database
            in memory is one connection: while a transaction block is open, other threads wait with their reads, too.
        synchronous: ``"normal"``: what was acknowledged survives a killed process; a power cut may lose the last commits, never
            consistency. ``"full"``: it is on the disk before the call returns; concurrent writers share an fsync.
        busy_timeout: seconds (or a timedelta) that a call waits for other writers.
        clock: what decides about leases, timers and retention; a callable that returns an aware datetime.

    Raises:
        SchemaMismatchError: the file is not an SQLite database, belongs to another program or to another contract, or a newer release
            has been here. It was left as it is.
        StoreReadOnlyError, StoreUnavailableError, CorruptionError: it cannot be opened; the message names the path and the cause.
    """

    _sql: SqliteStatements

    def __init__(
        self,
        path: str | os.PathLike[str],
        synchronous: Synchronous = "normal",
        busy_timeout: Duration = 10.0,
        *,
        clock: Clock = system_clock,
    ) -> None:
        checked_clock(clock)
        self._sql = STATEMENTS
        self._clock = clock
        self._work = SqliteWork(STATEMENTS, self._now)
        self._synchronous = synchronous
        self._database = SqliteDatabase(path, synchronous=synchronous, busy_timeout=busy_timeout)
        self._from = Reader(self._database.name)
        try:
            self.migrate()
        except BaseException:
            self._database.close()
            raise

    @classmethod
    def file(cls, path: str | os.PathLike[str], **options: Any) -> SqliteCheckpointStore:
        """A store on the file at `path`; `options` are the constructor's."""
        return cls(path, **options)

    @classmethod
    def in_memory(cls, **options: Any) -> SqliteCheckpointStore:
        """A store that lives as long as this object; `options` are the constructor's."""
        return cls(MEMORY, **options)

    def _write(self, work: Work[T], *args: Any) -> T:
        return self._database.write(work, *args)

    def _read(self, work: Work[T], *args: Any) -> T:
        return self._database.read(work, *args)

    def _snapshot(self, work: Work[T], *args: Any) -> T:
        return self._database.snapshot(work, *args)

    def _in_block(self) -> bool:
        return self._database.in_block()

    def _waitable(self) -> Waitable:
        return self._database

    @property
    def path(self) -> str:
        """The database file's absolute path, or ``":memory:"``."""
        return self._database.path

    def migrate(self) -> None:
        self._database.migrate(LINE, MIGRATIONS)

    @property
    def schema_version(self) -> int:
        """The version of the tables."""
        row = self._read(one, self._sql.schema_version, (LINE,))
        return 0 if row is None else int(row[0])

    def validate_schema(self) -> SchemaReport:
        with SqliteCheckpointStore(MEMORY) as pristine:
            tables, columns, indexes = pristine._snapshot(pristine._do_schema)
        found = self._write(self._do_schema)  # on the writing connection, whose settings are the ones that matter
        issues = self._write(self._do_settings)
        return SchemaReport(
            missing_tables=sorted(tables - found[0]),
            missing_indexes=sorted(indexes - found[2]),
            missing_columns=sorted(f"{table}.{column}" for table, column in columns - found[1] if table in found[0]),
            pragma_issues=issues,
        )

    def _do_schema(self, session: Session) -> tuple[set[str], set[tuple[str, str]], set[str]]:
        """The names of the tables, of their columns, and of the indexes."""
        columns = {(row[0], row[1]) for row in session.all(self._sql.schema_columns)}
        indexes = {row[0] for row in session.all(self._sql.schema_indexes)}
        return {table for table, _ in columns}, columns, indexes

    def _do_settings(self, session: Session) -> dict[str, str]:
        """Settings of the writing connection that are not as they should be."""
        wanted = {"foreign_keys": "1", "journal_mode": "memory"}
        if self.path != MEMORY:
            wanted |= {"journal_mode": "wal", "synchronous": _SYNCHRONOUS[self._synchronous]}
        is_set = {
            "foreign_keys": session.one("PRAGMA foreign_keys"),
            "journal_mode": session.one("PRAGMA journal_mode"),
            "synchronous": session.one("PRAGMA synchronous"),
        }
        values = {name: str(row[0]) if row else "" for name, row in is_set.items()}
        return {name: f"is {values[name]}, must be {value}" for name, value in wanted.items() if values[name] != value}

    @contextmanager
    def transaction(self) -> Iterator[CheckpointTransaction]:
        with self._database.block() as block:
            yield SqliteCheckpointTransaction(block, self._clock, self._database.name)

    def close(self) -> None:
        self._database.close()
