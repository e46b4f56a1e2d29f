"""Models to rows and back: what a value looks like in the store."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from wfe_fast.checks import MAX_INT, check_enum, check_int, check_model
from wfe_fast.clock import from_micros
from wfe_fast.codec import checked_text
from wfe_fast.database.base import Row
from wfe_fast.errors import CorruptionError, InvalidValueError
from wfe_fast.state.checks import (
    MAX_NUMBER,
    check_id,
    check_label,
    check_sequence_number,
)
from wfe_fast.state.events import AnyEventKind, NodeCompleted, node_id_of
from wfe_fast.state.kinds import decode_kind, encode_kind
from wfe_fast.state.models import (
    ApiToken,
    DeadLetter,
    Event,
    SessionType,
    Snapshot,
    Tenant,
    TenantLimits,
    TenantStatus,
    WorkflowDefinition,
    WorkflowExecution,
    WorkflowStatus,
    WorkItem,
)
from wfe_fast.stored import json_text, micros, optional_micros, stored_json

_STATUS = {status.value: status for status in WorkflowStatus}
_SESSION = {session.value: session for session in SessionType}
_MAX_UINT32 = 2**32 - 1

#: So many attempts that no number of leases and parkings to come takes them out of their column.
_MOST_ATTEMPTS = 2**30


def nodes_from(text: str, store: str) -> set[str]:
    """Stored ids of nodes.

    Raises:
        CorruptionError: they are none.
    """
    nodes = stored_json(text, store)
    if not isinstance(nodes, list) or not all(isinstance(node, str) for node in nodes):
        raise CorruptionError(store, "stored active nodes are no list of texts")
    return set(nodes)


def outputs_from(text: str, store: str) -> dict[str, Any]:
    """Stored outputs of nodes.

    Raises:
        CorruptionError: they are none.
    """
    outputs = stored_json(text, store)
    if not isinstance(outputs, dict):
        raise CorruptionError(store, "stored completed nodes are no object")
    return outputs


def moment_from(stored: int | None) -> datetime | None:
    """An optional moment as it was stored."""
    return None if stored is None else from_micros(stored)


def status_from(text: str, store: str) -> WorkflowStatus:
    """A stored status.

    Raises:
        CorruptionError: there is none of this name.
    """
    try:
        return _STATUS[text]
    except KeyError as error:
        raise CorruptionError(store, f"a stored status is {text!r}") from error


def _session_from(text: str | None, store: str) -> SessionType | None:
    try:
        return None if text is None else _SESSION[text]
    except KeyError as error:
        raise CorruptionError(store, f"a stored session type is {text!r}") from error


# -- definitions and executions ----------------------------------------------------------------------------------------------------


def definition_row(definition: object) -> Row:
    """The tenant, id, version, program and time of a definition.

    Raises:
        InvalidValueError: a field is of a wrong kind, too long, or a naive datetime.
        SerializationError: the program is not JSON.
    """
    made = check_model(definition, WorkflowDefinition, "definition")
    return (
        check_label(made.tenant_id, "definition.tenant_id"),
        check_label(made.workflow_id, "definition.workflow_id"),
        check_label(made.version, "definition.version"),
        json_text(made.ir, "definition.ir"),
        micros(made.created_at, "definition.created_at"),
    )


def execution_row(execution: object) -> Row:
    """The row of an execution, without its tenant.

    Raises:
        InvalidValueError: a field is of a wrong kind, too long, or a naive datetime.
        SerializationError: its input or state is not JSON.
    """
    made = check_model(execution, WorkflowExecution, "execution")
    parent = made.parent_execution_id
    session: object = made.session_type
    if session is not None and not (isinstance(session, str) and session in _SESSION):
        raise InvalidValueError("execution.session_type", f"must be one of {', '.join(_SESSION)}, or None", session)
    return (
        check_id(made.execution_id, "execution.execution_id"),
        check_label(made.workflow_id, "execution.workflow_id"),
        check_label(made.workflow_version, "execution.workflow_version"),
        check_enum(made.status, WorkflowStatus, "execution.status").value,
        json_text(made.initial_input, "execution.initial_input"),
        json_text(made.current_state, "execution.current_state"),
        micros(made.started_at, "execution.started_at"),
        micros(made.updated_at, "execution.updated_at"),
        optional_micros(made.completed_at, "execution.completed_at"),
        None if session is None else _SESSION[session].value,
        None if parent is None else check_id(parent, "execution.parent_execution_id"),
        check_int(made.segment_number, "execution.segment_number", 0, _MAX_UINT32),
    )


def execution_from(row: Row, store: str) -> WorkflowExecution:
    """An execution from the columns of the part `execution`.

    Raises:
        CorruptionError: a stored value cannot be read.
    """
    id, workflow, version, status, given, state, started, updated, completed, session, parent, segment = row
    return WorkflowExecution(
        execution_id=UUID(id),
        workflow_id=workflow,
        workflow_version=version,
        status=status_from(status, store),
        initial_input=stored_json(given, store),
        current_state=stored_json(state, store),
        started_at=from_micros(started),
        updated_at=from_micros(updated),
        completed_at=moment_from(completed),
        session_type=_session_from(session, store),
        parent_execution_id=None if parent is None else UUID(parent),
        segment_number=segment,
    )


# -- events and snapshots ----------------------------------------------------------------------------------------------------------


#: As many tokens, and as much money, as one event adds at most, so that a month's sums stay inside their columns.
_MOST_TOKENS = 2**61
_MOST_COST = 1e300


class NewEvent(NamedTuple):
    """An event, checked and encoded, and what it says was used."""

    id: str
    type: str
    node_id: str | None
    kind: str
    created_at: int
    tokens: int = 0
    cost: float = 0.0


def event_row(event: object, field: str = "event") -> NewEvent:
    """The id, type, node, kind and time of an event, and what it has used.

    Raises:
        InvalidValueError: a field is of a wrong kind, or a naive datetime.
        SerializationError: its kind holds what JSON cannot.
    """
    made = check_model(event, Event, field)
    check_id(made.execution_id, f"{field}.execution_id")
    name, text = encode_kind(made.kind, f"{field}.kind")
    return _event_row(
        check_id(made.id, f"{field}.id"), name, made.kind, text, micros(made.created_at, f"{field}.created_at")
    )


def own_event_row(id: str, kind: AnyEventKind, now: int) -> NewEvent:
    """The same for an event of the store's own making."""
    name, text = encode_kind(kind, "kind")
    return _event_row(id, name, kind, text, now)


