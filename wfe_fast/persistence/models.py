"""The models of contract A: what a workflow engine remembers.

All are msgspec structs whose JSON keys are the field names. They take keywords only. Enum members are upper case, their values are
exactly the texts that the WFE family stores.
"""

from __future__ import annotations

from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any
from uuid import uuid4

import msgspec
from msgspec import Meta, field

from wfe_fast.checks import MAX_INT as MAX_INT
from wfe_fast.clock import system_clock
from wfe_fast.paging import Page as Page

if TYPE_CHECKING:
    from collections.abc import Collection

    from wfe_fast.persistence.memory import Memory

Moment = Annotated[datetime, Meta(tz=True)]
SmallInt = Annotated[int, Meta(ge=0, le=MAX_INT)]


def new_id() -> str:
    """A new UUIDv4 as text."""
    return str(uuid4())


class WorkflowStatus(Enum):
    """Where a workflow stands. Complete and Terminated are final."""

    RUNNABLE = "Runnable"
    SUSPENDED = "Suspended"
    COMPLETE = "Complete"
    TERMINATED = "Terminated"


class PointerStatus(Enum):
    """Where one step of a workflow stands."""

    PENDING = "Pending"
    RUNNING = "Running"
    COMPLETE = "Complete"
    SKIPPED = "Skipped"
    SLEEPING = "Sleeping"
    WAITING_FOR_EVENT = "WaitingForEvent"
    FAILED = "Failed"
    COMPENSATED = "Compensated"
    CANCELLED = "Cancelled"
    PENDING_PREDECESSOR = "PendingPredecessor"


#: A pointer in one of these will not run again.
FINAL_POINTER_STATUSES = frozenset(
    {
        PointerStatus.COMPLETE,
        PointerStatus.SKIPPED,
        PointerStatus.COMPENSATED,
        PointerStatus.CANCELLED,
        PointerStatus.FAILED,
    }
)

#: A workflow in one of these will not run again.
FINAL_WORKFLOW_STATUSES = frozenset({WorkflowStatus.COMPLETE, WorkflowStatus.TERMINATED})


class CommandName(Enum):
    """What a scheduled command asks for."""

    PROCESS_WORKFLOW = "ProcessWorkflow"
    PROCESS_EVENT = "ProcessEvent"


class ExecutionPointer(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One step of a workflow: which, how it stands, what it keeps.

    `active` = may run now, or at `sleep_until`. `scope` holds the ids of the containers around it, outermost first. `event_data` and
    `event_published` are set when the event that it waits for was delivered. `extension_attributes` is free for engines; keys that begin
    with ``wfe.`` are the library's (``wfe.event``: id and time in microseconds of the event that was delivered).
    """

    # Fields at their defaults are left out of the JSON: a fresh pointer is then 60 bytes and not 600, and encodes three times as fast.
    id: str = field(default_factory=new_id)
    step_id: SmallInt
    active: bool = True
    status: PointerStatus = PointerStatus.PENDING
    sleep_until: Moment | None = None
    persistence_data: Any = None
    start_time: Moment | None = None
    end_time: Moment | None = None
    event_name: str | None = None
    event_key: str | None = None
    event_published: bool = False
    event_data: Any = None
    step_name: str | None = None
    retry_count: SmallInt = 0
    children: list[str] = field(default_factory=list)
    context_item: Any = None
    predecessor_id: str | None = None
    outcome: Any = None
    scope: list[str] = field(default_factory=list)
    extension_attributes: dict[str, Any] = field(default_factory=dict)


class WorkflowInstance(msgspec.Struct, kw_only=True, dict=True, weakref=True):
    """One workflow and its execution pointers.

    `next_execution` is in epoch **milliseconds**; None = not due by itself. `name` is unique; left empty it becomes the id when the
    instance is created. An instance that was loaded, created or persisted remembers what the store holds (so that a later persist writes
    only what changed) and the claim under which it was loaded; copies of it do not.
    """

    id: str = field(default_factory=new_id)
    name: str = ""
    root_workflow_id: str | None = None
    workflow_definition_id: str
    version: SmallInt = 1
    description: str | None = None
    reference: str | None = None
    execution_pointers: list[ExecutionPointer] = field(default_factory=list)
    next_execution: int | None = 0
    status: WorkflowStatus = WorkflowStatus.RUNNABLE
    data: Any = field(default_factory=dict)
    create_time: Moment = field(default_factory=system_clock)
    complete_time: Moment | None = None

    @property
    def claims_without_commit(self) -> int:
        """How often the workflow was claimed since it was last persisted, this claim included; 0 where it is not claimed."""
        memory: Memory | None = self.__dict__.get("memory")
        return 0 if memory is None else memory.claims_without_commit

    def is_branch_complete(self, scope: Collection[str]) -> bool:
        """Whether every pointer whose scope equals `scope` is final; true where none matches."""
        wanted = list(scope)
        return all(
            pointer.status in FINAL_POINTER_STATUSES for pointer in self.execution_pointers if pointer.scope == wanted
        )


class Event(msgspec.Struct, kw_only=True):
    """Something that happened, addressed by name and key."""

    id: str = field(default_factory=new_id)
    event_name: str
    event_key: str
    event_data: Any = None
    event_time: Moment = field(default_factory=system_clock)
    is_processed: bool = False


class EventSubscription(msgspec.Struct, kw_only=True):
    """A pointer of a workflow waits for events of this name and key whose time is `subscribe_as_of` or later.

    The `external_*` fields hold the token under which an outside worker has taken it (an activity); `subscription_data` is for that worker.
    """

    id: str = field(default_factory=new_id)
    workflow_id: str
    step_id: SmallInt
    execution_pointer_id: str
    event_name: str
    event_key: str
    subscribe_as_of: Moment = field(default_factory=system_clock)
    subscription_data: Any = None
    external_token: str | None = None
    external_worker_id: str | None = None
    external_token_expiry: Moment | None = None


class ScheduledCommand(msgspec.Struct, kw_only=True):
    """Do something at a time: `data` is the id of what `command_name` works on, `execute_time` epoch milliseconds."""

    command_name: CommandName
    data: str
    execute_time: int

    @classmethod
    def process_workflow(cls, workflow_id: str, execute_time: int) -> ScheduledCommand:
        """Run the workflow at `execute_time` (epoch milliseconds)."""
        return cls(command_name=CommandName.PROCESS_WORKFLOW, data=workflow_id, execute_time=execute_time)

    @classmethod
    def process_event(cls, event_id: str, execute_time: int) -> ScheduledCommand:
        """Deliver the event at `execute_time` (epoch milliseconds)."""
        return cls(command_name=CommandName.PROCESS_EVENT, data=event_id, execute_time=execute_time)


class ExecutionError(msgspec.Struct, kw_only=True):
    """A step failed: when, where, and what it said."""

    error_time: Moment = field(default_factory=system_clock)
    workflow_id: str
    execution_pointer_id: str
    message: str
