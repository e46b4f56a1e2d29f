"""Claims: leases, fencing, and writes that come too late."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import pytest

from wfe_fast.checkpoints.contract import CheckpointStore
from wfe_fast.checkpoints.models import ExecutionStatus, StepStatus, WorkflowExecution
from wfe_fast.errors import ClaimLostError, ExecutionNotFoundError, InvalidStateError, InvalidValueError
from wfe_fast.testing.checkpoints.base import Suite
from wfe_fast.testing.checkpoints.factories import (
    EXECUTION,
    WORKFLOW,
    a_checkpoint,
    a_signal,
    a_timer,
    a_workflow,
    an_execution,
    at,
    claimed,
    ids,
    saved,
)
from wfe_fast.testing.clock import ManualClock

RUNNING = ExecutionStatus.RUNNING

#: Something that is written under a claim.
Write: TypeAlias = Callable[[CheckpointStore, WorkflowExecution], object]

WRITES: dict[str, Write] = {
    "save_execution": lambda store, held: store.save_execution(held.copy_with(current_step=9)),
    "save_checkpoint": lambda store, held: store.save_checkpoint(a_checkpoint(), claim=held),
    "save_checkpoints": lambda store, held: store.save_checkpoints([a_checkpoint(0), a_checkpoint(1)], claim=held),
    "save_timer": lambda store, held: store.save_timer(a_timer(), claim=held),
    "save_signal": lambda store, held: store.save_signal(a_signal(), claim=held),
    "advance_execution": lambda store, held: store.advance_execution(held.copy_with(current_step=9), [a_checkpoint()]),
    "wait_for_signal": lambda store, held: store.wait_for_signal(held, a_checkpoint()),
}


class ClaimSuite(Suite):
    """Who gets which execution."""

    def test_a_claim_has_a_fence_that_a_plain_read_has_not(self, store: CheckpointStore) -> None:
        saved(store, an_execution())
        (held,) = store.claim_executions("worker", RUNNING)
        assert held.copy_with(fence=None) == store.load_execution(EXECUTION)
        assert held.fence is not None

    def test_what_is_held_is_not_claimed(self, store: CheckpointStore, clock: ManualClock) -> None:
        claimed(store)
        clock.advance(29.999)
        assert store.claim_executions("worker", RUNNING, lease=30.0) == []
        assert store.claim_executions("other", RUNNING, lease=30.0) == []

    def test_a_lease_that_has_ended_is_taken_over(self, store: CheckpointStore, clock: ManualClock) -> None:
        first = claimed(store)
        clock.advance(30)
        (second,) = store.claim_executions("worker", RUNNING)
        assert (first.fence or 0) < (second.fence or 0)
        assert (first.taken_over, second.taken_over) == (False, True)

    def test_takeovers_in_a_row_are_counted(self, store: CheckpointStore, clock: ManualClock) -> None:
        held = claimed(store)
        for count in (1, 2, 3):
            clock.advance(30)
            (held,) = store.claim_executions("worker", RUNNING)
            assert held.takeovers == count
        store.advance_execution(held, [a_checkpoint(status=StepStatus.INTENT)])
        store.release_claim(held)
        (held,) = store.claim_executions("worker", RUNNING)
        assert held.takeovers == 3, "something is about to be tried, and a claim was given back: that is no progress"
        clock.advance(30)
        (held,) = store.claim_executions("worker", RUNNING)
        assert held.takeovers == 4
        store.advance_execution(held, [a_checkpoint()])
        clock.advance(30)
        assert [item.takeovers for item in store.claim_executions("worker", RUNNING)] == [1]

    def test_the_oldest_come_first(self, store: CheckpointStore) -> None:
        for id, second in [("c", 1), ("b", 1), ("a", 2), ("d", 0)]:
            saved(store, an_execution(id, created_at=at(second)))
        assert ids(store.claim_executions("worker", RUNNING, limit=3)) == ["d", "b", "c"]
        assert ids(store.claim_executions("worker", RUNNING, limit=3)) == ["a"]
        assert store.claim_executions("worker", RUNNING, limit=3) == []

    def test_only_the_wanted_statuses(self, store: CheckpointStore) -> None:
        for number, status in enumerate(ExecutionStatus):
            saved(store, an_execution(status.value, status=status, created_at=at(-number)))
        wanted = {ExecutionStatus.RUNNING, ExecutionStatus.COMPENSATING}
        assert ids(store.claim_executions("worker", wanted, limit=9)) == ["COMPENSATING", "RUNNING"]
        assert store.claim_executions("worker", [], limit=9) == []

    def test_only_the_wanted_workflows(self, store: CheckpointStore) -> None:
        store.save_workflow(a_workflow("other"))
        saved(store, an_execution("a"))
        saved(store, an_execution("b", workflow_id="other"))
        saved(store, an_execution("c", workflow_id="other"))
        assert store.claim_executions("worker", RUNNING, workflows=["unknown"]) == []
        assert store.claim_executions("worker", RUNNING, workflows=[]) == []
        assert ids(store.claim_executions("worker", RUNNING, 9, workflows=["other"], without=["b"])) == ["c"]
        assert ids(store.claim_executions("worker", RUNNING, 9, workflows=["other", WORKFLOW])) == ["a", "b"]

    def test_a_renewal_lets_the_lease_begin_anew(self, store: CheckpointStore, clock: ManualClock) -> None:
        held = claimed(store)
        clock.advance(20)
        store.renew_claim(held, lease=30.0)
        clock.advance(29)
        assert store.claim_executions("other", RUNNING) == []
        clock.advance(1)
        store.renew_claim(held)  # it had ended, but nobody has come
        assert store.claim_executions("other", RUNNING) == []

    def test_several_renewals_say_which_are_lost(self, store: CheckpointStore, clock: ManualClock) -> None:
        lost = claimed(store, "a")
        clock.advance(31)
        store.claim_executions("other", RUNNING)
        kept = claimed(store, "b")
        assert store.renew_claims([lost, kept]) == [lost]
        assert store.renew_claims([]) == []
        with pytest.raises(ClaimLostError, match="a"):
            store.renew_claim(lost)

    def test_what_was_given_back_is_claimed_at_once(self, store: CheckpointStore) -> None:
        held = claimed(store)
        store.release_claim(held)
        with pytest.raises(ClaimLostError):
            store.renew_claim(held)
        (again,) = store.claim_executions("other", RUNNING)
        assert not again.taken_over
        store.release_claim(held)  # of the claim before: changes nothing
        assert store.claim_executions("third", RUNNING) == []

    def test_a_plain_read_holds_nothing(self, store: CheckpointStore) -> None:
        held = claimed(store)
        read = store.load_execution(EXECUTION)
        assert read is not None
        store.release_claim(read)
        assert store.renew_claims([held]) == []
        assert store.renew_claims([read]) == [read]

    def test_a_plain_save_leaves_the_claim_alone(self, store: CheckpointStore) -> None:
        held = claimed(store)
        saved(store, an_execution(current_step=4))
        assert store.claim_executions("other", RUNNING) == []
        store.save_execution(held.copy_with(current_step=5))
        assert store.load_execution(EXECUTION) == an_execution(current_step=5)


class FencingSuite(Suite):
    """A write whose claim was taken over changes nothing."""

    @pytest.mark.parametrize("name", WRITES)
    def test_a_late_write_is_refused(self, store: CheckpointStore, clock: ManualClock, name: str) -> None:
        late = claimed(store)
        clock.advance(31)
        (held,) = store.claim_executions("other", RUNNING)
        with pytest.raises(ClaimLostError, match=EXECUTION):
            WRITES[name](store, late)
        assert store.load_execution(EXECUTION) == an_execution()
        assert [*store.load_checkpoints(EXECUTION), *store.load_pending_signals(EXECUTION)] == []
        assert store.load_pending_timers() == []
        WRITES[name](store, held)

    @pytest.mark.parametrize("name", WRITES)
    def test_a_write_in_time_is_stored(self, store: CheckpointStore, clock: ManualClock, name: str) -> None:
        held = claimed(store)
        clock.advance(31)  # the lease has ended, but nobody has taken it over
        WRITES[name](store, held)
        changed = (
            store.load_execution(EXECUTION) != an_execution(),
            store.load_checkpoints(EXECUTION),
            store.load_pending_signals(EXECUTION),
            store.load_pending_timers(),
        )
        assert any(changed)

    @pytest.mark.parametrize("name", WRITES)
    def test_a_deleted_execution_is_not_found(self, store: CheckpointStore, name: str) -> None:
        held = claimed(store)
        store.delete_execution(EXECUTION)
        with pytest.raises(ExecutionNotFoundError, match=EXECUTION):
            WRITES[name](store, held)
        assert store.load_execution(EXECUTION) is None

    @pytest.mark.parametrize("name", ["advance_execution", "wait_for_signal"])
    def test_an_engine_writes_under_a_claim_only(self, store: CheckpointStore, name: str) -> None:
        with pytest.raises(InvalidStateError, match="claimed"):
            WRITES[name](store, saved(store, an_execution()))
        assert store.load_checkpoints(EXECUTION) == []

    def test_a_claim_counts_for_its_own_execution(self, store: CheckpointStore) -> None:
        held = claimed(store, "a")
        with pytest.raises(InvalidValueError, match="claim"):
            store.save_checkpoint(a_checkpoint(), claim=held)
        with pytest.raises(InvalidValueError, match="claim"):
            store.save_timer(a_timer(), claim=saved(store, an_execution()))
        with pytest.raises(InvalidStateError):
            store.advance_execution(held, [a_checkpoint()])
        assert [*store.load_checkpoints(EXECUTION), *store.load_pending_timers()] == []
