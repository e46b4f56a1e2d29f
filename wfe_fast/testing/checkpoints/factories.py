"""Models for tests: everything at a default, and what the test is about as a keyword."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from wfe_fast.checkpoints.contract import CheckpointStore
from wfe_fast.checkpoints.models import (
    ExecutionStatus,
    StepCheckpoint,
    StepStatus,
    Workflow,
    WorkflowExecution,
    WorkflowSignal,
    WorkflowTimer,
)
from wfe_fast.testing.clock import START

WORKFLOW = "order"
EXECUTION = "order-1"


def at(seconds: float) -> datetime:
    """So many seconds after the moment at which the tests' clock begins."""
    return START + timedelta(seconds=seconds)


def a_workflow(workflow_id: str = WORKFLOW, **values: Any) -> Workflow:
    """A workflow whose type is its id."""
    return Workflow(**{"workflow_id": workflow_id, "workflow_type": workflow_id, "created_at": START, **values})


def an_execution(id: str = EXECUTION, **values: Any) -> WorkflowExecution:
    """An execution, RUNNING."""
    defaults = {
        "workflow_id": WORKFLOW,
        "status": ExecutionStatus.RUNNING,
        "created_at": START,
        "updated_at": START,
    }
    return WorkflowExecution(**{"workflow_execution_id": id, **defaults, **values})


def a_checkpoint(index: int = 0, **values: Any) -> StepCheckpoint:
    """A checkpoint, COMPLETED, of the execution of `an_execution`."""
    defaults = {
        "workflow_execution_id": EXECUTION,
        "step_name": f"step-{index}",
        "status": StepStatus.COMPLETED,
    }
    return StepCheckpoint(**{"step_index": index, **defaults, **values})


def a_timer(id: str = "timer-1", **values: Any) -> WorkflowTimer:
    """A timer, PENDING, due a minute ago."""
    defaults = {
        "workflow_execution_id": EXECUTION,
        "step_name": "pause",
        "fire_at": at(-60),
        "created_at": START,
    }
    return WorkflowTimer(**{"workflow_timer_id": id, **defaults, **values})


def a_signal(name: str = "approval", **values: Any) -> WorkflowSignal:
    """A signal, PENDING."""
    defaults = {
        "workflow_execution_id": EXECUTION,
        "payload": {"data": "test"},
        "created_at": START,
    }
    return WorkflowSignal(**{"signal_name": name, **defaults, **values})


def saved(store: CheckpointStore, execution: WorkflowExecution) -> WorkflowExecution:
    """The execution, stored."""
    store.save_execution(execution)
    return execution


def claimed(store: CheckpointStore, id: str = EXECUTION, **values: Any) -> WorkflowExecution:
    """A new execution that was stored and is claimed."""
    status = saved(store, an_execution(id, **values)).status
    (execution,) = (item for item in store.claim_executions("worker", status, 9) if item.workflow_execution_id == id)
    return execution


def ids(executions: list[WorkflowExecution]) -> list[str]:
    """Their ids, in order."""
    return [execution.workflow_execution_id for execution in executions]
