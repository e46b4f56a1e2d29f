"""Races: threads of one backend, and processes with a backend each, start at a barrier and want the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from uuid import UUID

import pytest

from wfe_fast.state.contract import StateBackend
from wfe_fast.state.events import NodeCompleted
from wfe_fast.state.models import WorkflowExecution, WorkflowStatus
from wfe_fast.testing.racing import race_processes, race_threads, values
from wfe_fast.testing.state import jobs
from wfe_fast.testing.state.base import StateUnderTest
from wfe_fast.testing.state.factories import QUEUE, an_execution, an_item

Race = Callable[[Callable[..., Any], Sequence[tuple[Any, ...]]], list[Any]]

RACERS = 4


class StateRaceSuite:
    """Nothing is handed out twice, nothing is lost, nothing has a gap."""

    @pytest.fixture
    def shared(self, store: StateUnderTest) -> StateBackend:
        """A backend on the machine's clock."""
        return store.open()

    @pytest.fixture
    def execution(self, shared: StateBackend) -> WorkflowExecution:
        made = an_execution(current_state={})
        shared.create_execution(made)
        return made

    @pytest.fixture(params=["threads", "processes"])
    def race(self, request: pytest.FixtureRequest, store: StateUnderTest, shared: StateBackend) -> Race:
        """Threads of one backend, or processes."""

        def by_processes(job: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
            return values(race_processes(store.opener, job, arguments))

        def by_threads(job: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
            return values(race_threads([partial(job, shared, *args) for args in arguments]))

        return by_processes if request.param == "processes" else by_threads

    def test_events_of_one_execution(self, race: Race, shared: StateBackend, execution: WorkflowExecution) -> None:
        id = execution.execution_id
        numbers = race(jobs.append_many, [(id, str(racer), 25) for racer in range(RACERS)])
        assert sorted(number for own in numbers for number in own) == list(range(1, 25 * RACERS + 1))
        assert all(own == sorted(own) for own in numbers)
        found = shared.get_events(id)
        assert [event.sequence for event in found] == list(range(1, 25 * RACERS + 1))
        assert Counter(getattr(event.kind, "node_id", "") for event in found) == {str(n): 25 for n in range(RACERS)}

    def test_each_item_is_claimed_once(self, race: Race, shared: StateBackend, execution: WorkflowExecution) -> None:
        expected = []
        for number in range(60):
            item = an_item(execution, str(number), queue_type=("model", QUEUE)[number % 2], priority=number % 3)
            expected.append(str(shared.enqueue_work_item(item)))
        found = race(jobs.claim_all, [(str(racer), 1 + racer) for racer in range(RACERS)])
        assert sorted(id for ids in found for id in ids) == sorted(expected)

    def test_no_mark_is_lost(self, race: Race, shared: StateBackend, execution: WorkflowExecution) -> None:
        race(jobs.patch_many, [(execution.execution_id, str(racer), 15) for racer in range(RACERS)])
        found = shared.get_execution(execution.execution_id)
        assert found is not None
        marks = found.current_state["marks"]
        assert sorted(marks) == sorted(f"{racer}:{number}" for racer in range(RACERS) for number in range(15))
        for racer in range(RACERS):
            own = [mark for mark in marks if mark.startswith(f"{racer}:")]
            assert own == [f"{racer}:{number}" for number in range(15)]

    def test_cancel_against_claim(self, race: Race, shared: StateBackend, execution: WorkflowExecution) -> None:
        id = execution.execution_id
        for number in range(40):
            shared.enqueue_work_item(an_item(execution, str(number)))
        done = [
            node for own in race(jobs.cancel_or_work, [(id, role) for role in ("a", "b", "cancel")]) for node in own
        ]
        assert len(done) == len(set(done))
        assert set(shared.materialize(id).completed_nodes) == set(done)
        assert shared.latest_sequence(id) == len(done)
        assert shared.claim_work_item("w", [QUEUE]) is None
        found = shared.get_execution(id)
        assert found is not None
        assert found.status is WorkflowStatus.CANCELLED

    def test_complete_against_reclaim(self, race: Race, shared: StateBackend, execution: WorkflowExecution) -> None:
        shared.enqueue_work_item(an_item(execution))
        item = shared.claim_work_item("w", [QUEUE], lease=0.001)
        assert item is not None
        found = race(jobs.complete_or_reclaim, [(item.id, role) for role in ("complete", "reclaim", "complete")])
        assert len([winner for winner in found if winner]) == 1
        assert shared.latest_sequence(execution.execution_id) == (2 if "reclaim" in found else 0)

    def test_snapshot_against_append(self, race: Race, shared: StateBackend, execution: WorkflowExecution) -> None:
        id = execution.execution_id
        for number in range(20):
            shared.enqueue_work_item(an_item(execution, f"n{number}"))
        race(jobs.snapshot_or_append, [(id, role, 30) for role in ("a", "b", "append")])
        snapshot = shared.latest_snapshot(id)
        assert snapshot is not None
        before = [event for event in shared.get_events(id) if event.sequence <= snapshot.at_sequence]
        assert len(before) == snapshot.at_sequence
        nodes = {event.kind.node_id for event in before if isinstance(event.kind, NodeCompleted)}
        assert set(snapshot.completed_nodes) == nodes
        assert len(shared.materialize(id).completed_nodes) == 20
        assert shared.latest_sequence(id) == 50

    def test_one_end(self, race: Race, shared: StateBackend, execution: WorkflowExecution) -> None:
        id: UUID = execution.execution_id
        assert race(jobs.finish, [(id, str(racer)) for racer in range(RACERS)]).count(True) == 1
        assert shared.latest_sequence(id) == 1
