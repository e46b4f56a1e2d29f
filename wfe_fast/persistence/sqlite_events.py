"""Events, subscriptions, commands and errors on SQLite: small statements in one transaction, which nobody else writes in."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from wfe_fast.database.base import Row, Session
from wfe_fast.errors import ClaimLostError, CorruptionError, SubscriptionNotFoundError, WorkflowNotFoundError
from wfe_fast.persistence.models import FINAL_WORKFLOW_STATUSES, ExecutionPointer
from wfe_fast.persistence.pointers import decode_lines, encode_pointers, receive
from wfe_fast.persistence.rows import stored_json
from wfe_fast.persistence.sqlite_statements import SqliteStatements
from wfe_fast.persistence.work import Pairs

_FINAL = {status.value for status in FINAL_WORKFLOW_STATUSES}

#: Earlier unprocessed events of a key that a publication delivers first; there are more only where nobody dispatches.
_BACKLOG = 100

#: Rows of the queue that are looked at first: more than there are claims, as a rule.
_FIRST_LOOK = 64


class SqliteEvents:
    """See `work.EventWork`."""

    def __init__(self, sql: SqliteStatements, store: str, now: Callable[[], int]) -> None:
        self._sql = sql
        self._store = store
        self._now = now

    def events_since(
        self, session: Session, address: tuple[str, str], start: int, after_id: str | None, limit: int
    ) -> list[Row]:
        # An event that is gone (purged) leaves its moment: what lies at `start` or later is then all there is to say.
        after = None if after_id is None else session.one(self._sql.event_position, (after_id,))
        time, seq = (start, -1) if after is None or after[0] < start else after
        return session.all(self._sql.get_events_since, (*address, start, time, seq, limit))

    def publish(self, session: Session, row: Row, limit: int) -> bool:
        id, name, key = row[:3]
        if session.one(self._sql.event_exists, (id,)) is not None:
            return False
        now = self._now()
        session.run(self._sql.create_event, (*row[:5], 0, min(row[4], now)))
        # Whoever stores a subscription looks at the stored events in the same transaction. As there is one writer at a time, either that
        # transaction sees this event or we see its subscription.
        backlog = session.all(self._sql.unprocessed_of_key, (name, key, now, _BACKLOG))
        for stored in backlog:
            delivered, finished = self._deliver_to_all(session, stored, limit)
            limit -= delivered
            if not finished:
                break  # a later event must not overtake this one
        return False

    def undelivered(self, session: Session) -> bool:
        return bool(session.all(self._sql.unprocessed, (self._now(), 1)))

    def dispatch(self, session: Session, limit: int) -> int:
        done = 0
        for stored in session.all(self._sql.unprocessed, (self._now(), limit)):
            if done >= limit:
                break
            delivered, finished = self._deliver_to_all(session, stored, limit - done)
            done += delivered + finished
            if not finished:
                break
        return done

    def _deliver_to_all(self, session: Session, stored: Row, limit: int) -> tuple[int, bool]:
        """Deliver a stored event to at most `limit` subscriptions.

        Returns:
            To how many it was delivered, and whether none is left, so that it is processed now.
        """
        _, id, name, key, data, time = stored
        session.run(self._sql.overtake_pending, (name, key, time, id, data))
        matching = session.all(self._sql.matching_subscriptions, (name, key, time, max(0, limit) + 1))
        for subscription in matching[: max(0, limit)]:
            self._deliver(session, subscription, id, time, data)
        if len(matching) > max(0, limit):
            return max(0, limit), False
        session.run(self._sql.mark_event, (id, 1))
        return len(matching), True

    def _deliver(self, session: Session, subscription: Row, id: str | None, time: int, data: str) -> None:
        """Give an event to one subscription: (seq, workflow id, pointer id, workflow status, whether it is claimed)."""
        seq, workflow_id, pointer_id, status, claimed = subscription
        now = self._now() // 1000
        if claimed and status not in _FINAL:
            # Its holder works on a copy and would write over what we change; so it takes the event itself.
            session.run(self._sql.leave_event, (seq, id, time, data))
            session.run(self._sql.note_left_event, (workflow_id, now))
            return
        session.run(self._sql.delete_subscription, (seq,))
        if status is None or status in _FINAL:
            return
        row = session.one(self._sql.pointer_to_deliver, (workflow_id, pointer_id))
        if row is not None:
            position, line = row
            pointer = self._pointer_from(line, workflow_id)
            receive(pointer, id, time, stored_json(data, self._store))
            session.run(self._sql.update_pointer, (workflow_id, position, encode_pointers([pointer])[0][0].decode()))
        session.run(self._sql.make_due, (workflow_id, now))

    def _pointer_from(self, line: str, workflow_id: str) -> ExecutionPointer:
        try:
            return decode_lines(line)[0]
        except msgspec.MsgspecError as error:
            raise CorruptionError(
                self._store, f"a pointer of workflow {workflow_id} cannot be read: {error}"
            ) from error

    def pending(self, session: Session, workflow_id: str) -> bool:
        return bool(session.all(self._sql.pending_of, (workflow_id,)))

    def take(self, session: Session, workflow_id: str, fence: int | None) -> list[Row]:
        row = session.one(self._sql.claim_fence_of, (workflow_id,))
        if row is None:
            raise WorkflowNotFoundError(workflow_id)
        if fence is not None and row[0] != fence:
            raise ClaimLostError(workflow_id)
        rows = session.all(self._sql.pending_of, (workflow_id,))
        session.run_many(self._sql.delete_subscription, [(row[0],) for row in rows])
        return rows

    # -- subscriptions -----------------------------------------------------------------------------------------------------------

    def set_token(self, session: Session, id: str, token: str, worker_id: str, expiry: int | None) -> bool:
        if session.run(self._sql.set_subscription_token, (id, token, worker_id, expiry, self._now())):
            return True
        if session.one(self._sql.get_subscription, (id,)) is None:
            raise SubscriptionNotFoundError(id)
        return False

    def open_subscription(self, session: Session, address: tuple[str, str]) -> bool:
        return session.one(self._sql.open_subscription, (*address, self._now())) is not None

    def claim_open(
        self, session: Session, address: tuple[str, str], token: str, worker_id: str, length: int
    ) -> Row | None:
        now = self._now()
        found = session.one(self._sql.open_subscription, (*address, now))
        if found is None:
            return None
        session.run(self._sql.claim_subscription, (found[0], token, worker_id, now + length))
        return session.one(self._sql.get_subscription, found)

    def renew_subscription(self, session: Session, id: str, token: str, length: int) -> bool:
        return session.run(self._sql.renew_subscription, (id, token, self._now() + length)) == 1

    def complete(self, session: Session, id: str, token: str, data: str) -> None:
        subscription = session.one(self._sql.subscription_held, (id, token))
        if subscription is None:
            raise SubscriptionNotFoundError(id)
        self._deliver(session, subscription, None, self._now(), data)

    # -- commands, errors --------------------------------------------------------------------------------------------------------

    def add_errors(self, session: Session, rows: list[Row]) -> None:
        session.run_many(self._sql.persist_error, rows)

    def due_commands(self, session: Session, due: int) -> list[Row]:
        return session.all(self._sql.due_commands, (due, self._now()))

    def lease_command(self, session: Session, id: int, revision: int, length: int) -> int | None:
        now = self._now()
        until = now + length
        return until if session.run(self._sql.lease_command, (id, revision, now, until)) else None

    def finish_command(self, session: Session, id: int, revision: int, until: int) -> None:
        if not session.run(self._sql.finish_command, (id, revision, until)):
            session.run(self._sql.free_command, (id, until))

    # -- what comes next ---------------------------------------------------------------------------------------------------------

    def next_due(self, session: Session, pairs: Pairs | None) -> tuple[int | None, int]:
        event = session.one(self._sql.next_due_event)
        moments = [event[0] if event else None, _earliest(session, self._sql.next_due_commands, ())]
        if pairs is None:
            moments.append(_earliest(session, self._sql.next_due_workflows, ()))
        else:
            moments.extend(_earliest(session, self._sql.next_due_workflows_of, pair) for pair in pairs)
        return min((moment for moment in moments if moment is not None), default=None), self._now()


def _earliest(session: Session, sql: str, params: Row) -> int | None:
    """The earliest moment, in microseconds, among rows (milliseconds when due, microseconds when the lease on it ends or None).

    The rows come in the order of when they are due. The first free one ends the search: whatever follows is due later. Those before it
    are leased.
    """
    limit = _FIRST_LOOK
    while True:
        rows = session.all(sql, (*params, limit))
        earliest: int | None = None
        for due, leased_until in rows:
            moment: int = due * 1000 if leased_until is None else max(due * 1000, leased_until)
            earliest = moment if earliest is None else min(earliest, moment)
            if leased_until is None:
                return earliest
        if len(rows) < limit:
            return earliest
        limit *= 8
