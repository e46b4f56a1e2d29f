"""Contract C on SQLite."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, TypeVar

from wfe_fast.clock import Clock, Duration, system_clock
from wfe_fast.database.base import Work
from wfe_fast.database.migrations import load_migrations
from wfe_fast.database.sqlite import SqliteDatabase
from wfe_fast.database.sqlite_connection import Synchronous
from wfe_fast.errors import TenantScopeError
from wfe_fast.state.checks import check_label
from wfe_fast.state.contract import StateBackend
from wfe_fast.state.sqlite_statements import SqliteStatements
from wfe_fast.state.sqlite_work import SqliteWork
from wfe_fast.state.store import StoreMethods, check_options

T = TypeVar("T")

STATEMENTS = SqliteStatements.load("wfe_fast.state", "sqlite.sql")

#: The name of this contract's line of migrations.
LINE = "state"
MIGRATIONS = load_migrations("wfe_fast.state.migrations", "sqlite")


class SqliteBackend(StoreMethods):
    """A `StateBackend` on an SQLite file. Made by `open` or `connect`; any number of threads may share it, and any number of processes
    may open the same file.

    Each method is a transaction. A view of one tenant, `for_tenant`, is the same class on the same connections, with a tenant bound into
    every statement.
    """

    def __init__(
        self,
        database: SqliteDatabase,
        *,
        clock: Clock = system_clock,
        tenant: str | None = None,
        snapshot_every: int | None = None,
        keep_snapshots: int | None = 3,
    ) -> None:
        check_options(clock, snapshot_every, keep_snapshots)
        self._database = database
        self._sql = STATEMENTS
        self._clock = clock
        self._store = database.name
        self._tenant = tenant
        self._snapshot_every = snapshot_every
        self._keep_snapshots = keep_snapshots
        self._work = SqliteWork(STATEMENTS, database.name, tenant, self._now, snapshot_every, keep_snapshots)

    @classmethod
    def connect(
        cls,
        url: str | os.PathLike[str],
        *,
        synchronous: Synchronous = "normal",
        busy_timeout: Duration = 10.0,
        clock: Clock = system_clock,
        snapshot_every: int | None = None,
        keep_snapshots: int | None = 3,
    ) -> SqliteBackend:
        """A backend on a database, whose tables are left as they are: see `migrate`.

        Args:
            url: a path, ``sqlite:///relative.db``, ``sqlite:////absolute.db`` or ``sqlite://:memory:``.
            synchronous: ``"normal"``: a commit survives a killed process; a power cut may lose the last ones, never consistency.
                ``"full"``: a commit is on the disk before the call returns; concurrent writers share the fsync.
            busy_timeout: seconds (or a timedelta) that a call waits for other writers.
            clock: what decides about leases and expiry; a callable that returns an aware datetime.
            snapshot_every: take a snapshot whenever so many events were stored since the last one; None = only when asked for.
            keep_snapshots: how many of an execution's snapshots stay; None = all.

        Raises:
            SchemaMismatchError: the file is not an SQLite database, or belongs to another program. It was left as it is.
            StoreReadOnlyError, StoreUnavailableError, CorruptionError: it cannot be opened; the message names the path and the cause.
        """
        check_options(clock, snapshot_every, keep_snapshots)
        database = SqliteDatabase(url, synchronous=synchronous, busy_timeout=busy_timeout)
        return cls(database, clock=clock, snapshot_every=snapshot_every, keep_snapshots=keep_snapshots)

    @classmethod
    def open(
        cls,
        url: str | os.PathLike[str],
        *,
        synchronous: Synchronous = "normal",
        busy_timeout: Duration = 10.0,
        clock: Clock = system_clock,
        snapshot_every: int | None = None,
        keep_snapshots: int | None = 3,
    ) -> SqliteBackend:
        """`connect`, then `migrate`.

        Raises:
            SchemaMismatchError: see `connect`; or a newer release has been here. Nothing was changed.
        """
        backend = cls.connect(
            url,
            synchronous=synchronous,
            busy_timeout=busy_timeout,
            clock=clock,
            snapshot_every=snapshot_every,
            keep_snapshots=keep_snapshots,
        )
        try:
            backend.migrate()
        except BaseException:
            backend.close()
            raise
        return backend

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

    @property
    def pool(self) -> SqliteDatabase:
        """The connections, which this backend shares with its views."""
        return self._database

    def migrate(self) -> None:
        self._database.migrate(LINE, MIGRATIONS)

    def for_tenant(self, tenant_id: str) -> SqliteBackend:
        if self._tenant is not None:
            raise TenantScopeError(self._tenant)
        return SqliteBackend(
            self._database,
            clock=self._clock,
            tenant=check_label(tenant_id, "tenant_id"),
            snapshot_every=self._snapshot_every,
            keep_snapshots=self._keep_snapshots,
        )

    def close(self) -> None:
        if self._tenant is None:
            self._database.close()


if TYPE_CHECKING:
    _: type[StateBackend] = SqliteBackend
