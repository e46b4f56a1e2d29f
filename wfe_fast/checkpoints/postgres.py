"""Contract B on PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any, TypeVar

from wfe_fast.checkpoints.contract import CheckpointTransaction
from wfe_fast.checkpoints.models import SchemaReport
from wfe_fast.checkpoints.operations import all_rows, one
from wfe_fast.checkpoints.postgres_statements import PostgresStatements
from wfe_fast.checkpoints.postgres_work import PostgresWork
from wfe_fast.checkpoints.rows import Reader
from wfe_fast.checkpoints.store import StoreMethods, TransactionMethods
from wfe_fast.clock import Clock, Duration
from wfe_fast.database.base import Work as Operation
from wfe_fast.database.migrations import load_migrations
from wfe_fast.database.postgres import PostgresDatabase
from wfe_fast.database.postgres_block import PostgresBlock
from wfe_fast.database.postgres_clock import ServerClock
from wfe_fast.database.postgres_names import Names
from wfe_fast.database.postgres_pool import Pool
from wfe_fast.database.postgres_schema import Schema, declared
from wfe_fast.database.waiting import Waitable
from wfe_fast.errors import (
    ClaimLostError,
    ExecutionNotFoundError,
    SchemaMismatchError,
    StoreUnavailableError,
    WorkflowNotFoundError,
)

T = TypeVar("T")

STATEMENTS = PostgresStatements.load("wfe_fast.checkpoints", "postgres.sql", placeholder="${}".format)
MIGRATIONS = load_migrations("wfe_fast.checkpoints.migrations", "postgres")

#: The name of contract B's tables in the migration history.
LINE = "checkpoints"

#: What the functions of the database refuse, by their codes.
REFUSALS: dict[str, Callable[[str], Exception]] = {
    "WFNF1": WorkflowNotFoundError,
    "WFEN1": ExecutionNotFoundError,
    "WFCL1": ClaimLostError,
}


def checkpoint_schema_script(
    schema: str = "durable", table_prefix: str = "", *, grant_to: str | None = None, from_version: int = 0
) -> str:
    """The SQL that makes the tables of a new checkpoint store, or upgrades those of an old one, in one transaction, for an administrator to run
    where the application may not.

    Args:
        grant_to: the role that the application has: it gets what it needs to use the store, and nothing else.
        from_version: the version that the tables have (the highest of the line `checkpoints` in ``wfe_fast_migrations``); 0 = there are none.
            Where they have another one, the script fails and changes nothing.

    Raises:
        InvalidValueError: the schema, the prefix or the role is not allowed, or this release does not know the version.
    """
    return Schema(Names(schema, table_prefix), "", LINE, MIGRATIONS).full_script(grant_to, from_version)


def _ignore(_: object) -> None:
    """What is done with an answer that nobody needs."""


class PostgresCheckpointTransaction(TransactionMethods):
    """The methods inside a `transaction()` block."""

    def __init__(self, store: PostgresCheckpointStore, block: PostgresBlock) -> None:
        self._sql = store._sql
        self._work = store._work
        self._clock = store.clock
        self._from = store._from
        self._block = block

    def _write(self, work: Operation[T], *args: Any) -> T:
        return self._block.run(work, args)

    _read = _snapshot = _write

    def _store(self, work: Operation[T], *args: Any) -> None:
        self._block.gather(work, args, _ignore, None, None)

    def _in_block(self) -> bool:
        return True


class PostgresCheckpointStore(StoreMethods):
    """`contract.CheckpointStore` in a schema of a PostgreSQL database. Opening it connects to nothing; `migrate` makes the tables.

    Each method is one round trip, and a `transaction()` block of writes is one, too. Inside such a block a write whose caller needs no answer is
    sent with the next call that does, or at the end of the block: what the database has to say against it is raised then.

    Args:
        dsn: a ``postgresql:`` URL or a libpq connection string. Several hosts with ``target_session_attrs=read-write``: the one that may
            be written, also after a failover.
        schema: where the tables are; created where it is missing. It cannot be that of another contract.
        table_prefix: before the name of each table, for a schema that is shared.
        pool: a `psycopg_pool.ConnectionPool` of the caller's, instead of `dsn`; its connections come back as they were, and it is not closed.
        clock: what decides about leases and timers, instead of the server's clock; a callable that returns an aware datetime.
        max_connections: how many connections there are at most, besides the one that listens for changes.
        timeout: how long a call waits for a connection, and for a server that is away, in seconds (or a timedelta).
        statement_timeout, lock_timeout, idle_in_transaction_timeout: the server's limits for a statement, for a wait for a lock, and for a
            block in which nothing happens, in seconds; 0 = none. Connections of a caller's pool keep theirs.
        application_name: how the connections are called in ``pg_stat_activity``.
        pgbouncer: the connections lead through PgBouncer's transaction pooling: nothing is prepared, set or listened to there, and whoever waits
            looks four times a second, unless `listen_dsn` leads to the server itself.

    Raises:
        InvalidValueError: an option is wrong; schema and prefix are ASCII letters, digits and underscores.
    """

    _sql: PostgresStatements

    def __init__(
        self,
        dsn: str | None = None,
        schema: str = "durable",
        table_prefix: str = "",
        *,
        pool: Pool | None = None,
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
        self._server_clock = ServerClock(clock)
        self._clock = self._present
        self._learned = clock is not None
        names = Names(schema, table_prefix)
        self._sql = statements = STATEMENTS.resolved(names.resolve)
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
        self._work = PostgresWork(statements, self._server_clock.bound)
        self._from = Reader(self._database.name)

    def _write(self, work: Operation[T], *args: Any) -> T:
        return self._database.write(work, *args)

    def _repeat(self, work: Operation[T], *args: Any) -> T:
        return self._database.write(work, *args, repeatable=True)

    def _store(self, work: Operation[T], *args: Any) -> None:
        block = self._database.block_of_thread()
        if block is None:
            self._repeat(work, *args)
        else:
            block.gather(work, args, _ignore, None, None)

    def _read(self, work: Operation[T], *args: Any) -> T:
        return self._database.read(work, *args)

    _snapshot = _read

    def _in_block(self) -> bool:
        return self._database.block_of_thread() is not None

    def _present(self) -> datetime:
        """The server's clock, as far as we know it. The first call asks the server; while that is away it is our own."""
        if not self._learned and not self._in_block():
            with suppress(StoreUnavailableError):
                self._server_clock.learn(self._server_now)
                self._learned = True
        return self._server_clock()

    def _server_now(self) -> int:
        row = self._read(one, self._sql.server_time)
        assert row is not None  # the statement returns a row
        return int(row[0])

    # -- the store ---------------------------------------------------------------------------------------------------------------------

    def migrate(self) -> None:
        self._database.migrate(LINE, MIGRATIONS)

    @property
    def schema_version(self) -> int:
        """The version of the tables; 0 where there are none."""
        try:
            row = self._read(one, self._sql.schema_version, (LINE,))
        except SchemaMismatchError:
            return 0
        return 0 if row is None else int(row[0])

    def validate_schema(self) -> SchemaReport:
        names = self._database.names
        wanted = declared(MIGRATIONS)
        found = {(kind, *parts) for kind, *parts in self._read(all_rows, self._sql.schema_objects, (names.schema,))}
        present = {
            (kind, names.own_name(name), column) for kind, name, column in found if name.startswith(names.prefix)
        }
        tables = {name for kind, name, _ in present if kind == "column"}
        missing = wanted - present
        lacking = sorted({name for kind, name, _ in missing if kind == "column"} - tables)
        return SchemaReport(
            missing_tables=lacking,
            missing_indexes=sorted(name for kind, name, _ in missing if kind == "index"),
            missing_columns=sorted(
                f"{name}.{column}" for kind, name, column in missing if kind == "column" and name in tables
            ),
            pragma_issues={name: "is a function that is missing" for kind, name, _ in missing if kind == "function"},
        )

    @contextmanager
    def transaction(self) -> Iterator[CheckpointTransaction]:
        with self._database.block() as block:
            yield PostgresCheckpointTransaction(self, block)

    def close(self) -> None:
        self._database.close()

    def _waitable(self) -> Waitable:
        return self._database
