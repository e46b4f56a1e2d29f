"""From events to a state: a pure fold. A snapshot and the events behind it give what all events give."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from wfe_fast.state.events import (
    AnyEventKind,
    ApprovalReceived,
    InterruptRaised,
    NodeCancelled,
    NodeCompleted,
    NodeFailed,
    NodeScheduled,
    NodeSkipped,
    NodeStarted,
    StrategyLimitHit,
    WorkflowCancelled,
    WorkflowCompleted,
    WorkflowFailed,
    WorkflowStarted,
)
from wfe_fast.state.models import TERMINAL_STATUSES, MaterializedState, WorkflowStatus

_ENDS: dict[type, WorkflowStatus] = {
    WorkflowFailed: WorkflowStatus.FAILED,
    WorkflowCancelled: WorkflowStatus.CANCELLED,
    StrategyLimitHit: WorkflowStatus.LIMIT_EXCEEDED,
}


def fold(base: MaterializedState, events: Iterable[tuple[int, AnyEventKind]]) -> MaterializedState:
    """Apply events, each with its number, to `base`, which is changed and returned."""
    for sequence, kind in events:
        _apply(base, kind)
        base.last_sequence = max(base.last_sequence, sequence)
    return base


def _apply(state: MaterializedState, kind: AnyEventKind) -> None:
    if isinstance(kind, NodeCompleted):
        state.active_nodes.discard(kind.node_id)
        state.completed_nodes[kind.node_id] = kind.output
        state.current_state = merge(state.current_state, kind.state_patch)
    elif isinstance(kind, (NodeScheduled, NodeStarted)):
        state.active_nodes.add(kind.node_id)
    elif isinstance(kind, (NodeFailed, NodeSkipped, NodeCancelled)):
        state.active_nodes.discard(kind.node_id)
    elif state.status not in TERMINAL_STATUSES:
        # What has ended stays as it ended: an approval or an end that comes later does not bring it back.
        _apply_to_workflow(state, kind)


def _apply_to_workflow(state: MaterializedState, kind: AnyEventKind) -> None:
    if isinstance(kind, WorkflowStarted):
        state.status = WorkflowStatus.RUNNING
    elif isinstance(kind, WorkflowCompleted):
        state.current_state = kind.final_state
        state.status = WorkflowStatus.COMPLETED
    elif isinstance(kind, InterruptRaised):
        if state.status is WorkflowStatus.RUNNING:
            state.status = WorkflowStatus.PAUSED
    elif isinstance(kind, ApprovalReceived):
        state.current_state = merge(state.current_state, kind.state_patch)
        state.status = WorkflowStatus.RUNNING
    elif type(kind) in _ENDS:
        state.status = _ENDS[type(kind)]


def merge(target: Any, patch: Any) -> Any:
    """`target` changed by `patch` after RFC 7396; a patch of None as a whole changes nothing. Neither argument is changed."""
    return target if patch is None else _merged(target, patch)


def _merged(target: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merged(result.get(key), value)
    return result
