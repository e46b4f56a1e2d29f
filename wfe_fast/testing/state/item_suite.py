"""Work items: queues, leases, the one rule for a lease that ends, fencing."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from wfe_fast.errors import (
    DuplicateWorkItemError,
    ExecutionEndedError,
    ExecutionNotFoundError,
    InvalidStateError,
    InvalidValueError,
    LeaseLostError,
)
from wfe_fast.state.contract import StateBackend
from wfe_fast.state.events import NodeFailed, RetryScheduled
from wfe_fast.state.models import (
    Exhausted,
    QueueType,
    Retryable,
    WorkflowExecution,
    WorkflowStatus,
    WorkItem,
)
from wfe_fast.testing.clock import START, ManualClock
from wfe_fast.testing.state.base import BothScopes, StateUnderTest
from wfe_fast.testing.state.factories import (
    FAR,
    QUEUE,
    an_event,
    an_execution,
    an_item,
    claimed,
    completed,
    failed,
)


class QueueSuite(BothScopes):
    """Enqueue and claim."""

    def test_an_item_is_claimed_and_settled(
        self, backend: StateBackend, execution: WorkflowExecution, clock: ManualClock
    ) -> None:
        made = an_item(execution, payload={"x": [1]}, max_attempts=5, created_at=START, priority=3)
        assert backend.enqueue_work_item(made) == made.id
        item = backend.claim_work_item("w", [QUEUE], lease=30)
        assert item == replace(
            made,
            worker_id="w",
            lease_expires_at=clock() + timedelta(seconds=30),
            lease_fence=1,
            tenant_id=backend.tenant_id or "default",
        )
        assert backend.claim_work_item("w", [QUEUE]) is None
        backend.complete_work_item(item)
        assert backend.claim_work_item("w", [QUEUE]) is None
        found = backend.get_work_item(made.id)
        assert found is not None
        assert (found.lease_expires_at, found.lease_fence, found.worker_id) == (None, 0, "w")

    def test_queues(self, backend: StateBackend, execution: WorkflowExecution) -> None:
        backend.enqueue_work_item(an_item(execution, queue_type=QueueType.MODEL))
        assert backend.claim_work_item("w", []) is None
        assert backend.claim_work_item("w", [], limit=3) == []
        assert backend.claim_work_item("w", ["tool", "general"]) is None
        item = backend.claim_work_item("w", ["tool", "model"])
        assert item is not None
        assert item.queue_type == "model"

    def test_oldest_first_over_all_queues(self, backend: StateBackend, execution: WorkflowExecution) -> None:
        for number, queue in ((3, "a"), (1, "b"), (2, "a"), (0, "a"), (4, "b")):
            created = START - timedelta(seconds=10 - number)
            backend.enqueue_work_item(an_item(execution, str(number), queue_type=queue, created_at=created))
        assert [item.node_id for item in backend.claim_work_item("w", ["a", "b"], limit=3)] == ["0", "1", "2"]
        assert [item.node_id for item in backend.claim_work_item("w", ["b", "a"], limit=9)] == ["3", "4"]

    def test_priority_and_run_at(self, backend: StateBackend, execution: WorkflowExecution, clock: ManualClock) -> None:
        for node, priority, wait in (("low", -5, 0), ("mid", 0, 0), ("high", 7, 0), ("later", 99, 10), ("soon", 7, 5)):
            run_at = clock() + timedelta(seconds=wait) if wait else None
            made = an_item(execution, node, priority=priority, run_at=run_at, created_at=START)
            backend.enqueue_work_item(made)
        taken = backend.claim_work_item("w", [QUEUE])
        assert taken is not None
        assert taken.node_id == "high"
        clock.advance(5)
        assert [item.node_id for item in backend.claim_work_item("w", [QUEUE], limit=2)] == ["soon", "mid"]
        clock.advance(5)
        assert [item.node_id for item in backend.claim_work_item("w", [QUEUE], limit=2)] == ["later", "low"]

    def test_created_by_a_clock_that_is_ahead(self, backend: StateBackend, execution: WorkflowExecution) -> None:
        backend.enqueue_work_item(an_item(execution, created_at=FAR))
        assert backend.claim_work_item("w", [QUEUE]) is not None

    def test_one_live_item_for_a_node(
        self, backend: StateBackend, execution: WorkflowExecution, store: StateUnderTest
    ) -> None:
        first = an_item(execution)
        backend.enqueue_work_item(first)
        other = an_execution()
        backend.create_execution(other)
        backend.enqueue_work_item(an_item(other))
        for _ in range(2):
            before = store.dump()
            with pytest.raises(DuplicateWorkItemError) as caught:
                backend.enqueue_work_item(an_item(execution))
            assert caught.value.field == "node_id"
            with pytest.raises(DuplicateWorkItemError) as caught:
                backend.enqueue_work_item(an_item(execution, "m", id=first.id))
            assert caught.value.field == "id"
            assert store.dump() == before
            backend.claim_work_item("w", [QUEUE], limit=2)
        held = backend.get_work_item(first.id)
        assert held is not None
        backend.complete_work_item(held)
        backend.enqueue_work_item(an_item(execution))

    def test_no_item_for_an_execution_that_is_gone_or_over(
        self, backend: StateBackend, execution: WorkflowExecution, store: StateUnderTest
    ) -> None:
        with pytest.raises(ExecutionNotFoundError):
            backend.enqueue_work_item(an_item(an_execution()))
        backend.update_execution_status(execution.execution_id, WorkflowStatus.FAILED)
        before = store.dump()
        with pytest.raises(ExecutionEndedError):
            backend.enqueue_work_item(an_item(execution))
        assert store.dump() == before

    def test_fences_grow_with_claims_and_terms(self, root: StateBackend, clock: ManualClock) -> None:
        execution = an_execution()
        root.create_execution(execution)
        item = claimed(root, execution, max_attempts=9)
        fences = [item.lease_fence]
        for term in (0, 5, 3):
            assert root.set_store_term_at_least(term) == max(term, 5 if term == 3 else term)
            clock.advance(1000)
            root.reclaim_expired_leases()
            clock.advance(1000)
            again = root.claim_work_item("w", [QUEUE])
            assert again is not None
            fences.append(again.lease_fence)
        assert fences == sorted(set(fences))
        assert [fence >> 32 for fence in fences] == [0, 0, 5, 5]
        assert root.bump_store_term() == 6

    def test_there_is_a_largest_term(self, root: StateBackend, store: StateUnderTest) -> None:
        assert root.set_store_term_at_least(2**31 - 2) == 2**31 - 2
        assert root.bump_store_term() == 2**31 - 1
        before = store.dump()
        with pytest.raises(InvalidStateError, match="2147483647"):
            root.bump_store_term()
        with pytest.raises(InvalidValueError, match="term"):
            root.set_store_term_at_least(2**31)
        assert root.set_store_term_at_least(5) == root.set_store_term_at_least(2**31 - 1) == 2**31 - 1
        assert store.dump() == before
        execution = an_execution()
        root.create_execution(execution)
        assert claimed(root, execution).lease_fence == ((2**31 - 1) << 32) + 1

    def test_the_most_attempts(self, backend: StateBackend, execution: WorkflowExecution) -> None:
        item = claimed(backend, execution, attempt=2**30, max_attempts=2**30)
        assert isinstance(backend.fail_work_item(item, "e"), Exhausted)
        assert backend.get_dead_letter(item.id).attempt == 2**30 + 1


class LeaseEndSuite(BothScopes):
    """The one rule."""

    @pytest.fixture(params=["claim", "reclaim", "fail"])
    def end(
        self, request: pytest.FixtureRequest, backend: StateBackend, clock: ManualClock
    ) -> Callable[[WorkItem], Any]:
        """Ends a lease of an item, in one of the three ways."""

        def by_claim(item: WorkItem) -> Any:
            clock.advance(60)
            assert backend.claim_work_item("other", [QUEUE]) is None

        def by_reclaim(item: WorkItem) -> Any:
            clock.advance(60)
            result = backend.reclaim_expired_leases()
            (ended,) = [*result.retryable, *result.exhausted]
            assert (ended.id, ended.attempt) == (item.id, item.attempt + 1)
            assert (ended.worker_id, ended.lease_fence) == (item.worker_id, item.lease_fence)
            assert bool(result.exhausted) == (ended.attempt >= item.max_attempts)

        def by_failure(item: WorkItem) -> Any:
            outcome = backend.fail_work_item(item, "lease expired? no: broken")
            assert outcome.item.attempt == item.attempt + 1
            if item.attempt + 1 >= item.max_attempts:
                assert isinstance(outcome, Exhausted)
            else:
                assert isinstance(outcome, Retryable)
                assert outcome.delay_ms == 1000 * 2 ** min(item.attempt + 1, 6)

        ways: dict[str, Callable[[WorkItem], Any]] = {"claim": by_claim, "reclaim": by_reclaim, "fail": by_failure}
        return ways[request.param]

    def test_back_off_and_dead_letter(
        self, backend: StateBackend, execution: WorkflowExecution, clock: ManualClock, end: Callable[[WorkItem], Any]
    ) -> None:
        item = claimed(backend, execution, max_attempts=9)
        for attempt in range(1, 9):
            end(item)
            events = backend.get_events(execution.execution_id)[-2:]
            first = events[0].kind
            assert isinstance(first, NodeFailed)
            assert (first.node_id, first.attempt, first.retryable) == ("n", attempt - 1, True)
            delay = 2 ** min(attempt, 6)
            assert events[1].kind == RetryScheduled(node_id="n", attempt=attempt, delay_ms=delay * 1000)
            clock.advance(delay - 0.001)
            assert backend.claim_work_item("early", [QUEUE]) is None
            clock.advance(0.001)
            again = backend.claim_work_item("next", [QUEUE])
            assert again is not None
            assert (again.attempt, again.id) == (attempt, item.id)
            assert again.lease_fence > item.lease_fence
            item = again
        end(item)
        last = backend.get_events(execution.execution_id)[-1].kind
        assert isinstance(last, NodeFailed)
        assert (last.attempt, last.retryable) == (8, False)
        assert len(backend.get_events(execution.execution_id)) == 17
        letter = backend.get_dead_letter(item.id)
        assert (letter.attempt, letter.last_error, letter.dead_lettered_at) == (9, last.error, clock())
        assert "lease expired" in letter.last_error

    def test_one_attempt_only(
        self, backend: StateBackend, execution: WorkflowExecution, end: Callable[[WorkItem], Any]
    ) -> None:
        end(claimed(backend, execution, max_attempts=1))
        assert [letter.node_id for letter in backend.list_dead_letters()] == ["n"]

    def test_a_renewed_lease_goes_on(
        self, backend: StateBackend, execution: WorkflowExecution, clock: ManualClock
    ) -> None:
        item = claimed(backend, execution)
        clock.advance(59)
        renewed = backend.renew_lease(item, lease=100)
        assert renewed.lease_expires_at == clock() + timedelta(seconds=100)
        clock.advance(99)
        assert backend.reclaim_expired_leases().retryable == []
        backend.complete_work_item(item)

    def test_a_lease_that_ran_out_but_was_not_taken(
        self, backend: StateBackend, execution: WorkflowExecution, clock: ManualClock
    ) -> None:
        item = claimed(backend, execution)
        clock.advance(3600)
        backend.renew_lease(item)
        clock.advance(3600)
        backend.commit_turn(item, an_event(execution, completed()))
        assert backend.reclaim_expired_leases().retryable == []

    def test_a_claim_ends_leases_of_its_own_queues_only(
        self, backend: StateBackend, execution: WorkflowExecution, clock: ManualClock
    ) -> None:
        item = claimed(backend, execution)
        clock.advance(3600)
        assert backend.claim_work_item("other", ["model"]) is None
        backend.complete_work_item(item)

    def test_parking(self, backend: StateBackend, execution: WorkflowExecution, clock: ManualClock) -> None:
        item = claimed(backend, execution)
        for round in (1, 2, 3, 4):
            backend.park_work_item(item, clock() + timedelta(seconds=30))
            with pytest.raises(LeaseLostError):
                backend.park_work_item(item, clock())
            clock.advance(29)
            assert backend.claim_work_item("w", [QUEUE]) is None
            clock.advance(1)
            again = backend.claim_work_item("w", [QUEUE])
            assert again is not None
            assert (again.attempt, again.lease_fence > item.lease_fence) == (round, True)
            item = again
        backend.park_work_item(item, START - timedelta(days=1))
        assert backend.claim_work_item("w", [QUEUE]) is not None
        assert backend.get_events(execution.execution_id) == []


#: Every method that settles or extends a lease.
SETTLING: dict[str, Callable[[StateBackend, WorkItem, WorkflowExecution], object]] = {
    "renew_lease": lambda b, item, e: b.renew_lease(item, 600),
    "complete_work_item": lambda b, item, e: b.complete_work_item(item),
    "fail_work_item": lambda b, item, e: b.fail_work_item(item, "late"),
    "park_work_item": lambda b, item, e: b.park_work_item(item, START),
    "commit_turn completed": lambda b, item, e: b.commit_turn(
        item, an_event(e, completed(idempotency_key="late", input_tokens=5)), snapshot=True
    ),
    "commit_turn failed": lambda b, item, e: b.commit_turn(item, an_event(e, failed())),
    "move_to_dead_letter": lambda b, item, e: b.move_to_dead_letter(item, "late"),
}

#: How a holder loses its lease.
LOSSES: dict[str, Callable[[StateBackend, WorkItem, ManualClock], object]] = {
    "taken over": lambda b, item, clock: (
        clock.advance(61),
        b.claim_work_item("other", [QUEUE]),
        clock.advance(10),
        b.claim_work_item("other", [QUEUE]),
    ),
    "ended by a claim": lambda b, item, clock: (clock.advance(61), b.claim_work_item("other", [QUEUE])),
    "reclaimed": lambda b, item, clock: (clock.advance(61), b.reclaim_expired_leases()),
    "completed": lambda b, item, clock: b.complete_work_item(item),
    "failed": lambda b, item, clock: b.fail_work_item(item, "first"),
    "parked": lambda b, item, clock: b.park_work_item(item, FAR),
    "cancelled": lambda b, item, clock: b.update_execution_status(item.execution_id, WorkflowStatus.CANCELLED),
    "given up": lambda b, item, clock: b.move_to_dead_letter(item.id, "by hand"),
}


class LeaseFencingSuite(BothScopes):
    """A lost or forged lease changes nothing at all."""

    @pytest.mark.parametrize("method", SETTLING)
    @pytest.mark.parametrize("loss", LOSSES)
    def test_a_lost_lease(
        self,
        backend: StateBackend,
        execution: WorkflowExecution,
        clock: ManualClock,
        store: StateUnderTest,
        loss: str,
        method: str,
    ) -> None:
        item = claimed(backend, execution)
        LOSSES[loss](backend, item, clock)
        before = store.dump()
        with pytest.raises(LeaseLostError, match=str(item.id)):
            SETTLING[method](backend, item, execution)
        assert store.dump() == before

    @pytest.mark.parametrize("method", SETTLING)
    @pytest.mark.parametrize("change", [1, -1, 1 << 32, 0, -(2**40)])
    def test_a_forged_fence(
        self, backend: StateBackend, execution: WorkflowExecution, store: StateUnderTest, method: str, change: int
    ) -> None:
        item = claimed(backend, execution)
        forged = replace(item, lease_fence=item.lease_fence + change if change else 0)
        before = store.dump()
        with pytest.raises(LeaseLostError):
            SETTLING[method](backend, forged, execution)
        assert store.dump() == before

    @pytest.mark.parametrize("method", [name for name in SETTLING if name != "move_to_dead_letter"])
    def test_an_item_that_nobody_claimed(
        self, backend: StateBackend, execution: WorkflowExecution, store: StateUnderTest, method: str
    ) -> None:
        item = an_item(execution)
        backend.enqueue_work_item(item)
        before = store.dump()
        for wrong in (item, an_item(execution, lease_fence=1)):
            with pytest.raises(LeaseLostError):
                SETTLING[method](backend, wrong, execution)
        assert store.dump() == before
