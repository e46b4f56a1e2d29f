"""Workflows: create, read, persist, what is runnable, sequences."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import msgspec
import pytest

from wfe_fast.clock import to_millis
from wfe_fast.errors import DuplicatePointerError, DuplicateWorkflowError, InvalidValueError, WorkflowNotFoundError
from wfe_fast.persistence.contract import PersistenceProvider
from wfe_fast.persistence.models import WorkflowStatus
from wfe_fast.testing.clock import START
from wfe_fast.testing.persistence.base import Suite
from wfe_fast.testing.persistence.factories import (
    FAR,
    JSON_VALUES,
    a_pointer,
    a_workflow,
    full_pointer,
    full_workflow,
    pointers,
)
from wfe_fast.testing.persistence.state import everything, exact


class CreateSuite(Suite):
    """`create_new_workflow` and the reads."""

    def test_create_returns_the_id(self, provider: PersistenceProvider) -> None:
        instance = a_workflow()
        assert provider.create_new_workflow(instance) == instance.id != ""

    def test_a_plain_workflow_comes_back(self, provider: PersistenceProvider) -> None:
        instance = a_workflow(data={"n": 1}, execution_pointers=pointers(2))
        provider.create_new_workflow(instance)
        assert provider.get_workflow_instance(instance.id) == instance

    def test_every_field_comes_back(self, provider: PersistenceProvider) -> None:
        provider.create_new_workflow(full_workflow())
        assert provider.get_workflow_instance("workflow-1") == full_workflow()

    def test_every_pointer_field_comes_back(self, provider: PersistenceProvider) -> None:
        provider.create_new_workflow(a_workflow(id="w", execution_pointers=[full_pointer(), a_pointer(id="plain")]))
        stored = provider.get_workflow_instance("w").execution_pointers
        assert stored == [full_pointer(), a_pointer(id="plain")]
        assert all(getattr(stored[0], name) != getattr(stored[1], name) for name in stored[0].__struct_fields__)

    @pytest.mark.parametrize("kind", JSON_VALUES)
    def test_json_comes_back_in_every_json_field(self, provider: PersistenceProvider, kind: str) -> None:
        value = JSON_VALUES[kind]
        pointer = a_pointer(
            persistence_data=value,
            event_data=value,
            context_item=value,
            outcome=value,
            extension_attributes={"key": value},
        )
        created = a_workflow(data=value, execution_pointers=[pointer])
        provider.create_new_workflow(created)
        loaded = provider.get_workflow_instance(created.id)
        assert loaded == created
        assert exact(loaded) == exact(created)

    def test_moments_of_other_zones_come_back_in_utc(self, provider: PersistenceProvider) -> None:
        zone = timezone(timedelta(hours=5, minutes=45))
        moment = datetime(2024, 3, 31, 1, 2, 3, 456_789, tzinfo=zone)
        provider.create_new_workflow(
            a_workflow(id="w", create_time=moment, execution_pointers=[a_pointer(start_time=moment)])
        )
        loaded = provider.get_workflow_instance("w")
        assert (loaded.create_time, loaded.execution_pointers[0].start_time) == (moment, moment)
        assert loaded.create_time.utcoffset() == timedelta(0)
        assert loaded.execution_pointers[0].start_time is not None
        assert loaded.execution_pointers[0].start_time.utcoffset() == timedelta(0)

    def test_an_empty_id_becomes_a_uuid(self, provider: PersistenceProvider) -> None:
        instance = a_workflow(id="")
        id = provider.create_new_workflow(instance)
        assert UUID(id).version == 4
        assert instance.id == id
        assert provider.get_workflow_instance(id) == instance

    def test_an_empty_name_becomes_the_id(self, provider: PersistenceProvider) -> None:
        first, second = a_workflow(), a_workflow()
        for instance in (first, second):
            id = provider.create_new_workflow(instance)
            assert instance.name == id
            assert provider.get_workflow_instance(id).name == id
            assert provider.get_workflow_instance_by_name(id).id == id

    @pytest.mark.parametrize("field", ["id", "name"])
    def test_a_taken_id_or_name_is_refused_and_nothing_stored(self, provider: PersistenceProvider, field: str) -> None:
        provider.create_new_workflow(a_workflow(id="w", name="n", execution_pointers=pointers(2)))
        before = everything(provider)
        second = a_workflow(
            **{"id": "v", "name": "m", "execution_pointers": pointers(3), field: {"id": "w", "name": "n"}[field]}
        )
        with pytest.raises(DuplicateWorkflowError) as caught:
            provider.create_new_workflow(second)
        assert caught.value.field == field
        assert everything(provider) == before

    def test_two_pointers_with_one_id_are_refused_and_nothing_stored(self, provider: PersistenceProvider) -> None:
        with pytest.raises(DuplicatePointerError):
            provider.create_new_workflow(
                a_workflow(
                    id="w", execution_pointers=[a_pointer(id="p"), a_pointer(id="q"), a_pointer(id="p", step_id=1)]
                )
            )
        with pytest.raises(WorkflowNotFoundError):
            provider.get_workflow_instance("w")
        provider.create_new_workflow(a_workflow(id="w", execution_pointers=[a_pointer(id="p")]))

    def test_what_is_not_there(self, provider: PersistenceProvider) -> None:
        provider.create_new_workflow(a_workflow(id="w", name="n"))
        for read, key in ((provider.get_workflow_instance, "n"), (provider.get_workflow_instance_by_name, "w")):
            with pytest.raises(WorkflowNotFoundError) as caught:
                read(key)
            assert caught.value.id == key

    def test_by_name(self, provider: PersistenceProvider) -> None:
        provider.create_new_workflow(full_workflow())
        assert provider.get_workflow_instance_by_name("the first one") == full_workflow()

    def test_the_caller_may_change_what_it_gave_and_got(self, provider: PersistenceProvider) -> None:
        instance = a_workflow(id="w", data={"list": [1]}, execution_pointers=pointers(1))
        provider.create_new_workflow(instance)
        expected = msgspec.to_builtins(instance)
        for mine in (instance, provider.get_workflow_instance("w"), provider.get_workflow_instance("w")):
            mine.data["list"].append(2)
            mine.execution_pointers[0].persistence_data["more"] = 1
            mine.execution_pointers.append(a_pointer())
        assert msgspec.to_builtins(provider.get_workflow_instance("w")) == expected

    def test_several_at_once_in_the_order_asked(self, provider: PersistenceProvider) -> None:
        for id in "abcde":
            provider.create_new_workflow(a_workflow(id=id, execution_pointers=pointers(ord(id) - ord("a"))))
        wanted = ["d", "unknown", "a", "e", "", "b"]
        found = provider.get_workflow_instances(wanted)
        assert [one.id for one in found] == ["d", "a", "e", "b"]
        assert found == [provider.get_workflow_instance(one.id) for one in found]
        assert provider.get_workflow_instances(id for id in "ba") == [found[3], found[1]]
        assert provider.get_workflow_instances([]) == []

    def test_very_many_ids_at_once(self, provider: PersistenceProvider) -> None:
        provider.create_new_workflow(a_workflow(id="last"))
        assert [one.id for one in provider.get_workflow_instances([*map(str, range(40_000)), "last"])] == ["last"]


class PersistSuite(Suite):
    """`persist_workflow`: the fields, unknown ids, names. (The pointers have a suite of their own.)"""

    def test_description_and_status(self, provider: PersistenceProvider) -> None:
        instance = a_workflow()
        provider.create_new_workflow(instance)
        instance.description = "changed"
        instance.status = WorkflowStatus.SUSPENDED
        provider.persist_workflow(instance)
        loaded = provider.get_workflow_instance(instance.id)
        assert (loaded.description, loaded.status) == ("changed", WorkflowStatus.SUSPENDED)

    @pytest.mark.parametrize("made_by", ["create", "get", "hand"])
    def test_every_field_is_stored(self, provider: PersistenceProvider, made_by: str) -> None:
        instance = a_workflow(id="workflow-1", execution_pointers=pointers(1))
        provider.create_new_workflow(instance)
        if made_by == "get":
            instance = provider.get_workflow_instance("workflow-1")
        if made_by == "hand":
            instance = full_workflow()
        for name in instance.__struct_fields__:
            setattr(instance, name, getattr(full_workflow(), name))
        provider.persist_workflow(instance)
        assert provider.get_workflow_instance("workflow-1") == full_workflow()

    @pytest.mark.parametrize("field", [name for name in full_workflow().__struct_fields__ if name != "id"])
    def test_each_field_alone_is_stored(self, provider: PersistenceProvider, field: str) -> None:
        expected = a_workflow(id="workflow-1", name="n", create_time=START)
        provider.create_new_workflow(expected)
        loaded = provider.get_workflow_instance("workflow-1")
        for instance in (expected, loaded):
            setattr(instance, field, getattr(full_workflow(), field))
        provider.persist_workflow(loaded)
        assert provider.get_workflow_instance("workflow-1") == expected

    def test_a_field_goes_back_to_nothing(self, provider: PersistenceProvider) -> None:
        instance = full_workflow()
        provider.create_new_workflow(instance)
        for name in ("root_workflow_id", "description", "reference", "next_execution", "data", "complete_time"):
            setattr(instance, name, None)
        instance.execution_pointers = []
        provider.persist_workflow(instance)
        assert provider.get_workflow_instance(instance.id) == instance

    def test_data_changed_in_place(self, provider: PersistenceProvider) -> None:
        instance = a_workflow(data={"a": {"b": [1, {"c": 2}]}, "n": 1})
        provider.create_new_workflow(instance)
        changes: list[Callable[[Any], object]] = [
            lambda data: data["a"]["b"][1].update(c=3),
            lambda data: data["a"]["b"].append(None),
            lambda data: data["a"]["b"].reverse(),
            lambda data: data.update(n=True),
            lambda data: data.update(n=1.0),
            lambda data: data.pop("a"),
        ]
        for change in changes:
            change(instance.data)
            provider.persist_workflow(instance)
            loaded = provider.get_workflow_instance(instance.id)
            assert exact(loaded.data) == exact(instance.data)
            instance = loaded

    def test_an_unknown_id_is_an_error_and_stores_nothing(self, provider: PersistenceProvider) -> None:
        before = everything(provider)
        for instance in (a_workflow(id="w"), a_workflow(id="w", execution_pointers=pointers(3))):
            with pytest.raises(WorkflowNotFoundError) as caught:
                provider.persist_workflow(instance)
            assert caught.value.id == "w"
            assert everything(provider) == before

    def test_a_deleted_workflow_does_not_come_back(self, provider: PersistenceProvider) -> None:
        instance = a_workflow(execution_pointers=pointers(2))
        provider.create_new_workflow(instance)
        provider.delete_workflow(instance.id)
        with pytest.raises(WorkflowNotFoundError):
            provider.persist_workflow(instance)
        assert provider.get_workflow_instances([instance.id]) == []

    def test_an_empty_name_becomes_the_id(self, provider: PersistenceProvider) -> None:
        instance = a_workflow(name="n")
        provider.create_new_workflow(instance)
        instance.name = ""
        provider.persist_workflow(instance)
        assert instance.name == instance.id
        assert provider.get_workflow_instance_by_name(instance.id) == instance

    def test_a_name_of_another_is_refused_and_nothing_stored(self, provider: PersistenceProvider) -> None:
        provider.create_new_workflow(a_workflow(name="taken"))
        instance = a_workflow(execution_pointers=pointers(3))
        provider.create_new_workflow(instance)
        before = everything(provider)
        instance.name = "taken"
        instance.execution_pointers = [a_pointer(), *instance.execution_pointers[1:]]
        with pytest.raises(DuplicateWorkflowError) as caught:
            provider.persist_workflow(instance)
        assert (caught.value.field, caught.value.id) == ("name", "taken")
        assert everything(provider) == before
        instance.name = "free"
        provider.persist_workflow(instance)
        assert provider.get_workflow_instance(instance.id) == instance

    def test_a_name_that_was_given_up_is_free(self, provider: PersistenceProvider) -> None:
        instance = a_workflow(name="first")
        provider.create_new_workflow(instance)
        instance.name = "second"
        provider.persist_workflow(instance)
        provider.create_new_workflow(a_workflow(name="first"))
        assert provider.get_workflow_instance_by_name("second").id == instance.id

    def test_the_root_workflow_survives_create_and_persist(self, provider: PersistenceProvider) -> None:
        instance = a_workflow(root_workflow_id="root")
        provider.create_new_workflow(instance)
        loaded = provider.get_workflow_instance(instance.id)
        assert loaded.root_workflow_id == "root"
        provider.persist_workflow(loaded)
        assert provider.get_workflow_instance(instance.id).root_workflow_id == "root"


class RunnableSuite(Suite):
    """`get_runnable_instances` and `next_definition_sequence`."""

    def test_past_yes_future_no_never_no(self, provider: PersistenceProvider) -> None:
        due = to_millis(START)
        for id, moment in (("past", due - 1), ("now", due), ("later", due + 1), ("far", 2**63 - 1), ("never", None)):
            provider.create_new_workflow(a_workflow(id=id, next_execution=moment))
        assert provider.get_runnable_instances(START) == ["past", "now"]
        assert provider.get_runnable_instances(START + timedelta(microseconds=999)) == ["past", "now"]
        assert provider.get_runnable_instances(START + timedelta(milliseconds=1)) == ["past", "now", "later"]
        assert provider.get_runnable_instances(FAR) == ["past", "now", "later"]

    def test_only_the_runnable_ones(self, provider: PersistenceProvider) -> None:
        for status in WorkflowStatus:
            provider.create_new_workflow(a_workflow(id=status.value, status=status))
        assert provider.get_runnable_instances(START) == ["Runnable"]

    def test_oldest_first_and_limit(self, provider: PersistenceProvider) -> None:
        moments = [5, -(10**12), 4, 9, 0, 7, -1]
        for moment in moments:
            provider.create_new_workflow(a_workflow(id=str(moment), next_execution=moment))
        expected = [str(moment) for moment in sorted(moments)]
        assert provider.get_runnable_instances(START) == expected
        assert provider.get_runnable_instances(START, limit=3) == expected[:3]
        assert provider.get_runnable_instances(START, 100) == expected

    def test_it_follows_what_is_persisted(self, provider: PersistenceProvider) -> None:
        instance = a_workflow(next_execution=None)
        provider.create_new_workflow(instance)
        changes: list[tuple[dict[str, Any], bool]] = [
            ({"next_execution": 0}, True),
            ({"status": WorkflowStatus.COMPLETE}, False),
            ({"status": WorkflowStatus.RUNNABLE}, True),
            ({"next_execution": None}, False),
        ]
        for fields, runnable in changes:
            for name, value in fields.items():
                setattr(instance, name, value)
            provider.persist_workflow(instance)
            assert (provider.get_runnable_instances(START) == [instance.id]) is runnable

    def test_claimed_ones_are_listed_too(self, provider: PersistenceProvider) -> None:
        provider.create_new_workflow(a_workflow(id="w"))
        provider.claim_runnable_instances("worker")
        assert provider.get_runnable_instances(START) == ["w"]

    def test_sequences_count_each_definition_for_itself(self, provider: PersistenceProvider) -> None:
        assert [provider.next_definition_sequence("order") for _ in range(4)] == [1, 2, 3, 4]
        assert provider.next_definition_sequence("Order") == 1
        assert provider.next_definition_sequence("order") == 5
        assert provider.next_definition_sequence("Order") == 2

    @pytest.mark.parametrize("limit", [0, -1])
    def test_a_limit_below_one_is_refused(self, provider: PersistenceProvider, limit: int) -> None:
        with pytest.raises(InvalidValueError, match="limit"):
            provider.get_runnable_instances(START, limit)

    def test_ensure_store_exists_is_idempotent(self, provider: PersistenceProvider) -> None:
        instance = full_workflow()
        provider.create_new_workflow(instance)
        before = everything(provider)
        provider.ensure_store_exists()
        provider.ensure_store_exists()
        assert everything(provider) == before
