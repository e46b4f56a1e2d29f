"""The specification of contract B. What stands here holds on every database.

Common to all methods:

- They block, may be called from any thread, and are **atomic**: all of a call is stored, or nothing.
- Arguments are checked before anything is written. `InvalidValueError` = a wrong kind, a naive datetime, an identifier that is empty,
  padded, too long (256 characters) or has control characters; `SerializationError` = a document that is not JSON. Both name the field.
- `StoreClosedError` after `close()`, `StoreUnavailableError` where the database cannot serve the call now (nothing of it was stored),
  `CorruptionError` where it is damaged.
- Datetimes are aware and come back in UTC, to the microsecond. Durations are seconds (a number) or a timedelta. `input_data`,
  `output_data` and `payload` are any JSON value; None is no value.
- A save is an upsert that keeps the row. Every order is total: ties are broken by the id.
- Writing below an execution that is not there raises `ExecutionNotFoundError`. Where `claim=` names an execution that was claimed, or a saved
  execution carries a fence, the write is refused with `ClaimLostError` once another claim has followed. Without one, nobody's claim is asked for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Protocol, runtime_checkable

from wfe_fast.checkpoints.models import (
    ExecutionStatus,
    Page,
    SchemaReport,
    StepCheckpoint,
    Workflow,
    WorkflowExecution,
    WorkflowSignal,
    WorkflowTimer,
)
from wfe_fast.clock import Clock, Duration


class ExecutionOperations(Protocol):
    """Workflows and their executions."""

    def save_workflow(self, workflow: Workflow) -> None:
        """Store a kind of workflow."""
        ...

    def load_workflow(self, workflow_id: str) -> Workflow | None:
        """The workflow with this id, or None."""
        ...

    def save_execution(self, execution: WorkflowExecution) -> None:
        """Store every field of an execution; the claim on it is left alone. `cancel_requested` is not written.

        Raises:
            WorkflowNotFoundError: its workflow is not there.
            ClaimLostError: it carries a fence, and another claim has followed.
            ExecutionNotFoundError: it carries a fence, and was deleted.
        """
        ...

    def load_execution(self, workflow_execution_id: str) -> WorkflowExecution | None:
        """The execution with this id, or None."""
        ...

    def load_executions_by_status(
        self, statuses: ExecutionStatus | Collection[ExecutionStatus]
    ) -> list[WorkflowExecution]:
        """The executions in any of these statuses, by `created_at` and id."""
        ...

    def execution_status(self, workflow_execution_id: str) -> ExecutionStatus | None:
        """The status alone, or None: what whoever waits for an end asks for."""
        ...

    def list_executions(
        self,
        *,
        status: ExecutionStatus | None = None,
        workflow_id: str | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> Page[WorkflowExecution]:
        """A page of the executions that pass all filters, by `created_at` and id.

        Args:
            status: only these.
            workflow_id: only those of this workflow.
            after: the `next` of the page before.
            limit: how many at most.
        """
        ...

    def count_executions(self, by: str = "status") -> dict[ExecutionStatus, int]:
        """How many executions there are in each status; a status that has none counts 0."""
        ...

    def delete_execution(self, workflow_execution_id: str) -> None:
        """Delete an execution with its checkpoints, timers and signals; nothing where it is not there."""
        ...

    def delete_completed_before(
        self,
        cutoff: datetime,
        statuses: ExecutionStatus | Collection[ExecutionStatus] = ExecutionStatus.COMPLETED,
    ) -> int:
        """Delete the executions in these final statuses whose `updated_at` lies before `cutoff`, with all that belongs to them.

        Returns:
            How many executions that were.

        Raises:
            InvalidValueError: a status is not final.
        """
        ...


class RecordOperations(Protocol):
    """What belongs to an execution: checkpoints, timers, signals."""

    def save_checkpoint(self, checkpoint: StepCheckpoint, *, claim: WorkflowExecution | None = None) -> None:
        """Store a checkpoint in the row of its position and attempt; its `id` is ignored."""
        ...

    def save_checkpoints(
        self, checkpoints: Iterable[StepCheckpoint], *, claim: WorkflowExecution | None = None
    ) -> None:
        """Store several, all or none."""
        ...

    def load_checkpoints(self, workflow_execution_id: str) -> list[StepCheckpoint]:
        """The checkpoints of an execution by `step_index`, `attempt` and `id`."""
        ...

    def save_timer(self, timer: WorkflowTimer, *, claim: WorkflowExecution | None = None) -> None:
        """Store a timer."""
        ...

    def load_pending_timers(self) -> list[WorkflowTimer]:
        """All timers that are PENDING, due or not, by `fire_at` and id."""
        ...

    def load_due_timers(self, now: datetime, limit: int = 100) -> list[WorkflowTimer]:
        """The first `limit` timers that are PENDING with `fire_at` at or before `now`, by `fire_at` and id."""
        ...

    def next_due(self) -> datetime | None:
        """The earliest `fire_at` of a PENDING timer, or None."""
        ...

    def delete_old_timers(self, cutoff: datetime) -> int:
        """Delete FIRED and CANCELLED timers that were created before `cutoff`; how many that were."""
        ...

    def save_signal(self, signal: WorkflowSignal, *, claim: WorkflowExecution | None = None) -> int:
        """Store a signal and return its id, which is a new one where it had none. A PENDING one wakes the execution if it waits for it."""
        ...

    def load_pending_signals(self, workflow_execution_id: str, signal_name: str | None = None) -> list[WorkflowSignal]:
        """The PENDING signals of an execution, or those of one name, by `created_at` and id."""
        ...

    def delete_old_signals(self, cutoff: datetime) -> int:
        """Delete DELIVERED and EXPIRED signals that were created before `cutoff`; how many that were."""
        ...


class ClaimOperations(Protocol):
    """Who works on an execution: leases with fencing numbers."""

    def claim_executions(
        self,
        worker_id: str,
        statuses: ExecutionStatus | Collection[ExecutionStatus],
        limit: int = 1,
        lease: Duration = 30.0,
        *,
        workflows: Iterable[str] | None = None,
        without: Iterable[str] = (),
    ) -> list[WorkflowExecution]:
        """Claim the oldest executions in these statuses that nobody holds, or whose holder's lease has ended.

        Args:
            worker_id: how the claim is signed, for people to read. Who signs alike still holds different claims.
            statuses: one or several.
            limit: how many at most.
            lease: how long the claim holds unless it is renewed.
            workflows: only executions of these workflows (their ids).
            without: ids of executions that are left alone.

        Returns:
            The executions, each with its `fence`.
        """
        ...

    def renew_claim(self, execution: WorkflowExecution, lease: Duration = 30.0) -> None:
        """Let the lease begin anew, also where it had ended and nobody has taken the execution over.

        Raises:
            ClaimLostError: the claim was given back, or another one has followed.
        """
        ...

    def renew_claims(self, executions: Iterable[WorkflowExecution], lease: Duration = 30.0) -> list[WorkflowExecution]:
        """`renew_claim` for several; returns those whose claim is lost."""
        ...

    def release_claim(self, execution: WorkflowExecution) -> None:
        """Give the claim back; nothing where it is lost."""
        ...


class EngineOperations(Protocol):
    """What engines do, each in one transaction."""

    def start_execution(
        self,
        workflow: Workflow,
        execution: WorkflowExecution,
        *,
        worker_id: str | None = None,
        lease: Duration = 30.0,
    ) -> tuple[WorkflowExecution, bool]:
        """Store an execution as RUNNING, with its workflow where that is not there yet; nothing where its id is taken.

        Args:
            workflow: the kind of workflow; one that is stored already stays as it is.
            execution: id, workflow, input, TTL, guarantee and `created_at` count.
            worker_id: claim it at once in this name.
            lease: how long that claim holds.

        Returns:
            The execution as it is stored, and whether it is new.
        """
        ...

    def advance_execution(
        self,
        execution: WorkflowExecution,
        checkpoints: Sequence[StepCheckpoint] = (),
        *,
        timers: Sequence[WorkflowTimer] = (),
        release: bool = False,
    ) -> ExecutionStatus:
        """Store status, position, output and error of a claimed execution together with checkpoints and timers.

        A final status cancels its pending timers, expires its pending signals, and is not left again. An `error_message` of None keeps the stored
        one. Where `cancel_execution` wants the steps undone, COMPENSATING is stored in place of any status but FAILED and CANCELLED, in place
        of these CANCELLED, and the claim is not given back with COMPENSATING.

        Args:
            execution: claimed.
            checkpoints, timers: of this execution.
            release: give the claim back.

        Returns:
            The status that is stored.

        Raises:
            InvalidStateError: the execution was not claimed.
            ClaimLostError: another claim has followed, or the execution has ended.
            ExecutionNotFoundError: it was deleted.
        """
        ...

    def wait_for_signal(
        self,
        execution: WorkflowExecution,
        wait: StepCheckpoint,
        checkpoints: Sequence[StepCheckpoint] = (),
        *,
        timer: WorkflowTimer | None = None,
        timed_out: tuple[str, str] | None = None,
    ) -> tuple[ExecutionStatus, StepCheckpoint]:
        """Take the oldest PENDING signal of the name that `wait` has, or suspend the execution until one comes.

        With a signal: it is DELIVERED, and `wait` stored as COMPLETED with its payload. Without: `wait` is stored as it is (INTENT), the
        execution as SUSPENDED, `timer` too, and the claim is given back. Without, but with `timed_out`: `wait` is stored as FAILED.

        Args:
            execution: claimed; its position counts.
            wait: the checkpoint of the wait. Where its row has an outcome already, nothing more is taken, and that one is returned.
            checkpoints: stored with it.
            timer: wakes the execution where no signal does; it is cancelled with the wait's end.
            timed_out: the wait's time is over: type and message of the error to record.

        Returns:
            The execution's status, and the checkpoint of the wait as it is stored. COMPENSATING: see `advance_execution`; no signal was taken then.

        Raises:
            InvalidStateError, ClaimLostError, ExecutionNotFoundError: as `advance_execution`.
        """
        ...

    def cancel_execution(self, workflow_execution_id: str, *, compensate: bool = False) -> bool:
        """Cancel an execution, whoever works on it.

        Without `compensate` it is CANCELLED at once: its claim is void, its timers are cancelled, its signals expire. With `compensate`, or where
        it is being undone already, it becomes COMPENSATING, and whoever holds or claims it undoes its steps and ends it as CANCELLED.

        Returns:
            False where it has ended already; nothing changes then.

        Raises:
            ExecutionNotFoundError: it is not there.
        """
        ...

    def wake_due(self, limit: int = 500) -> int:
        """Fire the timers that are due, and let the executions that were suspended for them, or whose TTL has passed, be RUNNING.

        Args:
            limit: how many at most.

        Returns:
            How many timers and executions that were.
        """
        ...


class CheckpointTransaction(ExecutionOperations, RecordOperations, ClaimOperations, EngineOperations, Protocol):
    """The methods inside a `transaction()` block: all of them are stored when it ends, or none."""


@runtime_checkable
class CheckpointStore(CheckpointTransaction, Protocol):
    """A store of executions and their checkpoints. Thread-safe."""

    @property
    def clock(self) -> Clock:
        """What this store takes for now."""
        ...

    @property
    def schema_version(self) -> int:
        """The version of the tables; 0 where there are none."""
        ...

    def migrate(self) -> None:
        """Create or upgrade the tables. Idempotent, safe when many processes do it at once.

        Raises:
            SchemaMismatchError: a newer release has been here, or the tables are another's; nothing was changed.
        """
        ...

    def validate_schema(self) -> SchemaReport:
        """What is missing of tables, indexes and columns, and which settings of the connection are not as they should be."""
        ...

    def transaction(self) -> AbstractContextManager[CheckpointTransaction]:
        """A block whose saves are stored together when it ends, and not at all where it raises.

        The thread's other calls of this store belong to the block, too. A value that is refused leaves the block usable. A database at
        the other end of a wire may gather writes whose caller needs no answer, and send them with the next call that does, or at the end: what it
        has to say against one of them is raised then. There a statement that was refused has rolled all back, and the block can only be left.

        Raises:
            InvalidStateError: the thread is in a block already; or a write failed inside, and the block is left normally.
        """
        ...

    def wait_for_work(self, timeout: Duration, workflows: Iterable[str], without: Iterable[str] = ()) -> bool:
        """Block until an execution of these workflows can be claimed or something is due to be woken; False after `timeout`, or after
        `interrupt_waits`.

        Args:
            timeout: how long at most.
            workflows: ids of workflows.
            without: ids of executions that do not count.
        """
        ...

    def interrupt_waits(self) -> None:
        """Let each `wait_for_work` on this object that blocks now return at once: a worker that stops need not wait for its time. Any
        thread may call it; harmless where nobody waits, and after `close`."""
        ...

    def close(self) -> None:
        """Let go of the database. A second call is harmless."""
        ...

    def __enter__(self) -> CheckpointStore: ...

    def __exit__(self, *exc_info: object) -> None: ...
