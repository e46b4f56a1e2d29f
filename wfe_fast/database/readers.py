"""A few reading connections that many threads take turns with."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from wfe_fast.database.sqlite_connection import SqliteSession


class _Waiter:
    """A thread that waits for a connection."""

    __slots__ = ("gate", "session")

    def __init__(self) -> None:
        self.session: SqliteSession | None = None
        self.gate = threading.Lock()
        self.gate.acquire()


class ReaderPool:
    """Lends connections, first come, first served: a thread that reads in a tight loop does not starve the others.

    Args:
        open: makes another connection; it raises where the store cannot be used.
        limit: how many there are at most.
        patience: seconds that a thread waits.
        busy: makes the error of a thread whose patience ended.
    """

    def __init__(
        self, open: Callable[[], SqliteSession], limit: int, patience: float, busy: Callable[[], Exception]
    ) -> None:
        self._open = open
        self._limit = limit
        self._patience = patience
        self._busy = busy
        self._idle: deque[SqliteSession] = deque()
        self._line: deque[_Waiter] = deque()
        self._count = 0
        self._counting = threading.Lock()
        self._closed = False

    def take(self) -> SqliteSession:
        """A connection for this thread alone, until it is given back.

        Raises:
            Exception: what `busy` makes where all were in use for too long; what `open` raises.
        """
        while True:
            if not self._line:
                try:
                    return self._idle.pop()
                except IndexError:
                    pass
            if self._may_open():
                return self._open_another()
            session = self._wait_in_line()
            if session is not None:
                return session

    def give_back(self, session: SqliteSession) -> None:
        """Lend it to the next thread. What an interrupt has left open on it ends."""
        session.rollback()
        if session.broken:
            session.close()
            with self._counting:
                self._count -= 1
            return
        self._idle.append(session)
        if self._closed:  # while it was in use
            self._close_idle()
        elif self._line:
            self._serve()

    def close(self) -> None:
        """Close what nobody uses; what is in use is closed when it is given back."""
        self._closed = True
        self._close_idle()
        while self._line:
            self._serve_with(None)

    def hold(self, patience: float) -> list[SqliteSession] | None:
        """Take all connections, and let no new one be opened, until `let_go`; None where one is in use for too long."""
        self._counting.acquire()
        held: list[SqliteSession] = []
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            while self._idle:
                try:
                    held.append(self._idle.pop())
                except IndexError:
                    break
            if len(held) == self._count:
                return held
            time.sleep(_STEP)
        self.let_go(held)
        return None

    def let_go(self, held: list[SqliteSession]) -> None:
        """End a `hold`."""
        self._idle.extend(held)
        self._counting.release()
        self._serve()

    @property
    def idle(self) -> list[SqliteSession]:
        """The connections that nobody uses at the moment."""
        return list(self._idle)

    def _may_open(self) -> bool:
        with self._counting:
            if self._count == self._limit and not self._closed:
                return False
            self._count += 1
            return True

    def _open_another(self) -> SqliteSession:
        try:
            return self._open()
        except BaseException:
            with self._counting:
                self._count -= 1
            raise

    def _wait_in_line(self) -> SqliteSession | None:
        """The connection that somebody hands over; None where the pool was closed."""
        waiter = _Waiter()
        self._line.append(waiter)
        self._serve()  # one may have been given back just before, and its thread has not seen us
        try:
            in_time = waiter.gate.acquire(timeout=min(self._patience, threading.TIMEOUT_MAX))
        except BaseException:
            if not self._leave(waiter) and waiter.session is not None:
                self.give_back(waiter.session)
            raise
        if not in_time and self._leave(waiter):
            raise self._busy()
        return waiter.session

    def _leave(self, waiter: _Waiter) -> bool:
        """Step out of the line; False where a connection was handed over in this very moment."""
        try:
            self._line.remove(waiter)
        except ValueError:
            waiter.gate.acquire(timeout=self._patience)  # the hand-over ends at once
            return False
        return True

    def _serve(self) -> None:
        """Hand idle connections to those who wait."""
        while self._line and self._idle:
            try:
                session = self._idle.pop()
            except IndexError:
                return
            if not self._serve_with(session):
                self._idle.append(session)

    def _serve_with(self, session: SqliteSession | None) -> bool:
        try:
            waiter = self._line.popleft()
        except IndexError:
            return False
        waiter.session = session
        waiter.gate.release()
        return True

    def _close_idle(self) -> None:
        while self._idle:
            try:
                self._idle.pop().close()
            except IndexError:
                return


#: Seconds between looks while a fork waits for readers.
_STEP = 0.0005
