"""Events, and their delivery to the pointers that wait for them."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import msgspec

from wfe_fast.clock import Duration, checked_moment, checked_seconds, from_micros, to_micros
from wfe_fast.database.base import Row, Session, UniqueViolation
from wfe_fast.errors import (
    ClaimLostError,
    CorruptionError,
    DuplicateEventError,
    EventNotFoundError,
    WorkflowNotFoundError,
)
from wfe_fast.persistence.models import FINAL_WORKFLOW_STATUSES, Event, ExecutionPointer, WorkflowInstance
from wfe_fast.persistence.operations import Operations, all_rows, one, run
from wfe_fast.persistence.pointers import decode_lines, encode_pointers
from wfe_fast.persistence.rows import event_from, event_row, micros, stored_json
from wfe_fast.persistence.validation import check_address, check_limit, check_model, check_name, check_optional_limit

#: The key of `extension_attributes` under which a pointer says which event it got.
EVENT_ATTRIBUTE = "wfe.event"

_FINAL = {status.value for status in FINAL_WORKFLOW_STATUSES}

#: Earlier unprocessed events of a key that a publication delivers first; there are more only where nobody dispatches.
_BACKLOG = 100


class EventMethods(Operations):
    """See `contract.EventOperations`."""

    def create_event(self, event: Event) -> str:
        row = event_row(event)
        try:
            self._write(run, self._sql.create_event, (*row, row[4]))
        except UniqueViolation as error:
            raise DuplicateEventError(row[0]) from error
        event.id = row[0]
        return event.id

    def get_event(self, id: str) -> Event:
        row = self._read(one, self._sql.get_event, (check_name(id, "id", empty=True),))
        if row is None:
            raise EventNotFoundError(id)
        return event_from(row, self._store)

    def get_runnable_events(self, as_at: datetime, limit: int | None = None) -> list[str]:
        params = (micros(as_at, "as_at"), check_optional_limit(limit))
        return [row[0] for row in self._read(all_rows, self._sql.get_runnable_events, params)]

    def get_events(self, event_name: str, event_key: str, as_of: datetime) -> list[str]:
        params = (*check_address(event_name, event_key), micros(as_of, "as_of"))
        return [row[0] for row in self._read(all_rows, self._sql.get_events, params)]

    def get_events_since(
        self,
        event_name: str,
        event_key: str,
        since: datetime,
        *,
        after_id: str | None = None,
        limit: int | None = None,
    ) -> list[Event]:
        address = check_address(event_name, event_key)
        start = micros(since, "since")
        if after_id is not None:
            check_name(after_id, "after_id", empty=True)
        rows = self._snapshot(self._events_since, address, start, after_id, check_optional_limit(limit))
        return [event_from(row, self._store) for row in rows]

    def _events_since(
        self, session: Session, address: tuple[str, str], start: int, after_id: str | None, limit: int
    ) -> list[Row]:
        # An event that is gone (purged) leaves its moment: what lies at `start` or later is then all there is to say.
        after = None if after_id is None else session.one(self._sql.event_position, (after_id,))
        time, seq = (start, -1) if after is None or after[0] < start else after
        return session.all(self._sql.get_events_since, (*address, start, time, seq, limit))

    def mark_event_processed(self, id: str) -> None:
        self._mark(id, 1)

    def mark_event_unprocessed(self, id: str) -> None:
        self._mark(id, 0)

    def _mark(self, id: str, processed: int) -> None:
        if not self._write(run, self._sql.mark_event, (check_name(id, "id", empty=True), processed)):
            raise EventNotFoundError(id)

    def purge_events(self, older_than: datetime | Duration, limit: int = 1000) -> int:
        params = (self._cutoff(older_than), check_limit(limit))
        return self._write(run, self._sql.purge_events, params)

    def _cutoff(self, older_than: datetime | Duration) -> int:
        """A moment, or an age counted back from now, in microseconds."""
        if isinstance(older_than, datetime):
            return to_micros(checked_moment(older_than, "older_than"))
        seconds = checked_seconds(older_than, "older_than")
        return to_micros(self._clock()) - timedelta(seconds=seconds) // timedelta(microseconds=1)

    # -- delivery --------------------------------------------------------------------------------------------------------------

    def publish_event(self, event: Event, *, limit: int = 500) -> str:
        row = event_row(event)
        check_limit(limit)
        self._write(self._publish, row, limit)
        event.id = row[0]
        return event.id

    def _publish(self, session: Session, row: Row, limit: int) -> None:
        id, name, key = row[:3]
        if session.one(self._sql.event_exists, (id,)) is not None:
            return
        now = self._now()
        session.run(self._sql.create_event, (*row[:5], 0, min(row[4], now)))
        # Whoever stores a subscription looks at the stored events in the same transaction. As there is one writer at a time, either that
        # transaction sees this event or we see its subscription.
        backlog = session.all(self._sql.unprocessed_of_key, (name, key, now, _BACKLOG))
        for stored in backlog:
            delivered, finished = self._deliver_to_all(session, stored, limit)
            limit -= delivered
            if not finished:
                return  # a later event must not overtake this one

    def dispatch_events(self, limit: int = 500) -> int:
        check_limit(limit)
        if not self._in_block() and not self._read(all_rows, self._sql.unprocessed, (self._now(), 1)):
            return 0
        return self._write(self._dispatch, limit)

    def _dispatch(self, session: Session, limit: int) -> int:
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

    def take_events(self, instance: WorkflowInstance) -> list[Event]:
        check_model(instance, WorkflowInstance, "instance")
        check_name(instance.id, "id")
        memory = self._memory(instance)
        fence = None if memory is None else memory.fence
        if fence is None and not self._in_block() and not self._read(all_rows, self._sql.pending_of, (instance.id,)):
            return []
        rows = self._write(self._take, instance.id, fence)
        pointers = {pointer.id: pointer for pointer in instance.execution_pointers}
        events = []
        for row in sorted(rows, key=lambda row: (row[6], row[0])):
            _, subscription_id, pointer_id, name, key, id, time, data = row
            event = Event(
                id=id or subscription_id,
                event_name=name,
                event_key=key,
                event_data=stored_json(data, self._store),
                event_time=from_micros(time),
                is_processed=True,
            )
            events.append(event)
            if pointer_id in pointers:
                receive(pointers[pointer_id], id, time, event.event_data)
        if events:
            now = self._now() // 1000
            due = instance.next_execution
            instance.next_execution = now if due is None else min(due, now)
        return events

    def _take(self, session: Session, workflow_id: str, fence: int | None) -> list[Row]:
        row = session.one(self._sql.claim_fence_of, (workflow_id,))
        if row is None:
            raise WorkflowNotFoundError(workflow_id)
        if fence is not None and row[0] != fence:
            raise ClaimLostError(workflow_id)
        rows = session.all(self._sql.pending_of, (workflow_id,))
        session.run_many(self._sql.delete_subscription, [(row[0],) for row in rows])
        return rows


def receive(pointer: ExecutionPointer, event_id: str | None, event_time: int, data: Any) -> None:
    """What the delivery of an event does to a pointer. `event_time` in microseconds; without `event_id` it came from an activity."""
    pointer.event_data = data
    pointer.event_published = True
    pointer.active = True
    if event_id is not None:
        # By this an engine knows which events of the key lie behind the one that this wait got.
        attributes = dict(pointer.extension_attributes)
        attributes[EVENT_ATTRIBUTE] = {"id": event_id, "time": event_time}
        pointer.extension_attributes = attributes
