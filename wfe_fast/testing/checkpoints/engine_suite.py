"""What engines do: start, advance, wait, wake, cancel."""

from __future__ import annotations

from typing import Any

import pytest

from wfe_fast.checkpoints.contract import CheckpointStore
from wfe_fast.checkpoints.models import (
    FINAL_STATUSES,
    ExecutionStatus,
    SignalStatus,
    StepCheckpoint,
    StepKind,
    StepStatus,
    TimerStatus,
    WorkflowExecution,
)
from wfe_fast.errors import ClaimLostError
from wfe_fast.testing.checkpoints.base import StoresUnderTest, Suite
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
    saved,
)
from wfe_fast.testing.clock import ManualClock
from wfe_fast.testing.waiting import PATIENCE, Background

S = ExecutionStatus
RUNNABLE = (S.PENDING, S.RUNNING, S.COMPENSATING)


def loaded(store: CheckpointStore, id: str = EXECUTION) -> WorkflowExecution:
    found = store.load_execution(id)
    assert found is not None
    return found


class StartSuite(Suite):
    """`start_execution`."""

    def test_workflow_and_execution_are_there(self, empty: CheckpointStore) -> None:
        execution = an_execution(status=S.PENDING, input_data=[1], ttl_expires_at=at(9))
        stored, is_new = empty.start_execution(a_workflow(), execution)
        assert is_new
        assert stored == loaded(empty) == execution.copy_with(status=S.RUNNING)
        assert empty.load_workflow(WORKFLOW) == a_workflow()
        assert len(empty.claim_executions("worker", S.RUNNING)) == 1

    def test_the_second_one_changes_nothing(self, store: CheckpointStore) -> None:
        store.start_execution(a_workflow(version=3), an_execution(input_data="first"))
        stored, is_new = store.start_execution(a_workflow("other"), an_execution(workflow_id="other", input_data=2))
        assert (is_new, stored.input_data, stored.workflow_id) == (False, "first", WORKFLOW)
        assert store.load_workflow(WORKFLOW) == a_workflow()

    def test_it_can_be_claimed_in_the_same_breath(self, store: CheckpointStore, clock: ManualClock) -> None:
        held, _ = store.start_execution(a_workflow(), an_execution(), worker_id="me", lease=5)
        assert store.claim_executions("other", S.RUNNING) == []
        assert store.advance_execution(held.copy_with(current_step=1)) is S.RUNNING
        again, is_new = store.start_execution(a_workflow(), an_execution(), worker_id="me", lease=5)
        assert (is_new, again.fence) == (False, None)
        clock.advance(5)
        assert len(store.claim_executions("other", S.RUNNING)) == 1


class AdvanceSuite(Suite):
    """`advance_execution`."""

    def test_checkpoint_and_position_together(self, store: CheckpointStore, clock: ManualClock) -> None:
        held = claimed(store, input_data={"keep": "me"})
        clock.advance(7)
        assert store.advance_execution(held.copy_with(current_step=1), [a_checkpoint(output_data=12.5)]) is S.RUNNING
        assert loaded(store) == an_execution(current_step=1, updated_at=at(7), input_data={"keep": "me"})
        assert [item.output_data for item in store.load_checkpoints(EXECUTION)] == [12.5]

    @pytest.mark.parametrize("status", sorted(FINAL_STATUSES, key=str))
    def test_a_final_status_settles_what_was_waited_for_and_stays(self, store: CheckpointStore, status: S) -> None:
        held = claimed(store)
        saved(store, an_execution("other"))
        store.save_timer(a_timer())
        store.save_timer(a_timer("other", workflow_execution_id="other"))
        store.save_signal(a_signal())
        store.save_signal(a_signal(workflow_execution_id="other"))
        assert (
            store.advance_execution(held.copy_with(status=status, output_data=[1], error_message="x"), release=True)
            is status
        )
        found = loaded(store)
        assert (found.status, found.output_data, found.error_message) == (status, [1], "x")
        assert [timer.workflow_timer_id for timer in store.load_pending_timers()] == ["other"]
        assert store.load_pending_signals(EXECUTION) == []
        assert len(store.load_pending_signals("other")) == 1
        with pytest.raises(ClaimLostError):
            store.advance_execution(held, [a_checkpoint()])
        assert loaded(store) == found
        assert store.load_checkpoints(EXECUTION) == []

    def test_a_suspended_one_is_given_back_with_its_timer(self, store: CheckpointStore) -> None:
        held = claimed(store)
        waits = held.copy_with(status=S.SUSPENDED)
        assert store.advance_execution(waits, timers=[a_timer(fire_at=at(60))], release=True) is S.SUSPENDED
        assert store.claim_executions("other", RUNNABLE) == []
        assert len(store.claim_executions("other", S.SUSPENDED)) == 1
        assert store.next_due() == at(60)

    def test_no_message_keeps_the_message(self, store: CheckpointStore) -> None:
        held = claimed(store)
        store.advance_execution(held.copy_with(status=S.COMPENSATING, error_message="boom"))
        store.advance_execution(held.copy_with(status=S.FAILED))
        assert loaded(store).error_message == "boom"


