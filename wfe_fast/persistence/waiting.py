"""Waiting for work, or for the end of a workflow, without polling the tables."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterable
from datetime import datetime
from functools import partial

from wfe_fast.clock import Duration, checked_seconds, from_micros
from wfe_fast.database.waiting import Waitable, wait_for, wait_until_due
from wfe_fast.errors import InvalidStateError, WorkflowNotFoundError
from wfe_fast.persistence.models import WorkflowStatus
from wfe_fast.persistence.operations import Operations, one
from wfe_fast.persistence.validation import check_definitions, check_enums, check_name


class WaitingMethods(Operations):
    """The waiting methods of `contract.PersistenceProvider`."""

    @abstractmethod
    def _waitable(self) -> Waitable:
        """The database, to wait for its changes."""

    def next_due(self, definitions: Iterable[tuple[str, int]] | None = None) -> datetime | None:
        pairs = None if definitions is None else check_definitions(definitions)
        due, _ = self._snapshot(self._work.next_due, pairs)
        return None if due is None else _moment(due)

    def wait_for_work(self, timeout: Duration, definitions: Iterable[tuple[str, int]] | None = None) -> bool:
        seconds = checked_seconds(timeout, "timeout")
        pairs = None if definitions is None else check_definitions(definitions)
        self._refuse_in_block()
        return wait_until_due(self._waitable(), partial(self._snapshot, self._work.next_due, pairs), seconds)

    def interrupt_waits(self) -> None:
        self._waitable().changes.interrupt()

    def wait_for_status(
        self, workflow_id: str, statuses: Collection[WorkflowStatus], timeout: Duration
    ) -> WorkflowStatus | None:
        check_name(workflow_id, "workflow_id", empty=True)
        wanted = check_enums(statuses, WorkflowStatus, "statuses")
        seconds = checked_seconds(timeout, "timeout")
        self._refuse_in_block()

        def look() -> tuple[WorkflowStatus | None, None]:
            row = self._read(one, self._sql.status_of, (workflow_id,))
            if row is None:
                raise WorkflowNotFoundError(workflow_id)
            status = WorkflowStatus(row[0])
            return (status if status in wanted else None), None

        return wait_for(self._waitable(), look, seconds, interruptible=False)

    def _refuse_in_block(self) -> None:
        if self._in_block():
            raise InvalidStateError("waiting inside a transaction block would hold up every writer")


def _moment(micros: int) -> datetime:
    """As a datetime, cut to what one can hold: next_execution may lie far outside."""
    try:
        return from_micros(micros)
    except OverflowError:
        return from_micros(_LAST if micros > 0 else _FIRST)


_LAST = 253_402_300_799_999_999
_FIRST = -62_135_596_800_000_000
