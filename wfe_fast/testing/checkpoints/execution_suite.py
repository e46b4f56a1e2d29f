"""Workflows and executions: save, load, overwrite, list, count, delete."""

from __future__ import annotations

from datetime import timedelta
from itertools import combinations

import pytest

from wfe_fast.checkpoints.contract import CheckpointStore
from wfe_fast.checkpoints.models import ExecutionStatus, WorkflowExecution, WorkflowGuarantee
from wfe_fast.errors import ExecutionNotFoundError, InvalidValueError, WorkflowNotFoundError
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
    ids,
    saved,
)
from wfe_fast.testing.clock import ManualClock


class WorkflowSuite(Suite):
    """Kinds of workflows."""

    def test_what_is_saved_is_loaded(self, empty: CheckpointStore) -> None:
        workflow = a_workflow("w", workflow_type="mailing")
        empty.save_workflow(workflow)
        assert empty.load_workflow("w") == workflow
        assert workflow.version == 1

    def test_one_that_is_missing_is_none(self, empty: CheckpointStore) -> None:
        assert empty.load_workflow("nobody") is None

    def test_a_second_save_overwrites(self, empty: CheckpointStore) -> None:
        empty.save_workflow(a_workflow("w"))
        changed = a_workflow("w", workflow_type="other", version=7, created_at=at(5))
        empty.save_workflow(changed)
        assert empty.load_workflow("w") == changed

    def test_several_stand_side_by_side(self, empty: CheckpointStore) -> None:
        workflows = [a_workflow(f"w{number}", version=number) for number in range(3)]
        for workflow in workflows:
            empty.save_workflow(workflow)
        assert [empty.load_workflow(workflow.workflow_id) for workflow in workflows] == workflows

    def test_overwriting_one_keeps_its_executions(self, store: CheckpointStore) -> None:
        execution = saved(store, an_execution())
        store.save_workflow(a_workflow(version=2))
        assert store.load_execution(EXECUTION) == execution


class ExecutionSuite(Suite):
    """Executions, one by one and by status."""

    def test_what_is_saved_is_loaded(self, store: CheckpointStore) -> None:
        execution = saved(store, an_execution(input_data={"order": "A-17"}))
        assert store.load_execution(EXECUTION) == execution
        assert (execution.current_step, execution.guarantee) == (0, WorkflowGuarantee.FOREGROUND_ONLY)

    def test_the_defaults(self, store: CheckpointStore) -> None:
        execution = WorkflowExecution(workflow_id=WORKFLOW)
        store.save_execution(execution)
        found = store.load_execution(execution.workflow_execution_id)
        assert found == execution
        assert (execution.status, execution.input_data, execution.fence) == (ExecutionStatus.PENDING, None, None)

    def test_one_that_is_missing_is_none(self, store: CheckpointStore) -> None:
        assert store.load_execution("nobody") is None
        assert store.execution_status("nobody") is None

    def test_a_second_save_overwrites_every_field(self, store: CheckpointStore) -> None:
        saved(store, an_execution(input_data=[1], output_data="x", error_message="y", ttl_expires_at=at(1)))
        changed = an_execution(status=ExecutionStatus.COMPLETED, current_step=3, created_at=at(1), updated_at=at(2))
        store.save_execution(changed)
        assert store.load_execution(EXECUTION) == changed

    def test_overwriting_keeps_what_belongs_to_it(self, store: CheckpointStore) -> None:
        saved(store, an_execution())
        store.save_checkpoint(a_checkpoint())
        store.save_timer(a_timer())
        store.save_signal(a_signal())
        (before,) = store.load_checkpoints(EXECUTION)
        saved(store, an_execution(status=ExecutionStatus.SUSPENDED))
        assert store.load_checkpoints(EXECUTION) == [before]
        assert len(store.load_pending_timers()) == len(store.load_pending_signals(EXECUTION)) == 1

    @pytest.mark.parametrize("status", ExecutionStatus)
    def test_every_status(self, store: CheckpointStore, status: ExecutionStatus) -> None:
        execution = saved(store, an_execution(status=status))
        assert store.load_execution(EXECUTION) == execution
        assert store.execution_status(EXECUTION) is status

    def test_every_optional_field(self, store: CheckpointStore) -> None:
        execution = an_execution(
            output_data={"total": 12.5, "lines": [None, True, "ü"]},
            error_message="it broke",
            ttl_expires_at=at(60) + timedelta(microseconds=1),
            guarantee=WorkflowGuarantee.BEST_EFFORT_BACKGROUND,
        )
        store.save_execution(execution)
        assert store.load_execution(EXECUTION) == execution

    def test_a_failure_keeps_its_message(self, store: CheckpointStore) -> None:
        execution = saved(store, an_execution(status=ExecutionStatus.FAILED, error_message="boom: ä\n" * 100))
        assert store.load_execution(EXECUTION) == execution

    def test_it_needs_its_workflow(self, store: CheckpointStore) -> None:
        with pytest.raises(WorkflowNotFoundError, match="nobody"):
            store.save_execution(an_execution(workflow_id="nobody"))
        assert store.load_execution(EXECUTION) is None
        saved(store, an_execution())
        with pytest.raises(WorkflowNotFoundError):
            store.save_execution(an_execution(workflow_id="nobody", current_step=5))
        assert store.load_execution(EXECUTION) == an_execution()

    def test_one_workflow_has_many(self, store: CheckpointStore) -> None:
        for number in range(3):
            saved(store, an_execution(f"e{number}"))
        assert [store.load_execution(f"e{number}") for number in range(3)] == [
            an_execution(f"e{number}") for number in range(3)
        ]