class WakeSuite(Suite):
    """`wake_due` and `wait_for_work`."""

    def sleep_until(self, store: CheckpointStore, second: float, id: str = EXECUTION) -> None:
        held = claimed(store, id)
        timer = a_timer(f"timer of {id}", workflow_execution_id=id, fire_at=at(second))
        store.advance_execution(held.copy_with(status=S.SUSPENDED), timers=[timer], release=True)

    def test_what_is_due_is_woken_and_nothing_else(self, store: CheckpointStore, clock: ManualClock) -> None:
        for second in (1, 2, 3):
            self.sleep_until(store, second, f"e{second}")
        assert store.wake_due() == 0
        clock.advance(2)
        assert store.wake_due() == 2
        assert [loaded(store, f"e{second}").status for second in (1, 2, 3)] == [S.RUNNING, S.RUNNING, S.SUSPENDED]
        assert store.next_due() == at(3)
        assert store.wake_due() == 0

    def test_a_limit(self, store: CheckpointStore, clock: ManualClock) -> None:
        for second in (1, 2, 3):
            self.sleep_until(store, second, f"e{second}")
        clock.advance(9)
        assert [store.wake_due(limit=2) for _ in range(3)] == [2, 1, 0]

    @pytest.mark.parametrize("status", [S.RUNNING, S.COMPLETED, S.CANCELLED, S.COMPENSATING])
    def test_only_a_suspended_one_is_woken(self, store: CheckpointStore, status: S) -> None:
        saved(store, an_execution(status=status))
        store.save_timer(a_timer())
        assert store.wake_due() == 1
        assert loaded(store).status is status
        assert store.load_pending_timers() == []

    def test_an_interrupt_ends_the_wait(self, store: CheckpointStore) -> None:
        waiting = Background(lambda: store.wait_for_work(PATIENCE, [WORKFLOW])).wait_until_inside("wait")
        store.interrupt_waits()
        assert waiting.result(PATIENCE / 2) is False
        saved(store, an_execution(status=S.RUNNING))
        assert store.wait_for_work(PATIENCE, [WORKFLOW])
        store.close()
        store.interrupt_waits()

    def test_the_end_of_its_time_wakes_it(self, store: CheckpointStore, clock: ManualClock) -> None:
        held = claimed(store, ttl_expires_at=at(5))
        store.advance_execution(held.copy_with(status=S.SUSPENDED), release=True)
        assert not store.wait_for_work(0, [WORKFLOW])
        clock.advance(5.5)
        assert store.wait_for_work(0, [WORKFLOW])
        assert store.wake_due() == 1
        assert loaded(store).status is S.RUNNING
        assert store.wake_due() == 0

    def test_there_is_work(self, store: CheckpointStore, clock: ManualClock) -> None:
        assert not store.wait_for_work(0, [WORKFLOW])
        saved(store, an_execution())
        assert store.wait_for_work(0, [WORKFLOW])
        assert not store.wait_for_work(0, ["unknown"])
        assert not store.wait_for_work(0, [WORKFLOW], without=[EXECUTION])
        store.claim_executions("worker", S.RUNNING, lease=10)
        assert not store.wait_for_work(0, [WORKFLOW])
        clock.advance(10)
        assert store.wait_for_work(0, [WORKFLOW]), "the lease has ended"

    def test_a_timer_is_work(self, store: CheckpointStore, clock: ManualClock) -> None:
        self.sleep_until(store, 10)
        assert not store.wait_for_work(0, [WORKFLOW])
        clock.advance(10)
        assert store.wait_for_work(0, [WORKFLOW])

    def test_who_waits_is_woken_by_a_write(self, stores: StoresUnderTest) -> None:
        store = stores.open()
        store.save_workflow(a_workflow())
        waiting = Background(lambda: store.wait_for_work(60, [WORKFLOW])).wait_until_inside("wait_for_work")
        saved(store, an_execution())
        assert waiting.result()

    def test_who_waits_is_woken_by_time(self, stores: StoresUnderTest) -> None:
        store = stores.open()
        store.save_workflow(a_workflow())
        store.save_execution(an_execution(status=S.SUSPENDED))
        store.save_timer(a_timer(fire_at=store.clock() + (at(0.2) - at(0))))
        assert store.wait_for_work(60, [WORKFLOW])
        assert store.wake_due() == 1


