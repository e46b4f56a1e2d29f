"""Waiting for events, first in first out per name and key.

A wait takes the oldest event since its `as_of` that lies behind the one which the last finished wait of this workflow on the same name
and key took. In the transaction that begins to wait that event is looked up; where there is none yet a subscription is stored,
from that position on, so that a late publisher cannot deliver an older one.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from wfe_fast.clock import from_micros, to_micros
from wfe_fast.persistence.models import (
    FINAL_POINTER_STATUSES,
    Event,
    EventSubscription,
    ExecutionPointer,
    PointerStatus,
)

if TYPE_CHECKING:
    from wfe_fast.host.flow import Flow
    from wfe_fast.persistence.contract import PersistenceTransaction

#: Which event a pointer got: ``{"id": …, "time": microseconds}``. The store writes it, too.
_EVENT = "wfe.event"
#: What earlier waits of the same pointer took: a list of the same with ``name`` and ``key``, one of each name and key.
_TAKEN = "wfe.taken"
#: The ids of the events at the position from which a wait began: it must get one that lies behind them.
_AFTER = "wfe.after"
#: When a wait ends without an event, in microseconds.
_DEADLINE = "wfe.deadline"
#: Set where it ended so.
_TIMED_OUT = "wfe.timed_out"


@dataclass
class Wait:
    """A wait that began in this pass."""

    pointer: ExecutionPointer
    since: datetime
    after_id: str | None


def begin(
    flow: Flow, pointer: ExecutionPointer, name: str, key: str, as_of: datetime | None, deadline: datetime | None = None
) -> None:
    """Let the pointer wait, from the commit of this pass on."""
    attributes = pointer.extension_attributes
    _remember_taken(pointer)
    for old in (_TIMED_OUT, _DEADLINE, _AFTER):
        attributes.pop(old, None)
    if deadline is not None:
        attributes[_DEADLINE] = to_micros(deadline)
    since, after_id = as_of or flow.instance.create_time, None
    taken = _taken(flow, name, key)
    if taken and from_micros(taken[-1]["time"]) >= since:
        since, after_id = from_micros(taken[-1]["time"]), taken[-1]["id"]
        attributes[_AFTER] = [entry["id"] for entry in taken if entry["time"] == taken[-1]["time"]]
    pointer.event_name, pointer.event_key = name, key
    pointer.event_published, pointer.event_data = False, None
    pointer.sleep_until = None
    pointer.status = PointerStatus.WAITING_FOR_EVENT
    pointer.active = False
    flow.waits.append(Wait(pointer, since, after_id))
    flow.may_have_subscriptions = True


def begin_again(flow: Flow, pointer: ExecutionPointer) -> None:
    """Wait on, with the same deadline: the event that came is one which this workflow had taken before."""
    got = pointer.extension_attributes.pop(_EVENT)
    name, key = pointer.event_name or "", pointer.event_key or ""
    begin(flow, pointer, name, key, from_micros(got["time"]), deadline(pointer))


def was_taken_before(pointer: ExecutionPointer) -> bool:
    """Whether the wait got an event which an earlier wait of this workflow had taken.

    That happens where an event has more subscribers than one transaction delivers to, and this workflow waits again before the rest had it.
    """
    got = pointer.extension_attributes.get(_EVENT)
    return got is not None and got["id"] in pointer.extension_attributes.get(_AFTER, ())


def timed_out(pointer: ExecutionPointer) -> bool:
    """Whether the pointer's wait has ended without an event."""
    return _TIMED_OUT in pointer.extension_attributes


def deadline(pointer: ExecutionPointer) -> datetime | None:
    """When the wait of a waiting pointer ends, if it does."""
    micros = pointer.extension_attributes.get(_DEADLINE)
    return None if micros is None else from_micros(micros)


def addresses(flow: Flow) -> list[tuple[str, str]]:
    """The names and keys under which `settle` may look for events, or subscribe."""
    pointers = [wait.pointer for wait in flow.waits]
    pointers += [pointer for pointer in flow.open_waits() if deadline(pointer) is not None]
    return [(pointer.event_name or "", pointer.event_key or "") for pointer in pointers]


