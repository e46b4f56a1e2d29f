"""Items that were given up."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import pytest

from wfe_fast.errors import DeadLetterNotFoundError, DuplicateWorkItemError, LeaseLostError, WorkItemNotFoundError
from wfe_fast.state.contract import StateBackend
from wfe_fast.state.events import NodeFailed
from wfe_fast.state.models import DeadLetter, WorkflowExecution, WorkflowStatus
from wfe_fast.testing.clock import ManualClock
from wfe_fast.testing.state.base import BothScopes, StateUnderTest
from wfe_fast.testing.state.factories import QUEUE, an_event, an_item, claimed, failed


class DeadLetterSuite(BothScopes):
    """See `contract.DeadLetterOperations`."""

    @pytest.mark.parametrize("by", ["item", "id"])
    def test_giving_up(self, backend: StateBackend, execution: WorkflowExecution, clock: ManualClock, by: str) -> None:
        item = claimed(backend, execution)
        backend.move_to_dead_letter(item if by == "item" else item.id, "hopeless")
        letter = backend.get_dead_letter(item.id)
        assert (letter.id, letter.node_id, letter.last_error) == (item.id, "n", "hopeless")
        assert (letter.dead_lettered_at, letter.worker_id) == (clock(), None)
        assert backend.list_dead_letters() == [letter]
        (event,) = backend.get_events(execution.execution_id)
        assert event.kind == NodeFailed(node_id="n", error="hopeless", attempt=0, retryable=False)

    def test_giving_up_in_any_status(self, backend: StateBackend, execution: WorkflowExecution) -> None:
        queued = an_item(execution, "queued")
        backend.enqueue_work_item(queued)
        backend.move_to_dead_letter(queued, "never claimed")
        done = claimed(backend, execution, "done")
        backend.complete_work_item(done)
        backend.move_to_dead_letter(done.id, "done wrongly")
        assert {letter.node_id for letter in backend.list_dead_letters()} == {"queued", "done"}
        assert len(backend.get_events(execution.execution_id)) == 1

    def test_requeue(self, backend: StateBackend, execution: WorkflowExecution, clock: ManualClock) -> None:
        item = claimed(backend, execution, max_attempts=1)
        backend.fail_work_item(item, "e")
        clock.advance(5)
        queued = backend.requeue_dead_letter(item.id)
        assert (queued.id, queued.attempt, queued.lease_fence) == (item.id, 0, 0)
        with pytest.raises(DeadLetterNotFoundError):
            backend.requeue_dead_letter(item.id)
        again = backend.claim_work_item("w", [QUEUE])
        assert again is not None
        assert again.lease_fence > item.lease_fence

    @pytest.mark.parametrize("end", ["completed", "failed", "cancelled", "given up"])
    def test_giving_up_what_is_settled_takes_its_id(
        self, backend: StateBackend, execution: WorkflowExecution, store: StateUnderTest, end: str
    ) -> None:
        """The item as it is stored then has no fence, as one that waits has none."""
        item = claimed(backend, execution)
        if end == "completed":
            backend.complete_work_item(item)
        elif end == "failed":
            backend.commit_turn(item, an_event(execution, failed()))
        elif end == "cancelled":
            backend.update_execution_status(execution.execution_id, WorkflowStatus.CANCELLED)
        else:
            backend.move_to_dead_letter(item, "first")
        settled = backend.get_work_item(item.id)
        assert settled is not None
        assert settled.lease_fence == 0
        before = store.dump()
        with pytest.raises(LeaseLostError, match=str(item.id)):
            backend.move_to_dead_letter(settled, "late")
        assert store.dump() == before
        backend.move_to_dead_letter(item.id, "by hand")
        assert backend.get_dead_letter(item.id).last_error == "by hand"

    def test_requeue_waits_for_run_at(
        self, backend: StateBackend, execution: WorkflowExecution, clock: ManualClock
    ) -> None:
        early = an_item(execution, "early", run_at=clock() - timedelta(seconds=5))
        late = an_item(execution, "late", run_at=clock() + timedelta(seconds=5))
        for item in (early, late):
            backend.enqueue_work_item(item)
            backend.move_to_dead_letter(item, "e")
            assert backend.requeue_dead_letter(item.id).run_at == item.run_at
        assert [item.node_id for item in backend.claim_work_item("w", [QUEUE], limit=2)] == ["early"]
        clock.advance(4.999)
        assert backend.claim_work_item("w", [QUEUE]) is None
        clock.advance(0.001)
        assert [item.node_id for item in backend.claim_work_item("w", [QUEUE], limit=2)] == ["late"]

    def test_requeue_beside_a_live_item(
        self, backend: StateBackend, execution: WorkflowExecution, store: StateUnderTest
    ) -> None:
        item = claimed(backend, execution)
        backend.move_to_dead_letter(item, "e")
        backend.enqueue_work_item(an_item(execution))
        before = store.dump()
        with pytest.raises(DuplicateWorkItemError):
            backend.requeue_dead_letter(item.id)
        assert store.dump() == before

    def test_pages_and_purge(self, backend: StateBackend, execution: WorkflowExecution, clock: ManualClock) -> None:
        for number in range(5):
            item = claimed(backend, execution, str(number))
            clock.advance(number // 2)
            backend.move_to_dead_letter(item, "e")
        everything = backend.list_dead_letters()
        found: list[DeadLetter] = []
        page = backend.list_dead_letters(2)
        while True:
            found += page
            if page.next is None:
                break
            page = backend.list_dead_letters(2, after=page.next)
        assert found == everything
        assert backend.list_dead_letters(9, everything[1]) == everything[2:]
        assert backend.purge_dead_letters(everything[3].dead_lettered_at, limit=2) == 2
        assert backend.purge_dead_letters(clock() + timedelta(seconds=1)) == 3
        assert backend.list_dead_letters() == []

    def test_what_is_missing_is_named(self, backend: StateBackend, execution: WorkflowExecution) -> None:
        queued = an_item(execution)
        backend.enqueue_work_item(queued)
        for id in (uuid4(), queued.id):
            for call in (backend.get_dead_letter, backend.requeue_dead_letter):
                with pytest.raises(DeadLetterNotFoundError, match="no dead letter"):
                    call(id)
        for wanted in (uuid4(), an_item(execution)):
            with pytest.raises(WorkItemNotFoundError, match="no work item"):
                backend.move_to_dead_letter(wanted, "e")
        assert backend.get_work_item(uuid4()) is None
