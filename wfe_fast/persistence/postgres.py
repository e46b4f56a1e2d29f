"""Contract A on PostgreSQL."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

from wfe_fast.clock import Clock, Duration
from wfe_fast.database.base import UniqueViolation
from wfe_fast.database.migrations import load_migrations
from wfe_fast.database.postgres import PostgresDatabase
from wfe_fast.database.postgres_block import PostgresBlock
from wfe_fast.database.postgres_clock import ServerClock
from wfe_fast.database.postgres_names import Names
from wfe_fast.database.postgres_pool import Pool
from wfe_fast.database.postgres_schema import Schema
from wfe_fast.database.waiting import Waitable
from wfe_fast.errors import (
    ClaimLostError,
    CommitOutcomeUnknownError,
    ConcurrentUpdateError,
    SubscriptionNotFoundError,
    WfeError,
    WorkflowNotFoundError,
)
from wfe_fast.persistence.contract import PersistenceTransaction
from wfe_fast.persistence.memory import Memory, memory_of, remember
from wfe_fast.persistence.models import WorkflowInstance
from wfe_fast.persistence.operations import Undo, ignore, run
from wfe_fast.persistence.postgres_statements import PostgresStatements
from wfe_fast.persistence.postgres_work import PostgresWork
from wfe_fast.persistence.store import StoreMethods, TransactionMethods
from wfe_fast.persistence.validation import check_addresses, check_ids
from wfe_fast.persistence.work import Change

T = TypeVar("T")

STATEMENTS = PostgresStatements.load("wfe_fast.persistence", "postgres.sql", placeholder="${}".format)
MIGRATIONS = load_migrations("wfe_fast.persistence.migrations", "postgres")

#: The name of contract A's tables in the migration history.
LINE = "persistence"

#: What the functions of the database refuse, by their codes.
REFUSALS: dict[str, Callable[[str], Exception]] = {
    "WFNF1": WorkflowNotFoundError,
    "WFNF2": SubscriptionNotFoundError,
    "WFCL1": ClaimLostError,
    "WFCU1": ConcurrentUpdateError,
}

#: After these nobody knows whether what was sent was stored.
_MAYBE_STORED = (CommitOutcomeUnknownError, KeyboardInterrupt, SystemExit)

#: Pauses before deliveries that another transaction held up are tried again, in seconds; then whoever dispatches does it.
_DELIVERY_PAUSES = (0.001, 0.003, 0.01, 0.03, 0.1)


def schema_script(
    schema: str = "wfc", table_prefix: str = "", *, grant_to: str | None = None, from_version: int = 0
) -> str:
    """The SQL that makes the tables of a new store, or upgrades those of an old one, in one transaction, for an administrator to run where the
    application may not.

    Args:
        grant_to: the role that the application has: it gets what it needs to use the store, and nothing else.
        from_version: the version that the tables have (the highest of the line `persistence` in ``wfe_fast_migrations``); 0 = there are none.
            Where they have another one, the script fails and changes nothing.

    Raises:
        InvalidValueError: the schema, the prefix or the role is not allowed, or this release does not know the version.
    """
    return Schema(Names(schema, table_prefix), "", LINE, MIGRATIONS).full_script(grant_to, from_version)


def _doubt(instance: WorkflowInstance, change: Change) -> None:
    """After a commit whose outcome is unknown: should it have been stored, the next attempt knows by the revision that it was our own."""
    memory = memory_of(instance)
    if memory is not None:
        remember(instance, replace(memory, doubts=(*memory.doubts, change.revision)))


class PostgresTransaction(TransactionMethods):
    """The methods inside a `transaction()` block. Reads of single workflows lock them until its end."""

    def __init__(self, provider: PostgresPersistenceProvider, block: PostgresBlock) -> None:
        self._sql = provider._sql
        self._work = provider._work
        self._clock = self._server_clock = provider._server_clock
        self._store = provider._store
        self._provider = provider
        self._block = block
        self._undo = Undo()
        #: What was persisted, each instance as it was last.
        self._changes: dict[int, tuple[WorkflowInstance, Change]] = {}
        #: Whether a publication could not deliver to somebody whose row another transaction held.
        self.held_up = False

    def _write(self, work: Callable[..., T], *args: Any) -> T:
        return self._block.run(work, args)

    def _read(self, work: Callable[..., T], *args: Any) -> T:
        # Whoever reads a workflow in a transaction is about to write it.
        return self._block.run(
            work, tuple(self._provider.locking.get(arg, arg) if isinstance(arg, str) else arg for arg in args)
        )

    _snapshot = _read

    def _store_for(
        self,
        _about: WorkflowInstance | None,
        work: Callable[..., T],
        args: tuple[Any, ...],
        done: Callable[[T], None] = ignore,
        duplicate: Callable[[UniqueViolation], WfeError] | None = None,
        *,
        repeatable: bool = False,
    ) -> None:
        if _about is not None and isinstance(args[0], Change):
            self._changes[id(_about)] = _about, args[0]
        # Whether it may be done twice is of no account here: nothing of a block is stored before its end.
        del repeatable
        self._block.gather(work, args, done, duplicate, _about)

    def _memory(self, instance: WorkflowInstance) -> Memory | None:
        if self._block.is_waiting_for(instance):
            self._block.settle()
        return super()._memory(instance)

    def _in_block(self) -> bool:
        return True

    def _bound_now(self) -> int | None:
        return self._server_clock.bound()

    def _remember(self, instance: WorkflowInstance, memory: Memory | None) -> None:
        self._undo.remember(instance, memory)

    def _delivered(self, held_up: object) -> None:
        self.held_up = self.held_up or held_up is True

    def forget(self) -> None:
        """After a rollback, or what may be one: let each instance know again what it knew before the block."""
        self._undo.forget()
        if isinstance(self._block.failure, _MAYBE_STORED):
            for instance, change in self._changes.values():
                _doubt(instance, change)


class PostgresPersistenceProvider(StoreMethods):
    """`contract.PersistenceProvider` in a schema of a PostgreSQL database. Opening it creates or upgrades the tables.

    Each method is one round trip, and a `transaction()` block of writes is one, too. Inside such a block a write whose caller needs no answer is
    sent with the next call that does, or at the end of the block: what the database has to say against it is raised then.

    Args:
        dsn: a ``postgresql:`` URL or a libpq connection string. Several hosts with ``target_session_attrs=read-write``: the one that may
            be written, also after a failover.
        pool: a `psycopg_pool.ConnectionPool` of the caller's, instead of `dsn`; its connections come back as they were, and it is not closed.
        schema: where the tables are; created where it is missing.
        table_prefix: before the name of each table, for a schema that is shared.
        clock: what decides about leases and tokens, instead of the server's clock; a callable that returns an aware datetime.
        max_connections: how many connections there are at most, besides the one that listens for changes.
        timeout: how long a call waits for a connection, and for a server that is away, in seconds (or a timedelta).
        statement_timeout, lock_timeout, idle_in_transaction_timeout: the server's limits for a statement, for a wait for a lock, and for a
            block in which nothing happens, in seconds; 0 = none. Connections of a caller's pool keep theirs.
        application_name: how the connections are called in ``pg_stat_activity``.
        pgbouncer: the connections lead through PgBouncer's transaction pooling: nothing is prepared, set or listened to there, and whoever waits
            looks four times a second, unless `listen_dsn` leads to the server itself.

    Raises:
        InvalidValueError: an option is wrong; schema and prefix are ASCII letters, digits and underscores.
        SchemaMismatchError: the tables are of a newer release, or have another prefix. They were left as they are.
        StoreUnavailableError: the server cannot be reached, or the role may not create the tables (the message says what to do then).
    """

    def __init__(
        self,
        dsn: str | None = None,
        *,
        pool: Pool | None = None,
        schema: str = "wfc",
        table_prefix: str = "",
        clock: Clock | None = None,
        max_connections: int = 10,
        timeout: Duration = 30.0,
        statement_timeout: Duration = 30.0,
        lock_timeout: Duration = 10.0,
        idle_in_transaction_timeout: Duration = 60.0,
        application_name: str = "wfe-fast",
        pgbouncer: bool = False,
        listen_dsn: str | None = None,
    ) -> None:
        self._clock = self._server_clock = ServerClock(clock)
        names = Names(schema, table_prefix)
        self._sql = statements = STATEMENTS.resolved(names.resolve)
        #: Statements that read single workflows, and those that keep others from writing them, too.
        self.locking = statements.locking()
        self._database = PostgresDatabase(
            dsn,
            names=names,
            refusals=REFUSALS,
            pool=pool,
            max_connections=max_connections,
            timeout=timeout,
            statement_timeout=statement_timeout,
            lock_timeout=lock_timeout,
            idle_in_transaction_timeout=idle_in_transaction_timeout,
            application_name=application_name,
            pgbouncer=pgbouncer,
            listen_dsn=listen_dsn,
        )
        self._store = self._database.name
        self._work = self._calls = PostgresWork(
            statements, self._store, self._server_clock.bound, self._database.block_of_thread
        )
        self._truncate = statements.truncate_all
        self._transactions: dict[int, PostgresTransaction] = {}
        try:
            self.ensure_store_exists()
            self._server_clock.learn(lambda: self._read(self._calls.next_due, [])[1])
        except BaseException:
            self._database.close()
            raise

    # -- a call inside a block of its thread joins it --------------------------------------------------------------------------

    def _transaction(self) -> PostgresTransaction | None:
        return self._transactions.get(threading.get_ident()) if self._transactions else None

    def _write(self, work: Callable[..., T], *args: Any) -> T:
        return self._database.write(work, *args)

    def _repeat(self, work: Callable[..., T], *args: Any) -> T:
        return self._database.write(work, *args, repeatable=True)

    def _read(self, work: Callable[..., T], *args: Any) -> T:
        tx = self._transaction()
        return self._database.read(work, *args) if tx is None else tx._read(work, *args)

    _snapshot = _read

    def _store_for(
        self,
        _about: WorkflowInstance | None,
        work: Callable[..., T],
        args: tuple[Any, ...],
        done: Callable[[T], None] = ignore,
        duplicate: Callable[[UniqueViolation], WfeError] | None = None,
        *,
        repeatable: bool = False,
    ) -> None:
        tx = self._transaction()
        if tx is not None:
            tx._store_for(_about, work, args, done, duplicate)
            return
        try:
            super()._store_for(_about, work, args, done, duplicate, repeatable=repeatable)
        except _MAYBE_STORED:
            if _about is not None and isinstance(args[0], Change):
                _doubt(_about, args[0])
            raise

    def _memory(self, instance: WorkflowInstance) -> Memory | None:
        tx = self._transaction()
        return super()._memory(instance) if tx is None else tx._memory(instance)

    def _in_block(self) -> bool:
        return self._transaction() is not None

    def _remember(self, instance: WorkflowInstance, memory: Memory | None) -> None:
        tx = self._transaction()
        if tx is None:
            remember(instance, memory)
        else:
            tx._remember(instance, memory)

    def _bound_now(self) -> int | None:
        return self._server_clock.bound()

    # -- the store -------------------------------------------------------------------------------------------------------------

    def ensure_store_exists(self) -> None:
        self._database.migrate(LINE, MIGRATIONS)

    def truncate_all(self) -> None:
        """Empty all tables."""
        self._write(run, self._truncate, ())

    @contextmanager
    def transaction(
        self,
        *,
        workflows: Iterable[str] = (),
        publishes: Iterable[tuple[str, str]] = (),
        awaits: Iterable[tuple[str, str]] = (),
    ) -> Iterator[PersistenceTransaction]:
        ids = check_ids(workflows, "workflows")
        keys = check_addresses(publishes, "publishes"), check_addresses(awaits, "awaits")
        opening = self._calls.opening(ids, *keys) if ids or any(keys) else None
        tx: PostgresTransaction | None = None
        try:
            with self._database.block(opening) as block:
                tx = self._transactions[block.thread] = PostgresTransaction(self, block)
                yield tx
        except BaseException:
            if tx is not None:
                tx.forget()
            raise
        finally:
            if tx is not None:
                self._transactions.pop(tx._block.thread, None)
        if tx.held_up:
            self._deliver_again()

    def _delivered(self, held_up: object) -> None:
        tx = self._transaction()
        if tx is not None:
            tx._delivered(held_up)
        elif held_up is True:
            self._deliver_again()

    def _deliver_again(self) -> None:
        """What a publication left because another transaction held a row: it is stored, so nothing depends on this."""
        for pause in _DELIVERY_PAUSES:
            time.sleep(pause)
            if self.dispatch_events() > 0:
                return

    def close(self) -> None:
        self._database.close()

    def _waitable(self) -> Waitable:
        return self._database
