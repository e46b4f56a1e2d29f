"""Events, and their delivery to the pointers that wait for them."""

from __future__ import annotations

from datetime import datetime, timedelta

from wfe_fast.clock import Duration, checked_moment, checked_seconds, from_micros, to_micros
from wfe_fast.errors import (
    DuplicateEventError,
    EventNotFoundError,
)
from wfe_fast.persistence.models import Event, WorkflowInstance
from wfe_fast.persistence.operations import Operations, all_rows, one, run
from wfe_fast.persistence.pointers import receive
from wfe_fast.persistence.rows import event_from, event_row, micros, stored_json
from wfe_fast.persistence.validation import check_address, check_limit, check_model, check_name, check_optional_limit


class EventMethods(Operations):
    """See `contract.EventOperations`."""

    def create_event(self, event: Event) -> str:
        row = event_row(event, self._work.json)
        params = (self._sql.create_event, (*row, row[4]))
        self._store_for(None, run, params, duplicate=lambda _: DuplicateEventError(row[0]))
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
        rows = self._snapshot(self._work.events_since, address, start, after_id, check_optional_limit(limit))
        return [event_from(row, self._store) for row in rows]

    def mark_event_processed(self, id: str) -> None:
        self._mark(id, 1)

    def mark_event_unprocessed(self, id: str) -> None:
        self._mark(id, 0)

    def _mark(self, id: str, processed: int) -> None:
        if not self._repeat(run, self._sql.mark_event, (check_name(id, "id", empty=True), processed)):
            raise EventNotFoundError(id)

    def purge_events(self, older_than: datetime | Duration, limit: int = 1000) -> int:
        params = (self._cutoff(older_than), check_limit(limit))
        return self._repeat(run, self._sql.purge_events, params)

    def _cutoff(self, older_than: datetime | Duration) -> int:
        """A moment, or an age counted back from now, in microseconds."""
        if isinstance(older_than, datetime):
            return to_micros(checked_moment(older_than, "older_than"))
        seconds = checked_seconds(older_than, "older_than")
        return to_micros(self._clock()) - timedelta(seconds=seconds) // timedelta(microseconds=1)

    # -- delivery --------------------------------------------------------------------------------------------------------------

    def publish_event(self, event: Event, *, limit: int = 500) -> str:
        row = event_row(event, self._work.json)
        check_limit(limit)
        self._store_for(None, self._work.publish, (row, limit), self._delivered, repeatable=True)
        event.id = row[0]
        return event.id

    def _delivered(self, held_up: object) -> None:
        """After a publication. `held_up` is True where somebody else's transaction stood in the way of a delivery."""

    def dispatch_events(self, limit: int = 500) -> int:
        check_limit(limit)
        looks = self._looks()
        if looks and not self._read(looks.undelivered):
            return 0
        return self._repeat(self._work.dispatch, limit)

    def take_events(self, instance: WorkflowInstance) -> list[Event]:
        check_model(instance, WorkflowInstance, "instance")
        check_name(instance.id, "id")
        memory = self._memory(instance)
        fence = None if memory is None else memory.fence
        looks = self._looks()
        if fence is None and looks and not self._read(looks.pending, instance.id):
            return []
        rows = self._write(self._work.take, instance.id, fence)
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
