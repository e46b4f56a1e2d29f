"""Events, snapshots, and the state that follows."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from wfe_fast.codec import MAX_DEPTH
from wfe_fast.errors import (
    DuplicateEventError,
    DuplicateSnapshotError,
    ExecutionNotFoundError,
    InvalidValueError,
    SequenceConflictError,
)
from wfe_fast.state.contract import StateBackend
from wfe_fast.state.events import (
    ApprovalReceived,
    InterruptRaised,
    NodeSkipped,
    NodeStarted,
    StrategyLimitHit,
    UnknownEventKind,
    WorkflowCancelled,
    WorkflowCompleted,
    WorkflowFailed,
)
from wfe_fast.state.models import MaterializedState, Snapshot, WorkflowExecution, WorkflowStatus
from wfe_fast.testing.clock import START, ManualClock
from wfe_fast.testing.state.base import BothScopes, StateUnderTest
from wfe_fast.testing.state.factories import an_event, an_execution, completed, failed, full_kinds, scheduled


def snapshot_of(execution: WorkflowExecution, state: MaterializedState, **fields: Any) -> Snapshot:
    """What was materialized, as a snapshot."""
    made = {
        "execution_id": execution.execution_id,
        "at_sequence": state.last_sequence,
        "state": state.current_state,
        "status": state.status,
        "completed_nodes": state.completed_nodes,
        "active_nodes": state.active_nodes,
    }
    return Snapshot(**{**made, **fields})


def _from_below(frames: int, call: Callable[[], object]) -> object:
    """Call from so many frames further down the stack."""
    return call() if frames == 0 else _from_below(frames - 1, call)


class EventSuite(BothScopes):
    """See `contract.EventOperations`."""

    def test_numbers_without_a_gap(self, backend: StateBackend, execution: WorkflowExecution) -> None:
        assert backend.latest_sequence(execution.execution_id) == 0
        made = [an_event(execution, sequence=label, created_at=START) for label in (3, 1, 2)]
        assert [backend.append_event(event) for event in made] == [1, 2, 3]
        found = backend.get_events(execution.execution_id)
        assert [event.sequence for event in found] == [1, 2, 3]
        assert [(event.id, event.kind, event.created_at) for event in found] == [(e.id, e.kind, START) for e in made]
        assert [event.sequence for event in backend.get_events_since(execution.execution_id, 1)] == [2, 3]
        assert backend.get_events_since(execution.execution_id, 3) == []
        assert backend.latest_sequence(execution.execution_id) == 3

    def test_nothing_of_an_execution_that_is_not_there(self, backend: StateBackend) -> None:
        nobody = an_execution()
        assert backend.get_events(nobody.execution_id) == []
        assert backend.latest_sequence(nobody.execution_id) == 0
        assert backend.latest_snapshot(nobody.execution_id) is None
        with pytest.raises(ExecutionNotFoundError):
            backend.append_event(an_event(nobody))
        with pytest.raises(ExecutionNotFoundError):
            backend.write_snapshot(Snapshot(execution_id=nobody.execution_id, at_sequence=1, state={}))

    def test_every_kind_comes_back(self, backend: StateBackend, execution: WorkflowExecution) -> None:
        kinds = full_kinds()
        assert len(kinds) == 44
        numbers = backend.append_events([an_event(execution, kind) for kind in kinds])
        assert numbers == list(range(1, 45))
        assert [event.kind for event in backend.get_events(execution.execution_id)] == kinds

    def test_an_unknown_kind_comes_back_and_goes_on(self, backend: StateBackend, execution: WorkflowExecution) -> None:
        kind = UnknownEventKind("quantum_leap", {"node_id": "n", "b": 1.0, "a": [10**30, None, {"ж": "\\u0000"}]})
        backend.append_event(an_event(execution, kind))
        (found,) = backend.get_events(execution.execution_id)
        assert found.kind == kind
        other = an_execution()
        backend.create_execution(other)
        backend.append_event(an_event(other, found.kind))
        assert backend.get_events(other.execution_id)[0].kind == kind
        assert backend.materialize(other.execution_id).last_sequence == 1

    @pytest.mark.parametrize(("before", "after"), [(True, 1), (1, True), (1, 1.0), (0.0, -0.0)])
    def test_an_unknown_kind_that_was_changed(
        self, backend: StateBackend, execution: WorkflowExecution, before: Any, after: Any
    ) -> None:
        """Also where the new value is equal to the old one in Python, and another one in JSON."""
        backend.append_event(an_event(execution, UnknownEventKind("quantum_leap", {"a": [before]})))
        kind = backend.get_events(execution.execution_id)[0].kind
        assert isinstance(kind, UnknownEventKind)
        kind.fields["a"] = [after]
        backend.append_event(an_event(execution, kind))
        found = [event.kind for event in backend.get_events(execution.execution_id)]
        assert repr(found) == repr(
            [UnknownEventKind("quantum_leap", {"a": [before]}), UnknownEventKind("quantum_leap", {"a": [after]})]
        )

    def test_expected_sequence(
        self, backend: StateBackend, execution: WorkflowExecution, store: StateUnderTest
    ) -> None:
        assert backend.append_event(an_event(execution), expected_sequence=0) == 1
        before = store.dump()
        for wrong in (0, 2, 99):
            with pytest.raises(SequenceConflictError) as caught:
                backend.append_event(an_event(execution), expected_sequence=wrong)
            assert (caught.value.expected, caught.value.actual) == (wrong, 1)
            with pytest.raises(SequenceConflictError):
                backend.append_events([an_event(execution)], expected_sequence=wrong)
        assert store.dump() == before
        assert backend.append_events([an_event(execution), an_event(execution)], expected_sequence=1) == [2, 3]

    def test_the_same_id_again(
        self, backend: StateBackend, execution: WorkflowExecution, store: StateUnderTest
    ) -> None:
        event = an_event(execution)
        backend.append_events([an_event(execution), event])
        before = store.dump()
        again = an_event(execution, failed(), id=event.id)
        assert backend.append_event(again) == 2
        assert backend.append_event(again, expected_sequence=77) == 2
        assert backend.append_events([again, again]) == [2, 2]
        assert store.dump() == before
        fresh = an_event(execution)
        assert backend.append_events([fresh, again, fresh]) == [3, 2, 3]

    def test_an_id_of_another_execution(
        self, backend: StateBackend, execution: WorkflowExecution, store: StateUnderTest
    ) -> None:
        other = an_execution()
        backend.create_execution(other)
        event = an_event(other)
        backend.append_event(event)
        before = store.dump()
        with pytest.raises(DuplicateEventError):
            backend.append_events([an_event(execution), an_event(execution, id=event.id)])
        assert store.dump() == before

    def test_events_of_two_executions_at_once(self, backend: StateBackend, execution: WorkflowExecution) -> None:
        other = an_execution()
        backend.create_execution(other)
        with pytest.raises(InvalidValueError, match="events"):
            backend.append_events([an_event(execution), an_event(other)])
        assert backend.append_events([]) == []

    # -- snapshots ---------------------------------------------------------------------------------------------------------------

    def test_a_snapshot_comes_back(self, backend: StateBackend, execution: WorkflowExecution) -> None:
        made = Snapshot(
            execution_id=execution.execution_id,
            at_sequence=5,
            state={"a": [1]},
            status=WorkflowStatus.PAUSED,
            completed_nodes={"n": {"x": 1}},
            active_nodes={"m", "k"},
            last_sequence=4,
            created_at=START,
        )
        backend.write_snapshot(made)
        assert backend.latest_snapshot(execution.execution_id) == made

    def test_defaults_of_a_snapshot(self, execution: WorkflowExecution) -> None:
        made = Snapshot(execution_id=execution.execution_id, at_sequence=9, state={})
        assert (made.status, made.completed_nodes, made.active_nodes) == (WorkflowStatus.PENDING, {}, set())
        assert made.last_sequence == 9

    def test_the_highest_counts_and_the_same_is_replaced(
        self, backend: StateBackend, execution: WorkflowExecution
    ) -> None:
        for at, state in ((5, "five"), (9, "nine"), (7, "seven"), (9, "nine again")):
            backend.write_snapshot(Snapshot(execution_id=execution.execution_id, at_sequence=at, state=state))
        found = backend.latest_snapshot(execution.execution_id)
        assert found is not None
        assert (found.at_sequence, found.state) == (9, "nine again")

    def test_a_snapshot_moves_with_its_id(self, backend: StateBackend, execution: WorkflowExecution) -> None:
        made = Snapshot(execution_id=execution.execution_id, at_sequence=9, state=1)
        backend.write_snapshot(made)
        made.at_sequence = 4
        backend.write_snapshot(made)
        assert backend.latest_snapshot(execution.execution_id) == made
        other = an_execution()
        backend.create_execution(other)
        with pytest.raises(DuplicateSnapshotError):
            backend.write_snapshot(Snapshot(id=made.id, execution_id=other.execution_id, at_sequence=1, state=2))

    def test_only_so_many_are_kept(self, store: StateUnderTest, clock: ManualClock) -> None:
        backend = store.open(clock=clock, keep_snapshots=2, snapshot_every=3)
        execution = an_execution()
        backend.create_execution(execution)
        for number in range(10):
            backend.append_event(an_event(execution, completed(f"n{number}")))
        found = backend.latest_snapshot(execution.execution_id)
        assert found is not None
        assert (found.at_sequence, len(found.completed_nodes)) == (9, 9)
        assert len(backend.materialize(execution.execution_id).completed_nodes) == 10
        assert len(store.dump()["state_snapshots"]) == 2

    # -- materialize -------------------------------------------------------------------------------------------------------------

    def test_a_life(self, backend: StateBackend) -> None:
        execution = an_execution(initial_input={"given": 1, "kept": 2})
        backend.create_execution(execution)
        assert backend.materialize(execution.execution_id) == MaterializedState(current_state={"given": 1, "kept": 2})
        backend.append_events(
            [
                an_event(execution),
                an_event(execution, scheduled("a")),
                an_event(execution, NodeStarted(node_id="a", worker_id="w", attempt=0)),
                an_event(execution, completed("a", output="A", state_patch={"given": None, "new": {"x": {"y": 1}}})),
                an_event(execution, completed("b", output="B", state_patch={"new": {"x": {"z": 2}}})),
                an_event(execution, scheduled("c")),
            ]
        )
        assert backend.materialize(execution.execution_id) == MaterializedState(
            current_state={"kept": 2, "new": {"x": {"y": 1, "z": 2}}},
            status=WorkflowStatus.RUNNING,
            completed_nodes={"a": "A", "b": "B"},
            active_nodes={"c"},
            last_sequence=6,
        )

    @pytest.mark.parametrize(
        ("kinds", "status", "state"),
        [
            ([WorkflowCompleted(final_state=[1])], WorkflowStatus.COMPLETED, [1]),
            ([WorkflowFailed(error="e")], WorkflowStatus.FAILED, {"s": 0}),
            ([WorkflowCancelled()], WorkflowStatus.CANCELLED, {"s": 0}),
            (
                [StrategyLimitHit(limit_type="t", limit_value=1, actual_value=2)],
                WorkflowStatus.LIMIT_EXCEEDED,
                {"s": 0},
            ),
            ([InterruptRaised(node_id="n", reason="r", state_for_review=1)], WorkflowStatus.PAUSED, {"s": 0}),
            (
                [
                    InterruptRaised(node_id="n", reason="r", state_for_review=1),
                    ApprovalReceived(node_id="n", user_id="u", decision="approved", state_patch={"ok": True}),
                ],
                WorkflowStatus.RUNNING,
                {"s": 0, "ok": True},
            ),
            (
                [
                    WorkflowCancelled(),
                    ApprovalReceived(node_id="n", user_id="u", decision="approved", state_patch={"late": True}),
                ],
                WorkflowStatus.CANCELLED,
                {"s": 0},
            ),
            ([WorkflowCompleted(final_state=1), WorkflowFailed(error="late")], WorkflowStatus.COMPLETED, 1),
        ],
    )
    def test_ends_and_pauses(self, backend: StateBackend, kinds: list[Any], status: WorkflowStatus, state: Any) -> None:
        execution = an_execution(initial_input={"s": 0})
        backend.create_execution(execution)
        backend.append_events([an_event(execution), *(an_event(execution, kind) for kind in kinds)])
        found = backend.materialize(execution.execution_id)
        assert (found.status, found.current_state) == (status, state)

    def test_any_snapshot_and_its_tail_are_the_whole(self, backend: StateBackend) -> None:
        chance = random.Random(7)
        nodes = ["a", "b", "c"]
        for _ in range(8):
            kinds: list[Any] = []
            for _ in range(chance.randrange(1, 14)):
                node = chance.choice(nodes)
                patch = chance.choice([None, {node: chance.randrange(9)}, {"a": None}, {"deep": {node: {"x": 1}}}, [1]])
                kinds.append(
                    chance.choice(
                        [
                            scheduled(node),
                            completed(node, state_patch=patch),
                            failed(node),
                            NodeSkipped(node_id=node, reason="r"),
                            InterruptRaised(node_id=node, reason="r", state_for_review=None),
                            ApprovalReceived(node_id=node, user_id="u", decision="approved", state_patch=patch),
                        ]
                    )
                )
            whole: MaterializedState | None = None
            for cut in range(len(kinds) + 1):
                execution = an_execution(initial_input={"z": 1})
                backend.create_execution(execution)
                backend.append_event(an_event(execution))
                for kind in kinds[:cut]:
                    backend.append_event(an_event(execution, kind))
                backend.write_snapshot(snapshot_of(execution, backend.materialize(execution.execution_id)))
                for kind in kinds[cut:]:
                    backend.append_event(an_event(execution, kind))
                found = backend.materialize(execution.execution_id)
                whole = whole or found
                assert found == whole

    def test_the_deepest_values(self, store: StateUnderTest, clock: ManualClock) -> None:
        """As deep as a value may be, called from some way down the stack."""
        deepest: Any = 1
        for _ in range(MAX_DEPTH):
            deepest = {"d": deepest}
        for every in (None, 1):
            backend = store.open(clock=clock, snapshot_every=every)
            execution = an_execution()
            backend.create_execution(execution)
            kinds: list[Any] = [completed(output=deepest, state_patch=deepest), WorkflowCompleted(final_state=deepest)]
            for kind in kinds:
                _from_below(100, partial(backend.append_event, an_event(execution, kind)))
            found = _from_below(100, partial(backend.materialize, execution.execution_id))
            assert isinstance(found, MaterializedState)
            assert (found.status, found.last_sequence) == (WorkflowStatus.COMPLETED, 2)
            assert found.current_state == deepest
            assert found.completed_nodes == {"n": deepest}
            assert (backend.latest_snapshot(execution.execution_id) is None) == (every is None)

    def test_after_a_restart(self, store: StateUnderTest, execution: WorkflowExecution, backend: StateBackend) -> None:
        for node in ("s1", "s2"):
            backend.append_event(an_event(execution, scheduled(node)))
        backend.append_event(an_event(execution, completed("s1", state_patch={"__budget": {"total_input_tokens": 5}})))
        before = backend.materialize(execution.execution_id)
        again = store.open()
        assert again.materialize(execution.execution_id) == before
        assert again.latest_sequence(execution.execution_id) == 3
