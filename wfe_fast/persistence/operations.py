"""What every operation stands on. An operation does not know whether it runs alone or inside a caller's transaction."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import Any, TypeVar

from wfe_fast.clock import Clock, checked_moment, system_clock, to_micros
from wfe_fast.database.base import Row, Session, Work
from wfe_fast.persistence.memory import Memory
from wfe_fast.persistence.models import WorkflowInstance
from wfe_fast.persistence.rows import workflow_from
from wfe_fast.persistence.statements import Statements

T = TypeVar("T")


class Operations(ABC):
    """Base of the methods by noun. What is given to `_write` may run more than once, so it changes nothing outside the database; an
    instance learns what became of it through `_remember`, afterwards."""

    _sql: Statements
    _clock: Clock
    _store: str
    """Names the database, in errors and in what instances remember."""

    @property
    def clock(self) -> Clock:
        """What this store takes for now."""
        return self._clock

    @abstractmethod
    def _write(self, work: Work[T], *args: Any) -> T:
        """Run ``work(session, *args)`` in a transaction: one of its own, or the caller's."""

    @abstractmethod
    def _read(self, work: Work[T], *args: Any) -> T:
        """Run ``work(session, *args)``, a single query."""

    @abstractmethod
    def _snapshot(self, work: Work[T], *args: Any) -> T:
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
