"""Contract B: executions of workflows that are plain functions, and the checkpoints by which they go on after a crash.

`contract` is the specification, `models` what is stored. A store is opened by the façade of its database, `wfe_fast.sqlite` or
`wfe_fast.postgres`; it serves `wfe_fast.durable`, and any engine of one's own.
"""

from wfe_fast.checkpoints.contract import CheckpointStore, CheckpointTransaction
from wfe_fast.checkpoints.models import (
    FINAL_STATUSES,
    ExecutionStatus,
    Page,
    SchemaReport,
    SignalStatus,
    StepCheckpoint,
    StepKind,
    StepStatus,
    TimerStatus,
    Workflow,
    WorkflowExecution,
    WorkflowGuarantee,
    WorkflowSignal,
    WorkflowTimer,
)

__all__ = [
    "FINAL_STATUSES",
    "CheckpointStore",
    "CheckpointTransaction",
    "ExecutionStatus",
    "Page",
    "SchemaReport",
    "SignalStatus",
    "StepCheckpoint",
    "StepKind",
    "StepStatus",
    "TimerStatus",
    "Workflow",
    "WorkflowExecution",
    "WorkflowGuarantee",
    "WorkflowSignal",
    "WorkflowTimer",
]
