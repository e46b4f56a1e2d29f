"""Every method of a store, called once each on a store that holds some of everything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from wfe_fast.checkpoints import ExecutionStatus, StepKind, StepStatus, WorkflowExecution
from wfe_fast.checkpoints.contract import CheckpointStore, CheckpointTransaction
from wfe_fast.testing.checkpoints.factories import (
    WORKFLOW,
    a_checkpoint,
    a_signal,
    a_timer,
    a_workflow,
    an_execution,
    at,
)

S = ExecutionStatus
RUNNABLE = (S.PENDING, S.RUNNING, S.COMPENSATING)


@dataclass
class World:
    """What the calls refer to: an execution that is held, and one that is held and to be given back."""

    held: WorkflowExecution
    second: WorkflowExecution


Call: TypeAlias = Callable[[CheckpointTransaction, World], Any]


def build_world(store: CheckpointStore) -> World:
    """Fill a store that is empty but for its tables."""
    store.save_workflow(a_workflow())
    with store.transaction() as tx:
        for id, status in [
            ("held", S.RUNNING),
            ("second", S.RUNNING),
            ("free", S.RUNNING),
            ("sleeping", S.SUSPENDED),
            ("ended", S.COMPLETED),
        ]:
            tx.save_execution(an_execution(id, status=status, updated_at=at(-100)))
            tx.save_checkpoints([a_checkpoint(index, workflow_execution_id=id) for index in range(3)])
            tx.save_signal(a_signal(workflow_execution_id=id))
        tx.save_timer(a_timer("due", workflow_execution_id="sleeping", fire_at=at(-1)))
        tx.save_timer(a_timer("later", workflow_execution_id="sleeping", fire_at=at(9)))
    held, second = store.claim_executions("worker", S.RUNNING, 2, without=["free"])
    return World(held, second)


def _wait(index: int, **values: Any) -> Any:
    return a_checkpoint(index, workflow_execution_id="held", kind=StepKind.SIGNAL, status=StepStatus.INTENT, **values)


def _row(index: int, **values: Any) -> Any:
    return a_checkpoint(index, workflow_execution_id="held", **values)


WRITES: dict[str, Call] = {
    "save_workflow": lambda s, w: s.save_workflow(a_workflow("new")),
    "save_execution": lambda s, w: s.save_execution(an_execution("new")),
    "save_execution held": lambda s, w: s.save_execution(w.held.copy_with(current_step=1)),
    "delete_execution": lambda s, w: s.delete_execution("free"),
    "delete_completed_before": lambda s, w: s.delete_completed_before(at(0), [S.COMPLETED, S.FAILED]),
    "save_checkpoint": lambda s, w: s.save_checkpoint(_row(3)),
    "save_checkpoint held": lambda s, w: s.save_checkpoint(_row(3), claim=w.held),
    "save_checkpoints": lambda s, w: s.save_checkpoints([_row(index) for index in range(20)]),
    "save_timer": lambda s, w: s.save_timer(a_timer("new", workflow_execution_id="held")),
    "delete_old_timers": lambda s, w: s.delete_old_timers(at(0)),
    "save_signal": lambda s, w: s.save_signal(a_signal(workflow_execution_id="held")),
    "save_signal by id": lambda s, w: s.save_signal(a_signal(workflow_execution_id="held", workflow_signal_id=4711)),
    "delete_old_signals": lambda s, w: s.delete_old_signals(at(0)),
    "claim_executions": lambda s, w: s.claim_executions("other", RUNNABLE, 5),
    "claim_executions of workflows": lambda s, w: s.claim_executions("other", RUNNABLE, 5, workflows=[WORKFLOW, "x"]),
    "renew_claim": lambda s, w: s.renew_claim(w.held),
    "renew_claims": lambda s, w: s.renew_claims([w.held, w.second]),
    "release_claim": lambda s, w: s.release_claim(w.second),
    "start_execution": lambda s, w: s.start_execution(a_workflow("new"), an_execution("new", workflow_id="new")),
    "start_execution that is there": lambda s, w: s.start_execution(a_workflow(), an_execution("held")),
    "advance_execution": lambda s, w: s.advance_execution(w.held.copy_with(current_step=4), [_row(4)]),
    "advance_execution with all": lambda s, w: s.advance_execution(
        w.held.copy_with(current_step=4), [_row(4), _row(5)], timers=[a_timer("new", workflow_execution_id="held")]
    ),
    "advance_execution to its end": lambda s, w: s.advance_execution(
        w.second.copy_with(status=S.COMPLETED, output_data=[1]), release=True
    ),
    "wait_for_signal": lambda s, w: s.wait_for_signal(w.held, _wait(6, step_name="approval"), [_row(5)]),
    "wait_for_signal in vain": lambda s, w: s.wait_for_signal(
        w.held, _wait(7, step_name="none"), timer=a_timer("new", workflow_execution_id="held")
    ),
    "cancel_execution": lambda s, w: s.cancel_execution("free"),
    "cancel_execution and undo": lambda s, w: s.cancel_execution("free", compensate=True),
    "wake_due": lambda s, w: s.wake_due(),
}
READS: dict[str, Call] = {
    "load_workflow": lambda s, w: s.load_workflow(WORKFLOW),
    "load_execution": lambda s, w: s.load_execution("held"),
    "load_executions_by_status": lambda s, w: s.load_executions_by_status([S.COMPENSATING, S.CANCELLED]),
    "execution_status": lambda s, w: s.execution_status("held"),
    "list_executions": lambda s, w: s.list_executions(limit=3),
    "list_executions by status": lambda s, w: s.list_executions(status=S.RUNNING, limit=3),
    "list_executions by workflow": lambda s, w: s.list_executions(workflow_id=WORKFLOW, limit=3),
    "list_executions by both": lambda s, w: s.list_executions(workflow_id=WORKFLOW, status=S.SUSPENDED, limit=3),
    "count_executions": lambda s, w: s.count_executions(),
    "load_checkpoints": lambda s, w: s.load_checkpoints("held"),
    "load_pending_timers": lambda s, w: s.load_pending_timers(),
    "load_due_timers": lambda s, w: s.load_due_timers(at(0)),
    "next_due": lambda s, w: s.next_due(),
    "load_pending_signals": lambda s, w: s.load_pending_signals("held"),
    "load_pending_signals by name": lambda s, w: s.load_pending_signals("held", "approval"),
}
#: Writes whose caller needs no answer: inside a block they wait for the next call that needs one, or for its end.
GATHERED = {
    "save_workflow",
    "save_execution",
    "save_checkpoint",
    "save_checkpoints",
    "save_timer",
    "release_claim",
    "delete_execution",
}
#: Other writes that do no harm when they are done twice.
REPEATED = {
    "renew_claim",
    "renew_claims",
    "wake_due",
    "delete_completed_before",
    "delete_old_timers",
    "delete_old_signals",
}
#: What a store has besides the methods of a transaction.
OUTSIDE = {"migrate", "validate_schema", "transaction", "wait_for_work", "interrupt_waits", "close"}
