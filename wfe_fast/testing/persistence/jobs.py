"""What the processes of the race and crash suites do. Functions of a module, so that a process that starts from nothing finds them."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from wfe_fast.clock import system_clock
from wfe_fast.errors import ConcurrentUpdateError, DuplicateError, NotFoundError
from wfe_fast.persistence.contract import PersistenceProvider
from wfe_fast.persistence.models import ExecutionError, ScheduledCommand, WorkflowInstance, WorkflowStatus
from wfe_fast.testing.killing import Acknowledge
from wfe_fast.testing.persistence.factories import (
    FAR,
    KEY,
    NAME,
    a_pointer,
    a_subscription,
    a_workflow,
    an_event,
    pointers,
)

# Races: each returns what this racer got.


def create_many(provider: PersistenceProvider, prefix: str, count: int) -> list[str]:
    """Create workflows of our own; their ids."""
    return [
        provider.create_new_workflow(a_workflow(id=f"{prefix}{number}", execution_pointers=pointers(3)))
        for number in range(count)
    ]


def create_named(provider: PersistenceProvider, names: Sequence[str]) -> list[str]:
    """Create workflows of names that others want, too; the names that were ours."""
    won = []
    for name in names:
        try:
            provider.create_new_workflow(a_workflow(name=name, execution_pointers=pointers(2)))
        except DuplicateError:
            continue
        won.append(name)
    return won


def draw_sequence(provider: PersistenceProvider, definition_id: str, count: int) -> list[int]:
    """Numbers of a sequence."""
    return [provider.next_definition_sequence(definition_id) for _ in range(count)]


def claim_until_none(provider: PersistenceProvider, worker: str, limit: int) -> list[str]:
    """Claim until nothing is left, without release; the ids."""
    found: list[str] = []
    while claimed := provider.claim_runnable_instances(worker, limit, lease=600):
        found += [instance.id for instance in claimed]
    return found


def work_until_done(provider: PersistenceProvider, worker: str) -> int:
    """Claim, add one to the workflow's count, persist and release, until every count is ten; how many passes were ours."""
    passes = 0
    while True:
        for instance in provider.claim_runnable_instances(worker, 2, lease=600):
            instance.data["count"] += 1
            instance.execution_pointers.append(a_pointer(step_id=instance.data["count"]))
            if instance.data["count"] == 10:
                instance.status = WorkflowStatus.COMPLETE
            provider.persist_workflow(instance, release=True)
            passes += 1
        if provider.count_workflows()[WorkflowStatus.RUNNABLE] == 0:
            return passes


def process_all(provider: PersistenceProvider, count: int) -> list[str]:
    """Handle commands until `count` are gone for everybody; the data of ours."""
    found: list[str] = []
    while provider.next_due() is not None:
        provider.process_commands(FAR, lambda command: found.append(command.data))
    assert len(found) <= count
    return found


def set_token(provider: PersistenceProvider, id: str, token: str) -> bool:
    """Try to take a subscription."""
    return provider.set_subscription_token(id, token, token, system_clock() + timedelta(hours=1))


def claim_subscriptions(provider: PersistenceProvider, worker: str) -> list[str]:
    """Take activities until none is open; their ids."""
    found: list[str] = []
    while taken := provider.claim_subscription(NAME, KEY, worker, 600):
        assert taken.external_worker_id == worker
        found.append(taken.id)
    return found


def persist_unchanged(provider: PersistenceProvider, id: str, mark: str, rounds: int) -> int:
    """Add marks to a workflow with `expect_unchanged`, loading again after each conflict; how many conflicts there were."""
    conflicts = 0
    for number in range(rounds):
        while True:
            instance = provider.get_workflow_instance(id)
            instance.data["marks"].append(f"{mark}{number}")
            instance.execution_pointers.append(a_pointer(step_name=f"{mark}{number}"))
            try:
                provider.persist_workflow(instance, expect_unchanged=True)
            except ConcurrentUpdateError:
                conflicts += 1
                continue
            break
    return conflicts


def subscribe_in_a_pass(provider: PersistenceProvider, id: str, key: str) -> list[Any]:
    """In one transaction: begin to wait for `key`, and look for events that came before. What was found."""
    with provider.transaction() as tx:
        instance = tx.get_workflow_instance(id)
        instance.next_execution = None
        pointer = instance.execution_pointers[0]
        pointer.active = False
        made = a_subscription(id=f"{id} {key}", workflow_id=id, execution_pointer_id=pointer.id, event_key=key)
        tx.persist_workflow_with_subscriptions(instance, [made])
        return [event.event_data for event in tx.get_events_since(NAME, key, made.subscribe_as_of)]


def publish(provider: PersistenceProvider, key: str, data: Any) -> list[Any]:
    """Publish one event; nothing was found."""
    provider.publish_event(an_event(id=f"event of {key}", event_key=key, event_data=data))
    return []


def publish_many(provider: PersistenceProvider, ids: Sequence[str]) -> int:
    """Publish events whose ids others publish, too."""
    for id in ids:
        assert provider.publish_event(an_event(id=id, event_data=id)) == id
    return len(ids)


def dispatch_until_none(provider: PersistenceProvider, limit: int) -> int:
    """Dispatch events until nothing is left; the sum of what was returned."""
    total = 0
    while made := provider.dispatch_events(limit):
        total += made
    return total