def settle(flow: Flow, tx: PersistenceTransaction) -> list[EventSubscription]:
    """Give waiting pointers the events that are there; to be called in the transaction of the pass.

    Returns:
        The subscriptions to store: those of the waits that began in this pass and found no event.
    """
    begun = {id(wait.pointer) for wait in flow.waits}
    waiting = [pointer for pointer in flow.open_waits() if id(pointer) not in begun]
    if waiting:
        tx.take_events(flow.instance)
    subscriptions = [
        _subscription(flow, wait)
        for wait in flow.waits
        if wait.pointer.status is PointerStatus.WAITING_FOR_EVENT and not _look_up(flow, tx, wait)
    ]
    for pointer in waiting:
        until = deadline(pointer)
        if not pointer.active and until is not None and until <= flow.now:
            _end_unanswered(flow, tx, pointer)
    return subscriptions


def _end_unanswered(flow: Flow, tx: PersistenceTransaction, pointer: ExecutionPointer) -> None:
    """The deadline has passed: the pointer goes on, with an event that is there by now, or without one."""
    after = pointer.extension_attributes.get(_AFTER)
    moments = [stored.subscribe_as_of for stored in tx.subscriptions_of(flow.instance.id, pointer.id)]
    tx.drop_subscriptions(flow.instance.id, pointer.id)
    if not any(_look_up(flow, tx, Wait(pointer, moment, after[-1] if after else None)) for moment in moments):
        pointer.extension_attributes[_TIMED_OUT] = True
        pointer.active = True


def _look_up(flow: Flow, tx: PersistenceTransaction, wait: Wait) -> bool:
    """Deliver the oldest stored event, as a publisher would have; False where there is none yet."""
    pointer = wait.pointer
    name, key = pointer.event_name or "", pointer.event_key or ""
    for event in tx.get_events_since(name, key, wait.since, after_id=wait.after_id, limit=1):
        # An event for later is delivered when its time comes. The clock is read here: events may have come since the pass began.
        if event.is_processed or event.event_time <= flow.engine.clock():
            _deliver(pointer, event)
            return True
    return False


def _deliver(pointer: ExecutionPointer, event: Event) -> None:
    pointer.event_data = event.event_data
    pointer.event_published = True
    pointer.active = True
    pointer.extension_attributes[_EVENT] = {"id": event.id, "time": to_micros(event.event_time)}


def _subscription(flow: Flow, wait: Wait) -> EventSubscription:
    pointer = wait.pointer
    return EventSubscription(
        workflow_id=flow.instance.id,
        step_id=pointer.step_id,
        execution_pointer_id=pointer.id,
        event_name=pointer.event_name or "",
        event_key=pointer.event_key or "",
        subscribe_as_of=wait.since,
    )


def _remember_taken(pointer: ExecutionPointer) -> None:
    """Before a pointer waits once more: keep what it took, for its position in that name and key."""
    got = pointer.extension_attributes.pop(_EVENT, None)
    if got is not None:
        entry = {"name": pointer.event_name, "key": pointer.event_key, **got}
        taken = pointer.extension_attributes.get(_TAKEN, [])
        others = [old for old in taken if (old["name"], old["key"]) != (entry["name"], entry["key"])]
        pointer.extension_attributes[_TAKEN] = [*others, entry]


def _taken(flow: Flow, name: str | None, key: str | None) -> list[dict[str, Any]]:
    """What the finished waits of this workflow on a name and key took, in the order in which they ended."""
    found: list[tuple[int, datetime, dict[str, Any]]] = []
    for pointer in flow.instance.execution_pointers:
        attributes = pointer.extension_attributes
        if not attributes:
            continue
        ended = pointer.end_time if pointer.status in FINAL_POINTER_STATUSES else None
        if ended is not None and _EVENT in attributes and (pointer.event_name, pointer.event_key) == (name, key):
            found.append((attributes[_EVENT]["time"], ended, attributes[_EVENT]))
        earlier = (entry for entry in attributes.get(_TAKEN, ()) if (entry["name"], entry["key"]) == (name, key))
        found.extend((entry["time"], ended or flow.now, entry) for entry in earlier)
    return [entry for _, _, entry in sorted(found, key=lambda one: one[:2])]
