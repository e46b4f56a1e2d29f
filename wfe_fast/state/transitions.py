"""Several changes that belong together, each in one transaction."""

from __future__ import annotations

from collections.abc import Sequence

from wfe_fast.checks import check_bool, check_enum, check_model, check_sequence
from wfe_fast.database.base import Row, UniqueViolation
from wfe_fast.errors import DuplicateExecutionError, InvalidValueError, LeaseLostError, WfeError
from wfe_fast.state.checks import check_id
from wfe_fast.state.effects import EffectMethods, effect_of
from wfe_fast.state.events import (
    NodeCompleted,
    NodeFailed,
    NodeScheduled,
    WorkflowCancelled,
    WorkflowCompleted,
    WorkflowFailed,
)
from wfe_fast.state.items import duplicate_item
from wfe_fast.state.logs import check_event_of
from wfe_fast.state.models import TERMINAL_STATUSES, Event, WorkflowExecution, WorkflowStatus, WorkItem
from wfe_fast.state.rows import NewEvent, event_row, execution_row, item_row, lease_of

#: Ends that can mean one thing only.
_STATUS_OF: dict[type, WorkflowStatus] = {
    WorkflowCompleted: WorkflowStatus.COMPLETED,
    WorkflowFailed: WorkflowStatus.FAILED,
    WorkflowCancelled: WorkflowStatus.CANCELLED,
}


class TransitionMethods(EffectMethods):
    """See `contract.TransitionOperations`."""

    # -- start and schedule --------------------------------------------------------------------------------------------------------

    def start_execution(
        self, execution: WorkflowExecution, events: Sequence[Event] = (), item: WorkItem | None = None
    ) -> int:
        row = execution_row(execution)
        id = execution.execution_id
        rows: list[NewEvent] = []
        for index, event in enumerate(check_sequence(events, Event, "events")):
            rows.append(event_row(event, f"events[{index}]"))
            if event.execution_id != id:
                raise InvalidValueError(f"events[{index}].execution_id", f"must be {id}", event.execution_id)
        first = None
        if item is not None:
            first = item_row(item)
            if item.execution_id != id:
                raise InvalidValueError("item.execution_id", f"must be {id}", item.execution_id)
        try:
            return max(self._write(self._work.start, self._home, row, rows, first), default=0)
        except UniqueViolation as error:
            raise _duplicate(error, row, first) from error

    def schedule_node(self, event: Event, item: WorkItem) -> int:
        row = item_row(item)
        check_event_of(event, item.execution_id, (NodeScheduled,), item.node_id)
        try:
            return self._repeat(self._work.schedule, str(item.execution_id), event_row(event), row)
        except UniqueViolation as error:
            raise duplicate_item(error, row) from error

    # -- the end of a node, and of an execution ------------------------------------------------------------------------------------

    def commit_turn(self, item: WorkItem, event: Event, *, snapshot: bool = False) -> int:
        id, fence = lease_of(item)
        check_id(item.execution_id, "item.execution_id")
        check_event_of(event, item.execution_id, (NodeCompleted, NodeFailed), item.node_id)
        row, effect = event_row(event), effect_of(event.kind, "event.kind")
        wanted = check_bool(snapshot, "snapshot")
        if fence <= 0:
            raise LeaseLostError(id)
        completed = isinstance(event.kind, NodeCompleted)
        execution = str(event.execution_id)
        return self._write(self._work.commit_turn, (id, fence), execution, row, completed, effect, wanted)

    def finish_execution(self, event: Event, status: WorkflowStatus) -> int:
        made = check_model(event, Event, "event")
        row = event_row(made)
        wanted = check_enum(status, WorkflowStatus, "status")
        if wanted not in TERMINAL_STATUSES:
            raise InvalidValueError("status", "must be a final one", status)
        if _STATUS_OF.get(type(made.kind), wanted) is not wanted:
            raise InvalidValueError("status", f"does not fit a {type(made.kind).__name__}", status)
        return self._repeat(self._work.finish, str(made.execution_id), row, wanted)


def _duplicate(error: UniqueViolation, execution: Row, item: Row | None) -> WfeError:
    if item is not None and "items" in error.constraint:
        return duplicate_item(error, item)
    return DuplicateExecutionError(execution[0])
