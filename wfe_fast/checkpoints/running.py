"""What engines do: start an execution, record its progress, let it wait, wake it, cancel it. Each is one transaction."""

from __future__ import annotations

from collections.abc import Sequence

from wfe_fast.checkpoints.claims import lease_micros
from wfe_fast.checkpoints.models import (
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
from wfe_fast.checkpoints.work import Progress
from wfe_fast.checks import check_bool, check_enum, check_identifier, check_int, check_limit, check_name, check_sequence
from wfe_fast.clock import Duration
from wfe_fast.codec import checked_text
from wfe_fast.errors import InvalidStateError

#: Where a checkpoint's row has its status.
_STATUS = 3


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
        stored, is_new = self._write(self._work.start, kind, row, length)
        claimed = is_new and worker_id is not None
        return self._from.execution(stored, claimed=claimed), is_new

    def advance_execution(
        self,
        execution: WorkflowExecution,
        checkpoints: Sequence[StepCheckpoint] = (),
        *,
        timers: Sequence[WorkflowTimer] = (),
        release: bool = False,
    ) -> ExecutionStatus:
        status = self._write(self._work.advance, _progress(execution, checkpoints, timers, release))
        return self._from.status(status)

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
        status, stored = self._write(self._work.wait_for_signal, progress, row, failure)
        return self._from.status(status), self._from.checkpoint(stored)

    def cancel_execution(self, workflow_execution_id: str, *, compensate: bool = False) -> bool:
        id = check_identifier(workflow_execution_id, "workflow_execution_id")
        return self._write(self._work.cancel, id, check_bool(compensate, "compensate"))

    def wake_due(self, limit: int = 500) -> int:
        check_limit(limit)
        looks = self._looks()
        if looks and not self._snapshot(looks.anything_due):
            return 0
        return self._repeat(self._work.wake_due, limit)


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
        counts=not steps or any(row[_STATUS] != StepStatus.INTENT.value for row in steps),
        checkpoints=[(*row, fence) for row in steps],
        timers=[(*row, fence) for row in waits],
    )
