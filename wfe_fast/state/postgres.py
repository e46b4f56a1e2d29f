"""Contract C on PostgreSQL."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable
from functools import partial
from importlib import resources
from typing import TYPE_CHECKING, Any, TypeVar

from wfe_fast.clock import Clock, Duration
from wfe_fast.database.base import Params, Row, Work
from wfe_fast.database.migrations import load_migrations
from wfe_fast.database.postgres import PostgresDatabase
from wfe_fast.database.postgres_clock import ServerClock
from wfe_fast.database.postgres_names import Names
from wfe_fast.database.postgres_pool import Pool
from wfe_fast.database.postgres_schema import Schema
from wfe_fast.database.postgres_session import Answer, PostgresSession, Request
from wfe_fast.errors import (
    CorruptionError,
    DuplicateEventError,
    ExecutionEndedError,
    ExecutionNotFoundError,
    InvalidTransitionError,
    InvalidValueError,
    LeaseLostError,
    SequenceConflictError,
    TenantLimitError,
    TenantNotFoundError,
    TenantScopeError,
    TenantSuspendedError,
    TokenNotFoundError,
    WorkItemNotFoundError,
)
from wfe_fast.state.checks import check_label
from wfe_fast.state.contract import StateBackend
from wfe_fast.state.postgres_statements import PostgresStatements
from wfe_fast.state.postgres_work import PostgresWork
from wfe_fast.state.store import StoreMethods, check_options

T = TypeVar("T")

STATEMENTS = PostgresStatements.load("wfe_fast.state", "postgres.sql", placeholder="${}".format)
MIGRATIONS = load_migrations("wfe_fast.state.migrations", "postgres")

#: The name of this contract's line of migrations.
LINE = "state"

#: What a role that uses the tables gets besides them.
_LEND_ROLE = resources.files("wfe_fast.state").joinpath("lend_role.postgres.sql").read_text(encoding="utf-8")

#: The name of the views' role is the schema's and this.
_ROLE = "{}_scoped"
_LONGEST_SCHEMA = 63 - len(_ROLE.format(""))


def _refusal(make: Callable[..., Exception]) -> Callable[[str], Exception]:
    """Makes an error of what a function of the database says: the error's arguments, as JSON."""
    return lambda message: make(*json.loads(message))


def _conflict(id: str, expected: str, actual: str) -> Exception:
    return SequenceConflictError(id, int(expected), int(actual))


def _limit(tenant: str, limit: str, maximum: str) -> Exception:
    return TenantLimitError(tenant, limit, json.loads(maximum))


#: What the functions of the database refuse, by their codes.
REFUSALS: dict[str, Callable[[str], Exception]] = {
    "WSNF1": _refusal(ExecutionNotFoundError),
    "WSNF2": _refusal(WorkItemNotFoundError),
    "WSNF3": _refusal(TenantNotFoundError),
    "WSNF4": _refusal(TokenNotFoundError),
    "WSLL1": _refusal(LeaseLostError),
    "WSSC1": _refusal(_conflict),
    "WSIT1": _refusal(InvalidTransitionError),
    "WSEE1": _refusal(ExecutionEndedError),
    "WSDE1": _refusal(DuplicateEventError),
    "WSTS1": _refusal(TenantSuspendedError),
    "WSTL1": _refusal(_limit),
    "WSIV1": _refusal(InvalidValueError),
}

#: Text that should be JSON or a number and is not. What we send was checked, so it is what is stored.
_UNREADABLE = "22P02"


def state_schema_script(
    schema: str = "state", table_prefix: str = "", *, grant_to: str | None = None, from_version: int = 0
) -> str:
    """The SQL that makes the tables of a backend, in one transaction, for an administrator to run where the application may not.

    Args:
        grant_to: the role that the application has: it gets what it needs to use the store, and nothing else. Its views work as the
            role ``<schema>_scoped`` from PostgreSQL 16 on; older ones cannot lend that without subjecting it to it for good.
        from_version: the version that the tables have: run where they have another one, the script fails and changes nothing.

    Raises:
        InvalidValueError: the schema, the prefix or the role is not allowed, or this release does not know the version.
    """
    names = _names(schema, table_prefix)
    return Schema(names, "", LINE, MIGRATIONS, _LEND_ROLE).full_script(grant_to, from_version)


