"""Bad input: every field and argument with values of the wrong kind is refused, by our own errors that name it, before anything is written."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from wfe_fast.errors import InvalidValueError, SerializationError, WfeError
from wfe_fast.persistence.contract import PersistenceProvider, PersistenceTransaction
from wfe_fast.persistence.models import (
    CommandName,
    ExecutionPointer,
    ScheduledCommand,
    WorkflowInstance,
    WorkflowStatus,
)
from wfe_fast.testing.clock import START
from wfe_fast.testing.persistence.base import Suite
from wfe_fast.testing.persistence.factories import (
    a_pointer,
    a_subscription,
    a_workflow,
    an_error,
    an_event,
    full_workflow,
    pointers,
    waiting_workflow,
)
from wfe_fast.testing.persistence.state import drain_commands, everything, exact

NAIVE = datetime(2024, 1, 1)  # without a zone: that is the point
TOO_EARLY = datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=1)))
TOO_LATE = datetime(9999, 12, 31, 23, 59, tzinfo=timezone(timedelta(hours=-1)))


class _Opaque:
    pass


_circle: list[Any] = []
_circle.append(_circle)

NOT_JSON: dict[str, Any] = {
    "NaN": math.nan,
    "infinity": math.inf,
    "minus infinity": [-math.inf],
    "NUL": {"a": ["b\0c"]},
    "NUL in a key": {"a\0": 1},
    "lone surrogate": "\ud800",
    "lone surrogate in a key": {"\udfff": 1},
    "bytes": b"x",
    "bytearray": bytearray(b""),
    "set": {1, 2},
    "frozenset": frozenset(),
    "tuple": (1, 2),
    "empty tuple": {"a": ()},
    "Decimal": Decimal("1.5"),
    "datetime": START,
    "date": START.date(),
    "timedelta": timedelta(1),
    "uuid": uuid4(),
    "integer key": {1: 2},
    "boolean key": {True: 1},
    "None key": {None: 1},
    "object": _Opaque(),
    "struct": an_event(),
    "enum": WorkflowStatus.RUNNABLE,
    "generator": (n for n in "ab"),
    "contains itself": _circle,
    "complex": 1j,
}

_TEXT: list[Any] = [None, 5, b"x", ["x"], CommandName.PROCESS_EVENT]
_OPTIONAL_TEXT = [value for value in _TEXT if value is not None]
_MOMENT: list[Any] = [NAIVE, TOO_EARLY, TOO_LATE, START.isoformat(), START.timestamp(), START.date()]
_SMALL: list[Any] = [None, -1, 2**31, 2**70, 1.0, "1", True]
_FLAG: list[Any] = [None, 0, 1, "true"]
_TEXTS: list[Any] = [None, "abc", ["a", 1], ["a", None], ("a",), {"a": 1}]
_ENUM: list[Any] = [None, "Runnable", 0, "Pending", "ProcessEvent", "RUNNABLE"]
_MILLIS: list[Any] = [1.0, "5", 2**63, -(2**63) - 1, START, True]
_LONG_NAME = ["é" * 501, "x" * 1001]

WORKFLOW_FIELDS: dict[str, list[Any]] = {
    "id": _TEXT,
    "name": [*_TEXT, *_LONG_NAME],
    "root_workflow_id": _OPTIONAL_TEXT,
    "workflow_definition_id": _TEXT,
    "version": _SMALL,
    "description": _OPTIONAL_TEXT,
    "reference": _OPTIONAL_TEXT,
    "execution_pointers": [None, "abc", {}, [None], ["a"], [a_workflow()], [{"step_id": 0}], (a_pointer(),)],
    "next_execution": _MILLIS,
    "status": _ENUM,
    "create_time": [None, *_MOMENT],
    "complete_time": _MOMENT,
}
POINTER_FIELDS: dict[str, list[Any]] = {
    "id": _TEXT,
    "step_id": _SMALL,
    "active": _FLAG,
    "status": [*_ENUM, WorkflowStatus.COMPLETE],
    "sleep_until": _MOMENT,
    "start_time": _MOMENT,
    "end_time": _MOMENT,
    "event_name": _OPTIONAL_TEXT,
    "event_key": _OPTIONAL_TEXT,
    "event_published": _FLAG,
    "step_name": _OPTIONAL_TEXT,
    "retry_count": _SMALL,
    "children": _TEXTS,
    "predecessor_id": _OPTIONAL_TEXT,
    "scope": _TEXTS,
    "extension_attributes": [None, [], "x", 5, [("a", 1)]],
}
EVENT_FIELDS: dict[str, list[Any]] = {
    "id": _TEXT,
    "event_name": [*_TEXT, *_LONG_NAME],
    "event_key": [*_TEXT, *_LONG_NAME],
    "event_time": [None, *_MOMENT],
    "is_processed": _FLAG,
}
SUBSCRIPTION_FIELDS: dict[str, list[Any]] = {
    "id": _TEXT,
    "workflow_id": _TEXT,
    "step_id": _SMALL,
    "execution_pointer_id": _TEXT,
    "event_name": [*_TEXT, *_LONG_NAME],
    "event_key": [*_TEXT, *_LONG_NAME],
    "subscribe_as_of": [None, *_MOMENT],
    "external_token": _OPTIONAL_TEXT,
    "external_worker_id": _OPTIONAL_TEXT,
    "external_token_expiry": _MOMENT,
}
COMMAND_FIELDS: dict[str, list[Any]] = {
    "command_name": [None, "ProcessWorkflow", WorkflowStatus.RUNNABLE, 0],
    "data": _TEXT,
    "execute_time": [None, *_MILLIS],
}
ERROR_FIELDS: dict[str, list[Any]] = {
    "error_time": [None, *_MOMENT],
    "workflow_id": _TEXT,
    "execution_pointer_id": _TEXT,
    "message": _TEXT,
}

Write = Callable[[PersistenceTransaction, Any], object]


def _create(store: PersistenceTransaction, instance: Any) -> object:
    return store.create_new_workflow(instance)


def _persist(store: PersistenceTransaction, instance: Any) -> None:
    if instance.id == "new":
        instance.id = "stored"
    store.persist_workflow(instance)


def _create_pointer(store: PersistenceTransaction, pointer: Any) -> object:
    return store.create_new_workflow(a_workflow(execution_pointers=[a_pointer(), pointer]))


def _persist_pointer(store: PersistenceTransaction, pointer: Any) -> None:
    instance = store.get_workflow_instance("stored")
    instance.execution_pointers.insert(1, pointer)
    store.persist_workflow(instance)


def _persist_subscriptions(store: PersistenceTransaction, subscription: Any) -> None:
    instance = store.get_workflow_instance("stored")
    instance.description = "changed"
    store.persist_workflow_with_subscriptions(instance, [a_subscription(), subscription])


def _a_command() -> ScheduledCommand:
    return ScheduledCommand.process_workflow("w", 5)


#: For each way to hand a model in: the fields with their bad values, how to make a good one, how to write it.
MODELS: dict[str, tuple[dict[str, list[Any]], Callable[[], Any], Write]] = {
    "create": (WORKFLOW_FIELDS, lambda: a_workflow(id="new"), _create),
    "persist": (WORKFLOW_FIELDS, lambda: a_workflow(id="new"), _persist),
    "create pointer": (POINTER_FIELDS, a_pointer, _create_pointer),
    "persist pointer": (POINTER_FIELDS, a_pointer, _persist_pointer),
    "create event": (EVENT_FIELDS, an_event, lambda store, event: store.create_event(event)),
    "publish event": (EVENT_FIELDS, an_event, lambda store, event: store.publish_event(event)),
    "subscription": (SUBSCRIPTION_FIELDS, a_subscription, lambda store, made: store.create_event_subscription(made)),
    "persist subscriptions": (SUBSCRIPTION_FIELDS, a_subscription, _persist_subscriptions),
    "command": (COMMAND_FIELDS, _a_command, lambda store, command: store.schedule_command(command)),
    "error": (ERROR_FIELDS, lambda: an_error("w"), lambda store, error: store.persist_errors([an_error("w"), error])),
}
#: The fields that hold any JSON value, by the way the model is handed in.
JSON_FIELDS: dict[str, list[str]] = {
    "create": ["data"],
    "persist": ["data"],
    "create pointer": ["persistence_data", "event_data", "context_item", "outcome", "extension_attributes"],
    "persist pointer": ["persistence_data", "event_data", "context_item", "outcome", "extension_attributes"],
    "create event": ["event_data"],
    "publish event": ["event_data"],
    "subscription": ["subscription_data"],
    "persist subscriptions": ["subscription_data"],
}
_BAD_FIELDS = [(model, field) for model, (fields, _, _) in MODELS.items() for field in fields]
_TEXT_FIELDS = [(m, f) for m, (fields, _, _) in MODELS.items() for f, bad in fields.items() if b"x" in bad]


class FieldSuite(Suite):
    """The fields of the models."""

    @pytest.fixture
    def before(self, provider: PersistenceProvider) -> dict[str, Any]:
        """What is stored before the refused call: a workflow, its subscription, an event."""
        provider.create_new_workflow(a_workflow(id="stored", execution_pointers=pointers(2)))
        waiting_workflow(provider)
        provider.create_event(an_event(id="event"))
        return everything(provider)

    @pytest.mark.parametrize(("model", "field"), _BAD_FIELDS)
    def test_wrong_kinds(self, provider: PersistenceProvider, before: dict[str, Any], model: str, field: str) -> None:
        fields, make, write = MODELS[model]
        for bad in fields[field]:
            made = make()
            setattr(made, field, bad)
            with pytest.raises(InvalidValueError) as caught:
                write(provider, made)
                pytest.fail(f"{field}={bad!r} was taken")
            assert field in caught.value.field, bad
        assert everything(provider) == before
        assert drain_commands(provider) == []

    @pytest.mark.parametrize(("model", "field"), _TEXT_FIELDS)
    def test_text_that_no_database_holds(
        self, provider: PersistenceProvider, before: dict[str, Any], model: str, field: str
    ) -> None:
        _, make, write = MODELS[model]
        for bad in ("a\0", "\ud83c", "x" * 300 + "\udc00"):
            made = make()
            setattr(made, field, bad)
            with pytest.raises(SerializationError) as caught:
                write(provider, made)
            assert field in caught.value.field
        assert everything(provider) == before
        assert drain_commands(provider) == []

    @pytest.mark.parametrize("model", JSON_FIELDS)
    def test_what_json_cannot_hold(self, provider: PersistenceProvider, before: dict[str, Any], model: str) -> None:
        _, make, write = MODELS[model]
        for kind, bad in NOT_JSON.items():
            for field in JSON_FIELDS[model]:
                made = make()
                setattr(made, field, {"deep": [0, {"x": bad}]} if field == "extension_attributes" else bad)
                with pytest.raises(SerializationError) as caught:
                    write(provider, made)
                    pytest.fail(f"{field} took {kind}")
                assert field in caught.value.field, kind
                assert isinstance(caught.value, WfeError)
                assert isinstance(caught.value, ValueError)
        assert everything(provider) == before

    @pytest.mark.parametrize("model", MODELS)
    def test_something_else_than_the_model(
        self, provider: PersistenceProvider, before: dict[str, Any], model: str
    ) -> None:
        def persist(store: PersistenceTransaction, made: Any) -> None:
            store.persist_workflow(made)

        write = persist if model == "persist" else MODELS[model][2]
        refused: list[Any] = [None, "x", {}, 5, _Opaque(), WorkflowInstance]
        for bad in (*refused, a_workflow() if "event" in model else an_event()):
            with pytest.raises(InvalidValueError):
                write(provider, bad)
        assert everything(provider) == before

    def test_an_error_names_the_field_and_shows_the_value(self, provider: PersistenceProvider) -> None:
        with pytest.raises(InvalidValueError, match="version.*'two'") as caught:
            provider.create_new_workflow(a_workflow(version="two"))
        assert isinstance(caught.value, WfeError)
        assert isinstance(caught.value, ValueError)

    def test_the_largest_values_are_taken(self, provider: PersistenceProvider) -> None:
        instance = full_workflow(name="é" * 500)
        provider.create_new_workflow(instance)
        assert provider.get_workflow_instance_by_name("é" * 500) == instance
        event = an_event(event_name="n" * 1000, event_key="k" * 1000)
        provider.create_event(event)
        assert provider.get_events("n" * 1000, "k" * 1000, START) == [event.id]
        instance.next_execution = -(2**63)
        provider.persist_workflow(instance)
        assert provider.get_workflow_instance(instance.id).next_execution == -(2**63)

    def test_a_deep_value_comes_back_or_is_refused(self, provider: PersistenceProvider) -> None:
        for depth in (100, 400, 600, 2000, 100_000):
            value: Any = 1
            for _ in range(depth):
                value = [value]
            instance = a_workflow(data=value)
            try:
                provider.create_new_workflow(instance)
            except SerializationError as error:
                assert depth > 400, "400 levels are to be taken"
                assert "data" in error.field
            else:
                loaded: Any = provider.get_workflow_instance(instance.id).data
                for _ in range(depth):
                    (loaded,) = loaded
                assert loaded == 1
            while isinstance(value, list):  # taken apart by hand: a deep list frees itself by recursion
                value = value.pop()

    def test_a_dictionary_that_is_not_quite_one_comes_back_equal(self, provider: PersistenceProvider) -> None:
        from collections import OrderedDict

        instance = a_workflow(data=OrderedDict(b=1, a=2))
        provider.create_new_workflow(instance)
        assert exact(provider.get_workflow_instance(instance.id).data) == exact({"a": 2, "b": 1})

    @pytest.mark.parametrize("text", [b'{"n":\n1}', b'1}\n{"id":"x","step_id":0'])
    def test_ready_made_json_of_several_lines_is_refused(self, provider: PersistenceProvider, text: bytes) -> None:
        # It would go into the encoded pointers as it is, line breaks and all, and lines are what pointers are told apart by.
        instance = a_workflow(id="w", execution_pointers=[a_pointer(step_id=number, outcome=1) for number in range(3)])
        provider.create_new_workflow(instance)
        instance.execution_pointers[2].outcome = msgspec.Raw(text)
        before = everything(provider)
        with pytest.raises(SerializationError) as caught:
            provider.persist_workflow(instance)
        assert caught.value.field.startswith("execution_pointers[2].outcome")
        assert everything(provider) == before

    def test_pointer_fields_are_checked_in_a_persist_that_changes_little(self, provider: PersistenceProvider) -> None:
        provider.create_new_workflow(a_workflow(id="w", execution_pointers=pointers(20)))
        for field, bad in POINTER_FIELDS.items():
            instance = provider.get_workflow_instance("w")
            pointer: ExecutionPointer = instance.execution_pointers[11]
            setattr(pointer, field, bad[0])
            with pytest.raises(InvalidValueError, match=field):
                provider.persist_workflow(instance)