def _event_row(id: str, name: str, kind: AnyEventKind, text: str, created: int) -> NewEvent:
    if not isinstance(kind, NodeCompleted):
        return NewEvent(id, name, node_id_of(kind), text, created)
    tokens = min((kind.input_tokens or 0) + (kind.output_tokens or 0), _MOST_TOKENS)
    # A negative cost gives nothing back: what a month has used only grows.
    cost = max(0.0, min(float(kind.cost_usd or 0), _MOST_COST))
    return NewEvent(id, name, node_id_of(kind), text, created, tokens, cost)


def event_from(row: Row, execution_id: UUID, store: str) -> Event:
    """An event from its id, number, type, kind and time."""
    id, sequence, name, text, created = row
    return Event(
        id=UUID(id),
        execution_id=execution_id,
        sequence=sequence,
        kind=decode_kind(name, text, store),
        created_at=from_micros(created),
    )


def snapshot_row(snapshot: object) -> Row:
    """The row of a snapshot, without its execution.

    Raises:
        InvalidValueError: a field is of a wrong kind or out of range, or a naive datetime.
        SerializationError: its state or an output is not JSON.
    """
    made = check_model(snapshot, Snapshot, "snapshot")
    check_id(made.execution_id, "snapshot.execution_id")
    if not isinstance(made.active_nodes, (set, frozenset, list, tuple)):
        raise InvalidValueError("snapshot.active_nodes", "must be a set of node ids", made.active_nodes)
    if not isinstance(made.completed_nodes, dict):
        raise InvalidValueError("snapshot.completed_nodes", "must be a dict of outputs", made.completed_nodes)
    active = sorted({checked_text(node, "snapshot.active_nodes") for node in made.active_nodes})
    return (
        check_sequence_number(made.at_sequence, "snapshot.at_sequence"),
        check_id(made.id, "snapshot.id"),
        check_enum(made.status, WorkflowStatus, "snapshot.status").value,
        check_sequence_number(made.last_sequence, "snapshot.last_sequence"),
        micros(made.created_at, "snapshot.created_at"),
        json_text(made.state, "snapshot.state"),
        json_text(made.completed_nodes, "snapshot.completed_nodes"),
        json_text(active, "snapshot.active_nodes"),
    )


def snapshot_from(row: Row, execution_id: UUID, store: str) -> Snapshot:
    """A snapshot from the columns of `latest_snapshot`.

    Raises:
        CorruptionError: a stored value cannot be read.
    """
    id, at, state, status, completed, active, last, created = row
    return Snapshot(
        id=UUID(id),
        execution_id=execution_id,
        at_sequence=at,
        state=stored_json(state, store),
        status=status_from(status, store),
        completed_nodes=outputs_from(completed, store),
        active_nodes=nodes_from(active, store),
        last_sequence=last,
        created_at=from_micros(created),
    )


# -- work items --------------------------------------------------------------------------------------------------------------------


