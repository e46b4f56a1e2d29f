"""Workflows, pointers, events, subscriptions for tests: plain ones, and ones in which every field has a value of its own."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from wfe_fast.persistence.contract import PersistenceTransaction
from wfe_fast.persistence.models import (
    Event,
    EventSubscription,
    ExecutionError,
    ExecutionPointer,
    PointerStatus,
    WorkflowInstance,
    WorkflowStatus,
)

NAME = "order.paid"
KEY = "A-17"

#: Before every event of a test: a subscription of this moment matches them all.
EARLY = datetime(2020, 2, 29, 23, 59, 59, 999_999, tzinfo=timezone.utc)
#: After everything, the manual clock's start included.
FAR = datetime(2999, 12, 31, tzinfo=timezone.utc)

JSON_VALUES: dict[str, Any] = {
    "null": None,
    "booleans": [True, False],
    "numbers": [0, -1, 1.5, -2.25e-7, 3.141592653589793],
    "64 bits": [2**63 - 1, -(2**63), 2**64 - 1],
    "big integer": 123456789012345678901234567890,
    "negative big integer": -(10**40),
    "text": 'Grüße, 世界 🎉 \t\n"quoted" \\ / \x7f',
    "a backslash and digits, not a NUL": "\\u0000",
    "empty text": "",
    "empties": [[], {}, "", [[]], [{}]],
    "keys": {"": 1, " ": 2, "a.b": 3, "$": 4, "ключ": 5, '"': 6},
    "nested": {"a": [{"b": {"c": [1, [2, [3, {"d": None}]]]}}]},
    "long": "x" * 100_000,
}


def a_pointer(**fields: Any) -> ExecutionPointer:
    """A pointer at step 0, or as told."""
    return ExecutionPointer(**{"step_id": 0, **fields})


def pointers(count: int) -> list[ExecutionPointer]:
    """So many pointers, which know their number."""
    return [a_pointer(step_id=number, persistence_data={"number": number}) for number in range(count)]


def a_workflow(**fields: Any) -> WorkflowInstance:
    """A workflow of definition ``order`` that is due, or as told."""
    return WorkflowInstance(**{"workflow_definition_id": "order", **fields})


def an_event(**fields: Any) -> Event:
    """An event that `a_subscription` waits for, or as told."""
    return Event(**{"event_name": NAME, "event_key": KEY, "event_data": {"amount": 12}, **fields})


def a_subscription(**fields: Any) -> EventSubscription:
    """A subscription to `an_event` of a workflow that is not there, or as told."""
    made = {
        "workflow_id": "nobody",
        "step_id": 0,
        "execution_pointer_id": "nowhere",
        "event_name": NAME,
        "event_key": KEY,
    }
    return EventSubscription(**{**made, "subscribe_as_of": EARLY, **fields})


def an_error(workflow_id: str, **fields: Any) -> ExecutionError:
    """An error of a workflow."""
    made = {"workflow_id": workflow_id, "execution_pointer_id": "p", "message": "it failed"}
    return ExecutionError(**{**made, **fields})


def full_pointer(number: int | str = 1) -> ExecutionPointer:
    """A pointer in which no field has its default."""
    return ExecutionPointer(
        id=f"pointer-{number}",
        step_id=2**31 - 1,
        active=False,
        status=PointerStatus.WAITING_FOR_EVENT,
        sleep_until=datetime(2031, 1, 2, 3, 4, 5, 678_901, tzinfo=timezone.utc),
        persistence_data={"kept": [number, {"deep": None}]},
        start_time=datetime(1969, 12, 31, 23, 59, 59, 1, tzinfo=timezone.utc),
        end_time=datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=timezone.utc),
        event_name="name",
        event_key="key",
        event_published=True,
        event_data=[1, "two", 3.5],
        step_name="schön",
        retry_count=2**31 - 1,
        children=["pointer-2", "pointer-3"],
        context_item={"item": 10**30},
        predecessor_id="pointer-0",
        outcome=False,
        scope=["outer", "inner"],
        extension_attributes={"x": {"y": [True]}, "": "z"},
    )


def full_workflow(**fields: Any) -> WorkflowInstance:
    """A workflow in which no field has its default."""
    made: dict[str, Any] = {
        "id": "workflow-1",
        "name": "the first one",
        "root_workflow_id": "root-1",
        "workflow_definition_id": "definition-1",
        "version": 2**31 - 1,
        "description": "says what",
        "reference": "Ref/1",
        "execution_pointers": [full_pointer(3), full_pointer(1), full_pointer(2)],
        "next_execution": 2**63 - 1,
        "status": WorkflowStatus.SUSPENDED,
        "data": JSON_VALUES,
        "create_time": datetime(1, 1, 1, tzinfo=timezone.utc),
        "complete_time": datetime(2030, 6, 7, 8, 9, 10, 11, tzinfo=timezone.utc),
    }
    return WorkflowInstance(**{**made, **fields})


def waiting_workflow(
    store: PersistenceTransaction, name: str = NAME, key: str = KEY, **fields: Any
) -> tuple[WorkflowInstance, EventSubscription]:
    """Store a workflow with one pointer that waits for (name, key), and nothing else to do; with its subscription."""
    pointer = a_pointer(status=PointerStatus.WAITING_FOR_EVENT, active=False, event_name=name, event_key=key)
    instance = a_workflow(**{"execution_pointers": [pointer], "next_execution": None, **fields})
    store.create_new_workflow(instance)
    return instance, subscribe(store, instance, name, key)


def subscribe(
    store: PersistenceTransaction, instance: WorkflowInstance, name: str = NAME, key: str = KEY, **fields: Any
) -> EventSubscription:
    """Store a subscription of the workflow's first pointer, or as told."""
    made = {"workflow_id": instance.id, "execution_pointer_id": instance.execution_pointers[0].id}
    subscription = a_subscription(**{**made, "event_name": name, "event_key": key, **fields})
    store.create_event_subscription(subscription)
    return subscription
