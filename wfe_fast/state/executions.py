"""Definitions and executions."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from wfe_fast.checks import check_enum, check_int, check_limit
from wfe_fast.clock import UTC, from_micros, to_micros
from wfe_fast.codec import checked_text
from wfe_fast.database.base import UniqueViolation
from wfe_fast.errors import DuplicateExecutionError, ExecutionNotFoundError
from wfe_fast.paging import EVER
from wfe_fast.state.checks import NO_ID, check_id, check_label, page_key, parse_page_key
from wfe_fast.state.logs import LogMethods
from wfe_fast.state.models import Page, WorkflowDefinition, WorkflowExecution, WorkflowStatus
from wfe_fast.state.operations import all_rows, one, run
from wfe_fast.state.rows import definition_row, execution_from, execution_row, status_from
from wfe_fast.stored import json_text, stored_json


class ExecutionMethods(LogMethods):
    """See `contract.ExecutionOperations`."""

    # -- definitions ---------------------------------------------------------------------------------------------------------------

    def store_workflow(self, definition: WorkflowDefinition) -> None:
        tenant, *rest = definition_row(definition)
        self._write(self._work.store_workflow, (self._tenant or tenant, *rest))

    def get_workflow(self, workflow_id: str, version: str) -> WorkflowDefinition | None:
        id, wanted = check_label(workflow_id, "workflow_id"), check_label(version, "version")
        row = self._read(one, self._sql.get_workflow, (self._home, id, wanted))
        if row is None:
            return None
        return WorkflowDefinition(
            workflow_id=id,
            version=wanted,
            ir=stored_json(row[0], self._store),
            created_at=from_micros(row[1]),
            tenant_id=self._home,
        )

    # -- executions ----------------------------------------------------------------------------------------------------------------

    def create_execution(self, execution: WorkflowExecution) -> None:
        row = execution_row(execution)
        try:
            self._write(self._work.create_execution, self._home, row)
        except UniqueViolation as error:
            raise DuplicateExecutionError(row[0]) from error

    def get_execution(self, execution_id: UUID) -> WorkflowExecution | None:
        row = self._read(one, self._sql.get_execution, (check_id(execution_id, "execution_id"), self._tenant))
        return None if row is None else execution_from(row, self._store)

    def update_execution_status(self, execution_id: UUID, status: WorkflowStatus) -> None:
        id = check_id(execution_id, "execution_id")
        self._write(self._work.change_status, id, check_enum(status, WorkflowStatus, "status"))

    def update_execution_current_state(self, execution_id: UUID, state: Any) -> None:
        id = check_id(execution_id, "execution_id")
        params = (id, self._tenant, json_text(state, "state"), self._bound_now())
        if not self._write(run, self._sql.update_execution_current_state, params):
            raise ExecutionNotFoundError(id)

    def patch_append_array(self, execution_id: UUID, key: str, value: Any) -> None:
        id = check_id(execution_id, "execution_id")
        self._write(self._work.patch_append_array, id, checked_text(key, "key"), json_text(value, "value"))

    def list_executions(
        self,
        status: WorkflowStatus | None = None,
        limit: int = 100,
        offset: int = 0,
        *,
        after: str | WorkflowExecution | None = None,
    ) -> Page[WorkflowExecution]:
        wanted = None if status is None else check_enum(status, WorkflowStatus, "status").value
        most = check_limit(limit)
        key = _key_of(after)
        span = (*(key or (EVER, NO_ID)), most + 1, check_int(offset, "offset"))
        sql = self._sql
        if self._tenant is None:
            rows = (
                self._read(all_rows, sql.list_executions, span)
                if wanted is None
                else self._read(all_rows, sql.list_executions_by_status, (wanted, *span))
            )
        elif wanted is None:
            rows = self._read(all_rows, sql.list_executions_of_tenant, (self._tenant, *span))
        else:
            rows = self._read(all_rows, sql.list_executions_of_tenant_by_status, (self._tenant, wanted, *span))
        items = [execution_from(row, self._store) for row in rows[:most]]
        return Page(items, _page_key(items[-1]) if len(rows) > most else None)

    def count_executions(self) -> dict[WorkflowStatus, int]:
        if self._tenant is None:
            rows = self._read(all_rows, self._sql.count_executions)
        else:
            rows = self._read(all_rows, self._sql.count_executions_of_tenant, (self._tenant,))
        return {status_from(status, self._store): count for status, count in rows}


def _page_key(execution: WorkflowExecution) -> str:
    """Where a page that ends with `execution` goes on."""
    return page_key(to_micros(execution.updated_at.astimezone(UTC)), execution.execution_id)


def _key_of(after: object) -> tuple[int, str] | None:
    if isinstance(after, WorkflowExecution):
        after = _page_key(after)
    return parse_page_key(after)
