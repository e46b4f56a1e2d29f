"""How a thread learns that something in the database has changed, without asking all the time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class ChangeSignal:
    """A counter that moves with every commit, of this process at once and of others as soon as somebody waits and looks.

    Args:
        look: returns a number that changes when another connection has committed (SQLite's ``data_version``), or None where there can be none.
        every: seconds between looks. A look costs about 3 µs, so a hundred a second cost nothing worth naming, and
            a worker in another process starts within 10 ms.
    """

    def __init__(self, look: Callable[[], int] | None, every: float = 0.01) -> None:
        self._look = look
        self._every = every
        self._seen: int | None = None
        self._condition = threading.Condition()
        self._waiting = 0
        self.count = 0
        #: How often `interrupt` was called.
        self.interrupts = 0

    def bump(self) -> None:
        """Say that this process has committed. To be called by one thread at a time (the writer)."""
        # First the count, then the look at who waits; a waiter does both the other way round. So one of the two sees the other.
        self.count += 1
        if self._waiting:
            with self._condition:
                self._condition.notify_all()

    def interrupt(self) -> None:
        """End the waits of those who wait no longer than until this. May be called by any thread."""
        with self._condition:
            self.interrupts += 1
            self._condition.notify_all()

    def wait(self, since: int, timeout: float, interrupts: int | None = None) -> bool:
        """Block until the count is not `since` any more, or that of interrupts not `interrupts`; False after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        with self._condition:
            self._waiting += 1
            try:
                while self.count == since and interrupts in (None, self.interrupts):
                    if self._look is not None:
                        self._look_elsewhere()
                        if self.count != since:
                            break
                    left = deadline - time.monotonic()
                    if left <= 0:
                        return False
                    self._condition.wait(min(left, threading.TIMEOUT_MAX if self._look is None else self._every))
            finally:
                self._waiting -= 1
        return True

    def lock(self) -> None:
        """Let no look be under way until `unlock`."""
        self._condition.acquire()

    def unlock(self) -> None:
        """See `lock`."""
        self._condition.release()

    def _look_elsewhere(self) -> None:
        """Count a commit of another connection. Called with the condition held, so by one thread at a time."""
        if self._look is None:
            return
        seen = self._look()
        if seen != self._seen:
            # The first look only sets the mark; whoever waits has read the database before, but perhaps before a commit that this look
            # already includes, so it counts as a change, too.
            self._seen = seen
            self.count += 1
            self._condition.notify_all()
