"""What a fold makes of events, and how patches are merged."""

from __future__ import annotations

from copy import deepcopy

from wfe_fast.state import (
    ApprovalReceived,
    MaterializedState,
    NodeCompleted,
    WorkflowCompleted,
    WorkflowStarted,
    WorkflowStatus,
    merge,
)
from wfe_fast.state.events import AnyEventKind
from wfe_fast.state.fold import fold


def a_state() -> MaterializedState:
    return MaterializedState(
        current_state={"order": {"sum": 1}},
        status=WorkflowStatus.PENDING,
        completed_nodes={},
        active_nodes=set(),
        last_sequence=0,
    )


def completed(node: str, patch: object) -> NodeCompleted:
    return NodeCompleted(node_id=node, output=None, state_patch=patch, duration_ms=1)


def kinds() -> list[AnyEventKind]:
    """Anew for each fold, which uses them up."""
    return [
        WorkflowStarted(workflow_id="w", workflow_version="1", initial_input=None),
        completed("a", {"order": {"items": {"x": 1}}, "new": {"deep": {"y": [1]}}}),
        completed("b", {"order": {"items": {"x": None, "z": 2}}, "new": {"deep": {"y": {"now": "an object"}}}}),
        WorkflowCompleted(final_state={"end": {"n": 1}}),
        completed("c", {"end": {"n": 2, "m": 3}}),
    ]


def test_patches_change_what_was_there() -> None:
    states = [fold(a_state(), enumerate(kinds()[:end], 1)).current_state for end in (2, 3, 5)]
    assert states == [
        {"order": {"sum": 1, "items": {"x": 1}}, "new": {"deep": {"y": [1]}}},
        {"order": {"sum": 1, "items": {"z": 2}}, "new": {"deep": {"y": {"now": "an object"}}}},
        {"end": {"n": 2, "m": 3}},
    ]


def test_an_approval_does_not_bring_back_what_has_ended() -> None:
    approval = ApprovalReceived(node_id="a", user_id="u", decision="approved", comment=None, state_patch={"late": True})
    ended = fold(a_state(), enumerate([WorkflowCompleted(final_state={"end": 1}), approval], 1))
    assert (ended.status, ended.current_state, ended.last_sequence) == (WorkflowStatus.COMPLETED, {"end": 1}, 2)


def test_merging_changes_neither_argument() -> None:
    target = {"a": {"b": {"c": 1}}, "gone": 1}
    patch = {"a": {"b": {"d": 2}}, "gone": None, "list": [1]}
    given = deepcopy((target, patch))
    assert merge(target, patch) == {"a": {"b": {"c": 1, "d": 2}}, "list": [1]}
    assert (target, patch) == given
    assert merge(target, None) is target