class ByStatusSuite(Suite):
    """`load_executions_by_status`."""

    @pytest.fixture
    def mixed(self, store: CheckpointStore) -> CheckpointStore:
        """Seven executions of seven statuses, the youngest saved first."""
        for number, status in reversed(list(enumerate(ExecutionStatus))):
            saved(store, an_execution(status.value, status=status, created_at=at(number)))
        return store

    def test_no_status_no_execution(self, mixed: CheckpointStore) -> None:
        assert mixed.load_executions_by_status([]) == []

    @pytest.mark.parametrize("status", ExecutionStatus)
    def test_one_status(self, mixed: CheckpointStore, status: ExecutionStatus) -> None:
        assert ids(mixed.load_executions_by_status([status])) == [status.value]
        assert ids(mixed.load_executions_by_status(status)) == [status.value]

    def test_two_statuses_come_in_the_order_of_creation(self, mixed: CheckpointStore) -> None:
        order = [status.value for status in ExecutionStatus]
        for pair in combinations(ExecutionStatus, 2):
            for statuses in (pair, pair[::-1]):
                assert ids(mixed.load_executions_by_status(statuses)) == sorted(
                    (status.value for status in pair), key=order.index
                )

    def test_only_the_matching_ones(self, store: CheckpointStore) -> None:
        for id, status in [("a", "RUNNING"), ("b", "SUSPENDED"), ("c", "COMPLETED"), ("d", "RUNNING")]:
            saved(store, an_execution(id, status=ExecutionStatus[status]))
        found = store.load_executions_by_status([ExecutionStatus.RUNNING])
        assert found == [an_execution("a"), an_execution("d")]
        both = store.load_executions_by_status({ExecutionStatus.RUNNING, ExecutionStatus.SUSPENDED})
        assert ids(both) == ["a", "b", "d"]
        assert store.load_executions_by_status([ExecutionStatus.FAILED]) == []

    def test_equal_times_are_ordered_by_id(self, store: CheckpointStore) -> None:
        for id in ("b", "a", "d", "c"):
            saved(store, an_execution(id, status=ExecutionStatus.FAILED if id in "ad" else ExecutionStatus.RUNNING))
        assert ids(store.load_executions_by_status(list(ExecutionStatus))) == ["a", "b", "c", "d"]


