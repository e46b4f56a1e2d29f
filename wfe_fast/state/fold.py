"""From events to a state: a pure fold. A snapshot and the events behind it give what all events give."""

from __future__ import annotations

from collections.abc import Callable, Iterable
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


def fold(base: MaterializedState, events: Iterable[tuple[int, AnyEventKind]]) -> MaterializedState:
    """Apply events, each with its number, to `base`, which is changed and returned.

    The events are used up: it may put parts of them into the state and change these by later events. Who reads events from a store to fold
    them is the only one who has them, and a copy of a deep value takes more stack than there is.
    """
    for sequence, kind in events:
        apply = _OF_NODES.get(type(kind))
        if apply is not None or (
            (apply := _OF_THE_WORKFLOW.get(type(kind))) is not None and base.status not in TERMINAL_STATUSES
        ):
            apply(base, kind)
        if sequence > base.last_sequence:
            base.last_sequence = sequence
    return base


def merge(target: Any, patch: Any) -> Any:
    """`target` changed by `patch` after RFC 7396; a patch of None as a whole changes nothing. Neither argument is changed."""
    return target if patch is None else _merged(target, patch, in_place=False)


def _merged(target: Any, patch: Any, *, in_place: bool) -> Any:
    if not isinstance(patch, dict):
        return patch
    result: dict[str, Any] = {}
    if isinstance(target, dict):
        result = target if in_place else dict(target)
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merged(result.get(key), value, in_place=in_place)
    return result


def _patch(state: MaterializedState, patch: Any) -> None:
    # In place, because a copy for each event of a long log takes time with its square. The state and the events are the fold's own.
    if patch is not None:
        state.current_state = _merged(state.current_state, patch, in_place=True)


# -- what an event means -----------------------------------------------------------------------------------------------------------

Apply = Callable[[MaterializedState, Any], None]


def _begin_node(state: MaterializedState, kind: NodeScheduled | NodeStarted) -> None:
    state.active_nodes.add(kind.node_id)


def _complete_node(state: MaterializedState, kind: NodeCompleted) -> None:
    state.active_nodes.discard(kind.node_id)
    state.completed_nodes[kind.node_id] = kind.output
    _patch(state, kind.state_patch)


def _end_node(state: MaterializedState, kind: NodeFailed | NodeSkipped | NodeCancelled) -> None:
    state.active_nodes.discard(kind.node_id)


def _become(status: WorkflowStatus) -> Apply:
    def apply(state: MaterializedState, _: object) -> None:
        state.status = status

    return apply


def _complete(state: MaterializedState, kind: WorkflowCompleted) -> None:
    state.current_state = kind.final_state
    state.status = WorkflowStatus.COMPLETED


def _pause(state: MaterializedState, _: InterruptRaised) -> None:
    if state.status is WorkflowStatus.RUNNING:
        state.status = WorkflowStatus.PAUSED


def _approve(state: MaterializedState, kind: ApprovalReceived) -> None:
    _patch(state, kind.state_patch)
    state.status = WorkflowStatus.RUNNING


_OF_NODES: dict[type, Apply] = {
    NodeScheduled: _begin_node,
    NodeStarted: _begin_node,
    NodeCompleted: _complete_node,
    NodeFailed: _end_node,
    NodeSkipped: _end_node,
    NodeCancelled: _end_node,
}
_OF_THE_WORKFLOW: dict[type, Apply] = {
    WorkflowStarted: _become(WorkflowStatus.RUNNING),
    WorkflowCompleted: _complete,
    WorkflowFailed: _become(WorkflowStatus.FAILED),
    WorkflowCancelled: _become(WorkflowStatus.CANCELLED),
    StrategyLimitHit: _become(WorkflowStatus.LIMIT_EXCEEDED),
    InterruptRaised: _pause,
    ApprovalReceived: _approve,
}
