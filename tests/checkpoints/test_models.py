"""The models: defaults, equality, copies, and the JSON form of the durable_workflow family."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any

import pytest

from wfe_fast import InvalidValueError, SerializationError
from wfe_fast.checkpoints import (
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
from wfe_fast.testing.checkpoints.factories import a_checkpoint, a_signal, a_timer, a_workflow, an_execution, at

#: As the original writes it.
THEIRS: dict[type[Any], dict[str, Any]] = {
    Workflow: {
        "workflowId": "wf-order-0",
        "workflowType": "order",
        "version": 1,
        "createdAt": "2026-03-01T10:00:00.123Z",
    },
    WorkflowExecution: {
        "workflowExecutionId": "exec-1",
        "workflowId": "wf-order-0",
        "status": "RUNNING",
        "currentStep": 2,
        "inputData": '{"id":17}',
        "outputData": None,
        "errorMessage": None,
        "ttlExpiresAt": "2026-03-02T10:00:00.000Z",
        "guarantee": "BEST_EFFORT_BACKGROUND",
        "createdAt": "2026-03-01T10:00:00.123Z",
        "updatedAt": "2026-03-01T10:00:00.123456Z",
    },
    StepCheckpoint: {
        "id": 7,
        "workflowExecutionId": "exec-1",
        "stepIndex": 0,
        "stepName": "charge",
        "status": "COMPLETED",
        "inputData": None,
        "outputData": '"receipt"',
        "errorMessage": None,
        "attempt": 1,
        "compensateRef": "charge",
        "startedAt": "2026-03-01T10:00:00.000Z",
        "completedAt": None,
    },
    WorkflowTimer: {
        "workflowTimerId": "timer-exec-1-nap",
        "workflowExecutionId": "exec-1",
        "stepName": "nap",
        "fireAt": "2026-03-01T10:00:00.000Z",
        "status": "PENDING",
        "createdAt": "2026-03-01T09:00:00.000Z",
    },
    WorkflowSignal: {
        "workflowSignalId": 3,
        "workflowExecutionId": "exec-1",
        "signalName": "approval",
        "payload": "true",
        "status": "DELIVERED",
        "createdAt": "2026-03-01T09:00:00.000Z",
    },
}
OURS = [
    a_workflow(),
    an_execution(input_data={"a": [1, None]}, output_data="text", ttl_expires_at=at(1.5)),
    a_checkpoint(id=5, started_at=at(1), kind=StepKind.SIGNAL, error_type="E", is_final=True),
    a_timer(),
    a_signal(payload="not json"),
]


@pytest.mark.parametrize("model", THEIRS)
def test_their_form_is_read_and_written(model: type[Any]) -> None:
    read = model.from_json(THEIRS[model])
    assert read.to_json() == THEIRS[model]
    assert model.from_json(json.dumps(THEIRS[model])) == read


@pytest.mark.parametrize("item", OURS, ids=lambda item: type(item).__name__)
def test_ours_comes_back_from_it(item: Any) -> None:
    assert type(item).from_json(json.dumps(item.to_json())) == item


def test_documents_are_values() -> None:
    assert WorkflowExecution.from_json(THEIRS[WorkflowExecution]).input_data == {"id": 17}
    assert WorkflowSignal.from_json(THEIRS[WorkflowSignal]).payload is True
    assert WorkflowSignal.from_json({**THEIRS[WorkflowSignal], "payload": "kim said so"}).payload == "kim said so"


@pytest.mark.parametrize(
    "text", ["2026-03-01T10:00:00.123", "2026-03-01T10:00:00.123Z", "2026-03-01T12:00:00.123+02:00"]
)
def test_times_without_a_zone_are_utc(text: str) -> None:
    read = Workflow.from_json({**THEIRS[Workflow], "createdAt": text})
    assert read.created_at == datetime(2026, 3, 1, 10, 0, 0, 123000, tzinfo=timezone.utc)


#: What may be left out of their form.
OPTIONAL: dict[type[Any], set[str]] = {
    Workflow: {"version"},
    WorkflowExecution: {"currentStep", "inputData", "outputData", "errorMessage", "ttlExpiresAt", "guarantee"},
    StepCheckpoint: {
        "id",
        "inputData",
        "outputData",
        "errorMessage",
        "attempt",
        "compensateRef",
        "startedAt",
        "completedAt",
    },
    WorkflowTimer: {"status"},
    WorkflowSignal: {"workflowSignalId", "payload", "status"},
}


@pytest.mark.parametrize("model", THEIRS)
def test_a_missing_or_wrong_value_is_named(model: type[Any]) -> None:
    for key in THEIRS[model]:
        with pytest.raises(InvalidValueError, match=key):
            model.from_json({**THEIRS[model], key: [1]})
        without = {name: value for name, value in THEIRS[model].items() if name != key}
        if key in OPTIONAL[model]:
            model.from_json(without)
        else:
            with pytest.raises(InvalidValueError, match=key):
                model.from_json(without)
    for bad, error in ((5, InvalidValueError), ("{", SerializationError), ([], InvalidValueError)):
        with pytest.raises(error):
            model.from_json(bad)


@pytest.mark.parametrize("kind", [ExecutionStatus, WorkflowGuarantee, StepStatus, TimerStatus, SignalStatus])
def test_enums_have_the_stored_texts_as_names_and_values(kind: Any) -> None:
    assert all(member.name == member.value for member in kind)
    with pytest.raises(ValueError, match="running"):
        kind("running")


def test_what_is_left_out() -> None:
    execution = WorkflowExecution(workflow_id="w")
    assert (execution.status, execution.current_step, execution.created_at.tzinfo) == (
        ExecutionStatus.PENDING,
        0,
        timezone.utc,
    )
    assert WorkflowExecution(workflow_id="w").workflow_execution_id != execution.workflow_execution_id
    assert a_timer().status is TimerStatus.PENDING
    assert a_signal().status is SignalStatus.PENDING


def test_they_are_values() -> None:
    assert an_execution() == an_execution()
    assert hash(a_timer()) == hash(a_timer())
    assert a_timer().copy_with(step_name="x") == a_timer(step_name="x") != a_timer()
    assert an_execution(error_message="x").copy_with(error_message=None) == an_execution()
    with pytest.raises(InvalidValueError, match="nothing"):
        a_timer().copy_with(nothing=1)
    with pytest.raises(AttributeError):
        a_timer().step_name = "x"  # type: ignore[misc]
