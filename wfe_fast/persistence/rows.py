"""Models to rows and back: what a value looks like in the store."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from wfe_fast.clock import from_micros
from wfe_fast.codec import checked_text, decode_json
from wfe_fast.database.base import Row
from wfe_fast.errors import CorruptionError
from wfe_fast.persistence.memory import Head, Memory
from wfe_fast.persistence.models import (
    CommandName,
    Event,
    EventSubscription,
    ExecutionError,
    ScheduledCommand,
    WorkflowInstance,
    WorkflowStatus,
    new_id,
)
from wfe_fast.persistence.pointers import Stored, decode_lines
from wfe_fast.persistence.validation import (
    check_bool,
    check_enum,
    check_int,
    check_millis,
    check_model,
    check_name,
    check_optional_name,
)
from wfe_fast.stored import json_list as json_list
from wfe_fast.stored import json_text as json_text
from wfe_fast.stored import micros as micros
from wfe_fast.stored import optional_micros as optional_micros
from wfe_fast.stored import stored_json as stored_json

_STATUS = {status.value: status for status in WorkflowStatus}
_COMMAND = {name.value: name for name in CommandName}


# -- workflows -----------------------------------------------------------------------------------------------------------------


def head_of(instance: WorkflowInstance) -> Head:
    """The fields of `instance` that hardly ever change, checked.

    Raises:
        InvalidValueError: one is of a wrong kind, too long or too large.
        SerializationError: a text holds a NUL or a lone surrogate.
    """
    return (
        check_name(instance.name, "name", empty=True),
        check_optional_name(instance.root_workflow_id, "root_workflow_id"),
        check_name(instance.workflow_definition_id, "workflow_definition_id"),
        check_int(instance.version, "version"),
        _optional_text(instance.description, "description"),
        check_optional_name(instance.reference, "reference"),
        micros(instance.create_time, "create_time"),
    )


def raw_head_of(instance: WorkflowInstance) -> tuple[object, ...]:
    """The id and the fields of `head_of`, as they are."""
    return (
        instance.id,
        instance.name,
        instance.root_workflow_id,
        instance.workflow_definition_id,
        instance.version,
        instance.description,
        instance.reference,
        instance.create_time,
    )


def _optional_text(value: object, field: str) -> str | None:
    return None if value is None else checked_text(value, field)


def check_due(instance: WorkflowInstance) -> int | None:
    """The instance's next_execution, checked."""
    due = instance.next_execution
    return due if due is None else check_millis(due, "next_execution")


def check_status(instance: WorkflowInstance) -> WorkflowStatus:
    """The instance's status, checked."""
    return check_enum(instance.status, WorkflowStatus, "status")