class _ScopedSession:
    """A session whose every call says in the same round trip, and transaction, whose rows there are."""

    def __init__(self, session: PostgresSession, scope: Request) -> None:
        self._session = session
        self._scope = scope

    def _ask(self, sql: str, params: Params) -> Answer:
        return self._session.ask([self._scope, (sql, params)])[1]

    def run(self, sql: str, params: Params = ()) -> int:
        return self._ask(sql, params).count

    def run_many(self, sql: str, rows: Iterable[Params]) -> None:
        self._session.ask([self._scope, *((sql, row) for row in rows)])

    def one(self, sql: str, params: Params = ()) -> Row | None:
        rows = self._ask(sql, params).rows
        return rows[0] if rows else None

    def all(self, sql: str, params: Params = ()) -> list[Row]:
        return self._ask(sql, params).rows


class PostgresBackend(StoreMethods):
    """A `StateBackend` in a schema of a PostgreSQL database. Any number of threads may share it. The tables are left as they are: `open` also
    makes or upgrades them.

    Each method is one transaction and one round trip. A view of one tenant, `for_tenant`, is the same class on the same connections, with a
    tenant bound into every statement. Besides it works as the role ``<schema>_scoped``, for which row-level security leaves nothing but that tenant's
    rows, whatever a statement says; where that role is missing, or this one may not take it on, the bound tenant is the only wall.

    Args:
        dsn: a ``postgresql:`` URL or a libpq connection string. Several hosts with ``target_session_attrs=read-write``: the one that may
            be written, also after a failover.
        schema: where the tables are; created by `migrate` where it is missing. It cannot be that of another contract.
        table_prefix: before the name of each table, for a schema that is shared.
        pool: a `psycopg_pool.ConnectionPool` of the caller's, instead of `dsn`; its connections come back as they were, and it is not closed.
        clock: what decides about leases and expiry, instead of the server's clock; a callable that returns an aware datetime.
        max_connections: how many connections there are at most.
        timeout: how long a call waits for a connection, and for a server that is away, in seconds (or a timedelta).
        statement_timeout, lock_timeout, idle_in_transaction_timeout: the server's limits for a statement, for a wait for a lock, and for a
            transaction in which nothing happens, in seconds; 0 = none. Connections of a caller's pool keep theirs.
        application_name: how the connections are called in ``pg_stat_activity``.
        pgbouncer: the connections lead through PgBouncer's transaction pooling: nothing is prepared or set there.
        snapshot_every: take a snapshot whenever so many events were stored since the last one; None = only when asked for.
        keep_snapshots: how many of an execution's snapshots stay; None = all.

    Raises:
        InvalidValueError: an option is wrong; schema and prefix are ASCII letters, digits and underscores.
    """

    def __init__(
        self,
        dsn: str | None = None,
        schema: str = "state",
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
        snapshot_every: int | None = None,
        keep_snapshots: int | None = 3,
    ) -> None:
        self._clock = self._server_clock = ServerClock(clock)
        check_options(self._clock, snapshot_every, keep_snapshots)
        names = _names(schema, table_prefix)
        self._sql = self._statements = STATEMENTS.resolved(names.resolve)
        refusals = dict(REFUSALS)
        self._database = PostgresDatabase(
            dsn,
            names=names,
            refusals=refusals,
            pool=pool,
            max_connections=max_connections,
            timeout=timeout,
            statement_timeout=statement_timeout,
            lock_timeout=lock_timeout,
            idle_in_transaction_timeout=idle_in_transaction_timeout,
            application_name=application_name,
            pgbouncer=pgbouncer,
        )
        self._store = self._database.name
        refusals[_UNREADABLE] = partial(CorruptionError, self._store)
        self._snapshots = (snapshot_every, keep_snapshots)
        self._bind(None)
        #: As what views work, once it is known; shared with them.
        self._roles: list[str | None] = []

    def _bind(self, tenant: str | None) -> None:
        self._tenant = self._scope = tenant
        self._work = self._calls = PostgresWork(self._statements, tenant, self._server_clock.bound, *self._snapshots)

    @classmethod
    def connect(
        cls, dsn: str | None = None, schema: str = "state", table_prefix: str = "", **options: Any
    ) -> PostgresBackend:
        """A backend with these options, see the class. Its tables are left as they are: see `migrate`."""
        return cls(dsn, schema, table_prefix, **options)

    @classmethod
    def open(
        cls, dsn: str | None = None, schema: str = "state", table_prefix: str = "", **options: Any
    ) -> PostgresBackend:
        """`connect`, then `migrate`.

        Raises:
            SchemaMismatchError, StoreUnavailableError: see `migrate`.
        """
        backend = cls(dsn, schema, table_prefix, **options)
        try:
            backend.migrate()
        except BaseException:
            backend.close()
            raise
        return backend

    # -- calls -------------------------------------------------------------------------------------------------------------------------

    def _write(self, work: Work[T], *args: Any) -> T:
        return self._database.write(self._scoped(work), *args)

    def _repeat(self, work: Work[T], *args: Any) -> T:
        return self._database.write(self._scoped(work), *args, repeatable=True)

    def _read(self, work: Work[T], *args: Any) -> T:
        return self._database.read(self._scoped(work), *args)

    _snapshot = _read

    def _read_anywhere(self, work: Work[T], *args: Any) -> T:
        return self._database.read(work, *args)

    def _bound_now(self) -> int | None:
        return self._server_clock.bound()

    def _scoped(self, work: Work[T]) -> Work[T]:
        """`work` as a view's: each of its calls carries the tenant."""
        tenant = self._scope
        if tenant is None:
            return work
        sql = self._statements
        role = self._role()
        scope = (sql.scope_alone, (tenant,)) if role is None else (sql.scope, (tenant, role))

        def scoped(session: PostgresSession, *args: Any) -> T:
            return work(_ScopedSession(session, scope), *args)

        return scoped

    def _role(self) -> str | None:
        """The role as which views work, if there is one."""
        if not self._roles:
            self._prepare()
        return self._roles[-1]

    def _prepare(self) -> None:
        def ask() -> int:
            now, role = self._database.write(self._calls.prepare, repeatable=True)
            self._roles.append(role)
            return now

        self._server_clock.learn(ask)
        if not self._roles:
            ask()

    # -- the store ---------------------------------------------------------------------------------------------------------------------

    @property
    def pool(self) -> PostgresDatabase:
        """The connections, which this backend shares with its views."""
        return self._database

    def migrate(self) -> None:
        """Bring the tables up to date. Idempotent, safe when many processes do it at once.

        Raises:
            SchemaMismatchError: a newer release has been here, the tables have another prefix, or the schema has tables of these names that
                are somebody else's. They were left as they are.
            StoreUnavailableError: the server cannot be reached, or the role may not create the tables (the message says what to do then).
        """
        self._database.migrate(LINE, MIGRATIONS)
        self._prepare()

    def for_tenant(self, tenant_id: str) -> PostgresBackend:
        if self._tenant is not None:
            raise TenantScopeError(self._tenant)
        view = copy.copy(self)
        view._bind(check_label(tenant_id, "tenant_id"))
        return view

    def close(self) -> None:
        if self._tenant is None:
            self._database.close()


def _names(schema: str, table_prefix: str) -> Names:
    names = Names(schema, table_prefix)
    if len(schema) > _LONGEST_SCHEMA:
        raise InvalidValueError("schema", f"must be at most {_LONGEST_SCHEMA} bytes long", schema)
    return names


if TYPE_CHECKING:
    _: type[StateBackend] = PostgresBackend
