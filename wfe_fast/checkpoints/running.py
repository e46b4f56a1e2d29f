"""What engines do: start an execution, record its progress, let it wait, wake it, cancel it. Each is one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wfe_fast.checkpoints.claims import lease_micros
from wfe_fast.checkpoints.models import (
    FINAL_STATUSES,
    ExecutionStatus,
    StepCheckpoint,
    StepStatus,
    Workflow,
    WorkflowExecution,
    WorkflowTimer,
)
from wfe_fast.checkpoints.operations import Operations
from wfe_fast.checkpoints.rows import (
    checkpoint_row,
    document,
    execution_row,
    fence_of,
    timer_row,
    workflow_row,
)
from wfe_fast.checks import check_bool, check_enum, check_identifier, check_int, check_limit, check_name, check_sequence
from wfe_fast.clock import Duration
from wfe_fast.codec import checked_text
from wfe_fast.database.base import Row, Session
from wfe_fast.errors import ExecutionNotFoundError, InvalidStateError
from wfe_fast.stored import json_list

_RUNNING = ExecutionStatus.RUNNING.value
_FINAL = frozenset(status.value for status in FINAL_STATUSES)

#: Where a checkpoint's row has what a wait changes.
_STATUS, _OUTPUT, _MESSAGE, _ENDED, _TYPE, _IS_FINAL = 3, 5, 6, 10, 12, 13


@dataclass(slots=True)
class Progress:
    """What `advance_execution` stores, checked and encoded. The rows of checkpoints and timers end with the fence."""

    execution_id: str
    fence: int
    status: str
    current_step: int
    output: str | None
    error: str | None
    release: bool
    checkpoints: list[Row]
    timers: list[Row]

    def row(self, status: str, now: int, waiting_for: str | None, *, release: bool) -> Row:
        """The parameters of the statement `advance`."""
        return (
            *(self.execution_id, self.fence, status, self.current_step, self.output, self.error),
            *(now, waiting_for, release),
        )


class RunningMethods(Operations):
    """See `contract.EngineOperations`."""

    def start_execution(
        self,
        workflow: Workflow,
        execution: WorkflowExecution,
        *,
        worker_id: str | None = None,
        lease: Duration = 30.0,
    ) -> tuple[WorkflowExecution, bool]:
        kind = workflow_row(workflow)
        id, workflow_id, _, _, input, _, _, ttl, guarantee, created, _ = execution_row(execution)
        length = lease_micros(lease)
        if worker_id is not None:
            check_name(worker_id, "worker_id")
        row = (id, workflow_id, input, ttl, guarantee, created, worker_id)
        stored, is_new = self._write(self._do_start_execution, kind, row, length)
        claimed = is_new and worker_id is not None
        return self._from.execution(stored, claimed=claimed), is_new

    def _do_start_execution(self, session: Session, workflow: Row, row: Row, length: int) -> tuple[Row, bool]:
        """The execution's columns, and whether it was created just now."""
        session.run(self._sql.add_workflow, workflow)
        until = None if row[-1] is None else self._now() + length
        is_new = session.run(self._sql.start_execution, (*row, until)) == 1
        stored = session.one(self._sql.load_execution, row[:1])
        assert stored is not None  # it was there, or was inserted, in this transaction
        return stored, is_new

    def advance_execution(
        self,
        execution: WorkflowExecution,
        checkpoints: Sequence[StepCheckpoint] = (),
        *,
        timers: Sequence[WorkflowTimer] = (),
        release: bool = False,
    ) -> ExecutionStatus:
        status = self._write(self._do_advance_execution, _progress(execution, checkpoints, timers, release))
        return self._from.status(status)

    def _do_advance_execution(self, session: Session, progress: Progress) -> str:
        """The status that the execution has afterwards. Raises ExecutionNotFoundError, ClaimLostError."""
        status = self._move(session, progress, progress.status, None, release=progress.release)
        for row in progress.timers:
            session.run(self._sql.save_timer, row)
        if status in _FINAL:
            self._settle(session, progress.execution_id)
        return status

    def _move(
        self, session: Session, progress: Progress, status: str, waiting_for: str | None, *, release: bool
    ) -> str:
        """Change the execution under its claim and store the checkpoints; the status that it has then."""
        now = self._now()
        goes_on = status == _RUNNING and progress.output is None and progress.error is None and not release
        params = (progress.execution_id, progress.fence, progress.current_step, now)
        if not goes_on or not session.run(self._sql.advance_step, params):
            status = self._change(session, progress, progress.row(status, now, waiting_for, release=release))
        for checkpoint in progress.checkpoints:
            session.run(self._sql.save_checkpoint, checkpoint)
        return status

    def _change(self, session: Session, progress: Progress, row: Row) -> str:
        """Change the execution under its claim; the status that it has then."""
        if not session.run(self._sql.advance, row):
            raise self._refusal(session, progress.execution_id)
        state = session.one(self._sql.execution_state, (progress.execution_id,))
        assert state is not None  # it was changed just now
        return str(state[0])

    def _settle(self, session: Session, execution_id: str) -> None:
        """An execution has ended: nothing of it is waited for any more."""
        session.run(self._sql.cancel_timers, (execution_id,))
        session.run(self._sql.expire_signals, (execution_id,))

    def wait_for_signal(
        self,
        execution: WorkflowExecution,
        wait: StepCheckpoint,
        checkpoints: Sequence[StepCheckpoint] = (),
        *,
        timer: WorkflowTimer | None = None,
        timed_out: tuple[str, str] | None = None,
    ) -> tuple[ExecutionStatus, StepCheckpoint]:
        progress = _progress(execution, checkpoints, [] if timer is None else [timer], release=True)
        row = (*checkpoint_row(wait, "wait"), progress.fence)
        failure = None
        if timed_out is not None:
            failure = (checked_text(timed_out[0], "timed_out[0]"), checked_text(timed_out[1], "timed_out[1]"))
        status, stored = self._write(self._do_wait_for_signal, progress, row, failure)
        return self._from.status(status), self._from.checkpoint(stored)

    def _do_wait_for_signal(
        self, session: Session, progress: Progress, wait: Row, timed_out: tuple[str, str] | None
    ) -> tuple[str, Row]:
        """The execution's status and the wait's checkpoint afterwards. Raises ExecutionNotFoundError, ClaimLostError."""
        id, index, name, attempt = wait[0], wait[1], wait[2], wait[7]
        before = session.one(self._sql.checkpoint_at, (id, index, attempt))
        if before is not None and before[4] != StepStatus.INTENT.value:
            return self._move(session, progress, ExecutionStatus.RUNNING.value, None, release=False), before
        signal = session.one(self._sql.oldest_signal, (id, name))
        row = list(wait)
        if signal is None and timed_out is None:
            status = self._move(session, progress, ExecutionStatus.SUSPENDED.value, name, release=True)
            for timer in progress.timers:
                session.run(self._sql.save_timer, timer)
        else:
            status = self._move(session, progress, ExecutionStatus.RUNNING.value, None, release=False)
            if status != ExecutionStatus.COMPENSATING.value:
                self._end_wait(session, row, signal, timed_out, progress.timers)
        session.run(self._sql.save_checkpoint, row)
        stored = session.one(self._sql.checkpoint_at, (id, index, attempt))
        assert stored is not None  # it was stored just now
        return status, stored

    def _end_wait(
        self,
        session: Session,
        row: list[object],
        signal: Row | None,
        timed_out: tuple[str, str] | None,
        timers: list[Row],
    ) -> None:
        """Let the wait's row have its outcome: the signal, or that it did not come in time."""
        row[_ENDED] = self._now()
        if signal is not None:
            row[_STATUS], row[_OUTPUT] = StepStatus.COMPLETED.value, signal[1]
            session.run(self._sql.deliver_signal, signal[:1])
        elif timed_out is not None:
            row[_STATUS], row[_IS_FINAL] = StepStatus.FAILED.value, 1
            row[_TYPE], row[_MESSAGE] = timed_out
        for timer in timers:
            session.run(self._sql.cancel_timer, timer[:1])

    def cancel_execution(self, workflow_execution_id: str, *, compensate: bool = False) -> bool:
        id = check_identifier(workflow_execution_id, "workflow_execution_id")
        return self._write(self._do_cancel_execution, id, check_bool(compensate, "compensate"))

    def _do_cancel_execution(self, session: Session, execution_id: str, compensate: bool) -> bool:
        """Whether something was changed. Raises ExecutionNotFoundError."""
        now = self._now()
        if not compensate and session.run(self._sql.cancel_execution, (execution_id, now)):
            self._settle(session, execution_id)
            return True
        if session.run(self._sql.cancel_and_compensate, (execution_id, now)):
            return True
        if session.one(self._sql.execution_state, (execution_id,)) is None:
            raise ExecutionNotFoundError(execution_id)
        return False

    def wake_due(self, limit: int = 500) -> int:
        check_limit(limit)
        if not self._in_block() and not self._snapshot(self._do_anything_due):
            return 0
        return self._write(self._do_wake_due, limit)

    def _do_anything_due(self, session: Session) -> bool:
        """Whether a timer or the time of an execution has run out."""
        now = self._now()
        rows = (session.one(self._sql.next_due), session.one(self._sql.next_expiry))
        return any(row is not None and row[0] <= now for row in rows)

    def _do_wake_due(self, session: Session, limit: int) -> int:
        """Fire what is due; how many timers and executions that were."""
        now = self._now()
        timers = session.all(self._sql.load_due_timers, (now, limit))
        expired = session.all(self._sql.expired_executions, (now, limit))
        if timers:
            session.run(self._sql.fire_timers, (json_list(timer[0] for timer in timers),))
        ids = [*(timer[1] for timer in timers), *(row[0] for row in expired)]
        if ids:
            session.run(self._sql.wake_executions, (json_list(dict.fromkeys(ids)), now))
        return len(ids)


