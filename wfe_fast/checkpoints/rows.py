"""Models to rows and back: what a value looks like in the store."""

from __future__ import annotations

from enum import Enum
from typing import Any, TypeVar

from wfe_fast.checkpoints.models import (
    ExecutionStatus,
    SignalStatus,
    StepCheckpoint,
    StepKind,
    StepStatus,
    TimerStatus,
    Workflow,
    WorkflowExecution,
    WorkflowGuarantee,
    WorkflowSignal,
    WorkflowTimer,
)
from wfe_fast.checks import check_bool, check_enum, check_identifier, check_int, check_model
from wfe_fast.clock import from_micros
from wfe_fast.codec import checked_text
from wfe_fast.database.base import Row
from wfe_fast.errors import CorruptionError
from wfe_fast.stored import json_text, micros, optional_micros, stored_json

#: Names that are made of an identifier (``name:compensate``, timer ids) may be a little longer.
MAX_COMPOSITE = 300

#: The largest id of a row.
_MAX_ID = 2**63 - 1

_STATUS = {status.value: status for status in ExecutionStatus}
_GUARANTEE = {guarantee.value: guarantee for guarantee in WorkflowGuarantee}
_STEP_STATUS = {status.value: status for status in StepStatus}
_KIND = {kind.value: kind for kind in StepKind}
_TIMER_STATUS = {status.value: status for status in TimerStatus}
_SIGNAL_STATUS = {status.value: status for status in SignalStatus}

E = TypeVar("E", bound=Enum)


def document(value: Any, field: str) -> str | None:
    """A JSON value as it is stored; None is no value."""
    return None if value is None else json_text(value, field)


def _optional_text(value: object, field: str) -> str | None:
    return None if value is None else checked_text(value, field)


# -- to rows -----------------------------------------------------------------------------------------------------------------------


def workflow_row(workflow: object) -> Row:
    """The row of a workflow, in the order of `save_workflow`.

    Raises:
        InvalidValueError: a field is of a wrong kind, a bad identifier or a naive datetime.
    """
    item = check_model(workflow, Workflow, "workflow")
    return (
        check_identifier(item.workflow_id, "workflow_id"),
        check_identifier(item.workflow_type, "workflow_type"),
        check_int(item.version, "version"),
        micros(item.created_at, "created_at"),
    )


def execution_row(execution: object) -> Row:
    """The row of an execution, in the order of `save_execution`.

    Raises:
        InvalidValueError: a field is of a wrong kind, a bad identifier or a naive datetime.
        SerializationError: a document is not JSON.
    """
    item = check_model(execution, WorkflowExecution, "execution")
    return (
        check_identifier(item.workflow_execution_id, "workflow_execution_id"),
        check_identifier(item.workflow_id, "workflow_id"),
        check_enum(item.status, ExecutionStatus, "status").value,
        check_int(item.current_step, "current_step"),
        document(item.input_data, "input_data"),
        document(item.output_data, "output_data"),
        _optional_text(item.error_message, "error_message"),
        optional_micros(item.ttl_expires_at, "ttl_expires_at"),
        check_enum(item.guarantee, WorkflowGuarantee, "guarantee").value,
        micros(item.created_at, "created_at"),
        micros(item.updated_at, "updated_at"),
    )


def fence_of(execution: object, field: str = "execution") -> tuple[str, int | None]:
    """The id of an execution and the number of its claim.

    Raises:
        InvalidValueError: it is no execution.
    """
    item = check_model(execution, WorkflowExecution, field)
    fence = item.fence
    return (
        check_identifier(item.workflow_execution_id, f"{field}.workflow_execution_id"),
        None if fence is None else check_int(fence, f"{field}.fence", 0, _MAX_ID),
    )


def checkpoint_row(checkpoint: object, field: str = "checkpoint") -> Row:
    """The row of a checkpoint, in the order of `save_checkpoint`, without the fence.

    Raises:
        InvalidValueError: a field is of a wrong kind, a bad identifier or a naive datetime.
        SerializationError: a document is not JSON.
    """
    item = check_model(checkpoint, StepCheckpoint, field)
    return (
        check_identifier(item.workflow_execution_id, f"{field}.workflow_execution_id"),
        check_int(item.step_index, f"{field}.step_index"),
        check_identifier(item.step_name, f"{field}.step_name", MAX_COMPOSITE),
        check_enum(item.status, StepStatus, f"{field}.status").value,
        document(item.input_data, f"{field}.input_data"),
        document(item.output_data, f"{field}.output_data"),
        _optional_text(item.error_message, f"{field}.error_message"),
        check_int(item.attempt, f"{field}.attempt"),
        _optional_text(item.compensate_ref, f"{field}.compensate_ref"),
        optional_micros(item.started_at, f"{field}.started_at"),
        optional_micros(item.completed_at, f"{field}.completed_at"),
        check_enum(item.kind, StepKind, f"{field}.kind").value,
        _optional_text(item.error_type, f"{field}.error_type"),
        int(check_bool(item.is_final, f"{field}.is_final")),
    )


