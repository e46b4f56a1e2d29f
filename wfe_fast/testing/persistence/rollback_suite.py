"""Objects that took part in a block that was undone: what they remember must not make a later persist wrong."""

from __future__ import annotations

import copy

import pytest

from wfe_fast.errors import ConcurrentUpdateError
from wfe_fast.persistence.contract import PersistenceProvider
from wfe_fast.persistence.models import WorkflowInstance
from wfe_fast.testing.persistence.base import Suite
from wfe_fast.testing.persistence.factories import a_pointer, a_workflow, full_pointer, pointers


class _PlannedError(Exception):
    pass


def _undone_persist(provider: PersistenceProvider, instance: WorkflowInstance, **options: bool) -> None:
    with pytest.raises(_PlannedError), provider.transaction() as tx:
        tx.persist_workflow(instance, **options)
        raise _PlannedError


def _change(instance: WorkflowInstance) -> None:
    instance.description = "changed"
    instance.execution_pointers[1].persistence_data["changed"] = True
    instance.execution_pointers.pop(2)
    instance.execution_pointers.insert(0, full_pointer())


class RollbackSuite(Suite):
    """After a rollback."""

    @pytest.fixture(params=["loaded", "claimed"])
    def instance(self, request: pytest.FixtureRequest, provider: PersistenceProvider) -> WorkflowInstance:
        """A stored workflow of four pointers, loaded or claimed."""
        provider.create_new_workflow(a_workflow(id="w", execution_pointers=pointers(4)))
        if request.param == "claimed":
            return provider.claim_runnable_instances("worker")[0]
        return provider.get_workflow_instance("w")

    def test_a_persist_that_was_undone_and_done_again(
        self, provider: PersistenceProvider, instance: WorkflowInstance
    ) -> None:
        _change(instance)
        _undone_persist(provider, instance)
        provider.persist_workflow(instance)
        assert provider.get_workflow_instance("w") == instance

    def test_a_persist_after_a_persist_in_one_undone_block(
        self, provider: PersistenceProvider, instance: WorkflowInstance
    ) -> None:
        with pytest.raises(_PlannedError), provider.transaction() as tx:
            _change(instance)
            tx.persist_workflow(instance)
            instance.execution_pointers[3].retry_count = 9
            tx.persist_workflow(instance)
            raise _PlannedError
        instance.execution_pointers.append(a_pointer())
        provider.persist_workflow(instance)
        assert provider.get_workflow_instance("w") == instance

    def test_the_old_state_can_be_stored_again(self, provider: PersistenceProvider, instance: WorkflowInstance) -> None:
        original = copy.deepcopy(instance.execution_pointers)
        _change(instance)
        _undone_persist(provider, instance)
        instance.execution_pointers = original
        provider.persist_workflow(instance)
        assert provider.get_workflow_instance("w") == instance

    def test_another_writer_after_the_rollback(self, provider: PersistenceProvider, instance: WorkflowInstance) -> None:
        """The other one's revision may well be the number that the undone persist had seen."""
        _change(instance)
        _undone_persist(provider, instance)
        other = provider.get_workflow_instance("w")
        other.execution_pointers[1].persistence_data["other"] = True
        other.execution_pointers.pop(0)
        provider.persist_workflow(other)
        with pytest.raises(ConcurrentUpdateError):
            provider.persist_workflow(instance, expect_unchanged=True)
        assert provider.get_workflow_instance("w") == other
        provider.persist_workflow(instance)
        assert provider.get_workflow_instance("w") == instance

    def test_another_writer_after_two_undone_persists(
        self, provider: PersistenceProvider, instance: WorkflowInstance
    ) -> None:
        with pytest.raises(_PlannedError), provider.transaction() as tx:
            for _ in range(2):
                instance.execution_pointers[0].retry_count += 1
                tx.persist_workflow(instance)
            raise _PlannedError
        for _ in range(2):
            other = provider.get_workflow_instance("w")
            other.execution_pointers[0].retry_count = 77
            provider.persist_workflow(other)
        with pytest.raises(ConcurrentUpdateError):
            provider.persist_workflow(instance, expect_unchanged=True)
        provider.persist_workflow(instance)
        assert provider.get_workflow_instance("w") == instance

    def test_an_object_loaded_in_a_block_that_was_undone(
        self, provider: PersistenceProvider, instance: WorkflowInstance
    ) -> None:
        with pytest.raises(_PlannedError), provider.transaction() as tx:
            _change(instance)
            tx.persist_workflow(instance)
            loaded = tx.get_workflow_instance("w")
            raise _PlannedError
        other = provider.get_workflow_instance("w")
        other.execution_pointers[3].retry_count = 5
        provider.persist_workflow(other)
        with pytest.raises(ConcurrentUpdateError):
            provider.persist_workflow(loaded, expect_unchanged=True)
        provider.persist_workflow(loaded)
        assert provider.get_workflow_instance("w") == loaded

    def test_a_create_that_was_undone_and_done_again(self, provider: PersistenceProvider) -> None:
        instance = a_workflow(id="", execution_pointers=pointers(3))
        with pytest.raises(_PlannedError), provider.transaction() as tx:
            tx.create_new_workflow(instance)
            raise _PlannedError
        provider.create_new_workflow(instance)
        assert provider.get_workflow_instance(instance.id) == instance
        instance.execution_pointers.pop(0)
        provider.persist_workflow(instance)
        assert provider.get_workflow_instance(instance.id) == instance

    def test_created_undone_and_created_by_another(self, provider: PersistenceProvider) -> None:
        mine = a_workflow(id="w", execution_pointers=pointers(3))
        with pytest.raises(_PlannedError), provider.transaction() as tx:
            tx.create_new_workflow(mine)
            raise _PlannedError
        provider.create_new_workflow(a_workflow(id="w", execution_pointers=pointers(2)))
        provider.persist_workflow(mine)
        assert provider.get_workflow_instance("w") == mine

    def test_a_claim_that_was_undone_holds_nothing(self, provider: PersistenceProvider) -> None:
        provider.create_new_workflow(a_workflow(id="w", execution_pointers=pointers(2)))
        with pytest.raises(_PlannedError), provider.transaction() as tx:
            (undone,) = tx.claim_runnable_instances("worker")
            raise _PlannedError
        assert provider.renew_claims([undone]) == [undone]
        (held,) = provider.claim_runnable_instances("other")
        assert held.claims_without_commit == 1
        provider.release_claim(undone)
        assert provider.claim_runnable_instances("third") == []
        assert provider.renew_claims([undone, held]) == [undone]

    def test_a_release_that_was_undone_keeps_the_claim(self, provider: PersistenceProvider) -> None:
        provider.create_new_workflow(a_workflow(id="w"))
        (held,) = provider.claim_runnable_instances("worker")
        _undone_persist(provider, held, release=True)
        assert provider.claim_runnable_instances("other") == []

    def test_a_deletion_that_was_undone(self, provider: PersistenceProvider, instance: WorkflowInstance) -> None:
        with pytest.raises(_PlannedError), provider.transaction() as tx:
            tx.delete_workflow("w")
            raise _PlannedError
        _change(instance)
        provider.persist_workflow(instance, expect_unchanged=True)
        assert provider.get_workflow_instance("w") == instance
