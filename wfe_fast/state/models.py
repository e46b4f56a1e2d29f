"""The models of contract C: executions, their events and snapshots, work items, tenants, tokens.

All are msgspec structs that take keywords only. Enum members are upper case. Structs are compared by value.
"""

from __future__ import annotations

from datetime import datetime
from enum import Enum
from typing import Any, TypeAlias, TypeVar
from uuid import UUID, uuid4

import msgspec
from msgspec import field

from wfe_fast.clock import system_clock
from wfe_fast.state.events import AnyEventKind

T = TypeVar("T")

DEFAULT_TENANT = "default"


class TenantId(str):
    """The name of a tenant. It is equal to its text."""

    __slots__ = ()


class WorkflowStatus(Enum):
    """Where an execution stands. The last four are final."""

    PENDING = "pending"
    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LIMIT_EXCEEDED = "limit_exceeded"


#: Which status leads to which. Nothing leads out of a final one.
TRANSITIONS: dict[WorkflowStatus, frozenset[WorkflowStatus]] = {
    WorkflowStatus.PENDING: frozenset({WorkflowStatus.RUNNING, WorkflowStatus.CANCELLED}),
    WorkflowStatus.RUNNING: frozenset(
        {
            WorkflowStatus.PAUSED,
            WorkflowStatus.COMPLETED,
            WorkflowStatus.FAILED,
            WorkflowStatus.CANCELLED,
            WorkflowStatus.LIMIT_EXCEEDED,
        }
    ),
    WorkflowStatus.PAUSED: frozenset({WorkflowStatus.RUNNING, WorkflowStatus.CANCELLED}),
}
ACTIVE_STATUSES = frozenset(TRANSITIONS)
TERMINAL_STATUSES = frozenset(WorkflowStatus) - ACTIVE_STATUSES


class SessionType(str, Enum):
    """How an execution is meant to be used. A label; each member is equal to its text."""

    STATELESS = "stateless"
    RESUMABLE = "resumable"
    PERSISTENT_GOVERNED = "persistent_governed"
    EPHEMERAL = "ephemeral"
    APPROVAL_GATED = "approval_gated"


class QueueType(str, Enum):
    """The usual queues; any other name does as well. Each member is equal to its text."""

    MODEL = "model"
    TOOL = "tool"
    PYTHON_TOOL = "python_tool"
    JAVA_TOOL = "java_tool"
    RETRIEVAL = "retrieval"
    PRIVILEGED = "privileged"
    GENERAL = "general"


class WorkflowDefinition(msgspec.Struct, kw_only=True):
    """A workflow's program, as data. `tenant_id` counts where an unscoped backend stores it."""

    workflow_id: str
    version: str
    ir: Any
    created_at: datetime = field(default_factory=system_clock)
    tenant_id: str = DEFAULT_TENANT


class WorkflowExecution(msgspec.Struct, kw_only=True):
    """One run of a workflow. `parent_execution_id` and `segment_number` link the runs that continue one another."""

    execution_id: UUID = field(default_factory=uuid4)
    workflow_id: str
    workflow_version: str
    status: WorkflowStatus = WorkflowStatus.PENDING
    initial_input: Any = field(default_factory=dict)
    current_state: Any = field(default_factory=dict)
    started_at: datetime = field(default_factory=system_clock)
    updated_at: datetime = field(default_factory=system_clock)
    completed_at: datetime | None = None
    session_type: str | None = None
    parent_execution_id: UUID | None = None
    segment_number: int = 0


class Event(msgspec.Struct, kw_only=True):
    """Something that happened to an execution. `sequence` is given by the store; what the caller writes there does not count."""

    id: UUID = field(default_factory=uuid4)
    execution_id: UUID
    sequence: int = 0
    kind: AnyEventKind
    created_at: datetime = field(default_factory=system_clock)


class Snapshot(msgspec.Struct, kw_only=True):
    """What the events up to `at_sequence` have made of an execution. `last_sequence` is `at_sequence` where it is left out."""

    id: UUID = field(default_factory=uuid4)
    execution_id: UUID
    at_sequence: int
    state: Any
    status: WorkflowStatus = WorkflowStatus.PENDING
    completed_nodes: dict[str, Any] = field(default_factory=dict)
    active_nodes: set[str] = field(default_factory=set)
    last_sequence: int = -1
    created_at: datetime = field(default_factory=system_clock)

    def __post_init__(self) -> None:
        if self.last_sequence == -1:
            self.last_sequence = self.at_sequence


