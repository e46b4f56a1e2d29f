"""What every operation stands on. One implementation serves all tenants, or one: `_tenant` is bound into each statement."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

from wfe_fast.clock import Clock, checked_moment, from_micros, to_micros
from wfe_fast.database.base import Row, Session, Work
from wfe_fast.errors import ExecutionNotFoundError
from wfe_fast.state.checks import check_id
from wfe_fast.state.models import DEFAULT_TENANT
from wfe_fast.state.statements import Statements

T = TypeVar("T")


class Head(NamedTuple):
    """What a write has to know of its execution."""

    execution: int
    tenant_id: str
    status: str
    last_sequence: int
    snapshot_at: int


class Operations(ABC):
    """Base of the methods by noun. What is given to `_write` may run more than once, so it changes nothing outside the database."""

    _sql: Statements
    _clock: Clock
    _store: str
    """Names the database in errors."""
    _tenant: str | None
    """The only tenant whose rows there are for this object; None = all."""
    _snapshot_every: int | None
    _keep_snapshots: int | None

    @property
    def clock(self) -> Clock:
        """What this store takes for now."""
        return self._clock

    @property
    def tenant_id(self) -> str | None:
        """The tenant that this view shows; None = all of them."""
        return self._tenant

    @abstractmethod
    def _write(self, work: Work[T], *args: Any) -> T:
        """Run ``work(session, *args)`` in a transaction."""

    @abstractmethod
    def _read(self, work: Work[T], *args: Any) -> T:
        """Run ``work(session, *args)``, a single query."""

    @abstractmethod
    def _snapshot(self, work: Work[T], *args: Any) -> T:
        """Run ``work(session, *args)``, several queries, on one snapshot."""

    @property
    def _home(self) -> str:
        """Whose rows are written where nothing else says so."""
        return DEFAULT_TENANT if self._tenant is None else self._tenant

    def _now(self) -> int:
        """Now, in microseconds."""
        return to_micros(checked_moment(self._clock(), "clock"))

    def _head(self, session: Session, execution_id: str) -> Head:
        """The execution that a write is about.

        Raises:
            ExecutionNotFoundError: there is none, or none in this scope.
        """
        row = session.one(self._sql.execution_head, (execution_id, self._tenant))
        if row is None:
            raise ExecutionNotFoundError(execution_id)
        return Head(*row)

    def _tenants_in_scope(self, session: Session) -> list[str]:
        """Whose rows a method that works tenant by tenant has to visit."""
        if self._tenant is not None:
            return [self._tenant]
        return [row[0] for row in session.all(self._sql.tenant_ids)]


def execution_id_of(value: object, field: str = "execution_id") -> tuple[str, UUID]:
    """A caller's execution id, checked: as text, and as it was."""
    text = check_id(value, field)
    return text, UUID(text)


def month_of(now: int) -> int:
    """The month of a moment in microseconds: year * 12 + month - 1, in UTC."""
    moment = from_micros(now)
    return moment.year * 12 + moment.month - 1


def run(session: Session, sql: str, params: Row) -> int:
    """An operation of one statement that changes rows: how many."""
    return session.run(sql, params)


def one(session: Session, sql: str, params: Row = ()) -> Row | None:
    """An operation of one statement with at most one row."""
    return session.one(sql, params)


def all_rows(session: Session, sql: str, params: Row = ()) -> list[Row]:
    """An operation of one statement with any number of rows."""
    return session.all(sql, params)
