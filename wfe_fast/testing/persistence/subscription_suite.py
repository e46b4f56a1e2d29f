"""Subscriptions, and the activities that outside workers take through them."""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

import pytest

from wfe_fast.clock import to_millis
from wfe_fast.errors import DuplicateSubscriptionError, SubscriptionNotFoundError
from wfe_fast.persistence.contract import PersistenceProvider
from wfe_fast.persistence.models import EventSubscription, WorkflowStatus
from wfe_fast.testing.clock import START, ManualClock
from wfe_fast.testing.persistence.base import Suite
from wfe_fast.testing.persistence.factories import (
    FAR,
    JSON_VALUES,
    KEY,
    NAME,
    a_pointer,
    a_subscription,
    a_workflow,
    an_event,
    pointers,
    waiting_workflow,
)
from wfe_fast.testing.persistence.state import everything, exact


def _at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def _ids(found: list[EventSubscription]) -> list[str]:
    return [subscription.id for subscription in found]


class SubscriptionSuite(Suite):
    """Subscriptions and their tokens."""

    @pytest.mark.parametrize("kind", JSON_VALUES)
    def test_every_field_comes_back(self, provider: PersistenceProvider, kind: str) -> None:
        subscription = EventSubscription(
            id="s",
            workflow_id="w",
            step_id=2**31 - 1,
            execution_pointer_id="p",
            event_name="n",
            event_key="",
            subscribe_as_of=_at(-0.000001),
            subscription_data=JSON_VALUES[kind],
            external_token="token",
            external_worker_id="worker",
            external_token_expiry=_at(5),
        )
        assert provider.create_event_subscription(subscription) == "s"
        assert exact(provider.get_subscription("s")) == exact(subscription)
        assert exact(provider.subscriptions_of("w")) == exact([subscription])

    def test_an_empty_id_becomes_a_uuid(self, provider: PersistenceProvider) -> None:
        id = provider.create_event_subscription(a_subscription(id=""))
        assert UUID(id).version == 4
        assert provider.get_subscription(id).id == id

    def test_a_taken_id(self, provider: PersistenceProvider) -> None:
        provider.create_event_subscription(a_subscription(id="s"))
        before = everything(provider)
        with pytest.raises(DuplicateSubscriptionError) as caught:
            provider.create_event_subscription(a_subscription(id="s", event_key="other"))
        assert caught.value.id == "s"
        assert everything(provider) == before

    def test_by_name_and_key_as_of_oldest_first(self, provider: PersistenceProvider) -> None:
        for id, seconds, key in (("c", 3, KEY), ("a", 1, KEY), ("x", 1, "other"), ("b", 2, KEY)):
            provider.create_event_subscription(a_subscription(id=id, subscribe_as_of=_at(seconds), event_key=key))
        assert _ids(provider.get_subscriptions(NAME, KEY, FAR)) == ["a", "b", "c"]
        assert _ids(provider.get_subscriptions(NAME, KEY, _at(2))) == ["a", "b"]
        assert provider.get_subscriptions(NAME, KEY, _at(0.999999)) == []
        assert _ids(provider.get_subscriptions(NAME, "other", FAR)) == ["x"]
        assert provider.get_subscriptions("other", KEY, FAR) == []

    def test_terminated_is_gone_from_every_read(self, provider: PersistenceProvider) -> None:
        for id in ("s", "t"):
            provider.create_event_subscription(a_subscription(id=id, workflow_id="w"))
        provider.terminate_subscription("s")
        assert _ids(provider.get_subscriptions(NAME, KEY, FAR)) == ["t"]
        assert _ids(provider.subscriptions_of("w")) == ["t"]
        assert provider.get_first_open_subscription(NAME, KEY, FAR) == provider.get_subscription("t")
        for call in (provider.get_subscription, provider.terminate_subscription):
            with pytest.raises(SubscriptionNotFoundError) as caught:
                call("s")
            assert caught.value.id == "s"

    def test_what_is_not_there(self, provider: PersistenceProvider) -> None:
        for call in (
            lambda: provider.get_subscription("s"),
            lambda: provider.terminate_subscription("s"),
            lambda: provider.set_subscription_token("s", "token", "worker", None),
            lambda: provider.clear_subscription_token("s", "token"),
            lambda: provider.complete_subscription("s", "token", 1),
        ):
            with pytest.raises(SubscriptionNotFoundError):
                call()
        assert provider.renew_subscription("s", "token", 5) is False
        assert provider.get_first_open_subscription(NAME, KEY, FAR) is None
        assert provider.subscriptions_of("w") == []
        assert provider.drop_subscriptions("w") == 0

    def test_token_claim_refuse_clear_claim(self, provider: PersistenceProvider) -> None:
        provider.create_event_subscription(a_subscription(id="s"))
        assert provider.set_subscription_token("s", "one", "worker-1", _at(5)) is True
        held = provider.get_subscription("s")
        assert (held.external_token, held.external_worker_id) == ("one", "worker-1")
        assert held.external_token_expiry == _at(5)
        assert provider.set_subscription_token("s", "two", "worker-2", _at(9)) is False
        assert provider.get_subscription("s") == held
        with pytest.raises(SubscriptionNotFoundError):
            provider.clear_subscription_token("s", "two")
        assert provider.get_subscription("s") == held
        provider.clear_subscription_token("s", "one")
        freed = provider.get_subscription("s")
        assert freed == a_subscription(id="s")
        with pytest.raises(SubscriptionNotFoundError):
            provider.clear_subscription_token("s", "one")
        assert provider.set_subscription_token("s", "two", "worker-2", _at(9)) is True

    def test_an_expired_token_can_be_taken(self, provider: PersistenceProvider, clock: ManualClock) -> None:
        provider.create_event_subscription(a_subscription(id="s"))
        provider.set_subscription_token("s", "one", "worker-1", _at(5))
        clock.advance(4.999)
        assert provider.set_subscription_token("s", "two", "worker-2", _at(50)) is False
        clock.advance(0.002)
        assert provider.set_subscription_token("s", "two", "worker-2", _at(50)) is True
        with pytest.raises(SubscriptionNotFoundError):
            provider.clear_subscription_token("s", "one")
        assert provider.get_subscription("s").external_token == "two"

    def test_a_token_without_expiry_does_not_end(self, provider: PersistenceProvider, clock: ManualClock) -> None:
        provider.create_event_subscription(a_subscription(id="s"))
        assert provider.set_subscription_token("s", "one", "worker-1", None) is True
        clock.advance(10**9)
        assert provider.set_subscription_token("s", "two", "worker-2", None) is False
        assert provider.get_first_open_subscription(NAME, KEY, FAR) is None
        assert provider.claim_subscription(NAME, KEY, "worker-2", 5) is None

    def test_claimed_ones_are_listed_too(self, provider: PersistenceProvider) -> None:
        provider.create_event_subscription(a_subscription(id="s"))
        provider.set_subscription_token("s", "one", "worker", None)
        assert _ids(provider.get_subscriptions(NAME, KEY, FAR)) == ["s"]

    def test_first_open_skips_claimed_and_takes_expired(
        self, provider: PersistenceProvider, clock: ManualClock
    ) -> None:
        for id, seconds in (("b", 2), ("a", 1), ("c", 3)):
            provider.create_event_subscription(a_subscription(id=id, subscribe_as_of=_at(seconds)))

        def first(as_of: datetime = FAR) -> str | None:
            found = provider.get_first_open_subscription(NAME, KEY, as_of)
            return None if found is None else found.id

        assert first() == "a"
        assert first(_at(0.5)) is None
        provider.set_subscription_token("a", "t", "worker", _at(5))
        assert first() == "b"
        assert first(_at(1)) is None
        clock.advance(6)
        assert first() == "a"

    def test_of_a_workflow_and_of_a_pointer(self, provider: PersistenceProvider) -> None:
        for id, workflow, pointer, seconds in (
            ("c", "w", "p", 3),
            ("a", "w", "q", 1),
            ("b", "w", "p", 2),
            ("x", "v", "p", 1),
        ):
            provider.create_event_subscription(
                a_subscription(id=id, workflow_id=workflow, execution_pointer_id=pointer, subscribe_as_of=_at(seconds))
            )
        assert _ids(provider.subscriptions_of("w")) == ["a", "b", "c"]
        assert _ids(provider.subscriptions_of("w", "p")) == ["b", "c"]
        assert provider.subscriptions_of("p") == []
        assert provider.drop_subscriptions("w", "p") == 2
        assert _ids(provider.subscriptions_of("w")) == ["a"]
        assert provider.drop_subscriptions("w") == 1
        assert provider.drop_subscriptions("w") == 0
        assert _ids(provider.subscriptions_of("v")) == ["x"]

    def test_persist_with_subscriptions(self, provider: PersistenceProvider) -> None:
        provider.create_new_workflow(a_workflow(id="w", execution_pointers=pointers(2)))
        instance = provider.get_workflow_instance("w")
        instance.execution_pointers.append(a_pointer())
        made = [a_subscription(id=id, workflow_id="w", subscription_data={"for": id}) for id in "ab"]
        provider.persist_workflow_with_subscriptions(instance, made)
        assert provider.get_workflow_instance("w") == instance
        assert provider.get_subscriptions(NAME, KEY, FAR) == made
        provider.persist_workflow_with_subscriptions(instance, [])
        assert provider.get_subscriptions(NAME, KEY, FAR) == made

    def test_persist_with_a_taken_subscription_id_stores_nothing(self, provider: PersistenceProvider) -> None:
        provider.create_new_workflow(a_workflow(id="w", execution_pointers=pointers(2)))
        provider.create_event_subscription(a_subscription(id="taken"))
        before = everything(provider)
        for made in (["new", "taken"], ["new", "new"]):
            instance = provider.get_workflow_instance("w")
            instance.execution_pointers.pop()
            with pytest.raises(DuplicateSubscriptionError):
                provider.persist_workflow_with_subscriptions(instance, [a_subscription(id=id) for id in made])
            assert everything(provider) == before


