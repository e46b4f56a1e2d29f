"""New events and new workflows, from a step or from outside: checked when they are given, stored in one transaction."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from wfe_fast.clock import Clock, checked_moment, to_millis
from wfe_fast.codec import checked_text, decode_json, encode_json
from wfe_fast.errors import DuplicateWorkflowError, EventNotFoundError, InvalidValueError, WorkflowNotFoundError
from wfe_fast.host.definition import Definition, Registry
from wfe_fast.host.results import checked_event_name, checked_key
from wfe_fast.persistence.contract import PersistenceTransaction
from wfe_fast.persistence.models import Event, ExecutionPointer, WorkflowInstance, new_id

_MAX_NAME = 1000


@dataclass
class _NewEvent:
    event: Event
    given_id: bool


@dataclass
class _NewWorkflow:
    instance: WorkflowInstance
    given_id: bool
    given_name: bool


class Outbox:
    """Collects events and workflows; `store` writes them all."""

    def __init__(self, registry: Registry, clock: Clock) -> None:
        self._registry = registry
        self._clock = clock
        self._events: list[_NewEvent] = []
        self._workflows: list[_NewWorkflow] = []

    @property
    def empty(self) -> bool:
        """Whether nothing was taken."""
        return not self._events and not self._workflows

    @property
    def addresses(self) -> list[tuple[str, str]]:
        """Names and keys of the events that were taken."""
        return [(new.event.event_name, new.event.event_key) for new in self._events]

    def clear(self) -> None:
        """Forget what was taken."""
        self._events.clear()
        self._workflows.clear()

    def publish(self, name: str, key: str, data: Any, *, at: datetime | None, id: str | None) -> str:
        """Take an event; return its id.

        Raises:
            InvalidValueError, SerializationError: a part of it cannot be stored.
        """
        event = Event(
            id=new_id() if id is None else checked_text(id, "id", max_bytes=_MAX_NAME, empty=False),
            event_name=checked_event_name(name),
            event_key=checked_key(key),
            event_data=decode_json(encode_json(data, "data")),
            event_time=self._clock() if at is None else checked_moment(at, "at"),
        )
        self._events.append(_NewEvent(event, id is not None))
        return event.id

    def start(
        self,
        definition: str,
        data: Any,
        *,
        version: int | None,
        name: str | None,
        id: str | None,
        reference: str | None,
    ) -> str:
        """Take a workflow; return its id.

        Raises:
            DefinitionNotFoundError: no such definition, or version of it, is registered.
            InvalidValueError, SerializationError: a part of it cannot be stored, or the data does not fit its type.
        """
        if name is not None and not checked_text(name, "name", max_bytes=_MAX_NAME).strip():
            raise InvalidValueError("name", "must not be blank", name)
        known = self._registry.get(definition, version)
        instance = WorkflowInstance(
            id=new_id() if id is None else checked_text(id, "id", max_bytes=_MAX_NAME, empty=False),
            name=name or "",
            workflow_definition_id=known.id,
            version=known.version,
            description=known.description,
            reference=None if reference is None else checked_text(reference, "reference", max_bytes=_MAX_NAME),
            execution_pointers=[_first_pointer(known)],
            data=known.model.first(data),
            create_time=self._clock(),
        )
        instance.next_execution = to_millis(instance.create_time)
        self._workflows.append(_NewWorkflow(instance, id is not None, name is not None))
        return instance.id

    def store(self, tx: PersistenceTransaction) -> None:
        """Write all that was taken. May be repeated after the transaction was rolled back.

        Raises:
            DuplicateWorkflowError: a name is taken, or an id by a workflow of another definition.
        """
        for event in self._events:
            self._store_event(tx, event)
        for workflow in self._workflows:
            _store_workflow(tx, workflow)

    def met(self, error: DuplicateWorkflowError) -> bool:
        """Whether a workflow that may be there already was not there when `store` looked, but was when it was to be stored."""
        return error.field == "id" and any(new.given_id and new.instance.id == error.id for new in self._workflows)

    def _store_event(self, tx: PersistenceTransaction, new: _NewEvent) -> None:
        event = new.event
        if event.event_time <= self._clock():
            tx.publish_event(event)
        elif not (new.given_id and _event_exists(tx, event.id)):
            tx.create_event(event)  # whoever is there when its time comes delivers it


def _first_pointer(definition: Definition) -> ExecutionPointer:
    return ExecutionPointer(step_id=0, step_name=definition.steps[0].name)


def _store_workflow(tx: PersistenceTransaction, new: _NewWorkflow) -> None:
    instance = new.instance
    if new.given_id:
        for found in tx.get_workflow_instances([instance.id]):
            if found.workflow_definition_id != instance.workflow_definition_id:
                raise DuplicateWorkflowError(instance.id)
            return
    if not new.given_name:
        instance.name = _default_name(tx, instance.workflow_definition_id)
    tx.create_new_workflow(instance)


def _default_name(tx: PersistenceTransaction, definition_id: str) -> str:
    """The next ``{definition_id}-{n}`` that nobody has given to a workflow by hand."""
    while True:
        name = f"{definition_id}-{tx.next_definition_sequence(definition_id)}"
        if not _name_taken(tx, name):
            return name


def _name_taken(tx: PersistenceTransaction, name: str) -> bool:
    try:
        tx.get_workflow_instance_by_name(name)
    except WorkflowNotFoundError:
        return False
    return True


def _event_exists(tx: PersistenceTransaction, id: str) -> bool:
    try:
        tx.get_event(id)
    except EventNotFoundError:
        return False
    return True
