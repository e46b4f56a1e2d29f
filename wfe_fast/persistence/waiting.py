"""Waiting for work, or for the end of a workflow, without polling the tables."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Collection, Iterable
from datetime import datetime

from wfe_fast.clock import Duration, checked_seconds, from_micros
from wfe_fast.database.base import Row, Session
from wfe_fast.database.changes import ChangeSignal
from wfe_fast.errors import InvalidStateError, WorkflowNotFoundError
from wfe_fast.persistence.models import WorkflowStatus
from wfe_fast.persistence.operations import Operations, one
from wfe_fast.persistence.validation import check_definitions, check_enums, check_name

#: Rows of the queue that are looked at first: more than there are claims, as a rule.
_FIRST_LOOK = 64


class WaitingMethods(Operations):
    """The waiting methods of `contract.PersistenceProvider`."""

    @abstractmethod
    def _changes(self) -> ChangeSignal:
        """The signal that moves with every commit."""

    def next_due(self, definitions: Iterable[tuple[str, int]] | None = None) -> datetime | None:
        pairs = None if definitions is None else check_definitions(definitions)
        due = self._snapshot(self._next_due, pairs)
        return None if due is None else _moment(due)

    def _next_due(self, session: Session, pairs: list[tuple[str, int]] | None) -> int | None:
        """The earliest moment at which there is something to do, in microseconds."""
        event = session.one(self._sql.next_due_event)
        moments = [event[0] if event else None, _earliest(session, self._sql.next_due_commands, ())]
        if pairs is None:
            moments.append(_earliest(session, self._sql.next_due_workflows, ()))
        else:
            moments.extend(_earliest(session, self._sql.next_due_workflows_of, pair) for pair in pairs)
        return min((moment for moment in moments if moment is not None), default=None)

    def wait_for_work(self, timeout: Duration, definitions: Iterable[tuple[str, int]] | None = None) -> bool:
        seconds = checked_seconds(timeout, "timeout")
        pairs = None if definitions is None else check_definitions(definitions)
        self._refuse_in_block()
        changes = self._changes()
        deadline = time.monotonic() + seconds
        while True:
            since = changes.count
            due = self._snapshot(self._next_due, pairs)
            pause = deadline - time.monotonic()
            if due is not None:
                ahead = (due - self._now()) / 1_000_000
                if ahead <= 0:
                    return True
                pause = min(pause, ahead)
            if pause <= 0:
                return False
            changes.wait(since, pause)

    def wait_for_status(
        self, workflow_id: str, statuses: Collection[WorkflowStatus], timeout: Duration
    ) -> WorkflowStatus | None:
        check_name(workflow_id, "workflow_id", empty=True)
        wanted = check_enums(statuses, WorkflowStatus, "statuses")
        seconds = checked_seconds(timeout, "timeout")
        self._refuse_in_block()
        changes = self._changes()
        deadline = time.monotonic() + seconds
        while True:
            since = changes.count
            row = self._read(one, self._sql.status_of, (workflow_id,))
            if row is None:
                raise WorkflowNotFoundError(workflow_id)
            status = WorkflowStatus(row[0])
            if status in wanted:
                return status
            pause = deadline - time.monotonic()
            if pause <= 0:
                return None
            changes.wait(since, pause)

    def _refuse_in_block(self) -> None:
        if self._in_block():
            raise InvalidStateError("waiting inside a transaction block would hold up every writer")


def _earliest(session: Session, sql: str, params: Row) -> int | None:
    """The earliest moment, in microseconds, among rows (milliseconds when due, microseconds when the lease on it ends or None).

    The rows come in the order of when they are due. The first free one ends the search: whatever follows is due later. Those before it
    are leased.
    """
    limit = _FIRST_LOOK
    while True:
        rows = session.all(sql, (*params, limit))
        earliest: int | None = None
        for due, leased_until in rows:
            moment: int = due * 1000 if leased_until is None else max(due * 1000, leased_until)
            earliest = moment if earliest is None else min(earliest, moment)
            if leased_until is None:
                return earliest
        if len(rows) < limit:
            return earliest
        limit *= 8


def _moment(micros: int) -> datetime:
    """As a datetime, cut to what one can hold: next_execution may lie far outside."""
    try:
        return from_micros(micros)
    except OverflowError:
        return from_micros(_LAST if micros > 0 else _FIRST)


_LAST = 253_402_300_799_999_999
_FIRST = -62_135_596_800_000_000
