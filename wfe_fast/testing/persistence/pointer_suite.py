"""Execution pointers: after every persist the stored ones are exactly the given ones, in their order."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from wfe_fast.errors import DuplicatePointerError
from wfe_fast.persistence.contract import PersistenceProvider
from wfe_fast.persistence.models import ExecutionPointer, PointerStatus, WorkflowInstance
from wfe_fast.testing.persistence.base import Suite
from wfe_fast.testing.persistence.factories import a_pointer, a_workflow, full_pointer, pointers
from wfe_fast.testing.persistence.state import everything, exact

Pointers = list[ExecutionPointer]


def _swap_ids(given: Pointers) -> None:
    given[2].id, given[7].id = given[7].id, given[2].id


def _new_objects(given: Pointers) -> None:
    given[:] = [copy.deepcopy(pointer) for pointer in given]


def _replace(given: Pointers) -> None:
    given[4] = full_pointer()


def _remove_and_insert(given: Pointers) -> None:
    del given[1], given[7]
    given.insert(6, full_pointer())


def _move_and_change(given: Pointers) -> None:
    given.insert(9, given.pop(2))
    given[9].persistence_data["moved"] = True


CHANGES: dict[str, Callable[[Pointers], object]] = {
    "nothing": lambda given: None,
    "append": lambda given: given.append(full_pointer()),
    "insert first": lambda given: given.insert(0, full_pointer()),
    "insert in the middle": lambda given: given.insert(5, full_pointer()),
    "several in the middle": lambda given: given.__setitem__(slice(3, 3), pointers(4)),
    "remove first": lambda given: given.pop(0),
    "remove in the middle": lambda given: given.pop(4),
    "remove last": lambda given: given.pop(),
    "shrink to one": lambda given: given.__delitem__(slice(1, None)),
    "shrink to none": lambda given: given.clear(),
    "reverse": lambda given: given.reverse(),
    "rotate": lambda given: given.append(given.pop(0)),
    "shuffle": lambda given: random.Random(7).shuffle(given),
    "swap two": lambda given: given.__setitem__(slice(2, 4), [given[3], given[2]]),
    "swap two ids": _swap_ids,
    "replace one": _replace,
    "replace all": lambda given: given.__setitem__(slice(None), pointers(12)),
    "equal new objects": _new_objects,
    "remove and insert": _remove_and_insert,
    "move and change": _move_and_change,
}

DEEP: dict[str, Callable[[ExecutionPointer], object]] = {
    "nested dict": lambda p: p.persistence_data["kept"][1].update(deep=1),
    "nested list": lambda p: p.persistence_data["kept"].append(2),
    "number to boolean": lambda p: p.persistence_data["kept"].__setitem__(0, True),
    "event_data": lambda p: p.event_data.reverse(),
    "children": lambda p: p.children.append("more"),
    "context_item": lambda p: p.context_item.clear(),
    "scope": lambda p: p.scope.insert(0, "outermost"),
    "extension_attributes": lambda p: p.extension_attributes["x"]["y"].append(False),
    "status": lambda p: setattr(p, "status", PointerStatus.CANCELLED),
    "outcome to nothing": lambda p: setattr(p, "outcome", None),
}


def _stored(provider: PersistenceProvider, instance: WorkflowInstance) -> Pointers:
    return provider.get_workflow_instance(instance.id).execution_pointers


class PointerSuite(Suite):
    """What `persist_workflow` makes of the pointers."""

    @pytest.fixture(params=["created", "loaded", "claimed", "by hand"])
    def instance(self, request: pytest.FixtureRequest, provider: PersistenceProvider) -> WorkflowInstance:
        """A stored workflow with ten pointers, in an object that came about in one of four ways."""
        instance = a_workflow(id="w", execution_pointers=pointers(10))
        provider.create_new_workflow(instance)
        if request.param == "loaded":
            return provider.get_workflow_instance("w")
        if request.param == "claimed":
            return provider.claim_runnable_instances("worker")[0]
        return instance if request.param == "created" else a_workflow(id="w", execution_pointers=pointers(10))

    @pytest.mark.parametrize("change", CHANGES)
    def test_change(self, provider: PersistenceProvider, instance: WorkflowInstance, change: str) -> None:
        CHANGES[change](instance.execution_pointers)
        provider.persist_workflow(instance)
        assert _stored(provider, instance) == instance.execution_pointers

    @pytest.mark.parametrize("change", DEEP)
    def test_change_in_place(self, provider: PersistenceProvider, change: str) -> None:
        instance = a_workflow(execution_pointers=[a_pointer(), full_pointer(), a_pointer()])
        provider.create_new_workflow(instance)
        for _ in range(2):  # once on the created object, once on the loaded one
            DEEP[change](instance.execution_pointers[1])
            provider.persist_workflow(instance)
            loaded = provider.get_workflow_instance(instance.id)
            assert exact(loaded) == exact(instance)
            instance = loaded

    def test_a_chain_of_changes_on_one_object(self, provider: PersistenceProvider, instance: WorkflowInstance) -> None:
        chooser = random.Random(3)
        for round in range(60):
            given = instance.execution_pointers
            for _ in range(chooser.randrange(4)):
                place = chooser.randrange(len(given) + 1)
                if chooser.random() < 0.4 and given:
                    del given[min(place, len(given) - 1)]
                elif chooser.random() < 0.5 and given:
                    given.insert(place, given.pop(chooser.randrange(len(given))))
                else:
                    given.insert(place, a_pointer(persistence_data={"round": round}))
            if given:
                chooser.choice(given).persistence_data["round"] = [round]
            provider.persist_workflow(instance)
            assert _stored(provider, instance) == given

    def test_a_change_and_back(self, provider: PersistenceProvider, instance: WorkflowInstance) -> None:
        original = copy.deepcopy(instance.execution_pointers)
        instance.execution_pointers.reverse()
        instance.execution_pointers[3].retry_count = 4
        provider.persist_workflow(instance)
        instance.execution_pointers = original
        provider.persist_workflow(instance)
        assert _stored(provider, instance) == original

    def test_a_pointer_goes_and_comes_back(self, provider: PersistenceProvider, instance: WorkflowInstance) -> None:
        gone = instance.execution_pointers.pop(4)
        provider.persist_workflow(instance)
        instance.execution_pointers.insert(2, gone)
        provider.persist_workflow(instance)
        assert _stored(provider, instance) == instance.execution_pointers

    def test_two_pointers_with_one_id(self, provider: PersistenceProvider, instance: WorkflowInstance) -> None:
        before = everything(provider)
        instance.execution_pointers.append(a_pointer(id=instance.execution_pointers[3].id))
        instance.description = "changed"
        with pytest.raises(DuplicatePointerError):
            provider.persist_workflow(instance)
        assert everything(provider) == before
        instance.execution_pointers.pop()
        provider.persist_workflow(instance)
        assert provider.get_workflow_instance("w") == instance

    def test_a_thousand_pointers(self, provider: PersistenceProvider) -> None:
        instance = a_workflow(execution_pointers=pointers(1000))
        provider.create_new_workflow(instance)
        assert provider.get_workflow_instance(instance.id) == instance
        instance.execution_pointers[567].persistence_data["number"] = "changed"
        del instance.execution_pointers[100:200]
        instance.execution_pointers[300:300] = pointers(50)
        provider.persist_workflow(instance)
        assert _stored(provider, instance) == instance.execution_pointers
        random.Random(5).shuffle(instance.execution_pointers)
        provider.persist_workflow(instance)
        assert _stored(provider, instance) == instance.execution_pointers

    def test_inserting_at_one_place_again_and_again(self, provider: PersistenceProvider) -> None:
        instance = a_workflow(execution_pointers=pointers(2))
        provider.create_new_workflow(instance)
        for number in range(120):
            instance.execution_pointers.insert(1, a_pointer(step_id=number))
            provider.persist_workflow(instance)
        assert _stored(provider, instance) == instance.execution_pointers

    def test_no_call_touches_the_pointers_of_another(self, provider: PersistenceProvider) -> None:
        other = a_workflow(execution_pointers=[full_pointer(n) for n in range(5)])
        provider.create_new_workflow(other)
        instance = a_workflow(execution_pointers=pointers(5))
        provider.create_new_workflow(instance)
        instance.execution_pointers[1:3] = []
        provider.persist_workflow(instance)
        provider.delete_workflow(instance.id)
        assert _stored(provider, other) == other.execution_pointers

    @pytest.mark.parametrize(
        "duplicate", [copy.copy, copy.deepcopy, msgspec.structs.replace], ids=["copy", "deepcopy", "replace"]
    )
    def test_copies(self, provider: PersistenceProvider, instance: WorkflowInstance, duplicate: Any) -> None:
        twin: WorkflowInstance = duplicate(instance)
        assert twin.claims_without_commit == 0
        twin.execution_pointers[3].persistence_data["twin"] = 1
        twin.execution_pointers[5].children.append("child")
        twin.execution_pointers.pop(8)
        provider.persist_workflow(twin)
        assert _stored(provider, twin) == twin.execution_pointers
        instance.execution_pointers[0].retry_count += 1
        provider.persist_workflow(instance)
        assert _stored(provider, instance) == instance.execution_pointers


class LastWriterSuite(Suite):
    """A stale object persists: without `expect_unchanged` the stored pointers are then exactly its own."""

    @pytest.mark.parametrize("theirs", CHANGES)
    def test_stale_memory(self, provider: PersistenceProvider, theirs: str) -> None:
        for mine in ("nothing", "replace one", "shuffle", "insert in the middle"):
            provider.create_new_workflow(a_workflow(id=mine, data={"by": "nobody"}, execution_pointers=pointers(10)))
            my_copy, their_copy = provider.get_workflow_instance(mine), provider.get_workflow_instance(mine)
            CHANGES[theirs](their_copy.execution_pointers)
            their_copy.data["by"] = "them"
            provider.persist_workflow(their_copy)
            CHANGES[mine](my_copy.execution_pointers)
            provider.persist_workflow(my_copy)
            assert provider.get_workflow_instance(mine) == my_copy
            provider.delete_workflow(mine)

    def test_their_change_to_a_pointer_that_i_left_alone(self, provider: PersistenceProvider) -> None:
        provider.create_new_workflow(a_workflow(id="w", execution_pointers=pointers(4)))
        mine, theirs = provider.get_workflow_instance("w"), provider.get_workflow_instance("w")
        theirs.execution_pointers[2].persistence_data["theirs"] = True
        provider.persist_workflow(theirs)
        mine.execution_pointers[1].persistence_data["mine"] = True
        provider.persist_workflow(mine)
        assert _stored(provider, mine) == mine.execution_pointers

    def test_deleted_and_created_again(self, provider: PersistenceProvider) -> None:
        provider.create_new_workflow(a_workflow(id="w", execution_pointers=pointers(4)))
        stale = provider.get_workflow_instance("w")
        provider.delete_workflow("w")
        again = a_workflow(id="w", execution_pointers=[full_pointer(1), full_pointer(2)])
        provider.create_new_workflow(again)
        provider.persist_workflow(stale)
        assert provider.get_workflow_instance("w") == stale

    def test_taking_turns(self, provider: PersistenceProvider) -> None:
        provider.create_new_workflow(a_workflow(id="w", execution_pointers=pointers(6)))
        writers = [provider.get_workflow_instance("w") for _ in range(3)]
        for round in range(12):
            writer = writers[round % 3]
            CHANGES[["rotate", "replace all", "reverse", "append"][round % 4]](writer.execution_pointers)
            writer.execution_pointers[-1].retry_count = round
            writer.execution_pointers = list({pointer.id: pointer for pointer in writer.execution_pointers}.values())
            provider.persist_workflow(writer)
            assert _stored(provider, writer) == writer.execution_pointers
