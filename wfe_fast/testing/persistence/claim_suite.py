"""Claims: who works on a workflow, for how long, and what happens to somebody who held it too long."""

from __future__ import annotations

from datetime import timedelta

import pytest

from wfe_fast.clock import to_millis
from wfe_fast.errors import ClaimLostError, ConcurrentUpdateError, WorkflowNotFoundError
from wfe_fast.persistence.contract import PersistenceProvider
from wfe_fast.persistence.models import WorkflowInstance, WorkflowStatus
from wfe_fast.testing.clock import START, ManualClock
from wfe_fast.testing.persistence.base import Suite
from wfe_fast.testing.persistence.factories import (
    FAR,
    a_pointer,
    a_subscription,
    a_workflow,
    full_workflow,
    pointers,
)
from wfe_fast.testing.persistence.state import everything
from wfe_fast.testing.store import StoreUnderTest


def _ids(claimed: list[WorkflowInstance]) -> list[str]:
    return [instance.id for instance in claimed]


def _claim(provider: PersistenceProvider, worker: str = "worker", lease: float = 30.0) -> WorkflowInstance:
    (instance,) = provider.claim_runnable_instances(worker, lease=lease)
    return instance


class ClaimSuite(Suite):
    """What `claim_runnable_instances` gives, and to whom."""

    def test_a_claimed_workflow_is_fully_loaded(self, provider: PersistenceProvider) -> None:
        provider.create_new_workflow(full_workflow(status=WorkflowStatus.RUNNABLE, next_execution=5))
        assert _claim(provider) == provider.get_workflow_instance("workflow-1")

    def test_nothing_due(self, provider: PersistenceProvider) -> None:
        assert provider.claim_runnable_instances("worker", 5) == []
        provider.create_new_workflow(a_workflow(next_execution=None))
        provider.create_new_workflow(a_workflow(next_execution=to_millis(START) + 1))
        for status in set(WorkflowStatus) - {WorkflowStatus.RUNNABLE}:
            provider.create_new_workflow(a_workflow(status=status))
        assert provider.claim_runnable_instances("worker", 5) == []

    def test_oldest_first_at_most_limit_each_once(self, provider: PersistenceProvider) -> None:
        for moment in (5, 3, 9, 1, 7):
            provider.create_new_workflow(
                a_workflow(id=str(moment), next_execution=moment, execution_pointers=pointers(moment))
            )
        claimed = provider.claim_runnable_instances("a", 2)
        assert _ids(claimed) == ["1", "3"]
        assert claimed == provider.get_workflow_instances(["1", "3"])
        assert _ids(provider.claim_runnable_instances("a", 2)) == ["5", "7"]
        assert _ids(provider.claim_runnable_instances("b", 2)) == ["9"]
        assert provider.claim_runnable_instances("b", 2) == []

    def test_one_by_default(self, provider: PersistenceProvider) -> None:
        for id in "ab":
            provider.create_new_workflow(a_workflow(id=id))
        assert len(provider.claim_runnable_instances("worker")) == 1

    def test_other_providers_see_the_claim(
        self, provider: PersistenceProvider, store: StoreUnderTest, clock: ManualClock
    ) -> None:
        other = store.open(clock=clock)
        provider.create_new_workflow(a_workflow())
        _claim(provider)
        assert other.claim_runnable_instances("worker") == []

    def test_definitions(self, provider: PersistenceProvider) -> None:
        for definition, version in (("a", 1), ("a", 2), ("b", 1), ("c", 3)):
            provider.create_new_workflow(
                a_workflow(id=f"{definition}{version}", workflow_definition_id=definition, version=version)
            )
        assert provider.claim_runnable_instances("worker", 9, definitions=[]) == []
        assert provider.claim_runnable_instances("worker", 9, definitions=[("a", 3), ("A", 1), ("1", 1)]) == []
        assert _ids(provider.claim_runnable_instances("worker", 9, definitions=[("a", 2)])) == ["a2"]
        claimed = provider.claim_runnable_instances("worker", 9, definitions=iter([("c", 3), ("a", 1)]))
        assert sorted(_ids(claimed)) == ["a1", "c3"]
        assert _ids(provider.claim_runnable_instances("worker", 9)) == ["b1"]

    def test_older_ones_of_other_definitions_do_not_stand_in_the_way(self, provider: PersistenceProvider) -> None:
        for number in range(50):
            provider.create_new_workflow(a_workflow(workflow_definition_id="other", next_execution=number))
        provider.create_new_workflow(a_workflow(id="mine", next_execution=99))
        assert _ids(provider.claim_runnable_instances("worker", definitions=[("order", 1)])) == ["mine"]

    def test_oldest_first_among_several_definitions(self, provider: PersistenceProvider) -> None:
        for moment, definition in enumerate("abcabcab"):
            provider.create_new_workflow(
                a_workflow(id=str(moment), workflow_definition_id=definition, next_execution=moment)
            )
        wanted = [("b", 1), ("a", 1)]
        assert _ids(provider.claim_runnable_instances("worker", 3, definitions=wanted)) == ["0", "1", "3"]
        assert _ids(provider.claim_runnable_instances("worker", 9, definitions=wanted)) == ["4", "6", "7"]

    def test_as_at_selects_what_is_due(self, provider: PersistenceProvider) -> None:
        due = to_millis(START)
        provider.create_new_workflow(a_workflow(id="later", next_execution=due + 5000))
        provider.create_new_workflow(a_workflow(id="now", next_execution=due))
        assert provider.claim_runnable_instances("worker", 5, as_at=START - timedelta(milliseconds=1)) == []
        assert _ids(provider.claim_runnable_instances("worker", 5)) == ["now"]
        assert _ids(provider.claim_runnable_instances("worker", 5, as_at=START + timedelta(seconds=5))) == ["later"]

    def test_as_at_does_not_move_the_clock_of_leases(self, provider: PersistenceProvider, clock: ManualClock) -> None:
        provider.create_new_workflow(a_workflow())
        provider.claim_runnable_instances("worker", lease=10, as_at=FAR)
        assert provider.claim_runnable_instances("other", as_at=FAR) == []
        clock.advance(10.001)
        assert len(provider.claim_runnable_instances("other", as_at=START - timedelta(days=1))) == 1

    def test_a_lease_ends_by_the_clock(self, provider: PersistenceProvider, clock: ManualClock) -> None:
        provider.create_new_workflow(a_workflow())
        provider.claim_runnable_instances("worker", lease=timedelta(minutes=2))
        clock.advance(119.999)
        assert provider.claim_runnable_instances("worker") == []
        clock.advance(0.002)
        assert len(provider.claim_runnable_instances("worker")) == 1

    def test_a_suspended_or_sleeping_one_is_not_taken_over(
        self, provider: PersistenceProvider, clock: ManualClock
    ) -> None:
        provider.create_new_workflow(a_workflow())
        claimed = _claim(provider, lease=10)
        claimed.next_execution = to_millis(clock() + timedelta(seconds=60))
        provider.persist_workflow(claimed)
        clock.advance(30)
        assert provider.claim_runnable_instances("worker") == []
        clock.advance(30)
        assert len(provider.claim_runnable_instances("worker")) == 1

    def test_a_claim_is_held_through_persists(self, provider: PersistenceProvider) -> None:
        provider.create_new_workflow(a_workflow(execution_pointers=pointers(3)))
        claimed = _claim(provider)
        for number in range(4):
            claimed.execution_pointers.append(a_pointer(step_id=number))
            provider.persist_workflow(claimed)
            assert provider.claim_runnable_instances("other") == []
        assert provider.get_workflow_instance(claimed.id) == claimed

    def test_release(self, provider: PersistenceProvider) -> None:
        provider.create_new_workflow(a_workflow(id="w", description="before"))
        claimed = _claim(provider)
        claimed.description = "changed in memory"
        provider.release_claim(claimed)
        again = _claim(provider)
        assert again.description == "before"

    def test_persist_and_release_together(self, provider: PersistenceProvider) -> None:
        provider.create_new_workflow(a_workflow(id="w"))
        claimed = _claim(provider)
        claimed.description = "done"
        provider.persist_workflow(claimed, release=True)
        assert claimed.claims_without_commit == 0
        again = _claim(provider)
        assert again.description == "done"

    def test_after_release_the_object_is_an_unclaimed_loaded_one(self, provider: PersistenceProvider) -> None:
        provider.create_new_workflow(a_workflow(id="w", execution_pointers=pointers(3)))
        mine = _claim(provider)
        provider.persist_workflow(mine, release=True)
        assert provider.renew_claims([mine]) == [mine]
        mine.execution_pointers.pop(1)
        provider.persist_workflow(mine, expect_unchanged=True)
        theirs = _claim(provider, "other")
        provider.persist_workflow(mine)
        provider.release_claim(mine)
        assert provider.renew_claims([theirs]) == []
        assert provider.claim_runnable_instances("third") == []

    def test_release_with_subscriptions(self, provider: PersistenceProvider) -> None:
        provider.create_new_workflow(a_workflow(id="w"))
        claimed = _claim(provider)
        provider.persist_workflow_with_subscriptions(claimed, [a_subscription(workflow_id="w")], release=True)
        assert len(provider.subscriptions_of("w")) == 1
        assert _claim(provider).id == "w"

    def test_release_of_what_is_not_claimed_is_harmless(self, provider: PersistenceProvider) -> None:
        instance = a_workflow()
        provider.create_new_workflow(instance)
        before = everything(provider)
        provider.release_claim(instance)
        provider.release_claim(a_workflow())
        provider.persist_workflow(instance, release=True)
        assert everything(provider) == before

    def test_release_twice(self, provider: PersistenceProvider) -> None:
        provider.create_new_workflow(a_workflow())
        mine = _claim(provider)
        provider.release_claim(mine)
        theirs = _claim(provider)
        provider.release_claim(mine)
        assert provider.claim_runnable_instances("third") == []
        assert provider.renew_claims([theirs]) == []

    def test_renew(self, provider: PersistenceProvider, clock: ManualClock) -> None:
        for id in "ab":
            provider.create_new_workflow(a_workflow(id=id))
        both = provider.claim_runnable_instances("worker", 2, lease=10)
        for _ in range(5):
            clock.advance(9)
            assert provider.renew_claims(both, 10) == []
            assert provider.claim_runnable_instances("other", 2) == []
        assert provider.renew_claims(iter(both[:1]), timedelta(seconds=100)) == []
        clock.advance(50)
        assert _ids(provider.claim_runnable_instances("other", 2)) == [both[1].id]

    def test_renew_moves_the_end_both_ways(self, provider: PersistenceProvider, clock: ManualClock) -> None:
        provider.create_new_workflow(a_workflow())
        claimed = _claim(provider, lease=1000)
        assert provider.renew_claims([claimed], 1) == []
        clock.advance(1.001)
        assert len(provider.claim_runnable_instances("other")) == 1

    def test_renew_tells_which_claims_are_lost(self, provider: PersistenceProvider, clock: ManualClock) -> None:
        for id in "abcde":
            provider.create_new_workflow(a_workflow(id=id, next_execution=ord(id)))
        a, b, c, d, e = provider.claim_runnable_instances("worker", 5, lease=10)
        clock.advance(11)
        assert _ids(provider.claim_runnable_instances("other", 1)) == ["a"]
        provider.release_claim(c)
        provider.delete_workflow("d")
        never = a_workflow(id="e")
        assert provider.renew_claims([e, d, never, c, b, a]) == [d, never, c, a]
        assert provider.renew_claims([]) == []

    def test_an_expired_claim_that_nobody_took_is_renewed(
        self, provider: PersistenceProvider, clock: ManualClock
    ) -> None:
        provider.create_new_workflow(a_workflow())
        claimed = _claim(provider, lease=10)
        clock.advance(3600)
        assert provider.renew_claims([claimed], 10) == []
        assert provider.claim_runnable_instances("other") == []
        provider.persist_workflow(claimed)

    def test_claims_without_commit(self, provider: PersistenceProvider, clock: ManualClock) -> None:
        provider.create_new_workflow(a_workflow(id="w"))
        assert provider.get_workflow_instance("w").claims_without_commit == 0
        for expected in (1, 2, 3):
            assert _claim(provider, lease=10).claims_without_commit == expected
            clock.advance(11)
        provider.persist_workflow(_claim(provider, lease=10))
        clock.advance(11)
        for expected in (1, 2):
            assert _claim(provider, lease=10).claims_without_commit == expected
            clock.advance(11)

    def test_a_release_alone_does_not_reset_the_count(self, provider: PersistenceProvider) -> None:
        provider.create_new_workflow(a_workflow(id="w"))
        for expected in (1, 2, 3):
            claimed = _claim(provider)
            assert claimed.claims_without_commit == expected
            provider.release_claim(claimed)
        claimed = _claim(provider)
        assert claimed.claims_without_commit == 4
        provider.persist_workflow(claimed, release=True)
        assert _claim(provider).claims_without_commit == 1