class ActivitySuite(Suite):
    """`claim_subscription`, `renew_subscription`, `complete_subscription`."""

    def test_claim_the_oldest_open_one(self, provider: PersistenceProvider, clock: ManualClock) -> None:
        for id, seconds in (("b", -2), ("a", -3), ("c", -1)):
            provider.create_event_subscription(a_subscription(id=id, subscribe_as_of=_at(seconds)))
        tokens = set()
        for expected in "abc":
            taken = provider.claim_subscription(NAME, KEY, "worker", timedelta(seconds=5))
            assert taken is not None
            assert taken == provider.get_subscription(expected)
            assert taken.external_worker_id == "worker"
            assert taken.external_token_expiry == clock() + timedelta(seconds=5)
            tokens.add(taken.external_token)
        assert len(tokens - {None, ""}) == 3
        assert provider.claim_subscription(NAME, KEY, "worker", 5) is None
        clock.advance(5.001)
        again = provider.claim_subscription(NAME, KEY, "worker", 5)
        assert again is not None
        assert again.id == "a"
        assert again.external_token not in tokens

    def test_only_this_name_and_key(self, provider: PersistenceProvider) -> None:
        provider.create_event_subscription(a_subscription(event_key="other"))
        provider.create_event_subscription(a_subscription(event_name="other"))
        assert provider.claim_subscription(NAME, KEY, "worker", 5) is None

    def _claimed(self, provider: PersistenceProvider, lease: float = 10) -> tuple[str, str]:
        taken = provider.claim_subscription(NAME, KEY, "worker", lease)
        assert taken is not None
        assert taken.external_token is not None
        return taken.id, taken.external_token

    def test_renew(self, provider: PersistenceProvider, clock: ManualClock) -> None:
        waiting_workflow(provider)
        id, token = self._claimed(provider)
        for _ in range(4):
            clock.advance(9)
            assert provider.renew_subscription(id, token, 10) is True
            assert provider.get_subscription(id).external_token_expiry == clock() + timedelta(seconds=10)
            assert provider.claim_subscription(NAME, KEY, "other", 10) is None
        before = everything(provider)
        assert provider.renew_subscription(id, "wrong", 1000) is False
        assert everything(provider) == before

    def test_renew_after_the_end(self, provider: PersistenceProvider, clock: ManualClock) -> None:
        waiting_workflow(provider)
        id, token = self._claimed(provider)
        clock.advance(100)
        assert provider.renew_subscription(id, token, 10) is True
        clock.advance(100)
        _, theirs = self._claimed(provider)
        assert provider.renew_subscription(id, token, 10) is False
        assert provider.renew_subscription(id, theirs, 10) is True

    def test_complete_delivers_to_this_one_alone(self, provider: PersistenceProvider, clock: ManualClock) -> None:
        first, subscription = waiting_workflow(provider)
        second, _ = waiting_workflow(provider)
        id, token = self._claimed(provider)
        assert id == subscription.id
        clock.advance(3)
        provider.complete_subscription(id, token, {"result": [1]})
        loaded = provider.get_workflow_instance(first.id)
        (pointer,) = loaded.execution_pointers
        assert (pointer.event_data, pointer.event_published, pointer.active) == ({"result": [1]}, True, True)
        assert "wfe.event" not in pointer.extension_attributes
        assert loaded.next_execution == to_millis(clock())
        assert provider.subscriptions_of(first.id) == []
        assert provider.get_workflow_instance(second.id) == second
        assert len(provider.subscriptions_of(second.id)) == 1
        assert provider.get_events(NAME, KEY, FAR) == []

    def test_complete_with_the_wrong_token(self, provider: PersistenceProvider) -> None:
        _, subscription = waiting_workflow(provider)
        before = everything(provider)
        with pytest.raises(SubscriptionNotFoundError):
            provider.complete_subscription(subscription.id, "token", 1)
        assert everything(provider) == before
        id, token = self._claimed(provider)
        before = everything(provider)
        with pytest.raises(SubscriptionNotFoundError):
            provider.complete_subscription(id, token + "x", 1)
        assert everything(provider) == before

    def test_complete_twice(self, provider: PersistenceProvider) -> None:
        waiting_workflow(provider)
        id, token = self._claimed(provider)
        provider.complete_subscription(id, token, 1)
        before = everything(provider)
        with pytest.raises(SubscriptionNotFoundError):
            provider.complete_subscription(id, token, 2)
        assert everything(provider) == before

    def test_an_expired_token_completes_until_another_took_it(
        self, provider: PersistenceProvider, clock: ManualClock
    ) -> None:
        for take_over in (False, True):
            instance, _ = waiting_workflow(provider)
            id, token = self._claimed(provider)
            clock.advance(100)
            if take_over:
                _, theirs = self._claimed(provider)
                with pytest.raises(SubscriptionNotFoundError):
                    provider.complete_subscription(id, token, "mine")
                token = theirs
            provider.complete_subscription(id, token, "done")
            assert provider.get_workflow_instance(instance.id).execution_pointers[0].event_data == "done"

    def test_after_the_token_was_cleared(self, provider: PersistenceProvider) -> None:
        waiting_workflow(provider)
        id, token = self._claimed(provider)
        provider.clear_subscription_token(id, token)
        with pytest.raises(SubscriptionNotFoundError):
            provider.complete_subscription(id, token, 1)
        assert provider.renew_subscription(id, token, 5) is False
        assert self._claimed(provider)[0] == id

    def test_complete_for_a_claimed_workflow_is_left_to_its_holder(self, provider: PersistenceProvider) -> None:
        instance, _ = waiting_workflow(provider, next_execution=0)
        id, token = self._claimed(provider)
        (held,) = provider.claim_runnable_instances("holder")
        provider.complete_subscription(id, token, {"result": 1})
        assert provider.get_workflow_instance(instance.id) == instance
        with pytest.raises(SubscriptionNotFoundError):
            provider.complete_subscription(id, token, {"result": 2})
        assert provider.claim_subscription(NAME, KEY, "worker", 5) is None
        with provider.transaction() as tx:
            (event,) = tx.take_events(held)
            tx.persist_workflow(held, release=True)
        assert (event.id, event.event_data) == (id, {"result": 1})
        pointer = provider.get_workflow_instance(instance.id).execution_pointers[0]
        assert (pointer.event_data, pointer.event_published, pointer.active) == ({"result": 1}, True, True)
        assert "wfe.event" not in pointer.extension_attributes
        assert provider.subscriptions_of(instance.id) == []

    def test_complete_for_a_finished_workflow(self, provider: PersistenceProvider) -> None:
        instance, _ = waiting_workflow(provider, status=WorkflowStatus.TERMINATED, complete_time=START)
        id, token = self._claimed(provider)
        provider.complete_subscription(id, token, 1)
        assert provider.get_workflow_instance(instance.id) == instance
        assert provider.subscriptions_of(instance.id) == []

    def test_an_event_meanwhile_ends_the_activity(self, provider: PersistenceProvider) -> None:
        instance, _ = waiting_workflow(provider)
        id, token = self._claimed(provider)
        provider.publish_event(an_event(event_data="event"))
        with pytest.raises(SubscriptionNotFoundError):
            provider.complete_subscription(id, token, "work")
        assert provider.renew_subscription(id, token, 5) is False
        assert provider.get_workflow_instance(instance.id).execution_pointers[0].event_data == "event"
