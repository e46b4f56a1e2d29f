"""Definitions and executions."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from wfe_fast.checks import check_enum, check_int, check_limit
from wfe_fast.clock import UTC, from_micros, to_micros
from wfe_fast.codec import checked_text
from wfe_fast.database.base import Row, Session, UniqueViolation
from wfe_fast.errors import (
    DuplicateExecutionError,
    ExecutionNotFoundError,
    InvalidTransitionError,
    InvalidValueError,
)
from wfe_fast.state.checks import check_id, check_label, page_key, parse_page_key
from wfe_fast.state.logs import LogMethods
from wfe_fast.state.models import (
    TERMINAL_STATUSES,
    TRANSITIONS,
    Page,
    WorkflowDefinition,
    WorkflowExecution,
    WorkflowStatus,
)
from wfe_fast.state.operations import Head, all_rows, one, run
from wfe_fast.state.rows import definition_row, execution_from, execution_row, status_from
from wfe_fast.stored import json_text, stored_json

#: Beyond any datetime, in microseconds.
_EVER = 2**62


class ExecutionMethods(LogMethods):
    """See `contract.ExecutionOperations`."""

    # -- definitions ---------------------------------------------------------------------------------------------------------------

    def store_workflow(self, definition: WorkflowDefinition) -> None:
        tenant, *rest = definition_row(definition)
        self._write(self._store_workflow, (self._tenant or tenant, *rest))

    def _store_workflow(self, session: Session, row: Row) -> None:
        self._admit_workflow(session, row[0], row[1], self._now())
        session.run(self._sql.store_workflow, row)

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
            self._write(self._create_execution, row)
        except UniqueViolation as error:
            raise DuplicateExecutionError(row[0]) from error

    def _create_execution(self, session: Session, row: Row) -> Head:
        tenant = self._home
        self._admit_execution(session, tenant, self._now())
        inserted = session.one(self._sql.insert_execution, (tenant, *row))
        assert inserted is not None  # an INSERT with RETURNING returns its row, or raises
        session.run(self._sql.insert_log, inserted)
        return Head(inserted[0], tenant, row[3], 0, 0)

    def get_execution(self, execution_id: UUID) -> WorkflowExecution | None:
        row = self._read(one, self._sql.get_execution, (check_id(execution_id, "execution_id"), self._tenant))
        return None if row is None else execution_from(row, self._store)

    def update_execution_status(self, execution_id: UUID, status: WorkflowStatus) -> None:
        id = check_id(execution_id, "execution_id")
        self._write(self._change_status, id, check_enum(status, WorkflowStatus, "status"))

    def _change_status(self, session: Session, id: str, wanted: WorkflowStatus) -> None:
        head = self._head(session, id)
        if head.status != wanted.value:
            self._set_status(session, head, id, wanted, self._now())

    def _set_status(self, session: Session, head: Head, id: str, wanted: WorkflowStatus, now: int) -> None:
        """Let an execution have another status, where its own leads there."""
        if wanted not in TRANSITIONS.get(WorkflowStatus(head.status), ()):
            raise InvalidTransitionError(id, head.status, wanted.value)
        session.run(
            self._sql.set_status, (head.execution, wanted.value, now, now if wanted in TERMINAL_STATUSES else None)
        )
        if wanted is WorkflowStatus.CANCELLED:
            session.run(self._sql.cancel_items, (head.execution, now))

    def update_execution_current_state(self, execution_id: UUID, state: Any) -> None:
        id = check_id(execution_id, "execution_id")
        params = (id, self._tenant, json_text(state, "state"), self._now())
        if not self._write(run, self._sql.update_execution_current_state, params):
            raise ExecutionNotFoundError(id)

    def patch_append_array(self, execution_id: UUID, key: str, value: Any) -> None:
        id = check_id(execution_id, "execution_id")
        path = _path(checked_text(key, "key"))
        self._write(self._patch_append_array, id, key, path, json_text(value, "value"), self._now())

    def _patch_append_array(self, session: Session, id: str, key: str, path: str, value: str, now: int) -> None:
        if session.run(self._sql.patch_append_array, (id, self._tenant, path, f"{path}[#]", value, now)):
            return
        row = session.one(self._sql.state_type, (id, self._tenant))
        if row is None:
            raise ExecutionNotFoundError(id)
        if row[0] != "object":
            raise InvalidValueError("current_state", "must be an object where something is appended in it", row[0])
        raise InvalidValueError("key", "names something in the state that is not an array", key)

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
        span = (*(key or (_EVER, "")), most + 1, check_int(offset, "offset"))
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


def _path(key: str) -> str:
    """The place of `key` in an object, as a JSON path. What has a meaning in a path is written as an escape."""
    special = {'"', "\\"}
    escaped = "".join(f"\\u{ord(char):04x}" if char in special or char < " " else char for char in key)
    return f'$."{escaped}"'


def _page_key(execution: WorkflowExecution) -> str:
    """Where a page that ends with `execution` goes on."""
    return page_key(to_micros(execution.updated_at.astimezone(UTC)), execution.execution_id)


def _key_of(after: object) -> tuple[int, str] | None:
    if isinstance(after, WorkflowExecution):
        after = _page_key(after)
    return parse_page_key(after)