class MaterializedState(msgspec.Struct, kw_only=True):
    """What its events have made of an execution."""

    current_state: Any
    status: WorkflowStatus = WorkflowStatus.PENDING
    completed_nodes: dict[str, Any] = field(default_factory=dict)
    active_nodes: set[str] = field(default_factory=set)
    last_sequence: int = 0


class WorkItem(msgspec.Struct, kw_only=True):
    """A piece of work for one node, in a queue.

    Larger `priority` comes first; it is not handed out before `run_at`. `attempt` counts the leases that have ended without a result.
    `lease_fence` is larger than 0 on a claimed item, and what its holder shows when it settles it.
    """

    id: UUID = field(default_factory=uuid4)
    execution_id: UUID
    node_id: str
    queue_type: str
    payload: Any = field(default_factory=dict)
    attempt: int = 0
    max_attempts: int = 3
    created_at: datetime = field(default_factory=system_clock)
    lease_expires_at: datetime | None = None
    worker_id: str | None = None
    lease_fence: int = 0
    tenant_id: str = DEFAULT_TENANT
    priority: int = 0
    run_at: datetime | None = None


class DeadLetter(WorkItem, kw_only=True):
    """A work item that was given up, with its last error and when that was."""

    last_error: str
    dead_lettered_at: datetime


class ReclaimResult(msgspec.Struct, kw_only=True):
    """What became of leases that ran out. The items carry their new attempt, and the worker, lease and fence that were lost."""

    retryable: list[WorkItem] = field(default_factory=list)
    exhausted: list[WorkItem] = field(default_factory=list)


class Retryable(msgspec.Struct, kw_only=True):
    """A failed item that will be tried again, in `delay_ms` milliseconds at the earliest."""

    item: WorkItem
    delay_ms: int


class Exhausted(msgspec.Struct, kw_only=True):
    """A failed item that has become a dead letter."""

    item: WorkItem


FailOutcome: TypeAlias = "Retryable | Exhausted"


class Acquired(msgspec.Struct, kw_only=True):
    """The key is reserved for the caller."""


class Held(msgspec.Struct, kw_only=True):
    """Another owner has the key until then."""

    owner: str
    expires_at: datetime


class Recorded(msgspec.Struct, kw_only=True):
    """The effect has happened; this is its result."""

    result: dict[str, Any]


ReserveOutcome: TypeAlias = "Acquired | Held | Recorded"


class ApiToken(msgspec.Struct, kw_only=True):
    """Who may call. The secret itself is nowhere in here."""

    id: str
    name: str
    role: str
    created_at: datetime
    expires_at: datetime | None = None
    tenant_id: str = DEFAULT_TENANT
    last_used_at: datetime | None = None


class TenantStatus(Enum):
    """Whether a tenant may start new work: only an active one may."""

    ACTIVE = "active"
    SUSPENDED = "suspended"
    ARCHIVED = "archived"


class TenantLimits(msgspec.Struct, kw_only=True, omit_defaults=True):
    """How much a tenant may have. None = as much as it likes. A month is one of the calendar, in UTC."""

    max_concurrent_executions: int | None = None
    max_workflows: int | None = None
    max_tokens_per_month: int | None = None
    max_cost_per_month_usd: float | None = None


class Tenant(msgspec.Struct, kw_only=True):
    """Somebody whose executions, items and tokens nobody else sees."""

    id: str
    name: str
    status: TenantStatus = TenantStatus.ACTIVE
    policy: Any = None
    limits: TenantLimits | None = None
    created_at: datetime = field(default_factory=system_clock)
    updated_at: datetime = field(default_factory=system_clock)


class Page(list[T]):
    """A list that knows where the next page begins: hand `next` in as `after`. None = this was the last page."""

    def __init__(self, items: list[T], next: str | None = None) -> None:
        super().__init__(items)
        self.next = next
