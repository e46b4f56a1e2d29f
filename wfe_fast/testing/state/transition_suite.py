"""Changes that belong together, effects, retention."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from wfe_fast.errors import (
    DuplicateExecutionError,
    DuplicateWorkItemError,
    InvalidTransitionError,
    InvalidValueError,
)
from wfe_fast.state.contract import StateBackend
from wfe_fast.state.events import ProvenanceMetadata, WorkflowCompleted, WorkflowFailed
from wfe_fast.state.models import (
    TERMINAL_STATUSES,
    Acquired,
    Held,
    Recorded,
    Snapshot,
    Tenant,
    WorkflowExecution,
    WorkflowStatus,
)
from wfe_fast.testing.clock import ManualClock
from wfe_fast.testing.state.base import BothScopes, StateUnderTest
from wfe_fast.testing.state.factories import (
    QUEUE,
    an_event,
    an_execution,
    an_item,
    claimed,
    completed,
    failed,
    scheduled,
)


class TransitionSuite(BothScopes):
    """See `contract.TransitionOperations`."""

    def test_start(self, backend: StateBackend) -> None:
        execution = an_execution()
        events = [an_event(execution), an_event(execution, scheduled())]
        assert backend.start_execution(execution, events, an_item(execution)) == 2
        assert backend.get_execution(execution.execution_id) == execution
        assert [event.id for event in backend.get_events(execution.execution_id)] == [event.id for event in events]
        assert backend.claim_work_item("w", [QUEUE]) is not None
        assert backend.start_execution(an_execution()) == 0

    def test_start_is_whole_or_nothing(self, backend: StateBackend, store: StateUnderTest) -> None:
        first = an_execution()
        item = an_item(first)
        backend.start_execution(first, [an_event(first)], item)
        before = store.dump()
        second = an_execution()
        with pytest.raises(DuplicateWorkItemError):
            backend.start_execution(second, [an_event(second)], an_item(second, id=item.id))
        with pytest.raises(DuplicateExecutionError):
            backend.start_execution(first, [an_event(first)], an_item(first, "m"))
        for events, wrong in (([an_event(first)], an_item(second)), ([an_event(second)], an_item(first))):
            with pytest.raises(InvalidValueError):
                backend.start_execution(second, events, wrong)
        assert store.dump() == before

    def test_schedule(self, backend: StateBackend, execution: WorkflowExecution, store: StateUnderTest) -> None:
        event, item = an_event(execution, scheduled()), an_item(execution)
        assert backend.schedule_node(event, item) == 1
        before = store.dump()
        assert backend.schedule_node(event, item) == 1
        with pytest.raises(DuplicateWorkItemError):
            backend.schedule_node(an_event(execution, scheduled()), an_item(execution))
        for wrong in (an_event(execution, scheduled("m")), an_event(execution), an_event(an_execution(), scheduled())):
            with pytest.raises(InvalidValueError):
                backend.schedule_node(wrong, an_item(execution))
        assert store.dump() == before

    def test_commit(self, backend: StateBackend, execution: WorkflowExecution, store: StateUnderTest) -> None:
        item = claimed(backend, execution)
        assert backend.commit_turn(item, an_event(execution, completed())) == 1
        assert backend.claim_work_item("w", [QUEUE]) is None
        assert backend.latest_snapshot(execution.execution_id) is None
        item = claimed(backend, execution, "m")
        assert backend.commit_turn(item, an_event(execution, completed("m")), snapshot=True) == 2
        found = backend.latest_snapshot(execution.execution_id)
        assert found is not None
        assert (found.at_sequence, found.last_sequence, found.state) == (2, 2, {"n": "done", "m": "done"})
        assert found.completed_nodes == {"n": {"of": "n"}, "m": {"of": "m"}}
        item = claimed(backend, execution, "k")
        assert backend.commit_turn(item, an_event(execution, failed("k"))) == 3
        assert backend.claim_work_item("w", [QUEUE]) is None
        assert backend.list_dead_letters() == []

    def test_commit_of_something_else(
        self, backend: StateBackend, execution: WorkflowExecution, store: StateUnderTest
    ) -> None:
        item = claimed(backend, execution)
        other = an_execution()
        backend.create_execution(other)
        before = store.dump()
        wrong = [an_event(execution), an_event(execution, completed("m")), an_event(other, completed())]
        for event in wrong:
            with pytest.raises(InvalidValueError, match="event"):
                backend.commit_turn(item, event)
        item.execution_id = other.execution_id
        with pytest.raises(InvalidValueError, match="event"):
            backend.commit_turn(item, an_event(other, completed()))
        assert store.dump() == before

    def test_commit_of_an_event_that_is_there(self, backend: StateBackend, execution: WorkflowExecution) -> None:
        item = claimed(backend, execution)
        event = an_event(execution, completed())
        backend.append_events([event, an_event(execution)])
        assert backend.commit_turn(item, event) == 1
        assert backend.latest_sequence(execution.execution_id) == 2

    def test_finish(
        self, backend: StateBackend, execution: WorkflowExecution, store: StateUnderTest, clock: ManualClock
    ) -> None:
        event = an_event(execution, WorkflowCompleted(final_state=1))
        for kind, status in (
            (WorkflowCompleted(final_state=1), WorkflowStatus.FAILED),
            (WorkflowFailed(error="e"), WorkflowStatus.RUNNING),
        ):
            with pytest.raises(InvalidValueError, match="status"):
                backend.finish_execution(an_event(execution, kind), status)
        assert backend.finish_execution(event, WorkflowStatus.COMPLETED) == 1
        found = backend.get_execution(execution.execution_id)
        assert found is not None
        assert (found.status, found.completed_at) == (WorkflowStatus.COMPLETED, clock())
        before = store.dump()
        assert backend.finish_execution(event, WorkflowStatus.COMPLETED) == 1
        for late, status in (
            (an_event(execution, WorkflowCompleted(final_state=2)), WorkflowStatus.COMPLETED),
            (an_event(execution, WorkflowFailed(error="e")), WorkflowStatus.FAILED),
        ):
            with pytest.raises(InvalidTransitionError):
                backend.finish_execution(late, status)
        assert store.dump() == before

    def test_finish_by_another_event_cancels_as_well(self, backend: StateBackend, execution: WorkflowExecution) -> None:
        backend.enqueue_work_item(an_item(execution))
        backend.finish_execution(an_event(execution, failed()), WorkflowStatus.CANCELLED)
        assert backend.claim_work_item("w", [QUEUE]) is None


class EffectSuite(BothScopes):
    """See `contract.EffectOperations`."""

    def test_the_first_result_stays(self, backend: StateBackend, execution: WorkflowExecution) -> None:
        assert backend.get_tool_effect("k") is None
        result: dict[str, Any] = {
            "output": {"o": 1.5},
            "state_patch": {"s": None},
            "duration_ms": 8,
            "gen_ai_system": "sys",
            "gen_ai_model": "mod",
            "input_tokens": 1,
            "output_tokens": 2,
            "finish_reason": "stop",
            "cost_usd": 0.5,
        }
        first = completed("a", idempotency_key="k", provenance=ProvenanceMetadata(model_id="m"), **result)
        backend.commit_turn(claimed(backend, execution, "a"), an_event(execution, first))
        backend.commit_turn(claimed(backend, execution, "b"), an_event(execution, completed("b", idempotency_key="k")))
        backend.commit_turn(claimed(backend, execution, "c"), an_event(execution, completed("c")))
        assert backend.get_tool_effect("k") == {**result, "provenance": {"model_id": "m"}}

    def test_reservations(self, backend: StateBackend, execution: WorkflowExecution, clock: ManualClock) -> None:
        id = execution.execution_id
        assert backend.reserve_tool_effect("k", id, "n", "one", 1, 10) == Acquired()
        assert backend.reserve_tool_effect("k", id, "n", "one", 2, 10) == Acquired()
        assert backend.reserve_tool_effect("k", id, "n", "two", 3) == Held(
            owner="one", expires_at=clock() + timedelta(seconds=10)
        )
        assert backend.release_tool_reservation("k", "one", 1) is False
        assert backend.release_tool_reservation("k", "two", 2) is False
        assert backend.release_tool_reservation("k", "one", 2) is True
        assert backend.reserve_tool_effect("k", id, "n", "two", 3, 10) == Acquired()
        clock.advance(10)
        assert backend.reserve_tool_effect("k", id, "n", "three", 4, 10) == Acquired()
        item = claimed(backend, execution)
        backend.commit_turn(item, an_event(execution, completed(idempotency_key="k", output=7)))
        again = backend.reserve_tool_effect("k", id, "n", "four", 5)
        assert isinstance(again, Recorded)
        assert again.result["output"] == 7

    def test_releasing_is_each_tenants_own(self, root: StateBackend, store: StateUnderTest) -> None:
        """A key may be reserved in several tenants by owners of one name; who serves all of them gives back the default one's."""
        root.create_tenant(Tenant(id="other", name="O"))
        views = [root.for_tenant("other"), root.for_tenant("default")]
        for view in views:
            made = an_execution()
            view.create_execution(made)
            assert view.reserve_tool_effect("k", made.execution_id, "n", "one", 1) == Acquired()
        assert root.release_tool_reservation("k", "one", 1) is True
        assert [row[1] for row in store.dump()["state_reservations"]] == ["other"]
        before = store.dump()
        assert root.release_tool_reservation("k", "one", 1) is False
        assert views[1].release_tool_reservation("k", "one", 1) is False
        assert store.dump() == before
        assert views[0].release_tool_reservation("k", "one", 1) is True


