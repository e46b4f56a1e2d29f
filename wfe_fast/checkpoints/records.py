"""What belongs to an execution: checkpoints, timers, signals."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from wfe_fast.checkpoints.models import SignalStatus, StepCheckpoint, WorkflowExecution, WorkflowSignal, WorkflowTimer
from wfe_fast.checkpoints.operations import Operations, all_rows, one, run
from wfe_fast.checkpoints.rows import checkpoint_row, fence_of, signal_row, timer_row
from wfe_fast.checks import check_identifier, check_limit, check_sequence
from wfe_fast.clock import from_micros
from wfe_fast.database.base import Row
from wfe_fast.errors import InvalidValueError
from wfe_fast.stored import micros


class RecordMethods(Operations):
    """See `contract.RecordOperations`."""

    # -- checkpoints -----------------------------------------------------------------------------------------------------------------

    def save_checkpoint(self, checkpoint: StepCheckpoint, *, claim: WorkflowExecution | None = None) -> None:
        row = checkpoint_row(checkpoint)
        self._store(self._work.save_checkpoints, [(*row, _fence(claim, row[0]))])

    def save_checkpoints(
        self, checkpoints: Iterable[StepCheckpoint], *, claim: WorkflowExecution | None = None
    ) -> None:
        checked = check_sequence(checkpoints, StepCheckpoint, "checkpoints")
        rows = [checkpoint_row(item, f"checkpoints[{index}]") for index, item in enumerate(checked)]
        if rows:
            self._store(self._work.save_checkpoints, [(*row, _fence(claim, row[0])) for row in rows])
        else:
            self._check_usable()

    def load_checkpoints(self, workflow_execution_id: str) -> list[StepCheckpoint]:
        params = (check_identifier(workflow_execution_id, "workflow_execution_id"),)
        return [self._from.checkpoint(row) for row in self._read(all_rows, self._sql.load_checkpoints, params)]

    # -- timers ----------------------------------------------------------------------------------------------------------------------

    def save_timer(self, timer: WorkflowTimer, *, claim: WorkflowExecution | None = None) -> None:
        row = timer_row(timer)
        self._store(self._work.save_timer, (*row, _fence(claim, row[1])))

    def load_pending_timers(self) -> list[WorkflowTimer]:
        return [self._from.timer(row) for row in self._read(all_rows, self._sql.load_pending_timers)]

    def load_due_timers(self, now: datetime, limit: int = 100) -> list[WorkflowTimer]:
        params = (micros(now, "now"), check_limit(limit))
        return [self._from.timer(row) for row in self._read(all_rows, self._sql.load_due_timers, params)]

    def next_due(self) -> datetime | None:
        row = self._read(one, self._sql.next_due)
        return None if row is None else from_micros(row[0])

    def delete_old_timers(self, cutoff: datetime) -> int:
        return self._repeat(run, self._sql.delete_old_timers, (micros(cutoff, "cutoff"),))

    # -- signals ---------------------------------------------------------------------------------------------------------------------

    def save_signal(self, signal: WorkflowSignal, *, claim: WorkflowExecution | None = None) -> int:
        id, row = signal_row(signal)
        wakes = signal.status is SignalStatus.PENDING
        return self._write(self._work.save_signal, id, (*row, _fence(claim, row[0])), wakes)

    def load_pending_signals(self, workflow_execution_id: str, signal_name: str | None = None) -> list[WorkflowSignal]:
        params: Row = (check_identifier(workflow_execution_id, "workflow_execution_id"),)
        sql = self._sql.load_pending_signals
        if signal_name is not None:
            params = (*params, check_identifier(signal_name, "signal_name"))
            sql = self._sql.load_pending_signals_named
        return [self._from.signal(row) for row in self._read(all_rows, sql, params)]

    def delete_old_signals(self, cutoff: datetime) -> int:
        return self._repeat(run, self._sql.delete_old_signals, (micros(cutoff, "cutoff"),))


def _fence(claim: WorkflowExecution | None, execution_id: str) -> int | None:
    """The number of the claim under which something of an execution is written; None = whoever holds it.

    Raises:
        InvalidValueError: it is a claim of another execution, or none.
    """
    if claim is None:
        return None
    id, fence = fence_of(claim, "claim")
    if id != execution_id:
        raise InvalidValueError("claim", f"is of another execution than {execution_id!r}", id)
    if fence is None:
        raise InvalidValueError("claim", "was not claimed", id)
    return fence
