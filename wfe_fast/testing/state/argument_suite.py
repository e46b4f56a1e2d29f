"""Bad input: refused before anything is written, in words that name the field."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime
from typing import Any
from uuid import uuid4

import pytest
from msgspec.structs import fields, replace

from wfe_fast.errors import InvalidValueError, SerializationError, StoreClosedError
from wfe_fast.state.contract import StateBackend
from wfe_fast.state.events import (
    CriticVerdict,
    NodeStarted,
    PlanGenerated,
    TimerCreated,
    ToolCalled,
    UnknownEventKind,
    WorkflowStarted,
)
from wfe_fast.state.models import Snapshot, Tenant, WorkflowDefinition, WorkflowStatus
from wfe_fast.testing.clock import START
from wfe_fast.testing.state.base import StateUnderTest, Suite
from wfe_fast.testing.state.factories import QUEUE, an_event, an_execution, an_item, claimed, completed

_NONE: Any = None
_ONE: Any = 1
_TUPLE: Any = ("a",)
_TEXT: list[Any] = [None, 5, b"x", ["x"], ""]
_ID: list[Any] = [None, 5, "x", str(uuid4())]
_MOMENT: list[Any] = [datetime(2024, 1, 1), "2024-01-01", 5]
_LIMIT: list[Any] = [0, -1, 1.0, "1", True]
_DURATION: list[Any] = [None, "5", math.nan, math.inf, -1, 0, True, START]
_UUID = uuid4()
_PAGE_KEY: list[Any] = [
    *("x", "1:x", "", 5, "1", f"1_0:{_UUID}", f"+1:{_UUID}", f" 1:{_UUID}", f"٣:{_UUID}", f"{10**30}:{_UUID}"),
    *(f"{2**62 + 1}:{_UUID}", f"{-(2**62) - 1}:{_UUID}", f"1:{_UUID}\n", f"1:{{{_UUID}}}", f"1:{'1_' * 16}", "1:0"),
]
_COUNT: list[Any] = [None, -1, 1.5, "1", True, 2**31]

#: Fields of models, and values that they must not have.
FIELDS: dict[str, list[Any]] = {
    "execution.execution_id": _ID,
    "execution.workflow_id": [*_TEXT, "x" * 1001],
    "execution.workflow_version": _TEXT,
    "execution.status": [None, "running"],
    "execution.started_at": [None, *_MOMENT],
    "execution.updated_at": [None, *_MOMENT],
    "execution.completed_at": _MOMENT,
    "execution.session_type": ["other", 5],
    "execution.parent_execution_id": _ID[1:],
    "execution.segment_number": [None, -1, 1.5, True],
    "event.id": _ID,
    "event.kind": [None, "node_started", {"type": "node_started"}],
    "event.created_at": [None, *_MOMENT],
    "item.id": _ID,
    "item.node_id": [*_TEXT, "x" * 1001],
    "item.queue_type": _TEXT,
    "item.attempt": [2**30 + 1, *_COUNT],
    "item.max_attempts": [0, 2**30 + 1, *_COUNT],
    "item.created_at": [None, *_MOMENT],
    "item.priority": [None, 1.5, "1", True, 2**31],
    "item.run_at": _MOMENT,
    "snapshot.id": _ID,
    "snapshot.at_sequence": [None, -2, 1.5, True],
    "snapshot.status": [None, "running"],
    "snapshot.completed_nodes": [None, [], 5],
    "snapshot.active_nodes": [None, "abc", 5, {5}],
    "definition.workflow_id": _TEXT,
    "definition.version": _TEXT,
    "definition.created_at": [None, *_MOMENT],
    "tenant.id": _TEXT,
    "tenant.name": _TEXT,
    "tenant.status": [None, "active"],
}
#: Fields that hold any JSON value.
VALUES = [
    "execution.initial_input",
    "execution.current_state",
    "item.payload",
    "snapshot.state",
    "definition.ir",
    "tenant.policy",
]
NOT_JSON: list[Any] = [math.nan, math.inf, b"x", {1: 2}, {"a": {2}}, "\0", ["a\0"], {"\0": 1}, (1,), "\udead", object()]

#: Kinds with a wrong field, and the field.
KINDS: list[tuple[Any, str, type[Exception]]] = [
    (NodeStarted(node_id=_NONE, worker_id="w", attempt=0), "node_id", InvalidValueError),
    (NodeStarted(node_id="n", worker_id="w", attempt=-1), "attempt", InvalidValueError),
    (NodeStarted(node_id="n", worker_id="w", attempt=2**32), "attempt", InvalidValueError),
    (NodeStarted(node_id="n\0", worker_id="w", attempt=0), "node_id", SerializationError),
    (CriticVerdict(node_id="n", score=math.nan, passed=True), "score", SerializationError),
    (CriticVerdict(node_id="n", score=1.0, passed=_ONE), "passed", InvalidValueError),
    (PlanGenerated(steps=["a", _ONE]), "steps", InvalidValueError),
    (PlanGenerated(steps=_TUPLE), "steps", SerializationError),
    (TimerCreated(node_id="n", fire_at=datetime(2024, 1, 1)), "fire_at", InvalidValueError),
    (WorkflowStarted(workflow_id="w", workflow_version="1", initial_input={1}), "initial_input", SerializationError),
    (completed(output=math.nan), "output", SerializationError),
    (completed(state_patch={"a": [b"x"]}), "state_patch", SerializationError),
    (UnknownEventKind("node_started", {}), "type", InvalidValueError),
    (UnknownEventKind("", {}), "type", InvalidValueError),
    (UnknownEventKind("new", {"type": "x"}), "fields", InvalidValueError),
    (UnknownEventKind("new", {"a": math.nan}), "fields", SerializationError),
]

#: Calls with a wrong argument.
ARGUMENTS: dict[str, tuple[list[Any], Callable[[StateBackend, Any], object]]] = {
    "execution_id get_execution": (_ID, lambda b, bad: b.get_execution(bad)),
    "execution_id get_events": (_ID, lambda b, bad: b.get_events(bad)),
    "execution_id latest_sequence": (_ID, lambda b, bad: b.latest_sequence(bad)),
    "execution_id latest_snapshot": (_ID, lambda b, bad: b.latest_snapshot(bad)),
    "execution_id materialize": (_ID, lambda b, bad: b.materialize(bad)),
    "execution_id update_execution_status": (_ID, lambda b, bad: b.update_execution_status(bad, WorkflowStatus.PAUSED)),
    "status update_execution_status": (["paused", None], lambda b, bad: b.update_execution_status(uuid4(), bad)),
    "key patch_append_array": ([None, 5], lambda b, bad: b.patch_append_array(uuid4(), bad, 1)),
    "status list_executions": (["paused", 5], lambda b, bad: b.list_executions(bad)),
    "limit list_executions": ([None, *_LIMIT], lambda b, bad: b.list_executions(limit=bad)),
    "offset list_executions": ([-1, None, True], lambda b, bad: b.list_executions(offset=bad)),
    "after list_executions": (_PAGE_KEY, lambda b, bad: b.list_executions(after=bad)),
    "sequence get_events_since": ([None, -1, True], lambda b, bad: b.get_events_since(uuid4(), bad)),
    "expected_sequence append_event": (
        [-1, 1.5, True],
        lambda b, bad: b.append_event(an_event(an_execution()), expected_sequence=bad),
    ),
    "events append_events": ([None, "x", [5]], lambda b, bad: b.append_events(bad)),
    "worker_id claim_work_item": (_TEXT, lambda b, bad: b.claim_work_item(bad, [QUEUE])),
    "queue_types claim_work_item": ([None, "tool", [5]], lambda b, bad: b.claim_work_item("w", bad)),
    "lease claim_work_item": (_DURATION, lambda b, bad: b.claim_work_item("w", [QUEUE], lease=bad)),
    "limit claim_work_item": (_LIMIT, lambda b, bad: b.claim_work_item("w", [QUEUE], limit=bad)),
    "item complete_work_item": ([None, uuid4(), "x"], lambda b, bad: b.complete_work_item(bad)),
    "item renew_lease": ([None, uuid4(), "x"], lambda b, bad: b.renew_lease(bad)),
    "lease renew_lease": (_DURATION, lambda b, bad: b.renew_lease(an_item(an_execution()), bad)),
    "error fail_work_item": ([None, 5], lambda b, bad: b.fail_work_item(an_item(an_execution()), bad)),
    "until park_work_item": ([None, *_MOMENT], lambda b, bad: b.park_work_item(an_item(an_execution()), bad)),
    "item move_to_dead_letter": ([None, "x"], lambda b, bad: b.move_to_dead_letter(bad, "e")),
    "limit list_dead_letters": (_LIMIT, lambda b, bad: b.list_dead_letters(bad)),
    "after list_dead_letters": (_PAGE_KEY, lambda b, bad: b.list_dead_letters(after=bad)),
    "older_than purge_events": ([None, "x", -1, datetime(2024, 1, 1)], lambda b, bad: b.purge_events(bad)),
    "limit purge_work_items": (_LIMIT, lambda b, bad: b.purge_work_items(0, bad)),
    "name create_token": (_TEXT, lambda b, bad: b.create_token(bad, "r")),
    "role create_token": (_TEXT, lambda b, bad: b.create_token("t", bad)),
    "expires_at create_token": (_MOMENT, lambda b, bad: b.create_token("t", "r", expires_at=bad)),
    "token validate_token": ([None, 5, b"x"], lambda b, bad: b.validate_token(bad)),
    "ttl reserve_tool_effect": (_DURATION, lambda b, bad: b.reserve_tool_effect("k", uuid4(), "n", "o", 1, bad)),
    "term set_store_term_at_least": ([-1, None, 2**31, True], lambda b, bad: b.set_store_term_at_least(bad)),
}


class StateArgumentSuite(Suite):
    """What is refused."""

    def _store(self, root: StateBackend, field: str, value: Any) -> None:
        """Store a model in which one field has this value."""
        model, _, name = field.partition(".")
        execution = an_execution()
        root.create_execution(execution)
        calls: dict[str, tuple[Any, Callable[[Any], object]]] = {
            "execution": (an_execution(), root.create_execution),
            "event": (an_event(execution, ToolCalled(node_id="n", tool="t")), root.append_event),
            "item": (an_item(execution), root.enqueue_work_item),
            "snapshot": (Snapshot(execution_id=execution.execution_id, at_sequence=1, state=1), root.write_snapshot),
            "definition": (WorkflowDefinition(workflow_id="w", version="1", ir=1), root.store_workflow),
            "tenant": (Tenant(id="t", name="n"), root.create_tenant),
        }
        made: Any
        call: Callable[[Any], object]
        made, call = calls[model]
        assert name in {info.name for info in fields(made)}
        call(replace(made, **{name: value}))

    @pytest.mark.parametrize("field", FIELDS)
    def test_fields(self, root: StateBackend, store: StateUnderTest, field: str) -> None:
        for bad in FIELDS[field]:
            with pytest.raises(InvalidValueError) as caught:
                self._store(root, field, bad)
                pytest.fail(f"{field}={bad!r} was taken")
            assert caught.value.field == field

    @pytest.mark.parametrize("field", VALUES)
    def test_values(self, root: StateBackend, field: str) -> None:
        for bad in NOT_JSON:
            with pytest.raises(SerializationError) as caught:
                self._store(root, field, bad)
                pytest.fail(f"{field}={bad!r} was taken")
            assert caught.value.field.startswith(field)

    @pytest.mark.parametrize("number", range(len(KINDS)))
    def test_kinds(self, root: StateBackend, store: StateUnderTest, number: int) -> None:
        kind, name, error = KINDS[number]
        execution = an_execution()
        root.create_execution(execution)
        item = claimed(root, execution)
        before = store.dump()
        calls: list[Callable[[], object]] = [
            lambda: root.append_event(an_event(execution, kind)),
            lambda: root.start_execution(an_execution(), [an_event(execution, kind)]),
            lambda: root.commit_turn(item, an_event(execution, kind)),
        ]
        for call in calls:
            with pytest.raises((InvalidValueError, SerializationError)):
                call()
        with pytest.raises(error) as caught:
            root.append_event(an_event(execution, kind))
        assert f"event.kind.{name}" in str(caught.value)
        assert store.dump() == before

    @pytest.mark.parametrize("argument", ARGUMENTS)
    def test_arguments(self, root: StateBackend, store: StateUnderTest, argument: str) -> None:
        bad_values, call = ARGUMENTS[argument]
        before = store.dump()
        for bad in bad_values:
            with pytest.raises(InvalidValueError) as caught:
                call(root, bad)
                pytest.fail(f"{argument}={bad!r} was taken")
            assert argument.split()[0] in caught.value.field
        assert store.dump() == before

    def test_text_that_no_database_holds(self, root: StateBackend) -> None:
        for field in ("execution.workflow_id", "item.node_id", "item.queue_type", "definition.version", "tenant.id"):
            for bad in ("a\0b", "\udead"):
                with pytest.raises(SerializationError):
                    self._store(root, field, bad)

    @pytest.mark.parametrize("option", ["snapshot_every", "keep_snapshots", "clock"])
    def test_options(self, store: StateUnderTest, option: str) -> None:
        for bad in (0, -1, "1", True):
            with pytest.raises(InvalidValueError, match=option):
                store.open(**{option: bad})

    def test_after_close(self, store: StateUnderTest) -> None:
        backend = store.open()
        view = backend.for_tenant("default")
        view.close()
        assert backend.latest_sequence(uuid4()) == 0
        backend.close()
        backend.close()
        calls: list[Callable[[StateBackend], object]] = [
            lambda closed: closed.get_execution(uuid4()),
            lambda closed: closed.create_execution(an_execution()),
            lambda closed: closed.claim_work_item("w", [QUEUE]),
            lambda closed: closed.materialize(uuid4()),
        ]
        for closed in (backend, view):
            for call in calls:
                with pytest.raises(StoreClosedError):
                    call(closed)
