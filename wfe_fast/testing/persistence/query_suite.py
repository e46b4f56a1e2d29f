"""Lists, counts, deletion and retention."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from itertools import combinations
from typing import Any

import pytest

from wfe_fast.clock import from_millis, to_millis
from wfe_fast.errors import WorkflowNotFoundError
from wfe_fast.persistence.contract import PersistenceProvider
from wfe_fast.persistence.models import ScheduledCommand, WorkflowInstance, WorkflowStatus
from wfe_fast.testing.clock import START, ManualClock
from wfe_fast.testing.persistence.base import Suite
from wfe_fast.testing.persistence.factories import (
    FAR,
    KEY,
    NAME,
    a_pointer,
    a_subscription,
    a_workflow,
    an_error,
    an_event,
    full_pointer,
    pointers,
    subscribe,
)
from wfe_fast.testing.persistence.state import drain_commands, everything
from wfe_fast.testing.store import StoreUnderTest

RUNNABLE, SUSPENDED = WorkflowStatus.RUNNABLE, WorkflowStatus.SUSPENDED
COMPLETE, TERMINATED = WorkflowStatus.COMPLETE, WorkflowStatus.TERMINATED


def _at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def _listed(provider: PersistenceProvider, **filters: Any) -> list[str]:
    page = provider.list_workflows(**filters)
    assert page.next is None
    return [instance.id for instance in page.items]


def _counts(provider: PersistenceProvider) -> dict[WorkflowStatus, int]:
    counted = provider.count_workflows()
    return {status: counted[status] for status in WorkflowStatus}


class ListSuite(Suite):
    """`list_workflows`, `count_workflows`, `oldest_runnable`."""

    def _create(self, provider: PersistenceProvider, id: str, seconds: float, **fields: Any) -> None:
        provider.create_new_workflow(a_workflow(id=id, create_time=_at(seconds), **fields))

    def test_nothing(self, provider: PersistenceProvider) -> None:
        page = provider.list_workflows()
        assert (page.items, page.next) == ([], None)
        assert _counts(provider) == dict.fromkeys(WorkflowStatus, 0)
        assert provider.oldest_runnable() is None

    def test_in_the_order_of_create_time_and_id(self, provider: PersistenceProvider) -> None:
        for id, seconds in (("d", 2), ("a", 2), ("c", 1.5), ("B", 2), ("z", -5), ("b", 2.000001)):
            self._create(provider, id, seconds, execution_pointers=pointers(2))
        page = provider.list_workflows()
        assert [one.id for one in page.items] == ["z", "c", "B", "a", "d", "b"]
        assert page.items == provider.get_workflow_instances([one.id for one in page.items])

    def test_filters(self, provider: PersistenceProvider) -> None:
        self._create(provider, "a", 1, status=SUSPENDED, reference="r")
        self._create(provider, "b", 2, workflow_definition_id="other", reference="r")
        self._create(provider, "c", 3, status=COMPLETE, reference="R")
        self._create(provider, "d", 4, workflow_definition_id="other", status=SUSPENDED)
        assert _listed(provider, status=SUSPENDED) == ["a", "d"]
        assert _listed(provider, definition_id="other") == ["b", "d"]
        assert _listed(provider, reference="r") == ["a", "b"]
        assert _listed(provider, created_after=_at(2)) == ["b", "c", "d"]
        assert _listed(provider, created_before=_at(3)) == ["a", "b"]
        assert _listed(provider, created_after=_at(2), created_before=_at(4)) == ["b", "c"]
        assert _listed(provider, status=SUSPENDED, definition_id="order", reference="r") == ["a"]
        assert _listed(provider, status=TERMINATED) == _listed(provider, definition_id="") == []

    def test_every_combination_of_filters(self, provider: PersistenceProvider) -> None:
        for number in range(48):
            self._create(
                provider,
                f"{number:02}",
                number // 3,
                workflow_definition_id=f"d{number % 3}",
                status=list(WorkflowStatus)[number % 4],
                reference=None if number % 5 == 0 else f"r{number % 2}",
            )
        everyone = provider.list_workflows().items
        accepts: dict[str, Callable[[WorkflowInstance], bool]] = {
            "status": lambda one: one.status is SUSPENDED,
            "definition_id": lambda one: one.workflow_definition_id == "d1",
            "reference": lambda one: one.reference == "r1",
            "created_after": lambda one: one.create_time >= _at(3),
            "created_before": lambda one: one.create_time < _at(12),
        }
        values = dict(zip(accepts, (SUSPENDED, "d1", "r1", _at(3), _at(12)), strict=True))
        for chosen in (set(some) for size in range(6) for some in combinations(accepts, size)):
            filters: dict[str, Any] = {name: values[name] for name in chosen}
            expected = [one for one in everyone if all(accepts[name](one) for name in chosen)]
            assert provider.list_workflows(**filters).items == expected, chosen
            found: list[WorkflowInstance] = []
            page = provider.list_workflows(limit=2, **filters)
            while page.next is not None:
                found += page.items
                page = provider.list_workflows(limit=2, after=page.next, **filters)
            assert found + page.items == expected, chosen

    @pytest.mark.parametrize("limit", [1, 2, 3, 5, 12, 13, 100])
    def test_pages_cover_everything_once(self, provider: PersistenceProvider, limit: int) -> None:
        for number in range(12):
            self._create(provider, f"{number:02}", number // 4, status=SUSPENDED if number % 3 else RUNNABLE)
        choices: list[dict[str, Any]] = [{}, {"status": SUSPENDED}]
        for filters in choices:
            expected = [one.id for one in provider.list_workflows(**filters).items]
            found: list[str] = []
            page = provider.list_workflows(limit=limit, **filters)
            while page.next is not None:
                assert len(page.items) == limit
                found += [one.id for one in page.items]
                page = provider.list_workflows(limit=limit, after=page.next, **filters)
            assert found + [one.id for one in page.items] == expected

    def test_pages_are_stable_while_others_write(
        self, provider: PersistenceProvider, store: StoreUnderTest, clock: ManualClock
    ) -> None:
        other = store.open(clock=clock)
        for number in range(10):
            self._create(provider, f"{number:02}", number)
        found: list[str] = []
        after = None
        for round in range(5):
            page = other.list_workflows(limit=2, after=after)
            found += [one.id for one in page.items]
            after = page.next
            self._create(provider, f"before {round}", -100 + round)
            provider.delete_workflow(f"{round * 2 + 1:02}")
        assert found == [f"{number:02}" for number in range(10)]

    def test_counts_by_status(self, provider: PersistenceProvider) -> None:
        for status, count in ((RUNNABLE, 3), (TERMINATED, 2), (COMPLETE, 1)):
            for _ in range(count):
                provider.create_new_workflow(a_workflow(status=status))
        expected = {RUNNABLE: 3, TERMINATED: 2, COMPLETE: 1, SUSPENDED: 0}
        assert _counts(provider) == expected
        assert provider.count_workflows(by="status") == provider.count_workflows()

    def test_oldest_runnable(self, provider: PersistenceProvider) -> None:
        provider.create_new_workflow(a_workflow(next_execution=None))
        provider.create_new_workflow(a_workflow(next_execution=1, status=SUSPENDED))
        assert provider.oldest_runnable() is None
        for moment in (to_millis(FAR), 7, 9):
            provider.create_new_workflow(a_workflow(next_execution=moment))
            assert provider.oldest_runnable() == from_millis(min(moment, 7 if moment != to_millis(FAR) else moment))
        provider.claim_runnable_instances("worker")
        assert provider.oldest_runnable() == from_millis(7)


class RetentionSuite(Suite):
    """`delete_workflow`, `purge_workflows`."""

    def _create_all_of(self, provider: PersistenceProvider, id: str, **fields: Any) -> None:
        instance = a_workflow(id=id, name=f"name of {id}", execution_pointers=[full_pointer(id), a_pointer()], **fields)
        provider.create_new_workflow(instance)
        subscribe(provider, instance)
        provider.create_event_subscription(a_subscription(workflow_id=id, event_key="other"))
        provider.persist_errors([an_error(id), an_error(id)])
        provider.schedule_command(ScheduledCommand.process_workflow(id, 1))

    def test_delete_takes_everything_of_it_and_nothing_else(self, provider: PersistenceProvider) -> None:
        self._create_all_of(provider, "w")
        before = everything(provider)
        self._create_all_of(provider, "v")
        provider.delete_workflow("v")
        assert everything(provider) == before
        assert (provider.get_errors("v"), provider.subscriptions_of("v")) == ([], [])
        assert [command.data for command in drain_commands(provider)] == ["w"]

    def test_a_deletion_of_what_is_not_there_drops_nothing(self, provider: PersistenceProvider) -> None:
        provider.create_event_subscription(a_subscription(workflow_id="nobody"))
        provider.persist_errors([an_error("nobody")])
        provider.schedule_command(ScheduledCommand.process_workflow("nobody", 1))
        before = everything(provider)
        with pytest.raises(WorkflowNotFoundError):
            provider.delete_workflow("nobody")
        assert everything(provider) == before
        assert [command.data for command in drain_commands(provider)] == ["nobody"]

    def test_an_event_command_of_that_name_stays(self, provider: PersistenceProvider) -> None:
        self._create_all_of(provider, "w")
        provider.schedule_command(ScheduledCommand.process_event("w", 1))
        provider.delete_workflow("w")
        assert drain_commands(provider) == [ScheduledCommand.process_event("w", 1)]

    def test_id_name_and_pointers_are_free_again(self, provider: PersistenceProvider) -> None:
        for _ in range(2):
            self._create_all_of(provider, "w")
            provider.delete_workflow("w")
        with pytest.raises(WorkflowNotFoundError):
            provider.delete_workflow("w")
        with pytest.raises(WorkflowNotFoundError):
            provider.get_workflow_instance_by_name("name of w")

    def test_events_stay(self, provider: PersistenceProvider) -> None:
        self._create_all_of(provider, "w")
        id = provider.publish_event(an_event())
        provider.delete_workflow("w")
        assert provider.get_events(NAME, KEY, FAR) == [id]

    def test_an_event_that_was_left_for_a_deleted_workflow(self, provider: PersistenceProvider) -> None:
        self._create_all_of(provider, "w")
        provider.claim_runnable_instances("worker")
        provider.publish_event(an_event())
        provider.delete_workflow("w")
        self._create_all_of(provider, "w")
        (held,) = provider.claim_runnable_instances("worker")
        assert provider.take_events(held) == []

    def _create_finished(self, provider: PersistenceProvider) -> None:
        for id, seconds in (("d", -4), ("b", -2), ("c", -3), ("a", -1)):
            self._create_all_of(provider, id, status=COMPLETE, complete_time=_at(seconds))
        self._create_all_of(provider, "t", status=TERMINATED, complete_time=_at(-9))
        provider.create_new_workflow(a_workflow(id="r", complete_time=_at(-9)))
        provider.create_new_workflow(a_workflow(id="n", status=COMPLETE))

    def test_purge_by_status_time_and_limit_oldest_first(self, provider: PersistenceProvider) -> None:
        self._create_finished(provider)
        assert provider.purge_workflows(COMPLETE, _at(-1), limit=2) == 2
        assert sorted(_listed(provider)) == ["a", "b", "n", "r", "t"]
        assert provider.purge_workflows(COMPLETE, _at(-1), limit=2) == 1
        assert provider.purge_workflows(COMPLETE, _at(-1), limit=2) == 0
        assert sorted(_listed(provider)) == ["a", "n", "r", "t"]
        assert (provider.get_errors("b"), provider.subscriptions_of("b")) == ([], [])
        assert len(provider.get_errors("a")) == len(provider.subscriptions_of("a")) == 2
        assert sorted(command.data for command in drain_commands(provider)) == ["a", "t"]

    @pytest.mark.parametrize("collection", [list, set, tuple])
    def test_purge_several_statuses(self, provider: PersistenceProvider, collection: type) -> None:
        self._create_finished(provider)
        assert provider.purge_workflows(collection([COMPLETE, TERMINATED]), FAR) == 5
        assert sorted(_listed(provider)) == ["n", "r"]
        assert provider.purge_workflows(collection([]), FAR) == 0

    @pytest.mark.parametrize("age", [2.5, timedelta(seconds=2.5)])
    def test_purge_by_age(self, provider: PersistenceProvider, age: float | timedelta, clock: ManualClock) -> None:
        self._create_finished(provider)
        assert provider.purge_workflows(COMPLETE, age) == 2
        clock.advance(3600)
        assert provider.purge_workflows(COMPLETE, age) == 2

    def test_change_status_makes_it_purgeable(self, provider: PersistenceProvider, clock: ManualClock) -> None:
        provider.create_new_workflow(a_workflow())
        (instance,) = provider.claim_runnable_instances("worker")
        provider.change_status(instance.id, TERMINATED)
        provider.persist_workflow(instance, release=True)
        clock.advance(10)
        assert provider.purge_workflows([TERMINATED], 9) == 1
