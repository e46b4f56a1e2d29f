"""Delivery of events to the workflows that wait for them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from wfe_fast.clock import from_millis, to_micros, to_millis
from wfe_fast.errors import ClaimLostError
from wfe_fast.persistence.contract import PersistenceProvider
from wfe_fast.persistence.models import ExecutionPointer, WorkflowInstance, WorkflowStatus
from wfe_fast.testing.clock import START, ManualClock
from wfe_fast.testing.persistence.base import Suite
from wfe_fast.testing.persistence.factories import (
    FAR,
    KEY,
    NAME,
    a_pointer,
    a_subscription,
    a_workflow,
    an_event,
    full_pointer,
    subscribe,
    waiting_workflow,
)
from wfe_fast.testing.persistence.state import everything
from wfe_fast.testing.store import StoreUnderTest


def _pointer(provider: PersistenceProvider, instance: WorkflowInstance, place: int = 0) -> ExecutionPointer:
    return provider.get_workflow_instance(instance.id).execution_pointers[place]


def _received(provider: PersistenceProvider, instance: WorkflowInstance, place: int = 0) -> Any:
    """The event data that reached the pointer, or None; a pointer that has it is active and published."""
    pointer = _pointer(provider, instance, place)
    assert pointer.event_published is pointer.active is (pointer.event_data is not None)
    return pointer.event_data


def _dispatch_all(provider: PersistenceProvider, limit: int = 500) -> int:
    rounds = 0
    while provider.dispatch_events(limit):
        rounds += 1
        assert rounds < 1000, "dispatch_events never says that nothing is left"
    return rounds


class PublishSuite(Suite):
    """`publish_event` and `dispatch_events`."""

    def test_the_pointer_gets_it_and_the_workflow_is_due(
        self, provider: PersistenceProvider, clock: ManualClock
    ) -> None:
        instance, _ = waiting_workflow(provider)
        event = an_event()
        clock.advance(5.5)
        assert provider.publish_event(event) == event.id
        loaded = provider.get_workflow_instance(instance.id)
        (pointer,) = loaded.execution_pointers
        assert (pointer.event_data, pointer.event_published, pointer.active) == (event.event_data, True, True)
        recorded = pointer.extension_attributes["wfe.event"]
        assert recorded == {"id": event.id, "time": to_micros(event.event_time)}
        assert loaded.next_execution == to_millis(clock())
        assert provider.get_runnable_instances(clock()) == [instance.id]
        assert provider.subscriptions_of(instance.id) == []
        assert provider.get_event(event.id).is_processed is True
        assert provider.get_runnable_events(FAR) == []

    def test_nothing_else_changes(self, provider: PersistenceProvider) -> None:
        pointers = [full_pointer(1), a_pointer(active=False, persistence_data={"a": [1]}), full_pointer(2)]
        instance = a_workflow(execution_pointers=pointers, description="d", next_execution=None)
        provider.create_new_workflow(instance)
        subscribe(provider, instance, execution_pointer_id=pointers[1].id)
        other = subscribe(provider, instance, key="other")
        provider.publish_event(an_event(event_data=[5]))
        loaded = provider.get_workflow_instance(instance.id)
        loaded.next_execution = None
        pointers[1].event_data, pointers[1].event_published, pointers[1].active = [5], True, True
        pointers[1].extension_attributes = loaded.execution_pointers[1].extension_attributes
        assert loaded == instance
        assert provider.subscriptions_of(instance.id) == [other]

    def test_null_data(self, provider: PersistenceProvider) -> None:
        instance, _ = waiting_workflow(provider)
        provider.publish_event(an_event(event_data=None))
        pointer = _pointer(provider, instance)
        assert (pointer.event_data, pointer.event_published, pointer.active) == (None, True, True)

    def test_without_subscribers_it_is_processed(self, provider: PersistenceProvider) -> None:
        id = provider.publish_event(an_event())
        assert provider.get_event(id).is_processed is True
        assert provider.dispatch_events() == 0

    def test_the_same_id_again_changes_nothing(self, provider: PersistenceProvider) -> None:
        first, _ = waiting_workflow(provider)
        assert provider.publish_event(an_event(id="e", event_data=1)) == "e"
        second, _ = waiting_workflow(provider)
        before = everything(provider)
        assert provider.publish_event(an_event(id="e", event_data=2, event_key="other")) == "e"
        assert everything(provider) == before
        assert (_received(provider, first), _received(provider, second)) == (1, None)

    def test_an_id_that_create_event_stored_changes_nothing(self, provider: PersistenceProvider) -> None:
        waiting_workflow(provider)
        provider.create_event(an_event(id="e"))
        before = everything(provider)
        assert provider.publish_event(an_event(id="e")) == "e"
        assert everything(provider) == before

    def test_only_this_name_and_key(self, provider: PersistenceProvider) -> None:
        others = [
            waiting_workflow(provider, *wanted)[0] for wanted in ((NAME, "b"), ("b", KEY), (NAME, ""), (KEY, NAME))
        ]
        provider.publish_event(an_event())
        assert [_received(provider, other) for other in others] == [None] * 4

    def test_only_subscriptions_as_of_its_time(self, provider: PersistenceProvider) -> None:
        moment = START - timedelta(hours=1)
        step = timedelta(microseconds=1)
        waiting = [waiting_workflow(provider, id=id, key=id)[0] for id in ("at", "before", "after")]
        for instance, as_of in zip(waiting, (moment, moment - step, moment + step), strict=True):
            subscribe(provider, instance, subscribe_as_of=as_of)
        id = provider.publish_event(an_event(event_time=moment, event_data=1))
        assert [_received(provider, instance) for instance in waiting] == [1, 1, None]
        assert len(provider.get_subscriptions(NAME, KEY, FAR)) == 1
        assert provider.get_event(id).is_processed is True

    def test_it_is_delivered_at_once_whatever_its_time(self, provider: PersistenceProvider) -> None:
        instance, _ = waiting_workflow(provider)
        provider.publish_event(an_event(event_time=FAR, event_data="early"))
        assert _received(provider, instance) == "early"

    def test_every_waiter_gets_it(self, provider: PersistenceProvider) -> None:
        waiting = [waiting_workflow(provider)[0] for _ in range(5)]
        provider.publish_event(an_event(event_data="for all"))
        assert [_received(provider, instance) for instance in waiting] == ["for all"] * 5

    def test_parallel_waits_of_one_workflow(self, provider: PersistenceProvider) -> None:
        instance = a_workflow(execution_pointers=[a_pointer(active=False) for _ in range(3)], next_execution=None)
        provider.create_new_workflow(instance)
        for pointer, key in zip(instance.execution_pointers, (KEY, "other", KEY), strict=True):
            subscribe(provider, instance, key=key, execution_pointer_id=pointer.id)
        provider.publish_event(an_event(event_data=1))
        assert [_received(provider, instance, place) for place in range(3)] == [1, None, 1]
        assert len(provider.subscriptions_of(instance.id)) == 1

    @pytest.mark.parametrize("status", [WorkflowStatus.COMPLETE, WorkflowStatus.TERMINATED])
    def test_a_finished_workflow_only_loses_its_subscription(
        self, provider: PersistenceProvider, status: WorkflowStatus
    ) -> None:
        instance, _ = waiting_workflow(provider, status=status, complete_time=START)
        provider.publish_event(an_event())
        assert provider.get_workflow_instance(instance.id) == instance
        assert provider.subscriptions_of(instance.id) == []

    def test_a_suspended_workflow_takes_it_and_runs_when_resumed(
        self, provider: PersistenceProvider, clock: ManualClock
    ) -> None:
        instance, _ = waiting_workflow(provider, status=WorkflowStatus.SUSPENDED)
        provider.publish_event(an_event(event_data=1))
        assert _received(provider, instance) == 1
        assert provider.get_workflow_instance(instance.id).status is WorkflowStatus.SUSPENDED
        assert provider.claim_runnable_instances("worker") == []
        provider.change_status(instance.id, WorkflowStatus.RUNNABLE)
        assert provider.get_runnable_instances(clock()) == [instance.id]

    def test_a_subscription_without_workflow_or_pointer_goes(self, provider: PersistenceProvider) -> None:
        instance, _ = waiting_workflow(provider)
        provider.create_event_subscription(a_subscription(workflow_id="nobody"))
        provider.create_event_subscription(a_subscription(workflow_id=instance.id, execution_pointer_id="nowhere"))
        provider.publish_event(an_event(event_data=1))
        assert _received(provider, instance) == 1
        assert provider.get_subscriptions(NAME, KEY, FAR) == []

    def test_one_whose_token_is_held_gets_it_too(self, provider: PersistenceProvider) -> None:
        instance, subscription = waiting_workflow(provider)
        provider.set_subscription_token(subscription.id, "token", "worker", None)
        provider.publish_event(an_event(event_data=1))
        assert _received(provider, instance) == 1
        assert provider.subscriptions_of(instance.id) == []

    def test_the_result_can_be_persisted_on(self, provider: PersistenceProvider) -> None:
        instance, _ = waiting_workflow(provider)
        provider.publish_event(an_event(event_data=1))
        loaded = provider.get_workflow_instance(instance.id)
        loaded.execution_pointers.append(a_pointer())
        provider.persist_workflow(loaded, expect_unchanged=True)
        assert provider.get_workflow_instance(instance.id) == loaded

    def test_earlier_unprocessed_ones_go_first(self, provider: PersistenceProvider, clock: ManualClock) -> None:
        for id, age in (("second", 20), ("first", 30)):
            provider.create_event(an_event(id=id, event_data=id, event_time=clock() - timedelta(seconds=age)))
        instance, _ = waiting_workflow(provider)
        provider.publish_event(an_event(event_data="published", event_time=clock()))
        assert _received(provider, instance) == "first"
        assert provider.get_runnable_events(FAR) == []

    def test_more_than_limit_subscribers(
        self, provider: PersistenceProvider, store: StoreUnderTest, clock: ManualClock
    ) -> None:
        waiting = [waiting_workflow(provider)[0] for _ in range(10)]
        id = provider.publish_event(an_event(id="e", event_data=1), limit=4)
        assert [_received(provider, instance) for instance in waiting].count(1) == 4
        assert provider.get_event(id).is_processed is False
        assert provider.publish_event(an_event(id="e", event_data=2), limit=4) == id
        assert [_received(provider, instance) for instance in waiting].count(1) == 4
        other = store.open(clock=clock)
        assert other.dispatch_events(limit=4) > 0
        assert [_received(provider, instance) for instance in waiting].count(1) == 8
        _dispatch_all(provider, 4)
        assert [_received(provider, instance) for instance in waiting] == [1] * 10
        assert provider.get_event(id).is_processed is True
        assert provider.dispatch_events() == 0

    def test_exactly_limit_subscribers(self, provider: PersistenceProvider) -> None:
        waiting = [waiting_workflow(provider)[0] for _ in range(3)]
        id = provider.publish_event(an_event(event_data=1), limit=3)
        _dispatch_all(provider)
        assert [_received(provider, instance) for instance in waiting] == [1] * 3
        assert provider.get_event(id).is_processed is True

    def test_stored_events_are_dispatched_when_due(self, provider: PersistenceProvider, clock: ManualClock) -> None:
        instance, _ = waiting_workflow(provider)
        provider.create_event(an_event(event_data=1, event_time=clock() + timedelta(seconds=10)))
        assert provider.dispatch_events() == 0
        assert _received(provider, instance) is None
        clock.advance(10)
        assert _dispatch_all(provider) > 0
        assert _received(provider, instance) == 1

    def test_dispatch_goes_oldest_first(self, provider: PersistenceProvider, clock: ManualClock) -> None:
        for seconds in (5, 1, 3):
            moment = clock() - timedelta(seconds=seconds)
            provider.create_event(an_event(id=str(seconds), event_data=seconds, event_time=moment))
        for expected in (5, 3, 1):
            instance, _ = waiting_workflow(provider)
            while _received(provider, instance) is None:
                assert provider.dispatch_events(limit=1) > 0
            assert _received(provider, instance) == expected

    def test_inside_a_transaction(self, provider: PersistenceProvider) -> None:
        with provider.transaction() as tx:
            instance, _ = waiting_workflow(tx)
            tx.publish_event(an_event(event_data=1))
            assert tx.get_workflow_instance(instance.id).execution_pointers[0].event_data == 1
        assert _received(provider, instance) == 1


class TakeEventsSuite(Suite):
    """A workflow that is claimed is not touched; its holder takes what was left."""

    @pytest.fixture
    def held(self, provider: PersistenceProvider) -> WorkflowInstance:
        """A claimed workflow with two pointers that wait, the first for `KEY`, the second for ``second``."""
        made = [a_pointer(active=False, step_id=number) for number in range(2)]
        instance = a_workflow(id="w", execution_pointers=made)
        provider.create_new_workflow(instance)
        for pointer, key in zip(instance.execution_pointers, (KEY, "second"), strict=True):
            subscribe(provider, instance, key=key, execution_pointer_id=pointer.id)
        (held,) = provider.claim_runnable_instances("worker", lease=100)
        return held

    def _take(self, provider: PersistenceProvider, held: WorkflowInstance) -> list[Any]:
        with provider.transaction() as tx:
            taken = tx.take_events(held)
            tx.persist_workflow(held)
        return [event.event_data for event in taken]

    def test_it_is_left_alone_until_its_holder_takes(
        self, provider: PersistenceProvider, held: WorkflowInstance, clock: ManualClock
    ) -> None:
        before = provider.get_workflow_instance("w")
        event = an_event(event_data=1)
        provider.publish_event(event)
        assert provider.get_event(event.id).is_processed is True
        assert provider.get_workflow_instance("w") == before
        clock.advance(3)
        with provider.transaction() as tx:
            assert tx.take_events(held) == [provider.get_event(event.id)]
            pointer = held.execution_pointers[0]
            assert (pointer.event_data, pointer.event_published, pointer.active) == (1, True, True)
            assert pointer.extension_attributes["wfe.event"] == {"id": event.id, "time": to_micros(event.event_time)}
            assert held.next_execution is not None
            assert held.next_execution <= to_millis(clock())
            tx.persist_workflow(held, release=True)
        assert provider.get_workflow_instance("w") == held
        assert [sub.event_key for sub in provider.subscriptions_of("w")] == ["second"]
        assert provider.get_runnable_instances(clock()) == ["w"]

    @pytest.mark.parametrize("times", [1, 2, 3])
    def test_a_holder_that_does_not_take_leaves_it_to_the_next(
        self, provider: PersistenceProvider, held: WorkflowInstance, times: int
    ) -> None:
        """However often it persists, the workflow stays due until somebody has taken the event."""
        provider.publish_event(an_event(event_data=1))
        held.next_execution = None
        for _ in range(times - 1):
            provider.persist_workflow(held)
        provider.persist_workflow(held, release=True)
        assert provider.next_due() is not None
        (next_holder,) = provider.claim_runnable_instances("next")
        next_holder.next_execution = None
        provider.persist_workflow(next_holder, release=True)
        (last,) = provider.claim_runnable_instances("last")
        with provider.transaction() as tx:
            assert [event.event_data for event in tx.take_events(last)] == [1]
            last.next_execution = None
            tx.persist_workflow(last, release=True)
        assert provider.claim_runnable_instances("nobody") == []

    def test_nothing_was_left(self, provider: PersistenceProvider, held: WorkflowInstance) -> None:
        provider.publish_event(an_event(event_key="other"))
        before = everything(provider)
        assert provider.take_events(held) == []
        assert everything(provider) == before

    def test_each_is_taken_once(self, provider: PersistenceProvider, held: WorkflowInstance) -> None:
        provider.publish_event(an_event(event_data=1))
        assert self._take(provider, held) == [1]
        assert self._take(provider, held) == []

    def test_the_oldest_for_each_wait(self, provider: PersistenceProvider, held: WorkflowInstance) -> None:
        for data, age in ((2, 20), (1, 30), (3, 10)):
            provider.publish_event(an_event(event_data=data, event_time=START - timedelta(seconds=age)))
        provider.publish_event(an_event(event_data=0, event_key="second", event_time=START - timedelta(seconds=40)))
        assert self._take(provider, held) == [0, 1]
        assert [pointer.event_data for pointer in held.execution_pointers] == [1, 0]
        assert self._take(provider, held) == []
        assert provider.subscriptions_of("w") == []

    def test_two_waits_for_one_event(self, provider: PersistenceProvider, held: WorkflowInstance) -> None:
        subscribe(provider, held, execution_pointer_id=held.execution_pointers[1].id)
        provider.publish_event(an_event(event_data=1))
        assert set(self._take(provider, held)) == {1}
        assert [pointer.event_data for pointer in held.execution_pointers] == [1, 1]

    def test_only_as_of_the_subscription(self, provider: PersistenceProvider, held: WorkflowInstance) -> None:
        provider.drop_subscriptions("w")
        subscribe(provider, held, subscribe_as_of=START)
        provider.publish_event(an_event(event_data=1, event_time=START - timedelta(microseconds=1)))
        assert self._take(provider, held) == []
        provider.publish_event(an_event(event_data=2, event_time=START))
        assert self._take(provider, held) == [2]

    def test_a_wait_that_began_under_the_claim(self, provider: PersistenceProvider, held: WorkflowInstance) -> None:
        made = a_subscription(workflow_id="w", execution_pointer_id=held.execution_pointers[1].id, event_key="third")
        provider.persist_workflow_with_subscriptions(held, [made])
        provider.publish_event(an_event(event_key="third", event_data=3))
        assert self._take(provider, held) == [3]
        assert held.execution_pointers[1].event_data == 3

    def test_rolled_back_it_is_still_there(self, provider: PersistenceProvider, held: WorkflowInstance) -> None:
        provider.publish_event(an_event(event_data=1))
        before = everything(provider)
        with pytest.raises(ZeroDivisionError), provider.transaction() as tx:
            tx.take_events(held)
            tx.persist_workflow(held)
            raise ZeroDivisionError
        assert everything(provider) == before

    def test_the_next_holder_takes_it(
        self, provider: PersistenceProvider, held: WorkflowInstance, clock: ManualClock
    ) -> None:
        provider.publish_event(an_event(event_data=1))
        clock.advance(101)
        (next,) = provider.claim_runnable_instances("other")
        received = next.execution_pointers[0].event_data
        assert (self._take(provider, next), received) in (([1], None), ([], 1))
        assert next.execution_pointers[0].event_data == 1

    def test_a_lost_claim_takes_nothing(
        self, provider: PersistenceProvider, held: WorkflowInstance, clock: ManualClock
    ) -> None:
        provider.publish_event(an_event(event_data=1))
        clock.advance(101)
        (next,) = provider.claim_runnable_instances("other")
        with pytest.raises(ClaimLostError):
            provider.take_events(held)
        self._take(provider, next)
        assert next.execution_pointers[0].event_data == 1

    @pytest.mark.parametrize("end", ["lease", "release", "persist", "delete"])
    def test_what_nobody_took_is_not_lost(
        self, provider: PersistenceProvider, held: WorkflowInstance, clock: ManualClock, end: str
    ) -> None:
        """However the claim ends, an event that was left reaches the workflow: by a take, or by a dispatch."""
        provider.publish_event(an_event(event_data=1))
        if end == "lease":
            clock.advance(101)
        if end == "release":
            provider.release_claim(held)
        if end == "persist":
            held.next_execution = None
            provider.persist_workflow(held, release=True)
        if end == "delete":
            provider.delete_workflow("w")
            assert provider.dispatch_events() == 0
            return
        _dispatch_all(provider)
        for instance in provider.claim_runnable_instances("other"):
            self._take(provider, instance)
        assert _received(provider, held) == 1

    def test_an_expired_claim_does_not_keep_an_event_for_ever(
        self, provider: PersistenceProvider, held: WorkflowInstance, clock: ManualClock
    ) -> None:
        clock.advance(101)
        provider.publish_event(an_event(event_data=1))
        _dispatch_all(provider)
        for instance in provider.claim_runnable_instances("other"):
            self._take(provider, instance)
        assert _received(provider, held) == 1

    def test_more_than_limit_waits_of_held_workflows(self, provider: PersistenceProvider, clock: ManualClock) -> None:
        for number in range(6):
            waiting_workflow(provider, id=str(number), next_execution=number)
        claimed = provider.claim_runnable_instances("worker", 3)
        provider.publish_event(an_event(event_data=1), limit=2)
        _dispatch_all(provider, 2)
        for instance in claimed:
            self._take(provider, instance)
        found = provider.get_workflow_instances(map(str, range(6)))
        assert [instance.execution_pointers[0].event_data for instance in found] == [1] * 6

    def test_an_event_for_a_claimed_workflow_makes_it_due_when_released(
        self, provider: PersistenceProvider, clock: ManualClock
    ) -> None:
        waiting_workflow(provider, id="w", next_execution=0)
        (held,) = provider.claim_runnable_instances("worker")
        held.next_execution = to_millis(FAR)
        provider.publish_event(an_event(event_data=1))
        with provider.transaction() as tx:
            tx.take_events(held)
            tx.persist_workflow(held, release=True)
        assert provider.next_due() == from_millis(to_millis(clock()))
