"""Optimistic concurrency (`expect_unchanged`), and the status that is changed beside a claim."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext

import msgspec
import pytest

from wfe_fast.clock import to_millis
from wfe_fast.errors import ConcurrentUpdateError, InvalidStateError, WorkflowNotFoundError
from wfe_fast.persistence.contract import PersistenceProvider
from wfe_fast.persistence.models import WorkflowInstance, WorkflowStatus
from wfe_fast.testing.clock import START, ManualClock
from wfe_fast.testing.persistence.base import Suite
from wfe_fast.testing.persistence.factories import (
    a_pointer,
    a_subscription,
    a_workflow,
    an_event,
    full_pointer,
    pointers,
    waiting_workflow,
)
from wfe_fast.testing.persistence.state import everything


class RevisionSuite(Suite):
    """`expect_unchanged=True` refuses where another writer came first."""

    @pytest.fixture
    def instance(self, provider: PersistenceProvider) -> WorkflowInstance:
        """A stored workflow, as its creator has it."""
        instance = a_workflow(id="w", execution_pointers=pointers(4))
        provider.create_new_workflow(instance)
        return instance

    def test_nobody_else(self, provider: PersistenceProvider, instance: WorkflowInstance) -> None:
        loads: tuple[Callable[[], WorkflowInstance], ...] = (
            lambda: instance,
            lambda: provider.get_workflow_instance("w"),
            lambda: provider.get_workflow_instances(["w"])[0],
        )
        for load in loads:
            writer = load()
            for number in range(3):
                writer.execution_pointers.append(a_pointer(step_id=number))
                provider.persist_workflow(writer, expect_unchanged=True)
                assert provider.get_workflow_instance("w") == writer

    @pytest.mark.parametrize("change", ["fields", "pointers", "nothing"])
    def test_another_writer_came_first(
        self, provider: PersistenceProvider, instance: WorkflowInstance, change: str
    ) -> None:
        other = provider.get_workflow_instances(["w"])[0]
        if change == "fields":
            other.reference = "other"
        if change == "pointers":
            other.execution_pointers[2].retry_count = 7
        provider.persist_workflow(other)
        before = everything(provider)
        instance.execution_pointers[0] = full_pointer()
        instance.description = "mine"
        with pytest.raises(ConcurrentUpdateError) as caught:
            provider.persist_workflow(instance, expect_unchanged=True)
        assert caught.value.id == "w"
        with pytest.raises(ConcurrentUpdateError):
            provider.persist_workflow_with_subscriptions(
                instance, [a_subscription(workflow_id="w")], expect_unchanged=True
            )
        assert everything(provider) == before
        provider.persist_workflow(other, expect_unchanged=True)

    def test_after_loading_again(self, provider: PersistenceProvider, instance: WorkflowInstance) -> None:
        provider.persist_workflow(provider.get_workflow_instance("w"))
        with pytest.raises(ConcurrentUpdateError):
            provider.persist_workflow(instance, expect_unchanged=True)
        provider.persist_workflow(provider.get_workflow_instance("w"), expect_unchanged=True)

    def test_a_changed_status_is_a_change(self, provider: PersistenceProvider, instance: WorkflowInstance) -> None:
        provider.change_status("w", WorkflowStatus.SUSPENDED)
        with pytest.raises(ConcurrentUpdateError):
            provider.persist_workflow(instance, expect_unchanged=True)
        assert provider.get_workflow_instance("w").status is WorkflowStatus.SUSPENDED

    def test_a_delivered_event_is_a_change(self, provider: PersistenceProvider) -> None:
        instance, _ = waiting_workflow(provider)
        provider.publish_event(an_event())
        before = everything(provider)
        with pytest.raises(ConcurrentUpdateError):
            provider.persist_workflow(instance, expect_unchanged=True)
        assert everything(provider) == before

    def test_made_by_hand(self, provider: PersistenceProvider, instance: WorkflowInstance) -> None:
        before = everything(provider)
        by_hand = a_workflow(id="w")
        twins = [copy.copy(instance), copy.deepcopy(instance), msgspec.structs.replace(instance, description="x")]
        for unknown in (by_hand, *twins):
            with pytest.raises(InvalidStateError):
                provider.persist_workflow(unknown, expect_unchanged=True)
            assert everything(provider) == before

    def test_made_by_hand_and_persisted_is_known(
        self, provider: PersistenceProvider, instance: WorkflowInstance
    ) -> None:
        by_hand = a_workflow(id="w", execution_pointers=pointers(1))
        provider.persist_workflow(by_hand)
        by_hand.execution_pointers.append(a_pointer())
        provider.persist_workflow(by_hand, expect_unchanged=True)
        assert provider.get_workflow_instance("w") == by_hand

    def test_deleted_and_created_again_is_a_change(
        self, provider: PersistenceProvider, instance: WorkflowInstance
    ) -> None:
        provider.persist_workflow(instance)
        provider.delete_workflow("w")
        again = a_workflow(id="w", description="the new one")
        provider.create_new_workflow(again)
        provider.persist_workflow(again)
        with pytest.raises(ConcurrentUpdateError):
            provider.persist_workflow(instance, expect_unchanged=True)
        assert provider.get_workflow_instance("w") == again

    def test_an_object_that_was_given_another_id_is_that_workflow(
        self, provider: PersistenceProvider, instance: WorkflowInstance
    ) -> None:
        """What it was loaded from stays as it is."""
        before = provider.get_workflow_instance("w")
        provider.create_new_workflow(a_workflow(id="other"))
        instance.id = instance.name = "other"
        instance.execution_pointers = pointers(2)
        with pytest.raises(InvalidStateError):
            provider.persist_workflow(instance, expect_unchanged=True)
        provider.persist_workflow(instance)
        assert provider.get_workflow_instance("other") == instance
        assert provider.get_workflow_instance("w") == before

    def test_deleted_is_not_found(self, provider: PersistenceProvider, instance: WorkflowInstance) -> None:
        provider.delete_workflow("w")
        with pytest.raises(WorkflowNotFoundError):
            provider.persist_workflow(instance, expect_unchanged=True)

    def test_a_failed_persist_changes_no_memory(
        self, provider: PersistenceProvider, instance: WorkflowInstance
    ) -> None:
        provider.create_new_workflow(a_workflow(name="taken"))
        instance.name = "taken"
        instance.execution_pointers.pop(0)
        with pytest.raises(Exception, match="taken"):
            provider.persist_workflow(instance)
        instance.name = "free"
        provider.persist_workflow(instance, expect_unchanged=True)
        assert provider.get_workflow_instance("w") == instance

    def test_a_claim_counts_as_loading(self, provider: PersistenceProvider, instance: WorkflowInstance) -> None:
        (claimed,) = provider.claim_runnable_instances("worker")
        claimed.description = "by the holder"
        provider.persist_workflow(claimed, expect_unchanged=True)
        with pytest.raises(ConcurrentUpdateError):
            provider.persist_workflow(instance, expect_unchanged=True)
        assert provider.get_workflow_instance("w") == claimed


class ControlSuite(Suite):
    """`change_status`: the status alone, also beside a claim."""

    def test_only_the_status_changes(self, provider: PersistenceProvider) -> None:
        instance = a_workflow(id="w", execution_pointers=[full_pointer()], next_execution=77, data={"a": 1})
        provider.create_new_workflow(instance)
        assert provider.change_status("w", WorkflowStatus.SUSPENDED) is True
        expected = msgspec.structs.replace(instance, status=WorkflowStatus.SUSPENDED)
        assert provider.get_workflow_instance("w") == expected
        assert provider.get_runnable_instances(START) == []
        assert provider.change_status("w", WorkflowStatus.RUNNABLE) is True
        assert provider.get_workflow_instance("w") == instance
        assert provider.get_runnable_instances(START) == ["w"]

    @pytest.mark.parametrize("final", [WorkflowStatus.COMPLETE, WorkflowStatus.TERMINATED])
    def test_a_final_status_sets_the_complete_time(
        self, provider: PersistenceProvider, clock: ManualClock, final: WorkflowStatus
    ) -> None:
        provider.create_new_workflow(a_workflow(id="w"))
        clock.advance(5)
        provider.change_status("w", final)
        loaded = provider.get_workflow_instance("w")
        assert (loaded.status, loaded.complete_time) == (final, clock())

    @pytest.mark.parametrize("collection", [list, tuple, set, frozenset])
    def test_only_from(self, provider: PersistenceProvider, collection: type) -> None:
        provider.create_new_workflow(a_workflow(id="w"))
        before = everything(provider)
        suspended, done = WorkflowStatus.SUSPENDED, WorkflowStatus.COMPLETE
        assert provider.change_status("w", done, collection([suspended, done])) is False
        assert provider.change_status("w", done, collection([])) is False
        assert everything(provider) == before
        assert provider.change_status("w", suspended, collection([done, WorkflowStatus.RUNNABLE])) is True
        assert provider.get_workflow_instance("w").status is suspended

    def test_an_unknown_id(self, provider: PersistenceProvider) -> None:
        for only_from in (None, [WorkflowStatus.RUNNABLE]):
            with pytest.raises(WorkflowNotFoundError):
                provider.change_status("w", WorkflowStatus.COMPLETE, only_from)

    @pytest.mark.parametrize("to", [WorkflowStatus.SUSPENDED, WorkflowStatus.TERMINATED, WorkflowStatus.COMPLETE])
    @pytest.mark.parametrize("release", [False, True])
    def test_the_holder_keeps_it_and_stores_the_rest(
        self, provider: PersistenceProvider, clock: ManualClock, to: WorkflowStatus, release: bool
    ) -> None:
        provider.create_new_workflow(a_workflow(id="w", execution_pointers=pointers(2)))
        (held,) = provider.claim_runnable_instances("worker")
        assert provider.change_status("w", to) is True
        assert provider.get_workflow_instance("w").status is to
        ended = provider.get_workflow_instance("w").complete_time
        clock.advance(5)
        held.data = {"result": 5}
        held.execution_pointers.append(a_pointer())
        provider.persist_workflow(held, release=release)
        assert held.status is to
        loaded = provider.get_workflow_instance("w")
        assert loaded == held
        assert loaded.complete_time == ended
        assert loaded.data == {"result": 5}

    @pytest.mark.parametrize("to", [WorkflowStatus.SUSPENDED, WorkflowStatus.TERMINATED, WorkflowStatus.COMPLETE])
    @pytest.mark.parametrize("block", [False, True], ids=["alone", "block"])
    def test_one_that_has_ended_waits_for_nothing(
        self, provider: PersistenceProvider, to: WorkflowStatus, block: bool
    ) -> None:
        provider.create_new_workflow(a_workflow(id="w", execution_pointers=pointers(2)))
        (held,) = provider.claim_runnable_instances("worker")
        provider.change_status("w", to)
        with provider.transaction() if block else nullcontext(provider) as store:
            store.persist_workflow_with_subscriptions(held, [a_subscription(id="s", workflow_id="w")])
        assert held.status is to
        assert len(provider.subscriptions_of("w")) == (to is WorkflowStatus.SUSPENDED)

    def test_it_wins_over_what_the_holder_says(self, provider: PersistenceProvider, clock: ManualClock) -> None:
        provider.create_new_workflow(a_workflow(id="w"))
        (held,) = provider.claim_runnable_instances("worker")
        provider.change_status("w", WorkflowStatus.TERMINATED)
        held.status, held.complete_time = WorkflowStatus.COMPLETE, clock.advance(5)
        provider.persist_workflow(held)
        assert provider.get_workflow_instance("w").status is held.status is WorkflowStatus.TERMINATED

    def test_a_suspended_one_is_not_claimed_when_the_lease_ends(
        self, provider: PersistenceProvider, clock: ManualClock
    ) -> None:
        provider.create_new_workflow(a_workflow(id="w"))
        (held,) = provider.claim_runnable_instances("worker", lease=10)
        provider.change_status("w", WorkflowStatus.SUSPENDED)
        clock.advance(11)
        assert provider.claim_runnable_instances("other") == []
        assert provider.renew_claims([held]) == []
        provider.persist_workflow(held, release=True)
        provider.change_status("w", WorkflowStatus.RUNNABLE)
        (again,) = provider.claim_runnable_instances("other")
        assert again.status is WorkflowStatus.RUNNABLE

    def test_it_does_not_end_the_claim(self, provider: PersistenceProvider) -> None:
        provider.create_new_workflow(a_workflow(id="w"))
        provider.claim_runnable_instances("worker")
        for status in (WorkflowStatus.SUSPENDED, WorkflowStatus.RUNNABLE):
            provider.change_status("w", status)
        assert provider.claim_runnable_instances("other") == []

    def test_a_change_before_the_claim_is_not_kept(self, provider: PersistenceProvider) -> None:
        provider.create_new_workflow(a_workflow(id="w"))
        provider.change_status("w", WorkflowStatus.SUSPENDED)
        provider.change_status("w", WorkflowStatus.RUNNABLE)
        (held,) = provider.claim_runnable_instances("worker")
        held.status, held.next_execution = WorkflowStatus.COMPLETE, to_millis(START)
        provider.persist_workflow(held)
        assert provider.get_workflow_instance("w").status is held.status is WorkflowStatus.COMPLETE

    def test_somebody_without_a_claim_writes_its_own_status(self, provider: PersistenceProvider) -> None:
        provider.create_new_workflow(a_workflow(id="w"))
        loaded = provider.get_workflow_instance("w")
        provider.change_status("w", WorkflowStatus.SUSPENDED)
        provider.persist_workflow(loaded)
        assert provider.get_workflow_instance("w").status is WorkflowStatus.RUNNABLE