class RetentionSuite(BothScopes):
    """See `contract.RetentionOperations`."""

    def test_items(self, backend: StateBackend, execution: WorkflowExecution, clock: ManualClock) -> None:
        for number in range(3):
            backend.complete_work_item(claimed(backend, execution, str(number)))
            clock.advance(1)
        backend.move_to_dead_letter(claimed(backend, execution, "dead"), "e")
        live = an_item(execution, "live")
        backend.enqueue_work_item(live)
        clock.advance(10)
        assert backend.purge_work_items(12.5) == 1
        assert backend.purge_work_items(0, limit=1) == 1
        assert backend.purge_work_items(0) == 1
        assert backend.purge_work_items(0) == 0
        assert backend.get_work_item(live.id) is not None
        assert len(backend.list_dead_letters()) == 1

    def test_events_of_what_is_over(
        self, backend: StateBackend, execution: WorkflowExecution, clock: ManualClock
    ) -> None:
        running = an_execution()
        backend.create_execution(running)
        backend.append_event(an_event(running))
        backend.append_events([an_event(execution), an_event(execution, completed())])
        backend.finish_execution(an_event(execution, WorkflowFailed(error="e")), WorkflowStatus.FAILED)
        before = backend.materialize(execution.execution_id)
        assert backend.purge_events(1) == 0
        clock.advance(2)
        assert backend.purge_events(1) == 3
        assert backend.purge_events(1) == 0
        assert backend.get_events(execution.execution_id) == []
        assert backend.materialize(execution.execution_id) == before
        assert backend.latest_sequence(execution.execution_id) == 3
        assert backend.append_event(an_event(execution)) == 4
        assert len(backend.get_events(running.execution_id)) == 1

    def test_a_snapshot_that_was_moved_back(
        self, backend: StateBackend, execution: WorkflowExecution, clock: ManualClock
    ) -> None:
        """What no snapshot holds any more is still in the events, until one takes their place."""
        for number in range(10):
            backend.append_event(an_event(execution, completed(f"n{number}")))
        made = Snapshot(execution_id=execution.execution_id, at_sequence=10, state={"all": "ten"})
        backend.write_snapshot(made)
        backend.write_snapshot(replace(made, at_sequence=1, last_sequence=1, state={}))
        backend.update_execution_status(execution.execution_id, WorkflowStatus.COMPLETED)
        before = backend.materialize(execution.execution_id)
        assert before.current_state == {f"n{number}": "done" for number in range(1, 10)}
        clock.advance(2)
        assert backend.purge_events(1) == 10
        assert backend.materialize(execution.execution_id) == before

    def test_events_of_what_runs_stay_whatever_it_says_of_its_end(
        self, backend: StateBackend, clock: ManualClock
    ) -> None:
        long_ago = clock() - timedelta(days=99)
        made = {status: an_execution(status=status, completed_at=long_ago) for status in WorkflowStatus}
        for execution in made.values():
            backend.create_execution(execution)
            backend.append_event(an_event(execution))
        assert backend.purge_events(1) == len(TERMINAL_STATUSES)
        kept = {status for status, one in made.items() if backend.get_events(one.execution_id)}
        assert kept == set(WorkflowStatus) - TERMINAL_STATUSES

    def test_tokens(self, backend: StateBackend, clock: ManualClock) -> None:
        _, kept = backend.create_token("kept", "r")
        _, revoked = backend.create_token("revoked", "r")
        backend.create_token("expiring", "r", expires_at=clock() + timedelta(seconds=5))
        backend.revoke_token(revoked.id)
        clock.advance(3)
        assert backend.purge_tokens(1) == 1
        clock.advance(5)
        assert backend.purge_tokens(1) == 1
        assert backend.purge_tokens(0) == 0
        assert [token.id for token in backend.list_tokens()] == [kept.id]
