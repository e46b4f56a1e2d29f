"""Work items: enqueue, claim, and every way in which a lease ends."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Literal, NamedTuple, overload
from uuid import UUID

from msgspec.structs import replace

from wfe_fast.checks import MAX_INT, check_limit, check_name
from wfe_fast.clock import Duration, from_micros
from wfe_fast.codec import checked_text
from wfe_fast.database.base import Row, Session, UniqueViolation
from wfe_fast.errors import DuplicateWorkItemError, ExecutionEndedError, LeaseLostError, WorkItemNotFoundError
from wfe_fast.state.checks import check_id, check_queues, lease_micros
from wfe_fast.state.events import AnyEventKind, NodeFailed, RetryScheduled
from wfe_fast.state.executions import ExecutionMethods
from wfe_fast.state.models import (
    TERMINAL_STATUSES,
    Exhausted,
    FailOutcome,
    ReclaimResult,
    Retryable,
    WorkItem,
)
from wfe_fast.state.operations import Head, one, run
from wfe_fast.state.rows import item_from, item_row, lease_of
from wfe_fast.stored import micros

#: So many leases end in one claim at most, so that the first claim after a breakdown does not take for ever. None of them is to be had
#: by this claim: each backs off first.
_LARGEST_SWEEP = 200

#: The back-off doubles with each attempt, up to 2^6 seconds.
_LARGEST_EXPONENT = 6

_EXPIRED = "lease expired: its worker did not renew it"

_ENDED = frozenset(status.value for status in TERMINAL_STATUSES)


class Ended(NamedTuple):
    """A lease that has ended without a result: the item's row as it was, its new attempt, and the back-off, None for a dead letter."""

    row: Row
    attempt: int
    delay_ms: int | None


