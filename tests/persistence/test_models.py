"""The models: names, defaults, values, helpers; and the names that a caller imports."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any
from uuid import UUID

import msgspec
import pytest

import wfe_fast
from wfe_fast import (
    CommandName,
    Event,
    EventSubscription,
    ExecutionError,
    ExecutionPointer,
    PointerStatus,
    ScheduledCommand,
    WorkflowInstance,
    WorkflowStatus,
)
from wfe_fast.codec import with_exact_floats
from wfe_fast.persistence.contract import PersistenceProvider, PersistenceTransaction
from wfe_fast.sqlite import SqlitePersistenceProvider

FINAL = ["COMPLETE", "SKIPPED", "COMPENSATED", "CANCELLED", "FAILED"]


@pytest.mark.parametrize(
    ("enum", "values"),
    [
        (WorkflowStatus, "Runnable Suspended Complete Terminated"),
        (
            PointerStatus,
            "Pending Running Complete Skipped Sleeping WaitingForEvent Failed Compensated Cancelled PendingPredecessor",
        ),
        (CommandName, "ProcessWorkflow ProcessEvent"),
    ],
)
def test_enum_values_are_those_of_the_family(enum: Any, values: str) -> None:
    assert [member.value for member in enum] == values.split()
    assert all(member.name.replace("_", "").lower() == member.value.lower() for member in enum)
    assert all(member.name == member.name.upper() for member in enum)


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        (
            WorkflowInstance,
            (
                "id name root_workflow_id workflow_definition_id version description reference execution_pointers "
                "next_execution status data create_time complete_time"
            ),
        ),
        (
            ExecutionPointer,
            (
                "id step_id active status sleep_until persistence_data start_time end_time event_name event_key "
                "event_published event_data step_name retry_count children context_item predecessor_id outcome scope "
                "extension_attributes"
            ),
        ),
        (Event, "id event_name event_key event_data event_time is_processed"),
        (
            EventSubscription,
            (
                "id workflow_id step_id execution_pointer_id event_name event_key subscribe_as_of subscription_data "
                "external_token external_worker_id external_token_expiry"
            ),
        ),
        (ScheduledCommand, "command_name data execute_time"),
        (ExecutionError, "error_time workflow_id execution_pointer_id message"),
    ],
)
def test_fields_are_those_of_the_family(model: Any, fields: str) -> None:
    assert [field.name for field in msgspec.structs.fields(model)] == fields.split()
    assert [field.encode_name for field in msgspec.structs.fields(model)] == fields.split()


def test_defaults_of_a_workflow() -> None:
    before = datetime.now(timezone.utc)
    one, two = WorkflowInstance(workflow_definition_id="d"), WorkflowInstance(workflow_definition_id="d")
    assert UUID(one.id).version == 4
    assert one.id != two.id
    assert (one.name, one.version, one.next_execution, one.status) == ("", 1, 0, WorkflowStatus.RUNNABLE)
    assert (one.data, one.execution_pointers) == ({}, [])
    assert before <= one.create_time <= datetime.now(timezone.utc)
    assert one.create_time.tzinfo is timezone.utc
    assert [one.complete_time, one.root_workflow_id, one.description, one.reference] == [None] * 4
    one.data["mine"] = 1
    assert two.data == {}
    assert one.claims_without_commit == 0


def test_defaults_of_a_pointer() -> None:
    pointer = ExecutionPointer(step_id=3)
    assert UUID(pointer.id).version == 4
    assert (pointer.active, pointer.status, pointer.retry_count) == (True, PointerStatus.PENDING, 0)
    assert (pointer.children, pointer.scope, pointer.extension_attributes) == ([], [], {})
    assert pointer.event_published is False
    rest = set(pointer.__struct_fields__) - {"id", "step_id", "active", "status", "retry_count", "event_published"}
    assert {getattr(pointer, name) for name in rest - {"children", "scope", "extension_attributes"}} == {None}


def test_defaults_of_the_others() -> None:
    event = Event(event_name="n", event_key="k")
    subscription = EventSubscription(
        workflow_id="w", step_id=0, execution_pointer_id="p", event_name="n", event_key="k"
    )
    error = ExecutionError(workflow_id="w", execution_pointer_id="p", message="m")
    assert UUID(event.id).version == UUID(subscription.id).version == 4
    assert (event.event_data, event.is_processed) == (None, False)
    now = datetime.now(timezone.utc)
    assert all(0 <= (now - made).total_seconds() < 60 for made in (event.event_time, error.error_time))
    assert 0 <= (now - subscription.subscribe_as_of).total_seconds() < 60
    assert (subscription.external_token, subscription.external_token_expiry) == (None, None)
    assert (subscription.external_worker_id, subscription.subscription_data) == (None, None)


def test_commands_have_factories() -> None:
    assert ScheduledCommand.process_workflow("w", 5) == ScheduledCommand(
        command_name=CommandName.PROCESS_WORKFLOW, data="w", execute_time=5
    )
    assert ScheduledCommand.process_event("e", -1).command_name is CommandName.PROCESS_EVENT


@pytest.mark.parametrize("model", [WorkflowInstance, ExecutionPointer, Event, ScheduledCommand, ExecutionError])
def test_models_take_keywords_only(model: Any) -> None:
    with pytest.raises(TypeError):
        model("x")


def test_a_model_is_json() -> None:
    made = WorkflowInstance(workflow_definition_id="d", execution_pointers=[ExecutionPointer(step_id=1, outcome=[2])])
    assert msgspec.json.decode(msgspec.json.encode(made), type=WorkflowInstance) == made


@pytest.mark.parametrize("status", PointerStatus)
def test_a_branch_is_complete_when_all_of_its_scope_is_final(status: PointerStatus) -> None:
    inside = [ExecutionPointer(step_id=0, scope=["a", "b"], status=PointerStatus.COMPLETE) for _ in range(2)]
    other = ExecutionPointer(step_id=0, scope=["b", "a"], status=PointerStatus.RUNNING)
    instance = WorkflowInstance(workflow_definition_id="d", execution_pointers=[*inside, other])
    assert instance.is_branch_complete(["a", "b"])
    assert not instance.is_branch_complete(("b", "a"))
    inside[1].status = status
    assert instance.is_branch_complete(["a", "b"]) is (status.name in FINAL)


def test_a_branch_without_pointers_is_complete() -> None:
    instance = WorkflowInstance(workflow_definition_id="d", execution_pointers=[ExecutionPointer(step_id=0)])
    assert instance.is_branch_complete(["a"])
    assert not instance.is_branch_complete([])


def test_the_provider_has_every_method_of_the_contract() -> None:
    with wfe_fast.open_provider("sqlite://:memory:") as provider:
        assert isinstance(provider, PersistenceProvider)
        assert isinstance(provider, SqlitePersistenceProvider)
        with provider.transaction() as tx:
            assert isinstance(tx, PersistenceTransaction)
            assert not isinstance(tx, PersistenceProvider)


@pytest.mark.parametrize(
    ("given", "exact"),
    [
        ("1e23", "99999999999999991611392"),
        ("[-1.5e16,1E+17]", "[-15000000000000000,100000000000000000]"),
        ('{"1e23":"1e23 \\" 1e23","a":1e23}', '{"1e23":"1e23 \\" 1e23","a":99999999999999991611392}'),
        ("[1e-300,1.25,-0.0,100,1.25e1]", "[1e-300,1.25,-0.0,100,1.25e1]"),
        ("[1e400]", "[1e400]"),
    ],
)
def test_large_floats_as_the_whole_numbers_that_they_are(given: str, exact: str) -> None:
    assert with_exact_floats(given) == exact
