"""Definitions and executions."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from wfe_fast.errors import (
    DuplicateExecutionError,
    ExecutionNotFoundError,
    InvalidTransitionError,
    InvalidValueError,
    LeaseLostError,
)
from wfe_fast.state.contract import StateBackend
from wfe_fast.state.models import (
    TRANSITIONS,
    SessionType,
    WorkflowDefinition,
    WorkflowExecution,
    WorkflowStatus,
)
from wfe_fast.testing.clock import START, ManualClock
from wfe_fast.testing.state.base import BothScopes, StateUnderTest
from wfe_fast.testing.state.factories import QUEUE, an_execution, an_item, claimed

#: Keys that mean something in paths, in JSON or to a collation.
KEYS = ["list", "", "a.b", "$", "[0]", "#", '"', "\\", '\\"', "a\nb", "\x01", "ключ", "😀", "'", "x" * 300]


class ExecutionSuite(BothScopes):
    """See `contract.ExecutionOperations`."""

    def test_a_definition_comes_back(self, backend: StateBackend) -> None:
        made = WorkflowDefinition(workflow_id="w", version="1", ir={"nodes": [1, 2.0, None]}, created_at=START)
        backend.store_workflow(made)
        found = backend.get_workflow("w", "1")
        assert found is not None
        assert (found.ir, found.created_at, found.tenant_id) == (made.ir, START, backend.tenant_id or "default")
        assert backend.get_workflow("w", "2") is None
        assert backend.get_workflow("v", "1") is None

    def test_a_definition_is_replaced(self, backend: StateBackend) -> None:
        backend.store_workflow(WorkflowDefinition(workflow_id="w", version="1", ir=1))
        backend.store_workflow(WorkflowDefinition(workflow_id="w", version="1", ir=2, created_at=START))
        found = backend.get_workflow("w", "1")
        assert found is not None
        assert (found.ir, found.created_at) == (2, START)

    def test_every_field_of_an_execution_comes_back(self, backend: StateBackend) -> None:
        made = an_execution(
            initial_input={"big": 10**30, "f": 1.5},
            current_state=[1, {"ж": None}],
            started_at=START,
            completed_at=START,
            session_type=SessionType.RESUMABLE,
            parent_execution_id=uuid4(),
            segment_number=3,
        )
        backend.create_execution(made)
        found = backend.get_execution(made.execution_id)
        assert found == made
        assert found is not None
        assert found.session_type == "resumable"
        assert backend.get_execution(uuid4()) is None

    def test_an_id_is_taken_once(
        self, backend: StateBackend, execution: WorkflowExecution, store: StateUnderTest
    ) -> None:
        before = store.dump()
        with pytest.raises(DuplicateExecutionError):
            backend.create_execution(execution)
        assert store.dump() == before

    @pytest.mark.parametrize("wanted", WorkflowStatus)
    @pytest.mark.parametrize("current", WorkflowStatus)
    def test_status_changes(
        self,
        backend: StateBackend,
        clock: ManualClock,
        store: StateUnderTest,
        current: WorkflowStatus,
        wanted: WorkflowStatus,
    ) -> None:
        made = an_execution(status=current)
        backend.create_execution(made)
        before = store.dump()
        if wanted in TRANSITIONS.get(current, ()):
            backend.update_execution_status(made.execution_id, wanted)
            found = backend.get_execution(made.execution_id)
            assert found is not None
            assert (found.status, found.updated_at) == (wanted, clock())
            assert found.completed_at == (None if wanted in TRANSITIONS else clock())
            return
        if wanted is current:
            backend.update_execution_status(made.execution_id, wanted)
        else:
            with pytest.raises(InvalidTransitionError) as caught:
                backend.update_execution_status(made.execution_id, wanted)
            assert (caught.value.current, caught.value.wanted) == (current.value, wanted.value)
        assert store.dump() == before

    def test_cancelling_ends_the_items(
        self, backend: StateBackend, execution: WorkflowExecution, store: StateUnderTest
    ) -> None:
        held = claimed(backend, execution, "held")
        backend.enqueue_work_item(an_item(execution, "queued"))
        backend.update_execution_status(execution.execution_id, WorkflowStatus.CANCELLED)
        assert backend.claim_work_item("second", [QUEUE]) is None
        before = store.dump()
        with pytest.raises(LeaseLostError):
            backend.complete_work_item(held)
        assert store.dump() == before

    def test_what_is_missing_is_named(self, backend: StateBackend) -> None:
        missing = uuid4()
        for call in (
            lambda: backend.update_execution_status(missing, WorkflowStatus.RUNNING),
            lambda: backend.update_execution_current_state(missing, {}),
            lambda: backend.patch_append_array(missing, "k", 1),
            lambda: backend.materialize(missing),
        ):
            with pytest.raises(ExecutionNotFoundError, match=f"no execution '{missing}'"):
                call()

    def test_the_state_is_replaced(
        self, backend: StateBackend, execution: WorkflowExecution, clock: ManualClock
    ) -> None:
        backend.update_execution_current_state(execution.execution_id, {"new": [1, None]})
        found = backend.get_execution(execution.execution_id)
        assert found is not None
        assert (found.current_state, found.updated_at) == ({"new": [1, None]}, clock())

    @pytest.mark.parametrize("key", KEYS)
    def test_append_under_any_key(self, backend: StateBackend, execution: WorkflowExecution, key: str) -> None:
        values: list[Any] = [{"v": 1.5}, None, [10**30], "ж", True]
        for value in values:
            backend.patch_append_array(execution.execution_id, key, value)
        backend.patch_append_array(execution.execution_id, "other", 1)
        found = backend.get_execution(execution.execution_id)
        assert found is not None
        assert found.current_state == {key: values, "other": [1]}

    @pytest.mark.parametrize("state", [None, 1, "text", [], [1], True])
    def test_append_to_what_is_no_object(
        self, backend: StateBackend, execution: WorkflowExecution, state: Any, store: StateUnderTest
    ) -> None:
        backend.update_execution_current_state(execution.execution_id, state)
        before = store.dump()
        with pytest.raises(InvalidValueError):
            backend.patch_append_array(execution.execution_id, "k", 1)
        assert store.dump() == before

    @pytest.mark.parametrize("there", [None, 1, "text", {}, False])
    def test_append_to_what_is_no_array(
        self, backend: StateBackend, execution: WorkflowExecution, there: Any, store: StateUnderTest
    ) -> None:
        backend.update_execution_current_state(execution.execution_id, {"k": there})
        before = store.dump()
        with pytest.raises(InvalidValueError):
            backend.patch_append_array(execution.execution_id, "k", 1)
        assert store.dump() == before

    def test_lists_page_by_key_and_by_offset(self, backend: StateBackend, clock: ManualClock) -> None:
        made = []
        for number in range(7):
            one = an_execution(updated_at=START if number < 4 else clock.advance(1))
            backend.create_execution(one)
            made.append(one)
        expected = sorted(made, key=lambda one: (-one.updated_at.timestamp(), str(one.execution_id)))
        assert backend.list_executions() == expected
        assert backend.list_executions(limit=3, offset=2) == expected[2:5]
        found: list[WorkflowExecution] = []
        page = backend.list_executions(limit=2)
        while True:
            found += page
            if page.next is None:
                break
            assert backend.list_executions(limit=2, after=page[-1]) == backend.list_executions(limit=2, after=page.next)
            page = backend.list_executions(limit=2, after=page.next)
        assert found == expected

    def test_lists_by_status(self, backend: StateBackend) -> None:
        paused = an_execution(status=WorkflowStatus.PAUSED)
        for one in (paused, an_execution(), an_execution()):
            backend.create_execution(one)
        assert backend.list_executions(WorkflowStatus.PAUSED) == [paused]
        assert len(backend.list_executions(WorkflowStatus.RUNNING)) == 2
        assert backend.list_executions(WorkflowStatus.FAILED) == []
        assert backend.count_executions() == {WorkflowStatus.PAUSED: 1, WorkflowStatus.RUNNING: 2}
