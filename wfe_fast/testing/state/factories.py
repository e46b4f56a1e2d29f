"""Executions, events and items for tests; and a value for every field of every kind of event."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import msgspec

from wfe_fast.state.contract import StateBackend
from wfe_fast.state.events import (
    KINDS,
    AnyEventKind,
    NodeCompleted,
    NodeFailed,
    NodeScheduled,
    ProvenanceMetadata,
    WorkflowStarted,
)
from wfe_fast.state.models import Event, WorkflowExecution, WorkflowStatus, WorkItem

QUEUE = "tool"

FAR = datetime(2999, 12, 31, tzinfo=timezone.utc)


def an_execution(**fields: Any) -> WorkflowExecution:
    """A running execution, or as told."""
    made = {"workflow_id": "order", "workflow_version": "1.0.0", "status": WorkflowStatus.RUNNING}
    return WorkflowExecution(**{**made, **fields})


def an_event(execution: WorkflowExecution, kind: AnyEventKind | None = None, **fields: Any) -> Event:
    """An event of the execution; that it started, or as told."""
    started = WorkflowStarted(workflow_id="order", workflow_version="1.0.0", initial_input={"a": 1})
    return Event(execution_id=execution.execution_id, kind=started if kind is None else kind, **fields)


def an_item(execution: WorkflowExecution, node_id: str = "n", **fields: Any) -> WorkItem:
    """An item of a node of the execution."""
    made = {"execution_id": execution.execution_id, "node_id": node_id, "queue_type": QUEUE}
    return WorkItem(**{**made, **fields})


def scheduled(node_id: str = "n") -> NodeScheduled:
    """The node waits in `QUEUE`."""
    return NodeScheduled(node_id=node_id, queue_type=QUEUE)


def completed(node_id: str = "n", **fields: Any) -> NodeCompleted:
    """The node ended well."""
    made = {"output": {"of": node_id}, "state_patch": {node_id: "done"}, "duration_ms": 5}
    return NodeCompleted(node_id=node_id, **{**made, **fields})


def failed(node_id: str = "n", **fields: Any) -> NodeFailed:
    """The node failed for good."""
    return NodeFailed(**{"node_id": node_id, "error": "broken", "attempt": 0, "retryable": False, **fields})


def claimed(backend: StateBackend, execution: WorkflowExecution, node_id: str = "n", **fields: Any) -> WorkItem:
    """An item that is stored and claimed for a minute."""
    backend.enqueue_work_item(an_item(execution, node_id, **fields))
    item = backend.claim_work_item("first", [QUEUE])
    assert item is not None
    return item


_VALUES: dict[str, Any] = {
    "str": "täxt",
    "int": 7,
    "float": 1.25,
    "bool": True,
    "datetime": datetime(2031, 2, 3, 4, 5, 6, 7, tzinfo=timezone.utc),
    "list": ["x"],
    "ProvenanceMetadata": ProvenanceMetadata(model_id="m", confidence=0.5, verified=True, evidence_refs=["e"]),
}


def _value(type: msgspec.inspect.Type) -> Any:
    if isinstance(type, msgspec.inspect.UnionType):
        return _value(next(part for part in type.types if not isinstance(part, msgspec.inspect.NoneType)))
    if isinstance(type, msgspec.inspect.AnyType):
        return {"any": [1, 2.5, None, "ж"]}
    if isinstance(type, msgspec.inspect.StructType):
        return _VALUES["ProvenanceMetadata"]
    if isinstance(type, msgspec.inspect.ListType):
        return [_value(type.item_type)]
    name = type.__class__.__name__.removesuffix("Type").lower()
    return _VALUES[name]


def full_kinds() -> list[AnyEventKind]:
    """One of each kind, with every field set."""
    made: list[AnyEventKind] = []
    for kind in KINDS:
        info = msgspec.inspect.type_info(kind)
        assert isinstance(info, msgspec.inspect.StructType)
        fields = {field.name: _value(field.type) for field in info.fields}
        build: Any = kind
        made.append(build(**fields))
    return made
