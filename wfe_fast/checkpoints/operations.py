"""What every operation stands on. An operation does not know whether it runs alone or inside a caller's transaction."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, TypeVar

from wfe_fast.checkpoints.rows import Reader
from wfe_fast.checkpoints.statements import Statements
from wfe_fast.checkpoints.work import Looks, Work
from wfe_fast.clock import Clock, checked_moment, to_micros
from wfe_fast.database.base import Row, Session
from wfe_fast.database.base import Work as Operation
from wfe_fast.errors import InvalidStateError

T = TypeVar("T")


class Operations(ABC):
    """Base of the methods by noun: a public method checks and encodes, then hands one operation to the database.

    What reads and then writes is the database's own (`work.Work`). An operation may run more than once, so it changes nothing outside the database.
    """

    _sql: Statements
    _work: Work
    _clock: Clock
    _from: Reader

    @property
    def clock(self) -> Clock:
        """What this store takes for now."""
        return self._clock

    @abstractmethod
    def _write(self, work: Operation[T], *args: Any) -> T:
        """Run ``work(session, *args)`` in a transaction: one of its own, or the caller's."""

    def _repeat(self, work: Operation[T], *args: Any) -> T:
        """`_write` for what does no harm when it is done twice."""
        return self._write(work, *args)

    def _store(self, work: Operation[T], *args: Any) -> None:
        """`_repeat` for what has no answer, or none that its caller needs."""
        self._write(work, *args)

    @abstractmethod
    def _read(self, work: Operation[T], *args: Any) -> T:
        """Run ``work(session, *args)``, a single query."""

    @abstractmethod
    def _snapshot(self, work: Operation[T], *args: Any) -> T:
        """Run ``work(session, *args)``, several queries, on one snapshot."""

    @abstractmethod
    def _in_block(self) -> bool:
        """Whether a caller's transaction is open in this thread."""

    def _looks(self) -> Looks | None:
        """How to look whether an attempt is in vain, where that costs less."""
        return None if self._in_block() else self._work.looks

    def _now(self) -> int:
        """Now, in microseconds."""
        return to_micros(checked_moment(self._clock(), "clock"))

    def _check_usable(self) -> None:
        """Raise what any call raises where the store is closed or the transaction has ended: for calls that have nothing to do."""
        self._read(_nothing)

    def _refuse_in_block(self) -> None:
        if self._in_block():
            raise InvalidStateError("waiting inside a transaction block would hold up every writer")


def _nothing(session: Session) -> None:
    """An operation that asks nothing."""


def run(session: Session, sql: str, params: Row) -> int:
    """An operation of one statement that changes rows: how many."""
    return session.run(sql, params)


def one(session: Session, sql: str, params: Row = ()) -> Row | None:
    """An operation of one statement with at most one row."""
    return session.one(sql, params)


def all_rows(session: Session, sql: str, params: Row = ()) -> list[Row]:
    """An operation of one statement with any number of rows."""
    return session.all(sql, params)
