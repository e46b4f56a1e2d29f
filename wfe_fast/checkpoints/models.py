"""The models of contract B: workflows that are plain functions, and what is recorded of their runs.

All are immutable msgspec structs that take keywords only. `to_json` and `from_json` speak the JSON form of the durable_workflow family:
camelCase keys, times as ISO 8601 in UTC, documents as JSON text. Enum members have the stored texts as names and values.
"""

from __future__ import annotations

from datetime import datetime
from enum import Enum
from typing import Any, ClassVar
from uuid import uuid4

import msgspec
from msgspec import field

from wfe_fast.checkpoints.json_form import JsonForm
from wfe_fast.clock import system_clock
from wfe_fast.paging import Page as Page


def new_id() -> str:
    """A new UUIDv4 as text."""
    return str(uuid4())


class ExecutionStatus(Enum):
    """Where an execution stands."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUSPENDED = "SUSPENDED"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    COMPENSATING = "COMPENSATING"
    CANCELLED = "CANCELLED"


#: An execution in one of these will not run again.
FINAL_STATUSES = frozenset({ExecutionStatus.COMPLETED, ExecutionStatus.FAILED, ExecutionStatus.CANCELLED})


class WorkflowGuarantee(Enum):
    """What the application wants for an execution. It is stored and handed back; nothing here acts on it."""

    FOREGROUND_ONLY = "FOREGROUND_ONLY"
    BEST_EFFORT_BACKGROUND = "BEST_EFFORT_BACKGROUND"


class StepStatus(Enum):
    """How an attempt of a step stands."""

    INTENT = "INTENT"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    COMPENSATED = "COMPENSATED"


class StepKind(Enum):
    """What stands at a position of a workflow."""

    STEP = "STEP"
    SLEEP = "SLEEP"
    SIGNAL = "SIGNAL"


class TimerStatus(Enum):
    """How a timer stands."""

    PENDING = "PENDING"
    FIRED = "FIRED"
    CANCELLED = "CANCELLED"


class SignalStatus(Enum):
    """How a signal stands."""

    PENDING = "PENDING"
    DELIVERED = "DELIVERED"
    EXPIRED = "EXPIRED"


class Workflow(JsonForm, kw_only=True, frozen=True):
    """A kind of workflow."""

    _json_required: ClassVar[frozenset[str]] = frozenset({"created_at"})

    workflow_id: str
    workflow_type: str
    version: int = 1
    created_at: datetime = field(default_factory=system_clock)


class WorkflowExecution(JsonForm, kw_only=True, frozen=True):
    """One run of a workflow.

    `fence` is the number of the claim under which the execution was handed out, None where it was only read; a write that carries it is
    refused once another claim has followed; `taken_over` = the claim before that one had ended by its lease, and `takeovers`
    = how often that has happened in a row without anything being recorded in between. `cancel_requested` = it is being
    undone because somebody has cancelled it.
    """

    _json_required: ClassVar[frozenset[str]] = frozenset(
        {"workflow_execution_id", "status", "created_at", "updated_at"}
    )
    _documents: ClassVar[frozenset[str]] = frozenset({"input_data", "output_data"})
    _not_in_json: ClassVar[frozenset[str]] = frozenset({"cancel_requested", "fence", "taken_over", "takeovers"})

    workflow_execution_id: str = field(default_factory=new_id)
    workflow_id: str
    status: ExecutionStatus = ExecutionStatus.PENDING
    current_step: int = 0
    input_data: Any = None
    output_data: Any = None
    error_message: str | None = None
    ttl_expires_at: datetime | None = None
    guarantee: WorkflowGuarantee = WorkflowGuarantee.FOREGROUND_ONLY
    created_at: datetime = field(default_factory=system_clock)
    updated_at: datetime = field(default_factory=system_clock)
    cancel_requested: bool = False
    fence: int | None = None
    taken_over: bool = False
    takeovers: int = 0


class StepCheckpoint(JsonForm, kw_only=True, frozen=True):
    """What is recorded of one attempt at one position. Attempt 0 is the undoing of the step.

    `id` is given by the store, and ignored where a checkpoint is saved: a position and an attempt have one row. `error_type` names the kind of
    error of a failed attempt; `is_final` = no further attempt follows it.
    """

    _documents: ClassVar[frozenset[str]] = frozenset({"input_data", "output_data"})
    _json_if_set: ClassVar[frozenset[str]] = frozenset({"kind", "error_type", "is_final"})

    id: int | None = None
    workflow_execution_id: str
    step_index: int
    step_name: str
    status: StepStatus
    input_data: Any = None
    output_data: Any = None
    error_message: str | None = None
    attempt: int = 1
    compensate_ref: str | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None
    kind: StepKind = StepKind.STEP
    error_type: str | None = None
    is_final: bool = False


class WorkflowTimer(JsonForm, kw_only=True, frozen=True):
    """Something is to happen at a time."""

    _json_required: ClassVar[frozenset[str]] = frozenset({"workflow_timer_id", "created_at"})

    workflow_timer_id: str = field(default_factory=new_id)
    workflow_execution_id: str
    step_name: str
    fire_at: datetime
    status: TimerStatus = TimerStatus.PENDING
    created_at: datetime = field(default_factory=system_clock)


class WorkflowSignal(JsonForm, kw_only=True, frozen=True):
    """A message to an execution. `workflow_signal_id` is given by the store where it is None."""

    _json_required: ClassVar[frozenset[str]] = frozenset({"created_at"})
    _documents: ClassVar[frozenset[str]] = frozenset({"payload"})

    workflow_signal_id: int | None = None
    workflow_execution_id: str
    signal_name: str
    payload: Any = None
    status: SignalStatus = SignalStatus.PENDING
    created_at: datetime = field(default_factory=system_clock)


class SchemaReport(msgspec.Struct, kw_only=True, frozen=True):
    """What `validate_schema` found: names of what is missing (columns as ``table.column``), and settings that are not as they should be.

    True where nothing is wrong.
    """

    missing_tables: list[str] = field(default_factory=list)
    missing_indexes: list[str] = field(default_factory=list)
    missing_columns: list[str] = field(default_factory=list)
    pragma_issues: dict[str, str] = field(default_factory=dict)

    @property
    def is_valid(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.missing_tables or self.missing_indexes or self.missing_columns or self.pragma_issues)

    def __bool__(self) -> bool:
        return self.is_valid
