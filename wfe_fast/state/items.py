"""Work items: enqueue, claim, and every way in which a lease ends."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import overload
from uuid import UUID

from msgspec.structs import replace

from wfe_fast.checks import check_limit, check_name
from wfe_fast.clock import Duration, from_micros
from wfe_fast.codec import checked_text
from wfe_fast.database.base import Row, UniqueViolation
from wfe_fast.errors import DuplicateWorkItemError, LeaseLostError
from wfe_fast.state.checks import check_id, check_queues, lease_micros
from wfe_fast.state.executions import ExecutionMethods
from wfe_fast.state.models import Exhausted, FailOutcome, ReclaimResult, Retryable, WorkItem
from wfe_fast.state.operations import one, run
from wfe_fast.state.rows import item_from, item_row, lease_of
from wfe_fast.stored import micros


class ItemMethods(ExecutionMethods):
    """See `contract.WorkItemOperations`."""

    # -- enqueue -------------------------------------------------------------------------------------------------------------------

    def enqueue_work_item(self, item: WorkItem) -> UUID:
        row = item_row(item)
        try:
            self._write(self._work.enqueue, str(item.execution_id), row)
        except UniqueViolation as error:
            raise duplicate_item(error, row) from error
        return item.id

    def get_work_item(self, item_id: UUID) -> WorkItem | None:
        row = self._read(one, self._sql.get_work_item, (check_id(item_id, "item_id"), self._tenant))
        return None if row is None else item_from(row, self._store)

    # -- claim ---------------------------------------------------------------------------------------------------------------------

    #: The queues in which the last claim got as many as it asked for. The next one in these most likely finds some, too, and does not
    #: look before.
    _found_all_in: list[str] | None = None

    @overload
    def claim_work_item(
        self, worker_id: str, queue_types: Iterable[str], *, lease: Duration = 60.0, limit: None = None
    ) -> WorkItem | None: ...

    @overload
    def claim_work_item(
        self, worker_id: str, queue_types: Iterable[str], *, lease: Duration = 60.0, limit: int
    ) -> list[WorkItem]: ...

    def claim_work_item(
        self, worker_id: str, queue_types: Iterable[str], *, lease: Duration = 60.0, limit: int | None = None
    ) -> WorkItem | list[WorkItem] | None:
        worker = check_name(worker_id, "worker_id")
        queues = check_queues(queue_types)
        length = lease_micros(lease)
        most = 1 if limit is None else check_limit(limit)
        rows: list[Row] = []
        looks = None if queues == self._found_all_in else self._work.looks
        self._found_all_in = None  # also where the claim fails
        if queues and (looks is None or self._read(looks.claimable, queues)):
            rows = self._write(self._work.claim, worker, queues, length, most)
        if len(rows) == most:
            self._found_all_in = queues
        items = [item_from(row, self._store) for row in rows]
        if limit is not None:
            return items
        return items[0] if items else None

    # -- how a lease ends ----------------------------------------------------------------------------------------------------------

    def renew_lease(self, item: WorkItem, lease: Duration = 60.0) -> WorkItem:
        length = lease_micros(lease)
        id, fence = _held(item)
        until = self._repeat(self._work.renew_lease, id, fence, length)
        if until is None:
            raise LeaseLostError(id)
        return replace(item, lease_expires_at=from_micros(until))

    def complete_work_item(self, item: WorkItem) -> None:
        id, fence = _held(item)
        if not self._write(self._work.complete, id, fence):
            raise LeaseLostError(id)

    def fail_work_item(self, item: WorkItem, error: str) -> FailOutcome:
        text = checked_text(error, "error")
        ended = self._write(self._work.fail, *_held(item), text)
        failed = replace(item_from(ended.row, self._store), attempt=ended.attempt)
        return Exhausted(item=failed) if ended.delay_ms is None else Retryable(item=failed, delay_ms=ended.delay_ms)

    def park_work_item(self, item: WorkItem, until: datetime) -> None:
        moment = micros(until, "until")
        id, fence = _held(item)
        if not self._write(run, self._sql.park_work_item, (id, fence, self._tenant, moment)):
            raise LeaseLostError(id)

    def reclaim_expired_leases(self) -> ReclaimResult:
        result = ReclaimResult()
        for ended in self._write(self._work.reclaim):
            item = replace(item_from(ended.row, self._store), attempt=ended.attempt)
            (result.exhausted if ended.delay_ms is None else result.retryable).append(item)
        return result

    # -- giving up -----------------------------------------------------------------------------------------------------------------

    def move_to_dead_letter(self, item: WorkItem | UUID, error: str) -> None:
        id, fence = (str(item), None) if isinstance(item, UUID) else lease_of(item)
        self._write(self._work.bury, id, fence, checked_text(error, "error"))


def _held(item: object) -> tuple[str, int]:
    """`lease_of` for who has to hold the item: 0 and less is nobody's fence.

    Raises:
        InvalidValueError: it is no work item.
        LeaseLostError: see above.
    """
    id, fence = lease_of(item)
    if fence <= 0:
        raise LeaseLostError(id)
    return id, fence


def duplicate_item(error: UniqueViolation, row: Row) -> DuplicateWorkItemError:
    """What a value that has to be unique, and is not, means to who adds an item."""
    if "node_id" in error.constraint:
        return DuplicateWorkItemError(row[1], "node_id")
    return DuplicateWorkItemError(row[0])
