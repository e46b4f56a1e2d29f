"""Contract A on SQLite."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from wfe_fast.clock import Clock, Duration, checked_clock, system_clock
from wfe_fast.database.migrations import load_migrations
from wfe_fast.database.sqlite import SqliteDatabase
from wfe_fast.database.sqlite_block import Block
from wfe_fast.database.sqlite_connection import Synchronous
from wfe_fast.database.waiting import Waitable
from wfe_fast.persistence.contract import PersistenceTransaction
from wfe_fast.persistence.memory import Memory
from wfe_fast.persistence.models import WorkflowInstance
from wfe_fast.persistence.operations import Undo
from wfe_fast.persistence.sqlite_events import SqliteEvents
from wfe_fast.persistence.sqlite_statements import SqliteStatements
from wfe_fast.persistence.sqlite_workflows import SqliteWorkflows
from wfe_fast.persistence.store import StoreMethods, TransactionMethods
from wfe_fast.persistence.validation import check_addresses, check_ids
from wfe_fast.persistence.work import Work

T = TypeVar("T")

STATEMENTS = SqliteStatements.load("wfe_fast.persistence", "sqlite.sql")
MIGRATIONS = load_migrations("wfe_fast.persistence.migrations", "sqlite")

#: The name of contract A's tables in the migration history.
LINE = "persistence"


class SqliteWork(SqliteWorkflows, SqliteEvents):
    """See `work.Work`."""

    def json(self, text: str) -> str:
        return text  # it is kept as it is

    @property
    def looks(self) -> SqliteWork:
        """Itself: an idle worker asks often and mostly in vain, and that costs a read then, for which no writer waits."""
        return self


class SqliteTransaction(TransactionMethods):
    """The methods inside a `transaction()` block."""

    def __init__(self, block: Block, work: Work, clock: Clock, store: str) -> None:
        self._sql = STATEMENTS
        self._work = work
        self._clock = clock
        self._store = store
        self._block = block
        self._undo = Undo()

    def _write(self, work: Callable[..., T], *args: Any) -> T:
        return self._block.run(work, args)

    def _read(self, work: Callable[..., T], *args: Any) -> T:
        return self._block.run(work, args)

    _snapshot = _read

    def _in_block(self) -> bool:
        return True

    def _remember(self, instance: WorkflowInstance, memory: Memory | None) -> None:
        self._undo.remember(instance, memory)

    def forget(self) -> None:
        """After a rollback: let each instance know again what it knew before the block."""
        self._undo.forget()


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
        checked_clock(clock)
        self._sql = STATEMENTS
        self._clock = clock
        self._database = SqliteDatabase(path, synchronous=synchronous, busy_timeout=busy_timeout)
        self._store = self._database.name
        self._work = SqliteWork(STATEMENTS, self._store, self._now)
        self._transaction: SqliteTransaction | None = None
        try:
            self.ensure_store_exists()
        except BaseException:
            self._database.close()
            raise

    def _write(self, work: Callable[..., T], *args: Any) -> T:
        return self._database.write(work, *args)

    def _read(self, work: Callable[..., T], *args: Any) -> T:
        return self._database.read(work, *args)

    def _snapshot(self, work: Callable[..., T], *args: Any) -> T:
        return self._database.snapshot(work, *args)

    @property
    def path(self) -> str:
        """The database file's absolute path, or ``":memory:"``."""
        return self._database.path

    def ensure_store_exists(self) -> None:
        self._database.migrate(LINE, MIGRATIONS)

    @contextmanager
    def transaction(
        self,
        *,
        workflows: Iterable[str] = (),
        publishes: Iterable[tuple[str, str]] = (),
        awaits: Iterable[tuple[str, str]] = (),
    ) -> Iterator[PersistenceTransaction]:
        # There is one writer at a time, who has everything: nothing is to be locked.
        check_ids(workflows, "workflows")
        check_addresses(publishes, "publishes")
        check_addresses(awaits, "awaits")
        tx: SqliteTransaction | None = None
        try:
            with self._database.block() as block:
                tx = self._transaction = SqliteTransaction(block, self._work, self._clock, self._store)
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

    def _waitable(self) -> Waitable:
        return self._database
