"""SQLite as a database for stores: one writing connection, a few reading ones, per process."""

from __future__ import annotations

import itertools
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import apsw

from wfe_fast.clock import Duration, checked_seconds
from wfe_fast.database.base import Work
from wfe_fast.database.changes import ChangeSignal
from wfe_fast.database.forking import follow_forks, no_fork, unsafe_paths
from wfe_fast.database.migrations import Migration, pending_migrations
from wfe_fast.database.readers import ReaderPool
from wfe_fast.database.sqlite_block import Block
from wfe_fast.database.sqlite_connection import (
    APPLICATION_ID,
    MEMORY,
    SqliteSession,
    Synchronous,
    check_identity,
    set_up_reader,
    set_up_writer,
    sqlite_path,
    translated,
)
from wfe_fast.database.writer import Member, WriteQueue
from wfe_fast.errors import (
    InvalidStateError,
    InvalidValueError,
    SchemaMismatchError,
    StoreBusyError,
    StoreClosedError,
    StoreUnavailableError,
)

T = TypeVar("T")

#: Reading connections per process. SQLite gives up the GIL while it reads, but decoding does not: more than four gained nothing.
_READERS = 4

#: The log is looked at once in so many commits, and cut where readers have kept it from being used again.
_COMMITS_BETWEEN_LOOKS = 256
_LONGEST_LOG = 32 * 1024 * 1024

_numbers = itertools.count(1)

#: Connections of a parent that a child could not close safely. Kept for ever: collecting them would close them.
_leaked: list[SqliteSession] = []

#: Seconds that a writer waits for readers when it cuts the log.
_CUT_PATIENCE = 0.05

_log = logging.getLogger("wfe_fast.database")


