"""Checkpoints, timers and signals."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from wfe_fast.checkpoints.contract import CheckpointStore
from wfe_fast.checkpoints.models import SignalStatus, StepKind, StepStatus, TimerStatus
from wfe_fast.errors import ExecutionNotFoundError
from wfe_fast.testing.checkpoints.base import Suite
from wfe_fast.testing.checkpoints.factories import (
    EXECUTION,
    a_checkpoint,
    a_signal,
    a_timer,
    a_workflow,
    an_execution,
    at,
    saved,
)


class RecordSuite(Suite):
    """Base: there is an execution."""

    @pytest.fixture
    def store(self, empty: CheckpointStore) -> CheckpointStore:
        empty.save_workflow(a_workflow())
        saved(empty, an_execution())
        saved(empty, an_execution("other"))
        return empty


def without_id(items: list[Any]) -> list[Any]:
    """Checkpoints as they were before the store gave them an id."""
    assert all(item.id is not None for item in items)
    return [item.copy_with(id=None) for item in items]


class CheckpointRowSuite(RecordSuite):
    """Checkpoints."""

    def test_what_is_saved_is_loaded_with_an_id(self, store: CheckpointStore) -> None:
        checkpoint = a_checkpoint(status=StepStatus.INTENT, input_data={"a": [1]}, started_at=at(1))
        store.save_checkpoint(checkpoint)
        assert without_id(store.load_checkpoints(EXECUTION)) == [checkpoint]

    def test_none_is_an_empty_list(self, store: CheckpointStore) -> None:
        assert [*store.load_checkpoints(EXECUTION), *store.load_checkpoints("nobody")] == []

    def test_they_come_by_position(self, store: CheckpointStore) -> None:
        for index in (2, 0, 1):
            store.save_checkpoint(a_checkpoint(index))
        assert [item.step_index for item in store.load_checkpoints(EXECUTION)] == [0, 1, 2]

    def test_attempts_come_in_order_whatever_was_saved_first(self, store: CheckpointStore) -> None:
        for attempt in (3, 1, 0, 2):
            store.save_checkpoint(a_checkpoint(attempt=attempt, status=StepStatus.FAILED))
        store.save_checkpoint(a_checkpoint(1))
        store.save_checkpoint(a_checkpoint(attempt=1, status=StepStatus.FAILED))
        found = [(item.step_index, item.attempt) for item in store.load_checkpoints(EXECUTION)]
        assert found == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 1)]

    def test_a_second_save_keeps_the_row_and_overwrites_every_field(self, store: CheckpointStore) -> None:
        store.save_checkpoint(
            a_checkpoint(status=StepStatus.INTENT, input_data=1, compensate_ref="c", started_at=at(0))
        )
        store.save_checkpoint(a_checkpoint(5))
        (before, _) = store.load_checkpoints(EXECUTION)
        changed = a_checkpoint(id=12345, output_data="done", completed_at=at(2), step_name="renamed")
        store.save_checkpoint(changed)
        (after, _) = store.load_checkpoints(EXECUTION)
        assert after == changed.copy_with(id=before.id)

    def test_every_field(self, store: CheckpointStore) -> None:
        checkpoint = a_checkpoint(
            status=StepStatus.FAILED,
            input_data={"x": None},
            output_data=[1.5, "ü"],
            error_message="no: it broke",
            attempt=3,
            compensate_ref="undo",
            started_at=at(1) + timedelta(microseconds=1),
            completed_at=at(2),
            kind=StepKind.SIGNAL,
            error_type="ValueError",
            is_final=True,
        )
        store.save_checkpoint(checkpoint)
        assert without_id(store.load_checkpoints(EXECUTION)) == [checkpoint]

    def test_what_is_left_out_stays_none(self, store: CheckpointStore) -> None:
        store.save_checkpoint(a_checkpoint())
        (found,) = store.load_checkpoints(EXECUTION)
        fields = ("input_data", "output_data", "error_message", "compensate_ref", "started_at", "completed_at")
        assert {getattr(found, field) for field in fields} == {None}
        assert (found.attempt, found.kind, found.is_final) == (1, StepKind.STEP, False)

    @pytest.mark.parametrize("status", StepStatus)
    def test_every_status(self, store: CheckpointStore, status: StepStatus) -> None:
        store.save_checkpoint(a_checkpoint(status=status))
        assert [item.status for item in store.load_checkpoints(EXECUTION)] == [status]

    def test_executions_do_not_mix(self, store: CheckpointStore) -> None:
        store.save_checkpoint(a_checkpoint(output_data="mine"))
        store.save_checkpoint(a_checkpoint(output_data="yours", workflow_execution_id="other"))
        assert [item.output_data for item in store.load_checkpoints(EXECUTION)] == ["mine"]
        assert [item.output_data for item in store.load_checkpoints("other")] == ["yours"]

    def test_a_batch(self, store: CheckpointStore) -> None:
        store.save_checkpoints([a_checkpoint(index) for index in range(20)])
        assert [item.step_index for item in store.load_checkpoints(EXECUTION)] == list(range(20))

    def test_an_empty_batch(self, store: CheckpointStore) -> None:
        store.save_checkpoints([])
        assert store.load_checkpoints(EXECUTION) == []

    def test_a_batch_is_stored_whole_or_not_at_all(self, store: CheckpointStore) -> None:
        store.save_checkpoint(a_checkpoint(0, output_data="before"))
        batch = [a_checkpoint(0, output_data="after"), a_checkpoint(1), a_checkpoint(2, workflow_execution_id="nobody")]
        with pytest.raises(ExecutionNotFoundError, match="nobody"):
            store.save_checkpoints(batch)
        assert [item.output_data for item in store.load_checkpoints(EXECUTION)] == ["before"]

    def test_fifty_one_by_one(self, store: CheckpointStore) -> None:
        for index in range(50):
            store.save_checkpoint(a_checkpoint(index))
        assert [item.step_index for item in store.load_checkpoints(EXECUTION)] == list(range(50))


class TimerSuite(RecordSuite):
    """Timers."""

    def test_what_is_saved_is_loaded(self, store: CheckpointStore) -> None:
        timer = a_timer()
        store.save_timer(timer)
        assert store.load_pending_timers() == [timer]

    @pytest.mark.parametrize("status", [TimerStatus.FIRED, TimerStatus.CANCELLED])
    def test_settled_ones_are_not_pending(self, store: CheckpointStore, status: TimerStatus) -> None:
        store.save_timer(a_timer())
        store.save_timer(a_timer("settled", status=status))
        assert [timer.workflow_timer_id for timer in store.load_pending_timers()] == ["timer-1"]
        store.save_timer(a_timer(status=status))
        assert store.load_pending_timers() == []
        store.save_timer(a_timer(step_name="again", fire_at=at(9)))
        assert store.load_pending_timers() == [a_timer(step_name="again", fire_at=at(9))]

    def test_pending_ones_may_be_far_away_and_come_by_time_and_id(self, store: CheckpointStore) -> None:
        far = at(1e9)
        for id, fire_at in [("c", far), ("b", at(5)), ("a", at(5)), ("d", at(-1))]:
            store.save_timer(a_timer(id, fire_at=fire_at))
        assert [timer.workflow_timer_id for timer in store.load_pending_timers()] == ["d", "a", "b", "c"]

    def test_due_ones(self, store: CheckpointStore) -> None:
        assert store.load_due_timers(at(0)) == []
        for second in (3, 1, 2):
            store.save_timer(a_timer(f"t{second}", fire_at=at(second)))
        store.save_timer(a_timer("t0", fire_at=at(0), status=TimerStatus.FIRED))
        assert store.load_due_timers(at(0.5)) == []
        assert [timer.workflow_timer_id for timer in store.load_due_timers(at(2))] == ["t1", "t2"]
        assert [timer.workflow_timer_id for timer in store.load_due_timers(at(9), limit=1)] == ["t1"]

    def test_the_next_one(self, store: CheckpointStore) -> None:
        assert store.next_due() is None
        store.save_timer(a_timer("late", fire_at=at(50)))
        store.save_timer(a_timer("soon", fire_at=at(7)))
        assert store.next_due() == at(7)
        store.save_timer(a_timer("soon", fire_at=at(7), status=TimerStatus.CANCELLED))
        assert store.next_due() == at(50)

    def test_old_settled_ones_are_deleted_by_their_creation(self, store: CheckpointStore) -> None:
        for status in TimerStatus:
            store.save_timer(a_timer(f"old {status.value}", status=status, created_at=at(-10), fire_at=at(90)))
            store.save_timer(a_timer(f"new {status.value}", status=status, created_at=at(0), fire_at=at(-90)))
        assert store.delete_old_timers(at(0)) == 2
        assert len(store.load_pending_timers()) == 2
        assert store.delete_old_timers(at(0)) == 0
        assert store.delete_old_timers(at(1)) == 2


class SignalSuite(RecordSuite):
    """Signals."""

    def test_what_is_saved_is_loaded_with_the_id_that_was_returned(self, store: CheckpointStore) -> None:
        signal = a_signal()
        id = store.save_signal(signal)
        assert store.load_pending_signals(EXECUTION) == [signal.copy_with(workflow_signal_id=id)]

    def test_a_name_filters(self, store: CheckpointStore) -> None:
        for name in ("a", "b", "a"):
            store.save_signal(a_signal(name))
        assert [signal.signal_name for signal in store.load_pending_signals(EXECUTION, "a")] == ["a", "a"]
        assert store.load_pending_signals(EXECUTION, "c") == []

    def test_other_executions_have_none(self, store: CheckpointStore) -> None:
        store.save_signal(a_signal())
        assert [*store.load_pending_signals("other"), *store.load_pending_signals("nobody")] == []

    def test_settled_ones_are_not_pending(self, store: CheckpointStore) -> None:
        for status in (SignalStatus.DELIVERED, SignalStatus.EXPIRED):
            store.save_signal(a_signal(status=status))
        assert store.load_pending_signals(EXECUTION) == []

    def test_a_saved_one_can_be_settled(self, store: CheckpointStore) -> None:
        store.save_signal(a_signal())
        other = store.save_signal(a_signal())
        (first, _) = store.load_pending_signals(EXECUTION)
        assert store.save_signal(first.copy_with(status=SignalStatus.DELIVERED)) == first.workflow_signal_id
        assert [signal.workflow_signal_id for signal in store.load_pending_signals(EXECUTION)] == [other]

    @pytest.mark.parametrize("payload", [None, True, 0, "", "text", [1, None], {"a": {"b": []}}])
    def test_payloads(self, store: CheckpointStore, payload: Any) -> None:
        store.save_signal(a_signal(payload=payload))
        (found,) = store.load_pending_signals(EXECUTION)
        assert found.payload == payload
        assert type(found.payload) is type(payload)

    def test_they_come_by_time_and_then_in_the_order_in_which_they_were_saved(self, store: CheckpointStore) -> None:
        for name, second in [("x", 2), ("y", 1), ("z", 1), ("a", 1)]:
            store.save_signal(a_signal(name, created_at=at(second)))
        assert [signal.signal_name for signal in store.load_pending_signals(EXECUTION)] == ["y", "z", "a", "x"]

    def test_several_of_one_name_stand_side_by_side(self, store: CheckpointStore) -> None:
        ids = [store.save_signal(a_signal(payload=number)) for number in range(3)]
        found = store.load_pending_signals(EXECUTION, "approval")
        assert [(signal.workflow_signal_id, signal.payload) for signal in found] == list(
            zip(ids, range(3), strict=True)
        )
        assert len(set(ids)) == 3

    def test_an_id_of_the_callers(self, store: CheckpointStore) -> None:
        assert store.save_signal(a_signal(workflow_signal_id=4711)) == 4711
        assert [signal.workflow_signal_id for signal in store.load_pending_signals(EXECUTION)] == [4711]

    def test_old_settled_ones_are_deleted_by_their_creation(self, store: CheckpointStore) -> None:
        for status in SignalStatus:
            store.save_signal(a_signal(status=status, created_at=at(-10)))
            store.save_signal(a_signal(status=status, created_at=at(0)))
        assert store.delete_old_signals(at(0)) == 2
        assert len(store.load_pending_signals(EXECUTION)) == 2
        assert store.delete_old_signals(at(1)) == 2


class ReferenceSuite(RecordSuite):
    """Nothing belongs to an execution that is not there."""

    @pytest.mark.parametrize(
        "save",
        [
            lambda store: store.save_checkpoint(a_checkpoint(workflow_execution_id="nobody")),
            lambda store: store.save_timer(a_timer(workflow_execution_id="nobody")),
            lambda store: store.save_signal(a_signal(workflow_execution_id="nobody")),
            lambda store: store.save_signal(a_signal(workflow_execution_id="nobody", workflow_signal_id=1)),
            lambda store: store.cancel_execution("nobody"),
        ],
    )
    def test_it_is_refused(self, store: CheckpointStore, save: Callable[[CheckpointStore], object]) -> None:
        with pytest.raises(ExecutionNotFoundError, match="nobody"):
            save(store)
        assert store.load_pending_timers() == []

    def test_a_whole_life(self, store: CheckpointStore) -> None:
        """What an engine of one's own does with the store, from the beginning to the end."""
        store.save_checkpoint(a_checkpoint(0, status=StepStatus.INTENT))
        store.save_checkpoint(a_checkpoint(0, output_data="first"))
        store.save_checkpoint(a_checkpoint(1, status=StepStatus.INTENT, compensate_ref="undo"))
        store.save_timer(a_timer())
        store.save_signal(a_signal())
        done = an_execution(current_step=2, output_data={"ok": True})
        store.save_execution(done)
        assert store.load_execution(EXECUTION) == done
        assert [(item.status, item.compensate_ref) for item in store.load_checkpoints(EXECUTION)] == [
            (StepStatus.COMPLETED, None),
            (StepStatus.INTENT, "undo"),
        ]
        assert {timer.workflow_execution_id for timer in store.load_pending_timers()} == {EXECUTION}
        assert {signal.workflow_execution_id for signal in store.load_pending_signals(EXECUTION)} == {EXECUTION}
