"""PostgreSQL as a database for stores: a pool of connections, one round trip per operation."""

from __future__ import annotations

import itertools
import logging
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import psycopg
import psycopg_pool
from psycopg import pq

from wfe_fast.clock import Duration, checked_seconds
from wfe_fast.database.base import RunAgain
from wfe_fast.database.changes import ChangeSignal
from wfe_fast.database.forking import follow_forks
from wfe_fast.database.migrations import Migration
from wfe_fast.database.notifications import Notifications
from wfe_fast.database.postgres_block import PostgresBlock
from wfe_fast.database.postgres_conninfo import conninfo_from, conninfo_of, name_of, with_settings
from wfe_fast.database.postgres_errors import error_of
from wfe_fast.database.postgres_names import Names
from wfe_fast.database.postgres_pool import Failure, Pool, open_pool
from wfe_fast.database.postgres_schema import Schema
from wfe_fast.database.postgres_session import (
    READ_ONLY,
    ConnectionBroken,
    PostgresSession,
    Request,
    StatementFailed,
)
from wfe_fast.errors import (
    CommitOutcomeUnknownError,
    ConnectionLostError,
    InvalidStateError,
    InvalidValueError,
    StoreClosedError,
    StoreUnavailableError,
)

T = TypeVar("T")

_log = logging.getLogger("wfe_fast.database")

#: Serialization failure, deadlock: the transaction was rolled back for another one's sake.
_RETRIED = ("40001", "40P01")

#: Seconds that the end of the pool waits for each of its threads: one that is about to connect to a server that does not answer ends later.
_GOODBYE = 0.5

#: How often such a statement is tried.
_ATTEMPTS = 10

#: A notification can be missed; after so many seconds whoever waits looks again.
_LOOK_AGAIN = 5.0
#: The same where there are none, behind PgBouncer.
_LOOK_OFTEN = 0.25

#: Connections of a parent process. Kept for ever: collecting them would close them under the parent.
_leaked: list[object] = []

#: psycopg's pure Python implementation is many times slower; said once.
_told = False


