"""Several changes that belong together, each in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from wfe_fast.checks import check_bool, check_enum, check_model, check_sequence
from wfe_fast.database.base import Row, Session, UniqueViolation
from wfe_fast.errors import DuplicateExecutionError, InvalidTransitionError, InvalidValueError, WfeError
from wfe_fast.state.checks import check_id
from wfe_fast.state.effects import EffectMethods, check_key
from wfe_fast.state.events import (
    AnyEventKind,
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
from wfe_fast.state.operations import Head
from wfe_fast.state.rows import event_row, execution_row, item_row, lease_of

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
        event_rows: list[tuple[Row, AnyEventKind]] = []
        for index, event in enumerate(check_sequence(events, Event, "events")):
            event_rows.append((event_row(event, f"events[{index}]"), event.kind))
            if event.execution_id != id:
                raise InvalidValueError(f"events[{index}].execution_id", f"must be {id}", event.execution_id)
        first = None
        if item is not None:
            first = item_row(item)
            if item.execution_id != id:
                raise InvalidValueError("item.execution_id", f"must be {id}", item.execution_id)
        try:
            return self._write(self._start, row, event_rows, first)
        except UniqueViolation as error:
            raise _duplicate(error, row, first) from error

    def _start(self, session: Session, row: Row, events: list[tuple[Row, AnyEventKind]], item: Row | None) -> int:
        head = self._create_execution(session, row)
        numbers = self._append_to(session, head, row[0], events)
        if item is not None:
            self._add_item(session, head, row[0], item, self._now())
        return max(numbers, default=0)

    def schedule_node(self, event: Event, item: WorkItem) -> int:
        row = item_row(item)
        check_event_of(event, item.execution_id, (NodeScheduled,), item.node_id)
        try:
            return self._write(self._schedule, str(item.execution_id), (event_row(event), event.kind), row)
        except UniqueViolation as error:
            raise duplicate_item(error, row) from error

    def _schedule(self, session: Session, execution_id: str, event: tuple[Row, AnyEventKind], item: Row) -> int:
        head = self._head(session, execution_id)
        known = self._known(session, head.execution, event[0][0])
        if known is not None and session.one(self._sql.item_exists, (item[0], head.execution)):
            return known  # done before, by a call whose answer was lost
        now = self._now()
        self._admit(session, head.tenant_id, now)
        (number,) = self._append_to(session, head, execution_id, [event])
        self._add_item(session, head, execution_id, item, now)
        return number

    # -- the end of a node, and of an execution ------------------------------------------------------------------------------------

    def commit_turn(self, item: WorkItem, event: Event, *, snapshot: bool = False) -> int:
        id, fence = lease_of(item)
        check_id(item.execution_id, "item.execution_id")
        check_event_of(event, item.execution_id, (NodeCompleted, NodeFailed), item.node_id)
        check_key(event.kind, "event.kind")
        return self._write(self._commit_turn, id, fence, event, event_row(event), check_bool(snapshot, "snapshot"))

    def _commit_turn(self, session: Session, id: str, fence: int, event: Event, row: Row, snapshot: bool) -> int:
        now = self._now()
        kind = event.kind
        status: Literal["completed", "failed"] = "completed" if isinstance(kind, NodeCompleted) else "failed"
        execution, execution_id, node, tenant = self._settle(session, id, fence, status, now)
        # The caller's item may have been changed since it was claimed: what counts is the stored one.
        if (execution_id, node) != (str(event.execution_id), row[2]):
            raise InvalidValueError("event", "is not about the item's own execution and node", event.id)
        log = session.one(self._sql.log_of, (execution,))
        assert log is not None  # every execution has its log
        (number,) = self._append_to(session, Head(execution, tenant, "", *log), execution_id, [(row, kind)])
        if isinstance(kind, NodeCompleted) and kind.idempotency_key is not None:
            self._record_effect(session, tenant, execution, kind, now)
        if snapshot:
            self._take_snapshot(session, execution, now)
        return number

    def finish_execution(self, event: Event, status: WorkflowStatus) -> int:
        made = check_model(event, Event, "event")
        row = event_row(made)
        wanted = check_enum(status, WorkflowStatus, "status")
        if wanted not in TERMINAL_STATUSES:
            raise InvalidValueError("status", "must be a final one", status)
        if _STATUS_OF.get(type(made.kind), wanted) is not wanted:
            raise InvalidValueError("status", f"does not fit a {type(made.kind).__name__}", status)
        return self._write(self._finish, str(made.execution_id), (row, made.kind), wanted)

    def _finish(
        self, session: Session, execution_id: str, event: tuple[Row, AnyEventKind], wanted: WorkflowStatus
    ) -> int:
        head = self._head(session, execution_id)
        if head.status == wanted.value:
            known = self._known(session, head.execution, event[0][0])
            if known is None:
                raise InvalidTransitionError(execution_id, head.status, wanted.value)
            return known  # done before, by a call whose answer was lost
        self._set_status(session, head, execution_id, wanted, self._now())
        return self._append_to(session, head, execution_id, [event])[0]


def _duplicate(error: UniqueViolation, execution: Row, item: Row | None) -> WfeError:
    if item is not None and "items" in error.constraint:
        return duplicate_item(error, item)
    return DuplicateExecutionError(execution[0])
