"""One SQLite connection: how it is opened, set up and checked, and what its errors mean.

The database file is touched through SQLite alone. Opening and closing it by any other way drops all POSIX locks that this process holds
on it, and then another process may delete the write-ahead log under a writer.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, TypeAlias, TypeVar
from urllib.parse import unquote, urlsplit

import apsw

from wfe_fast.codec import text_problem
from wfe_fast.database.base import Params, Row, UniqueViolation, Work
from wfe_fast.errors import (
    CorruptionError,
    InvalidStateError,
    InvalidValueError,
    SchemaMismatchError,
    StoreBusyError,
    StoreClosedError,
    StoreFullError,
    StoreReadOnlyError,
    StoreUnavailableError,
    WfeError,
)

T = TypeVar("T")

Synchronous: TypeAlias = Literal["normal", "full"]

MEMORY = ":memory:"

#: "WFEF", in the header of every database of ours, so that no other program's file is taken for one.
APPLICATION_ID = 0x57464546

#: apsw's default of 100 cached statements thrashes as soon as a store has more: a call then costs 10 µs and not 2.
_CACHED_STATEMENTS = 512

#: Seconds between two looks of a process that waits for another one's lock. SQLite's own back-off sleeps up to 100 ms at a time: with
#: eight writing processes its worst wait was 437 ms, with these 19 ms, at the same throughput.
_SHORT_WAITS = (0.0002, 0.0005, 0.001, 0.002)

#: The log file shrinks to this once it was checkpointed, so that one burst does not occupy the disk for ever.
_LOG_SIZE_LIMIT = 16 * 1024 * 1024

#: Creating a file and opening it happen under this lock: see the module's docstring.
_opening = threading.Lock()


def sqlite_path(target: str | os.PathLike[str]) -> str:
    """The path that a path or a ``sqlite:`` URL names: ``sqlite:///relative.db``, ``sqlite:////absolute.db``, ``sqlite://:memory:``.

    Raises:
        InvalidValueError: it is neither, or names no file.
    """
    if not isinstance(target, (str, os.PathLike)):
        raise InvalidValueError("path", "must be a path or a sqlite: URL", target)
    path = os.fspath(target)
    if not isinstance(path, str):
        raise InvalidValueError("path", "must be text", target)
    if path.startswith("sqlite:"):
        path = _path_of_url(path)
    if not path or text_problem(path):
        raise InvalidValueError("path", "must name a file", target)
    return path


def _path_of_url(url: str) -> str:
    if url in ("sqlite://:memory:", "sqlite:///:memory:", "sqlite::memory:", "sqlite://"):
        return MEMORY
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise InvalidValueError("url", str(error), url) from error
    if parts.netloc or parts.query or parts.fragment or not parts.path.startswith("/"):
        raise InvalidValueError(
            "url", "must look like sqlite:///relative.db, sqlite:////absolute.db or sqlite://:memory:", url
        )
    return unquote(parts.path[1:])


class SqliteSession:
    """A connection, with the few verbs that operations use. One thread at a time."""

    __slots__ = ("_busy_timeout", "_changes", "_deadline", "_execute", "_patience", "broken", "connection", "path")

    def __init__(self, path: str, busy_timeout: float) -> None:
        self.path = path
        self._busy_timeout = busy_timeout
        self._patience = busy_timeout
        self._deadline = 0.0
        #: It could not even roll back. Closing it does, so it is to be closed and replaced.
        self.broken = False
        self.connection = _open(path)
        self.connection.set_busy_handler(self._wait_for_lock)
        # One cursor for all: a statement is always read to its end before the next one begins.
        self._execute: Callable[..., Any] = self.connection.cursor().execute
        self._changes = self.connection.changes

    def run(self, sql: str, params: Params = ()) -> int:
        self._execute(sql, params)
        return self._changes()

    def run_many(self, sql: str, rows: Iterable[Params]) -> None:
        execute = self._execute
        for row in rows:
            execute(sql, row)

    def one(self, sql: str, params: Params = ()) -> Row | None:
        rows = self._execute(sql, params).fetchall()
        return rows[0] if rows else None

    def all(self, sql: str, params: Params = ()) -> list[Row]:
        rows: list[Row] = self._execute(sql, params).fetchall()
        return rows

    # -- transactions ----------------------------------------------------------------------------------------------------------

    def begin(self, patience: float | None = None) -> None:
        if self.connection.in_transaction:  # an interrupt came between the end of a transaction and its handling
            self.rollback()
        # IMMEDIATE: a transaction that begins by reading and then finds another writer ahead cannot go on, only start again.
        if patience is None:
            self._execute("BEGIN IMMEDIATE")
        else:
            with self.patience(patience):
                self._execute("BEGIN IMMEDIATE")

    def begin_snapshot(self) -> None:
        self._execute("BEGIN DEFERRED")

    def snapshot(self, work: Work[T], *args: Any) -> T:
        """Run ``work(session, *args)``, which only reads, on one snapshot: the open transaction's, or one of its own."""
        if self.in_transaction():
            return work(self, *args)
        try:
            self.begin_snapshot()
            return work(self, *args)
        finally:
            self.rollback()

    def commit(self) -> None:
        self._execute("COMMIT")

    def rollback(self) -> None:
        if not self.connection.in_transaction:  # some failures have rolled back by themselves
            return
        try:
            self._execute("ROLLBACK")
        except apsw.Error:
            self.broken = True

    def in_transaction(self) -> bool:
        return self.connection.in_transaction

    def savepoint(self) -> None:
        self._execute("SAVEPOINT member")

    def release(self) -> None:
        self._execute("RELEASE member")

    def rollback_to(self) -> None:
        self._execute("ROLLBACK TO member")

    def accept(self) -> None:
        """The database is one that we may change: its log may be moved into it when the last connection closes."""
        self.connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0)

    def total_changes(self) -> int:
        return self.connection.total_changes()

    def close(self) -> None:
        self.connection.close()

    @contextlib.contextmanager
    def patience(self, seconds: float) -> Iterator[None]:
        """Wait for other processes' locks this long, for a while."""
        self._patience = seconds
        try:
            yield
        finally:
            self._patience = self._busy_timeout

    def _wait_for_lock(self, tries: int) -> bool:
        """SQLite's busy handler: wait a little, and say whether to try again."""
        now = time.monotonic()
        if tries == 0:
            self._deadline = now + self._patience
        if now >= self._deadline:
            return False
        time.sleep(_SHORT_WAITS[min(tries, len(_SHORT_WAITS) - 1)])
        return True