class ListSuite(Suite):
    """Pages and counts."""

    @pytest.fixture
    def many(self, store: CheckpointStore) -> CheckpointStore:
        """Twelve executions of two workflows and two statuses, three to a moment."""
        store.save_workflow(a_workflow("other"))
        for number in range(12):
            execution = an_execution(
                f"e{number:02}",
                workflow_id=WORKFLOW if number % 2 else "other",
                status=ExecutionStatus.RUNNING if number % 3 else ExecutionStatus.FAILED,
                created_at=at(number // 3),
            )
            store.save_execution(execution)
        return store

    @pytest.mark.parametrize("limit", [1, 3, 5, 12, 100])
    @pytest.mark.parametrize("status", [None, ExecutionStatus.RUNNING, ExecutionStatus.FAILED])
    @pytest.mark.parametrize("workflow_id", [None, WORKFLOW, "other"])
    def test_pages_hold_all_that_pass_the_filters_once(
        self, many: CheckpointStore, limit: int, status: ExecutionStatus | None, workflow_id: str | None
    ) -> None:
        everything = many.load_executions_by_status(list(ExecutionStatus))
        wanted = [
            item for item in everything if status in (None, item.status) and workflow_id in (None, item.workflow_id)
        ]
        found: list[WorkflowExecution] = []
        after: str | None = None
        while True:
            page = many.list_executions(status=status, workflow_id=workflow_id, after=after, limit=limit)
            found += page.items
            assert len(page.items) <= limit
            if page.next is None:
                break
            after = page.next
        assert found == wanted
        assert len(found) > 1

    def test_nothing_to_list(self, store: CheckpointStore) -> None:
        page = store.list_executions()
        assert (page.items, page.next) == ([], None)

    @pytest.mark.parametrize("after", ["", "x", "1", ":", "x:y", f"{2**80}:a"])
    def test_a_place_that_no_page_gave(self, store: CheckpointStore, after: str) -> None:
        with pytest.raises(InvalidValueError, match="after"):
            store.list_executions(after=after)

    def test_counts(self, many: CheckpointStore) -> None:
        counts = many.count_executions()
        assert counts == {ExecutionStatus.RUNNING: 8, ExecutionStatus.FAILED: 4}
        assert counts[ExecutionStatus.COMPLETED] == 0
        assert many.count_executions(by="status") == counts
        with pytest.raises(InvalidValueError, match="by"):
            many.count_executions(by="workflow")


class DeleteSuite(Suite):
    """Deleting and retention."""

    def fill(self, store: CheckpointStore, id: str) -> None:
        """An execution with one of each."""
        saved(store, an_execution(id))
        store.save_checkpoint(a_checkpoint(workflow_execution_id=id))
        store.save_timer(a_timer(f"timer of {id}", workflow_execution_id=id))
        store.save_signal(a_signal(workflow_execution_id=id))

    def test_all_that_belongs_to_it_goes_too(self, store: CheckpointStore) -> None:
        self.fill(store, EXECUTION)
        store.delete_execution(EXECUTION)
        assert store.load_execution(EXECUTION) is None
        assert [*store.load_checkpoints(EXECUTION), *store.load_pending_signals(EXECUTION)] == []
        assert store.load_pending_timers() == []
        with pytest.raises(ExecutionNotFoundError):
            store.save_checkpoint(a_checkpoint())

    def test_others_stay(self, store: CheckpointStore) -> None:
        self.fill(store, EXECUTION)
        self.fill(store, "other")
        store.delete_execution(EXECUTION)
        assert store.load_execution("other") == an_execution("other")
        assert len(store.load_checkpoints("other")) == len(store.load_pending_signals("other")) == 1
        assert [timer.workflow_execution_id for timer in store.load_pending_timers()] == ["other"]
        assert store.load_workflow(WORKFLOW) is not None

    def test_one_that_is_missing_is_no_error(self, store: CheckpointStore) -> None:
        store.delete_execution("nobody")

    def test_completed_ones_before_a_moment(self, store: CheckpointStore) -> None:
        self.fill(store, "old")
        saved(store, an_execution("old", status=ExecutionStatus.COMPLETED, updated_at=at(-7200)))
        saved(store, an_execution("new", status=ExecutionStatus.COMPLETED, updated_at=at(-1800)))
        saved(store, an_execution("runs", updated_at=at(-7200)))
        saved(store, an_execution("failed", status=ExecutionStatus.FAILED, updated_at=at(-7200)))
        assert store.delete_completed_before(at(-3600)) == 1
        assert ids(store.load_executions_by_status(list(ExecutionStatus))) == ["failed", "new", "runs"]
        assert store.load_checkpoints("old") == []
        assert store.load_pending_timers() == []
        assert store.delete_completed_before(at(-3600)) == 0

    def test_the_moment_itself_is_not_before_it(self, store: CheckpointStore) -> None:
        saved(store, an_execution(status=ExecutionStatus.COMPLETED))
        assert store.delete_completed_before(at(0)) == 0
        assert store.delete_completed_before(at(0) + timedelta(microseconds=1)) == 1

    def test_any_final_status(self, store: CheckpointStore) -> None:
        for status in ExecutionStatus:
            saved(store, an_execution(status.value, status=status))
        assert store.delete_completed_before(at(1), statuses=ExecutionStatus.CANCELLED) == 1
        assert store.delete_completed_before(at(1), [ExecutionStatus.FAILED, ExecutionStatus.COMPLETED]) == 2
        assert store.delete_completed_before(at(1), []) == 0
        assert len(store.load_executions_by_status(list(ExecutionStatus))) == 4

    @pytest.mark.parametrize("status", ["PENDING", "RUNNING", "SUSPENDED", "COMPENSATING"])
    def test_what_may_still_run_is_refused(self, store: CheckpointStore, status: str) -> None:
        saved(store, an_execution(status=ExecutionStatus.COMPLETED))
        with pytest.raises(InvalidValueError, match="statuses"):
            store.delete_completed_before(at(1), [ExecutionStatus.COMPLETED, ExecutionStatus[status]])
        assert store.load_execution(EXECUTION) is not None

    def test_many_go_at_once(self, store: CheckpointStore, clock: ManualClock) -> None:
        with store.transaction() as tx:
            for number in range(1200):
                tx.save_execution(an_execution(f"e{number}", status=ExecutionStatus.COMPLETED))
                tx.save_checkpoint(a_checkpoint(workflow_execution_id=f"e{number}"))
        assert store.delete_completed_before(at(1)) == 1200
        assert store.count_executions() == {}