class SignalWaitSuite(Suite):
    """`wait_for_signal`."""

    def wait(self, index: int = 0, **values: Any) -> StepCheckpoint:
        """The checkpoint of a wait for an approval."""
        return a_checkpoint(index, kind=StepKind.SIGNAL, step_name="approval", status=StepStatus.INTENT, **values)

    def test_a_signal_that_is_there_is_taken_with_the_checkpoint(self, store: CheckpointStore) -> None:
        held = claimed(store)
        store.save_signal(a_signal("another"))
        for payload in ("first", "second"):
            store.save_signal(a_signal(payload=payload))
        status, checkpoint = store.wait_for_signal(held.copy_with(current_step=1), self.wait(1), [a_checkpoint(0)])
        assert (status, checkpoint.status, checkpoint.output_data) == (S.RUNNING, StepStatus.COMPLETED, "first")
        assert [item.status for item in store.load_checkpoints(EXECUTION)] == [StepStatus.COMPLETED] * 2
        assert [signal.payload for signal in store.load_pending_signals(EXECUTION, "approval")] == ["second"]
        assert loaded(store).current_step == 1
        assert store.claim_executions("other", S.RUNNING) == []

    def test_repeating_it_takes_nothing_more(self, store: CheckpointStore) -> None:
        held = claimed(store)
        for payload in ("first", "second"):
            store.save_signal(a_signal(payload=payload))
        first = store.wait_for_signal(held, self.wait())
        assert store.wait_for_signal(held, self.wait()) == first
        assert len(store.load_pending_signals(EXECUTION)) == 1

    def test_without_one_it_is_suspended_until_one_comes(self, store: CheckpointStore) -> None:
        held = claimed(store)
        status, checkpoint = store.wait_for_signal(held, self.wait(), timer=a_timer(fire_at=at(60)))
        assert (status, checkpoint.status) == (S.SUSPENDED, StepStatus.INTENT)
        assert store.next_due() == at(60)
        assert store.claim_executions("other", RUNNABLE) == []
        store.save_signal(a_signal("another"))
        assert loaded(store).status is S.SUSPENDED
        store.save_signal(a_signal(payload="here"))
        assert loaded(store).status is S.RUNNING
        (again,) = store.claim_executions("other", RUNNABLE)
        status, checkpoint = store.wait_for_signal(again, self.wait(), timer=a_timer())
        assert (status, checkpoint.output_data) == (S.RUNNING, "here")
        assert store.load_pending_timers() == []

    def test_a_time_out_is_recorded(self, store: CheckpointStore) -> None:
        held = claimed(store)
        status, checkpoint = store.wait_for_signal(held, self.wait(), timed_out=("SignalTimeoutError", "too late"))
        assert (status, checkpoint.status, checkpoint.is_final) == (S.RUNNING, StepStatus.FAILED, True)
        assert (checkpoint.error_type, checkpoint.error_message) == ("SignalTimeoutError", "too late")
        store.save_signal(a_signal())
        assert store.wait_for_signal(held, self.wait())[1] == checkpoint
        assert len(store.load_pending_signals(EXECUTION)) == 1

    def test_a_signal_in_time_counts_though_nobody_has_looked(self, store: CheckpointStore) -> None:
        held = claimed(store)
        store.save_signal(a_signal(payload=1))
        assert store.wait_for_signal(held, self.wait(), timed_out=("T", "m"))[1].output_data == 1

    def test_one_message_for_each_wait_in_sending_order(self, store: CheckpointStore) -> None:
        held = claimed(store)
        for number in range(5):
            store.save_signal(a_signal(payload=number))
        taken = [store.wait_for_signal(held, self.wait(index))[1].output_data for index in range(5)]
        assert taken == [0, 1, 2, 3, 4]
        assert store.wait_for_signal(held, self.wait(5))[0] is S.SUSPENDED