class SqliteDatabase:
    """A database file (or ``:memory:``) with its connections. Threads share it; a forked child opens its own connections.

    Args:
        target: a path, ``":memory:"`` or a ``sqlite:`` URL.
        synchronous: ``"normal"``: a commit survives a killed process; a power cut may lose the last ones, never consistency.
            ``"full"``: a commit is on the disk before the call returns; concurrent writers share the fsync.
        busy_timeout: how long a call waits for another writer.
    """

    def __init__(
        self, target: str | os.PathLike[str], *, synchronous: Synchronous = "normal", busy_timeout: Duration = 10.0
    ) -> None:
        self.path = sqlite_path(target)
        if synchronous not in ("normal", "full"):
            raise InvalidValueError("synchronous", 'must be "normal" or "full"', synchronous)
        self._synchronous: Synchronous = synchronous
        self._busy_timeout = checked_seconds(busy_timeout, "busy_timeout")
        self._in_memory = self.path == MEMORY
        if not self._in_memory:
            # A later chdir must not lead a new connection to another file.
            self.path = _absolute(self.path)
        #: What tells this database from any other of the process: those in memory share their path.
        self.name = f"{MEMORY} (number {next(_numbers)})" if self._in_memory else self.path
        self._closed = False
        self._forked = False
        self._held: list[SqliteSession] | None = None
        self._place = Member(None, ())
        with no_fork():
            self._start()
            follow_forks(self)
            try:
                self.locked(self._writer_session)
            except BaseException:
                self.close()
                raise

    def _start(self) -> None:
        """Begin without any connection: in a new object, and in a forked child."""
        self._writer: SqliteSession | None = None
        self._watcher: SqliteSession | None = None
        self._readers = ReaderPool(self._open_reader, _READERS, self._busy_timeout, self._busy)
        self._block: Block | None = None
        self._commits = 0
        self._queue = WriteQueue(self._writer_session, self._committed, self._busy_timeout, self._busy)
        self.changes = ChangeSignal(None if self._in_memory else self._data_version)

    # -- what operations need ------------------------------------------------------------------------------------------------------

    def write(self, work: Work[T], *args: Any) -> T:
        """Run ``work(session, *args)`` in a transaction, or in the thread's open block. May run it again after a rollback."""
        block = self._block
        if block is not None and block.thread == threading.get_ident():
            return block.run(work, args)
        try:
            return self._queue.write(work, args)
        except apsw.Error as error:
            raise translated(error, self.path) from error

    def read(self, work: Work[T], *args: Any) -> T:
        """Run ``work(session, *args)``, which makes a single query, on a snapshot or in the thread's open block."""
        block = self._block
        if block is not None and block.thread == threading.get_ident():
            return block.run(work, args)
        if self._in_memory:
            return self.locked(lambda: work(self._writer_session(), *args))
        session: SqliteSession | None = None
        try:
            session = self._readers.take()
            return work(session, *args)
        except apsw.Error as error:
            raise translated(error, self.path) from error
        finally:
            if session is not None:
                self._readers.give_back(session)

    def snapshot(self, work: Work[T], *args: Any) -> T:
        """`read` for an operation of several queries: all see one snapshot."""
        result: T = self.read(SqliteSession.snapshot, work, *args)
        return result

    @contextmanager
    def block(self) -> Iterator[Block]:
        """A transaction over all operations of this thread until it ends.

        Raises:
            InvalidStateError: the thread is in a block already, or the block is left normally though it was rolled back.
        """
        if self.in_block():
            raise InvalidStateError("this thread is in a transaction block already")
        place = Member(None, ())
        try:
            block = self._begin_block(self._queue.acquire(place))
            try:
                yield block  # what the caller's code raises comes out as it is
                self._end_block(block)
            finally:
                self._block = None
                block.open = False
                block.session.rollback()
            self._committed()
        finally:
            self._queue.release(place)

    def _begin_block(self, patience: float) -> Block:
        try:
            session = self._writer_session()
            session.begin(patience)
        except apsw.Error as error:
            raise translated(error, self.path) from error
        self._block = Block(session)
        return self._block

    def _end_block(self, block: Block) -> None:
        if block.failure is not None:
            problem = f"the transaction was rolled back: {block.failure}; nothing of it was stored"
            raise InvalidStateError(problem) from block.failure
        try:
            block.session.commit()
        except apsw.Error as error:
            raise translated(error, self.path) from error

    def in_block(self) -> bool:
        """Whether this thread has a block open."""
        block = self._block
        return block is not None and block.thread == threading.get_ident()

    def locked(self, call: Callable[[], T]) -> T:
        """Run `call` as the owner of the writing connection, outside a transaction."""
        place = Member(None, ())
        try:
            self._queue.acquire(place)
            return call()
        except apsw.Error as error:
            raise translated(error, self.path) from error
        finally:
            self._queue.release(place)

    # -- connections ---------------------------------------------------------------------------------------------------------------

    def _check_usable(self) -> None:
        if self._closed:
            raise StoreClosedError
        if self.path in unsafe_paths or (self._in_memory and self._forked):
            raise InvalidStateError(
                f"{self.path}: a database in memory does not follow a fork"
                if self._in_memory
                else f"{self.path}: the process was forked while the database was in use; open it in a process of its own"
            )

    def _writer_session(self) -> SqliteSession:
        """The writing connection. For the queue's owner only."""
        session = self._writer
        if session is None or session.broken:
            if session is not None:
                session.close()
                self._writer = None
                if self._in_memory:
                    self._closed = True
                    raise StoreUnavailableError(self.path, "its connection broke, and what it held is gone")
            self._check_usable()
            session = SqliteSession(self.path, self._busy_timeout)
            try:
                check_identity(session)
                set_up_writer(session, self._synchronous, self._busy_timeout)
            except BaseException:
                session.close()
                raise
            self._writer = session
        return session

    def _open_reader(self) -> SqliteSession:
        """Another reading connection."""
        self._check_usable()
        session = SqliteSession(self.path, self._busy_timeout)
        try:
            set_up_reader(session)
        except BaseException:
            session.close()
            raise
        return session

    def wait(self, since: int, seconds: float, interrupts: int | None = None) -> None:
        """Block until the change signal is not at `since` any more, or interrupted, or for so long."""
        self.changes.wait(since, seconds, interrupts)

    def _data_version(self) -> int:
        """A number that changes when any other connection commits. Called by one thread at a time."""
        self._check_usable()
        try:
            if self._watcher is None:
                self._watcher = SqliteSession(self.path, self._busy_timeout)
            row = self._watcher.one("PRAGMA data_version")
        except apsw.Error as error:
            raise translated(error, self.path) from error
        return int(row[0]) if row else 0

    def _busy(self) -> StoreBusyError:
        return StoreBusyError(self.path, "other threads hold the database for longer than busy_timeout")

    def _committed(self) -> None:
        """After each commit, by the queue's owner."""
        self.changes.bump()
        self._commits += 1
        if self._commits % _COMMITS_BETWEEN_LOOKS == 0 and not self._in_memory:
            self._cut_log()

    def _cut_log(self) -> None:
        """Start the log anew where it has grown: SQLite does so by itself only in a moment without a reader, which under
        constant reading never comes. New readers are not held up; those in the old log are waited for."""
        try:
            if os.stat(f"{self.path}-wal").st_size > _LONGEST_LOG and self._writer is not None:
                with self._writer.patience(_CUT_PATIENCE):
                    self._writer.connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        except (OSError, apsw.Error):
            # The commit before is done and must not be reported as failed. A long reader of another program passes, and the next look
            # comes; whatever else it is, the next write meets it, too.
            _log.debug("the log of %s could not be cut", self.path, exc_info=True)

    # -- life ----------------------------------------------------------------------------------------------------------------------

    def migrate(self, line: str, migrations: tuple[Migration, ...]) -> None:
        """Bring the tables of `line` up to date. Idempotent, safe when many processes do it at once.

        Raises:
            SchemaMismatchError: a newer release has been here; nothing was changed.
        """
        if self.in_block():
            raise InvalidStateError("the store cannot be migrated inside a transaction block")
        if self.read(_pending, line, migrations, self.path):
            self.write(_migrate, line, migrations, self.path)
        self.locked(lambda: self._writer_session().accept())

    def close(self) -> None:
        """Close all connections. A second call is harmless.

        Raises:
            InvalidStateError: this thread has a block open.
        """
        if self.in_block():
            raise InvalidStateError("the store cannot be closed inside a transaction block")
        if self._closed:
            return
        place = Member(None, ())
        try:
            self._queue.acquire(place)
            self._closed = True
            self._close_connections()
        finally:
            self._queue.release(place)
        self.changes.bump()

    def _close_connections(self) -> None:
        """Close what nobody uses; a reader in use is closed when it is returned. By the queue's owner."""
        self._readers.close()
        self.changes.lock()
        try:
            if self._watcher is not None:
                self._watcher.close()
                self._watcher = None
        finally:
            self.changes.unlock()
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    # -- fork ----------------------------------------------------------------------------------------------------------------------

    def before_fork(self) -> None:
        """Let nothing be under way on any connection while the process is copied."""
        self._held = None
        if self._closed or self.in_block():
            return
        self._place = Member(None, ())
        try:
            self._queue.acquire(self._place)
        except StoreBusyError:
            return
        self._held = self._readers.hold(self._busy_timeout)
        if self._held is None:
            self._queue.release(self._place)
        else:
            self.changes.lock()

    def after_fork_in_parent(self) -> None:
        """Go on."""
        if self._held is not None:
            held, self._held = self._held, None
            self.changes.unlock()
            self._readers.let_go(held)
            self._queue.release(self._place)

    def after_fork_in_child(self) -> None:
        """Drop the parent's connections and begin without any.

        They are closed, not leaked: SQLite keeps the locks of a file once per process, and the copy of that record says that this process
        holds locks which only the parent holds. A new connection would build on it, and another process could delete the log under
        it. Closing is safe where `before_fork` saw to it that nothing was under way; where it could not, the child may not open the file.
        """
        self._forked = True
        used = (self._writer, self._watcher, *(self._held or self._readers.idle))
        connections = [session for session in used if session is not None]
        self._held = None
        self._start()
        if self._in_memory or self.path in unsafe_paths:
            _leaked.extend(connections)
        else:
            for session in connections:
                session.close()

    @property
    def fork_unsafe(self) -> bool:
        """Whether something was under way when the process was copied."""
        return not self._closed and not self._in_memory and self._held is None