def workflow_from(row: Row, store: str, *, claimed: bool = False) -> tuple[WorkflowInstance, Memory]:
    """A workflow with its pointers, and what it has to remember of the row, from the columns of the part `instance`.

    Args:
        claimed: whether the caller has just claimed it.

    Raises:
        CorruptionError: a stored value cannot have been written by this library.
    """
    (seq, id, name, root, definition, version, description, reference, due, status, data, created, completed) = row[:13]
    (revision, control, fence, claims, lines, last_position) = row[13:]
    try:
        pointers = decode_lines(lines) if lines else []
        instance = WorkflowInstance(
            id=id,
            name=name,
            root_workflow_id=root,
            workflow_definition_id=definition,
            version=version,
            description=description,
            reference=reference,
            execution_pointers=pointers,
            next_execution=due,
            status=_STATUS[status],
            data=decode_json(data),
            create_time=from_micros(created),
            complete_time=None if completed is None else from_micros(completed),
        )
    except (msgspec.MsgspecError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise CorruptionError(store, f"workflow {id} cannot be read: {error}") from error
    contiguous = last_position is None or last_position + 1 == len(pointers)
    memory = Memory(
        store=store,
        seq=seq,
        revision=revision,
        control=control,
        fence=fence if claimed else None,
        claims_without_commit=claims if claimed else 0,
        status=instance.status,
        complete_time=completed,
        head=(name, root, definition, version, description, reference, created),
        raw_head=raw_head_of(instance),
        stored=Stored.loaded(lines, [pointer.id for pointer in pointers]) if contiguous else None,
    )
    return instance, memory


# -- events, subscriptions, commands, errors -----------------------------------------------------------------------------------


def event_row(event: object, json: Callable[[str], str]) -> Row:
    """The row of an event, with its JSON as `work.Work.json` wants it; an empty id becomes a new one.

    Raises:
        InvalidValueError: a field is of a wrong kind, too long, or a naive datetime.
        SerializationError: its data is not JSON.
    """
    event = check_model(event, Event, "event")
    return (
        check_name(event.id, "event.id", empty=True) or new_id(),
        check_name(event.event_name, "event.event_name", empty=True),
        check_name(event.event_key, "event.event_key", empty=True),
        json(json_text(event.event_data, "event.event_data")),
        micros(event.event_time, "event.event_time"),
        int(check_bool(event.is_processed, "event.is_processed")),
    )


def event_from(row: Row, store: str) -> Event:
    """An event from the columns of the part `event`."""
    id, name, key, data, time, processed = row
    return Event(
        id=id,
        event_name=name,
        event_key=key,
        event_data=stored_json(data, store),
        event_time=from_micros(time),
        is_processed=bool(processed),
    )


def subscription_row(subscription: object, json: Callable[[str], str], field: str = "subscription") -> Row:
    """The row of a subscription, with its JSON as `work.Work.json` wants it; an empty id becomes a new one.

    Raises:
        InvalidValueError: a field is of a wrong kind, too long, or a naive datetime.
        SerializationError: its data is not JSON.
    """
    sub = check_model(subscription, EventSubscription, field)
    data = sub.subscription_data
    return (
        check_name(sub.id, f"{field}.id", empty=True) or new_id(),
        check_name(sub.workflow_id, f"{field}.workflow_id"),
        check_int(sub.step_id, f"{field}.step_id"),
        check_name(sub.execution_pointer_id, f"{field}.execution_pointer_id"),
        check_name(sub.event_name, f"{field}.event_name", empty=True),
        check_name(sub.event_key, f"{field}.event_key", empty=True),
        micros(sub.subscribe_as_of, f"{field}.subscribe_as_of"),
        None if data is None else json(json_text(data, f"{field}.subscription_data")),
        check_optional_name(sub.external_token, f"{field}.external_token"),
        check_optional_name(sub.external_worker_id, f"{field}.external_worker_id"),
        optional_micros(sub.external_token_expiry, f"{field}.external_token_expiry"),
    )


def subscription_from(row: Row, store: str) -> EventSubscription:
    """A subscription from the columns of the part `subscription`."""
    id, workflow_id, step_id, pointer_id, name, key, as_of, data, token, worker_id, expiry = row
    return EventSubscription(
        id=id,
        workflow_id=workflow_id,
        step_id=step_id,
        execution_pointer_id=pointer_id,
        event_name=name,
        event_key=key,
        subscribe_as_of=from_micros(as_of),
        subscription_data=None if data is None else stored_json(data, store),
        external_token=token,
        external_worker_id=worker_id,
        external_token_expiry=None if expiry is None else from_micros(expiry),
    )


def command_row(command: object) -> Row:
    """The row of a scheduled command.

    Raises:
        InvalidValueError: a field is of a wrong kind or too long.
    """
    command = check_model(command, ScheduledCommand, "command")
    return (
        check_enum(command.command_name, CommandName, "command.command_name").value,
        check_name(command.data, "command.data", empty=True),
        check_millis(command.execute_time, "command.execute_time"),
    )


def command_from(name: str, data: str, execute_time: int) -> ScheduledCommand:
    """A scheduled command from its columns."""
    return ScheduledCommand(command_name=_COMMAND[name], data=data, execute_time=execute_time)


def error_row(error: ExecutionError, field: str) -> Row:
    """The row of an execution error.

    Raises:
        InvalidValueError: a field is of a wrong kind, too long, or a naive datetime.
    """
    return (
        micros(error.error_time, f"{field}.error_time"),
        check_name(error.workflow_id, f"{field}.workflow_id"),
        check_name(error.execution_pointer_id, f"{field}.execution_pointer_id", empty=True),
        checked_text(error.message, f"{field}.message"),
    )


def error_from(row: Row) -> ExecutionError:
    """An execution error from its columns."""
    time, workflow_id, pointer_id, message = row
    return ExecutionError(
        error_time=from_micros(time), workflow_id=workflow_id, execution_pointer_id=pointer_id, message=message
    )