class CancelSuite(Suite):
    """`cancel_execution`."""

    @pytest.mark.parametrize("status", [S.PENDING, S.RUNNING, S.SUSPENDED])
    def test_it_is_over_at_once(self, store: CheckpointStore, status: S) -> None:
        saved(store, an_execution(status=status))
        store.save_timer(a_timer())
        store.save_signal(a_signal())
        assert store.cancel_execution(EXECUTION)
        assert loaded(store).status is S.CANCELLED
        assert [*store.load_pending_timers(), *store.load_pending_signals(EXECUTION)] == []

    def test_who_works_on_it_can_record_nothing_more(self, store: CheckpointStore) -> None:
        held = claimed(store)
        store.cancel_execution(EXECUTION)
        with pytest.raises(ClaimLostError):
            store.advance_execution(held, [a_checkpoint()])
        assert store.renew_claims([held]) == [held]
        assert store.load_checkpoints(EXECUTION) == []
        assert loaded(store).status is S.CANCELLED

    @pytest.mark.parametrize("status", sorted(FINAL_STATUSES, key=str))
    @pytest.mark.parametrize("compensate", [False, True])
    def test_what_has_ended_stays_as_it_is(self, store: CheckpointStore, status: S, compensate: bool) -> None:
        execution = saved(store, an_execution(status=status))
        assert not store.cancel_execution(EXECUTION, compensate=compensate)
        assert loaded(store) == execution

    @pytest.mark.parametrize("status", [S.PENDING, S.RUNNING, S.SUSPENDED, S.COMPENSATING])
    def test_with_compensation_somebody_has_to_undo_it(self, store: CheckpointStore, status: S) -> None:
        saved(store, an_execution(status=status))
        assert store.cancel_execution(EXECUTION, compensate=True)
        (held,) = store.claim_executions("worker", S.COMPENSATING)
        assert held.cancel_requested
        assert store.advance_execution(held.copy_with(status=S.FAILED), release=True) is S.CANCELLED

    def test_what_is_being_undone_is_undone_to_its_end(self, store: CheckpointStore) -> None:
        saved(store, an_execution(status=S.COMPENSATING))
        assert store.cancel_execution(EXECUTION)
        assert (loaded(store).status, loaded(store).cancel_requested) == (S.COMPENSATING, True)

    @pytest.mark.parametrize("status", [S.RUNNING, S.SUSPENDED, S.COMPLETED])
    def test_its_holder_learns_of_it_and_keeps_the_claim(self, store: CheckpointStore, status: S) -> None:
        held = claimed(store)
        store.cancel_execution(EXECUTION, compensate=True)
        changed = held.copy_with(status=status, current_step=1)
        assert store.advance_execution(changed, [a_checkpoint()], release=status is not S.RUNNING) is S.COMPENSATING
        assert len(store.load_checkpoints(EXECUTION)) == 1, "what was done is recorded, so that it can be undone"
        assert store.claim_executions("other", RUNNABLE) == []
        assert store.advance_execution(held.copy_with(status=S.CANCELLED), release=True) is S.CANCELLED

    def test_no_signal_is_taken_then(self, store: CheckpointStore) -> None:
        held = claimed(store)
        store.save_signal(a_signal())
        store.cancel_execution(EXECUTION, compensate=True)
        wait = a_checkpoint(kind=StepKind.SIGNAL, step_name="approval", status=StepStatus.INTENT)
        assert store.wait_for_signal(held, wait)[0] is S.COMPENSATING
        assert [signal.status for signal in store.load_pending_signals(EXECUTION)] == [SignalStatus.PENDING]
        assert store.claim_executions("other", RUNNABLE) == []

    def test_settled_timers_stay_settled(self, store: CheckpointStore) -> None:
        saved(store, an_execution())
        store.save_timer(a_timer(status=TimerStatus.FIRED))
        store.cancel_execution(EXECUTION)
        assert store.delete_old_timers(at(1)) == 1