def _progress(
    execution: WorkflowExecution, checkpoints: Sequence[StepCheckpoint], timers: Sequence[WorkflowTimer], release: bool
) -> Progress:
    """Check and encode.

    Raises:
        InvalidStateError: the execution was not claimed.
        InvalidValueError: a field is of a wrong kind, or a checkpoint or timer belongs to another execution.
        SerializationError: a document is not JSON.
    """
    id, fence = fence_of(execution)
    if fence is None:
        raise InvalidStateError(f"execution {id!r} was not claimed")
    steps = [checkpoint_row(item, "checkpoint") for item in check_sequence(checkpoints, StepCheckpoint, "checkpoints")]
    waits = [timer_row(item, "timer") for item in check_sequence(timers, WorkflowTimer, "timers")]
    for other in {*(row[0] for row in steps), *(row[1] for row in waits)} - {id}:
        raise InvalidStateError(f"execution {id!r} cannot record something of {other!r}")
    error = execution.error_message
    return Progress(
        execution_id=id,
        fence=fence,
        status=check_enum(execution.status, ExecutionStatus, "status").value,
        current_step=check_int(execution.current_step, "current_step"),
        output=document(execution.output_data, "output_data"),
        error=None if error is None else checked_text(error, "error_message"),
        release=check_bool(release, "release"),
        checkpoints=[(*row, fence) for row in steps],
        timers=[(*row, fence) for row in waits],
    )
