"""Waiting for work, or for the end of a workflow, without polling the tables."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Collection, Iterable
from datetime import datetime

from wfe_fast.clock import Duration, checked_seconds, from_micros
from wfe_fast.errors import InvalidStateError, WorkflowNotFoundError
from wfe_fast.persistence.models import WorkflowStatus
from wfe_fast.persistence.operations import Operations, one
from wfe_fast.persistence.validation import check_definitions, check_enums, check_name


class WaitingMethods(Operations):
    """The waiting methods of `contract.PersistenceProvider`."""

    @abstractmethod
    def _change_count(self) -> int:
        """A number that moves with every commit of this process, and with those of others that were noticed."""

    @abstractmethod
    def _await_change(self, since: int, seconds: float) -> None:
        """Block until the number is not `since` any more, or for so many seconds; maybe less."""

    def next_due(self, definitions: Iterable[tuple[str, int]] | None = None) -> datetime | None:
        pairs = None if definitions is None else check_definitions(definitions)
        due, _ = self._snapshot(self._work.next_due, pairs)
        return None if due is None else _moment(due)

    def wait_for_work(self, timeout: Duration, definitions: Iterable[tuple[str, int]] | None = None) -> bool:
        seconds = checked_seconds(timeout, "timeout")
        pairs = None if definitions is None else check_definitions(definitions)
        self._refuse_in_block()
        deadline = time.monotonic() + seconds
        while True:
            since = self._change_count()
            due, now = self._snapshot(self._work.next_due, pairs)
            pause = deadline - time.monotonic()
            if due is not None:
                ahead = (due - now) / 1_000_000
                if ahead <= 0:
                    return True
                pause = min(pause, ahead)
            if pause <= 0:
                return False
            self._await_change(since, pause)

    def wait_for_status(
        self, workflow_id: str, statuses: Collection[WorkflowStatus], timeout: Duration
    ) -> WorkflowStatus | None:
        check_name(workflow_id, "workflow_id", empty=True)
        wanted = check_enums(statuses, WorkflowStatus, "statuses")
        seconds = checked_seconds(timeout, "timeout")
        self._refuse_in_block()
        deadline = time.monotonic() + seconds
        while True:
            since = self._change_count()
            row = self._read(one, self._sql.status_of, (workflow_id,))
            if row is None:
                raise WorkflowNotFoundError(workflow_id)
            status = WorkflowStatus(row[0])
            if status in wanted:
                return status
            pause = deadline - time.monotonic()
            if pause <= 0:
                return None
            self._await_change(since, pause)

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