class FencingSuite(Suite):
    """Somebody whose claim was taken over writes nothing any more."""

    @pytest.fixture
    def lost(self, provider: PersistenceProvider, clock: ManualClock) -> WorkflowInstance:
        """An instance of workflow ``w``, changed in memory, whose claim a later one has followed."""
        provider.create_new_workflow(a_workflow(id="w", execution_pointers=pointers(3)))
        lost = _claim(provider, lease=10)
        clock.advance(11)
        self.holder = _claim(provider, "other", lease=100)
        lost.description = "mine"
        lost.execution_pointers[1].persistence_data["mine"] = True
        lost.execution_pointers.append(a_pointer())
        return lost

    @pytest.mark.parametrize("expect_unchanged", [False, True])
    @pytest.mark.parametrize("release", [False, True])
    def test_a_lost_claim_writes_nothing(
        self, provider: PersistenceProvider, lost: WorkflowInstance, expect_unchanged: bool, release: bool
    ) -> None:
        before = everything(provider)
        for _ in range(2):
            with pytest.raises(ClaimLostError) as caught:
                provider.persist_workflow(lost, expect_unchanged=expect_unchanged, release=release)
            assert caught.value.id == "w"
            with pytest.raises(ClaimLostError):
                provider.persist_workflow_with_subscriptions(lost, [a_subscription(workflow_id="w")], release=release)
            assert everything(provider) == before

    def test_its_transaction_is_undone(self, provider: PersistenceProvider, lost: WorkflowInstance) -> None:
        before = everything(provider)
        with pytest.raises(ClaimLostError), provider.transaction() as tx:
            tx.create_new_workflow(a_workflow(id="child"))
            tx.create_event_subscription(a_subscription(workflow_id="w"))
            tx.persist_workflow(lost)
        assert everything(provider) == before

    def test_its_release_takes_nothing_from_the_holder(
        self, provider: PersistenceProvider, lost: WorkflowInstance
    ) -> None:
        provider.release_claim(lost)
        assert provider.claim_runnable_instances("third") == []
        assert provider.renew_claims([lost, self.holder]) == [lost]

    def test_it_stays_lost_when_the_holder_is_done(self, provider: PersistenceProvider, lost: WorkflowInstance) -> None:
        provider.persist_workflow(self.holder, release=True)
        before = everything(provider)
        with pytest.raises(ClaimLostError):
            provider.persist_workflow(lost)
        assert everything(provider) == before

    def test_it_stays_lost_when_the_same_worker_claims_again(
        self, provider: PersistenceProvider, lost: WorkflowInstance, clock: ManualClock
    ) -> None:
        clock.advance(101)
        again = _claim(provider, "worker")
        before = everything(provider)
        with pytest.raises(ClaimLostError):
            provider.persist_workflow(lost)
        assert everything(provider) == before
        provider.persist_workflow(again)

    def test_the_holder_goes_on(self, provider: PersistenceProvider, lost: WorkflowInstance) -> None:
        with pytest.raises(ClaimLostError):
            provider.persist_workflow(lost)
        self.holder.description = "theirs"
        provider.persist_workflow(self.holder, expect_unchanged=True)
        assert provider.get_workflow_instance("w") == self.holder

    def test_one_that_expired_but_that_nobody_took_still_persists(
        self, provider: PersistenceProvider, clock: ManualClock
    ) -> None:
        provider.create_new_workflow(a_workflow(execution_pointers=pointers(2)))
        claimed = _claim(provider, lease=10)
        clock.advance(3600)
        claimed.description = "late"
        claimed.execution_pointers.pop()
        provider.persist_workflow(claimed)
        assert provider.get_workflow_instance(claimed.id) == claimed

    def test_a_claim_after_my_release_is_not_mine(self, provider: PersistenceProvider) -> None:
        provider.create_new_workflow(a_workflow(id="w"))
        mine = _claim(provider)
        provider.release_claim(mine)
        _claim(provider, "other")
        before = everything(provider)
        mine.description = "mine"
        assert provider.renew_claims([mine]) == [mine]
        assert everything(provider) == before

    def test_a_release_by_somebody_without_a_claim_takes_nothing(self, provider: PersistenceProvider) -> None:
        provider.create_new_workflow(a_workflow(id="w"))
        beside = provider.get_workflow_instance("w")
        held = _claim(provider)
        for other in (beside, provider.get_workflow_instance("w"), a_workflow(id="w")):
            provider.persist_workflow(other, release=True)
            provider.release_claim(other)
            assert provider.claim_runnable_instances("third") == []
            assert provider.renew_claims([held]) == []

    def test_deleted_under_its_holder(self, provider: PersistenceProvider) -> None:
        provider.create_new_workflow(a_workflow(id="w"))
        claimed = _claim(provider)
        provider.delete_workflow("w")
        with pytest.raises(WorkflowNotFoundError):
            provider.persist_workflow(claimed)
        provider.release_claim(claimed)

    def test_deleted_created_and_claimed_by_another(self, provider: PersistenceProvider) -> None:
        provider.create_new_workflow(a_workflow(id="w", execution_pointers=pointers(2)))
        mine = _claim(provider)
        provider.delete_workflow("w")
        provider.create_new_workflow(a_workflow(id="w", description="the new one"))
        theirs = _claim(provider, "other")
        assert provider.renew_claims([mine]) == [mine]
        provider.release_claim(mine)
        before = everything(provider)
        with pytest.raises(ClaimLostError):
            provider.persist_workflow(mine)
        assert everything(provider) == before
        provider.persist_workflow(theirs)

    def test_somebody_without_a_claim_may_persist_and_the_holder_notices(self, provider: PersistenceProvider) -> None:
        provider.create_new_workflow(a_workflow(id="w", execution_pointers=pointers(2)))
        held = _claim(provider)
        other = provider.get_workflow_instance("w")
        other.description = "from beside"
        provider.persist_workflow(other)
        assert provider.get_workflow_instance("w").description == "from beside"
        with pytest.raises(ConcurrentUpdateError):
            provider.persist_workflow(held, expect_unchanged=True)
        provider.persist_workflow(held)
        assert provider.get_workflow_instance("w") == held