def open_and_ensure(provider: PersistenceProvider) -> bool:
    """The store was opened; make sure of it again."""
    provider.ensure_store_exists()
    return provider.supports_scheduled_commands()


def write_and_read(provider: PersistenceProvider, id: str) -> WorkflowInstance:
    """Create a workflow, persist it, and load it."""
    instance = a_workflow(id=id, execution_pointers=pointers(2))
    provider.create_new_workflow(instance)
    instance.execution_pointers.append(a_pointer())
    provider.persist_workflow(instance)
    return provider.get_workflow_instance(id)


# Victims: each acknowledges what has been stored, until it is killed.


def create_one(provider: PersistenceProvider, acknowledge: Acknowledge) -> None:
    """Create one workflow that is due."""
    acknowledge(provider.create_new_workflow(a_workflow()))


def terminate(provider: PersistenceProvider, acknowledge: Acknowledge, id: str) -> None:
    """Terminate a workflow."""
    acknowledge(provider.change_status(id, WorkflowStatus.TERMINATED))


def create_for_ever(provider: PersistenceProvider, acknowledge: Acknowledge, prefix: str) -> None:
    """Create workflow after workflow, each with five pointers and its number."""
    number = 0
    while True:
        acknowledge(provider.create_new_workflow(_numbered(f"{prefix}-{number}", number)))
        number += 1


def _numbered(id: str, number: int) -> WorkflowInstance:
    return a_workflow(id=id, data={"number": number}, execution_pointers=pointers(5))


def persist_for_ever(provider: PersistenceProvider, acknowledge: Acknowledge, id: str) -> None:
    """Persist one workflow again and again; data, description and every pointer carry the same number, which is acknowledged."""
    instance = provider.get_workflow_instance(id)
    number: int = instance.data["number"]
    while True:
        number += 1
        instance.data = {"number": number}
        instance.description = str(number)
        for pointer in instance.execution_pointers:
            pointer.persistence_data = {"number": number}
        instance.execution_pointers[number % 5] = a_pointer(persistence_data={"number": number})
        provider.persist_workflow(instance)
        acknowledge(number)


def move_for_ever(provider: PersistenceProvider, acknowledge: Acknowledge, prefix: str) -> None:
    """In one transaction each: a workflow, its error, its event, its command, its subscription, and the total."""
    number = 0
    while True:
        id = f"{prefix}-{number}"
        with provider.transaction() as tx:
            tx.create_new_workflow(_numbered(id, number))
            tx.persist_errors([ExecutionError(workflow_id=id, execution_pointer_id="p", message=id)])
            tx.create_event(an_event(id=id, event_key=prefix))
            tx.schedule_command(ScheduledCommand.process_workflow(id, number))
            tx.create_event_subscription(a_subscription(id=id, workflow_id=id, event_key=prefix))
            total = tx.get_workflow_instance("total")
            total.data["count"] += 1
            tx.persist_workflow(total)
        acknowledge(id)
        number += 1


def publish_for_ever(provider: PersistenceProvider, acknowledge: Acknowledge, prefix: str) -> None:
    """Publish an event that a new workflow waits for; its id, and that of the workflow, are acknowledged one after the other."""
    number = 0
    while True:
        id = f"{prefix}-{number}"
        pointer = a_pointer(active=False)
        instance = a_workflow(id=id, next_execution=None, execution_pointers=[pointer])
        made = a_subscription(workflow_id=id, execution_pointer_id=pointer.id, event_key=id)
        with provider.transaction() as tx:
            tx.create_new_workflow(instance)
            tx.create_event_subscription(made)
        acknowledge(("waits", id))
        provider.publish_event(an_event(id=id, event_key=id, event_data=id))
        acknowledge(("published", id))
        number += 1


def work_for_ever(provider: PersistenceProvider, acknowledge: Acknowledge, worker: str) -> None:
    """Claim, count, persist and release; the acknowledged count of a workflow is stored."""
    while True:
        for instance in provider.claim_runnable_instances(worker, 1, lease=600):
            acknowledge(("claimed", instance.id, instance.data["count"]))
            instance.data["count"] += 1
            instance.execution_pointers.append(a_pointer(step_id=instance.data["count"]))
            provider.persist_workflow(instance, release=True)
            acknowledge(("counted", instance.id, instance.data["count"]))


def die_in_a_handler(provider: PersistenceProvider, acknowledge: Acknowledge) -> None:
    """Handle one command, and die in the middle of the second."""

    def handle(command: ScheduledCommand) -> None:
        acknowledge(command.data)
        if command.data == "second":
            os.kill(os.getpid(), signal.SIGKILL)

    provider.process_commands(FAR, handle)


def die_in_a_transaction(provider: PersistenceProvider, acknowledge: Acknowledge) -> None:
    """Store something, and die before the end of a transaction."""
    acknowledge(provider.create_new_workflow(a_workflow(id="before")))
    with provider.transaction() as tx:
        tx.create_new_workflow(a_workflow(id="inside", execution_pointers=pointers(50)))
        tx.create_event(an_event(id="inside"))
        try:
            tx.terminate_subscription("nowhere")
        except NotFoundError:
            acknowledge("in the transaction")
        os.kill(os.getpid(), signal.SIGKILL)


def claim_and_wait(provider: PersistenceProvider, acknowledge: Acknowledge) -> None:
    """Claim one workflow for ten minutes, and wait to be killed."""
    (instance,) = provider.claim_runnable_instances("dead", lease=600)
    acknowledge(instance.id)
    signal.pause()
