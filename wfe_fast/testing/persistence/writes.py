"""Every write of the contract, each as one call on a prepared world: for tests that ask the same of all of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from wfe_fast.clock import to_millis
from wfe_fast.persistence.contract import PersistenceProvider, PersistenceTransaction
from wfe_fast.persistence.models import (
    EventSubscription,
    ScheduledCommand,
    WorkflowInstance,
    WorkflowStatus,
)
from wfe_fast.testing.clock import ManualClock
from wfe_fast.testing.persistence.factories import (
    FAR,
    KEY,
    NAME,
    a_pointer,
    a_subscription,
    a_workflow,
    an_error,
    an_event,
    full_pointer,
    pointers,
    subscribe,
    waiting_workflow,
)

#: Where the world's events and subscriptions are.
KEYS = [(NAME, KEY), (NAME, "left"), (NAME, "activity"), (NAME, "stored")]


@dataclass
class World:
    """One of everything, so that every write has something to change."""

    clock: ManualClock
    stored: WorkflowInstance
    held: WorkflowInstance
    taken: EventSubscription
    open: EventSubscription


def build_world(provider: PersistenceProvider, clock: ManualClock) -> World:
    """Fill the empty store with a world. What is claimed there is claimed for an hour."""
    stored = a_workflow(id="stored", name="stored", execution_pointers=pointers(6), next_execution=8)
    held = a_workflow(id="held", name="held", execution_pointers=pointers(3), next_execution=1)
    finished = a_workflow(id="finished", status=WorkflowStatus.COMPLETE, complete_time=clock() - timedelta(days=9))
    for instance in (stored, held, finished):
        provider.create_new_workflow(instance)
    (held,) = provider.claim_runnable_instances("holder", lease=3600)
    subscribe(provider, held, key="left")
    provider.publish_event(an_event(id="left", event_key="left"))
    for key in (KEY, KEY, KEY, "activity"):
        waiting_workflow(provider, key=key)
    taken = provider.claim_subscription(NAME, "activity", "worker", 3600)
    assert taken is not None
    open = subscribe(provider, stored, key="open")
    provider.create_event(an_event(id="event", event_key="stored"))
    provider.create_event(an_event(id="due"))
    provider.create_event(an_event(id="processed", event_key="stored", is_processed=True))
    provider.schedule_command(ScheduledCommand.process_workflow("stored", to_millis(clock()) + 1))
    provider.persist_errors([an_error("stored")])
    provider.next_definition_sequence("order")
    return World(clock, stored, held, taken, open)


def _changed(instance: WorkflowInstance) -> WorkflowInstance:
    if instance.description == "changed":  # by a block that was undone: the same is to be stored
        return instance
    instance.description = "changed"
    instance.data = {"changed": True}
    instance.execution_pointers[1].persistence_data = {"changed": [1]}
    del instance.execution_pointers[2:4]
    instance.execution_pointers.insert(1, full_pointer(instance.id))
    instance.execution_pointers.append(a_pointer(id="appended"))
    return instance


def _persist_with_subscriptions(tx: PersistenceTransaction, world: World) -> None:
    made = [a_subscription(id=f"more-{n}", workflow_id="stored") for n in range(2)]
    tx.persist_workflow_with_subscriptions(_changed(world.stored), made)


def _take_events(tx: PersistenceTransaction, world: World) -> object:
    return tx.take_events(world.held)


def _token(world: World) -> str:
    assert world.taken.external_token is not None
    return world.taken.external_token


#: A label that begins with the method's name → the call. Each of them changes the world of `build_world`, the same way each time.
WRITES: dict[str, Callable[[PersistenceTransaction, World], object]] = {
    "create_new_workflow": lambda tx, w: tx.create_new_workflow(
        a_workflow(id="new", create_time=w.clock(), execution_pointers=[full_pointer(n) for n in "ab"])
    ),
    "persist_workflow": lambda tx, w: tx.persist_workflow(_changed(w.stored)),
    "persist_workflow claimed": lambda tx, w: tx.persist_workflow(_changed(w.held)),
    "persist_workflow release": lambda tx, w: tx.persist_workflow(_changed(w.held), release=True),
    "persist_workflow_with_subscriptions": _persist_with_subscriptions,
    "next_definition_sequence": lambda tx, w: tx.next_definition_sequence("order"),
    "change_status": lambda tx, w: tx.change_status("stored", WorkflowStatus.TERMINATED),
    "delete_workflow": lambda tx, w: tx.delete_workflow("stored"),
    "purge_workflows": lambda tx, w: tx.purge_workflows(WorkflowStatus.COMPLETE, w.clock()),
    "claim_runnable_instances": lambda tx, w: tx.claim_runnable_instances("other", 5, as_at=FAR),
    "renew_claims": lambda tx, w: tx.renew_claims([w.held], 1800),
    "release_claim": lambda tx, w: tx.release_claim(w.held),
    "create_event": lambda tx, w: tx.create_event(an_event(id="more", event_time=w.clock())),
    "mark_event_processed": lambda tx, w: tx.mark_event_processed("event"),
    "mark_event_unprocessed": lambda tx, w: tx.mark_event_unprocessed("processed"),
    "publish_event": lambda tx, w: tx.publish_event(an_event(id="published", event_time=w.clock())),
    "publish_event limit": lambda tx, w: tx.publish_event(an_event(id="published", event_time=w.clock()), limit=2),
    "dispatch_events": lambda tx, w: tx.dispatch_events(),
    "take_events": _take_events,
    "purge_events": lambda tx, w: tx.purge_events(FAR),
    "create_event_subscription": lambda tx, w: tx.create_event_subscription(a_subscription(id="more")),
    "set_subscription_token": lambda tx, w: tx.set_subscription_token(w.open.id, "t", "worker", w.clock.advance(1)),
    "clear_subscription_token": lambda tx, w: tx.clear_subscription_token(w.taken.id, _token(w)),
    "terminate_subscription": lambda tx, w: tx.terminate_subscription(w.open.id),
    "drop_subscriptions": lambda tx, w: tx.drop_subscriptions("stored"),
    "claim_subscription": lambda tx, w: tx.claim_subscription(NAME, KEY, "worker", 60),
    "renew_subscription": lambda tx, w: tx.renew_subscription(w.taken.id, _token(w), 60),
    "complete_subscription": lambda tx, w: tx.complete_subscription(w.taken.id, _token(w), {"done": 1}),
    "schedule_command": lambda tx, w: tx.schedule_command(ScheduledCommand.process_event("event", 5)),
    "persist_errors": lambda tx, w: tx.persist_errors(
        [an_error("stored", message=str(n), error_time=w.clock()) for n in range(3)]
    ),
}

#: The methods inside a transaction that write nothing.
READS = {
    "get_runnable_instances",
    "get_workflow_instance",
    "get_workflow_instance_by_name",
    "get_workflow_instances",
    "list_workflows",
    "count_workflows",
    "oldest_runnable",
    "get_event",
    "get_runnable_events",
    "get_events",
    "get_events_since",
    "get_subscriptions",
    "get_first_open_subscription",
    "get_subscription",
    "subscriptions_of",
    "supports_scheduled_commands",
    "get_errors",
}


def methods_of(protocol: type[Any]) -> set[str]:
    """The public methods that a protocol asks for."""
    return {name for name, _ in inspect.getmembers(protocol, inspect.isfunction) if not name.startswith("_")}
