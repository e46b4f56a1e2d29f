"""Contract A on SQLite."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

from wfe_fast.clock import Clock, Duration, checked_moment, system_clock
from wfe_fast.database.base import Work
from wfe_fast.database.changes import ChangeSignal
from wfe_fast.database.migrations import load_migrations
from wfe_fast.database.sqlite import SqliteDatabase
from wfe_fast.database.sqlite_block import Block
from wfe_fast.database.sqlite_connection import Synchronous
from wfe_fast.errors import InvalidValueError
from wfe_fast.persistence.contract import PersistenceTransaction
from wfe_fast.persistence.memory import Memory, memory_of, remember
from wfe_fast.persistence.models import WorkflowInstance
from wfe_fast.persistence.statements import Statements
from wfe_fast.persistence.store import StoreMethods, TransactionMethods

T = TypeVar("T")

STATEMENTS = Statements.load("wfe_fast.persistence", "sqlite.sql")
MIGRATIONS = load_migrations("wfe_fast.persistence.migrations", "sqlite")

#: The name of contract A's tables in the migration history.
LINE = "persistence"


class SqliteTransaction(TransactionMethods):
    """The methods inside a `transaction()` block."""

    def __init__(self, block: Block, clock: Clock, store: str) -> None:
        self._sql = STATEMENTS
        self._clock = clock
        self._store = store
        self._block = block
        self._before: list[tuple[WorkflowInstance, Memory | None]] = []

    def _write(self, work: Work[T], *args: Any) -> T:
        return self._block.run(work, args)

    def _read(self, work: Work[T], *args: Any) -> T:
        return self._block.run(work, args)

    _snapshot = _read

    def _in_block(self) -> bool:
        return True

    def _remember(self, instance: WorkflowInstance, memory: Memory | None) -> None:
        self._before.append((instance, memory_of(instance)))
        remember(instance, memory)

    def forget(self) -> None:
        """After a rollback: let each instance know again what it knew before the block."""
        while self._before:
            instance, before = self._before.pop()
            now = memory_of(instance)
            if before is None and now is not None:
                # Loaded or created in the block: what it saw never came to be. It equals no revision; a claim of it is lost.
                lost = None if now.fence is None else -1
                before = replace(now, revision=-1, fence=lost, claims_without_commit=0, stored=None)
            remember(instance, before)


class SqlitePersistenceProvider(StoreMethods):
    """`contract.PersistenceProvider` on an SQLite file. Opening it creates or upgrades the tables.

    Args:
        path: a path, ``":memory:"``, or a URL: ``sqlite:///relative.db``, ``sqlite:////absolute.db``, ``sqlite://:memory:``. A database
            in memory is one connection: while a transaction block is open, other threads wait with their reads, too.
        synchronous: ``"normal"``: what was acknowledged survives a killed process; a power cut may lose the last commits, never
            consistency. ``"full"``: it is on the disk before the call returns; concurrent writers share an fsync.
        busy_timeout: seconds (or a timedelta) that a call waits for other writers.
        clock: what decides about leases and tokens; a callable that returns an aware datetime.

    Raises:
        SchemaMismatchError: the file is not an SQLite database, belongs to another program, or a newer release has been here. It
            was left as it is.
        StoreReadOnlyError, StoreUnavailableError, CorruptionError: it cannot be opened; the message names the path and the cause.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        synchronous: Synchronous = "normal",
        busy_timeout: Duration = 10.0,
        clock: Clock = system_clock,
    ) -> None:
        if not callable(clock):
            raise InvalidValueError("clock", "must be a callable that returns an aware datetime", clock)
        checked_moment(clock(), "clock")
        self._sql = STATEMENTS
        self._clock = clock
        self._database = SqliteDatabase(path, synchronous=synchronous, busy_timeout=busy_timeout)
        self._store = self._database.name
        self._transaction: SqliteTransaction | None = None
        try:
            self.ensure_store_exists()
        except BaseException:
            self._database.close()
            raise

    def _write(self, work: Work[T], *args: Any) -> T:
        return self._database.write(work, *args)

    def _read(self, work: Work[T], *args: Any) -> T:
        return self._database.read(work, *args)

    def _snapshot(self, work: Work[T], *args: Any) -> T:
        return self._database.snapshot(work, *args)

    @property
    def path(self) -> str:
        """The database file's absolute path, or ``":memory:"``."""
        return self._database.path

    def ensure_store_exists(self) -> None:
        self._database.migrate(LINE, MIGRATIONS)

    @contextmanager
    def transaction(self) -> Iterator[PersistenceTransaction]:
        tx: SqliteTransaction | None = None
        try:
            with self._database.block() as block:
                tx = self._transaction = SqliteTransaction(block, self._clock, self._store)
                yield tx
        except BaseException:
            if tx is not None:
                tx.forget()
            raise
        finally:
            if tx is not None:
                self._transaction = None

    def close(self) -> None:
        self._database.close()

    def _in_block(self) -> bool:
        return self._database.in_block()

    def _remember(self, instance: WorkflowInstance, memory: Memory | None) -> None:
        if self._transaction is not None and self._database.in_block():
            self._transaction._remember(instance, memory)
        else:
            instance.__dict__["memory"] = memory

    def _changes(self) -> ChangeSignal:
        return self._database.changes