def _open(path: str) -> apsw.Connection:
    flags = apsw.SQLITE_OPEN_READWRITE
    if path == MEMORY:
        flags |= apsw.SQLITE_OPEN_CREATE
    with _opening:
        if path != MEMORY:
            _create(path)
        connection = apsw.Connection(path, flags=flags, statementcachesize=_CACHED_STATEMENTS)
    # A plan must not depend on what is bound: where it does, SQLite compiles the statement again for every new value.
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
    return connection


def _create(path: str) -> None:
    """Make the file, readable by its owner alone (SQLite gives the log and the index file the same mode). An existing one is left as it is."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        return
    except OSError as error:
        raise StoreUnavailableError(path, f"cannot be created: {error.strerror or error}") from error


def set_up_writer(session: SqliteSession, synchronous: Synchronous, busy_timeout: float) -> None:
    """Turn the write-ahead log on and set what a writing connection needs. The database is known to be ours."""
    execute = session.all
    if session.path != MEMORY:
        _turn_log_on(session, busy_timeout)
        execute(f"PRAGMA journal_size_limit = {_LOG_SIZE_LIMIT}")
        execute(f"PRAGMA synchronous = {synchronous}")
        # On macOS fsync leaves the bytes in the drive's cache; elsewhere these have no effect.
        execute(f"PRAGMA fullfsync = {int(synchronous == 'full')}")
    # An UPDATE of a table with unique indexes notes what it has changed, so that it alone can be undone, and RETURNING collects its rows in
    # a temporary table. By default in a file of its own for each statement: 150 µs and more a time, in memory 2.
    execute("PRAGMA temp_store = MEMORY")
    execute("PRAGMA foreign_keys = ON")
    execute("PRAGMA trusted_schema = OFF")


def set_up_reader(session: SqliteSession) -> None:
    """Set what a reading connection needs."""
    session.all("PRAGMA query_only = ON")
    session.all("PRAGMA trusted_schema = OFF")


def _turn_log_on(session: SqliteSession, busy_timeout: float) -> None:
    """``journal_mode = WAL`` needs the file for itself for a moment, and does not ask the busy handler: two processes that create one database
    together would fail each other."""
    deadline = time.monotonic() + busy_timeout
    while True:
        try:
            row = session.one("PRAGMA journal_mode = WAL")
        except apsw.BusyError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(_SHORT_WAITS[-1])
            continue
        if row is None or row[0] != "wal":
            raise StoreUnavailableError(session.path, "the file system does not support a write-ahead log")
        return


def check_identity(session: SqliteSession) -> None:
    """Refuse what is not ours, before anything in it changes.

    Raises:
        SchemaMismatchError: the file is not an SQLite database, or one of another program.
        StoreReadOnlyError: it may only be read.
    """
    if _has_log(session.path):
        # Until the database is known to be ours, and of a version that we know, closing it must not move that log into it.
        session.connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    try:
        if session.snapshot(_is_foreign):
            raise SchemaMismatchError(session.path, "is a database of another program; it was left as it is")
    except apsw.NotADBError as error:
        raise SchemaMismatchError(session.path, "is not an SQLite database; it was left as it is") from error
    if session.connection.readonly("main"):
        raise StoreReadOnlyError(session.path, "the file may not be written")


def _is_foreign(session: SqliteSession) -> bool:
    """Whether the database is another program's. To be asked on one snapshot: between two looks another process may have made a new
    file ours, and the first one's mark beside the second one's tables looks like a stranger."""
    application = session.all("PRAGMA application_id")[0][0]
    if application == APPLICATION_ID:
        return False
    tables = session.all("SELECT count(*) FROM sqlite_schema")[0][0]
    user_version = session.all("PRAGMA user_version")[0][0]
    return bool(application or tables or user_version)


def _has_log(path: str) -> bool:
    """Whether somebody has left commits in a log."""
    try:
        return os.stat(f"{path}-wal").st_size > 0
    except OSError:
        return False


_MEANINGS: tuple[tuple[type[apsw.Error], type[WfeError], str], ...] = (
    (apsw.BusyError, StoreBusyError, "another process holds the database for longer than busy_timeout"),
    (apsw.LockedError, StoreBusyError, "another connection holds the database"),
    (apsw.FullError, StoreFullError, "the disk or the database is full"),
    (apsw.ReadOnlyError, StoreReadOnlyError, "the file or its folder may not be written"),
    (apsw.CorruptError, CorruptionError, "the database file is damaged"),
    (apsw.NotADBError, CorruptionError, "the file is not an SQLite database any more"),
    (apsw.CantOpenError, StoreUnavailableError, "the file cannot be opened"),
    (apsw.PermissionsError, StoreUnavailableError, "access to the file was refused"),
)


def translated(error: apsw.Error, path: str) -> Exception:
    """The error of ours that says what a driver's error means."""
    if isinstance(error, apsw.ConstraintError):
        return UniqueViolation(str(error).partition(": ")[2])
    if isinstance(error, apsw.ConnectionClosedError):
        return StoreClosedError()
    if isinstance(error, (apsw.ThreadingViolationError, apsw.MisuseError)):
        return InvalidStateError(f"{path}: {error}")
    for kind, ours, meaning in _MEANINGS:
        if isinstance(error, kind):
            return ours(path, f"{meaning} ({error})")
    return StoreUnavailableError(path, f"{type(error).__name__}: {error}")
