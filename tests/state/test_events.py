"""Which node an event is about."""

from __future__ import annotations

import pytest

from wfe_fast.state import (
    CriticVerdict,
    NodeCompleted,
    NodeFailed,
    PlanGenerated,
    ToolCalled,
    UnknownEventKind,
    WorkflowCancelled,
    WorkflowStarted,
)
from wfe_fast.state.events import AnyEventKind, node_id_of
from wfe_fast.testing.state.factories import full_kinds


@pytest.mark.parametrize(
    "kind",
    [
        NodeCompleted(node_id="n", output=1, state_patch=None, duration_ms=1),
        NodeFailed(node_id="n", error="e", attempt=0, retryable=False),
        ToolCalled(node_id="n", tool="t"),
        CriticVerdict(node_id="n", score=0.5, passed=True),
        UnknownEventKind("quantum_leap", {"node_id": "n"}),
    ],
)
def test_about_a_node(kind: AnyEventKind) -> None:
    assert node_id_of(kind) == "n"


@pytest.mark.parametrize(
    "kind",
    [
        WorkflowStarted(workflow_id="w", workflow_version="1", initial_input={"node_id": "n"}),
        WorkflowCancelled(),
        PlanGenerated(steps=["n"]),
        UnknownEventKind("quantum_leap", {}),
        UnknownEventKind("quantum_leap", {"node_id": 5}),
        UnknownEventKind("quantum_leap", {"node_id": None, "node": "n"}),
    ],
)
def test_about_no_node(kind: AnyEventKind) -> None:
    assert node_id_of(kind) is None


def test_every_kind_with_the_field_is_about_its_node() -> None:
    for kind in full_kinds():
        assert node_id_of(kind) == getattr(kind, "node_id", None)
        assert (node_id_of(kind) is not None) == ("node_id" in type(kind).__struct_fields__)
