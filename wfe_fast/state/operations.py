"""What every operation stands on. One implementation serves all tenants, or one: `_tenant` is bound into each statement."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, TypeVar
from uuid import UUID

from wfe_fast.clock import Clock, checked_moment, to_micros
from wfe_fast.database.base import Row, Session
from wfe_fast.database.base import Work as Operation
from wfe_fast.state.checks import check_id
from wfe_fast.state.models import DEFAULT_TENANT
from wfe_fast.state.statements import Statements
from wfe_fast.state.work import Work

T = TypeVar("T")


class Operations(ABC):
    """Base of the methods by noun. What is given to `_write` may run more than once, so it changes nothing outside the database."""

    _sql: Statements
    _work: Work
    _clock: Clock
    _store: str
    """Names the database in errors."""
    _tenant: str | None
    """The only tenant whose rows there are for this object; None = all."""

    @property
    def clock(self) -> Clock:
        """What this store takes for now."""
        return self._clock

    @property
    def tenant_id(self) -> str | None:
        """The tenant that this view shows; None = all of them."""
        return self._tenant

    @abstractmethod
    def _write(self, work: Operation[T], *args: Any) -> T:
        """Run ``work(session, *args)`` in a transaction."""

    @abstractmethod
    def _read(self, work: Operation[T], *args: Any) -> T:
        """Run ``work(session, *args)``, a single query."""

    @abstractmethod
    def _snapshot(self, work: Operation[T], *args: Any) -> T:
        """Run ``work(session, *args)``, several queries, on one snapshot."""

    def _repeat(self, work: Operation[T], *args: Any) -> T:
        """`_write` for what may be done twice without harm: a connection that breaks in the middle is no problem then."""
        return self._write(work, *args)

    def _read_anywhere(self, work: Operation[T], *args: Any) -> T:
        """`_read` of what is the same from every view."""
        return self._read(work, *args)

    @property
    def _home(self) -> str:
        """Whose rows are written where nothing else says so."""
        return DEFAULT_TENANT if self._tenant is None else self._tenant

    def _now(self) -> int:
        """Now, in microseconds."""
        return to_micros(checked_moment(self._clock(), "clock"))

    def _bound_now(self) -> int | None:
        """The present moment as a statement takes it: None where the database's own clock decides."""
        return self._now()


def execution_id_of(value: object, field: str = "execution_id") -> tuple[str, UUID]:
    """A caller's execution id, checked: as text, and as it was."""
    text = check_id(value, field)
    return text, UUID(text)


def run(session: Session, sql: str, params: Row) -> int:
    """An operation of one statement that changes rows: how many."""
    return session.run(sql, params)


def one(session: Session, sql: str, params: Row = ()) -> Row | None:
    """An operation of one statement with at most one row."""
    return session.one(sql, params)


def all_rows(session: Session, sql: str, params: Row = ()) -> list[Row]:
    """An operation of one statement with any number of rows."""
    return session.all(sql, params)