def _absolute(path: str) -> str:
    try:
        return os.path.abspath(path)
    except OSError as error:  # the current folder was deleted
        raise StoreUnavailableError(path, f"has no absolute path: {error.strerror or error}") from error


def _pending(session: SqliteSession, line: str, migrations: tuple[Migration, ...], path: str) -> tuple[Migration, ...]:
    if not session.one("SELECT 1 FROM sqlite_schema WHERE name = 'wfe_fast_migrations'"):
        return migrations
    applied = session.all("SELECT version, checksum FROM wfe_fast_migrations WHERE line = ? ORDER BY version", (line,))
    return pending_migrations(line, migrations, [(row[0], row[1]) for row in applied], path)


def _migrate(session: SqliteSession, line: str, migrations: tuple[Migration, ...], path: str) -> None:
    # Another process may have come first, with another program's tables even: looked at again under the lock.
    check_identity(session)
    session.run(f"PRAGMA application_id = {APPLICATION_ID}")
    session.run(
        "CREATE TABLE IF NOT EXISTS wfe_fast_migrations (line TEXT NOT NULL, version INTEGER NOT NULL, name TEXT NOT NULL, "
        "checksum TEXT NOT NULL, applied_at INTEGER NOT NULL, PRIMARY KEY (line, version)) STRICT"
    )
    for migration in _pending(session, line, migrations, path):
        try:
            session.run(migration.sql)
        except apsw.SQLError as error:  # a table of that name is there already
            raise SchemaMismatchError(path, f"has no room for the {line} tables: {error}") from error
        session.run(
            "INSERT INTO wfe_fast_migrations (line, version, name, checksum, applied_at) VALUES (?, ?, ?, ?, ?)",
            (line, migration.version, migration.name, migration.checksum, time.time_ns() // 1000),
        )
