"""Work items on SQLite: claims, and every way in which a lease ends."""

from __future__ import annotations

from typing import Literal

from wfe_fast.checks import MAX_INT
from wfe_fast.database.base import Row, Session
from wfe_fast.errors import ExecutionEndedError, LeaseLostError, WorkItemNotFoundError
from wfe_fast.state.events import AnyEventKind, NodeFailed, RetryScheduled
from wfe_fast.state.models import TERMINAL_STATUSES
from wfe_fast.state.sqlite_logs import Head, SqliteLogs
from wfe_fast.state.work import EXPIRED, LARGEST_SWEEP, Ended

#: The back-off doubles with each attempt, up to 2^6 seconds.
_LARGEST_EXPONENT = 6

_ENDED = frozenset(status.value for status in TERMINAL_STATUSES)


class SqliteItems(SqliteLogs):
    """See `work.ItemWork`, and `work.Looks`."""

    # -- enqueue and claim -------------------------------------------------------------------------------------------------------------

    def enqueue(self, session: Session, execution_id: str, row: Row) -> None:
        head = self._head(session, execution_id)
        now = self._now()
        self._admit(session, head.tenant_id, now)
        self._add_item(session, head, execution_id, row, now)

    def _add_item(self, session: Session, head: Head, execution_id: str, row: Row, now: int) -> None:
        if head.status in _ENDED:
            raise ExecutionEndedError(execution_id, head.status)
        created, run_at = row[6], row[8]
        # A time of creation that lies ahead (another machine's clock) must not hold the item back.
        available = min(created, now) if run_at is None else max(run_at, min(created, now))
        session.run(self._sql.insert_item, (row[0], head.tenant_id, head.execution, *row[1:], available))

    def claimable(self, session: Session, queues: list[str]) -> bool:
        now = self._now()
        return any(self._ready(session, queue, now, 1) or self._expired(session, queue, now, 1) for queue in queues)

    def claim(self, session: Session, worker: str, queues: list[str], length: int, most: int) -> list[Row]:
        now = self._now()
        left = LARGEST_SWEEP
        for queue in queues:
            for row in self._expired(session, queue, now, left):
                self._end_lease(session, row, EXPIRED, now)
                left -= 1
        found = [row for queue in queues for row in self._ready(session, queue, now, most)]
        found.sort()
        claimed = []
        for _, _, seq in found[:most]:
            session.run(self._sql.claim_item, (seq, worker, now + length))
            taken = session.one(self._sql.claimed_item, (seq,))
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

    # -- how a lease ends --------------------------------------------------------------------------------------------------------------

    def renew_lease(self, session: Session, id: str, fence: int, length: int) -> int | None:
        until = self._now() + length
        return until if session.run(self._sql.renew_lease, (id, fence, self._tenant, until)) else None

    def complete(self, session: Session, id: str, fence: int) -> bool:
        return session.run(self._sql.settle_item, (id, fence, self._tenant, "completed", self._now())) > 0

    def _settle(self, session: Session, held: tuple[str, int], status: Literal["completed", "failed"], now: int) -> Row:
        """End a lease for good: number and id of the execution, node and tenant of the item."""
        row = session.one(self._sql.settled_for, (*held, self._tenant))
        if row is None:
            raise LeaseLostError(held[0])
        session.run(self._sql.settle_item, (*held, self._tenant, status, now))
        return row

    def fail(self, session: Session, id: str, fence: int, error: str) -> Ended:
        row = session.one(self._sql.held_item, (id, fence, self._tenant))
        if row is None:
            raise LeaseLostError(id)
        return self._end_lease(session, row, error, self._now())

    def reclaim(self, session: Session) -> list[Ended]:
        now = self._now()
        found: list[Row] = []
        leased = session.one(self._sql.leased_queue, ("",))
        while leased is not None:
            found += self._expired(session, leased[0], now, -1)
            leased = session.one(self._sql.leased_queue, leased)
        return [self._end_lease(session, row, EXPIRED, now) for row in found]

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

    def bury(self, session: Session, id: str, fence: int | None, error: str) -> None:
        row = session.one(self._sql.any_item, (id, self._tenant))
        if row is None:
            raise WorkItemNotFoundError(id)
        seq, execution, status = row[14:]
        live = status in ("pending", "claimed")
        # What is settled has the fence 0, as what waits has.
        if fence is not None and not (live and row[10] == fence):
            raise LeaseLostError(id)
        now = self._now()
        session.run(self._sql.bury_item, (seq, row[5], now, error))
        if live:
            last = NodeFailed(node_id=row[2], error=error, attempt=row[5], retryable=False)
            self._add_own_events(session, execution, row[11], [last], now)
