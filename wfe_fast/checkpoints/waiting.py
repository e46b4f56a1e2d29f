"""Waiting for work without polling the tables."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterable

from wfe_fast.checkpoints.claims import check_workflows
from wfe_fast.checkpoints.models import ExecutionStatus
from wfe_fast.checkpoints.operations import Operations
from wfe_fast.checks import check_ids
from wfe_fast.clock import Duration, checked_seconds
from wfe_fast.database.base import Session
from wfe_fast.database.changes import ChangeSignal
from wfe_fast.stored import json_list

#: An execution in one of these is run by whoever claims it. (A suspended one is woken first.)
RUNNABLE = (ExecutionStatus.PENDING, ExecutionStatus.RUNNING, ExecutionStatus.COMPENSATING)

_RUNNABLE = json_list(status.value for status in RUNNABLE)


class WaitingMethods(Operations):
    """The waiting method of `contract.CheckpointStore`."""

    @abstractmethod
    def _changes(self) -> ChangeSignal:
        """The signal that moves with every commit."""

    def wait_for_work(self, timeout: Duration, workflows: Iterable[str], without: Iterable[str] = ()) -> bool:
        seconds = checked_seconds(timeout, "timeout")
        known = json_list(check_workflows(workflows))
        left_out = json_list(check_ids(without, "without"))
        self._refuse_in_block()
        changes = self._changes()
        deadline = time.monotonic() + seconds
        while True:
            since = changes.count
            due = self._snapshot(self._do_next_work, known, left_out)
            pause = deadline - time.monotonic()
            if due is not None:
                ahead = (due - self._now()) / 1_000_000
                if ahead <= 0:
                    return True
                pause = min(pause, ahead)
            if pause <= 0:
                return False
            changes.wait(since, pause)

    def _do_next_work(self, session: Session, workflows: str, without: str) -> int | None:
        """The earliest moment at which there is something to claim or to wake, in microseconds."""
        now = self._now()
        if session.one(self._sql.any_claimable, (workflows, _RUNNABLE, now, without)):
            return now
        rows = (
            session.one(self._sql.next_due),
            session.one(self._sql.next_expiry),
            session.one(self._sql.next_lease_end, (workflows, _RUNNABLE, without)),
        )
        return min((row[0] for row in rows if row is not None and row[0] is not None), default=None)
