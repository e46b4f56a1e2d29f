"""A transaction that a caller holds open over several operations, on PostgreSQL: writes are gathered and travel together.

A write whose caller needs no answer is kept until one needs one, or until the block ends; then all go in one pipeline, and in the same one the
beginning and the end of the transaction. So a block of writes alone is one round trip. Until the first answer was given to the caller
the block can begin again from the start, for instance after a deadlock.

An operation calls the database once and changes nothing outside of it. So it is run twice: once to learn what it asks, once with the answer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from wfe_fast.database.base import Params, Row, RunAgain, UniqueViolation
from wfe_fast.database.postgres_session import (
    BEGIN,
    COMMIT,
    READ_ONLY,
    Answer,
    ConnectionBroken,
    PostgresSession,
    Request,
    StatementFailed,
)
from wfe_fast.errors import CommitOutcomeUnknownError, ConnectionLostError, InvalidStateError, WfeError

T = TypeVar("T")


class Connections(Protocol):
    """What a block needs of its database."""

    name: str

    def take(self) -> PostgresSession: ...

    def give_back(self, session: PostgresSession) -> None: ...

    def error_of(self, failed: StatementFailed) -> Exception: ...

    def may_retry(self, failed: StatementFailed, attempt: int) -> bool: ...

    def may_reconnect(self, broken: ConnectionBroken, attempt: int) -> bool: ...


class _Asked(Exception):
    """Stops an operation when it has said what it asks."""

    def __init__(self, request: Request) -> None:
        self.request = request


class _Once:
    """A session for an operation that calls the database once: `ask` answers, or stops the operation."""

    def __init__(self, ask: Callable[[Request], Answer]) -> None:
        self._ask = ask

    def run(self, sql: str, params: Params = ()) -> int:
        return self._ask((sql, params)).count

    def run_many(self, sql: str, rows: Iterable[Params]) -> None:
        for params in rows:
            self._ask((sql, params))

    def one(self, sql: str, params: Params = ()) -> Row | None:
        rows = self._ask((sql, params)).rows
        return rows[0] if rows else None

    def all(self, sql: str, params: Params = ()) -> list[Row]:
        return self._ask((sql, params)).rows


def _stop(request: Request) -> Answer:
    raise _Asked(request)


#: Learns what an operation asks.
_LISTENER = _Once(_stop)


def _teller(answer: Answer | Exception) -> _Once:
    """A session that has the answer, or the error, already."""

    def tell(_: Request) -> Answer:
        if isinstance(answer, Exception):
            raise answer
        return answer

    return _Once(tell)


@dataclass(slots=True)
class _Write:
    """An operation that was asked for and not sent yet."""

    work: Callable[..., Any]
    args: tuple[Any, ...]
    done: Callable[[Any], None]
    duplicate: Callable[[UniqueViolation], WfeError] | None
    about: object


class PostgresBlock:
    """A transaction that a thread holds open over several operations.

    Args:
        opening: a request that goes first, or None: the locks that the caller has asked for. Its rows become `known`.
    """

    def __init__(self, connections: Connections, opening: Request | None = None) -> None:
        self._connections = connections
        self._opening = opening
        self._session: PostgresSession | None = None
        self._begun = False
        self._writes: list[_Write] = []
        self.thread = threading.get_ident()
        self.open = True
        self.failure: BaseException | None = None
        #: Whether the caller has been told something that the transaction read: then it cannot begin again.
        self.answered = False
        #: Rows that this transaction has locked since its beginning, and how they stood then.
        self.known: dict[str, Row] = {}

    # -- what operations need ------------------------------------------------------------------------------------------------------

    def run(self, work: Callable[..., T], args: tuple[Any, ...]) -> T:
        """Send what was gathered and this operation, and return its result.

        Raises:
            InvalidStateError: the block has ended, failed, or belongs to another thread.
        """
        self._check()
        results: list[T] = []
        self._writes.append(_Write(work, args, results.append, None, None))
        self._flush(last=False)
        self.answered = True
        return results[0]

    def gather(
        self,
        work: Callable[..., T],
        args: tuple[Any, ...],
        done: Callable[[T], None],
        duplicate: Callable[[UniqueViolation], WfeError] | None,
        about: object,
    ) -> None:
        """Keep a write for the next round trip. `done` gets its result then.

        Raises:
            InvalidStateError: as `run`.
        """
        self._check()
        self._writes.append(_Write(work, args, done, duplicate, about))

    def is_waiting_for(self, about: object) -> bool:
        """Whether a write about this object was not sent yet."""
        return any(write.about is about for write in self._writes)

    def settle(self) -> None:
        """Send what was gathered."""
        self._check()
        self._flush(last=False)

    @property
    def session(self) -> PostgresSession | None:
        """The connection that it has."""
        return self._session

    # -- its end -------------------------------------------------------------------------------------------------------------------

    def commit(self) -> None:
        """Send what was gathered and commit.

        Raises:
            InvalidStateError: a failed statement has rolled all back.
            CommitOutcomeUnknownError: the connection broke in between.
        """
        if self.failure is not None:
            problem = f"the transaction was rolled back: {self.failure}; nothing of it was stored"
            raise InvalidStateError(problem) from self.failure
        if self._writes or self._begun:
            self._flush(last=True)

    def end(self) -> None:
        """Let go of the connection. What was not committed is rolled back."""
        self.open = False
        session, self._session = self._session, None
        if session is not None:
            try:
                if session.in_transaction():
                    session.ask([("ROLLBACK", ())])
            except (ConnectionBroken, StatementFailed):
                session.close()  # then the server rolls it back
            finally:
                self._connections.give_back(session)

    def _check(self) -> None:
        if not self.open:
            raise InvalidStateError("the transaction has ended")
        if self.thread != threading.get_ident():
            raise InvalidStateError("the transaction belongs to another thread")
        if self.failure is not None:
            raise InvalidStateError(f"the transaction was rolled back: {self.failure}") from self.failure

    # -- sending -------------------------------------------------------------------------------------------------------------------

    def _flush(self, last: bool) -> None:
        attempt = 0
        while not self._attempt(last, attempt):
            attempt += 1
        self._writes.clear()

    def _attempt(self, last: bool, attempt: int) -> bool:
        """Send all; False where it is to be sent again, in a new transaction."""
        try:
            session = self._session
            if session is None:
                session = self._session = self._connections.take()
        except BaseException as error:
            self._doom(error)  # or what was gathered, and has been refused now, would be stored by the next call
            raise
        before = [] if self._begun else [(BEGIN, ()), *([self._opening] if self._opening else [])]
        asked = [_asked(write) for write in self._writes]
        try:
            answers = session.ask(
                [*before, *(request for request in asked if request), *([(COMMIT, ())] if last else [])]
            )
        except StatementFailed as failed:
            self._begun = True
            return self._failed(failed, len(before), asked, attempt)
        except ConnectionBroken as broken:
            return self._broken(broken, last, attempt)
        except BaseException as error:
            self._doom(error)
            raise
        self._begun = not last
        if len(before) == 2:
            self.known.update((row[0], row[1:]) for row in answers[1].rows)
        replies = iter(answers[len(before) :])
        for write, request in zip(self._writes, asked, strict=True):
            answer = next(replies) if request else Answer()
            write.done(write.work(_teller(answer), *write.args))
        return True

    def _failed(self, failed: StatementFailed, before: int, asked: list[Request | None], attempt: int) -> bool:
        """A statement failed, and the transaction with it."""
        sent = [write for write, request in zip(self._writes, asked, strict=True) if request]
        place = failed.index - before
        write = sent[place] if 0 <= place < len(sent) else None
        error = self._connections.error_of(failed)
        again = not self.answered and self._connections.may_retry(failed, attempt)
        if write is not None:
            try:
                write.work(_teller(failed), *write.args)
            except RunAgain:
                again = True
            except StatementFailed:
                if isinstance(error, UniqueViolation) and write.duplicate is not None:
                    error = write.duplicate(error)
        if again and not self.answered:
            self._restart(elsewhere=failed.code == READ_ONLY)
            return False
        self._doom(error)
        raise error from failed

    def _broken(self, broken: ConnectionBroken, last: bool, attempt: int) -> bool:
        """The connection is gone, and the transaction with it, unless it was committing."""
        if last and broken.sent:
            error: WfeError = CommitOutcomeUnknownError(self._connections.name, str(broken))
        elif not self.answered and self._connections.may_reconnect(broken, attempt):
            self._restart()
            return False
        else:
            error = ConnectionLostError(self._connections.name, str(broken))
        self._doom(error)
        raise error from broken

    def abandon(self, error: BaseException) -> None:
        """In a forked child: the connection is the parent's, and not to be touched."""
        self.open = self._begun = False
        self._session = None
        self._doom(error)

    def _restart(self, elsewhere: bool = False) -> None:
        session, self._session = self._session, None
        self._begun = False
        if session is not None:
            try:
                if elsewhere:
                    session.close()
                elif session.in_transaction():
                    session.ask([("ROLLBACK", ())])
            except (ConnectionBroken, StatementFailed):
                session.close()
            finally:
                self._connections.give_back(session)

    def _doom(self, error: BaseException) -> None:
        self.failure = error
        self._writes.clear()


def _asked(write: _Write) -> Request | None:
    """What an operation asks the database; None = nothing."""
    try:
        write.work(_LISTENER, *write.args)
    except _Asked as asked:
        return asked.request
    return None
