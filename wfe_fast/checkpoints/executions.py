"""Workflows and their executions: save, read, list, count, delete."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from datetime import datetime

from wfe_fast.checkpoints.models import FINAL_STATUSES, ExecutionStatus, Page, Workflow, WorkflowExecution
from wfe_fast.checkpoints.operations import Operations, all_rows, one, run
from wfe_fast.checkpoints.rows import execution_row, fence_of, workflow_row
from wfe_fast.checks import check_enum, check_enums, check_identifier, check_limit
from wfe_fast.database.base import Row
from wfe_fast.errors import InvalidValueError
from wfe_fast.paging import page_key, page_start
from wfe_fast.stored import micros


class ExecutionMethods(Operations):
    """See `contract.ExecutionOperations`."""

    def save_workflow(self, workflow: Workflow) -> None:
        self._store(run, self._sql.save_workflow, workflow_row(workflow))

    def load_workflow(self, workflow_id: str) -> Workflow | None:
        row = self._read(one, self._sql.load_workflow, (check_identifier(workflow_id, "workflow_id"),))
        return None if row is None else self._from.workflow(row)

    def save_execution(self, execution: WorkflowExecution) -> None:
        row = execution_row(execution)
        self._store(self._work.save_execution, row, fence_of(execution)[1])

    def load_execution(self, workflow_execution_id: str) -> WorkflowExecution | None:
        params = (check_identifier(workflow_execution_id, "workflow_execution_id"),)
        row = self._read(one, self._sql.load_execution, params)
        return None if row is None else self._from.execution(row)

    def load_executions_by_status(
        self, statuses: ExecutionStatus | Collection[ExecutionStatus]
    ) -> list[WorkflowExecution]:
        wanted = [status.value for status in check_enums(statuses, ExecutionStatus, "statuses")]
        if not wanted:
            self._check_usable()
            return []
        found = [self._from.execution(row) for row in self._snapshot(self._work.load_by_status, wanted)]
        return sorted(found, key=lambda item: (item.created_at, item.workflow_execution_id))

    def execution_status(self, workflow_execution_id: str) -> ExecutionStatus | None:
        params = (check_identifier(workflow_execution_id, "workflow_execution_id"),)
        row = self._read(one, self._sql.execution_state, params)
        return None if row is None else self._from.status(row[0])

    def list_executions(
        self,
        *,
        status: ExecutionStatus | None = None,
        workflow_id: str | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> Page[WorkflowExecution]:
        state = None if status is None else check_enum(status, ExecutionStatus, "status").value
        if workflow_id is not None:
            check_identifier(workflow_id, "workflow_id")
        span: Row = (*page_start(after), check_limit(limit) + 1)
        filters: Row = tuple(value for value in (workflow_id, state) if value is not None)
        if len(filters) == 2:
            sql = self._sql.list_executions_by_both
        elif workflow_id is not None:
            sql = self._sql.list_executions_by_workflow
        else:
            sql = self._sql.list_executions if state is None else self._sql.list_executions_by_status
        rows = self._read(all_rows, sql, (*filters, *span))
        items = [self._from.execution(row) for row in rows[:limit]]
        more = len(rows) > limit
        return Page(items=items, next=page_key(items[-1].created_at, items[-1].workflow_execution_id) if more else None)

    def count_executions(self, by: str = "status") -> dict[ExecutionStatus, int]:
        if by != "status":
            raise InvalidValueError("by", 'must be "status"', by)
        rows = self._read(all_rows, self._sql.count_executions)
        return Counter({self._from.status(status): count for status, count in rows})

    def delete_execution(self, workflow_execution_id: str) -> None:
        params = (check_identifier(workflow_execution_id, "workflow_execution_id"),)
        self._store(run, self._sql.delete_execution, params)

    def delete_completed_before(
        self,
        cutoff: datetime,
        statuses: ExecutionStatus | Collection[ExecutionStatus] = ExecutionStatus.COMPLETED,
    ) -> int:
        moment = micros(cutoff, "cutoff")
        wanted = check_enums(statuses, ExecutionStatus, "statuses")
        for status in wanted:
            if status not in FINAL_STATUSES:
                raise InvalidValueError("statuses", "must be COMPLETED, FAILED or CANCELLED", status)
        return self._repeat(self._work.delete_completed_before, [status.value for status in wanted], moment)
