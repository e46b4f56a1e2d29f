"""One writer, many threads: a fair queue whose head serves the others, so that they share one transaction.

SQLite has one writer at a time. Threads that wait for it here stand in line (SQLite's own waiting is a lottery of sleeps). Whoever comes to
its head executes what the others behind it have queued as well, each in a savepoint of its own, and commits once. With
``synchronous=full`` that is group commit: while one group is being synced the next one gathers. Every member gets its own result or its own
error, after the commit.

A caller's transaction block runs the caller's code, which may wait for other threads. So a block shares its transaction with nobody:
a member that waits for the block's commit while the block waits for the member would be a deadlock.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from wfe_fast.database.base import Work

T = TypeVar("T")

#: So many members share one commit at most; more would let the first wait long for its answer (64 small writes take about 2 ms).
_LARGEST_GROUP = 64

#: Seconds between looks of an interrupted thread whose work somebody else executes at the moment.
_SERVED_SOON = 0.05


class Writer(Protocol):
    """The writing connection, as the queue needs it."""

    def begin(self, patience: float | None = None) -> None:
        """Begin a transaction; wait for other processes at most `patience` seconds, as long as usual by default."""
        ...

    def commit(self) -> None: ...

    def rollback(self) -> None:
        """End the transaction, if one is open. Never raises."""
        ...

    def in_transaction(self) -> bool: ...

    def savepoint(self) -> None: ...

    def release(self) -> None: ...

    def rollback_to(self) -> None: ...


W = TypeVar("W", bound=Writer)


class Member:
    """One thread's place in the line. `work` is None for a thread that wants the writer for itself (a block)."""

    __slots__ = ("_gate", "args", "deadline", "done", "error", "leads", "result", "work")

    def __init__(self, work: Work[Any] | None, args: tuple[Any, ...]) -> None:
        self.work = work
        self.args = args
        self.result: Any = None
        self.error: BaseException | None = None
        self.done = False
        self.leads = False
        self.deadline = 0.0
        self._gate = threading.Lock()
        self._gate.acquire()

    def run(self, writer: Writer) -> Any:
        return self.work(writer, *self.args) if self.work is not None else None

    def wake(self) -> None:
        """Let the member's thread go on: it is done, or it leads from now on. Once only."""
        self._gate.release()

    def wait(self, seconds: float) -> bool:
        return self._gate.acquire(timeout=min(seconds, threading.TIMEOUT_MAX))


