"""What every operation stands on. An operation does not know whether it runs alone or inside a caller's transaction."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from wfe_fast.clock import Clock, checked_moment, system_clock, to_micros
from wfe_fast.database.base import Row, Session, UniqueViolation
from wfe_fast.errors import WfeError
from wfe_fast.persistence.memory import Memory, memory_of, remember
from wfe_fast.persistence.models import WorkflowInstance
from wfe_fast.persistence.rows import workflow_from
from wfe_fast.persistence.statements import Statements
from wfe_fast.persistence.work import Looks, Work

T = TypeVar("T")


def ignore(result: object) -> None:
    """For a write whose result says nothing."""


class Undo:
    """What instances remembered before a transaction that may be rolled back."""

    def __init__(self) -> None:
        self._before: list[tuple[WorkflowInstance, Memory | None]] = []

    def remember(self, instance: WorkflowInstance, memory: Memory | None) -> None:
        """Let `instance` know `memory`, until `forget`."""
        self._before.append((instance, memory_of(instance)))
        remember(instance, memory)

    def forget(self) -> None:
        """After a rollback: let each instance know again what it knew before."""
        while self._before:
            instance, before = self._before.pop()
            now = memory_of(instance)
            if before is None and now is not None:
                # Loaded or created in the block: what it saw never came to be. It equals no revision; a claim of it is lost.
                lost = None if now.fence is None else -1
                before = replace(now, revision=-1, fence=lost, claims_without_commit=0, stored=None)
            remember(instance, before)


class Operations(ABC):
    """Base of the methods by noun. What is given to `_write` may run more than once, so it changes nothing outside the database; an
    instance learns what became of it through `_remember`, afterwards."""

    _sql: Statements
    _work: Work
    _clock: Clock
    _store: str
    """Names the database, in errors and in what instances remember."""

    @property
    def clock(self) -> Clock:
        """What this store takes for now."""
        return self._clock

    @abstractmethod
    def _write(self, work: Callable[..., T], *args: Any) -> T:
        """Run ``work(session, *args)`` in a transaction: one of its own, or the caller's."""

    def _repeat(self, work: Callable[..., T], *args: Any) -> T:
        """`_write` for what does no harm where it is done twice: a database at the other end of a wire does it again when the connection
        broke before its answer came. The result is that of the last time."""
        return self._write(work, *args)

    def _store_for(
        self,
        _about: WorkflowInstance | None,
        work: Callable[..., T],
        args: tuple[Any, ...],
        done: Callable[[T], None] = ignore,
        duplicate: Callable[[UniqueViolation], WfeError] | None = None,
        *,
        repeatable: bool = False,
    ) -> None:
        """`_write` for a caller who needs no answer: what the call says of itself is all that it returns.

        So a caller's transaction may gather such writes and send them together. `done` gets the result, once it is known.

        Args:
            _about: the workflow that it is about, whose memory is not up to date until `done` was called.
            duplicate: what a value that has to be unique, and is not, means to the caller.
            repeatable: whether it is one for `_repeat`.
        """
        write = self._repeat if repeatable else self._write
        try:
            result = write(work, *args)
        except UniqueViolation as error:
            if duplicate is None:
                raise
            raise duplicate(error) from error
        done(result)

    @abstractmethod
    def _read(self, work: Callable[..., T], *args: Any) -> T:
        """Run ``work(session, *args)``, a single query."""

    @abstractmethod
    def _snapshot(self, work: Callable[..., T], *args: Any) -> T:
        """Run ``work(session, *args)``, several queries, on one snapshot."""

    @abstractmethod
    def _remember(self, instance: WorkflowInstance, memory: Memory | None) -> None:
        """Let `instance` know what the store holds of it; forgotten again where the caller's transaction is rolled back."""

    @abstractmethod
    def _in_block(self) -> bool:
        """Whether a caller's transaction is open in this thread."""

    def _loaded(self, row: Row, *, claimed: bool = False) -> WorkflowInstance:
        """The workflow of a row that was read (and claimed) just now."""
        instance, memory = workflow_from(row, self._store, claimed=claimed)
        self._remember(instance, memory)
        return instance

    def _memory(self, instance: WorkflowInstance) -> Memory | None:
        """What `instance` knows of its row in this store: nothing where it is from another one, or was given another id."""
        memory: Memory | None = instance.__dict__.get("memory")
        if memory is None or memory.store != self._store or memory.raw_head[0] != instance.id:
            return None
        return memory

    def _check_usable(self) -> None:
        """Raise what any call raises where the store is closed or the transaction has ended: for calls that have nothing to do."""
        self._read(_nothing)

    def _looks(self) -> Looks | None:
        """What to ask before an attempt that is mostly in vain; None inside a transaction, whose lock is held anyway."""
        return None if self._in_block() else self._work.looks

    def _bound_now(self) -> int | None:
        """The present moment as a statement takes it: None where the database's own clock decides."""
        return self._now()

    def _now(self) -> int:
        """Now, in microseconds."""
        if self._clock is system_clock:
            return time.time_ns() // 1000  # what comes out below, without its three calls: each persist asks
        return to_micros(checked_moment(self._clock(), "clock"))


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