def timer_row(timer: object, field: str = "timer") -> Row:
    """The row of a timer, in the order of `save_timer`, without the fence.

    Raises:
        InvalidValueError: a field is of a wrong kind, a bad identifier or a naive datetime.
    """
    item = check_model(timer, WorkflowTimer, field)
    return (
        check_identifier(item.workflow_timer_id, f"{field}.workflow_timer_id", MAX_COMPOSITE),
        check_identifier(item.workflow_execution_id, f"{field}.workflow_execution_id"),
        check_identifier(item.step_name, f"{field}.step_name", MAX_COMPOSITE),
        micros(item.fire_at, f"{field}.fire_at"),
        check_enum(item.status, TimerStatus, f"{field}.status").value,
        micros(item.created_at, f"{field}.created_at"),
    )


def signal_row(signal: object) -> tuple[int | None, Row]:
    """The id of a signal, and its row in the order of `add_signal`, without the fence.

    Raises:
        InvalidValueError: a field is of a wrong kind, a bad identifier or a naive datetime.
        SerializationError: the payload is not JSON.
    """
    item = check_model(signal, WorkflowSignal, "signal")
    id = item.workflow_signal_id
    return None if id is None else check_int(id, "workflow_signal_id", 1, _MAX_ID), (
        check_identifier(item.workflow_execution_id, "workflow_execution_id"),
        check_identifier(item.signal_name, "signal_name"),
        document(item.payload, "payload"),
        check_enum(item.status, SignalStatus, "status").value,
        micros(item.created_at, "created_at"),
    )


# -- from rows ---------------------------------------------------------------------------------------------------------------------


class Reader:
    """Rows to models.

    Args:
        store: names the database, in errors.
    """

    def __init__(self, store: str) -> None:
        self._store = store

    def workflow(self, row: Row) -> Workflow:
        """A workflow from its columns."""
        id, kind, version, created = row
        return Workflow(workflow_id=id, workflow_type=kind, version=version, created_at=from_micros(created))

    def execution(self, row: Row, *, claimed: bool = False, taken_over: bool = False) -> WorkflowExecution:
        """An execution from the columns of the part `execution`; with its fence where the caller has just claimed it."""
        (
            id,
            workflow_id,
            status,
            step,
            input,
            output,
            error,
            ttl,
            guarantee,
            created,
            updated,
            cancelled,
            fence,
            takeovers,
        ) = row
        return WorkflowExecution(
            workflow_execution_id=id,
            workflow_id=workflow_id,
            status=self._member(_STATUS, status),
            current_step=step,
            input_data=self._value(input),
            output_data=self._value(output),
            error_message=error,
            ttl_expires_at=None if ttl is None else from_micros(ttl),
            guarantee=self._member(_GUARANTEE, guarantee),
            created_at=from_micros(created),
            updated_at=from_micros(updated),
            cancel_requested=bool(cancelled),
            fence=fence if claimed else None,
            taken_over=taken_over,
            takeovers=takeovers if claimed else 0,
        )

    def checkpoint(self, row: Row) -> StepCheckpoint:
        """A checkpoint from the columns of the part `checkpoint`."""
        (id, execution_id, index, name, status, input, output, error, attempt, ref, started, completed, *rest) = row
        kind, error_type, is_final = rest
        return StepCheckpoint(
            id=id,
            workflow_execution_id=execution_id,
            step_index=index,
            step_name=name,
            status=self._member(_STEP_STATUS, status),
            input_data=self._value(input),
            output_data=self._value(output),
            error_message=error,
            attempt=attempt,
            compensate_ref=ref,
            started_at=None if started is None else from_micros(started),
            completed_at=None if completed is None else from_micros(completed),
            kind=self._member(_KIND, kind),
            error_type=error_type,
            is_final=bool(is_final),
        )

    def timer(self, row: Row) -> WorkflowTimer:
        """A timer from the columns of the part `timer`."""
        id, execution_id, name, fire_at, status, created = row
        return WorkflowTimer(
            workflow_timer_id=id,
            workflow_execution_id=execution_id,
            step_name=name,
            fire_at=from_micros(fire_at),
            status=self._member(_TIMER_STATUS, status),
            created_at=from_micros(created),
        )

    def signal(self, row: Row) -> WorkflowSignal:
        """A signal from the columns of the part `signal`."""
        id, execution_id, name, payload, status, created = row
        return WorkflowSignal(
            workflow_signal_id=id,
            workflow_execution_id=execution_id,
            signal_name=name,
            payload=self._value(payload),
            status=self._member(_SIGNAL_STATUS, status),
            created_at=from_micros(created),
        )

    def status(self, text: str) -> ExecutionStatus:
        """A status from its text."""
        return self._member(_STATUS, text)

    def _value(self, text: str | None) -> Any:
        return None if text is None else stored_json(text, self._store)

    def _member(self, members: dict[str, E], text: str) -> E:
        try:
            return members[text]
        except KeyError as error:
            raise CorruptionError(
                self._store, f"a stored row says {text!r}, which is none of {list(members)}"
            ) from error