class ItemMethods(ExecutionMethods):
    """See `contract.WorkItemOperations`."""

    # -- enqueue -------------------------------------------------------------------------------------------------------------------

    def enqueue_work_item(self, item: WorkItem) -> UUID:
        row = item_row(item)
        try:
            self._write(self._enqueue, str(item.execution_id), row)
        except UniqueViolation as error:
            raise duplicate_item(error, row) from error
        return item.id

    def _enqueue(self, session: Session, execution_id: str, row: Row) -> None:
        head = self._head(session, execution_id)
        now = self._now()
        self._admit(session, head.tenant_id, now)
        self._add_item(session, head, execution_id, row, now)

    def _add_item(self, session: Session, head: Head, execution_id: str, row: Row, now: int) -> None:
        if head.status in _ENDED:
            raise ExecutionEndedError(execution_id, head.status)
        id, node, queue, payload, attempt, most, created, priority, run_at = row
        # A time of creation that lies ahead (another machine's clock) must not hold the item back.
        available = min(created, now) if run_at is None else max(run_at, min(created, now))
        session.run(
            self._sql.insert_item,
            (
                id,
                head.tenant_id,
                head.execution,
                node,
                queue,
                payload,
                attempt,
                most,
                created,
                priority,
                run_at,
                available,
            ),
        )

    def get_work_item(self, item_id: UUID) -> WorkItem | None:
        row = self._read(one, self._sql.get_work_item, (check_id(item_id, "item_id"), self._tenant))
        return None if row is None else item_from(row, self._store)

    # -- claim ---------------------------------------------------------------------------------------------------------------------

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
        # An idle worker asks often and mostly in vain: that costs a read, and no writer waits for it.
        if self._read(self._work_waits, queues):
            rows = self._write(self._claim, worker, queues, length, most)
        items = [item_from(row, self._store) for row in rows]
        if limit is not None:
            return items
        return items[0] if items else None

    def _work_waits(self, session: Session, queues: list[str]) -> bool:
        """Whether a claim would find something to do: an item, or a lease that has run out."""
        now = self._now()
        return any(self._ready(session, queue, now, 1) or self._expired(session, queue, now, 1) for queue in queues)

    def _claim(self, session: Session, worker: str, queues: list[str], length: int, most: int) -> list[Row]:
        # The clock is read inside the transaction: a lease begins when the claim is made, not when the thread began to wait for its turn.
        now = self._now()
        left = _LARGEST_SWEEP
        for queue in queues:
            for row in self._expired(session, queue, now, left):
                self._end_lease(session, row, _EXPIRED, now)
                left -= 1
        found = [row for queue in queues for row in self._ready(session, queue, now, most)]
        found.sort()
        claimed = []
        for _, _, seq in found[:most]:
            taken = session.one(self._sql.claim_item, (seq, worker, now + length))
            assert taken is not None  # it was found in this transaction
            claimed.append(taken)
        return claimed

    def _ready(self, session: Session, queue: str, now: int, most: int) -> list[Row]:
        """The first items of a queue that can be claimed: (-priority, since when, number).

        Level by level from the highest priority down: on each level the index begins with the item that has waited longest, and what is
        not due yet stands behind. So the cost is that of the levels and of the items returned, however many others wait.
        """
        sql, tenant = self._sql, self._tenant
        found: list[Row] = []
        below = MAX_INT + 1
        while True:
            left = most - len(found)
            found += (
                session.all(sql.ready, (queue, below, now, left))
                if tenant is None
                else session.all(sql.ready_of_tenant, (tenant, queue, below, now, left))
            )
            if len(found) == most:
                return found
            level = (
                session.one(sql.next_priority, (queue, below))
                if tenant is None
                else session.one(sql.next_priority_of_tenant, (tenant, queue, below))
            )
            if level is None:
                return found
            below = level[0]

    def _expired(self, session: Session, queue: str, now: int, most: int) -> list[Row]:
        """Items of a queue whose lease has run out; at most so many, -1 = all."""
        return session.all(self._sql.expired, (queue, self._tenant, now, most))

    # -- how a lease ends ----------------------------------------------------------------------------------------------------------

    def renew_lease(self, item: WorkItem, lease: Duration = 60.0) -> WorkItem:
        id, fence = lease_of(item)
        until = self._write(self._renew, id, fence, lease_micros(lease))
        return replace(item, lease_expires_at=from_micros(until))

    def _renew(self, session: Session, id: str, fence: int, length: int) -> int:
        until = self._now() + length
        if fence <= 0 or not session.run(self._sql.renew_lease, (id, fence, self._tenant, until)):
            raise LeaseLostError(id)
        return until

    def complete_work_item(self, item: WorkItem) -> None:
        self._write(self._settle, *lease_of(item), "completed", self._now())

    def _settle(self, session: Session, id: str, fence: int, status: Literal["completed", "failed"], now: int) -> Row:
        """End a lease for good: number and id of the execution, node and tenant of the item."""
        row = session.one(self._sql.settle_item, (id, fence, self._tenant, status, now)) if fence > 0 else None
        if row is None:
            raise LeaseLostError(id)
        return row

    def fail_work_item(self, item: WorkItem, error: str) -> FailOutcome:
        id, fence = lease_of(item)
        ended = self._write(self._fail, id, fence, checked_text(error, "error"))
        failed = replace(item_from(ended.row, self._store), attempt=ended.attempt)
        return Exhausted(item=failed) if ended.delay_ms is None else Retryable(item=failed, delay_ms=ended.delay_ms)

    def _fail(self, session: Session, id: str, fence: int, error: str) -> Ended:
        row = session.one(self._sql.held_item, (id, fence, self._tenant)) if fence > 0 else None
        if row is None:
            raise LeaseLostError(id)
        return self._end_lease(session, row, error, self._now())

    def park_work_item(self, item: WorkItem, until: datetime) -> None:
        id, fence = lease_of(item)
        params = (id, fence, self._tenant, micros(until, "until"))
        if fence <= 0 or not self._write(run, self._sql.park_work_item, params):
            raise LeaseLostError(id)

    def reclaim_expired_leases(self) -> ReclaimResult:
        result = ReclaimResult()
        for ended in self._write(self._reclaim):
            item = replace(item_from(ended.row, self._store), attempt=ended.attempt)
            (result.exhausted if ended.delay_ms is None else result.retryable).append(item)
        return result

    def _reclaim(self, session: Session) -> list[Ended]:
        now = self._now()
        found: list[Row] = []
        leased = session.one(self._sql.leased_queue, ("",))
        while leased is not None:
            found += self._expired(session, leased[0], now, -1)
            leased = session.one(self._sql.leased_queue, leased)
        return [self._end_lease(session, row, _EXPIRED, now) for row in found]

    def _end_lease(self, session: Session, row: Row, error: str, now: int) -> Ended:
        """The one rule for a lease that ends without a result, whoever notices: one attempt more, then back-off or dead letter, and the
        events that say so. `row` = the columns of the part `item`, then the numbers of the item and of its execution."""
        node, failed, most, tenant = row[2], row[5], row[6], row[11]
        seq, execution = row[14], row[15]
        attempt = failed + 1
        if attempt >= most:
            session.run(self._sql.bury_item, (seq, attempt, now, error))
            last = NodeFailed(node_id=node, error=error, attempt=failed, retryable=False)
            self._add_own_events(session, execution, tenant, [last], now)
            return Ended(row, attempt, None)
        delay: int = 1000 << min(attempt, _LARGEST_EXPONENT)
        session.run(self._sql.retry_item, (seq, attempt, now + delay * 1000, error))
        events: list[AnyEventKind] = [
            NodeFailed(node_id=node, error=error, attempt=failed, retryable=True),
            RetryScheduled(node_id=node, attempt=attempt, delay_ms=delay),
        ]
        self._add_own_events(session, execution, tenant, events, now)
        return Ended(row, attempt, delay)

    # -- giving up -----------------------------------------------------------------------------------------------------------------

    def move_to_dead_letter(self, item: WorkItem | UUID, error: str) -> None:
        id, fence = (str(item), None) if isinstance(item, UUID) else lease_of(item)
        self._write(self._bury, id, fence, checked_text(error, "error"))

    def _bury(self, session: Session, id: str, fence: int | None, error: str) -> None:
        row = session.one(self._sql.any_item, (id, self._tenant))
        if row is None:
            raise WorkItemNotFoundError(id)
        if fence is not None and row[10] != fence:
            raise LeaseLostError(id)
        now = self._now()
        seq, execution, status = row[14:]
        session.run(self._sql.bury_item, (seq, row[5], now, error))
        if status in ("pending", "claimed"):
            last = NodeFailed(node_id=row[2], error=error, attempt=row[5], retryable=False)
            self._add_own_events(session, execution, row[11], [last], now)


def duplicate_item(error: UniqueViolation, row: Row) -> DuplicateWorkItemError:
    """What a value that has to be unique, and is not, means to who adds an item."""
    if "node_id" in error.constraint:
        return DuplicateWorkItemError(row[1], "node_id")
    return DuplicateWorkItemError(row[0])