class PostgresDatabase:
    """A schema in a database, with the connections to it. Threads share it; a forked child opens its own connections.

    Args:
        dsn: a ``postgresql:`` URL or a libpq connection string; several hosts are tried in turn.
        pool: the caller's own pool instead. Its connections go back as they came.
        names: where the tables are.
        refusals: makes an error of ours of a code by which a function of the database refuses something.
        max_connections: how many connections there are at most, besides the one that listens.
        timeout: how long a call waits for a connection, and for a server that is away, in seconds.
        statement_timeout, lock_timeout, idle_in_transaction_timeout: the server's limits for a statement, a wait for a lock, and a
            transaction block in which nothing happens, in seconds; 0 = none. Not set on connections of a caller's pool.
        application_name: how the connections are called in ``pg_stat_activity``.
        pgbouncer: the connections lead through PgBouncer's transaction pooling: nothing is prepared, set or listened to.
        listen_dsn: where to listen for notifications instead: for PgBouncer, the server itself.
    """

    def __init__(
        self,
        dsn: str | None,
        *,
        names: Names,
        refusals: Mapping[str, Callable[[str], Exception]],
        pool: Pool | None = None,
        max_connections: int = 10,
        timeout: Duration = 30.0,
        statement_timeout: Duration = 30.0,
        lock_timeout: Duration = 10.0,
        idle_in_transaction_timeout: Duration = 60.0,
        application_name: str = "wfe-fast",
        pgbouncer: bool = False,
        listen_dsn: str | None = None,
    ) -> None:
        _check_options(dsn, pool, max_connections, application_name)
        _tell_once()
        self.names = names
        self._refusals = refusals
        self._borrowed = pool
        self._max_connections = max_connections
        self._timeout = checked_seconds(timeout, "timeout")
        self._pgbouncer = pgbouncer
        limits = {
            "statement_timeout": checked_seconds(statement_timeout, "statement_timeout"),
            "lock_timeout": checked_seconds(lock_timeout, "lock_timeout"),
            "idle_in_transaction_session_timeout": checked_seconds(
                idle_in_transaction_timeout, "idle_in_transaction_timeout"
            ),
        }
        self._conninfo = conninfo_from(dsn, "dsn") if pool is None else conninfo_of(pool)
        #: Whether transactions have to say that they are READ COMMITTED, as those on connections that others set up: found out when the tables
        #: are looked at.
        self._isolate = pool is not None or pgbouncer or "options" in psycopg.conninfo.conninfo_to_dict(self._conninfo)
        if pool is None:
            self._conninfo = with_settings(self._conninfo, application_name, {} if pgbouncer else limits)
        self._listen_conninfo = self._conninfo if listen_dsn is None else conninfo_from(listen_dsn, "listen_dsn")
        self._listens = not pgbouncer or listen_dsn is not None
        #: What fork hooks call the database; no file that a child could not open.
        self.path = self.name = name_of(self._conninfo, names)
        self.fork_unsafe = False
        self._closed = False
        self._forked = False
        self._lock = threading.Lock()
        self._start()
        follow_forks(self)

    def _start(self) -> None:
        """Begin without any connection: in a new object, and in a forked child."""
        self._pool = self._borrowed
        self._sessions: weakref.WeakKeyDictionary[Any, PostgresSession] = weakref.WeakKeyDictionary()
        self._blocks: dict[int, PostgresBlock] = {}
        self._failure = Failure()
        self.changes = ChangeSignal(None)
        self._notifications: Notifications | None = None

    # -- what operations need ------------------------------------------------------------------------------------------------------

    def write(self, work: Callable[..., T], *args: Any, repeatable: bool = False) -> T:
        """Run ``work(session, *args)``, which calls the database once, or in the thread's open block.

        Args:
            repeatable: whether it may be done twice: then a connection that breaks in the middle is no problem.

        Raises:
            CommitOutcomeUnknownError: the connection broke in the middle, and `work` is not repeatable.
        """
        block = self.block_of_thread()
        if block is not None:
            return block.run(work, args)
        result = self._run(work, args, repeatable)
        self.bump()
        return result

    def read(self, work: Callable[..., T], *args: Any) -> T:
        """`write` for what changes nothing."""
        block = self.block_of_thread()
        return self._run(work, args, True) if block is None else block.run(work, args)

    def _run(self, work: Callable[..., T], args: tuple[Any, ...], repeatable: bool) -> T:
        deadline = time.monotonic() + self._timeout
        for attempt in itertools.count():
            session = self.take(deadline)
            try:
                return work(session, *args)
            except RunAgain:
                pass
            except StatementFailed as failed:
                if not self.may_retry(failed, attempt):
                    raise self.error_of(failed) from failed
                if failed.code == READ_ONLY:
                    session.close()
            except ConnectionBroken as broken:
                if broken.sent and not repeatable:
                    raise CommitOutcomeUnknownError(self.name, str(broken)) from broken
                if time.monotonic() >= deadline or not self.may_reconnect(broken, attempt):
                    raise ConnectionLostError(self.name, str(broken)) from broken
            finally:
                self.give_back(session)
        raise AssertionError  # the loop ends by a return or an error

    @contextmanager
    def block(self, opening: Request | None = None) -> Iterator[PostgresBlock]:
        """A transaction over all operations of this thread until it ends.

        Raises:
            InvalidStateError: the thread is in a block already, or the block is left normally though it was rolled back.
        """
        self._check_usable()
        if self.block_of_thread() is not None:
            raise InvalidStateError("this thread is in a transaction block already")
        block = PostgresBlock(self, opening)
        self._blocks[block.thread] = block
        try:
            yield block
            block.commit()
        finally:
            self._blocks.pop(block.thread, None)
            block.end()
        self.bump()

    def block_of_thread(self) -> PostgresBlock | None:
        """The block that this thread has open."""
        return self._blocks.get(threading.get_ident()) if self._blocks else None

    def bump(self) -> None:
        """Wake up who waits in this process; others learn by a notification."""
        with self._lock:
            self.changes.bump()

    def wait(self, since: int, seconds: float, interrupts: int | None = None) -> None:
        """Block until the change signal is not at `since` any more, or interrupted, or for so long; not much longer than
        notifications may be missed."""
        self._check_usable()
        if self._listens:
            with self._lock:
                if self._notifications is None:
                    self._notifications = Notifications(self._listen_conninfo, self.names.channel, self.bump)
        self.changes.wait(since, min(seconds, _LOOK_AGAIN if self._listens else _LOOK_OFTEN), interrupts)

    def error_of(self, failed: StatementFailed) -> Exception:
        """The error of ours that says what a failed statement means."""
        return error_of(failed, self.name, self.names, self._refusals)

    def may_retry(self, failed: StatementFailed, attempt: int) -> bool:
        """Whether the statement is to be tried again; waits a little then. Nothing of it was stored."""
        if attempt >= _ATTEMPTS:
            return False
        if failed.unprepared:
            return True
        if failed.code not in (*_RETRIED, READ_ONLY):
            return False
        time.sleep(random.uniform(0, 0.002 * 2**attempt) if failed.code in _RETRIED else 0.1 * (attempt + 1))
        return True

    def may_reconnect(self, broken: ConnectionBroken, attempt: int) -> bool:
        """Whether to try again on another connection: each of the pool may be a dead one. One that kills its connections ends."""
        return not broken.sent or attempt < _ATTEMPTS + self._max_connections

    # -- connections ---------------------------------------------------------------------------------------------------------------

    def _check_usable(self) -> None:
        if self._closed:
            raise StoreClosedError
        if self._forked and self._borrowed is not None:
            raise InvalidStateError(f"{self.name}: a pool of the caller does not follow a fork")

    def take(self, deadline: float | None = None) -> PostgresSession:
        """A connection for this thread alone, until it is given back.

        Raises:
            StoreUnavailableError: there was none in time.
        """
        self._check_usable()
        end = time.monotonic() + self._timeout if deadline is None else deadline
        connection = self._connection(end)
        session = self._sessions.get(connection)
        if session is None:
            session = PostgresSession(connection, not self._pgbouncer, self._isolate)
            self._sessions[connection] = session
        session.connection = connection
        if not connection.autocommit:
            try:
                connection.autocommit = True
            except psycopg.Error as error:
                session.connection = None
                self._open_pool().putconn(connection)
                raise InvalidStateError(
                    f"{self.name}: the pool gave a connection in the middle of something"
                ) from error
            session.restores_autocommit = True
        return session

    def _connection(self, end: float) -> psycopg.Connection[Any]:
        while True:
            left = end - time.monotonic()
            try:
                # In slices: asking anew makes a pool connect again that has given up meanwhile.
                return self._open_pool().getconn(timeout=max(0.001, min(left, 1.0)))
            except psycopg_pool.PoolTimeout as error:
                if left <= 1.0:
                    problem = f"no connection within {self._timeout:g} s: {self._why()}"
                    raise StoreUnavailableError(self.name, problem) from error
            except psycopg_pool.PoolClosed as error:
                raise StoreClosedError(str(error)) from error
            except psycopg.Error as error:
                raise StoreUnavailableError(self.name, str(error).strip()) from error

    def _why(self) -> str:
        """Why there is no connection."""
        if self._borrowed is not None:
            return "the caller's pool has none"
        return self._failure.text or f"all {self._max_connections} are in use"

    def give_back(self, session: PostgresSession) -> None:
        """Lend it to the next thread."""
        connection, session.connection = session.connection, None
        if connection is None:
            return
        if session.restores_autocommit and connection.pgconn.status == pq.ConnStatus.OK:
            session.restores_autocommit = False
            with suppress(psycopg.Error):
                connection.autocommit = False
        if not session.usable:
            self._sessions.pop(connection, None)
        pool = self._pool
        if pool is not None:
            pool.putconn(connection)

    def _open_pool(self) -> Pool:
        pool = self._pool
        if pool is None:
            with self._lock:
                if self._pool is None:
                    self._pool = open_pool(self._conninfo, self._max_connections, self.name, self._failure)
                pool = self._pool
        return pool

    # -- life ----------------------------------------------------------------------------------------------------------------------

    def migrate(self, line: str, migrations: tuple[Migration, ...]) -> None:
        """Bring the tables of `line` up to date. Idempotent, safe when many processes do it at once.

        Raises:
            SchemaMismatchError: a newer release has been here, or the tables have another prefix; nothing was changed.
            StoreUnavailableError: the role may not create what is missing; the message says what to do.
        """
        if self.block_of_thread() is not None:
            raise InvalidStateError("the store cannot be migrated inside a transaction block")
        self._check_usable()
        schema = Schema(self.names, self.name, line, migrations)
        try:
            if self._borrowed is None:
                # Not by the pool: it would go on trying, and hide why the first connection cannot be made.
                with psycopg.connect(self._conninfo, autocommit=True) as connection:
                    self._isolate = schema.bring_up_to_date(connection)
                return
            session = self.take()
            try:
                assert session.connection is not None  # it was taken
                session.isolate = self._isolate = schema.bring_up_to_date(session.connection)
            finally:
                self.give_back(session)
        except psycopg.Error as error:
            raise StoreUnavailableError(self.name, str(error).strip()) from error

    def close(self) -> None:
        """Close all connections but those of a caller's pool. A second call is harmless.

        Raises:
            InvalidStateError: this thread has a block open.
        """
        if self.block_of_thread() is not None:
            raise InvalidStateError("the store cannot be closed inside a transaction block")
        with self._lock:
            if self._closed:
                return
            self._closed = True
            pool, notifications = self._pool, self._notifications
        if notifications is not None:
            notifications.close()
        if pool is not None and pool is not self._borrowed:
            pool.close(_GOODBYE)
        self.bump()

    # -- fork ----------------------------------------------------------------------------------------------------------------------

    def before_fork(self) -> None:
        """Nothing: connections are processes of the server, and a copy of one that nobody uses does no harm."""

    def after_fork_in_parent(self) -> None:
        """Nothing."""

    def after_fork_in_child(self) -> None:
        """Drop the parent's connections without closing them, and begin without any."""
        self._forked = True
        _leaked.extend([self._pool, self._sessions, self._notifications])
        _leaked.extend(block.session for block in self._blocks.values())
        for block in self._blocks.values():
            block.abandon(InvalidStateError("the transaction belongs to the process that this one was forked from"))
        self._lock = threading.Lock()
        self._start()


def _check_options(dsn: object, pool: object, max_connections: object, application_name: object) -> None:
    if (dsn is None) == (pool is None):
        raise InvalidValueError("dsn", "must be given, or else a pool", dsn)
    if pool is not None and not isinstance(pool, psycopg_pool.ConnectionPool):
        raise InvalidValueError("pool", "must be a psycopg_pool.ConnectionPool", pool)
    if isinstance(max_connections, bool) or not isinstance(max_connections, int) or max_connections < 1:
        raise InvalidValueError("max_connections", "must be 1 or more", max_connections)
    if not isinstance(application_name, str) or "\0" in application_name:
        raise InvalidValueError("application_name", "must be text without NUL", application_name)


def _tell_once() -> None:
    global _told
    if pq.__impl__ == "python" and not _told:
        _told = True
        _log.warning("psycopg runs in its slow pure Python implementation; install wfe-fast[postgres-binary]")