def item_row(item: object, field: str = "item") -> Row:
    """The row of a new item, without its tenant, its execution and the time from which it may be claimed.

    Raises:
        InvalidValueError: a field is of a wrong kind, too long or out of range, or a naive datetime.
        SerializationError: its payload is not JSON.
    """
    made = check_model(item, WorkItem, field)
    check_id(made.execution_id, f"{field}.execution_id")
    return (
        check_id(made.id, f"{field}.id"),
        check_label(made.node_id, f"{field}.node_id"),
        check_label(made.queue_type, f"{field}.queue_type"),
        json_text(made.payload, f"{field}.payload"),
        check_int(made.attempt, f"{field}.attempt", 0, _MOST_ATTEMPTS),
        check_int(made.max_attempts, f"{field}.max_attempts", 1, _MOST_ATTEMPTS),
        micros(made.created_at, f"{field}.created_at"),
        check_int(made.priority, f"{field}.priority", -MAX_INT, MAX_INT),
        optional_micros(made.run_at, f"{field}.run_at"),
    )


def item_fields(row: Row, store: str) -> dict[str, Any]:
    """The fields of an item from the columns of the part `item`; what follows them is left alone."""
    (id, execution, node, queue, payload, attempt, most, created, lease, worker, fence, tenant, priority, run_at) = row[
        :14
    ]
    return {
        "id": UUID(id),
        "execution_id": UUID(execution),
        "node_id": node,
        "queue_type": queue,
        "payload": stored_json(payload, store),
        "attempt": attempt,
        "max_attempts": most,
        "created_at": from_micros(created),
        "lease_expires_at": moment_from(lease),
        "worker_id": worker,
        "lease_fence": fence,
        "tenant_id": tenant,
        "priority": priority,
        "run_at": moment_from(run_at),
    }


def item_from(row: Row, store: str) -> WorkItem:
    """An item from the columns of the part `item`."""
    return WorkItem(**item_fields(row, store))


def dead_letter_from(row: Row, store: str) -> DeadLetter:
    """A dead letter from the columns of the part `item`, its error and when it was given up."""
    return DeadLetter(**item_fields(row, store), last_error=row[14], dead_lettered_at=from_micros(row[15]))


def lease_of(item: object) -> tuple[str, int]:
    """The id and the fence that the holder of an item shows.

    Raises:
        InvalidValueError: it is no work item.
    """
    held = check_model(item, WorkItem, "item")
    return check_id(held.id, "item.id"), check_int(held.lease_fence, "item.lease_fence", -MAX_NUMBER, 2**63 - 1)


# -- tenants and tokens --------------------------------------------------------------------------------------------------------------


def tenant_row(tenant: object) -> Row:
    """The id, name, status, policy, limits, and the two times of a tenant.

    Raises:
        InvalidValueError: a field is of a wrong kind, too long or out of range, or a naive datetime.
        SerializationError: its policy is not JSON, or a text holds a NUL.
    """
    made = check_model(tenant, Tenant, "tenant")
    return (
        check_label(made.id, "tenant.id"),
        check_label(made.name, "tenant.name"),
        check_enum(made.status, TenantStatus, "tenant.status").value,
        None if made.policy is None else json_text(made.policy, "tenant.policy"),
        None if made.limits is None else _limits_text(made.limits),
        micros(made.created_at, "tenant.created_at"),
        micros(made.updated_at, "tenant.updated_at"),
    )


def _limits_text(limits: object) -> str:
    made = check_model(limits, TenantLimits, "tenant.limits")
    for name in ("max_concurrent_executions", "max_workflows", "max_tokens_per_month"):
        value = getattr(made, name)
        if value is not None:
            check_int(value, f"tenant.limits.{name}", 0, 2**63 - 1)
    cost: object = made.max_cost_per_month_usd
    if cost is not None and not _is_amount(cost):
        raise InvalidValueError("tenant.limits.max_cost_per_month_usd", "must be a finite number, 0 or more", cost)
    return msgspec.json.encode(made).decode()


def _is_amount(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value) and value >= 0
    except OverflowError:  # an integer that no float holds
        return False


def limits_from(text: str, store: str) -> TenantLimits:
    """The limits of a stored tenant.

    Raises:
        CorruptionError: they cannot be read; they are never taken for none.
    """
    try:
        return msgspec.json.decode(text, type=TenantLimits)
    except (msgspec.MsgspecError, ValueError) as error:
        raise CorruptionError(store, f"a tenant's limits cannot be read: {error}") from error


def tenant_from(row: Row, store: str) -> Tenant:
    """A tenant from its columns."""
    id, name, status, policy, limits, created, updated = row
    return Tenant(
        id=id,
        name=name,
        status=TenantStatus(status),
        policy=None if policy is None else stored_json(policy, store),
        limits=None if limits is None else limits_from(limits, store),
        created_at=from_micros(created),
        updated_at=from_micros(updated),
    )


def token_from(row: Row) -> ApiToken:
    """A token from its columns."""
    id, name, role, created, expires, tenant, used = row
    return ApiToken(
        id=id,
        name=name,
        role=role,
        created_at=from_micros(created),
        expires_at=moment_from(expires),
        tenant_id=tenant,
        last_used_at=moment_from(used),
    )
