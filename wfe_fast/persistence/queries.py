"""Lists, counts and retention."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from datetime import datetime

from wfe_fast.clock import Duration, checked_moment, from_millis, to_micros
from wfe_fast.database.base import Row
from wfe_fast.errors import InvalidValueError, WorkflowNotFoundError
from wfe_fast.paging import EVER, Page, page_key, page_start
from wfe_fast.persistence.events import EventMethods
from wfe_fast.persistence.models import WorkflowInstance, WorkflowStatus
from wfe_fast.persistence.operations import all_rows, one
from wfe_fast.persistence.validation import check_enum, check_enums, check_limit, check_name, check_optional_name


class QueryMethods(EventMethods):
    """The queries and the retention of `contract.WorkflowOperations`."""

    def list_workflows(
        self,
        *,
        status: WorkflowStatus | None = None,
        definition_id: str | None = None,
        reference: str | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> Page[WorkflowInstance]:
        state = None if status is None else check_enum(status, WorkflowStatus, "status").value
        check_optional_name(definition_id, "definition_id")
        check_optional_name(reference, "reference")
        created_from = -EVER if created_after is None else _micros(created_after, "created_after")
        created_until = EVER if created_before is None else _micros(created_before, "created_before")
        check_limit(limit)
        span: Row = (created_until, *max(page_start(after), (created_from, "")), limit + 1)
        filters: Row = ()
        if reference is not None:
            sql, filters = self._sql.list_workflows_by_reference, (reference, state, definition_id)
        elif state is not None:
            sql, filters = self._sql.list_workflows_by_status, (state, definition_id)
        elif definition_id is not None:
            sql, filters = self._sql.list_workflows_by_definition, (definition_id,)
        else:
            sql = self._sql.list_workflows
        rows = self._read(all_rows, sql, (*filters, *span))
        items = [self._loaded(row) for row in rows[:limit]]
        return Page(items=items, next=page_key(items[-1].create_time, items[-1].id) if len(rows) > limit else None)

    def count_workflows(self, by: str = "status") -> dict[WorkflowStatus, int]:
        if by != "status":
            raise InvalidValueError("by", 'must be "status"', by)
        counts = self._read(all_rows, self._sql.count_workflows)
        return Counter({WorkflowStatus(status): count for status, count in counts})

    def oldest_runnable(self) -> datetime | None:
        row = self._read(one, self._sql.oldest_runnable)
        return None if row is None else from_millis(row[0])

    def delete_workflow(self, id: str) -> None:
        if not self._write(self._work.delete, [check_name(id, "id", empty=True)]):
            raise WorkflowNotFoundError(id)

    def purge_workflows(
        self,
        status: WorkflowStatus | Collection[WorkflowStatus],
        older_than: datetime | Duration,
        limit: int = 1000,
    ) -> int:
        statuses = [item.value for item in check_enums(status, WorkflowStatus, "status")]
        cutoff = self._cutoff(older_than)
        return self._repeat(self._work.purge, statuses, cutoff, check_limit(limit))


def _micros(moment: datetime, field: str) -> int:
    return to_micros(checked_moment(moment, field))