class WriteQueue:
    """Who may use the writer, and in which order.

    Args:
        writer: returns the writing connection; called by the owner only.
        on_commit: called by the owner after each commit.
        patience: seconds that a thread stands in line.
        busy: makes the error of a thread whose patience ended.
    """

    def __init__(
        self,
        writer: Callable[[], Writer],
        on_commit: Callable[[], None],
        patience: float,
        busy: Callable[[], Exception],
    ) -> None:
        self._writer = writer
        self._on_commit = on_commit
        self._patience = patience
        self._busy = busy
        # Who owns the writer: {0: its token}, or empty. `setdefault` takes it and says who in one step, so that a KeyboardInterrupt
        # right behind it leaves no ownership of which nobody knows (a lock would). A token is of one call, not of a thread: a signal
        # handler that writes in the middle of a write does not get into its transaction.
        self._owner: dict[int, object] = {}
        self._line: deque[Member] = deque()

    def write(self, work: Work[T], args: tuple[Any, ...]) -> T:
        """Run ``work(writer, *args)`` in a transaction and return its result after the commit."""
        token: object = object()
        try:
            if not self._line and self._owner.setdefault(0, token) is token:
                return self._write_alone(work, args)
            token = member = Member(work, args)
            self._wait_in_line(member)
            if member.leads:
                self._lead(member)
        finally:
            self.release(token)
        if member.error is not None:
            raise member.error
        result: T = member.result
        return result

    def acquire(self, member: Member) -> float:
        """Wait for the writer and own it, with no transaction open. `release` gives it back, also where this was interrupted.

        Args:
            member: a new one, without work.

        Returns:
            The seconds of patience that are left.

        Raises:
            Exception: what `busy` makes, where the patience ended first.
        """
        if not self._line and self._take(member):
            return self._patience
        self._wait_in_line(member)
        return max(0.0, member.deadline - time.monotonic())

    def release(self, token: object) -> None:
        """Give the writer to the first in line, or free it, with no transaction open. Does nothing where `token` does not own it."""
        try:
            self._pass_on(token)
        finally:
            if self._owner.get(0) is token:  # the first one was interrupted
                self._pass_on(token)

    def _take(self, token: object) -> bool:
        return self._owner.setdefault(0, token) is token

    def _pass_on(self, token: object) -> None:
        line = self._line
        while self._owner.get(0) is token:
            if not line:
                self._owner.pop(0, None)
                # Somebody may have come between the look at the line and this, and then waits for nobody.
                if not line or not self._take(token):
                    return
            try:
                member = line[0]
            except IndexError:  # it has lost its patience since the look
                continue
            self._owner[0] = member
            member.leads = True
            try:
                self._leave(member)
            finally:
                member.wake()
            return

    def _write_alone(self, work: Work[T], args: tuple[Any, ...]) -> T:
        """The uncontended case, without a member and without a savepoint. Called by the owner."""
        writer = self._writer()
        try:
            writer.begin()
            result = work(writer, *args)
            writer.commit()
        except BaseException:
            writer.rollback()
            raise
        self._on_commit()
        return result

    def _wait_in_line(self, member: Member) -> None:
        """Stand in line until `member` is done or leads.

        Raises:
            Exception: what `busy` makes, where the patience ended first; the work was not done then.
        """
        interrupt: BaseException | None = None
        member.deadline = time.monotonic() + self._patience
        joined = False
        while not (member.done or member.leads):
            try:
                if not joined:
                    joined = True
                    self._line.append(member)
                    # The owner may have looked at the line for the last time just before, and nobody would wake us.
                    if self._take(member):
                        self._pass_on(member)
                left = member.deadline - time.monotonic()
                member.wait(left if left > 0 and interrupt is None else _SERVED_SOON)
            except BaseException as error:
                # A KeyboardInterrupt. Where our work has begun we wait for its end, to know what became of it.
                interrupt = error
            if (interrupt or time.monotonic() >= member.deadline) and self._leave(member):
                raise interrupt or self._busy()
        if interrupt is not None:
            raise interrupt

    def _leave(self, member: Member) -> bool:
        """Step out of the line; False where somebody serves this member already."""
        try:
            self._line.remove(member)
        except ValueError:
            return False
        return True

    def _lead(self, own: Member) -> None:
        """Execute our own work and what others have queued behind it, then pass the writer on. Called by the owner."""
        group = [own]
        try:
            self._serve(group)
        finally:
            # Where an interrupt of this thread stopped us nothing was committed: those that are not done go back to the head of the line.
            for member in reversed(group[1:]):
                if member.done:
                    member.wake()
                elif member not in self._line:
                    self._line.appendleft(member)

    def _serve(self, group: list[Member]) -> None:
        """Execute the members of `group`, and those in line behind them, in one transaction."""
        own = group[0]
        committing = False
        writer: Writer | None = None
        try:
            try:
                writer = self._writer()
                writer.begin(max(0.0, own.deadline - time.monotonic()))
            except Exception as error:
                own.error = error  # the others keep their place in line, and their own patience
                return
            self._execute(writer, own)
            while len(group) < _LARGEST_GROUP and writer.in_transaction() and self._join(group):
                self._execute(writer, group[-1])
            committing = writer.in_transaction()
            if committing and _succeeds(writer.commit):
                self._on_commit()  # before `_finish`: whose write is done finds it among the changes
                _finish(group)
            else:
                committing = False
                writer.rollback()
                self._one_by_one(writer, group)
        except BaseException:
            if committing and writer is not None and not writer.in_transaction():
                _finish(group)  # the interrupt came behind the commit
            elif writer is not None:
                writer.rollback()
            raise

    def _join(self, group: list[Member]) -> bool:
        """Take the first in line into the group; False where there is none, or it wants the writer for itself."""
        while self._line:
            try:
                member = self._line[0]
            except IndexError:
                return False
            if member.work is None:
                return False
            group.append(member)
            if self._leave(member):
                return True
            group.pop()  # it has just left by itself
        return False

    @staticmethod
    def _execute(writer: Writer, member: Member) -> None:
        """Execute one member in a savepoint of its own."""
        member.error = None
        writer.savepoint()
        try:
            member.result = member.run(writer)
        except Exception as error:
            member.error = error
            if writer.in_transaction():
                writer.rollback_to()
        if writer.in_transaction():
            writer.release()

    def _one_by_one(self, writer: Writer, group: list[Member]) -> None:
        """A failure has taken the whole transaction with it (a full disk does). So that nobody pays for a neighbour, each goes alone."""
        for member in group:
            member.error = member.result = None
            committing = False
            try:
                writer.begin()
                member.result = member.run(writer)
                committing = True
                writer.commit()
                self._on_commit()
                member.done = True
            except Exception as error:
                writer.rollback()
                member.error = error
                member.done = True
            except BaseException:
                if committing and not writer.in_transaction():
                    member.done = True
                else:
                    writer.rollback()
                raise


def _succeeds(commit: Callable[[], None]) -> bool:
    """Whether the commit is done. Why not, each member learns when it is done again alone."""
    try:
        commit()
    except Exception:
        return False
    return True


def _finish(group: list[Member]) -> None:
    for member in group:
        member.done = True
